//! Back-pressure for a whole connection, where that hurts nobody.
//!
//! russh can't hold back one channel. But where *everything* that a connection brings is waiting for somebody who doesn't
//! read, its stream need not be read either: then TCP holds back the sender, and nothing has to go to disk. That is the
//! usual case: one transfer on one connection. As soon as any channel could use what comes, or somebody waits for the
//! peer's answer, the stream is read again, and what is not wanted yet is spooled.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Decides whether one connection's stream is read. Clones are the same one; one that wraps no stream does nothing.
#[derive(Clone, Debug, Default)]
pub struct Valve(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Queues that the connection may still fill.
    queues: usize,
    /// Those of them that have enough.
    stuck: usize,
    /// What can't go on before the peer has said something.
    awaited: usize,
    severed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl State {
    fn is_closed(&self) -> bool {
        self.queues > 0 && self.stuck == self.queues && self.awaited == 0
    }

    fn wake(&mut self) -> Option<Waker> {
        match self.is_closed() {
            true => None,
            false => self.reader.take(),
        }
    }
}

impl Valve {
    /// The stream that russh is to be given.
    pub fn wrap<S>(&self, stream: S) -> Valved<S> {
        Valved {
            stream,
            valve: self.clone(),
        }
    }

    /// Waits for what the peer must do something for: to grant a window, to answer a request, to say that it is alive. Its
    /// stream is read meanwhile.
    pub async fn awaiting<F: Future>(&self, what: F) -> F::Output {
        let mut what = std::pin::pin!(what);
        // What is ready at once needs nobody.
        let first = std::future::poll_fn(|cx| Poll::Ready(what.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = first {
            return output;
        }
        let _awaited = self.awaited();
        what.await
    }

    /// The stream is read for as long as the returned guard is there.
    #[must_use]
    pub fn awaited(&self) -> Awaited {
        self.change(|state| state.awaited += 1);
        Awaited(self.clone())
    }

    /// Breaks the stream off: it can be neither read nor written from now on.
    pub fn sever(&self) {
        let mut state = self.lock();
        state.severed = true;
        let wakers = [state.reader.take(), state.writer.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Whether the stream is not read just now.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = state.wake();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Something waits for the peer of a [`Valve`]'s stream.
#[derive(Debug)]
pub struct Awaited(Valve);

impl Drop for Awaited {
    fn drop(&mut self) {
        self.0.change(|state| state.awaited -= 1);
    }
}

/// How a queue stands to the connection that fills it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Level {
    /// Nothing more will come for it.
    #[default]
    Apart,
    /// It can take more.
    Flowing,
    /// It has enough.
    Stuck,
}

/// A queue's place at a valve.
#[derive(Debug)]
pub(super) struct Place {
    valve: Valve,
    level: Level,
}

impl Place {
    pub(super) fn at(valve: &Valve) -> Self {
        let mut place = Self {
            valve: valve.clone(),
            level: Level::Apart,
        };
        place.set(Level::Flowing);
        place
    }

    pub(super) fn set(&mut self, level: Level) {
        let old = std::mem::replace(&mut self.level, level);
        if old == level {
            return;
        }
        self.valve.change(|state| {
            state.queues -= usize::from(old != Level::Apart);
            state.stuck -= usize::from(old == Level::Stuck);
            state.queues += usize::from(level != Level::Apart);
            state.stuck += usize::from(level == Level::Stuck);
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.set(Level::Apart);
    }
}

/// A stream behind a [`Valve`].
#[derive(Debug)]
pub struct Valved<S> {
    stream: S,
    valve: Valve,
}

fn severed() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "the connection was given up",
    )
}

impl<S: AsyncRead + Unpin> AsyncRead for Valved<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.valve.lock();
        if state.severed {
            return Poll::Ready(Err(severed()));
        }
        state.reader = Some(cx.waker().clone());
        if state.is_closed() {
            return Poll::Pending;
        }
        drop(state);
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: Unpin> Valved<S> {
    fn writable(&self, cx: &Context<'_>) -> io::Result<()> {
        let mut state = self.valve.lock();
        if state.severed {
            return Err(severed());
        }
        state.writer = Some(cx.waker().clone());
        Ok(())
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Valved<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writable(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writable(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writable(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writable(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
