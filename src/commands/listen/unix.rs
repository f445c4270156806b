//! Local unix sockets: for their owner only, and gone when kpf is.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream};

use super::BACKLOG;

/// A socket that is listened on. Dropping it removes its file, unless that is somebody else's by now.
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Of the file. No other file can have it while the listener holds it.
    identity: (u64, u64),
}

impl Socket {
    /// Listens at `path`, with mode 0600 from the first moment. A socket that nobody listens on is replaced.
    ///
    /// # Errors
    /// Why it can't, without the path.
    pub(super) fn bind(path: &Path) -> Result<Self, String> {
        remove_stale(path)?;
        let bound = || -> io::Result<Self> {
            let socket = bind_for_owner(path)?;
            let identity = identity(&fs::symlink_metadata(path)?);
            let listening = || {
                socket.listen(BACKLOG)?;
                UnixListener::from_std(socket.into())
            };
            match listening() {
                Ok(listener) => Ok(Self {
                    listener,
                    path: path.to_owned(),
                    identity,
                }),
                Err(error) => {
                    fs::remove_file(path)?;
                    Err(error)
                }
            }
        };
        bound().map_err(|error| error.to_string())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept().await?;
        Ok(stream)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let now = fs::symlink_metadata(&self.path);
        if now.is_ok_and(|now| identity(&now) == self.identity) {
            // Whoever finds it replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Makes room for a socket: what a program that was killed has left is removed, and nothing else.
fn remove_stale(path: &Path) -> Result<(), String> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(there) => there,
    };
    if !there.file_type().is_socket() {
        return Err("it exists and is no socket: remove it".to_owned());
    }
    match probe(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        // One that would have to wait is listened on as well, as is one of another type.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(error.to_string()),
        Ok(()) | Err(_) => {
            return Err("another program listens there: end it".to_owned());
        }
    }
    let now = fs::symlink_metadata(path);
    if now.is_ok_and(|now| identity(&now) == identity(&there)) {
        fs::remove_file(path).map_err(|error| format!("cannot replace it: {error}"))?;
    }
    Ok(())
}

/// Whether somebody listens. Doesn't wait.
fn probe(path: &Path) -> io::Result<()> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

fn bind_for_owner(path: &Path) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    let owner = Mode::RUSR | Mode::WUSR;
    // Linux gives the file the mode that the socket has.
    #[cfg(target_os = "linux")]
    {
        rustix::fs::fchmod(&socket, owner)?;
        socket.bind(&address)?;
    }
    // Others have nothing but the mask, which is the whole process's: what else it makes meanwhile is its owner's alone.
    #[cfg(not(target_os = "linux"))]
    {
        let before = rustix::process::umask(!owner & Mode::from_raw_mode(0o777));
        let bound = socket.bind(&address);
        rustix::process::umask(before);
        bound?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::{UnixDatagram, UnixListener as Other};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn it_is_its_owners_alone_and_ends_with_us() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        let _client = UnixStream::connect(&path).await.unwrap();
        socket.accept().await.unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    /// Between bind and listen there is a file already: it must have its mode.
    #[test]
    fn it_is_never_anybody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let _bound = bind_for_owner(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[tokio::test]
    async fn what_nobody_listens_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        drop(Other::bind(&path).unwrap());
        assert!(path.exists());
        let socket = Socket::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).await.unwrap();
        socket.accept().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_in_use_or_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let living = Other::bind(at("living")).unwrap();
        let datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
        fs::write(at("file"), "precious").unwrap();
        fs::create_dir(at("folder")).unwrap();
        std::os::unix::fs::symlink(at("living"), at("link")).unwrap();
        for (name, part) in [
            ("living", "another program listens there"),
            ("datagrams", "another program listens there"),
            ("file", "is no socket"),
            ("folder", "is no socket"),
            ("link", "is no socket"),
            ("nowhere/x", "No such file"),
        ] {
            let Err(reason) = Socket::bind(&at(name)) else {
                panic!("{name}");
            };
            assert!(reason.contains(part), "{name}: {reason}");
        }
        assert_eq!(fs::read(at("file")).unwrap(), b"precious");
        assert!(at("folder").is_dir());
        UnixStream::connect(at("living")).await.unwrap();
        drop((living, datagrams));
    }

    #[tokio::test]
    async fn what_somebody_else_has_put_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let socket = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = Other::bind(&path).unwrap();
        drop(socket);
        UnixStream::connect(&path).await.unwrap();
    }
}
