//! How the gateway is doing: figures for Prometheus, and whether it lives and is ready. No figure has a label that a client
//! chose: no user, no pod, no namespace.
//!
//! ```no_run
//! use std::sync::Arc;
//! use kpf::ssh::metrics::{Metrics, Status, serve};
//!
//! # async fn example() -> std::io::Result<()> {
//! let metrics = Metrics::new();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:9100").await?;
//! let status = Status { metrics: metrics.clone(), door: None, audit: None, ready: Box::new(|| Ok(())) };
//! tokio::spawn(serve(listener, Arc::new(status)));
//! let _session = metrics.session("relay", "prod-eu"); // one more, until it is dropped
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;
use std::time::Duration;

mod family;
mod http;

pub use family::{Counter, InUse};
pub use http::{Status, serve};

use super::audit::Audit;
use super::door::{Limit, Watch};
use family::{Family, Gauge, Histogram, Label, head, sample};

/// All figures that are counted where things happen. Cheap to clone. Of labels only the cluster is no constant: its name is
/// from the configuration.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    handshakes: Family<Counter, 2>,
    auth: Family<Counter, 2>,
    auth_seconds: Family<Histogram, 0>,
    sessions: Family<Gauge, 2>,
    session_seconds: Family<Histogram, 0>,
    channels: Family<Gauge, 1>,
    bytes: Family<Counter, 2>,
    target_errors: Family<Counter, 1>,
    dial_seconds: Family<Histogram, 2>,
    rechecks: Family<Counter, 1>,
    recording_bytes: Family<Counter, 0>,
    recording_failures: Family<Counter, 0>,
    limits: [Counter; Limit::ALL.len()],
    host_key_mismatches: Family<Counter, 0>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! name {
    ($name:literal) => {
        concat!("kpf_gateway_", $name)
    };
}

impl Metrics {
    /// Nothing has happened.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Families {
            handshakes: Family::new(
                name!("handshakes_total"),
                "Key exchanges, by how they ended and the algorithm.",
                ["result", "kex"],
            ),
            auth: Family::new(
                name!("auth_total"),
                "Credentials that were proven or refused.",
                ["method", "result"],
            ),
            auth_seconds: Family::new(name!("auth_seconds"), "From accept to login.", []),
            sessions: Family::new(
                name!("sessions"),
                "Ways to pods that are open.",
                ["backend", "cluster"],
            ),
            session_seconds: Family::new(
                name!("session_seconds"),
                "How long ways to pods were open.",
                [],
            ),
            channels: Family::new(name!("channels"), "SSH channels that are open.", ["type"]),
            bytes: Family::new(
                name!("bytes_total"),
                "Channel data, in from clients and out to them.",
                ["backend", "dir"],
            ),
            target_errors: Family::new(
                name!("target_errors_total"),
                "Names that led nowhere, by reason.",
                ["reason"],
            ),
            dial_seconds: Family::new(
                name!("dial_seconds"),
                "Until a pod was reached.",
                ["cluster", "backend"],
            ),
            rechecks: Family::new(
                name!("recheck_total"),
                "Checks of running sessions.",
                ["result"],
            ),
            recording_bytes: Family::new(
                name!("recording_bytes_total"),
                "Written to recordings that have ended.",
                [],
            ),
            recording_failures: Family::new(
                name!("recording_failures_total"),
                "Recordings that are not whole.",
                [],
            ),
            limits: Default::default(),
            host_key_mismatches: Family::new(
                name!("host_key_mismatch_total"),
                "Pods whose SSH host key was not the one that was pinned.",
                [],
            ),
        }))
    }

    /// A key exchange has ended.
    pub fn handshake(&self, result: &'static str, kex: &'static str) {
        self.0.handshakes.with([result.into(), kex.into()]).add(1);
    }

    /// A credential was proven (`ok`) or refused (`fail`).
    pub fn auth(&self, method: &'static str, result: &'static str) {
        self.0.auth.with([method.into(), result.into()]).add(1);
    }

    /// A login has succeeded, so long after accept.
    pub fn logged_in(&self, after: Duration) {
        self.0.auth_seconds.with([]).observe(after);
    }

    /// A way to a pod is open until this is dropped.
    pub fn session(&self, backend: &'static str, cluster: &str) -> InUse {
        let labels = [backend.into(), configured(cluster)];
        InUse::new(self.0.sessions.with(labels))
    }

    /// One has lasted so long.
    pub fn session_lasted(&self, duration: Duration) {
        self.0.session_seconds.with([]).observe(duration);
    }

    /// A channel is open until this is dropped. `kind` is one of the gateway's own words, not the client's.
    pub fn channel(&self, kind: &'static str) -> InUse {
        InUse::new(self.0.channels.with([kind.into()]))
    }

    /// Counts bytes of a backend in one direction, `in` or `out`: to be kept by whoever passes them on.
    #[must_use]
    pub fn bytes(&self, backend: &'static str, direction: &'static str) -> Arc<Counter> {
        self.0.bytes.with([backend.into(), direction.into()])
    }

    /// A name led nowhere.
    pub fn target_error(&self, reason: &'static str) {
        self.0.target_errors.with([reason.into()]).add(1);
    }

    /// A pod was reached after so long.
    pub fn dialled(&self, cluster: &str, backend: &'static str, after: Duration) {
        let labels = [configured(cluster), backend.into()];
        self.0.dial_seconds.with(labels).observe(after);
    }

    /// A running session was checked again.
    pub fn recheck(&self, result: &'static str) {
        self.0.rechecks.with([result.into()]).add(1);
    }

    /// A recording has ended.
    pub fn recorded(&self, bytes: u64, whole: bool) {
        self.0.recording_bytes.with([]).add(bytes);
        self.0.recording_failures.with([]).add(u64::from(!whole));
    }

    /// A limit that isn't the door's own to count said no.
    pub fn limit_hit(&self, limit: Limit) {
        self.0.limits[limit as usize].add(1);
    }

    /// A pod's host key was another than the one that was pinned.
    pub fn host_key_mismatch(&self) {
        self.0.host_key_mismatches.with([]).add(1);
    }

    /// The text that Prometheus reads, with what the door and the audit log count themselves.
    #[must_use]
    pub fn text(&self, door: Option<&Watch>, audit: Option<&Audit>) -> String {
        let families = &*self.0;
        let mut text = String::new();
        if let Some(door) = door {
            let waiting = door.unauthenticated();
            let inside = door.connections().saturating_sub(waiting);
            let name = name!("connections");
            head(
                name,
                "gauge",
                "Connections before and after login.",
                &mut text,
            );
            sample(name, "state=\"preauth\"", waiting, &mut text);
            sample(name, "state=\"auth\"", inside, &mut text);
            let name = name!("penalties_active");
            head(name, "gauge", "Sources that are turned away.", &mut text);
            sample(name, "", door.penalised(), &mut text);
        }
        if let Some(audit) = audit {
            let name = name!("events_total");
            head(
                name,
                "counter",
                "Events, by what became of them.",
                &mut text,
            );
            for (number, (sink, count)) in audit.counts().into_iter().enumerate() {
                let labels = |result| format!("sink=\"{number}-{sink}\",result=\"{result}\"");
                sample(name, &labels("queued"), count.queued, &mut text);
                sample(name, &labels("lost"), count.lost, &mut text);
            }
        }
        let name = name!("limits_hit_total");
        head(name, "counter", "How often a limit said no.", &mut text);
        for limit in Limit::ALL {
            let at_the_door = door.map_or(0, |door| door.refused(limit));
            let count = families.limits[limit as usize].get() + at_the_door;
            let labels = format!("limit=\"{}\"", limit.name());
            sample(name, &labels, count, &mut text);
        }
        families.handshakes.write(&mut text);
        families.auth.write(&mut text);
        families.auth_seconds.write(&mut text);
        families.sessions.write(&mut text);
        families.session_seconds.write(&mut text);
        families.channels.write(&mut text);
        families.bytes.write(&mut text);
        families.target_errors.write(&mut text);
        families.dial_seconds.write(&mut text);
        families.rechecks.write(&mut text);
        families.recording_bytes.write(&mut text);
        families.recording_failures.write(&mut text);
        families.host_key_mismatches.write(&mut text);
        text
    }
}

/// A name from the configuration.
fn configured(name: &str) -> Label {
    name.to_owned().into()
}

#[cfg(test)]
mod tests;
