//! What a sink writes to: a file, a socket, standard output.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use super::chain::{Link, NotALog, resume};
use super::line::MAX_LINE;

/// How often a file is brought to the disk at most, and looked for under its name.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// Standard output, of which nobody can tell whether anybody keeps it.
    Stdout,
    /// Appended to a file, made with mode 0600. A file that was moved away is made anew within a second, so any rotation
    /// will do.
    File(PathBuf),
    /// A unix socket that somebody else listens on. Connected to again when it was closed; what the listener had
    /// received and not read is lost then.
    Socket(PathBuf),
}

impl SinkKind {
    /// `stdout`, `file` or `socket`: a metric's label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::File(_) => "file",
            Self::Socket(_) => "socket",
        }
    }
}

/// Why a sink could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system said no.
    #[error("audit log {}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a device or a pipe.
    #[error("audit log {}: not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Two chains can't be in one file.
    #[error("audit log {}: another process writes to it; give each gateway a file of its own", .0.display())]
    Locked(PathBuf),
    /// The file holds something else.
    #[error("audit log {}: {source}", path.display())]
    NotALog {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: NotALog,
    },
    /// Standard output is closed, or no thread can be had.
    #[error("audit log: {0}")]
    Start(#[from] io::Error),
}

/// An open sink.
pub(super) enum Target {
    Stdout(File),
    File(LogFile),
    Socket {
        path: PathBuf,
        stream: Option<UnixStream>,
    },
}

impl Target {
    /// Opens it; for a file also where its chain goes on.
    pub(super) fn open(kind: &SinkKind) -> Result<(Self, Option<Link>), OpenError> {
        Ok(match kind {
            SinkKind::Stdout => {
                let stdout = io::stdout().as_fd().try_clone_to_owned()?;
                (Self::Stdout(stdout.into()), None)
            }
            SinkKind::File(path) => {
                let (file, link) = LogFile::open(path)?;
                (Self::File(file), Some(link))
            }
            SinkKind::Socket(path) => {
                let stream = connect(path).map_err(|source| OpenError::Io {
                    path: path.clone(),
                    source,
                })?;
                let socket = Self::Socket {
                    path: path.clone(),
                    stream: Some(stream),
                };
                (socket, None)
            }
        })
    }

    /// Takes bytes from the front.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::File(log) => log.write(bytes),
            Self::Socket { path, stream } => {
                let connected = match stream {
                    Some(connected) => connected,
                    None => stream.insert(connect(path)?),
                };
                let written = connected.write(bytes);
                if written.as_ref().is_err_and(|error| !may_go_on(error)) {
                    *stream = None;
                }
                written.map_err(|error| in_words(path, &error))
            }
        }
    }

    /// After an error: whether the line that was under way has to be sent from its beginning.
    pub(super) const fn starts_over(&self) -> bool {
        matches!(self, Self::Socket { stream: None, .. })
    }

    /// When [`sync`](Self::sync) has something to do.
    pub(super) fn sync_at(&self) -> Option<Instant> {
        match self {
            Self::File(log) if log.dirty => Some(log.synced + SYNC_EVERY),
            _ => None,
        }
    }

    /// Brings a file to the disk if it is time, or at once.
    pub(super) fn sync(&mut self, now: Instant, at_once: bool) -> io::Result<()> {
        match self {
            Self::File(log) if log.dirty && (at_once || now >= log.synced + SYNC_EVERY) => {
                log.sync(now)
            }
            _ => Ok(()),
        }
    }
}

/// A file that only this process appends to.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Written to since it was last brought to the disk.
    dirty: bool,
    synced: Instant,
}

impl LogFile {
    fn open(path: &Path) -> Result<(Self, Link), OpenError> {
        let failed = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = open_to_append(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(OpenError::NotAFile(path.to_owned()));
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Locked(path.to_owned())),
            locked => locked.map_err(|error| failed(error.into()))?,
        }
        // Two lines, so that a line cut off still has its predecessor.
        let window = 2 * MAX_LINE as u64;
        let begin = metadata.len().saturating_sub(window);
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(begin)).map_err(failed)?;
        (&file)
            .take(window)
            .read_to_end(&mut tail)
            .map_err(failed)?;
        let (link, torn) = resume(&tail, begin == 0).map_err(|source| OpenError::NotALog {
            path: path.to_owned(),
            source,
        })?;
        if torn {
            file.write_all(b"\n").map_err(failed)?;
        }
        let log = Self {
            path: path.to_owned(),
            file,
            dirty: false,
            synced: Instant::now(),
        };
        Ok((log, link))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.dirty = true;
        self.file
            .write(bytes)
            .map_err(|error| in_words(&self.path, &error))
    }

    fn sync(&mut self, now: Instant) -> io::Result<()> {
        self.synced = now; // also when it fails: not more often then either
        self.file
            .sync_data()
            .and_then(|()| self.follow_name())
            .map_err(|error| in_words(&self.path, &error))?;
        self.dirty = false;
        Ok(())
    }

    /// Opens the file anew if another, or none, has its name now. All that was written is in the old one.
    fn follow_name(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        match std::fs::symlink_metadata(&self.path) {
            Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = open_to_append(&self.path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        self.file = file;
        Ok(())
    }
}

/// `O_NONBLOCK`, so that a pipe of that name is an error and no wait; a regular file doesn't care.
fn open_to_append(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path).map_err(|error| in_words(path, &error))?;
    stream.set_write_timeout(Some(super::sink::STALL))?;
    Ok(stream)
}

/// Whether a socket that gave this error is still whole: its reader was only too slow.
fn may_go_on(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

fn in_words(path: &Path, error: &io::Error) -> io::Error {
    let what = match error.kind() {
        io::ErrorKind::WouldBlock => "its reader takes nothing".to_owned(),
        io::ErrorKind::Interrupted => return error.kind().into(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("{}: {what}", path.display()))
}
