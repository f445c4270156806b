//! Everything that can be written. What a client or a pod sent stands here as it was sent; [`line`](super::line) makes it
//! fit to keep.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeMap as _, Serializer};

use super::line::{Bounded, LossyText};
use super::session::SessionId;
use crate::ssh::access::{Login, Proof};

/// Bytes of a command that are kept; more are counted.
pub const MAX_COMMAND: usize = 4096;
/// Bytes of a name: a user, a group, a pod, a destination, a reason.
pub const MAX_NAME: usize = 512;
/// Bytes of a path (Linux's `PATH_MAX`).
pub const MAX_PATH: usize = 4096;
/// Groups of an identity that are kept.
const MAX_GROUPS: usize = 64;

/// Whom and what an event is about: filled as a connection goes on, and cloned for each of its events.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The connection's id, once it is admitted.
    pub session: Option<SessionId>,
    /// The connection's number in this process.
    pub connection: Option<u64>,
    /// Where it comes from: the address in the PROXY header where one was taken.
    pub source: Option<SocketAddr>,
    /// Who it is.
    pub login: Option<Arc<Login>>,
    /// Where it goes.
    pub place: Option<Arc<Place>>,
    /// The channel's number, as the client has it.
    pub channel: Option<u32>,
}

/// The target of a session, as it was resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The cluster's name in the configuration.
    pub cluster: String,
    /// The namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Its uid, which a pod of the same name doesn't share.
    pub uid: Option<String>,
    /// The container, where one is meant.
    pub container: Option<String>,
    /// `jump`, `relay` or `exec`.
    pub backend: Option<&'static str>,
    /// The user in the pod.
    pub login: Option<String>,
}

impl Serialize for About {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(session) = &self.session {
            map.serialize_entry("sid", session)?;
        }
        if let Some(connection) = self.connection {
            map.serialize_entry("conn", &connection)?;
        }
        if let Some(login) = &self.login {
            map.serialize_entry("user", &Bounded::name(&login.identity.user))?;
            let groups = login.identity.groups.iter().take(MAX_GROUPS);
            map.serialize_entry(
                "groups",
                &groups.map(|g| Bounded::name(g)).collect::<Vec<_>>(),
            )?;
            map.serialize_entry("auth", &ProofLine(&login.proof))?;
        }
        if let Some(source) = self.source {
            map.serialize_entry("src", &source)?;
        }
        if let Some(place) = &self.place {
            map.serialize_entry("cluster", &Bounded::name(&place.cluster))?;
            map.serialize_entry("ns", &Bounded::name(&place.namespace))?;
            map.serialize_entry("pod", &Bounded::name(&place.pod))?;
            map.serialize_entry("uid", &place.uid.as_deref().map(Bounded::name))?;
            map.serialize_entry("container", &place.container.as_deref().map(Bounded::name))?;
            if let Some(backend) = place.backend {
                map.serialize_entry("backend", backend)?;
            }
            if let Some(login) = &place.login {
                map.serialize_entry("login", &Bounded::name(login))?;
            }
        }
        if let Some(channel) = self.channel {
            map.serialize_entry("channel", &channel)?;
        }
        map.end()
    }
}

struct ProofLine<'a>(&'a Proof);

impl Serialize for ProofLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self.0 {
            Proof::Key { fingerprint } => {
                map.serialize_entry("method", "key")?;
                map.serialize_entry("fp", &Bounded::name(fingerprint))?;
            }
            Proof::Certificate {
                fingerprint,
                authority,
                serial,
                key_id,
            } => {
                map.serialize_entry("method", "cert")?;
                map.serialize_entry("fp", &Bounded::name(fingerprint))?;
                map.serialize_entry("ca", &Bounded::name(authority))?;
                map.serialize_entry("serial", serial)?;
                map.serialize_entry("key_id", &Bounded::name(key_id))?;
            }
        }
        map.end()
    }
}

/// What happened. `in` is from the client, `out` to it; durations are written in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Kind {
    /// A connection was admitted.
    ConnOpen {
        /// The sender of the PROXY header, where one was taken.
        #[serde(skip_serializing_if = "Option::is_none")]
        proxy: Option<SocketAddr>,
    },
    /// It ended.
    ConnClose {
        /// Why.
        #[serde(serialize_with = "bounds::name")]
        reason: String,
        /// SSH bytes from the client.
        bytes_in: u64,
        /// SSH bytes to it.
        bytes_out: u64,
        /// How long it lasted.
        #[serde(rename = "ms", serialize_with = "bounds::millis")]
        duration: Duration,
    },
    /// A credential was shown, and not yet proven.
    AuthTry {
        /// The SSH method, and for a key whether it has a certificate.
        #[serde(serialize_with = "bounds::name")]
        method: String,
        /// The key's fingerprint.
        #[serde(serialize_with = "bounds::name")]
        fp: String,
        /// The user name, which says where to.
        #[serde(serialize_with = "bounds::name")]
        name: String,
    },
    /// A login succeeded; who it is stands in [`About::login`].
    AuthOk {
        /// The user name, which says where to.
        #[serde(serialize_with = "bounds::name")]
        name: String,
    },
    /// A credential was refused.
    AuthFail {
        /// The SSH method.
        #[serde(serialize_with = "bounds::name")]
        method: String,
        /// The key's fingerprint, if there was one.
        #[serde(
            skip_serializing_if = "Option::is_none",
            serialize_with = "bounds::maybe_name"
        )]
        fp: Option<String>,
        /// The user name, which says where to.
        #[serde(serialize_with = "bounds::name")]
        name: String,
        /// Which check said no.
        #[serde(serialize_with = "bounds::name")]
        reason: String,
    },
    /// A name became a pod, which stands in [`About::place`].
    TargetResolve {
        /// As the user wrote it.
        #[serde(serialize_with = "bounds::name")]
        name: String,
    },
    /// A name led nowhere that this user may go.
    TargetDeny {
        /// As the user wrote it.
        #[serde(serialize_with = "bounds::name")]
        name: String,
        /// Why, which the user isn't told.
        #[serde(serialize_with = "bounds::name")]
        reason: String,
    },
    /// The way to a pod is open.
    SessionStart {},
    /// It is closed.
    SessionEnd {
        /// Why.
        #[serde(serialize_with = "bounds::name")]
        reason: String,
        /// How the command ended, where there was one.
        #[serde(flatten)]
        exit: Exit,
        /// Channel data from the client.
        bytes_in: u64,
        /// Channel data to it.
        bytes_out: u64,
        /// How long it lasted.
        #[serde(rename = "ms", serialize_with = "bounds::millis")]
        duration: Duration,
    },
    /// A channel was opened.
    ChannelOpen {
        /// The SSH channel type.
        #[serde(serialize_with = "bounds::name")]
        ctype: String,
        /// Where a forwarded connection goes to.
        #[serde(
            skip_serializing_if = "Option::is_none",
            serialize_with = "bounds::maybe_name"
        )]
        dest: Option<String>,
    },
    /// One was not.
    ChannelDeny {
        /// The SSH channel type.
        #[serde(serialize_with = "bounds::name")]
        ctype: String,
        /// Where a forwarded connection was to go to.
        #[serde(
            skip_serializing_if = "Option::is_none",
            serialize_with = "bounds::maybe_name"
        )]
        dest: Option<String>,
        /// Why.
        #[serde(serialize_with = "bounds::name")]
        reason: String,
    },
    /// A channel ended.
    ChannelClose {
        /// Why.
        #[serde(serialize_with = "bounds::name")]
        reason: String,
        /// How the command ended, where there was one.
        #[serde(flatten)]
        exit: Exit,
        /// Data from the client.
        bytes_in: u64,
        /// Data to it.
        bytes_out: u64,
        /// How often the terminal changed its size.
        resizes: u64,
        /// How long it lasted.
        #[serde(rename = "ms", serialize_with = "bounds::millis")]
        duration: Duration,
    },
    /// A client asked something of a channel.
    Request {
        /// What.
        #[serde(flatten)]
        what: Requested,
        /// Whether it was granted.
        ok: bool,
    },
    /// The pod's sshd listens for the client (`-R`).
    ForwardListen {
        /// The address or socket.
        #[serde(serialize_with = "bounds::name")]
        bind: String,
        /// Whether it was granted.
        ok: bool,
    },
    /// A file was transferred.
    File {
        /// `in` is an upload.
        direction: Transfer,
        /// As the client named it.
        #[serde(serialize_with = "bounds::path")]
        path: String,
        /// Bytes.
        size: u64,
        /// Of the content, in hexadecimal, where all of it was seen in order.
        #[serde(
            skip_serializing_if = "Option::is_none",
            serialize_with = "bounds::maybe_name"
        )]
        sha256: Option<String>,
    },
    /// A limit said no. At the door only one event a second is written for each limit: a flood must not fill the log.
    LimitHit {
        /// Which.
        limit: &'static str,
        /// How often since the event before.
        count: u64,
    },
    /// A recording began.
    RecordingStart {
        /// Its name below the recordings' directory.
        name: String,
    },
    /// It ended.
    RecordingEnd {
        /// Its name below the recordings' directory.
        name: String,
        /// Of the file, in hexadecimal; absent if it could not be written whole.
        #[serde(skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
        /// Of the file.
        bytes: u64,
        /// Why it ended before the session did.
        #[serde(
            skip_serializing_if = "Option::is_none",
            serialize_with = "bounds::maybe_name"
        )]
        incomplete: Option<String>,
    },
    /// A running session was checked again.
    AuthzRecheck {
        /// Whether it may go on.
        allowed: bool,
        /// Why not, or why nobody knows.
        #[serde(
            skip_serializing_if = "Option::is_none",
            serialize_with = "bounds::maybe_name"
        )]
        reason: Option<String>,
    },
    /// The gateway listens.
    GatewayStart {
        /// Its version.
        version: &'static str,
        /// Where it listens.
        listen: Vec<SocketAddr>,
    },
    /// The last event of a process that ended as it should.
    GatewayStop {
        /// Why.
        #[serde(serialize_with = "bounds::name")]
        reason: String,
    },
    /// The configuration was read again.
    GatewayConfig {
        /// Whether it is in force; the old one is otherwise.
        ok: bool,
        /// What is wrong with it.
        #[serde(
            skip_serializing_if = "Option::is_none",
            serialize_with = "bounds::maybe_name"
        )]
        reason: Option<String>,
    },
}

impl Kind {
    /// The `type` of the line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ConnOpen { .. } => "conn.open",
            Self::ConnClose { .. } => "conn.close",
            Self::AuthTry { .. } => "auth.try",
            Self::AuthOk { .. } => "auth.ok",
            Self::AuthFail { .. } => "auth.fail",
            Self::TargetResolve { .. } => "target.resolve",
            Self::TargetDeny { .. } => "target.deny",
            Self::SessionStart {} => "session.start",
            Self::SessionEnd { .. } => "session.end",
            Self::ChannelOpen { .. } => "channel.open",
            Self::ChannelDeny { .. } => "channel.deny",
            Self::ChannelClose { .. } => "channel.close",
            Self::Request { .. } => "request",
            Self::ForwardListen { .. } => "forward.listen",
            Self::File { .. } => "file",
            Self::LimitHit { .. } => "limit.hit",
            Self::RecordingStart { .. } => "recording.start",
            Self::RecordingEnd { .. } => "recording.end",
            Self::AuthzRecheck { .. } => "authz.recheck",
            Self::GatewayStart { .. } => "gateway.start",
            Self::GatewayStop { .. } => "gateway.stop",
            Self::GatewayConfig { .. } => "gateway.config",
        }
    }
}

/// How a command ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Exit {
    /// There was none, or nobody knows.
    #[default]
    Unknown,
    /// With this code.
    Code(u32),
    /// By this signal, without `SIG`.
    Signal(String),
}

impl Serialize for Exit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Unknown => {}
            Self::Code(code) => map.serialize_entry("exit", code)?,
            Self::Signal(signal) => map.serialize_entry("signal", &Bounded::name(signal))?,
        }
        map.end()
    }
}

/// Which way a file went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transfer {
    /// From the client into the pod.
    In,
    /// From the pod to the client.
    Out,
}

/// What was asked of a channel. Of the environment only the names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "request", rename_all = "lowercase")]
pub enum Requested {
    /// `pty-req`.
    Pty {
        /// `TERM`.
        #[serde(serialize_with = "bounds::name")]
        term: String,
        /// Characters across.
        cols: u32,
        /// Characters down.
        rows: u32,
    },
    /// `shell`.
    Shell,
    /// `exec`.
    Exec {
        /// As it was sent; the first 4 KiB of it are written, after the policy's patterns have been applied.
        #[serde(serialize_with = "bounds::command")]
        command: Vec<u8>,
        /// All of its bytes.
        bytes: usize,
    },
    /// `subsystem`.
    Subsystem {
        /// Which.
        #[serde(rename = "subsystem", serialize_with = "bounds::name")]
        name: String,
    },
    /// `env`.
    Env {
        /// The variable, without its value.
        #[serde(rename = "env", serialize_with = "bounds::name")]
        name: String,
    },
    /// `signal`.
    Signal {
        /// Without `SIG`.
        #[serde(serialize_with = "bounds::name")]
        signal: String,
    },
    /// `auth-agent-req@openssh.com`.
    Agent,
    /// `x11-req`; its cookie is a secret.
    X11,
    /// One that the gateway doesn't know.
    Other {
        /// Its name.
        #[serde(serialize_with = "bounds::name")]
        name: String,
    },
}

impl From<&crate::ssh::request::Request> for Requested {
    fn from(request: &crate::ssh::request::Request) -> Self {
        use crate::ssh::request::Request;
        match request {
            Request::Pty { term, size, .. } => Self::Pty {
                term: term.clone(),
                cols: size.columns,
                rows: size.rows,
            },
            Request::Resize(_) => Self::Other {
                name: "window-change".to_owned(), // counted in `channel.close`
            },
            Request::Env { name, .. } => Self::Env { name: name.clone() },
            Request::Shell => Self::Shell,
            Request::Exec(command) => Self::Exec {
                command: command.clone(),
                bytes: command.len(),
            },
            Request::Subsystem(name) => Self::Subsystem { name: name.clone() },
            Request::Signal(signal) => Self::Signal {
                signal: signal.clone(),
            },
            Request::Agent => Self::Agent,
            Request::X11 { .. } => Self::X11,
        }
    }
}

/// How much is kept of what others worded.
mod bounds {
    use super::*;

    pub(super) fn name<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        Bounded::name(text).serialize(serializer)
    }

    #[expect(clippy::ref_option, reason = "serde hands it over so")]
    pub(super) fn maybe_name<S: Serializer>(
        text: &Option<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        text.as_deref().map(Bounded::name).serialize(serializer)
    }

    pub(super) fn path<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
        Bounded::new(text, MAX_PATH).serialize(serializer)
    }

    pub(super) fn command<S: Serializer>(command: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        LossyText(command, MAX_COMMAND).serialize(serializer)
    }

    pub(super) fn millis<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }
}
