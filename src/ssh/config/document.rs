//! A configuration file as it is written: which keys and values there may be.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use ipnet::IpNet;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::limits::{Limits, span};
use super::{Recordings, Relay, Spool};
use crate::ssh::access::{self, is_name};
use crate::ssh::policy::{Destination, Pattern};
use crate::untrusted::printable;
use crate::yaml::{self, Fault, List, Named, Parsed, optional_list, parsed};

/// All of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(rename = "version")]
    _version: IgnoredAny,
    #[serde(default, deserialize_with = "optional_list")]
    pub(super) listen: Option<Vec<SocketAddr>>,
    #[serde(default, deserialize_with = "optional")]
    pub(super) metrics: Option<SocketAddr>,
    #[serde(default, deserialize_with = "networks")]
    pub(super) proxies: Vec<IpNet>,
    #[serde(default)]
    pub(super) host_key: HostKey,
    #[serde(default)]
    pub(super) clusters: Named<Cluster>,
    pub(super) default_cluster: Option<String>,
    #[serde(default)]
    pub(super) access: Access,
    pub(super) policy: Option<Vec<Rule>>,
    #[serde(default)]
    pub(super) audit: Audit,
    pub(super) recordings: Option<Recordings>,
    #[serde(default)]
    pub(super) relay: Relay,
    #[serde(default)]
    pub(super) spool: Spool,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default, deserialize_with = "optional")]
    pub(super) drain: Option<super::values::Span>,
}

impl Document {
    pub(super) fn read(text: &str) -> Result<Self, Fault> {
        yaml::document(text, "a map with `version`, `clusters` and `access`")
    }
}

/// `host_key`.
#[derive(Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with `file`, or with `secret` and maybe `cluster`"
)]
pub(super) struct HostKey {
    pub(super) file: Option<PathBuf>,
    #[serde(deserialize_with = "optional")]
    pub(super) secret: Option<Secret>,
    pub(super) cluster: Option<String>,
}

/// A Secret by its namespace and its name.
pub(super) struct Secret {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Another object's name has the same form.
        let parts = text.split_once('/').filter(|(namespace, name)| {
            let pod = crate::cluster::target::Kind::Pod;
            crate::cluster::target::Target::in_namespace(pod, namespace, name).is_ok()
        });
        let (namespace, name) = parts.ok_or_else(|| {
            format!(
                "`{}` is no Secret: write NAMESPACE/NAME",
                printable(text, 80)
            )
        })?;
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// A value of `clusters`.
#[derive(Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with `kubeconfig` and `context`, or {} for what kpf takes without flags"
)]
pub(super) struct Cluster {
    pub(super) kubeconfig: Option<PathBuf>,
    pub(super) context: Option<String>,
}

/// `access`.
#[derive(Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with `authorities`, `keys` or `keys_command`"
)]
pub(super) struct Access {
    pub(super) authorities: Vec<Authority>,
    #[serde(deserialize_with = "optional_span")]
    pub(super) max_certificate_lifetime: Option<std::time::Duration>,
    pub(super) keys: Option<PathBuf>,
    #[serde(deserialize_with = "optional_list")]
    pub(super) keys_command: Option<Vec<String>>,
    pub(super) revoked: Option<PathBuf>,
    pub(super) user_prefix: Option<String>,
    pub(super) groups: Named<List<UserOrGroup>, UserOrGroup>,
}

/// An item of `authorities`.
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a map with `file`, and maybe `principal_prefix` and `may_set_groups`"
)]
pub(super) struct Authority {
    pub(super) file: PathBuf,
    #[serde(default)]
    pub(super) principal_prefix: String,
    #[serde(default)]
    pub(super) may_set_groups: bool,
}

/// A name for Kubernetes.
#[derive(Clone, Eq, Hash, PartialEq)]
pub(super) struct UserOrGroup(pub(super) String);

impl std::fmt::Display for UserOrGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for UserOrGroup {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match is_name(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(access::no_name(text)),
        }
    }
}

/// An item of `policy`.
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a map: `name`, for whom and where, and what is allowed"
)]
pub(super) struct Rule {
    pub(super) name: String,
    #[serde(default, deserialize_with = "optional_list")]
    pub(super) users: Option<Vec<Pattern>>,
    #[serde(default, deserialize_with = "optional_list")]
    pub(super) groups: Option<Vec<Pattern>>,
    #[serde(default, deserialize_with = "optional_list")]
    pub(super) clusters: Option<Vec<Pattern>>,
    #[serde(default, deserialize_with = "optional_list")]
    pub(super) namespaces: Option<Vec<Pattern>>,
    #[serde(default)]
    pub(super) deny: bool,
    pub(super) backends: Option<Vec<Backend>>,
    pub(super) forwards: Option<Vec<Parsed<Destination>>>,
    pub(super) remote_forwards: Option<bool>,
    pub(super) agent: Option<bool>,
    pub(super) x11: Option<bool>,
    pub(super) record: Option<Record>,
    #[serde(default, deserialize_with = "optional_list")]
    pub(super) logins: Option<Vec<Pattern>>,
    pub(super) default_login: Option<String>,
    pub(super) on_disconnect: Option<OnDisconnect>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Backend {
    Jump,
    Relay,
    Exec,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Record {
    Off,
    BestEffort,
    Required,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnDisconnect {
    Hup,
    Leave,
}

/// `audit`.
#[derive(Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with `sinks`, and maybe `on_failure` and `redact`"
)]
pub(super) struct Audit {
    pub(super) sinks: Option<Vec<Sink>>,
    pub(super) on_failure: Option<OnFailure>,
    pub(super) redact: Vec<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OnFailure {
    Deny,
    Continue,
}

/// An item of `sinks`.
#[derive(Default, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with one of `stdout: true`, `file` and `socket`, and maybe `required`"
)]
pub(super) struct Sink {
    pub(super) stdout: bool,
    pub(super) file: Option<PathBuf>,
    pub(super) socket: Option<PathBuf>,
    pub(super) required: Option<bool>,
}

fn optional<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: std::fmt::Display>,
{
    parsed(deserializer).map(Some)
}

fn optional_span<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<std::time::Duration>, D::Error> {
    span(deserializer).map(Some)
}

/// For `deserialize_with`: a list of networks, which may be empty.
pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    struct Network(IpNet);
    impl FromStr for Network {
        type Err = String;

        fn from_str(text: &str) -> Result<Self, String> {
            access::network(text).map(Self)
        }
    }
    let networks = Vec::<Parsed<Network>>::deserialize(deserializer)?;
    Ok(networks
        .into_iter()
        .map(|Parsed(Network(network))| network)
        .collect())
}
