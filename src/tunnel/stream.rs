//! One connection to a port of the pod: a data stream, and an error stream with the verdict.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::Failure;
use super::multiplexed::{Handle, State};
use crate::spdy::{ReadError, Status, StreamId, WriteError};

/// How long the verdict may stay out once the data has ended, and the end of the data once the error stream has
/// spoken. A runtime sends one right after the other; the pair timeout's text comes with no end at all.
const VERDICT: Duration = Duration::from_secs(5);
/// Bytes of an error text that are kept.
const MAX_TEXT: usize = 4 * 1024;

/// A connection to a port of the pod.
///
/// It reads to a clean end only when the pod's side has ended *and* the server has confirmed that nothing went
/// wrong: a refused port, a reset and a lost tunnel are errors, with a [`Failure`] inside. What the pod had sent
/// before is read first. Dropping the stream resets it unless both sides have finished; bytes written before
/// `shutdown` still go out.
///
/// Reads and writes are cancel-safe.
#[derive(Debug)]
pub struct Stream {
    tunnel: Arc<Handle>,
    pub(super) data: StreamId,
    error: StreamId,
    /// Received and not yet consumed.
    chunk: Bytes,
    verdict: Verdict,
}

#[derive(Debug)]
struct Verdict {
    text: Vec<u8>,
    /// How the error stream ended: with FIN (`Ok`), or otherwise.
    error: Option<Result<(), Failure>>,
    data: Option<Result<(), Failure>>,
    patience: Option<Pin<Box<Sleep>>>,
    /// What is said from now on.
    spoken: Option<Result<(), Failure>>,
}

impl Stream {
    pub(super) fn new(tunnel: Arc<Handle>, data: StreamId, error: StreamId) -> Self {
        Self {
            tunnel,
            data,
            error,
            chunk: Bytes::new(),
            verdict: Verdict {
                text: Vec::new(),
                error: None,
                data: None,
                patience: None,
                spoken: None,
            },
        }
    }

    /// Resets the stream: the pod's side ends at once, and what was written and not sent is dropped.
    pub fn reset(&mut self) {
        let mut state = self.tunnel.0.lock();
        state.connection.reset(self.data, Status::CANCEL);
        state.wake_driver();
    }

    /// The next bytes; empty at a clean end. Cancel-safe.
    ///
    /// # Errors
    /// A [`Failure`], after the last byte.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if let Some(spoken) = &self.verdict.spoken {
            return Poll::Ready(spoken.clone().map(|()| Bytes::new()).map_err(Into::into));
        }
        let tunnel = self.tunnel.clone();
        let mut state = tunnel.0.lock();
        let paused = state.connection.paused();
        let read = self.read_data(&mut state);
        if paused && !state.connection.paused() {
            state.wake_driver();
        }
        if let Some(chunk) = read {
            return Poll::Ready(Ok(chunk));
        }
        self.read_error(&mut state);
        if self.verdict.data.is_none() {
            state.wakers.reader(self.data, cx);
        }
        if self.verdict.error.is_none() {
            state.wakers.reader(self.error, cx);
        }
        drop(state);

        let spoken = ready!(self.verdict.poll(cx));
        self.verdict.spoken = Some(spoken.clone());
        Poll::Ready(spoken.map(|()| Bytes::new()).map_err(Into::into))
    }

    fn read_data(&mut self, state: &mut State) -> Option<Bytes> {
        if self.verdict.data.is_some() {
            return None;
        }
        self.verdict.data = match state.connection.read(self.data) {
            Ok(Some(chunk)) => return Some(chunk),
            Ok(None) => Some(Ok(())),
            Err(ReadError::Blocked) => None,
            Err(error) => Some(Err(error.into())),
        };
        None
    }

    fn read_error(&mut self, state: &mut State) {
        while self.verdict.error.is_none() {
            self.verdict.error = match state.connection.read(self.error) {
                Ok(Some(chunk)) => {
                    let room = MAX_TEXT.saturating_sub(self.verdict.text.len());
                    self.verdict
                        .text
                        .extend(chunk.get(..room.min(chunk.len())).unwrap_or_default());
                    None
                }
                Ok(None) => Some(Ok(())),
                Err(ReadError::Blocked) => return,
                Err(error) => Some(Err(error.into())),
            };
        }
    }
}

impl Verdict {
    /// Ready once the end is known, or has not come for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        match (&self.data, &self.error) {
            (Some(data), Some(error)) => {
                Poll::Ready(self.text_or(data.clone().and_then(|()| error.clone())))
            }
            // A lost tunnel ends both streams at once; a stream that got no reply was never heard of.
            (Some(Err(lost @ (Failure::Lost(_) | Failure::NoReply))), None) => {
                Poll::Ready(self.text_or(Err(lost.clone())))
            }
            (None, _) if self.text.is_empty() => Poll::Pending,
            // The data has ended and the verdict is out, or the other way round.
            _ => {
                let patience = self
                    .patience
                    .get_or_insert_with(|| Box::pin(sleep(VERDICT)));
                ready!(patience.as_mut().poll(cx));
                Poll::Ready(self.text_or(Err(Failure::Unconfirmed)))
            }
        }
    }

    fn text_or(&self, end: Result<(), Failure>) -> Result<(), Failure> {
        if self.text.is_empty() {
            end
        } else {
            Err(Failure::from_text(&self.text))
        }
    }
}

impl AsyncBufRead for Stream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.chunk.is_empty() {
            this.chunk = ready!(this.poll_chunk(cx))?;
        }
        Poll::Ready(Ok(&this.chunk))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        self.get_mut().chunk.advance(amount);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let chunk = ready!(self.as_mut().poll_fill_buf(cx))?;
        let length = chunk.len().min(buf.remaining());
        buf.put_slice(chunk.get(..length).unwrap_or_default());
        self.consume(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    /// Copies into the stream's send buffer. Pending while that is full.
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut state = self.tunnel.0.lock();
        let room = state.connection.writable(self.data);
        let part = buf.get(..room.min(buf.len())).unwrap_or_default();
        match state
            .connection
            .write(self.data, &mut Bytes::copy_from_slice(part))
        {
            Ok(length) => {
                state.wake_driver();
                Poll::Ready(Ok(length))
            }
            Err(WriteError::Blocked) => {
                state.wakers.writer(self.data, cx);
                Poll::Pending
            }
            Err(WriteError::Finished) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Err(error) => Poll::Ready(Err(Failure::from(error).into())),
        }
    }

    /// Nothing to do: the driver sends on its own.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Half-close: FIN after what was written. Returns at once.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.tunnel.0.lock();
        state.connection.finish(self.data);
        state.wake_driver();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.tunnel.0.lock();
        for id in [self.data, self.error] {
            state.connection.release(id);
            state.wakers.forget(id);
        }
        state.wake_driver();
    }
}
