//! The task that pumps a [`crate::spdy::Connection`] over a wire.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::multiplexed::{Closing, Shared, State};
use super::wire::Wire;
use crate::spdy::{Event, Lost, Output, StreamId};

/// Chunks that are taken in before others get a turn.
const MAX_RECEIVES: usize = 16;
/// Bytes of frames that are handed to the wire at a time. Enough for one full system call; what is not handed out
/// yet still takes turns with newer streams.
const MAX_BATCH: usize = 128 * 1024;
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Tasks that wait for a stream.
#[derive(Debug, Default)]
pub(super) struct Wakers {
    readers: HashMap<StreamId, Waker>,
    writers: HashMap<StreamId, Waker>,
}

impl Wakers {
    pub(super) fn reader(&mut self, id: StreamId, cx: &Context<'_>) {
        self.readers.insert(id, cx.waker().clone());
    }

    pub(super) fn writer(&mut self, id: StreamId, cx: &Context<'_>) {
        self.writers.insert(id, cx.waker().clone());
    }

    pub(super) fn forget(&mut self, id: StreamId) {
        self.readers.remove(&id);
        self.writers.remove(&id);
    }

    fn take(&mut self, event: &Event) -> Option<Waker> {
        match event {
            Event::Readable(id) | Event::Replied { id, .. } => self.readers.remove(id),
            Event::Writable(id) => self.writers.remove(id),
            _ => None,
        }
    }
}

pub(super) struct Driver<W> {
    shared: Arc<Shared>,
    wire: W,
    /// Received, and left lying by a paused connection.
    input: Bytes,
    wire_ended: bool,
    /// Taken from the connection, on their way out.
    frames: VecDeque<Output>,
    /// All frames taken so far are with the operating system.
    sent: bool,
    timer: Pin<Box<Sleep>>,
    ended: watch::Sender<Option<Lost>>,
}

impl<W: Wire> Driver<W> {
    pub(super) fn new(shared: Arc<Shared>, wire: W, ended: watch::Sender<Option<Lost>>) -> Self {
        Self {
            shared,
            wire,
            input: Bytes::new(),
            wire_ended: false,
            frames: VecDeque::new(),
            sent: true,
            timer: Box::pin(sleep_until(Instant::now())),
            ended,
        }
    }

    /// Runs until the connection has ended and its wire is closed.
    pub(super) async fn run(mut self) {
        let lost = poll_fn(|cx| self.poll(cx)).await;
        tracing::debug!(%lost, "tunnel ended");
        // The last frames (resets, GOAWAY) and the wire's own goodbye are a courtesy.
        let goodbye = timeout(GOODBYE, async {
            poll_fn(|cx| self.wire.poll_send(cx, &mut self.frames)).await?;
            poll_fn(|cx| self.wire.poll_close(cx)).await
        });
        if let Ok(Err(error)) | Err(error) = goodbye.await.map_err(io::Error::from) {
            tracing::debug!(%error, "the goodbye did not reach the server");
        }
        self.ended.send_replace(Some(lost));
    }

    /// Ready when the connection has ended, with what is left to say in `frames`.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        let shared = self.shared.clone();
        for _ in 0..MAX_RECEIVES {
            let received = self.poll_receive(cx);
            let now = Instant::now();
            let mut state = shared.lock();
            if received.is_ready() {
                // A broken protocol ends the connection, which is seen below.
                let _ = state
                    .connection
                    .handle_input(&mut self.input, now.into_std());
                if self.wire_ended && self.input.is_empty() {
                    state.connection.handle_end();
                }
            }
            // After the input: what has arrived is no silence.
            if self.timer.deadline() <= now {
                state.connection.handle_timeout(now.into_std());
            }
            if self.is_due(&state, now) {
                state.connection.close();
            }
            self.take_frames(&mut state);
            wake(&mut state);
            let lost = state.connection.lost().cloned();
            drop(state);

            if let Some(lost) = lost {
                return Poll::Ready(lost);
            }
            let sent = self.wire.poll_send(cx, &mut self.frames);
            self.sent = sent.is_ready();
            let mut state = shared.lock();
            state
                .connection
                .set_blocked(sent.is_pending(), now.into_std());
            let more_to_send = match &sent {
                Poll::Ready(Ok(())) => state.connection.has_output(),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "sending failed");
                    state.connection.handle_end();
                    true
                }
                Poll::Pending => false,
            };
            if sent.is_pending() || state.connection.paused() {
                state.still.get_or_insert(now);
            } else {
                state.still = None;
            }
            if received.is_pending() && !more_to_send {
                state.driver = Some(cx.waker().clone());
                // A stream may have been read, or written, while the lock was free.
                if !self.can_go_on(&state) && self.poll_timer(cx, &state).is_pending() {
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when there is input, or the wire has ended. A paused connection takes none.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.shared.lock().connection.paused() {
            return Poll::Pending;
        }
        if !self.input.is_empty() {
            return Poll::Ready(());
        }
        if self.wire_ended {
            return Poll::Pending;
        }
        match std::task::ready!(self.wire.poll_receive(cx)) {
            Ok(Some(chunk)) => self.input = chunk,
            Ok(None) => self.wire_ended = true,
            Err(error) => {
                tracing::debug!(%error, "receiving failed");
                self.wire_ended = true;
            }
        }
        Poll::Ready(())
    }

    fn take_frames(&mut self, state: &mut State) {
        let mut bytes: usize = self.frames.iter().map(Output::len).sum();
        while bytes < MAX_BATCH
            && let Some(frame) = state.connection.poll_output()
        {
            bytes += frame.len();
            self.frames.push_back(frame);
        }
    }

    fn can_go_on(&self, state: &State) -> bool {
        let input = !self.input.is_empty() && !state.connection.paused();
        let output = self.frames.is_empty() && state.connection.has_output();
        input || output || self.is_due(state, Instant::now())
    }

    /// Whether to close the connection now.
    fn is_due(&self, state: &State, now: Instant) -> bool {
        match state.closing {
            None => false,
            Some(Closing::Now) => true,
            Some(Closing::Drained { until }) => {
                let drained = self.sent && state.connection.open_streams() == 0;
                now >= until || drained && !state.connection.has_output()
            }
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, state: &State) -> Poll<()> {
        let connection = state.connection.poll_timeout().map(Instant::from_std);
        let closing = match state.closing {
            Some(Closing::Drained { until }) => Some(until),
            _ => None,
        };
        let Some(deadline) = connection.into_iter().chain(closing).min() else {
            return Poll::Pending;
        };
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx)
    }
}

fn wake(state: &mut State) {
    while let Some(event) = state.connection.poll_event() {
        if let Some(waker) = state.wakers.take(&event) {
            waker.wake();
        }
    }
}

/// Whatever ends the task, a panic or the runtime's end, no stream waits for it in vain.
impl<W> Drop for Driver<W> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.connection.handle_end();
        wake(&mut state);
    }
}
