//! Who has logged in. The identity comes from the credential, never from the user name: that names the target.

use std::time::SystemTime;

/// A login that was let in: set once when it succeeded, and never changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Who it is, to Kubernetes.
    pub identity: Identity,
    /// What it was let in by.
    pub proof: Proof,
    /// What the credential allows at most.
    pub caps: Caps,
    /// When the credential ends, and the connection with it.
    pub expires: Option<SystemTime>,
}

/// A user as Kubernetes knows it; every request for it is impersonated as this.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The user's name.
    pub user: String,
    /// The groups that the configuration or the certificate give.
    pub groups: Vec<String>,
}

/// What somebody has proven to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A key that is listed.
    Key {
        /// `SHA256:…`
        fingerprint: String,
    },
    /// A certificate of one of the gateway's authorities.
    Certificate {
        /// Of the certified key, `SHA256:…`.
        fingerprint: String,
        /// Of the authority's key.
        authority: String,
        /// Its serial number.
        serial: u64,
        /// Its key id, as it was sent: not fit to print.
        key_id: String,
    },
}

/// What a credential allows; policy and RBAC can only narrow it. Asked by every way of opening or requesting anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// `pty-req`.
    pub pty: bool,
    /// Jumps, and forwarding of any kind.
    pub port_forwarding: bool,
    /// `auth-agent-req@openssh.com`.
    pub agent_forwarding: bool,
    /// `x11-req`.
    pub x11_forwarding: bool,
    /// Run instead of whatever shell, command or subsystem is asked for; no jump then.
    pub force_command: Option<String>,
}

impl Caps {
    /// Everything, for a credential without restrictions.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            pty: true,
            port_forwarding: true,
            agent_forwarding: true,
            x11_forwarding: true,
            force_command: None,
        }
    }
}
