//! Who may log in to a gateway that nobody has configured: whoever runs it, by the keys that they have anyway.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use russh::keys::{Algorithm, HashAlg, PrivateKey, PublicKey, ssh_key};

use super::access::{Caps, Identity, Login, Proof};

/// Keys that may log in, all of them as the one person whose machine this is.
#[derive(Debug, Default)]
pub struct Keys {
    user: String,
    /// By their public part alone: comments don't count.
    known: HashMap<Vec<u8>, PublicKey>,
}

impl Keys {
    /// No keys yet. `user` is what the person is called.
    #[must_use]
    pub fn new(user: &str) -> Self {
        Self {
            user: user.to_owned(),
            known: HashMap::new(),
        }
    }

    /// The keys of a home folder, `~/.ssh/id_*.pub`. Blocks. What isn't there or can't be read has no keys.
    #[must_use]
    pub fn of_home(user: &str, home: &Path) -> Self {
        let mut keys = Self::new(user);
        let folder = home.join(".ssh");
        let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_key = name
                .to_str()
                .is_some_and(|name| name.starts_with("id_") && name.ends_with(".pub"));
            if is_key && let Ok(key) = PublicKey::from_openssh(read(&entry.path()).trim()) {
                keys.add(key);
            }
        }
        keys
    }

    /// Lets one more in.
    pub fn add(&mut self, key: PublicKey) {
        if let Ok(bytes) = key.to_bytes() {
            self.known.insert(bytes, key);
        }
    }

    /// Whether nobody can log in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether this key may log in, once it is proven.
    #[must_use]
    pub fn has(&self, key: &PublicKey) -> bool {
        key.to_bytes()
            .is_ok_and(|bytes| self.known.contains_key(&bytes))
    }

    /// Who logs in by this key, which was proven.
    #[must_use]
    pub fn login(&self, key: &PublicKey) -> Option<Login> {
        self.has(key).then(|| Login {
            identity: Identity {
                user: self.user.clone(),
                groups: Vec::new(),
            },
            proof: Proof::Key {
                fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            },
            caps: Caps::all(),
            expires: None,
        })
    }
}

/// Makes a key for somebody who has none, in this file, and returns its public part. Blocks.
///
/// # Errors
/// It can't be written.
pub fn one_time_key(path: &Path) -> io::Result<PublicKey> {
    let key = new_key()?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write(path, &key)?;
    Ok(key.public_key().clone())
}

fn new_key() -> io::Result<PrivateKey> {
    let mut rng = russh::keys::key::safe_rng();
    PrivateKey::random(&mut rng, Algorithm::Ed25519).map_err(io::Error::other)
}

/// Writes a new file that only its owner can read.
fn write(path: &Path, key: &PrivateKey) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let text = key.to_openssh(ssh_key::LineEnding::LF);
    let text = text.map_err(io::Error::other)?;
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}
