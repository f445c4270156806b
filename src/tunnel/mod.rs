//! One upgraded connection, shared by many streams to the ports of one pod.
//!
//! A [`Tunnel`] is handed anything that is `AsyncRead + AsyncWrite` and speaks port-forward over SPDY on it, raw or in
//! WebSocket messages. [`Tunnel::open`] makes a [`Stream`] without waiting for anyone. A task of its own, the
//! driver, pumps the [`crate::spdy::Connection`]; streams reach into that state machine through one short lock, so bytes
//! cross no channel, and back-pressure is nothing but a full buffer.
//!
//! The protocol has no flow control. A stream that nobody reads pauses its whole tunnel once its buffer is full, so
//! memory stays bounded; who can't accept that gives the stream a tunnel of its own.
//!
//! A [`pool::Pool`] does that, for as many connections as there are.
//!
//! Beneath it lies [`Multiplexed`], which opens any streams ([`Channel`]s) in the same way: remote commands use it.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::spdy::Lost;

mod channel;
mod driver;
mod failure;
mod multiplexed;
pub mod pool;
mod raw;
mod stream;
#[cfg(test)]
mod tests;
mod websocket;
mod wire;

pub use crate::spdy::OpenError;
pub use channel::Channel;
pub use failure::Failure;
pub use multiplexed::Multiplexed;
pub use stream::Stream;

/// How SPDY lies on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Directly, after a `POST` with `Upgrade: SPDY/3.1`.
    Raw,
    /// In binary WebSocket messages (KEP-4006), after a `GET` with `SPDY/3.1+portforward.k8s.io`.
    WebSocket,
}

impl Framing {
    /// client-go's periods: they keep middleboxes and the server's idle timer (4 h) from closing the connection.
    fn ping_period(self) -> Duration {
        match self {
            Self::Raw => Duration::from_secs(5),
            Self::WebSocket => Duration::from_secs(10),
        }
    }
}

/// A connection to the ports of one pod. Clones share it; it closes when the last clone and the last stream are gone.
#[derive(Clone, Debug)]
pub struct Tunnel {
    streams: Multiplexed,
    request_id: Arc<AtomicU64>,
}

impl Tunnel {
    /// Starts to speak on an upgraded connection. `early` holds what the server sent together with its 101.
    ///
    /// Spawns the driver's task: must be called in a tokio runtime.
    #[must_use]
    pub fn start<IO>(io: IO, early: Bytes, framing: Framing) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self {
            streams: Multiplexed::start(io, early, framing),
            request_id: Arc::default(),
        }
    }

    /// Opens a stream to `port` in the pod. Nothing is waited for: bytes may be written at once, and whether the
    /// port answers shows when the stream is read.
    ///
    /// # Errors
    /// The tunnel has ended, or has used up its 2^29 streams: dial anew.
    pub fn open(&self, port: u16) -> Result<Stream, OpenError> {
        let handle = &self.streams.handle;
        let port = port.to_string();
        let now = Instant::now().into_std();
        let mut state = handle.0.lock();
        // Ids, request ids and frames in one critical section: ids must grow on the wire.
        let request = self.request_id.fetch_add(1, Ordering::Relaxed).to_string();
        let headers = |kind| {
            [
                ("streamtype", kind),
                ("port", &*port),
                ("requestid", &*request),
            ]
        };
        let error = state.connection.open(&headers("error"), false, now)?;
        // On its own: a FIN within the SYN_STREAM makes the kubelet refuse the stream.
        state.connection.finish(error);
        let data = match state.connection.open(&headers("data"), false, now) {
            Ok(data) => data,
            Err(e) => {
                state.connection.release(error);
                return Err(e);
            }
        };
        state.wake_driver();
        drop(state);
        Ok(Stream::new(handle.clone(), data, error))
    }

    /// Streams that are open on this tunnel.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        // Each has a data and an error stream.
        self.streams
            .handle
            .0
            .lock()
            .connection
            .open_streams()
            .div_ceil(2)
    }

    /// Waits until the connection has ended, and tells why. Cancel-safe.
    pub async fn ended(&self) -> Lost {
        self.streams.ended().await
    }

    /// The same, without holding the tunnel.
    pub fn end(&self) -> impl Future<Output = Lost> + Send + 'static {
        self.streams.end()
    }

    /// Whether new streams can be trusted to get through: it hasn't ended, and no stream was broken off whose bytes
    /// may lie in the node's way for ever. There every stream has one of five workers, and one that waits for
    /// a container that is gone is never free again (spdystream in all versions; the kubelet's or the runtime's end).
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let state = self.streams.handle.0.lock();
        !state.dirty && state.connection.lost().is_none()
    }

    /// Since when nothing gets through, in one direction at least: a stream is not read here, or the server takes
    /// nothing.
    #[must_use]
    pub fn standing_still_since(&self) -> Option<Instant> {
        self.streams.handle.0.lock().still
    }

    /// Resets what is open, says goodbye and closes the connection. Takes a second at most.
    pub async fn close(self) {
        self.streams.close().await;
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind(), failure)
    }
}
