//! A pipe, socket or terminal by its readiness, on Unix.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

/// A pipe, socket or terminal that never makes a call wait.
pub(super) struct Polled {
    fd: AsyncFd<OwnedFd>,
    socket: bool,
    /// The flags to restore where O_NONBLOCK had to be set on an open file that others may share.
    restore: Option<OFlags>,
}

impl Polled {
    /// `None` for what can't be polled.
    pub(super) fn open(fd: impl AsFd, direction: Direction) -> io::Result<Option<Self>> {
        let fd = fd.as_fd();
        let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
        let socket = kind == FileType::Socket;
        let pollable = socket || matches!(kind, FileType::Fifo | FileType::CharacterDevice);
        if !pollable {
            return Ok(None);
        }
        let (fd, restore) = match reopen(&fd, direction).filter(|_| !socket) {
            Some(own) => (own, None),
            None => {
                let flags = fcntl_getfl(fd)?;
                let shared = !socket && !flags.contains(OFlags::NONBLOCK);
                if shared {
                    fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
                }
                (fd.try_clone_to_owned()?, shared.then_some(flags))
            }
        };
        let interest = match direction {
            Direction::Read => Interest::READABLE,
            // The reader's going away shows as an error.
            Direction::Write => Interest::WRITABLE | ERROR,
        };
        #[expect(
            deprecated,
            reason = "what replaces it is `unsafe` and wants an fd that stays open: this one is owned"
        )]
        let registered = AsyncFd::try_with_interest(fd, interest);
        match registered {
            Ok(fd) => Ok(Some(Self {
                fd,
                socket,
                restore,
            })),
            // /dev/null and its like.
            Err(error) => {
                let (fd, _) = error.into_parts();
                if let Some(flags) = restore {
                    fcntl_setfl(&fd, flags)?;
                }
                Ok(None)
            }
        }
    }

    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            let space = buf.initialize_unfilled();
            let read = ready.try_io(|fd| {
                Ok(if self.socket {
                    recv(fd, space, RecvFlags::DONTWAIT)?.0
                } else {
                    rustix::io::read(fd, space)?
                })
            });
            match read {
                Ok(Ok(length)) => {
                    buf.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // A terminal whose other end has hung up.
                Ok(Err(error)) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.fd.poll_write_ready(cx))?;
            let written = ready.try_io(|fd| {
                Ok(if self.socket {
                    send(fd, buf, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?
                } else {
                    rustix::io::write(fd, buf)?
                })
            });
            if let Ok(written) = written {
                return Poll::Ready(written);
            }
        }
    }

    pub(super) async fn gone(&self) {
        // Not cleared: once gone, always gone. An error of the reactor itself can't be waited for.
        if self.fd.ready(ERROR).await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        if let Some(flags) = self.restore {
            // Nothing to be done about a failure.
            let _ = fcntl_setfl(&self.fd, flags);
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const ERROR: Interest = Interest::ERROR;
/// kqueue tells it as the end of writing.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const ERROR: Interest = Interest::WRITABLE;

/// The same pipe or terminal as an open file of our own.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reopen(fd: &impl AsFd, direction: Direction) -> Option<OwnedFd> {
    let access = match direction {
        Direction::Read => OFlags::RDONLY,
        Direction::Write => OFlags::WRONLY,
    };
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    open(path, flags, Mode::empty()).ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reopen(_: &impl AsFd, _: Direction) -> Option<OwnedFd> {
    None
}
