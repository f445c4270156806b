//! The gateway's own keys, by which its users know it: made once, kept, and replaced only when somebody says so.
//!
//! A [`Store`] keeps them, in a file or in a Secret that replicas share; both hold the same two texts. One has the private
//! keys as OpenSSH writes them, one after the other; the other the host certificates, one a line, for `@cert-authority`
//! users. The certificates come from somebody else: an authority signs the public keys and puts the file there.
//!
//! A rotation takes two steps. [`Store::rotate`] adds a key. The old one stays first, and is what clients get who ask for
//! a plain key: SSH has room for one key of a kind. The new one is published beside it ([`HostKeys::known_hosts`]), and
//! those who trust a certificate get it as soon as it has one. [`Store::drop_old`] then leaves only the new one.
//!
//! ```no_run
//! # async fn f() -> Result<(), kpf::ssh::host_key::Error> {
//! use std::time::SystemTime;
//! use kpf::ssh::host_key::Store;
//!
//! let store = Store::File("/var/lib/kpf/host_key".into());
//! let keys = store.load_or_make(SystemTime::now()).await?;
//! let config = russh::server::Config {
//!     keys: keys.keys().to_vec(),
//!     certificates: keys.certificates().to_vec(),
//!     ..Default::default()
//! };
//! # Ok(()) }
//! ```

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use russh::keys::key::safe_rng;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, PrivateKey};

mod file;
mod publish;
mod secret;
#[cfg(test)]
mod tests;
mod text;

pub use secret::Secret;

/// The name of the file, and of the Secret's entry, with the keys.
pub const NAME: &str = "host_key";
/// The same for the certificates: where sshd looks for a key's certificate.
pub const CERTIFICATES: &str = "host_key-cert.pub";

/// Why there are no host keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file can't be read, made or replaced.
    #[error("host key {}: {error}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: std::io::Error,
    },
    /// Others may read the file.
    #[error(
        "host key {}: others can read it (mode {mode:04o}). Run: chmod 600 {}; if somebody may have copied it, replace it with: kpf gateway host-key rotate",
        .path.display(), .path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The Secret can't be read, made or replaced.
    #[error("host key in Secret {secret}: {error}")]
    Secret {
        /// `namespace/name`
        secret: String,
        /// What the API server says.
        error: String,
    },
    /// There are none yet.
    #[error("{place}: there is no host key yet; starting the gateway makes one")]
    Missing {
        /// The file or the Secret.
        place: String,
    },
    /// What is there is not usable.
    #[error("{place}: {wrong}")]
    Unusable {
        /// The file or the Secret.
        place: String,
        /// What is wrong, and what to do.
        wrong: Wrong,
    },
    /// Nothing random on this machine, or another thing that doesn't happen.
    #[error("cannot make a host key: {0}")]
    Make(String),
}

/// What can be wrong with keys and certificates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Not a key as OpenSSH writes it.
    #[error(
        "this is not a private key in OpenSSH's format (ssh-keygen -p -f FILE rewrites others)"
    )]
    NotAKey,
    /// No key in it.
    #[error("there is no private key in it")]
    NoKey,
    /// It has a passphrase, and nobody is there to type it.
    #[error("the key has a passphrase; remove it with: ssh-keygen -p -f FILE")]
    Encrypted,
    /// RSA or DSA: no host should have them any more.
    #[error("a {0} key is not used; use ed25519: ssh-keygen -t ed25519 -f FILE")]
    Kind(String),
    /// Not a certificate as OpenSSH writes it.
    #[error("line {0} of the certificates is not an OpenSSH certificate")]
    NotACertificate(usize),
    /// A user's.
    #[error("certificate \"{0}\" is for a user; a host's is made with: ssh-keygen -h")]
    UserCertificate(String),
    /// Of another key.
    #[error(
        "certificate \"{0}\" is for another key; sign this one's public key, as kpf gateway host-key prints it"
    )]
    OtherKey(String),
    /// Not signed by the authority that it names.
    #[error("certificate \"{0}\" has a wrong signature")]
    Signature(String),
    /// Not valid at this time.
    #[error("certificate \"{0}\" is not valid now; sign the key again")]
    Expired(String),
    /// There is no second key to go on with.
    #[error("there is one host key only, so none is old: run kpf gateway host-key rotate first")]
    NothingOld,
    /// A rotation has not ended.
    #[error(
        "there are two host keys already: a rotation is under way; end it with: kpf gateway host-key rotate --drop-old"
    )]
    Rotating,
}

/// The keys of a gateway, at least one, and their certificates.
#[derive(Clone, Debug)]
pub struct HostKeys {
    keys: Vec<PrivateKey>,
    certificates: Vec<Certificate>,
}

impl HostKeys {
    /// One fresh ed25519 key.
    fn fresh() -> Result<Self, Error> {
        Ok(Self {
            keys: vec![fresh()?],
            certificates: Vec::new(),
        })
    }

    /// The keys, the oldest first: it is the one that is served where no certificate is asked for.
    #[must_use]
    pub fn keys(&self) -> &[PrivateKey] {
        &self.keys
    }

    /// Certificates of these keys, the newest key's first.
    #[must_use]
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// When the first certificate runs out.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        // A certificate for ever has no time that this can hold.
        let ends = self.certificates.iter().map(Certificate::valid_before);
        let first = ends.min()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(first))
    }

    /// Takes what is kept in a store.
    fn read(keys: &str, certificates: &str, now: SystemTime) -> Result<Self, Wrong> {
        let keys = text::keys(keys)?;
        let mut certificates = text::certificates(certificates)?;
        for certificate in &certificates {
            check(certificate, &keys, now)?;
        }
        let age = |certificate: &Certificate| {
            let key = certificate.public_key();
            keys.iter().position(|it| it.public_key().key_data() == key)
        };
        certificates.sort_by_key(|certificate| std::cmp::Reverse(age(certificate)));
        Ok(Self { keys, certificates })
    }
}

/// Where the keys are kept.
#[derive(Clone, Debug)]
pub enum Store {
    /// In this file, and the certificates beside it in one whose name ends in `-cert.pub`.
    File(PathBuf),
    /// In a Secret.
    Secret(Secret),
}

impl Store {
    /// The keys that are kept; if there are none, one that is made now and kept. Of several who do this at once, all get
    /// the same.
    ///
    /// # Errors
    /// They can't be read or made, others can read them, or they or their certificates don't fit. `now` is what a
    /// certificate must be valid at.
    pub async fn load_or_make(&self, now: SystemTime) -> Result<HostKeys, Error> {
        match self.load(now).await {
            Err(Error::Missing { .. }) => {
                self.create(HostKeys::fresh()?).await?;
                self.load(now).await
            }
            loaded => loaded,
        }
    }

    /// The keys that are kept.
    ///
    /// # Errors
    /// As [`load_or_make`](Self::load_or_make); and there are none.
    pub async fn load(&self, now: SystemTime) -> Result<HostKeys, Error> {
        let kept = match self {
            Self::File(path) => blocking(path, file::load).await?,
            Self::Secret(secret) => secret.load().await?.0,
        };
        HostKeys::read(&kept.keys, &kept.certificates, now).map_err(|wrong| self.unusable(wrong))
    }

    /// Adds a new key behind the one there is.
    ///
    /// # Errors
    /// As [`load`](Self::load); and there are two already.
    pub async fn rotate(&self, now: SystemTime) -> Result<HostKeys, Error> {
        let new = fresh()?;
        self.change(now, move |keys| {
            if keys.len() > 1 {
                return Err(Wrong::Rotating);
            }
            keys.push(new.clone());
            Ok(())
        })
        .await
    }

    /// Leaves only the newest key.
    ///
    /// # Errors
    /// As [`load`](Self::load); and there is one only.
    pub async fn drop_old(&self, now: SystemTime) -> Result<HostKeys, Error> {
        self.change(now, |keys| {
            if keys.len() < 2 {
                return Err(Wrong::NothingOld);
            }
            keys.drain(..keys.len() - 1);
            Ok(())
        })
        .await
    }

    async fn create(&self, keys: HostKeys) -> Result<(), Error> {
        let keys = text::write(&keys.keys).map_err(|error| Error::Make(error.to_string()))?;
        match self {
            Self::File(path) => blocking(path, move |path| file::create(path, &keys)).await,
            Self::Secret(secret) => secret.create(&keys).await,
        }
    }

    /// Replaces the keys by what `change` makes of them, whoever else does so at the same time.
    async fn change<F>(&self, now: SystemTime, change: F) -> Result<HostKeys, Error>
    where
        F: Fn(&mut Vec<PrivateKey>) -> Result<(), Wrong> + Send + Sync + 'static,
    {
        let store = self.clone();
        let edit = move |kept: &Kept| {
            let unusable = |wrong| store.unusable(wrong);
            let mut keys = text::keys(&kept.keys).map_err(unusable)?;
            change(&mut keys).map_err(unusable)?;
            let mut certificates = text::certificates(&kept.certificates).map_err(unusable)?;
            // Those of keys that go.
            certificates.retain(|it| fits(it, &keys));
            let failed = |error: russh::keys::ssh_key::Error| Error::Make(error.to_string());
            Ok(Kept {
                keys: text::write(&keys).map_err(failed)?,
                certificates: text::write_certificates(&certificates).map_err(failed)?,
            })
        };
        match self {
            Self::File(path) => blocking(path, move |path| file::change(path, &edit)).await?,
            Self::Secret(secret) => secret.change(&edit).await?,
        }
        self.load(now).await
    }

    fn unusable(&self, wrong: Wrong) -> Error {
        let place = match self {
            Self::File(path) => format!("host key {}", path.display()),
            Self::Secret(secret) => format!("host key in Secret {secret}"),
        };
        Error::Unusable { place, wrong }
    }
}

/// The two texts of a store.
#[derive(Clone)]
struct Kept {
    keys: String,
    /// Empty where there are none.
    certificates: String,
}

/// File systems make their callers wait.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(&Path) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let path = path.to_owned();
    let work = tokio::task::spawn_blocking(move || work(&path));
    work.await.map_err(|error| Error::Make(error.to_string()))?
}

fn fresh() -> Result<PrivateKey, Error> {
    PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519)
        .map_err(|error| Error::Make(error.to_string()))
}

fn fits(certificate: &Certificate, keys: &[PrivateKey]) -> bool {
    keys.iter()
        .any(|key| key.public_key().key_data() == certificate.public_key())
}

/// Whether clients may be given this certificate: a wrong one would lock out those who would take the plain key.
fn check(certificate: &Certificate, keys: &[PrivateKey], now: SystemTime) -> Result<(), Wrong> {
    let name = || crate::untrusted::printable(certificate.key_id(), 100);
    if certificate.cert_type() != CertType::Host {
        return Err(Wrong::UserCertificate(name()));
    }
    if !fits(certificate, keys) {
        return Err(Wrong::OtherKey(name()));
    }
    let authority = certificate
        .signature_key()
        .fingerprint(russh::keys::HashAlg::Sha256);
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    // At a time when it is valid, for what is left is the signature.
    certificate
        .validate_at(certificate.valid_after(), [&authority])
        .map_err(|_| Wrong::Signature(name()))?;
    certificate
        .validate_at(now.as_secs(), [&authority])
        .map_err(|_| Wrong::Expired(name()))
}
