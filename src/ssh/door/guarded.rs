//! A stream with a kill switch. The SSH engine has no limit on the time before a login and no way to be stopped, so the
//! stream under it fails when the time is over, or when it is told to.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

use super::ident::Ident;
use super::permit::Permit;

/// Why a guarded stream fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The time for a login is over.
    #[error("no login in time")]
    Grace,
    /// The client doesn't speak SSH.
    #[error("not SSH")]
    NotSsh,
    /// [`Switch::kill`].
    #[error("closed by the gateway")]
    Killed,
}

/// A stream that fails, for good and both ways, once its [`Switch`] says so.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    switch: Switch,
    ident: Ident,
    /// Kept as long as the socket is open, whoever else has let go of it.
    _permit: Option<Permit>,
}

impl<S> Guarded<S> {
    /// Guards a stream from which SSH is expected.
    pub fn new(stream: S, switch: Switch) -> Self {
        Self::with_permit(stream, switch, None)
    }

    pub(super) fn with_permit(stream: S, switch: Switch, permit: Option<Permit>) -> Self {
        Self {
            stream,
            switch,
            ident: Ident::default(),
            _permit: permit,
        }
    }
}

/// Ends a [`Guarded`] stream from anywhere. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Switch(Arc<State>);

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

/// Nobody has logged in.
const WAITING: u8 = 0;
/// Somebody has: the time no longer matters.
const OPEN: u8 = 1;
const GRACE: u8 = 2;
const NOT_SSH: u8 = 3;
const KILLED: u8 = 4;

impl Switch {
    /// One for a single stream, which waits for a login.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Somebody has logged in, unless the time was over first: `false` then.
    #[must_use]
    pub fn authenticated(&self) -> bool {
        self.step(WAITING, OPEN)
    }

    /// Fails the stream at the deadline, if nobody has logged in by then; whether it did. If cancelled, nothing happens.
    pub async fn expire(&self, deadline: Instant) -> bool {
        sleep_until(deadline).await;
        let late = self.step(WAITING, GRACE);
        if late {
            self.wake();
        }
        late
    }

    /// Fails the stream now. What was written and is in the kernel is still sent.
    pub fn kill(&self) {
        if self.step(WAITING, KILLED) || self.step(OPEN, KILLED) {
            self.wake();
        }
    }

    /// Whether the stream fails, and why.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        match self.0.phase.load(Ordering::Acquire) {
            GRACE => Some(Ended::Grace),
            NOT_SSH => Some(Ended::NotSsh),
            KILLED => Some(Ended::Killed),
            _ => None,
        }
    }

    /// Bytes from the client and to it.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.0.bytes_in), load(&self.0.bytes_out))
    }

    fn step(&self, from: u8, to: u8) -> bool {
        self.0
            .phase
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn wake(&self) {
        self.0.reader.wake();
        self.0.writer.wake();
    }

    fn check(&self) -> io::Result<()> {
        match self.ended() {
            None => Ok(()),
            Some(ended @ Ended::Grace) => Err(io::Error::new(io::ErrorKind::TimedOut, ended)),
            Some(ended @ Ended::NotSsh) => Err(io::Error::new(io::ErrorKind::InvalidData, ended)),
            Some(ended @ Ended::Killed) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, ended))
            }
        }
    }

    /// Polls the stream unless it has ended, and again once it does.
    fn guard<T>(
        &self,
        waker: &AtomicWaker,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.check()?;
        let polled = poll(cx);
        if polled.is_pending() {
            waker.register(cx.waker());
            self.check()?; // it may have ended before the waker was there
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self {
            stream,
            switch,
            ident,
            ..
        } = self.get_mut();
        let before = buffer.filled().len();
        let read = switch.guard(&switch.0.reader, cx, |cx| {
            Pin::new(stream).poll_read(cx, buffer)
        });
        let received = &buffer.filled()[before..];
        if !received.is_empty() {
            let length = received.len() as u64;
            switch.0.bytes_in.fetch_add(length, Ordering::Relaxed);
            if ident.handle(received).is_err() {
                let _ = switch.step(WAITING, NOT_SSH) || switch.step(OPEN, NOT_SSH);
                buffer.set_filled(before);
                switch.0.writer.wake();
                switch.check()?;
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { stream, switch, .. } = self.get_mut();
        let written = switch.guard(&switch.0.writer, cx, |cx| {
            Pin::new(stream).poll_write(cx, bytes)
        });
        if let Poll::Ready(Ok(length)) = written {
            let counter = &switch.0.bytes_out;
            counter.fetch_add(length as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, switch, .. } = self.get_mut();
        switch.guard(&switch.0.writer, cx, |cx| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, switch, .. } = self.get_mut();
        switch.guard(&switch.0.writer, cx, |cx| {
            Pin::new(stream).poll_shutdown(cx)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex, split};

    const GRACE_TIME: Duration = Duration::from_secs(30);

    fn ended(error: &io::Error) -> Ended {
        *error.get_ref().unwrap().downcast_ref().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn readers_and_writers_that_wait_fail_at_the_deadline() {
        let (client, server) = duplex(16);
        let switch = Switch::new();
        let guarded = Guarded::new(server, switch.clone());
        let (mut read, mut write) = split(guarded);
        let begin = Instant::now();
        let expire = switch.clone();
        tokio::spawn(async move { expire.expire(begin + GRACE_TIME).await });
        let reading = tokio::spawn(async move { read.read(&mut [0; 8]).await });
        let writing = tokio::spawn(async move { write.write_all(&[0; 100]).await });
        for error in [
            reading.await.unwrap().unwrap_err(),
            writing.await.unwrap().unwrap_err(),
        ] {
            assert_eq!(ended(&error), Ended::Grace);
        }
        assert_eq!(begin.elapsed(), GRACE_TIME);
        assert!(!switch.authenticated(), "too late");
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_in_time_lifts_the_deadline() {
        let (mut client, server) = duplex(1024);
        let switch = Switch::new();
        let mut guarded = Guarded::new(server, switch.clone());
        assert!(switch.authenticated());
        assert!(!switch.expire(Instant::now() + GRACE_TIME).await);
        client.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        guarded.read_exact(&mut [0; 11]).await.unwrap();
        guarded.write_all(b"hello").await.unwrap();
        assert_eq!((switch.ended(), switch.bytes()), (None, (11, 5)));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_trickle_in_do_not_help() {
        let (mut client, server) = duplex(1024);
        let switch = Switch::new();
        let mut guarded = Guarded::new(server, switch.clone());
        let begin = Instant::now();
        let expire = switch.clone();
        tokio::spawn(async move { expire.expire(begin + GRACE_TIME).await });
        tokio::spawn(async move {
            for byte in b"SSH-2.0-slow" {
                tokio::time::sleep(Duration::from_secs(7)).await;
                client.write_all(&[*byte]).await.unwrap();
            }
        });
        let mut all = Vec::new();
        let error = guarded.read_to_end(&mut all).await.unwrap_err();
        assert_eq!((ended(&error), all.len()), (Ended::Grace, 4));
        assert_eq!(begin.elapsed(), GRACE_TIME);
    }

    #[tokio::test]
    async fn a_kill_wakes_whoever_waits() {
        let (client, server) = duplex(1024);
        let switch = Switch::new();
        let mut guarded = Guarded::new(server, switch.clone());
        assert!(switch.authenticated());
        let reading = tokio::spawn(async move { guarded.read(&mut [0; 8]).await });
        tokio::task::yield_now().await;
        switch.kill();
        let error = reading.await.unwrap().unwrap_err();
        assert_eq!(ended(&error), Ended::Killed);
        drop(client);
    }

    #[tokio::test]
    async fn what_is_not_ssh_never_reaches_the_engine() {
        let (mut client, server) = duplex(1024);
        let switch = Switch::new();
        let mut guarded = Guarded::new(server, switch.clone());
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let mut buffer = Vec::new();
        let error = guarded.read_to_end(&mut buffer).await.unwrap_err();
        assert_eq!((ended(&error), buffer.len()), (Ended::NotSsh, 0));
        let error = guarded.write_all(b"x").await.unwrap_err();
        assert_eq!(ended(&error), Ended::NotSsh);
    }
}
