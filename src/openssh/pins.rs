//! Host keys of pods, each pinned when it was first seen.
//!
//! A file like ssh's known_hosts, with the pod's uid in the place of a host's name, so that `ssh-keygen -l`, `-F` and
//! `-R` work on it. The comment is the pod's name.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::edit::private_folder;
use crate::cluster::Environment;

/// Whose key it is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Holder {
    /// What tells it from all others: the pod's uid; where the role can't see that, its name, namespace and API server.
    name: String,
    /// What people know it by.
    comment: String,
}

/// A public key in ssh's words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostKey {
    kind: String,
    /// base64
    key: String,
}

/// Why there are no pins.
#[derive(Debug, Error)]
pub enum Error {
    /// The file's trouble.
    #[error("cannot use the pinned host keys in `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// ssh's words are not as expected.
    #[error("what ssh says is no host key")]
    NoKey,
}

/// What ssh is told, and what people are.
#[derive(Debug, Eq, PartialEq)]
pub enum Answer {
    /// These keys are the pod's.
    Pinned(Vec<HostKey>),
    /// This one is from now on.
    New(HostKey),
    /// These are, and the one that was offered isn't among them.
    Other(Vec<HostKey>),
}

/// The pinned keys of one user.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
}

impl Holder {
    /// The pod of this uid; without one, the pod of this name on this API server.
    ///
    /// A uid is as good as the API server that tells it, and so is the way to the pod. One that couldn't stand in the file
    /// counts as none.
    pub fn new(namespace: &str, pod: &str, uid: Option<&str>, server: &str) -> Self {
        let is_plain = |uid: &&str| {
            (1..=64).contains(&uid.len())
                && uid
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let name = match uid.filter(is_plain) {
            Some(uid) => uid.to_owned(),
            None => {
                let plain = |c: char| match c {
                    'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | ':' => c,
                    _ => '_',
                };
                let server: String = server.chars().map(plain).collect();
                format!("{pod}.{namespace}.{server}")
            }
        };
        Self {
            name,
            comment: format!("{namespace}/{pod}"),
        }
    }

    /// The name in the file.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What people know it by: `shop/web`.
impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.comment.fmt(f)
    }
}

impl HostKey {
    /// A key as ssh's `%t` and `%K` say it; none for a certificate, which only an authority vouches for.
    ///
    /// # Errors
    /// They don't belong together, or are no key.
    pub fn from_ssh(kind: &str, key: &str) -> Result<Option<Self>, Error> {
        if kind.ends_with("-cert-v01@openssh.com") {
            return Ok(None);
        }
        let blob = STANDARD.decode(key).map_err(|_| Error::NoKey)?;
        // RFC 4253, 6.6: a key begins with the name of its kind
        let named = blob.split_first_chunk().and_then(|(length, rest)| {
            rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)
        });
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.@_".contains(&byte);
        match named == Some(kind.as_bytes()) && kind.bytes().all(is_plain) {
            true => Ok(Some(Self {
                kind: kind.to_owned(),
                key: key.to_owned(),
            })),
            false => Err(Error::NoKey),
        }
    }

    /// A line of known_hosts that says it for this host.
    pub fn line(&self, host: &str) -> String {
        format!("{host} {} {}\n", self.kind, self.key)
    }
}

impl Pins {
    /// The user's: `kpf/known_hosts` in `XDG_STATE_HOME`, else in `~/.local/state`.
    ///
    /// # Errors
    /// There is no home directory.
    pub fn of_user(environment: &Environment) -> io::Result<Self> {
        let path = folder(environment)?.join("known_hosts");
        Ok(Self { path })
    }

    /// Where they are kept.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys of a pod, whatever it offers. Blocks.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn known(&self, holder: &Holder) -> Result<Vec<HostKey>, Error> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Ok(of_holder(&text, holder)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// The answer to a pod that offers this key: the first one is pinned. Of two at once, one is the first. Blocks.
    ///
    /// # Errors
    /// The file can't be read or written.
    pub fn meet(&self, holder: &Holder, offered: &HostKey) -> Result<Answer, Error> {
        self.meet_in_file(holder, offered)
            .map_err(|source| self.failed(source))
    }

    fn meet_in_file(&self, holder: &Holder, offered: &HostKey) -> io::Result<Answer> {
        private_folder(self.path.parent().unwrap_or_else(|| Path::new(".")))?;
        let mut options = File::options();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let mut file = options.open(&self.path)?;
        // until it is closed
        file.lock()?;
        let mut text = String::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_string(&mut text)?;
        let known = of_holder(&text, holder);
        if known.contains(offered) {
            return Ok(Answer::Pinned(known));
        }
        if !known.is_empty() {
            return Ok(Answer::Other(known));
        }
        let before = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        let HostKey { kind, key } = offered;
        let Holder { name, comment } = holder;
        file.write_all(format!("{before}{name} {kind} {key} {comment}\n").as_bytes())?;
        file.sync_all()?;
        Ok(Answer::New(offered.clone()))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Io {
            path: self.path.clone(),
            source,
        }
    }
}

fn of_holder(text: &str, holder: &Holder) -> Vec<HostKey> {
    let lines = text.lines().map(|line| line.split_whitespace());
    lines
        .filter_map(|mut words| {
            (words.next()? == holder.name).then_some(())?;
            Some(HostKey {
                kind: words.next()?.to_owned(),
                key: words.next()?.to_owned(),
            })
        })
        .collect()
}

/// What kpf keeps from one run to the next.
pub(super) fn folder(environment: &Environment) -> io::Result<PathBuf> {
    let folder = environment.state_folder();
    folder.ok_or_else(|| io::Error::other("there is no home directory: set HOME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str, seed: u8) -> HostKey {
        let mut blob = u32::try_from(kind.len()).unwrap().to_be_bytes().to_vec();
        blob.extend(kind.as_bytes());
        blob.push(seed);
        HostKey::from_ssh(kind, &STANDARD.encode(blob))
            .unwrap()
            .unwrap()
    }

    #[test]
    fn the_first_key_is_pinned_and_no_other_is() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins {
            path: folder.path().join("state/kpf/known_hosts"),
        };
        let one = Holder::new("shop", "web-0", Some("u-1"), "https://h");
        let next = Holder::new("shop", "web-0", Some("u-2"), "https://h");
        let (first, other) = (key("ssh-ed25519", 1), key("ssh-ed25519", 2));
        let of_another_kind = key("ssh-rsa", 1);
        assert_eq!(pins.known(&one).unwrap(), []);
        assert_eq!(pins.meet(&one, &first).unwrap(), Answer::New(first.clone()));
        assert_eq!(
            pins.meet(&one, &first).unwrap(),
            Answer::Pinned(vec![first.clone()])
        );
        for wrong in [&other, &of_another_kind] {
            assert_eq!(
                pins.meet(&one, wrong).unwrap(),
                Answer::Other(vec![first.clone()])
            );
        }
        // A pod of the same name is another pod.
        assert_eq!(
            pins.meet(&next, &other).unwrap(),
            Answer::New(other.clone())
        );
        assert_eq!(pins.known(&one).unwrap(), std::slice::from_ref(&first));
        let text = std::fs::read_to_string(pins.path()).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.starts_with("u-1 ssh-ed25519 ") && text.contains(" shop/web-0\n"),
            "{text}"
        );
        assert_eq!(
            first.line("web.shop.kpf"),
            format!("web.shop.kpf ssh-ed25519 {}\n", first.key)
        );
    }

    #[test]
    fn a_line_that_was_cut_off_harms_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known_hosts");
        std::fs::write(&path, "u-1 ssh-ed25519").unwrap();
        let pins = Pins { path };
        let one = Holder::new("shop", "web", Some("u-1"), "s");
        let first = key("ssh-ed25519", 1);
        assert_eq!(pins.meet(&one, &first).unwrap(), Answer::New(first.clone()));
        assert_eq!(pins.known(&one).unwrap(), [first]);
    }

    #[test]
    fn no_word_gets_into_another_column() {
        let holder = Holder::new(
            "shop",
            "web",
            Some("u ssh-rsa AAAA"),
            "https://[::1]:6443/a b",
        );
        assert_eq!(holder.name(), "web.shop.https:___::1_:6443_a_b");
        assert_eq!(Holder::new("s", "p", Some(""), "x").name(), "p.s.x");
        assert!(HostKey::from_ssh("ssh-rsa", "not base64!").is_err());
        let HostKey { key, .. } = key("ssh-ed25519", 1);
        assert!(HostKey::from_ssh("ssh-rsa", &key).is_err());
        assert!(HostKey::from_ssh("NONE", "NONE").is_err());
        let certificate = HostKey::from_ssh("ssh-ed25519-cert-v01@openssh.com", &key);
        assert_eq!(certificate.unwrap(), None);
    }
}
