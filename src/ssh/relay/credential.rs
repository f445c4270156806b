//! What the gateway logs in to a pod with: not the user's credential, which never leaves the user's machine.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use russh::keys::key::safe_rng;
use russh::keys::ssh_key::certificate::{Builder, CertType};
use russh::keys::ssh_key::{self, rand_core::Rng};
use russh::keys::{Algorithm, Certificate, PrivateKey};

use crate::ssh::access::Caps;
use crate::untrusted::printable;

/// How long a certificate lets in: for one login, and no other one later. The session goes on.
const LIFETIME: Duration = Duration::from_secs(600);
/// How far a pod's clock may be behind.
const SKEW: Duration = Duration::from_secs(60);
/// Bytes of an account's name; Linux has 32, directories more.
const LOGIN: usize = 256;
/// Characters of a user's name in a key id, which the pod's sshd logs.
const SHOWN: usize = 128;

/// Something to log in with.
#[derive(Clone)]
pub enum Credential {
    /// A fresh key with a certificate of an [`Authority`].
    Certificate {
        /// Used for nothing else.
        key: Arc<PrivateKey>,
        /// What it is allowed.
        certificate: Box<Certificate>,
        /// The line for the pod's `TrustedUserCAKeys`.
        authority: String,
    },
    /// A key from the configuration, which the pod has among its `authorized_keys`.
    Key(Arc<PrivateKey>),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate { certificate, .. } => write!(f, "{:?}", certificate.key_id()),
            Self::Key(key) => write!(f, "{}", key.fingerprint(ssh_key::HashAlg::Sha256)),
        }
    }
}

/// The authority that pods trust: its public key is what their `TrustedUserCAKeys` names.
///
/// Its key is kept as a host key is, in a [`Store`](crate::ssh::host_key::Store) of its own.
#[derive(Clone)]
pub struct Authority {
    key: Arc<PrivateKey>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.public_line())
    }
}

/// Whom a certificate is for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The account in the pod: the only principal.
    pub login: &'a str,
    /// Who is behind it, as Kubernetes knows it.
    pub user: &'a str,
    /// The id of the session, as in the gateway's own events.
    pub session: &'a str,
    /// What the user's own credential allows: the pod's sshd holds to it too.
    pub caps: &'a Caps,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum NotIssued {
    /// No account is called so.
    #[error("\"{0}\" is not the name of an account")]
    Login(String),
    /// The authority's key.
    #[error("the gateway's authority for pods cannot sign: {0}")]
    Authority(#[from] ssh_key::Error),
}

/// Whether it is safe as a principal: OpenSSH has taken a comma in one for two of them (CVE-2026-35414).
fn is_login(name: &str) -> bool {
    let may = |c: char| c.is_alphanumeric() || "._-@\\$".contains(c);
    !name.is_empty() && name.len() <= LOGIN && name.chars().all(may)
}

impl Authority {
    /// Signs by this key.
    #[must_use]
    pub const fn new(key: Arc<PrivateKey>) -> Self {
        Self { key }
    }

    /// The authority's public key, as it is in the file that `TrustedUserCAKeys` names.
    #[must_use]
    pub fn public_line(&self) -> String {
        let line = self.key.public_key().to_openssh();
        line.unwrap_or_default().trim_end().to_owned()
    }

    /// A fresh key for `subject`, valid for ten minutes from `now`. The key id is `kpf:USER:SESSION`, so that the log of
    /// the pod's sshd names the person.
    ///
    /// # Errors
    /// A login that no machine has, or an authority whose key can't sign.
    pub fn issue(&self, subject: Subject<'_>, now: SystemTime) -> Result<Credential, NotIssued> {
        if !is_login(subject.login) {
            return Err(NotIssued::Login(printable(subject.login, SHOWN)));
        }
        let mut random = safe_rng();
        let key = PrivateKey::random(&mut random, Algorithm::Ed25519)?;
        let mut nonce = [0; Builder::RECOMMENDED_NONCE_SIZE];
        random.fill_bytes(&mut nonce);
        let mut builder = Builder::new_with_validity_times(
            nonce,
            key.public_key().clone(),
            now - SKEW,
            now + LIFETIME,
        )?;
        builder.serial(random.next_u64())?;
        builder.cert_type(CertType::User)?;
        builder.valid_principal(subject.login)?;
        let user = printable(subject.user, SHOWN);
        builder.key_id(format!("kpf:{user}:{}", subject.session))?;
        let Caps {
            pty,
            port_forwarding,
            agent_forwarding,
            x11_forwarding,
            force_command,
        } = subject.caps;
        for (granted, name) in [
            (x11_forwarding, "permit-X11-forwarding"),
            (agent_forwarding, "permit-agent-forwarding"),
            (port_forwarding, "permit-port-forwarding"),
            (pty, "permit-pty"),
        ] {
            if *granted {
                builder.extension(name, "")?;
            }
        }
        if let Some(command) = force_command {
            builder.critical_option("force-command", command.as_str())?;
        }
        Ok(Credential::Certificate {
            certificate: Box::new(builder.sign(self.key.as_ref())?),
            key: Arc::new(key),
            authority: self.public_line(),
        })
    }
}
