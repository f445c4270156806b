//! The terminal that a command in a pod is typed at: raw for as long as it lasts, and its size.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;

use crate::exec::Size;

/// stdin's terminal in raw mode: every key goes to the pod, Ctrl-C too. Dropping this gives it back as it was, on
/// whichever way out.
pub(super) struct Raw {
    #[cfg(unix)]
    terminal: std::os::fd::OwnedFd,
    #[cfg(unix)]
    saved: rustix::termios::Termios,
}

impl Raw {
    /// # Errors
    /// stdin is no terminal, or one that is gone.
    #[cfg(unix)]
    pub(super) fn enter() -> io::Result<Self> {
        use std::os::fd::AsFd as _;

        Self::of(io::stdin().as_fd().try_clone_to_owned()?)
    }

    #[cfg(unix)]
    fn of(terminal: std::os::fd::OwnedFd) -> io::Result<Self> {
        use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

        let saved = tcgetattr(&terminal)?;
        let mut raw = saved.clone();
        raw.make_raw();
        // What was typed already counts.
        tcsetattr(&terminal, OptionalActions::Now, &raw)?;
        Ok(Self { terminal, saved })
    }

    #[cfg(not(unix))]
    pub(super) fn enter() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Whether there is such a mode here.
    pub(super) fn is_possible() -> bool {
        cfg!(unix)
    }
}

#[cfg(unix)]
impl Drop for Raw {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};

        // A terminal that has hung up needs nothing.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.saved);
    }
}

/// The terminal's size now, and again whenever it has changed.
pub(super) struct Sizes {
    #[cfg(unix)]
    changed: tokio::signal::unix::Signal,
    first: bool,
    last: Option<Size>,
}

impl Sizes {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            changed: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())?,
            first: true,
            last: None,
        })
    }

    /// The size of what the output goes to, else of what the input comes from.
    #[cfg(unix)]
    fn now() -> Option<Size> {
        use rustix::termios::tcgetwinsize;

        let size = |size: rustix::termios::Winsize| Size::new(size.ws_col, size.ws_row);
        let stdout = tcgetwinsize(io::stdout()).ok().and_then(size);
        stdout.or_else(|| tcgetwinsize(io::stdin()).ok().and_then(size))
    }
}

impl Stream for Sizes {
    type Item = Size;

    #[cfg(unix)]
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Size>> {
        loop {
            if !std::mem::take(&mut self.first)
                && std::task::ready!(self.changed.poll_recv(cx)).is_none()
            {
                return Poll::Ready(None);
            }
            // A terminal that is resized to nothing keeps its size in the pod.
            let size = Self::now();
            if size.is_some() && size != self.last {
                self.last = size;
                return Poll::Ready(size);
            }
        }
    }

    #[cfg(not(unix))]
    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Size>> {
        Poll::Ready(None)
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, tcgetattr};

    use super::*;

    /// Both ends of a new terminal.
    fn terminal() -> (OwnedFd, OwnedFd) {
        let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&outer).unwrap();
        unlockpt(&outer).unwrap();
        let name = ptsname(&outer, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let inner = rustix::fs::open(name, flags, Mode::empty()).unwrap();
        (outer, inner)
    }

    /// Item 110 of the conformance list, as far as it can be had within one process.
    #[test]
    fn a_terminal_is_given_back_on_every_way_out() {
        let (_outer, inner) = terminal();
        let modes = || tcgetattr(&inner).unwrap().local_modes;
        let before = modes();
        assert!(before.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
        let enter = || Raw::of(inner.try_clone().unwrap()).unwrap();
        {
            let _raw = enter();
            let inside = modes();
            assert!(!inside.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
        }
        assert_eq!(modes(), before);
        let panicked = std::panic::catch_unwind(|| {
            let _raw = enter();
            panic!("while the terminal is raw");
        });
        assert!(panicked.is_err());
        assert_eq!(modes(), before);
    }
}
