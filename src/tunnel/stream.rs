//! One connection to a port of the pod: a data stream, and an error stream with the verdict.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::Failure;
use super::multiplexed::{Handle, State};
use crate::spdy::{ReadError, Status, StreamId, WriteError};
use crate::splice::Far;

/// How long the verdict may stay out once the data has ended, and the end of the data once the error stream has
/// spoken. A runtime sends one right after the other; the pair timeout's text comes with no end at all.
const VERDICT: Duration = Duration::from_secs(5);
/// Bytes that a reader holds at a time, about: enough for one system call to be worth its while.
const FETCH: usize = 128 * 1024;
/// Bytes that the way to a container takes without its help: two socket buffers of the smallest usual size, or more.
const TAKEN_AT_ONCE: usize = 64 * 1024;
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
    chunks: VecDeque<Bytes>,
    verdict: Verdict,
    sent: usize,
    finished: bool,
    /// A PING that was sent after all bytes.
    barrier: Option<u32>,
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
            chunks: VecDeque::new(),
            verdict: Verdict {
                text: Vec::new(),
                error: None,
                data: None,
                patience: None,
                spoken: None,
            },
            sent: 0,
            finished: false,
            barrier: None,
        }
    }

    /// Resets the stream: the pod's side ends at once, and what was written and not sent is dropped.
    pub fn reset(&mut self) {
        let mut state = self.tunnel.0.lock();
        state.connection.reset(self.data, Status::CANCEL);
        state.wake_driver();
    }

    /// Fetches what has been received, as far as there is room for more. Ready without any at a clean end.
    ///
    /// # Errors
    /// A [`Failure`], after the last byte.
    fn poll_fetch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(spoken) = &self.verdict.spoken {
            return Poll::Ready(spoken.clone().map_err(Into::into));
        }
        let tunnel = self.tunnel.clone();
        let mut state = tunnel.0.lock();
        let paused = state.connection.paused();
        let mut length: usize = self.chunks.iter().map(Bytes::len).sum();
        while length < FETCH
            && let Some(chunk) = self.read_data(&mut state)
        {
            length += chunk.len();
            self.chunks.push_back(chunk);
        }
        if paused && !state.connection.paused() {
            state.wake_driver();
        }
        if length > 0 {
            return Poll::Ready(Ok(()));
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
        Poll::Ready(spoken.map_err(Into::into))
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

impl Far for Stream {
    fn poll_chunks(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&VecDeque<Bytes>>> {
        if self.chunks.is_empty() {
            ready!(self.poll_fetch(cx))?;
        }
        Poll::Ready(Ok(&self.chunks))
    }

    fn consume(&mut self, mut length: usize) {
        while let Some(chunk) = self.chunks.front_mut() {
            if length < chunk.len() {
                chunk.advance(length);
                return;
            }
            length -= chunk.len();
            self.chunks.pop_front();
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        let mut state = self.tunnel.0.lock();
        match state.connection.write(self.data, data) {
            Ok(length) => {
                self.sent = self.sent.saturating_add(length);
                state.wake_driver();
                Poll::Ready(Ok(()))
            }
            Err(WriteError::Blocked) => {
                state.wakers.writer(self.data, cx);
                Poll::Pending
            }
            Err(WriteError::Finished) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Err(error) => Poll::Ready(Err(Failure::from(error).into())),
        }
    }

    /// All that was written is sent, and a PING that was sent after it is answered: the server has read all of it, and
    /// what it had to send before has come.
    fn is_quiet(&mut self) -> bool {
        let mut state = self.tunnel.0.lock();
        if state.connection.unsent(self.data) > 0 {
            self.barrier = None;
            return false;
        }
        match self.barrier {
            Some(ping) => state.connection.is_answered(ping),
            None => {
                self.barrier = state.connection.ping();
                state.wake_driver();
                false
            }
        }
    }

    /// FIN after what was written. Ready at once: the protocol confirms no arrival.
    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        let mut state = self.tunnel.0.lock();
        state.connection.finish(self.data);
        state.wake_driver();
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut length = 0;
        for chunk in ready!(self.poll_chunks(cx))? {
            let part = chunk.get(..buf.remaining().min(chunk.len()));
            buf.put_slice(part.unwrap_or_default());
            length += part.map_or(0, <[u8]>::len);
        }
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
        let this = self.get_mut();
        let room = this.tunnel.0.lock().connection.writable(this.data);
        // Not less than a byte: it takes a try to be told when there is room.
        let part = buf.get(..room.clamp(1, buf.len())).unwrap_or_default();
        let mut data = Bytes::copy_from_slice(part);
        ready!(this.poll_send(cx, &mut data))?;
        Poll::Ready(Ok(part.len() - data.len()))
    }

    /// Nothing to do: the driver sends on its own.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Half-close: FIN after what was written. Returns at once.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_finish(cx)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.tunnel.0.lock();
        for id in [self.data, self.error] {
            state.connection.release(id);
            state.wakers.forget(id);
        }
        let all_taken = self.finished && self.verdict.spoken == Some(Ok(()));
        // To a port that refused, or to a pod that is gone, nobody has passed on even the first byte.
        let failed = matches!(self.verdict.spoken, Some(Err(_)));
        let harmless = if failed { 0 } else { TAKEN_AT_ONCE };
        state.dirty |= self.sent > harmless && !all_taken;
        state.wake_driver();
    }
}
