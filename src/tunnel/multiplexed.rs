//! One upgraded connection with many streams of any kind, and who holds it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

use super::driver::{Driver, Wakers};
use super::{Channel, Framing, raw, websocket};
use crate::spdy::{self, Lost, OpenError};

/// An upgraded connection on which any streams may be opened. Clones share it; it closes when the last clone and the
/// last stream are gone.
#[derive(Clone, Debug)]
pub struct Multiplexed {
    pub(super) handle: Arc<Handle>,
    ended: watch::Receiver<Option<Lost>>,
}

impl Multiplexed {
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
                dirty: false,
                still: None,
            }),
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

    /// Opens a stream with these headers, without waiting for anyone.
    ///
    /// # Errors
    /// The connection has ended, or has used up its 2^30 streams: dial anew.
    pub fn open(&self, headers: &[(&str, &str)]) -> Result<Channel, OpenError> {
        let mut state = self.handle.0.lock();
        let now = Instant::now().into_std();
        let id = state.connection.open(headers, false, now)?;
        state.wake_driver();
        drop(state);
        Ok(Channel::new(self.handle.clone(), id))
    }

    /// Waits until the connection has ended, and tells why. Cancel-safe.
    pub async fn ended(&self) -> Lost {
        self.end().await
    }

    /// The same, without holding the connection.
    pub(super) fn end(&self) -> impl Future<Output = Lost> + Send + 'static {
        let mut ended = self.ended.clone();
        async move {
            let lost = ended.wait_for(Option::is_some).await;
            // The sender is gone only with its runtime.
            lost.ok().and_then(|lost| lost.clone()).unwrap_or(Lost::Cut)
        }
    }

    /// Resets what is open, says goodbye and closes the connection. Takes a second at most.
    pub async fn close(self) {
        self.handle.0.close(Closing::Now);
        self.ended().await;
    }
}

/// Closes the connection when its last holder goes.
#[derive(Debug)]
pub(super) struct Handle(pub(super) Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        let until = Instant::now() + LAST_BYTES;
        self.0.close(Closing::Drained { until });
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
}

impl Shared {
    /// Never held across an await.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
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
pub(super) struct State {
    pub(super) connection: spdy::Connection,
    pub(super) wakers: Wakers,
    pub(super) driver: Option<Waker>,
    pub(super) closing: Option<Closing>,
    /// A stream was broken off that may block the server's end.
    pub(super) dirty: bool,
    /// Since when input is left lying, or output isn't taken.
    pub(super) still: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Closing {
    Now,
    /// Once the last bytes of released streams are out.
    Drained {
        until: Instant,
    },
}

/// How long the last bytes of released streams may take to get out of a tunnel that nobody holds any more.
const LAST_BYTES: Duration = Duration::from_secs(10);

impl State {
    pub(super) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}
