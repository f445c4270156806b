//! The two layers of IO under the HTTP server through which faults reach a connection.
//!
//! [`Wire`] is the TCP socket: it can be stalled and cut. [`Line`] is the plain text inside TLS: it
//! can answer with bytes that no HTTP server would write, and hold its output back so that two
//! writes arrive as one.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Locks a mutex; a panic in another test thread is reported there, not here again.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle to a connection's socket, to do it harm.
#[derive(Clone, Default)]
pub(crate) struct WireControl(Arc<WireState>);

#[derive(Default)]
struct WireState {
    stall_reads: AtomicBool,
    stall_writes: AtomicBool,
    cut: AtomicBool,
    parked: Mutex<Vec<Waker>>,
}

impl WireControl {
    /// Stops reading from the socket (or goes on): the client's writes fill up.
    pub(crate) fn stall_reads(&self, stalled: bool) {
        self.0.stall_reads.store(stalled, Ordering::SeqCst);
        self.wake();
    }

    /// Stops writing to the socket (or goes on). Both together look like a network that went away.
    pub(crate) fn stall_writes(&self, stalled: bool) {
        self.0.stall_writes.store(stalled, Ordering::SeqCst);
        self.wake();
    }

    /// Ends the connection by a TCP reset.
    pub(crate) fn cut(&self) {
        self.0.cut.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        for waker in lock(&self.0.parked).drain(..) {
            waker.wake();
        }
    }

    fn park(&self, cx: &Context<'_>) {
        let mut parked = lock(&self.0.parked);
        if !parked.iter().any(|waker| waker.will_wake(cx.waker())) {
            parked.push(cx.waker().clone());
        }
    }

    /// Pending while `stalled`, an error once cut. The flags are read again after parking, so that a
    /// change in between is not missed.
    fn check(&self, stalled: &AtomicBool, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.0.cut.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if !stalled.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        self.park(cx);
        if stalled.load(Ordering::SeqCst) && !self.0.cut.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A TCP socket that obeys its [`WireControl`].
pub(crate) struct Wire {
    tcp: TcpStream,
    control: WireControl,
}

impl Wire {
    pub(crate) fn new(tcp: TcpStream, control: WireControl) -> Self {
        Self { tcp, control }
    }

    fn ready(&self, stalled: &AtomicBool, cx: &Context<'_>) -> Poll<io::Result<()>> {
        // A waker is parked also while all is well: a cut must reach a task that waits for the peer.
        if !self.control.0.cut.load(Ordering::Relaxed) {
            self.control.park(cx);
        }
        let checked = self.control.check(stalled, cx);
        if let Poll::Ready(Err(_)) = checked {
            // A reset is best effort: the socket may be gone already.
            let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        }
        checked
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.ready(&self.control.0.stall_reads, cx))?;
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.ready(&self.control.0.stall_writes, cx))?;
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// A handle to the plain text of a connection.
#[derive(Clone, Default)]
pub(crate) struct LineControl(Arc<Mutex<LineState>>);

#[derive(Default)]
struct LineState {
    mode: Mode,
    /// Goes out before anything else, unless the line is held.
    pending: BytesMut,
}

#[derive(Default, PartialEq)]
enum Mode {
    #[default]
    Plain,
    /// What is written is thrown away.
    Mute,
    /// What is written waits in `pending`.
    Held,
}

impl LineControl {
    /// From now on the connection writes `bytes` and nothing else.
    pub(crate) fn answer_instead(&self, bytes: &[u8]) {
        let mut state = lock(&self.0);
        state.mode = Mode::Mute;
        state.pending.extend_from_slice(bytes);
    }

    /// Holds output back until [`release`](Self::release), so that it leaves in one piece.
    pub(crate) fn hold(&self) {
        lock(&self.0).mode = Mode::Held;
    }

    /// Lets held output go with the next write or flush.
    pub(crate) fn release(&self) {
        lock(&self.0).mode = Mode::Plain;
    }
}

/// A plain text connection that obeys its [`LineControl`].
pub(crate) struct Line<T: AsyncWrite + Unpin> {
    inner: T,
    control: LineControl,
}

impl<T: AsyncWrite + Unpin> Line<T> {
    pub(crate) fn new(inner: T, control: LineControl) -> Self {
        Self { inner, control }
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = lock(&self.control.0);
        if state.mode == Mode::Held {
            return Poll::Ready(Ok(()));
        }
        while !state.pending.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &state.pending))?;
            state.pending.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Line<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Line<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.drain(cx))?;
        {
            let mut state = lock(&self.control.0);
            match state.mode {
                Mode::Plain => {}
                Mode::Mute => return Poll::Ready(Ok(buf.len())),
                Mode::Held => {
                    state.pending.extend_from_slice(buf);
                    return Poll::Ready(Ok(buf.len()));
                }
            }
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<T: AsyncWrite + Unpin> Drop for Line<T> {
    /// hyper drops a connection without a shutdown when its client had asked for an upgrade; Go's server always says
    /// TLS's goodbye. One try is enough: the socket has room for it, or nobody reads.
    fn drop(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = Pin::new(&mut self.inner).poll_shutdown(&mut cx);
    }
}
