//! One stream with nothing but its bytes: what they mean is its opener's affair.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::multiplexed::Handle;
use crate::spdy::{ReadError, StreamId, WriteError};

/// A stream of a [`Multiplexed`](super::Multiplexed) connection. Dropping it resets it unless both sides have finished;
/// bytes written before [`finish`](Self::finish) still go out.
#[derive(Debug)]
pub struct Channel {
    connection: Arc<Handle>,
    id: StreamId,
}

impl Channel {
    pub(super) fn new(connection: Arc<Handle>, id: StreamId) -> Self {
        Self { connection, id }
    }

    /// Ready once the server has accepted the stream. Only the last task that polled this or
    /// [`poll_read`](Self::poll_read) is woken.
    ///
    /// # Errors
    /// It never will: the stream was reset, was not answered within 30 s, or its connection has ended.
    pub fn poll_replied(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ReadError>> {
        let mut state = self.connection.0.lock();
        match state.connection.replied(self.id) {
            Err(ReadError::Blocked) => {
                state.wakers.reader(self.id, cx);
                Poll::Pending
            }
            replied => Poll::Ready(replied),
        }
    }

    /// The next received bytes, without a copy; `None` at the peer's FIN. Cancel-safe.
    ///
    /// # Errors
    /// Why the stream ended without a FIN, after its last byte.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ReadError>> {
        let mut state = self.connection.0.lock();
        let paused = state.connection.paused();
        let read = state.connection.read(self.id);
        if paused && !state.connection.paused() {
            state.wake_driver();
        }
        match read {
            Err(ReadError::Blocked) => {
                state.wakers.reader(self.id, cx);
                Poll::Pending
            }
            read => Poll::Ready(read),
        }
    }

    /// Queues bytes from the front of `data`, without a copy; pending while the send buffer is full. The driver sends on
    /// its own: there is nothing to flush. Cancel-safe.
    ///
    /// # Errors
    /// The stream takes no more.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<usize, WriteError>> {
        let mut state = self.connection.0.lock();
        match state.connection.write(self.id, data) {
            Err(WriteError::Blocked) => {
                state.wakers.writer(self.id, cx);
                Poll::Pending
            }
            written => {
                state.wake_driver();
                Poll::Ready(written)
            }
        }
    }

    /// FIN, after what was written. Once; a second call does nothing.
    pub fn finish(&mut self) {
        let mut state = self.connection.0.lock();
        state.connection.finish(self.id);
        state.wake_driver();
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let mut state = self.connection.0.lock();
        state.connection.release(self.id);
        state.wakers.forget(self.id);
        state.wake_driver();
    }
}
