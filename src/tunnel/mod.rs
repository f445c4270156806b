//! One upgraded connection, shared by many streams to the ports of one pod.
//!
//! A [`Tunnel`] is handed anything that is `AsyncRead + AsyncWrite` and speaks port-forward over SPDY on it, raw or in
//! WebSocket messages. [`Tunnel::open`] makes a [`Stream`] without waiting for anyone. A task of its own, the
//! driver, pumps the [`spdy::Connection`]; streams reach into that state machine through one short lock, so bytes
//! cross no channel, and back-pressure is nothing but a full buffer.
//!
//! The protocol has no flow control. A stream that nobody reads pauses its whole tunnel once its buffer is full, so
//! memory stays bounded; who can't accept that gives the stream a tunnel of its own.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::spdy::{self, Lost, OpenError};
use driver::{Driver, Wakers};

mod driver;
mod failure;
mod raw;
mod stream;
#[cfg(test)]
mod tests;
mod websocket;
mod wire;

pub use failure::Failure;
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

/// A connection to one pod. Clones share it; it closes when the last clone and the last stream are gone.
#[derive(Clone, Debug)]
pub struct Tunnel {
    handle: Arc<Handle>,
    ended: watch::Receiver<Option<Lost>>,
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
        let config = spdy::Config {
            ping_period: Some(framing.ping_period()),
            ..spdy::Config::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                connection: spdy::Connection::client(config, Instant::now().into_std()),
                wakers: Wakers::default(),
                driver: None,
                closing: None,
            }),
            request_id: AtomicU64::new(0),
        });
        let (ended_at, ended) = watch::channel(None);
        match framing {
            Framing::Raw => {
                let wire = raw::Raw::new(io, early);
                tokio::spawn(Driver::new(shared.clone(), wire, ended_at).run());
            }
            Framing::WebSocket => {
                let wire = websocket::WebSocket::new(io, early);
                tokio::spawn(Driver::new(shared.clone(), wire, ended_at).run());
            }
        }
        Self {
            handle: Arc::new(Handle(shared)),
            ended,
        }
    }

    /// Opens a stream to `port` in the pod. Nothing is waited for: bytes may be written at once, and whether the
    /// port answers shows when the stream is read.
    ///
    /// # Errors
    /// The tunnel has ended, or has used up its 2^29 streams: dial anew.
    pub fn open(&self, port: u16) -> Result<Stream, OpenError> {
        let shared = &self.handle.0;
        let port = port.to_string();
        let now = Instant::now().into_std();
        let mut state = shared.lock();
        // Ids, request ids and frames in one critical section: ids must grow on the wire.
        let request = shared
            .request_id
            .fetch_add(1, Ordering::Relaxed)
            .to_string();
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
        Ok(Stream::new(self.handle.clone(), data, error))
    }

    /// Streams that are open on this tunnel.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        // Each has a data and an error stream.
        self.handle.0.lock().connection.open_streams().div_ceil(2)
    }

    /// Waits until the connection has ended, and tells why. Cancel-safe.
    pub async fn ended(&self) -> Lost {
        let mut ended = self.ended.clone();
        let lost = ended.wait_for(Option::is_some).await;
        // The sender is gone only with its runtime.
        lost.ok().and_then(|lost| lost.clone()).unwrap_or(Lost::Cut)
    }

    /// Resets what is open, says goodbye and closes the connection. Takes a second at most.
    pub async fn close(self) {
        self.handle.0.close(Closing::Now);
        self.ended().await;
    }
}

/// Closes the connection when its last holder goes.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        let until = Instant::now() + LAST_BYTES;
        self.0.close(Closing::Drained { until });
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    request_id: AtomicU64,
}

impl Shared {
    /// Never held across an await.
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state machine is whole after any panic of a caller.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, closing: Closing) {
        let mut state = self.lock();
        state.closing = Some(closing);
        state.wake_driver();
    }
}

#[derive(Debug)]
struct State {
    connection: spdy::Connection,
    wakers: Wakers,
    driver: Option<Waker>,
    closing: Option<Closing>,
}

#[derive(Clone, Copy, Debug)]
enum Closing {
    Now,
    /// Once the last bytes of released streams are out.
    Drained {
        until: Instant,
    },
}

/// How long the last bytes of released streams may take to get out of a tunnel that nobody holds any more.
const LAST_BYTES: Duration = Duration::from_secs(10);

impl State {
    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind(), failure)
    }
}
