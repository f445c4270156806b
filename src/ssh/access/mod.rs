//! Who has logged in. The identity comes from the credential, never from the user name: that names the target.
//!
//! [`Access`] is what the configuration says, read once; to read it again, make another one and swap them. It says
//! yes with a [`Login`] or no with a [`Refusal`], which is for the audit log: who is refused is told nothing.
//!
//! | file | what it is |
//! |---|---|
//! | `certificate` | everything that an OpenSSH user certificate must be |
//! | `authorized_keys` | files of keys with their options |
//! | `keys_command` | a program that is asked about a key |
//! | `revoked` | what is good no more |
//! | `sources` | where somebody may come from |
//! | `key` | which keys are strong enough |

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey};
use thiserror::Error;

use self::authorized_keys::{Keys, Options};
use self::certificate::Authority;
use self::keys_command::KeysCommand;
use self::revoked::Revoked;
use crate::untrusted::printable;

mod authorized_keys;
mod certificate;
mod file;
mod key;
mod keys_command;
mod refusal;
mod revoked;
mod sources;

pub use self::refusal::Refusal;
pub use self::sources::{Sources, network};

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

/// Characters of a user's or a group's name.
const LONGEST_NAME: usize = 128;

/// Who may log in, by what: plain data, as the configuration has it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// Whose certificates are taken.
    pub authorities: Vec<AuthoritySettings>,
    /// What a certificate may last at most, from its beginning to its end.
    pub longest_certificate: Duration,
    /// Keys that are listed.
    pub keys: Option<KeyFiles>,
    /// A program that knows keys, with its first arguments; its path is absolute.
    pub keys_command: Option<Vec<String>>,
    /// What is good no more.
    pub revoked: Option<PathBuf>,
    /// Put before each user's name for Kubernetes, as `ssh:`.
    pub user_prefix: String,
    /// The groups of users, by their names without the prefix.
    pub groups: BTreeMap<String, Vec<String>>,
}

/// An authority.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthoritySettings {
    /// Its public keys, one a line.
    pub file: PathBuf,
    /// What a principal must begin with to be somebody's name, which is what follows. With none every principal is.
    pub principal_prefix: String,
    /// Whether its certificates may name groups, in the extension `kpf-groups@kpf.dev`.
    pub may_set_groups: bool,
}

/// Where keys are listed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeyFiles {
    /// `NAME.keys` for each user.
    Folder(PathBuf),
    /// One file for one user.
    Of {
        /// The user.
        user: String,
        /// The file.
        file: PathBuf,
    },
}

/// Why nobody could be let in: the configuration names something that can't be used. Without the rest of it, what is
/// refused could be let in, so there is no [`Access`] then.
#[derive(Debug, Error)]
pub enum Error {
    /// A file or folder cannot be read.
    #[error("cannot read {what} `{}`: {source}", path.display())]
    Read {
        /// What it is.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could have written it.
    #[error("{what} `{}` is writable by everyone: take that away with `chmod o-w`", path.display())]
    WritableByAll {
        /// What it is.
        what: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// A line of it makes no sense.
    #[error("{what} `{}`, line {line}: {reason}", path.display())]
    Line {
        /// What it is.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A name that Kubernetes can't have, or a program that can't be run.
    #[error("{0}")]
    Setting(String),
}

/// A line of a list of keys, or all of one, that lets nobody in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Disabled {
    /// The file.
    pub path: PathBuf,
    /// From 1; none where it is all of the file.
    pub line: Option<usize>,
    /// Why, in one line.
    pub reason: String,
}

impl std::fmt::Display for Disabled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "keys `{}`", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// Who may log in.
#[derive(Debug)]
pub struct Access {
    authorities: Vec<Authority>,
    longest_certificate: Duration,
    keys: Keys,
    command: Option<KeysCommand>,
    revoked: Revoked,
    user_prefix: String,
    groups: BTreeMap<String, Vec<String>>,
}

impl Access {
    /// Reads all files, with what of them lets nobody in. Blocks.
    ///
    /// # Errors
    /// Anything but keys can't be read: a wrong key locks its owner out, but a wrong authority or revocation could let
    /// others in.
    pub fn read(settings: &Settings) -> Result<(Self, Vec<Disabled>), Error> {
        let groups = settings.groups.iter();
        for name in groups.flat_map(|(user, groups)| [user].into_iter().chain(groups)) {
            if !is_name(name) {
                return Err(Error::Setting(no_name(name)));
            }
        }
        let mut disabled = Vec::new();
        let keys = match &settings.keys {
            Some(files) => Keys::read(files, &mut disabled)?,
            None => Keys::default(),
        };
        let mut authorities = Vec::new();
        for authority in &settings.authorities {
            authorities.extend(Authority::read(authority)?);
        }
        let access = Self {
            authorities,
            longest_certificate: settings.longest_certificate,
            keys,
            command: settings
                .keys_command
                .as_deref()
                .map(KeysCommand::new)
                .transpose()?,
            revoked: match &settings.revoked {
                Some(path) => Revoked::read(path)?,
                None => Revoked::default(),
            },
            user_prefix: settings.user_prefix.clone(),
            groups: settings.groups.clone(),
        };
        Ok((access, disabled))
    }

    /// Whether it is worth a signature to find out more about this key. Nothing is proven yet, and nobody is let in by
    /// it.
    ///
    /// russh shows the key of a certificate here and not the certificate, and clients offer the bare key first: so with
    /// any authority, all keys that could be certified are worth it.
    pub async fn is_worth_a_signature(&self, key: &PublicKey, algorithm: &Algorithm) -> bool {
        // `ssh-rsa` as a signature is SHA-1.
        let is_sha1 = matches!(algorithm, Algorithm::Rsa { hash: None });
        if is_sha1 || !key::is_allowed(key.key_data()) || self.revoked.key(key.key_data()) {
            return false;
        }
        if !self.authorities.is_empty() || self.keys.find(key.key_data()).is_some() {
            return true;
        }
        match &self.command {
            Some(command) => matches!(command.ask(key).await, Ok(Some(_))),
            None => false,
        }
    }

    /// Who has proven to have this key, and what it may.
    ///
    /// # Errors
    /// It lets nobody in.
    pub async fn key(
        &self,
        key: &PublicKey,
        source: IpAddr,
        now: SystemTime,
    ) -> Result<Login, Refusal> {
        if !key::is_allowed(key.key_data()) {
            return Err(Refusal::KeyAlgorithm);
        }
        if self.revoked.key(key.key_data()) {
            return Err(Refusal::Revoked);
        }
        let (user, groups, options) = match self.keys.find(key.key_data()) {
            Some(listed) => (
                listed.user.clone(),
                Vec::new(),
                // As sshd does: the first line that has no objection.
                Options::first_of(&listed.options, source, now)?.clone(),
            ),
            None => {
                let command = self.command.as_ref().ok_or(Refusal::KeyUnknown)?;
                let answer = command.ask(key).await?.ok_or(Refusal::KeyUnknown)?;
                answer.options.check(source, now)?;
                (answer.user, answer.groups, answer.options)
            }
        };
        Ok(Login {
            identity: self.identity(&user, groups)?,
            proof: Proof::Key {
                fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            },
            caps: options.caps,
            expires: options.expires,
        })
    }

    /// Who has proven to have the key that is certified here, and what they may.
    ///
    /// # Errors
    /// It lets nobody in.
    pub fn certificate(
        &self,
        certificate: &Certificate,
        source: IpAddr,
        now: SystemTime,
    ) -> Result<Login, Refusal> {
        let holder = certificate::check(
            certificate,
            &self.authorities,
            self.longest_certificate,
            source,
            now,
        )?;
        if self.revoked.certificate(certificate) {
            return Err(Refusal::Revoked);
        }
        let fingerprint = |key: &russh::keys::ssh_key::public::KeyData| {
            key.fingerprint(HashAlg::Sha256).to_string()
        };
        Ok(Login {
            identity: self.identity(&holder.user, holder.groups)?,
            proof: Proof::Certificate {
                fingerprint: fingerprint(certificate.public_key()),
                authority: fingerprint(certificate.signature_key()),
                serial: certificate.serial(),
                key_id: certificate.key_id().to_owned(),
            },
            caps: holder.caps,
            expires: Some(holder.expires),
        })
    }

    /// Whether a login would still be let in, by a new configuration or at a later time. What a keys command said isn't
    /// asked again, and neither is where somebody comes from.
    ///
    /// # Errors
    /// It wouldn't.
    pub fn recheck(&self, login: &Login, now: SystemTime) -> Result<(), Refusal> {
        if login.expires.is_some_and(|end| end <= now) {
            return Err(Refusal::Expired);
        }
        match &login.proof {
            Proof::Key { fingerprint } => {
                if self.revoked.fingerprint(fingerprint) {
                    return Err(Refusal::Revoked);
                }
                match self.keys.of(fingerprint) {
                    Some(listed) => {
                        let user = format!("{}{}", self.user_prefix, listed.user);
                        match user == login.identity.user {
                            true => Ok(()),
                            false => Err(Refusal::KeyUnknown),
                        }
                    }
                    None if self.command.is_some() => Ok(()),
                    None => Err(Refusal::KeyUnknown),
                }
            }
            Proof::Certificate {
                fingerprint,
                authority,
                serial,
                key_id,
            } => {
                let is_known = |known: &Authority| known.fingerprint() == *authority;
                if !self.authorities.iter().any(is_known) {
                    return Err(Refusal::AuthorityUnknown);
                }
                let is_revoked = self.revoked.fingerprint(fingerprint)
                    || self.revoked.fingerprint(authority)
                    || self.revoked.issued(authority, *serial, key_id);
                match is_revoked {
                    true => Err(Refusal::Revoked),
                    false => Ok(()),
                }
            }
        }
    }

    fn identity(&self, user: &str, mut groups: Vec<String>) -> Result<Identity, Refusal> {
        let name = format!("{}{user}", self.user_prefix);
        if !is_person(&name) {
            return Err(Refusal::Identity);
        }
        for group in self.groups.get(user).into_iter().flatten() {
            if !groups.contains(group) {
                groups.push(group.clone());
            }
        }
        Ok(Identity { user: name, groups })
    }
}

/// What can be in a header of a request and can't be taken for something else in a log.
pub(super) fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b',')
}

/// Why something is no [name](is_name).
pub(super) fn no_name(name: &str) -> String {
    format!(
        "`{}` can be no user or group: a name has visible ASCII characters but no `,`, up to {LONGEST_NAME}",
        printable(name, LONGEST_NAME)
    )
}

/// A name that somebody may have by a credential: none of those that Kubernetes keeps for itself.
fn is_person(name: &str) -> bool {
    is_name(name) && !name.to_ascii_lowercase().starts_with("system:")
}

#[cfg(test)]
mod tests;
