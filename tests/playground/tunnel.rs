//! A handle to an upgraded connection: what tests count and do to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::wire::WireControl;

/// An upgraded connection, as tests see it.
#[derive(Clone)]
pub(crate) struct Tunnel {
    pub(crate) number: u64,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    /// `websocket` or `spdy`.
    pub(crate) transport: &'static str,
    wire: WireControl,
    orders: mpsc::Sender<Order>,
    counters: Arc<Counters>,
}

/// What is counted on a connection; see the methods of [`Tunnel`].
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) opened: AtomicU64,
    pub(crate) pairs: AtomicU64,
    pub(crate) open_pairs: AtomicU64,
    pub(crate) blocked: AtomicBool,
}

/// What a test tells a tunnel to do.
pub(crate) enum Order {
    Inject(Bytes),
    GoAway,
    Close,
}

impl Tunnel {
    pub(crate) fn new(
        number: u64,
        pod: (&str, &str),
        transport: &'static str,
        wire: WireControl,
    ) -> (Self, Orders) {
        let (orders, receiver) = mpsc::channel(16);
        let tunnel = Self {
            number,
            namespace: pod.0.to_owned(),
            pod: pod.1.to_owned(),
            transport,
            wire,
            orders,
            counters: Arc::default(),
        };
        let orders = Orders {
            receiver,
            counters: tunnel.counters.clone(),
        };
        (tunnel, orders)
    }

    /// Streams that the client opened so far; two for each forwarded connection.
    pub(crate) fn streams(&self) -> u64 {
        self.counters.opened.load(Ordering::Relaxed)
    }

    /// Pairs that were complete so far.
    pub(crate) fn pairs(&self) -> u64 {
        self.counters.pairs.load(Ordering::Relaxed)
    }

    /// Pairs that are being forwarded now.
    pub(crate) fn open_pairs(&self) -> u64 {
        self.counters.open_pairs.load(Ordering::Relaxed)
    }

    /// Whether the node's reader waits for a stream that nobody reads: nothing on the connection is read any more.
    pub(crate) fn blocked(&self) -> bool {
        self.counters.blocked.load(Ordering::Relaxed)
    }

    /// Drops the connection by a TCP reset.
    pub(crate) fn cut(&self) {
        self.wire.cut();
    }

    /// Stops reading what the client sends, or goes on.
    pub(crate) fn stall_reads(&self, stalled: bool) {
        self.wire.stall_reads(stalled);
    }

    /// Stops sending, or goes on. With reads stalled too it is a network that went away.
    pub(crate) fn stall_writes(&self, stalled: bool) {
        self.wire.stall_writes(stalled);
    }

    /// Sends these bytes in the SPDY stream, between two frames.
    pub(crate) fn inject(&self, bytes: impl Into<Bytes>) {
        // a tunnel that is gone, or that has a queue of orders, takes no more
        let _ = self.orders.try_send(Order::Inject(bytes.into()));
    }

    /// Resets all streams and says GOAWAY, as a node does that shuts down.
    pub(crate) fn go_away(&self) {
        let _ = self.orders.try_send(Order::GoAway);
    }

    /// Ends the connection without a word of SPDY; a WebSocket gets its Close(1000). One of a command is reset.
    pub(crate) fn close(&self) {
        if self.orders.try_send(Order::Close).is_err() {
            self.cut();
        }
    }
}

/// The driver's end of a [`Tunnel`].
pub(crate) struct Orders {
    pub(crate) receiver: mpsc::Receiver<Order>,
    pub(crate) counters: Arc<Counters>,
}
