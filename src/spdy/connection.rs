//! The connection: streams, pings, timers and the order of what goes out.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::frame::{Control, Decoder, Item};
use super::headers::{self, Inflater};
use super::pings::{PingDue, Pings};
use super::stream::{Ended, Fin, Reply, Stream};
use super::{
    Error, Headers, Lost, MAX_DATA, OpenError, Output, ReadError, Status, StreamId, WriteError,
};

/// Answers to the peer's PINGs that wait to be sent. A peer that floods us and reads none gets no more of them.
const MAX_PONGS: usize = 64;
/// Control frames that may wait while SYN_STREAMs are still refused one by one; past that they are ignored.
const MAX_WAITING_REFUSALS: usize = 1024;
/// Streams that the peer may have open at once (server side; a client takes none). Each costs a table entry.
const MAX_ACCEPTED: usize = 16 * 1024;

/// Limits and periods of a connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes that a stream holds unread before the whole connection pauses. One TCP window's worth: bursts don't
    /// pause anyone, and 200 stalled streams stay below 64 MiB.
    pub receive_buffer: usize,
    /// Bytes that a stream holds unsent before `write` blocks. Four frames: two on their way, two ready.
    pub send_buffer: usize,
    /// How long SYN_REPLY may take before a stream is given up (client-go: 30 s).
    pub reply_timeout: Duration,
    /// How often a PING goes out; `None` for never, as servers do. client-go: 5 s raw, 10 s through a WebSocket.
    pub ping_period: Option<Duration>,
    /// How long a PING may wait while nothing at all arrives before the peer counts as dead. Time in which either
    /// side is held back does not count. With the longest period, 10 s, a dead peer is found within 30 s.
    pub silence: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            receive_buffer: 256 * 1024,
            send_buffer: 4 * MAX_DATA,
            reply_timeout: Duration::from_secs(30),
            ping_period: None,
            silence: Duration::from_secs(18),
        }
    }
}

/// What has happened, for whoever drives the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer opened a stream (server side only). Answer with `reply` or `reset`.
    Opened {
        /// The new stream.
        id: StreamId,
        /// Its headers.
        headers: Headers,
        /// The peer will send nothing on it.
        fin: bool,
    },
    /// The peer has accepted a stream.
    Replied {
        /// The stream.
        id: StreamId,
        /// The reply's headers; Kubernetes sends none.
        headers: Headers,
    },
    /// A `read` that was blocked, or a stream's first one, now has bytes or an end.
    Readable(StreamId),
    /// A `write` that was blocked can go on, or will say why not.
    Writable(StreamId),
    /// The connection has ended; each stream says so after its last bytes.
    Lost(Lost),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// A SPDY/3.1 connection without a socket. The module's page tells how to drive it.
#[derive(Debug)]
pub struct Connection {
    config: Config,
    role: Role,
    streams: HashMap<StreamId, Stream>,
    /// The id of the next stream that is opened here; `None` when they are used up.
    pub(super) next_id: Option<StreamId>,
    /// The highest id that the peer has opened.
    last_accepted: u32,
    decoder: Decoder,
    inflater: Inflater,
    header_writer: headers::Writer,
    /// Frames in the order of their header blocks; they go before all DATA.
    control: VecDeque<Output>,
    pongs: VecDeque<u32>,
    /// Streams with something to send, each once: the one that was served goes to the back.
    ready: VecDeque<StreamId>,
    events: VecDeque<Event>,
    /// The stream whose full buffer holds back all input.
    full: Option<StreamId>,
    /// Streams without a SYN_REPLY, oldest first.
    replies_due: VecDeque<(Instant, StreamId)>,
    pub(super) pings: Pings,
    lost: Option<Lost>,
}

// A. getters
impl Connection {
    /// Whether input is left lying because a stream's buffer is full. Reading that stream ends the pause.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.full.is_some()
    }

    /// Streams that are not yet over and released.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Why the connection has ended, if it has.
    #[must_use]
    pub fn lost(&self) -> Option<&Lost> {
        self.lost.as_ref()
    }

    /// Whether anything waits to be sent.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !(self.control.is_empty() && self.pongs.is_empty() && self.ready.is_empty())
    }

    /// Bytes that a `write` to the stream would take now.
    #[must_use]
    pub fn writable(&self, id: StreamId) -> usize {
        self.streams.get(&id).map_or(0, |stream| {
            self.config.send_buffer.saturating_sub(stream.send.len())
        })
    }

    /// Bytes that the stream holds unsent.
    #[must_use]
    pub fn unsent(&self, id: StreamId) -> usize {
        self.streams.get(&id).map_or(0, |stream| stream.send.len())
    }

    /// Bytes that the stream holds unread.
    #[must_use]
    pub fn unread(&self, id: StreamId) -> usize {
        self.streams
            .get(&id)
            .map_or(0, |stream| stream.received.len())
    }
}

// B. what comes in
impl Connection {
    /// The side that opens streams.
    #[must_use]
    pub fn client(config: Config, now: Instant) -> Self {
        Self::new(Role::Client, config, now)
    }

    /// The side that accepts them.
    #[must_use]
    pub fn server(config: Config, now: Instant) -> Self {
        Self::new(Role::Server, config, now)
    }

    fn new(role: Role, config: Config, now: Instant) -> Self {
        Self {
            role,
            streams: HashMap::new(),
            next_id: Some(StreamId::new(if role == Role::Client { 1 } else { 2 })),
            last_accepted: 0,
            decoder: Decoder::new(),
            inflater: Inflater::default(),
            header_writer: match role {
                Role::Client => headers::Writer::stored(),
                Role::Server => headers::Writer::deflated(),
            },
            control: VecDeque::new(),
            pongs: VecDeque::new(),
            ready: VecDeque::new(),
            events: VecDeque::new(),
            full: None,
            replies_due: VecDeque::new(),
            pings: Pings::new(role, &config, now),
            lost: None,
            config,
        }
    }

    /// Bytes from the wire, cut anywhere. What is left in `input` must come again, before anything newer, once the
    /// connection is no longer [`paused`](Self::paused).
    ///
    /// # Errors
    /// The peer broke the protocol: the connection has ended, and every stream with it.
    pub fn handle_input(&mut self, input: &mut Bytes, now: Instant) -> Result<(), Error> {
        if !input.is_empty() {
            self.pings.heard(now);
        }
        while !input.is_empty() && self.lost.is_none() {
            let room = match self.decoder.data_stream() {
                Some(id) => self.room(id),
                None => usize::MAX,
            };
            if room == 0 {
                self.full = self.decoder.data_stream();
                return Ok(());
            }
            let step = self
                .decoder
                .decode(input, room)
                .and_then(|item| item.map_or(Ok(()), |item| self.handle(item)));
            if let Err(error) = step {
                self.lose(Lost::Protocol(error.clone()));
                return Err(error);
            }
        }
        if self.lost.is_some() {
            input.clear(); // nothing counts after GOAWAY
        }
        Ok(())
    }

    /// The wire has ended: every stream that isn't over is lost.
    pub fn handle_end(&mut self) {
        self.lose(Lost::Cut);
    }

    /// Time has passed. Never too early to call; [`poll_timeout`](Self::poll_timeout) tells when it is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.lost.is_some() {
            return;
        }
        while let Some(&(due, id)) = self.replies_due.front() {
            if due > now {
                break;
            }
            self.replies_due.pop_front();
            if self
                .streams
                .get(&id)
                .is_some_and(|s| s.reply == Reply::Due && !s.over())
            {
                self.cancel(id, Status::CANCEL, Ended::NoReply);
            }
        }
        match self.pings.handle_timeout(now, self.full.is_some()) {
            Some(PingDue::Send(id)) => self.control.push_back(Output::ping(id)),
            Some(PingDue::Dead) => self.lose(Lost::Silent),
            None => {}
        }
    }

    /// Sends a PING now. Its answer tells that the peer has read all that was sent before; `None` where too many have none.
    pub fn ping(&mut self) -> Option<u32> {
        if self.lost.is_some() {
            return None;
        }
        let id = self.pings.extra()?;
        self.control.push_back(Output::ping(id));
        Some(id)
    }

    /// Whether the PING with this id, or a later one, was answered.
    #[must_use]
    pub fn is_answered(&self, id: u32) -> bool {
        self.pings.is_answered(id)
    }

    /// Whether the transport refuses bytes at the moment. A peer that doesn't take ours owes us no answer.
    pub fn set_blocked(&mut self, blocked: bool, now: Instant) {
        self.pings.set_blocked(blocked, now);
    }

    fn handle(&mut self, item: Item) -> Result<(), Error> {
        match item {
            Item::Data { id, chunk, fin } => self.received_data(id, chunk, fin),
            Item::Control(Control::SynStream { id, fin, block }) => {
                let headers = self.inflater.block(&block)?;
                self.received_syn_stream(id, headers, fin);
            }
            Item::Control(Control::SynReply { id, fin, block }) => {
                let headers = self.inflater.block(&block)?;
                if let Some(stream) = self.streams.get_mut(&id)
                    && stream.reply == Reply::Due
                    && stream.ended.is_none()
                {
                    stream.reply = Reply::Done;
                    self.events.push_back(Event::Replied { id, headers });
                    self.forget_replied();
                    if fin {
                        self.received_fin(id);
                    }
                }
            }
            Item::Control(Control::Headers { id, fin, block }) => {
                self.inflater.block(&block)?;
                if fin {
                    self.received_fin(id);
                }
            }
            Item::Control(Control::RstStream { id, status }) => self.end(id, Ended::Reset(status)),
            Item::Control(Control::Ping(id)) => {
                if !self.pings.answered(id) && self.pongs.len() < MAX_PONGS {
                    self.pongs.push_back(id);
                }
            }
            Item::Control(Control::GoAway) => self.lose(Lost::GoAway),
        }
        Ok(())
    }

    fn received_data(&mut self, id: StreamId, chunk: Bytes, fin: bool) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.remote_fin || stream.ended.is_some() {
            return;
        }
        if !stream.released && !chunk.is_empty() {
            stream.received.push(chunk);
            self.wake_reader(id);
        }
        if fin {
            self.received_fin(id);
        }
    }

    fn received_fin(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.over()
        {
            stream.remote_fin = true;
            self.wake_reader(id);
            self.sweep(id);
        }
    }

    fn received_syn_stream(&mut self, id: StreamId, headers: Headers, fin: bool) {
        if self.role == Role::Client || self.streams.len() >= MAX_ACCEPTED {
            self.refuse(id, Status::REFUSED_STREAM);
            return;
        }
        // spdystream minds the order alone, but an even id may be a stream that this side has opened.
        if id.get() <= self.last_accepted || id.get().is_multiple_of(2) {
            self.refuse(id, Status::PROTOCOL_ERROR);
            return;
        }
        self.last_accepted = id.get();
        let mut stream = Stream::new(Reply::Owed);
        stream.remote_fin = fin;
        self.streams.insert(id, stream);
        self.events.push_back(Event::Opened { id, headers, fin });
    }

    fn refuse(&mut self, id: StreamId, status: Status) {
        if self.control.len() < MAX_WAITING_REFUSALS {
            self.control.push_back(Output::rst_stream(id, status));
        }
    }

    /// How many bytes `id` may still take in. Streams that nobody reads take all, and drop it.
    fn room(&self, id: StreamId) -> usize {
        match self.streams.get(&id) {
            Some(stream) if !stream.released && !stream.remote_fin && stream.ended.is_none() => {
                self.config
                    .receive_buffer
                    .saturating_sub(stream.received.len())
            }
            _ => usize::MAX,
        }
    }
}

// C. commands
impl Connection {
    /// Opens a stream. It may be written at once: whatever the acceptor does about it comes later.
    ///
    /// # Errors
    /// The connection has ended, or has no ids left.
    pub fn open(
        &mut self,
        headers: &[(&str, &str)],
        fin: bool,
        now: Instant,
    ) -> Result<StreamId, OpenError> {
        if let Some(lost) = &self.lost {
            return Err(lost.clone().into());
        }
        let id = self.next_id.ok_or(OpenError::Exhausted)?;
        self.next_id = id.next();
        let mut stream = Stream::new(Reply::Due);
        if fin {
            stream.fin = Fin::Sent;
        }
        self.streams.insert(id, stream);
        let block = self.header_writer.block(headers);
        self.control.push_back(Output::syn_stream(id, fin, &block));
        self.replies_due
            .push_back((now + self.config.reply_timeout, id));
        Ok(id)
    }

    /// Accepts a stream that the peer opened; what was written to it before now goes out. `fin` is a
    /// [`finish`](Self::finish) with it. No effect on a stream that has ended meanwhile.
    pub fn reply(&mut self, id: StreamId, headers: &[(&str, &str)], fin: bool) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.reply != Reply::Owed || stream.ended.is_some() {
            return;
        }
        stream.reply = Reply::Done;
        if fin {
            stream.fin = Fin::Queued;
        }
        // A FIN with bytes before it can't go with the reply.
        let fin = stream.fin == Fin::Queued && stream.send.is_empty();
        if fin {
            stream.fin = Fin::Sent;
        }
        let block = self.header_writer.block(headers);
        self.control.push_back(Output::syn_reply(id, fin, &block));
        self.schedule(id);
        self.sweep(id);
    }

    /// Queues bytes from the front of `data`, as many as there is room for, without a copy. Returns how many.
    ///
    /// # Errors
    /// [`WriteError::Blocked`] when there is no room; otherwise the stream takes no more.
    pub fn write(&mut self, id: StreamId, data: &mut Bytes) -> Result<usize, WriteError> {
        let stream = self.streams.get_mut(&id).ok_or(WriteError::Unknown(id))?;
        if let Some(ended) = &stream.ended {
            return Err(ended.clone().into());
        }
        if stream.fin != Fin::Open {
            return Err(WriteError::Finished);
        }
        let room = self.config.send_buffer.saturating_sub(stream.send.len());
        if room == 0 {
            stream.writer_waits = true;
            return Err(WriteError::Blocked);
        }
        let chunk = data.split_to(data.len().min(room));
        let length = chunk.len();
        if length > 0 {
            stream.send.push(chunk);
            self.schedule(id);
        }
        Ok(length)
    }

    /// The next received bytes; `None` at the peer's FIN.
    ///
    /// # Errors
    /// [`ReadError::Blocked`] when there is nothing yet; otherwise why the stream ended without a FIN. Either end
    /// comes only after the last byte.
    pub fn read(&mut self, id: StreamId) -> Result<Option<Bytes>, ReadError> {
        let stream = self.streams.get_mut(&id).ok_or(ReadError::Unknown(id))?;
        if let Some(chunk) = stream.received.pop(usize::MAX) {
            // Half empty before the pause ends: a reader that takes crumbs must not cost a wake-up each.
            if self.full == Some(id) && stream.received.len() <= self.config.receive_buffer / 2 {
                self.full = None;
            }
            return Ok(Some(chunk));
        }
        if stream.remote_fin {
            return Ok(None);
        }
        if let Some(ended) = &stream.ended {
            return Err(ended.clone().into());
        }
        stream.reader_waits = true;
        Err(ReadError::Blocked)
    }

    /// Whether the peer has accepted a stream that was opened here.
    ///
    /// # Errors
    /// [`ReadError::Blocked`] while it hasn't: [`Event::Replied`] follows, or [`Event::Readable`] if it never will.
    pub fn replied(&mut self, id: StreamId) -> Result<(), ReadError> {
        let stream = self.streams.get_mut(&id).ok_or(ReadError::Unknown(id))?;
        if stream.reply != Reply::Due {
            return Ok(());
        }
        if let Some(ended) = &stream.ended {
            return Err(ended.clone().into());
        }
        stream.reader_waits = true;
        Err(ReadError::Blocked)
    }

    /// FIN, after what is queued. Once; a second call does nothing.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.fin == Fin::Open
            && stream.ended.is_none()
        {
            stream.fin = Fin::Queued;
            self.schedule(id);
        }
    }

    /// RST, at once and in place of what is queued. Received bytes can still be read. No effect on a stream that is
    /// over.
    pub fn reset(&mut self, id: StreamId, status: Status) {
        self.cancel(id, status, Ended::Reset(status));
    }

    /// Nobody holds the stream any more. What was written before a `finish` still goes out; a stream that isn't over
    /// then is reset.
    pub fn release(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.released = true;
        stream.received = super::stream::Chunks::default();
        if self.full == Some(id) {
            self.full = None;
        }
        if stream.fin == Fin::Open {
            self.reset(id, Status::CANCEL);
        }
        self.sweep(id);
    }

    /// Ends the connection from this side: resets what is open, then says GOAWAY. Send the output before closing.
    pub fn close(&mut self) {
        if self.lost.is_some() {
            return;
        }
        let mut open: Vec<_> = self.streams.keys().copied().collect();
        open.sort_unstable();
        for id in open {
            self.cancel(id, Status::CANCEL, Ended::Lost(Lost::Closed));
        }
        self.control
            .push_back(Output::go_away(self.last_accepted, 0));
        self.end_all(Lost::Closed);
    }
}

// D. what goes out
impl Connection {
    /// The next frame to send. The streams take turns, a frame each.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(id) = self.pongs.pop_front() {
            return Some(Output::ping(id));
        }
        if let Some(frame) = self.control.pop_front() {
            return Some(frame);
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            stream.scheduled = false;
            if stream.ended.is_some() {
                continue;
            }
            if let Some(chunk) = stream.send.pop(MAX_DATA) {
                // Room for a whole frame before the writer is woken; a smaller buffer is emptied first.
                let low = self.config.send_buffer.saturating_sub(MAX_DATA);
                if stream.writer_waits && stream.send.len() <= low {
                    stream.writer_waits = false;
                    self.events.push_back(Event::Writable(id));
                }
                self.schedule(id);
                return Some(Output::data(id, false, chunk));
            }
            if stream.fin == Fin::Queued {
                // On its own and empty, as spdystream does it.
                stream.fin = Fin::Sent;
                self.sweep(id);
                return Some(Output::data(id, true, Bytes::new()));
            }
        }
        None
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), unless something comes in before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.lost.is_some() {
            return None;
        }
        let reply = self.replies_due.front().map(|&(due, _)| due);
        let ping = self.pings.poll_timeout(self.full.is_some());
        reply.into_iter().chain(ping).min()
    }

    /// What has happened since the last call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
}

impl Connection {
    fn schedule(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.scheduled
            && stream.has_output()
        {
            stream.scheduled = true;
            self.ready.push_back(id);
        }
    }

    fn cancel(&mut self, id: StreamId, status: Status, why: Ended) {
        if self.streams.get(&id).is_some_and(|stream| !stream.over()) {
            self.control.push_back(Output::rst_stream(id, status));
            self.end(id, why);
        }
    }

    fn end(&mut self, id: StreamId, why: Ended) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.over()
        {
            stream.end(why);
            if self.full == Some(id) {
                self.full = None;
            }
            self.wake_reader(id);
            self.wake_writer(id);
            self.sweep(id);
        }
    }

    fn lose(&mut self, why: Lost) {
        if self.lost.is_none() {
            self.control.clear();
            self.pongs.clear();
            self.end_all(why);
        }
    }

    fn end_all(&mut self, why: Lost) {
        self.lost = Some(why.clone());
        let mut open: Vec<_> = self.streams.keys().copied().collect();
        open.sort_unstable();
        for id in open {
            self.end(id, Ended::Lost(why.clone()));
        }
        self.ready.clear();
        self.replies_due.clear();
        self.full = None;
        self.events.push_back(Event::Lost(why));
    }

    /// Frees a released stream as soon as nothing of it is left to send.
    fn sweep(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if !stream.released || stream.has_output() {
            return;
        }
        if !stream.over() {
            // Its FIN is out and the peer still sends: tell it that nobody listens.
            self.control
                .push_back(Output::rst_stream(id, Status::CANCEL));
        }
        self.streams.remove(&id);
        self.forget_replied();
    }

    /// Drops deadlines that no longer mean anything, so that the list stays as long as the wait.
    fn forget_replied(&mut self) {
        while let Some((_, id)) = self.replies_due.front()
            && self
                .streams
                .get(id)
                .is_none_or(|s| s.reply != Reply::Due || s.over())
        {
            self.replies_due.pop_front();
        }
    }

    fn wake_reader(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.reader_waits
            && !stream.released
        {
            stream.reader_waits = false;
            self.events.push_back(Event::Readable(id));
        }
    }

    fn wake_writer(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.writer_waits
            && !stream.released
        {
            stream.writer_waits = false;
            self.events.push_back(Event::Writable(id));
        }
    }
}
