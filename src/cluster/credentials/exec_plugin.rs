//! Credential plugins: a program that prints an `ExecCredential` (client-go `plugin/pkg/client/auth/exec`).
//!
//! The plugin runs when the first request needs it, once for all requests that wait, and again shortly before its
//! credential expires or after a 401. Its stderr is ours, so that it can talk to a person; our stdin it gets only where
//! it is a terminal that no command reads, since ssh's bytes would be lost in it otherwise.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::HeaderValue;
use jiff::Timestamp;
use kube::config::{Cluster, ExecAuthCluster, ExecConfig, ExecInteractiveMode};
use rustls::sign::CertifiedKey;
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::Mutex;

use super::{Credential, Error, bearer};
use crate::cluster::{Environment, Stdin, tls};
use crate::untrusted::printable;

/// A plugin and the last credential that it gave.
pub(super) struct ExecPlugin {
    command: String,
    arguments: Vec<String>,
    variables: Vec<(OsString, OsString)>,
    api_version: String,
    install_hint: Option<String>,
    interactive_mode: ExecInteractiveMode,
    cluster: Option<serde_json::Value>,
    stdin: Stdin,
    issued: Mutex<Option<Issued>>,
    /// The highest serial that the server has answered with a 401.
    rejected: AtomicU64,
}

struct Issued {
    authorization: Option<HeaderValue>,
    identity: Option<Arc<CertifiedKey>>,
    serial: u64,
    expiry: Option<Expiry>,
}

struct Expiry {
    at: Timestamp,
    renew_at: Timestamp,
}

impl ExecPlugin {
    pub(super) fn new(
        config: &ExecConfig,
        cluster: &Cluster,
        environment: &Environment,
        stdin: Stdin,
    ) -> Result<Self, crate::cluster::Error> {
        let invalid = |reason: String| Error::Plugin(format!("exec plugin: {reason}"));
        let Some(command) = config.command.clone().filter(|command| !command.is_empty()) else {
            return Err(invalid("the user entry names no command".to_owned()).into());
        };
        let api_version = config.api_version.clone().unwrap_or_default();
        if !matches!(
            api_version.as_str(),
            "client.authentication.k8s.io/v1" | "client.authentication.k8s.io/v1beta1"
        ) {
            let reason = format!(
                "invalid apiVersion \"{}\": update the user entry, as with your provider's login command",
                printable(&api_version, 100)
            );
            return Err(invalid(reason).into());
        }
        let cluster = if config.provide_cluster_info {
            let info = ExecAuthCluster::try_from(cluster)
                .map_err(|error| invalid(printable(&error.to_string(), 300)))?;
            Some(serde_json::to_value(info).expect("plain text fields"))
        } else {
            None
        };
        let inherited = environment
            .variables()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let own = config
            .env
            .iter()
            .flatten()
            .filter_map(|pair| Some((pair.get("name")?.into(), pair.get("value")?.into())));
        Ok(Self {
            command,
            arguments: config.args.clone().unwrap_or_default(),
            variables: inherited.chain(own).collect(),
            api_version,
            install_hint: config.install_hint.clone(),
            interactive_mode: config
                .interactive_mode
                .clone()
                .unwrap_or(ExecInteractiveMode::IfAvailable),
            cluster,
            stdin,
            issued: Mutex::new(None),
            rejected: AtomicU64::new(0),
        })
    }

    /// The last credential, or a new one. Those who ask meanwhile wait for the same run.
    /// What it runs.
    pub(super) fn command(&self) -> &str {
        &self.command
    }

    /// When what it has issued is over.
    pub(super) async fn expiry(&self) -> Option<Timestamp> {
        let issued = self.issued.lock().await;
        Some(issued.as_ref()?.expiry.as_ref()?.at)
    }

    pub(super) async fn current(&self) -> Result<Credential, Error> {
        let mut issued = self.issued.lock().await;
        let now = Timestamp::now();
        if let Some(issued) = issued
            .as_ref()
            .filter(|issued| self.accepted(issued) && issued.is_fresh(now))
        {
            return Ok(issued.credential());
        }
        let serial = issued.as_ref().map_or(0, |issued| issued.serial) + 1;
        match self.run(serial).await {
            Ok(new) => Ok(issued.insert(new).credential()),
            // Renewal begins early: what there is may be good for another minute.
            Err(error) => match issued
                .as_ref()
                .filter(|issued| self.accepted(issued) && issued.is_valid(now))
            {
                Some(issued) => {
                    tracing::warn!("{error}");
                    Ok(issued.credential())
                }
                None => Err(error),
            },
        }
    }

    pub(super) fn rejected(&self, credential: &Credential) {
        self.rejected
            .fetch_max(credential.serial, Ordering::Relaxed);
    }

    fn accepted(&self, issued: &Issued) -> bool {
        issued.serial > self.rejected.load(Ordering::Relaxed)
    }

    async fn run(&self, serial: u64) -> Result<Issued, Error> {
        let interactive = interactive(
            &self.interactive_mode,
            self.stdin,
            io::stdin().is_terminal(),
        )
        .map_err(|reason| self.failed(format_args!("cannot support interactive mode: {reason}")))?;
        let mut spec = json!({ "interactive": interactive });
        if let Some(cluster) = &self.cluster {
            spec["cluster"] = cluster.clone();
        }
        let info =
            json!({ "kind": "ExecCredential", "apiVersion": self.api_version, "spec": spec });
        tracing::debug!(command = %printable(&self.command, 200), "running the credential plugin");
        let child = Command::new(&self.command)
            .args(&self.arguments)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("KUBERNETES_EXEC_INFO", info.to_string())
            .stdin(if interactive {
                Stdio::inherit()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|error| self.not_started(&error))?;

        let mut output = Vec::new();
        let stdout = child.stdout.take().expect("stdout is a pipe");
        stdout
            .take(OUTPUT_MAX + 1)
            .read_to_end(&mut output)
            .await
            .map_err(|error| self.failed(format_args!("{error}")))?;
        if output.len() as u64 > OUTPUT_MAX {
            return Err(self.failed(format_args!("printed more than {OUTPUT_MAX} bytes"))); // and is killed
        }
        let status = child
            .wait()
            .await
            .map_err(|error| self.failed(format_args!("{error}")))?;
        if !status.success() {
            return Err(self.failed(format_args!("failed with {}", outcome(status))));
        }
        self.parse(&output, serial)
    }

    fn parse(&self, output: &[u8], serial: u64) -> Result<Issued, Error> {
        // client-go decodes YAML as well. What is wrong where may be said, but none of the text: it holds a token.
        let document: ExecCredential = serde_json::from_slice(output)
            .or_else(|json| serde_yaml::from_slice(output).map_err(|_| json))
            .map_err(|error| {
                self.failed(format_args!(
                    "printed no ExecCredential (line {}, column {})",
                    error.line(),
                    error.column()
                ))
            })?;
        if document.api_version != self.api_version {
            let returned = printable(&document.api_version, 100);
            return Err(self.failed(format_args!(
                "is configured to use API version {}, plugin returned version {returned}",
                self.api_version
            )));
        }
        let Some(status) = document.status else {
            return Err(self.failed(format_args!("didn't return a status field")));
        };
        let set = |value: Option<String>| value.filter(|value| !value.is_empty());
        let token = set(status.token);
        let identity = match (
            set(status.client_certificate_data),
            set(status.client_key_data),
        ) {
            (Some(chain), Some(key)) => Some(
                tls::certified_key(chain.as_bytes(), key.as_bytes())
                    .map_err(|reason| self.failed(format_args!("{reason}")))?,
            ),
            (None, None) if token.is_none() => {
                return Err(self.failed(format_args!("didn't return a token or cert/key pair")));
            }
            (None, None) => None,
            _ => {
                return Err(self.failed(format_args!("returned only certificate or key, not both")));
            }
        };
        let expiry = match set(status.expiration_timestamp).map(|text| text.parse::<Timestamp>()) {
            None => None,
            Some(Ok(at)) => Some(Expiry::new(at, Timestamp::now())),
            Some(Err(_)) => {
                return Err(self.failed(format_args!(
                    "returned an expirationTimestamp that is no RFC 3339 time"
                )));
            }
        };
        Ok(Issued {
            authorization: token.as_deref().map(bearer).transpose()?,
            identity,
            serial,
            expiry,
        })
    }

    fn not_started(&self, error: &io::Error) -> Error {
        if error.kind() != io::ErrorKind::NotFound {
            return self.failed(format_args!("cannot be run: {error}"));
        }
        let hint = match self
            .install_hint
            .as_deref()
            .map(|hint| printable(hint, 500))
        {
            Some(hint) if !hint.is_empty() => hint,
            _ => "it looks like a credential plugin that is not installed".to_owned(),
        };
        self.failed(format_args!("not found: {hint}"))
    }

    fn failed(&self, what: fmt::Arguments<'_>) -> Error {
        Error::Plugin(format!(
            "exec: executable {} {what}",
            printable(&self.command, 200)
        ))
    }
}

/// A credential is small; the largest holds a chain of certificates.
const OUTPUT_MAX: u64 = 1 << 20;

impl Issued {
    fn credential(&self) -> Credential {
        Credential {
            authorization: self.authorization.clone(),
            identity: self.identity.clone(),
            serial: self.serial,
        }
    }

    fn is_fresh(&self, now: Timestamp) -> bool {
        self.expiry
            .as_ref()
            .is_none_or(|expiry| now < expiry.renew_at)
    }

    fn is_valid(&self, now: Timestamp) -> bool {
        self.expiry.as_ref().is_none_or(|expiry| now < expiry.at)
    }
}

impl Expiry {
    /// Renewed a minute ahead, or after three quarters of a life of less than four minutes.
    fn new(at: Timestamp, now: Timestamp) -> Self {
        const AHEAD: Duration = Duration::from_secs(60);
        let life = Duration::try_from(at.duration_since(now)).unwrap_or_default();
        Self {
            at,
            renew_at: at - AHEAD.min(life / 4),
        }
    }
}

/// Whether the plugin gets our stdin (client-go `isInteractive`).
fn interactive(
    mode: &ExecInteractiveMode,
    stdin: Stdin,
    is_terminal: bool,
) -> Result<bool, &'static str> {
    let free = stdin == Stdin::Free;
    match mode {
        ExecInteractiveMode::Never => Ok(false),
        ExecInteractiveMode::IfAvailable => Ok(free && is_terminal),
        ExecInteractiveMode::Always if !free => {
            Err("standard input is unavailable, it carries the connection's data")
        }
        ExecInteractiveMode::Always if !is_terminal => Err("standard input is not a terminal"),
        ExecInteractiveMode::Always => Ok(true),
    }
}

fn outcome(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None => status.to_string(), // ended by a signal
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredential {
    api_version: String,
    status: Option<ExecCredentialStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ExecCredentialStatus {
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    expiration_timestamp: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `crates.md` §0 row 3: every mode, owner of stdin and kind of stdin.
    #[test]
    fn stdin_goes_to_a_plugin_only_if_it_is_a_free_terminal() {
        use ExecInteractiveMode::{Always, IfAvailable, Never};
        for (stdin, is_terminal) in [
            (Stdin::Free, false),
            (Stdin::Taken, false),
            (Stdin::Taken, true),
        ] {
            assert_eq!(interactive(&Never, stdin, is_terminal), Ok(false));
            assert_eq!(interactive(&IfAvailable, stdin, is_terminal), Ok(false));
            assert!(interactive(&Always, stdin, is_terminal).is_err());
        }
        assert_eq!(interactive(&Never, Stdin::Free, true), Ok(false));
        assert_eq!(interactive(&IfAvailable, Stdin::Free, true), Ok(true));
        assert_eq!(interactive(&Always, Stdin::Free, true), Ok(true));
    }

    #[test]
    fn renewal_begins_ahead_of_expiry() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let ahead = |life: u64| {
            let expiry = Expiry::new(now + Duration::from_secs(life), now);
            Duration::try_from(expiry.at.duration_since(expiry.renew_at))
                .unwrap()
                .as_secs()
        };
        assert_eq!(ahead(900), 60);
        assert_eq!(ahead(240), 60);
        assert_eq!(ahead(40), 10, "a short life isn't all renewal");
        assert_eq!(ahead(0), 0);
        let past = Expiry::new(now - Duration::from_secs(5), now);
        assert_eq!(past.at, past.renew_at);
        assert_eq!(Expiry::new(Timestamp::MIN, now).renew_at, Timestamp::MIN);
    }
}
