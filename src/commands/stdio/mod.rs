//! stdin, stdout and stderr as asynchronous streams.
//!
//! Pipes, sockets and terminals are polled like any socket: no thread hops, and a read can be given up. Files can't be
//! polled, and never make one wait; they, and platforms without this, go through tokio's blocking thread.
//!
//! O_NONBLOCK belongs to the open file, which other processes may share: a shell whose terminal became non-blocking
//! breaks. So pipes and terminals are opened anew where the system allows it (Linux, by `/proc/self/fd`), sockets are
//! used with MSG_DONTWAIT, and only what is left gets the flag, until we are done.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

#[cfg(unix)]
mod polled;

/// Takes stdin and stdout. They must not be used otherwise from now on.
pub(super) fn open() -> io::Result<(Input, Output)> {
    Ok((Input::open()?, Output::stdout()?))
}

/// stdin.
pub(super) struct Input(Source);

enum Source {
    #[cfg(unix)]
    Polled(polled::Polled),
    Blocking(tokio::io::Stdin),
}

/// stdout or stderr.
pub(super) struct Output(Sink);

enum Sink {
    #[cfg(unix)]
    Polled(std::sync::Arc<polled::Polled>),
    Stdout(tokio::io::Stdout),
    Stderr(tokio::io::Stderr),
}

impl Input {
    /// Takes stdin. It must not be used otherwise from now on.
    pub(super) fn open() -> io::Result<Self> {
        #[cfg(unix)]
        if let Some(polled) = polled::Polled::open(io::stdin(), polled::Direction::Read)? {
            return Ok(Self(Source::Polled(polled)));
        }
        Ok(Self(Source::Blocking(tokio::io::stdin())))
    }
}

impl Output {
    /// Takes stdout. It must not be used otherwise from now on.
    pub(super) fn stdout() -> io::Result<Self> {
        #[cfg(unix)]
        if let Some(polled) = polled::Polled::open(io::stdout(), polled::Direction::Write)? {
            return Ok(Self(Sink::Polled(polled.into())));
        }
        Ok(Self(Sink::Stdout(tokio::io::stdout())))
    }

    /// Takes stderr. Lines of our own may still be printed between two writes.
    pub(super) fn stderr() -> io::Result<Self> {
        #[cfg(unix)]
        if let Some(polled) = polled::Polled::open(io::stderr(), polled::Direction::Write)? {
            return Ok(Self(Sink::Polled(polled.into())));
        }
        Ok(Self(Sink::Stderr(tokio::io::stderr())))
    }

    /// Waits until nobody reads it any more, where that can be told. Cancel-safe.
    pub(super) fn gone(&self) -> impl Future<Output = ()> + use<> {
        #[cfg(unix)]
        let polled = match &self.0 {
            Sink::Polled(polled) => Some(polled.clone()),
            Sink::Stdout(_) | Sink::Stderr(_) => None,
        };
        async move {
            #[cfg(unix)]
            if let Some(polled) = polled {
                polled.gone().await;
                return;
            }
            std::future::pending().await
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            #[cfg(unix)]
            Source::Polled(polled) => polled.poll_read(cx, buf),
            Source::Blocking(stdin) => Pin::new(stdin).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Output {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().0 {
            #[cfg(unix)]
            Sink::Polled(polled) => polled.poll_write(cx, buf),
            Sink::Stdout(stdout) => Pin::new(stdout).poll_write(cx, buf),
            Sink::Stderr(stderr) => Pin::new(stderr).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().0 {
            #[cfg(unix)]
            Sink::Polled(_) => Poll::Ready(Ok(())),
            Sink::Stdout(stdout) => Pin::new(stdout).poll_flush(cx),
            Sink::Stderr(stderr) => Pin::new(stderr).poll_flush(cx),
        }
    }

    /// Only flushes: stdout ends with the process.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
