//! The gateway's configuration: one YAML file, checked as a whole when it is read, so that a [`Config`] makes sense.
//!
//! It has no secrets, only paths of files that have them; a relative path begins at the folder of the file. Every
//! error is one line with the place and with what is allowed there. Whether the files are there and what is in them
//! shows when they are used, or by `kpf gateway check`.
//!
//! `document` knows the keys and reads single values; this file knows what they mean together; `limits` has numbers.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use self::document::Document;
use self::limits::size;
use super::access::{AuthoritySettings, KeyFiles, Settings, is_name};
use super::audit::{OnFailure, SinkConfig, SinkKind};
use super::name::{Clusters, is_login};
use super::policy::{Backend, Grant, OnDisconnect, Pattern, Policy, Record, Rule};
use crate::untrusted::printable;
use crate::yaml::{self, Fault, Parsed, Place, meant};
use ipnet::IpNet;

mod document;
mod limits;
mod values;

pub use self::limits::{Limits, Penalties};
pub use self::values::Startups;

/// Where it listens unless the file says so: nobody else can connect.
const LISTEN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 2222);

/// The host key's file unless the file says so.
const HOST_KEY: &str = "host_key";

/// What a certificate may last unless the file says so: a day's work.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Characters of what the file says, in an error.
const SHOWN: usize = 120;

/// A configuration without errors in itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to listen, at least one.
    pub listen: Vec<SocketAddr>,
    /// Where metrics and health are; none for nowhere.
    pub metrics: Option<SocketAddr>,
    /// Who says by a PROXY header whom it connects for; a header of anybody else is an error.
    pub proxies: Vec<IpNet>,
    /// Where the gateway's own keys are.
    pub host_key: HostKey,
    /// What the clusters are called.
    pub names: Clusters,
    /// How each of them is reached, by its alias.
    pub clusters: BTreeMap<String, ClusterSettings>,
    /// Who may log in.
    pub access: Settings,
    /// What they may do.
    pub policy: Policy,
    /// What is written down.
    pub audit: Audit,
    /// Where recordings go; a policy that records has one.
    pub recordings: Option<Recordings>,
    /// How pods' SSH servers are logged in to.
    pub relay: Relay,
    /// What clients have sent and pods have not taken.
    pub spool: Spool,
    /// How much of everything.
    pub limits: Limits,
    /// How long sessions may go on after the gateway was told to end.
    pub drain: Duration,
}

/// Where the gateway's own keys are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HostKey {
    /// In a file, made at the first start.
    File(PathBuf),
    /// In a Secret, which replicas share.
    Secret {
        /// The alias of its cluster.
        cluster: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// How a cluster is reached: as by `--kubeconfig` and `--context`, and without either as kpf does without flags.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClusterSettings {
    /// The file.
    pub kubeconfig: Option<PathBuf>,
    /// The context in it.
    pub context: Option<String>,
}

/// What is written down.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// Where to, at least one.
    pub sinks: Vec<SinkConfig>,
    /// What happens when one that is required does not work.
    pub on_failure: OnFailure,
    /// Regular expressions of what is left out.
    pub redact: Vec<String>,
}

/// `recordings`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(
    deny_unknown_fields,
    expecting = "a map with `folder`, and maybe `format`, `input`, `max_size` and `min_free`"
)]
pub struct Recordings {
    /// Where they are.
    pub folder: PathBuf,
    /// As what.
    #[serde(default)]
    pub format: CastVersion,
    /// Whether what is typed is recorded too: passwords as well.
    #[serde(default)]
    pub input: bool,
    /// Bytes of one.
    #[serde(default = "gibibyte", deserialize_with = "size")]
    pub max_size: u64,
    /// Bytes that the file system has to have left.
    #[serde(default = "gibibyte", deserialize_with = "size")]
    pub min_free: u64,
}

const fn gibibyte() -> u64 {
    1 << 30
}

/// The version of asciicast.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub enum CastVersion {
    /// For older players.
    #[serde(rename = "asciicast-v2")]
    V2,
    /// Since asciinema 3.
    #[default]
    #[serde(rename = "asciicast-v3")]
    V3,
}

/// `relay`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with `authority` and `key`"
)]
pub struct Relay {
    /// The private key that certificates for pods are signed with; made at the first start.
    pub authority: Option<PathBuf>,
    /// A private key for pods that trust no authority.
    pub key: Option<PathBuf>,
}

/// `spool`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a map with `folder`, `memory`, `per_channel` and `per_user`"
)]
pub struct Spool {
    /// Where files are made; none for the system's folder of such files.
    pub folder: Option<PathBuf>,
    /// Bytes of a channel in memory, before there is a file.
    #[serde(deserialize_with = "size")]
    pub memory: u64,
    /// Bytes of a channel's file.
    #[serde(deserialize_with = "size")]
    pub per_channel: u64,
    /// Bytes of all files of a user.
    #[serde(deserialize_with = "size")]
    pub per_user: u64,
}

impl Default for Spool {
    fn default() -> Self {
        Self {
            folder: None,
            memory: 1 << 20,
            per_channel: 1 << 30,
            per_user: 4 << 30,
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// What it says makes no sense.
    #[error("configuration `{}`, line {line}, column {column}: {reason}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong there, and what is allowed; one line.
        reason: String,
    },
}

impl Config {
    /// How long it waits for sessions to end unless the file says so.
    pub const DRAIN: Duration = Duration::from_secs(300);

    /// Reads a file, `-` being stdin, and checks all of it, but no other file. Blocks.
    ///
    /// # Errors
    /// It can't be read, or the first thing that is wrong with it.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = yaml::bytes(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &bytes)
    }

    /// Reads a file's content; `path` is for errors, and where relative paths begin.
    ///
    /// # Errors
    /// [`Error::Wrong`] for the first thing that is.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        yaml::text(bytes, "write `version: 1`, `clusters:` and `access:`")
            .and_then(|text| {
                let document = Document::read(text)?;
                Reading { text, folder }.config(document)
            })
            .map_err(|fault| Error::Wrong {
                path: path.to_owned(),
                line: fault.line,
                column: fault.column,
                reason: printable(&fault.reason, 600),
            })
    }
}

/// What is read, and where it is.
struct Reading<'a> {
    text: &'a str,
    folder: &'a Path,
}

impl Reading<'_> {
    fn config(&self, document: Document) -> Result<Config, Fault> {
        let names = self.names(&document)?;
        let config = Config {
            listen: document.listen.unwrap_or_else(|| vec![LISTEN.into()]),
            metrics: document.metrics,
            proxies: document.proxies,
            host_key: self.host_key(document.host_key, &names)?,
            clusters: document
                .clusters
                .0
                .into_iter()
                .map(|(alias, cluster)| {
                    let settings = ClusterSettings {
                        kubeconfig: cluster.kubeconfig.map(|path| self.path(path)),
                        context: cluster.context,
                    };
                    (alias.0, settings)
                })
                .collect(),
            access: self.access(document.access)?,
            policy: Policy {
                rules: document
                    .policy
                    .map(|rules| self.rules(rules, &names, document.recordings.is_some()))
                    .transpose()?,
            },
            names,
            audit: self.audit(document.audit)?,
            recordings: document.recordings.map(|recordings| Recordings {
                folder: self.path(recordings.folder),
                ..recordings
            }),
            relay: Relay {
                authority: document.relay.authority.map(|path| self.path(path)),
                key: document.relay.key.map(|path| self.path(path)),
            },
            spool: Spool {
                folder: document.spool.folder.map(|path| self.path(path)),
                ..document.spool
            },
            limits: document.limits,
            drain: document
                .drain
                .map_or(Config::DRAIN, |values::Span(drain)| drain),
        };
        self.limits(&config.limits)?;
        Ok(config)
    }

    fn path(&self, path: PathBuf) -> PathBuf {
        self.folder.join(path)
    }

    /// A fault of what a key stands before.
    fn value(&self, keys: &[&str], reason: impl Into<String>) -> Fault {
        Place::value(keys).fault(self.text, reason.into())
    }

    /// A fault of a key; of the file where it isn't there.
    fn key(&self, keys: &[&str], reason: impl Into<String>) -> Fault {
        Place::key(keys).fault(self.text, reason.into())
    }

    fn names(&self, document: &Document) -> Result<Clusters, Fault> {
        let aliases: Vec<&str> = document
            .clusters
            .0
            .iter()
            .map(|(name, _)| &name.0[..])
            .collect();
        for alias in &aliases {
            Clusters::new(alias, [])
                .map_err(|error| self.key(&["clusters", alias], error.to_string()))?;
        }
        let default = match (&document.default_cluster, &aliases[..]) {
            (_, []) => {
                let reason = "there are no clusters: write one under `clusters:`, as in `dev: {context: dev}`";
                return Err(self.key(&["clusters"], reason));
            }
            (Some(default), _) if aliases.contains(&&default[..]) => &default[..],
            (Some(default), _) => {
                let reason = format!(
                    "`{}` is no cluster: {}",
                    printable(default, SHOWN),
                    meant(default, aliases.iter().copied(), "")
                );
                return Err(self.value(&["default_cluster"], reason));
            }
            (None, [only]) => only,
            (None, _) => {
                let reason = "there are several clusters: write `default_cluster:` for targets that name none";
                return Err(self.key(&["clusters"], reason));
            }
        };
        Clusters::new(default, aliases.iter().copied())
            .map_err(|error| self.key(&["clusters"], error.to_string()))
    }

    fn host_key(&self, host_key: document::HostKey, names: &Clusters) -> Result<HostKey, Fault> {
        let cluster = host_key.cluster.as_deref();
        if let Some(cluster) = cluster.filter(|cluster| names.iter().all(|name| name != *cluster)) {
            let reason = format!(
                "`{}` is no cluster: {}",
                printable(cluster, SHOWN),
                meant(cluster, names.iter(), "")
            );
            return Err(self.value(&["host_key", "cluster"], reason));
        }
        match (host_key.file, host_key.secret) {
            (Some(_), Some(_)) => {
                let reason = "the host key is in a file or in a Secret: leave one of them out";
                Err(self.key(&["host_key", "secret"], reason))
            }
            (None, Some(secret)) => Ok(HostKey::Secret {
                cluster: cluster.unwrap_or_else(|| names.default()).to_owned(),
                namespace: secret.namespace,
                name: secret.name,
            }),
            (_, None) if cluster.is_some() => {
                let reason = "`cluster` says where a Secret is, and there is none: write `secret:`, or leave it out";
                Err(self.key(&["host_key", "cluster"], reason))
            }
            (file, None) => {
                let file = file.unwrap_or_else(|| HOST_KEY.into());
                Ok(HostKey::File(self.path(file)))
            }
        }
    }

    fn access(&self, access: document::Access) -> Result<Settings, Fault> {
        if access.authorities.is_empty() && access.keys.is_none() && access.keys_command.is_none() {
            let reason = "nobody could log in: write `authorities`, `keys` or `keys_command` under `access:`";
            return Err(self.key(&["access"], reason));
        }
        let program = access
            .keys_command
            .as_ref()
            .and_then(|command| command.first());
        if program.is_some_and(|program| !program.starts_with('/')) {
            let reason = "the program has no absolute path: begin it with `/`".to_owned();
            return Err(Place::item(&["access", "keys_command"], 0).fault(self.text, reason));
        }
        let user_prefix = access.user_prefix.unwrap_or_default();
        if !user_prefix.is_empty()
            && (!is_name(&user_prefix) || user_prefix.to_ascii_lowercase().starts_with("system:"))
        {
            let reason = "users can't be called so: a prefix has visible ASCII characters but no `,`, and is none of Kubernetes' own";
            return Err(self.value(&["access", "user_prefix"], reason));
        }
        let authorities = access
            .authorities
            .into_iter()
            .map(|authority| AuthoritySettings {
                file: self.path(authority.file),
                principal_prefix: authority.principal_prefix,
                may_set_groups: authority.may_set_groups,
            });
        let groups = access.groups.0.into_iter().map(|(user, groups)| {
            let groups = groups.0.into_iter().map(|Parsed(group)| group.0);
            (user.0, groups.collect())
        });
        Ok(Settings {
            authorities: authorities.collect(),
            longest_certificate: access
                .max_certificate_lifetime
                .unwrap_or(CERTIFICATE_LIFETIME),
            keys: access
                .keys
                .map(|folder| KeyFiles::Folder(self.path(folder))),
            keys_command: access.keys_command,
            revoked: access.revoked.map(|path| self.path(path)),
            user_prefix,
            groups: groups.collect(),
        })
    }

    fn rules(
        &self,
        rules: Vec<document::Rule>,
        names: &Clusters,
        can_record: bool,
    ) -> Result<Vec<Rule>, Fault> {
        let rules = rules.into_iter().enumerate();
        rules
            .map(|(at, rule)| self.rule(&at.to_string(), rule, names, can_record))
            .collect()
    }

    fn rule(
        &self,
        at: &str,
        rule: document::Rule,
        names: &Clusters,
        can_record: bool,
    ) -> Result<Rule, Fault> {
        let clusters = rule.clusters.unwrap_or_default();
        for (item, pattern) in clusters.iter().enumerate() {
            if names.iter().all(|name| !pattern.matches(name)) {
                let reason = format!(
                    "`{}` is none of the clusters: {}",
                    printable(&pattern.to_string(), SHOWN),
                    meant(&pattern.to_string(), names.iter(), "")
                );
                let keys = ["policy", at, "clusters"];
                return Err(Place::item(&keys, item).fault(self.text, reason));
            }
        }
        let says = [
            ("backends", rule.backends.is_some()),
            ("forwards", rule.forwards.is_some()),
            ("remote_forwards", rule.remote_forwards.is_some()),
            ("agent", rule.agent.is_some()),
            ("x11", rule.x11.is_some()),
            ("record", rule.record.is_some()),
            ("logins", rule.logins.is_some()),
            ("default_login", rule.default_login.is_some()),
            ("on_disconnect", rule.on_disconnect.is_some()),
        ];
        if let (true, Some((key, _))) = (rule.deny, says.iter().find(|(_, is_there)| *is_there)) {
            let reason = format!("a rule with `deny: true` allows nothing: leave `{key}` out");
            return Err(self.key(&["policy", at, key], reason));
        }
        let record = match rule.record {
            None | Some(document::Record::Off) => Record::Off,
            Some(document::Record::BestEffort) => Record::BestEffort,
            Some(document::Record::Required) => Record::Required,
        };
        if record != Record::Off && !can_record {
            let reason = "there is no place for recordings: write `recordings:` with a `folder:`";
            return Err(self.value(&["policy", at, "record"], reason));
        }
        let default = Grant::default();
        let backends = rule.backends.map(|backends| {
            let backends = backends.into_iter().map(|backend| match backend {
                document::Backend::Jump => Backend::Jump,
                document::Backend::Relay => Backend::Relay,
                document::Backend::Exec => Backend::Exec,
            });
            backends.collect()
        });
        let logins = rule.logins.unwrap_or_default();
        let is_allowed = |login: &str| {
            is_login(login) && (logins.is_empty() || logins.iter().any(|one| one.matches(login)))
        };
        let default_login = match rule.default_login {
            Some(login) if is_allowed(&login) => login,
            Some(login) => {
                let reason = format!(
                    "`{}` is none of the `logins`, or no login at all",
                    printable(&login, SHOWN)
                );
                return Err(self.value(&["policy", at, "default_login"], reason));
            }
            None if is_allowed(&default.default_login) => default.default_login,
            None => match logins.first().and_then(Pattern::literal) {
                Some(login) if is_login(login) => login.to_owned(),
                _ => {
                    let reason = "none of them can be what is taken where a user names none: write `default_login:` too";
                    return Err(self.value(&["policy", at, "logins"], reason));
                }
            },
        };
        let grant = Grant {
            backends: backends.unwrap_or(default.backends),
            forwards: rule.forwards.map(|forwards| {
                let forwards = forwards.into_iter().map(|Parsed(destination)| destination);
                forwards.collect()
            }),
            remote_forwards: rule.remote_forwards,
            agent: rule.agent.unwrap_or(default.agent),
            x11: rule.x11.unwrap_or(default.x11),
            record,
            logins,
            default_login,
            on_disconnect: match rule.on_disconnect {
                None | Some(document::OnDisconnect::Hup) => OnDisconnect::HangUp,
                Some(document::OnDisconnect::Leave) => OnDisconnect::Leave,
            },
        };
        Ok(Rule {
            name: rule.name,
            users: rule.users.unwrap_or_default(),
            groups: rule.groups.unwrap_or_default(),
            clusters,
            namespaces: rule.namespaces.unwrap_or_default(),
            grant: (!rule.deny).then_some(grant),
        })
    }

    fn audit(&self, audit: document::Audit) -> Result<Audit, Fault> {
        let sinks = match audit.sinks {
            Some(sinks) if sinks.is_empty() => {
                let reason =
                    "the list is empty: write at least one, or leave `sinks` out for stdout";
                return Err(self.value(&["audit", "sinks"], reason));
            }
            Some(sinks) => sinks.into_iter().enumerate(),
            None => {
                let stdout = document::Sink {
                    stdout: true,
                    ..document::Sink::default()
                };
                vec![stdout].into_iter().enumerate()
            }
        };
        let sinks = sinks.map(|(at, sink)| {
            let kind = match (sink.stdout, sink.file, sink.socket) {
                (true, None, None) => SinkKind::Stdout,
                (false, Some(path), None) => SinkKind::File(self.path(path)),
                (false, None, Some(path)) => SinkKind::Socket(self.path(path)),
                _ => {
                    let reason = "a sink is one of `stdout: true`, `file` and `socket`".to_owned();
                    return Err(Place::item(&["audit", "sinks"], at).fault(self.text, reason));
                }
            };
            let required = sink.required.unwrap_or(true);
            Ok(SinkConfig { kind, required })
        });
        Ok(Audit {
            sinks: sinks.collect::<Result<_, _>>()?,
            on_failure: match audit.on_failure {
                None | Some(document::OnFailure::Deny) => OnFailure::Deny,
                Some(document::OnFailure::Continue) => OnFailure::Continue,
            },
            redact: audit.redact,
        })
    }

    fn limits(&self, limits: &Limits) -> Result<(), Fault> {
        if limits.sessions > limits.channels {
            let reason = "`sessions`, which is 10 unless you say so, can't be more than `channels`";
            return Err(self.key(&["limits"], reason));
        }
        let penalties = &limits.penalties;
        if penalties.min > penalties.max {
            let reason = "`min`, which is 15s unless you say so, can't be more than `max`";
            return Err(self.key(&["limits", "penalties"], reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
