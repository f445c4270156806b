//! The streaming server's end of port-forward: pairs of SPDY streams become connections to a pod's ports.
//!
//! One task drives the connection and owns it; each pair has a task of its own. Upwards a pair takes one frame at a
//! time from its worker ([`workers`](super::workers)); downwards all pairs share one bounded channel, as they share
//! one lock on a real node. Whoever doesn't read holds up the others: SPDY has no flow control there.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kpf::spdy::{Config, Connection, Headers, ReadError, Status, StreamId};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::faults::{Behaviour, Ending, Replies};
use super::node::{self, Command, Failure, Sandbox};
use super::transport::{Sink, Source};
use super::tunnel::{Counters, Order, Orders};
use super::wire::lock;
use super::workers::{self, Job, Workers};

/// Frames between a worker and a pair; the worker waits until it is taken.
const CHANNEL: usize = 1;
/// Output that is gathered before the wire must take some.
const BATCH: usize = 128 * 1024;

/// Serves one connection to its end.
pub(crate) async fn serve(
    source: Source,
    sink: Sink,
    sandbox: Arc<Sandbox>,
    behaviour: Arc<Mutex<Behaviour>>,
    orders: Orders,
) -> io::Result<()> {
    let (batches, receiver) = mpsc::channel(2);
    let writer = tokio::spawn(sink.run(receiver));
    let (sender, commands) = mpsc::channel(64);
    let driver = Driver {
        connection: Connection::server(Config::default(), std::time::Instant::now()),
        sandbox,
        behaviour,
        counters: orders.counters,
        streams: HashMap::new(),
        pairs: HashMap::new(),
        gone: false,
        batch: BytesMut::new(),
        room: Arc::default(),
        sender,
        forwards: JoinSet::new(),
    };
    let ended = driver.run(source, batches, commands, orders.receiver).await;
    // the writer ends by itself once its channel is closed, unless the client doesn't read
    let mut writer = writer;
    if timeout(Duration::from_secs(1), &mut writer).await.is_err() {
        writer.abort();
    }
    ended
}

struct Driver {
    connection: Connection,
    sandbox: Arc<Sandbox>,
    behaviour: Arc<Mutex<Behaviour>>,
    counters: Arc<Counters>,
    streams: HashMap<u32, Stream>,
    /// Pairs of which one stream is missing, by request id.
    pairs: HashMap<String, Pair>,
    /// The client is gone: streams that nobody reads hold up nobody.
    gone: bool,
    batch: BytesMut,
    /// Told whenever a forward has taken a chunk from its channel.
    room: Arc<Notify>,
    sender: mpsc::Sender<Command<StreamId>>,
    forwards: JoinSet<()>,
}

/// What the driver knows about a stream besides the connection's own state.
enum Inlet {
    /// Nobody reads: an error stream, a data stream whose pair is not complete, or one whose forward has ended. What
    /// arrives holds up its worker.
    Unread,
    /// A data stream that is being forwarded.
    Forwarded(mpsc::Sender<Bytes>),
    /// A forward that has ended; what arrives is thrown away.
    Drained,
}

struct Stream {
    id: StreamId,
    inlet: Inlet,
    /// What becomes of it after its forward.
    drains: bool,
    finished: bool,
    remote_ended: bool,
}

struct Pair {
    error: Option<StreamId>,
    data: Option<(StreamId, u16)>,
    /// A reply that is held back so that the second stream's goes first.
    owed: Option<StreamId>,
    due: Instant,
}

impl Driver {
    async fn run(
        mut self,
        mut source: Source,
        batches: mpsc::Sender<Bytes>,
        mut commands: mpsc::Receiver<Command<StreamId>>,
        mut orders: mpsc::Receiver<Order>,
    ) -> io::Result<()> {
        let mut workers = Workers::new();
        let mut closing = false;
        let ended = loop {
            workers.run(&mut self);
            let blocked = workers.blocked();
            self.counters.blocked.store(blocked, Ordering::Relaxed);
            self.collect();
            if self.connection.lost().is_some() || workers.goodbye() {
                closing = true;
            }
            if closing && self.batch.is_empty() {
                break Ok(());
            }
            let due = self.pairs.values().map(|pair| pair.due).min();
            tokio::select! {
                permit = batches.reserve(), if !self.batch.is_empty() => match permit {
                    Ok(permit) => permit.send(self.batch.split().freeze()),
                    Err(_) => break Err(io::ErrorKind::BrokenPipe.into()),
                },
                read = source.next(), if !blocked && !closing => match read {
                    Ok(Some(bytes)) => workers.feed(&bytes),
                    Ok(None) => closing = true,
                    Err(error) => break Err(error),
                },
                Some(command) = commands.recv(), if self.batch.len() < BATCH && !closing => {
                    self.apply(command);
                    while self.batch.len() < BATCH && let Ok(command) = commands.try_recv() {
                        self.apply(command);
                    }
                }
                Some(order) = orders.recv(), if !closing => match order {
                    Order::Inject(bytes) => self.batch.extend_from_slice(&bytes),
                    Order::GoAway => self.connection.close(),
                    Order::Close => closing = true,
                },
                Some(_) = self.forwards.join_next() => {
                    self.counters.open_pairs.fetch_sub(1, Ordering::Relaxed);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.give_up_pairs();
                }
                () = self.room.notified() => {}
            }
        };
        drop(source);
        drop(batches);
        drop(commands);
        self.wind_up(workers).await;
        ended
    }

    fn opened(&mut self, id: StreamId, headers: &Headers) {
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        let behaviour = lock(&self.behaviour).clone();
        let port = headers.get("port").and_then(parse_port);
        let is_error = match headers.get("streamtype") {
            Some("error") => Some(true),
            Some("data") => Some(false),
            _ => None,
        };
        let (Some(port), Some(is_error)) = (port, is_error) else {
            self.connection.reset(id, Status::CANCEL);
            self.connection.release(id);
            return;
        };
        match behaviour.replies {
            Replies::AtOnce | Replies::Swapped => {}
            Replies::Never => return,
            Replies::Reset => {
                self.connection.reset(id, Status::CANCEL);
                self.connection.release(id);
                return;
            }
        }
        let stream = Stream {
            id,
            inlet: Inlet::Unread,
            drains: behaviour.ending == Ending::ErrorStreamFirst,
            finished: false,
            remote_ended: false,
        };
        self.streams.insert(id.get(), stream);
        // old clients send no request id; the server then trusts that both streams were opened in a row
        let request = match headers.get("requestid") {
            Some(request) => request.to_owned(),
            None if is_error => id.to_string(),
            None => id.get().wrapping_sub(2).to_string(),
        };
        let pair = self.pairs.entry(request.clone()).or_insert_with(|| Pair {
            error: None,
            data: None,
            owed: None,
            due: Instant::now() + behaviour.pair_timeout,
        });
        let clash = match is_error {
            true if pair.error.is_some() => Some("error"),
            false if pair.data.is_some() => Some("data"),
            true => {
                pair.error = Some(id);
                None
            }
            false => {
                pair.data = Some((id, port));
                None
            }
        };
        let complete = pair.error.zip(pair.data);
        let error_stream = pair.error;
        let first = complete.is_none();
        if behaviour.replies == Replies::Swapped && first {
            pair.owed = Some(id);
        } else {
            let owed = pair.owed.take();
            self.connection.reply(id, &[], false);
            if let Some(owed) = owed {
                self.collect();
                self.connection.reply(owed, &[], false);
            }
        }
        if let Some(kind) = clash {
            let text = format!(
                "error processing stream for request {request}: {kind} stream already assigned"
            );
            if let Some(error) = error_stream {
                self.apply(Command::Data(error, text.into()));
            }
        } else if let Some((error, (data, port))) = complete {
            self.pairs.remove(&request);
            self.start(error, data, port, behaviour);
        }
    }

    fn start(&mut self, error: StreamId, data: StreamId, port: u16, behaviour: Behaviour) {
        let (chunks, from_client) = mpsc::channel(CHANNEL);
        if let Some(stream) = self.streams.get_mut(&data.get())
            && !stream.remote_ended
        {
            stream.inlet = Inlet::Forwarded(chunks);
        }
        self.counters.pairs.fetch_add(1, Ordering::Relaxed);
        self.counters.open_pairs.fetch_add(1, Ordering::Relaxed);
        let sandbox = self.sandbox.clone();
        let to_client = self.sender.clone();
        let inlet = node::Inlet::new(from_client, self.room.clone());
        self.forwards.spawn(async move {
            let ended = node::forward(&sandbox, port, &behaviour, inlet, &to_client, data).await;
            for command in ending(behaviour.ending, ended, error, data) {
                if to_client.send(command).await.is_err() {
                    return;
                }
            }
        });
    }

    /// Bytes of a stream, and perhaps its end.
    fn data(&mut self, raw: u32, frame: Bytes) -> Result<Option<u32>, Job> {
        let bytes = frame.slice(workers::HEAD..);
        let mut given = None;
        if let Some(stream) = self.streams.get_mut(&raw)
            && !bytes.is_empty()
            && !stream.remote_ended
        {
            match &stream.inlet {
                Inlet::Forwarded(chunks) => match chunks.try_send(bytes) {
                    Ok(()) => given = Some(raw),
                    // a copy that fails ends with the bytes that it has in hand: these
                    Err(_) if stream.drains => stream.inlet = Inlet::Drained,
                    Err(_) => stream.inlet = Inlet::Unread,
                },
                Inlet::Unread if !self.gone => return Err(Job::Data { id: raw, frame }),
                Inlet::Unread | Inlet::Drained => {}
            }
        }
        self.pass(raw, frame);
        Ok(given)
    }

    /// Lets the protocol have a frame of a stream, and sees whether it was the last. The bytes are elsewhere.
    fn pass(&mut self, raw: u32, mut frame: Bytes) {
        let id = self.streams.get(&raw).map(|stream| stream.id);
        // a frame that is longer than the protocol's buffer goes in pieces
        while !frame.is_empty() && self.connection.lost().is_none() {
            workers::pass(&mut self.connection, &mut frame);
            let Some(id) = id else { continue };
            let end = loop {
                match self.connection.read(id) {
                    Ok(Some(_)) => {}
                    end => break end,
                }
            };
            if end != Err(ReadError::Blocked) {
                self.remote_ended(raw);
            }
        }
    }

    fn remote_ended(&mut self, raw: u32) {
        let Some(stream) = self.streams.get_mut(&raw) else {
            return;
        };
        stream.inlet = Inlet::Unread;
        stream.remote_ended = true;
        if stream.finished {
            let id = stream.id;
            self.forget(id);
        }
    }

    /// Does what a forward asked for, and puts it into the batch at once: the order of commands is the order on
    /// the wire.
    fn apply(&mut self, command: Command<StreamId>) {
        match command {
            Command::Data(id, mut bytes) => {
                while !bytes.is_empty() && self.connection.write(id, &mut bytes).is_ok() {
                    self.collect();
                }
            }
            Command::Finish(id) => {
                self.connection.finish(id);
                self.collect();
                self.finished(id);
            }
            Command::Reset(id) => match self.streams.get_mut(&id.get()) {
                // Go's Reset says nothing on a stream that was closed before, but its worker is let go
                Some(stream) if stream.finished => stream.inlet = Inlet::Drained,
                Some(_) => {
                    self.connection.reset(id, Status::CANCEL);
                    self.forget(id);
                    self.collect();
                }
                None => {}
            },
        }
    }

    fn finished(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id.get()) else {
            return;
        };
        stream.finished = true;
        if stream.remote_ended {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: StreamId) {
        self.streams.remove(&id.get());
        self.connection.release(id);
    }

    fn collect(&mut self) {
        while let Some(frame) = self.connection.poll_output() {
            self.batch.extend_from_slice(&frame.head);
            self.batch.extend_from_slice(&frame.body);
        }
    }

    /// Pairs whose second stream didn't come get a text on the error stream and, as in Kubernetes, no end.
    fn give_up_pairs(&mut self) {
        let now = Instant::now();
        let late: Vec<_> = self.pairs.extract_if(|_, pair| pair.due <= now).collect();
        for (request, pair) in late {
            if let Some(error) = pair.error {
                let text =
                    format!("(conn=0xc000000000, request={request}) timed out waiting for streams");
                self.apply(Command::Data(error, text.into()));
            }
        }
    }

    /// The client is gone: what it had sent still reaches the pods, then the forwards end like any other.
    async fn wind_up(mut self, mut workers: Workers) {
        self.gone = true;
        let rest = async {
            loop {
                self.batch.clear();
                workers.run(&mut self);
                if workers.idle() {
                    break;
                }
                let taken = self.room.clone();
                taken.notified().await;
            }
            self.streams.clear();
            while self.forwards.join_next().await.is_some() {}
        };
        // longer than any grace: a pod that doesn't read is left to itself
        let _ = timeout(Duration::from_secs(2), rest).await;
    }
}

impl workers::Handler for Driver {
    fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    fn can_answer(&self) -> bool {
        self.batch.len() < BATCH
    }

    fn is_busy(&self, stream: u32) -> bool {
        let stream = self.streams.get(&stream);
        stream.is_some_and(|stream| match &stream.inlet {
            Inlet::Forwarded(chunks) => chunks.capacity() == 0 && !chunks.is_closed(),
            Inlet::Unread | Inlet::Drained => false,
        })
    }

    fn handle(&mut self, job: Job) -> Result<Option<u32>, Job> {
        let given = match job {
            Job::Open(id, headers) => {
                self.opened(id, &headers);
                None
            }
            Job::Data { id, frame } => self.data(id, frame)?,
            Job::Reset { id, frame } => {
                self.pass(id, frame);
                None
            }
            Job::Other(mut frame) => {
                workers::pass(&mut self.connection, &mut frame);
                None
            }
        };
        self.collect();
        Ok(given)
    }
}

/// What a runtime says at the end of a forward.
fn ending(
    style: Ending,
    ended: Result<(), Failure>,
    error: StreamId,
    data: StreamId,
) -> Vec<Command<StreamId>> {
    use Command::{Data, Finish, Reset};
    let failure = match (ended, style) {
        (Ok(()), Ending::ErrorStreamFirst) => return vec![Finish(error), Finish(data)],
        (Ok(()), _) => return vec![Finish(data), Finish(error)],
        (Err(failure), _) => failure,
    };
    if style == Ending::Containerd17 && failure.reset {
        return vec![Reset(data), Reset(error)];
    }
    let mut commands = Vec::new();
    if failure.dialled && style != Ending::ErrorStreamFirst {
        commands.push(Finish(data));
    }
    commands.push(Data(error, failure.text.into()));
    match style {
        Ending::Current | Ending::ErrorStreamFirst => {
            commands.extend([Reset(data), Reset(error)]);
        }
        Ending::Containerd17 | Ending::Containerd20 => {
            commands.extend([Finish(error), Finish(data)]);
        }
    }
    commands
}

/// A port as the streaming server reads it: decimal, 1 to 65535.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}
