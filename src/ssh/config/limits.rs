//! How much of everything there may be. Each value has a default that a gateway for a team can keep.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::document::networks;
use super::values::{Count, Size, Span, SpanOrOff, Startups};
use crate::ssh::door::{self, penalties, startups};
use crate::yaml::parsed;
use ipnet::IpNet;

/// `limits`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields, expecting = "a map of limits")]
pub struct Limits {
    /// From the connection to the login.
    #[serde(deserialize_with = "span")]
    pub login_grace: Duration,
    /// Connections that nobody has logged in on.
    #[serde(deserialize_with = "parsed")]
    pub unauthenticated: Startups,
    /// The same from one source: an IPv4 address, or an IPv6 network of 64 bits.
    #[serde(deserialize_with = "count")]
    pub unauthenticated_per_source: u32,
    /// What offences cost.
    pub penalties: Penalties,
    /// Signatures on one connection that let nobody in.
    #[serde(deserialize_with = "count")]
    pub failed_logins: u32,
    /// Keys that one connection may ask about.
    #[serde(deserialize_with = "count")]
    pub offered_keys: u32,
    /// Connections in all.
    #[serde(deserialize_with = "count")]
    pub connections: u32,
    /// Connections of one user.
    #[serde(deserialize_with = "count")]
    pub connections_per_user: u32,
    /// Channels of one connection.
    #[serde(deserialize_with = "count")]
    pub channels: u32,
    /// Those of them that are sessions.
    #[serde(deserialize_with = "count")]
    pub sessions: u32,
    /// How long a connection may last.
    #[serde(deserialize_with = "span_or_off")]
    pub session: Option<Duration>,
    /// How long a connection may go without data.
    #[serde(deserialize_with = "span_or_off")]
    pub idle: Option<Duration>,
    /// How long a connection may go without a channel.
    #[serde(deserialize_with = "span_or_off")]
    pub unused: Option<Duration>,
    /// How often a client is asked whether it is there.
    #[serde(deserialize_with = "span")]
    pub keepalive: Duration,
    /// How often it may not answer.
    #[serde(deserialize_with = "count")]
    pub keepalive_misses: u32,
    /// How long it may take to reach a pod.
    #[serde(deserialize_with = "span")]
    pub dial: Duration,
    /// How often it is asked whether a user may still do what they do.
    #[serde(deserialize_with = "span")]
    pub recheck: Duration,
    /// Bytes of a command.
    #[serde(deserialize_with = "size")]
    pub command: u64,
    /// Variables that a client may set for a session.
    #[serde(deserialize_with = "count")]
    pub variables: u32,
    /// Bytes of one of them.
    #[serde(deserialize_with = "size")]
    pub variable: u64,
}

/// What offences cost their source, as sshd's `PerSourcePenalties`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields, expecting = "a map of penalties")]
pub struct Penalties {
    /// A login that failed.
    #[serde(deserialize_with = "span")]
    pub failed_login: Duration,
    /// A connection without one.
    #[serde(deserialize_with = "span")]
    pub no_login: Duration,
    /// One that took too long.
    #[serde(deserialize_with = "span")]
    pub login_grace: Duration,
    /// Less than this is not enforced.
    #[serde(deserialize_with = "span")]
    pub min: Duration,
    /// More than this is not counted.
    #[serde(deserialize_with = "span")]
    pub max: Duration,
    /// Sources that are remembered.
    #[serde(deserialize_with = "count")]
    pub sources: u32,
    /// Sources that have none: health checks, load balancers.
    #[serde(deserialize_with = "networks")]
    pub exempt: Vec<IpNet>,
}

impl Limits {
    /// Those that the door holds.
    #[must_use]
    pub fn door(&self, proxies: &[IpNet]) -> door::Config {
        let penalties = &self.penalties;
        door::Config {
            grace: self.login_grace,
            startups: startups::Limits {
                begin: self.unauthenticated.begin as usize,
                rate: self.unauthenticated.rate,
                full: self.unauthenticated.full as usize,
                per_source: self.unauthenticated_per_source as usize,
            },
            penalties: penalties::Table {
                auth_fail: penalties.failed_login,
                no_auth: penalties.no_login,
                grace: penalties.login_grace,
                min: penalties.min,
                max: penalties.max,
                sources: penalties.sources as usize,
                exempt: penalties.exempt.clone(),
            },
            max_connections: self.connections as usize,
            max_per_user: self.connections_per_user as usize,
            proxies: proxies.to_vec(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        Self {
            login_grace: Duration::from_secs(30),
            unauthenticated: Startups {
                begin: 20,
                rate: 30,
                full: 100,
            },
            unauthenticated_per_source: 8,
            penalties: Penalties::default(),
            failed_logins: 6,
            offered_keys: 30,
            connections: 2000,
            connections_per_user: 50,
            channels: 64,
            sessions: 10,
            session: Some(minutes(7 * 60)),
            idle: None,
            unused: Some(minutes(1)),
            keepalive: Duration::from_secs(30),
            keepalive_misses: 4,
            dial: Duration::from_secs(10),
            recheck: minutes(5),
            command: 64 << 10,
            variables: 64,
            variable: 4 << 10,
        }
    }
}

impl Default for Penalties {
    fn default() -> Self {
        Self {
            failed_login: Duration::from_secs(5),
            no_login: Duration::from_secs(1),
            login_grace: Duration::from_secs(10),
            min: Duration::from_secs(15),
            max: Duration::from_secs(600),
            sources: 65_536,
            exempt: Vec::new(),
        }
    }
}

/// For `deserialize_with`: a [`Span`].
pub(super) fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parsed(deserializer).map(|Span(span)| span)
}

fn span_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    parsed(deserializer).map(|SpanOrOff(span)| span)
}

/// For `deserialize_with`: a [`Size`].
pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    parsed(deserializer).map(|Size(size)| size)
}

fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    parsed(deserializer).map(|Count(count)| count)
}
