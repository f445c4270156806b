//! What a client has sent on a channel and its backend has not yet taken.
//!
//! russh grants a channel's window anew when data arrives, not when it is read: a client is never held back by it, and
//! who doesn't take its data stops the whole connection (russh 0.65). So all of it is taken at once.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, ReadBuf};

/// The side that data comes in on. Without an end it was cut off when this is dropped.
#[derive(Debug)]
pub(super) struct Inlet(Arc<Shared>);

/// The side that a backend reads.
#[derive(Debug)]
pub struct Outlet(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Bytes>,
    length: usize,
    end: Option<End>,
    reader: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Clean,
    Cut,
}

/// More has come than may wait.
#[derive(Debug)]
pub(super) struct Full;

/// A queue of `limit` bytes.
pub(super) fn backlog(limit: usize) -> (Inlet, Outlet) {
    let shared = Arc::new(Shared {
        limit,
        state: Mutex::default(),
    });
    (Inlet(shared.clone()), Outlet(shared))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inlet {
    /// Never waits.
    pub(super) fn push(&self, data: &[u8]) -> Result<(), Full> {
        let mut state = self.0.lock();
        if state.length + data.len() > self.0.limit {
            return Err(Full);
        }
        if state.end.is_none() && !data.is_empty() && self.is_read() {
            state.length += data.len();
            state.chunks.push_back(Bytes::copy_from_slice(data));
            state.wake();
        }
        Ok(())
    }

    /// Whether there is still somebody to read it.
    pub(super) fn is_read(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    pub(super) fn finish(&self) {
        self.end(End::Clean);
    }

    fn end(&self, end: End) {
        let mut state = self.0.lock();
        state.end.get_or_insert(end);
        state.wake();
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.end(End::Cut);
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.0.lock().chunks.clear();
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl AsyncRead for Outlet {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.lock();
        let Some(chunk) = state.chunks.front_mut() else {
            return match state.end {
                Some(End::Clean) => Poll::Ready(Ok(())),
                Some(End::Cut) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                None => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        };
        let length = chunk.len().min(buf.remaining());
        buf.put_slice(chunk.get(..length).unwrap_or_default());
        chunk.advance(length);
        if chunk.is_empty() {
            state.chunks.pop_front();
        }
        state.length -= length;
        Poll::Ready(Ok(()))
    }
}
