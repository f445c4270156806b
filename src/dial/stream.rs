//! A byte stream to where somebody listens, however it is made.
//!
//! What refuses a stream is heard of only once it is used: an old node that can't forward, a port that listens on IPv6
//! only. So what was sent is kept until the first byte comes back, and sent again on the next way.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use super::Error;
use super::bridge::{Bridge, Bridged, Destination};
use crate::cluster::Connection;
use crate::exec::Pipe;
use crate::splice::{Ends, Far};
use crate::tunnel::pool::Lease;
use crate::tunnel::{self, Failure};

/// Bytes that are kept to be sent again. Who sends more before it was answered has got through.
const MAX_KEPT: usize = 1024 * 1024;
/// Pieces that these may be in.
const MAX_PIECES: usize = 256;
/// Pieces below this are copied.
const SMALL: usize = 4096;
/// How long a local socket may be silent whose other direction the pod has ended. Such connections are rare and cost
/// a process in the container, so they are not kept for ever.
const HALF_OPEN: Duration = Duration::from_secs(600);
/// The same for stdin, which seldom ends by itself.
const HALF_OPEN_STDIN: Duration = Duration::from_secs(1);

/// A stream to an endpoint of a pod: the far side of a splice.
pub struct PodStream {
    way: Way,
    /// Makes the tunnel somebody else's; after the stream, which tells what state it leaves it in.
    lease: Option<Lease<Error>>,
    /// What to turn to; none once a byte has come, or too many were sent.
    next: Option<Next>,
    turning: Option<Turning>,
    /// Sent, and not answered.
    kept: Vec<Bytes>,
    /// To be sent again.
    again: VecDeque<Bytes>,
    /// The end was passed on, and is to be passed on again.
    finished: bool,
    /// The local side has sent all, and nothing has come since.
    waiting: bool,
    half_closes: bool,
    far_half_closes: bool,
}

enum Way {
    Forwarded(tunnel::Stream),
    Bridged(Box<Pipe<Connection>>),
}

/// Another way, if there is one that a failure leaves a hope for; and whether anything was sent that may have arrived.
type Next = Box<dyn FnOnce(&Failure, bool) -> Option<Turning> + Send>;

/// The stream on another way.
pub type Turning = Pin<Box<dyn Future<Output = Result<PodStream, Error>> + Send>>;

impl PodStream {
    /// `lease` is the tunnel's; `next` where to turn to should the node not be able to forward.
    pub(super) fn forwarded(
        stream: tunnel::Stream,
        lease: Option<Lease<Error>>,
        next: Option<(Bridge, Destination)>,
    ) -> Self {
        let turn = |(bridge, destination): (Bridge, Destination)| {
            let next: Next = Box::new(move |failure, _| match failure {
                Failure::Unsupported(why) => {
                    bridge.falls_back(why);
                    Some(Box::pin(Self::bridge(bridge, destination)))
                }
                _ => None,
            });
            next
        };
        Self {
            lease,
            next: next.map(turn),
            ..Self::new(Way::Forwarded(stream), false, false)
        }
    }

    pub(super) fn bridged(bridged: Bridged, bridge: Bridge, destination: Destination) -> Self {
        let Bridged {
            pipe,
            half_closes,
            far_half_closes,
        } = bridged;
        let way = Way::Bridged(Box::new(pipe));
        let otherwise = destination.otherwise.map(|address| {
            let destination = Destination {
                address,
                otherwise: None,
            };
            let next: Next = Box::new(move |failure, _| match failure {
                Failure::Refused(_) => Some(Box::pin(Self::bridge(bridge, destination))),
                _ => None,
            });
            next
        });
        Self {
            next: otherwise,
            ..Self::new(way, half_closes, far_half_closes)
        }
    }

    async fn bridge(bridge: Bridge, destination: Destination) -> Result<Self, Error> {
        let bridged = bridge.open(&destination.address).await?;
        Ok(Self::bridged(bridged, bridge, destination))
    }

    /// Should this stream fail before a byte has come, `next` may have another one; what was sent is sent again on it. It
    /// is told whether anything was. Ways of its own come first.
    #[must_use]
    pub fn or_else(
        mut self,
        next: impl FnOnce(&Failure, bool) -> Option<Turning> + Send + 'static,
    ) -> Self {
        let first = self.next.take();
        self.next = Some(Box::new(move |failure, sent| {
            let turning = first.and_then(|first| first(failure, sent));
            turning.or_else(|| next(failure, sent))
        }));
        self
    }

    fn new(way: Way, half_closes: bool, far_half_closes: bool) -> Self {
        Self {
            way,
            lease: None,
            next: None,
            turning: None,
            kept: Vec::new(),
            again: VecDeque::new(),
            finished: false,
            waiting: false,
            half_closes,
            far_half_closes,
        }
    }

    /// How ends are passed on, given how they are passed on to a port-forward.
    #[must_use]
    pub fn ends(&self, ends: Ends) -> Ends {
        let mut ends = ends;
        if self.half_closes {
            ends.half_close_grace = Duration::ZERO;
        }
        if self.far_half_closes {
            ends.far_half_closes = true;
            ends.after_far_end = match ends.after_far_end {
                Duration::ZERO => HALF_OPEN_STDIN,
                _ => HALF_OPEN,
            };
        }
        ends
    }

    /// Turns to the next way, if this failure leaves a hope for one.
    fn turn(&mut self, error: &io::Error) -> Option<Turning> {
        let next = self.next.take()?;
        let turning = next(Failure::of(error)?, !self.kept.is_empty())?;
        self.again = self.kept.iter().cloned().collect();
        Some(turning)
    }

    /// Ready on the next way.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(turning) = &mut self.turning {
            let turned = ready!(turning.as_mut().poll(cx));
            self.turning = None;
            let turned = turned.map_err(|error| Failure::Other(error.to_string()))?;
            self.way = turned.way;
            self.lease = turned.lease;
            self.next = turned.next;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends on this way what was sent on the last one.
    fn resend(&mut self, cx: &mut Context<'_>) {
        while let Some(data) = self.again.front_mut() {
            match self.way.poll_send(cx, data) {
                Poll::Ready(Ok(())) if data.is_empty() => drop(self.again.pop_front()),
                Poll::Ready(Ok(())) => {}
                // The way is lost, and its reading half says so.
                Poll::Ready(Err(_)) => self.again.clear(),
                Poll::Pending => return,
            }
        }
        if self.finished {
            let _ = self.way.poll_finish(cx);
        }
    }

    fn is_turning(&self) -> bool {
        self.turning.is_some() || !self.again.is_empty()
    }

    fn keep(&mut self, sent: Bytes) {
        // A few bytes are not to hold on to the block that they were read into.
        let sent = match sent.len() {
            ..SMALL => Bytes::copy_from_slice(&sent),
            _ => sent,
        };
        self.kept.push(sent);
        let length: usize = self.kept.iter().map(Bytes::len).sum();
        if length > MAX_KEPT || self.kept.len() > MAX_PIECES {
            self.settle();
        }
    }

    /// There is no turning any more.
    fn settle(&mut self) {
        self.next = None;
        self.kept = Vec::new();
    }
}

impl Far for PodStream {
    fn poll_chunks(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&VecDeque<Bytes>>> {
        loop {
            ready!(self.poll_turn(cx))?;
            if self.next.is_none() && !self.is_turning() {
                return self.way.poll_chunks(cx);
            }
            // A way is ready to take anything only once it was polled for what it brings.
            let polled = self.way.poll_chunks(cx).map_ok(drop);
            self.resend(cx);
            match ready!(polled) {
                Ok(()) => {
                    self.settle();
                    return self.way.poll_chunks(cx);
                }
                Err(error) => match self.turn(&error) {
                    Some(turning) => self.turning = Some(turning),
                    None => return Poll::Ready(Err(error)),
                },
            }
        }
    }

    fn consume(&mut self, length: usize) {
        // It has not been silent: it may well have a lot to say.
        if std::mem::take(&mut self.waiting)
            && let Some(lease) = &mut self.lease
        {
            lease.set_dormant(false);
        }
        match &mut self.way {
            Way::Forwarded(stream) => stream.consume(length),
            Way::Bridged(pipe) => pipe.consume(length),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        // Whoever polls for what is received moves this on.
        if self.is_turning() {
            return Poll::Pending;
        }
        if self.next.is_none() {
            return self.way.poll_send(cx, data);
        }
        let before = data.clone();
        match self.way.poll_send(cx, data) {
            // It may not be the last word: the reading half has that.
            Poll::Ready(Err(_)) => Poll::Pending,
            sent => {
                let taken = before.len() - data.len();
                self.keep(before.slice(..taken));
                sent
            }
        }
    }

    fn is_quiet(&mut self) -> bool {
        !self.is_turning() && self.way.is_quiet()
    }

    fn set_waiting(&mut self) {
        self.waiting = true;
        if let Some(lease) = &mut self.lease {
            lease.set_dormant(true);
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        if self.is_turning() {
            return Poll::Pending;
        }
        self.way.poll_finish(cx)
    }
}

impl Far for Way {
    fn poll_chunks(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&VecDeque<Bytes>>> {
        match self {
            Self::Forwarded(stream) => stream.poll_chunks(cx),
            Self::Bridged(pipe) => pipe.poll_chunks(cx),
        }
    }

    fn consume(&mut self, length: usize) {
        match self {
            Self::Forwarded(stream) => stream.consume(length),
            Self::Bridged(pipe) => pipe.consume(length),
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        match self {
            Self::Forwarded(stream) => stream.poll_send(cx, data),
            Self::Bridged(pipe) => pipe.poll_send(cx, data),
        }
    }

    fn is_quiet(&mut self) -> bool {
        match self {
            Self::Forwarded(stream) => stream.is_quiet(),
            Self::Bridged(pipe) => pipe.is_quiet(),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Forwarded(stream) => stream.poll_finish(cx),
            Self::Bridged(pipe) => pipe.poll_finish(cx),
        }
    }
}
