//! Keys in a file. It appears whole or not at all, and nobody overwrites another's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{Error, Kept};

/// Longer than any keys and certificates are; so that a wrong path doesn't fill the memory.
const LONGEST: u64 = 1 << 20;

pub(super) fn load(path: &Path) -> Result<Kept, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Missing {
                place: path.display().to_string(),
            });
        }
        Err(error) => return Err(wrong(path, error)),
    };
    let metadata = file.metadata().map_err(|error| wrong(path, error))?;
    let mode = metadata.mode() & 0o777;
    // As sshd: a group may read what belongs to somebody else, for that is how Kubernetes mounts a Secret with an
    // fsGroup.
    let is_ours = metadata.uid() == rustix::process::getuid().as_raw();
    if mode & 0o007 != 0 || is_ours && mode & 0o077 != 0 {
        return Err(Error::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let keys = read(file).map_err(|error| wrong(path, error))?;
    let beside = certificates(path);
    let certificates = match File::open(&beside).and_then(read) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(wrong(&beside, error)),
    };
    Ok(Kept { keys, certificates })
}

/// Does nothing if there is one already.
pub(super) fn create(path: &Path, keys: &str) -> Result<(), Error> {
    let folder = folder(path);
    fs::create_dir_all(folder).map_err(|error| wrong(path, error))?;
    let written = Written::new(path, keys, 0o600).map_err(|error| wrong(path, error))?;
    match fs::hard_link(&written.path, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(wrong(path, error)),
        _ => sync(folder).map_err(|error| wrong(path, error)),
    }
}

/// Replaces both texts. Others who do the same wait for it.
pub(super) fn change(
    path: &Path,
    edit: &impl Fn(&Kept) -> Result<Kept, Error>,
) -> Result<(), Error> {
    let folder = folder(path);
    let lock = File::open(folder).map_err(|error| wrong(path, error))?;
    lock.lock().map_err(|error| wrong(path, error))?;
    let old = load(path)?;
    let new = edit(&old)?;
    // The certificates first: without its own, an old key is only less than it could be; a key that is gone and has one
    // would be an error.
    if new.certificates != old.certificates {
        let beside = certificates(path);
        replace(&beside, &new.certificates, 0o644).map_err(|error| wrong(&beside, error))?;
    }
    replace(path, &new.keys, 0o600).map_err(|error| wrong(path, error))?;
    sync(folder).map_err(|error| wrong(path, error))
}

fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let written = Written::new(path, text, mode)?;
    fs::rename(&written.path, path)
}

/// A file beside another, removed unless it was renamed.
struct Written {
    path: PathBuf,
}

impl Written {
    fn new(beside: &Path, text: &str, mode: u32) -> io::Result<Self> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(io::Error::other)?;
        let mut name = beside.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{:016x}", u64::from_ne_bytes(random)));
        let path = folder(beside).join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true) // O_EXCL
            .mode(mode)
            .open(&path)?;
        let written = Self { path };
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        Ok(written)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // gone already if it was renamed
    }
}

fn certificates(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-cert.pub");
    name.into()
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn read(file: File) -> io::Result<String> {
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn wrong(path: &Path, error: io::Error) -> Error {
    Error::File {
        path: path.to_owned(),
        error,
    }
}
