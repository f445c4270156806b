//! Remote commands over SPDY, `v4.channel.k8s.io`: the streaming server in the container runtime.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kpf::spdy::{Config, Connection, Event, ReadError, Status, StreamId};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::channels::LINGER;
use super::faults::ExecEnd;
use super::node::{Command, Inlet};
use super::runtime::{Channel, Ends, Remote};
use super::transport::{Sink, Source};

/// Chunks that wait between the connection and the command; few, so that what is not read stays visible as such.
const CHANNEL: usize = 4;
/// Output that is gathered before the wire must take some.
const BATCH: usize = 128 * 1024;
/// GOAWAY after stream 0, status 0.
const GO_AWAY: &[u8] = &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];

/// Serves one connection to its end.
pub(crate) async fn serve(mut source: Source, sink: Sink, remote: Remote) -> io::Result<()> {
    let (batches, receiver) = mpsc::channel(2);
    let mut writer = tokio::spawn(sink.run(receiver));
    let ended = Driver {
        connection: Connection::server(Config::default(), std::time::Instant::now()),
        accept_at: Instant::now() + remote.faults.late,
        end: remote.faults.end,
        missing: remote.channels(),
        remote: Some(remote),
        unanswered: Vec::new(),
        ids: HashMap::new(),
        inlets: HashMap::new(),
        readable: BTreeSet::new(),
        batch: BytesMut::new(),
        room: Arc::default(),
    }
    .run(&mut source, batches)
    .await;
    // it ends by itself once its channel is closed, unless the client doesn't read
    if timeout(Duration::from_secs(1), &mut writer).await.is_err() {
        writer.abort();
    }
    // closing a connection with unread bytes destroys those that are on their way
    let rest = async { while let Ok(Some(_)) = source.next().await {} };
    let _ = timeout(LINGER, rest).await;
    ended
}

struct Driver {
    connection: Connection,
    /// Streams get their replies from then on.
    accept_at: Instant,
    end: ExecEnd,
    /// Streams that have yet to be opened.
    missing: Vec<Channel>,
    /// Until it is started.
    remote: Option<Remote>,
    unanswered: Vec<StreamId>,
    ids: HashMap<Channel, StreamId>,
    /// Where the client's bytes go.
    inlets: HashMap<StreamId, mpsc::Sender<Bytes>>,
    readable: BTreeSet<StreamId>,
    batch: BytesMut,
    /// Told whenever the command has taken a chunk.
    room: Arc<Notify>,
}

impl Driver {
    async fn run(mut self, source: &mut Source, batches: mpsc::Sender<Bytes>) -> io::Result<()> {
        let (to_client, mut commands) = mpsc::channel(4);
        let mut to_client = Some(to_client);
        let mut input = Bytes::new();
        let mut closing = false;
        loop {
            if !input.is_empty() && !self.connection.paused() {
                // what the peer broke shows as a lost connection below
                let _ = self
                    .connection
                    .handle_input(&mut input, std::time::Instant::now());
            }
            self.take_events();
            if self.accept_at <= Instant::now() {
                // each at once: clients of Go open the next one only then
                for id in std::mem::take(&mut self.unanswered) {
                    self.connection.reply(id, &[], false);
                }
            }
            if self.missing.is_empty()
                && self.unanswered.is_empty()
                && let Some(remote) = self.remote.take()
            {
                let to_client = to_client.take().expect("it is started once");
                self.start(remote, to_client);
            }
            self.deliver();
            self.collect();
            closing |= self.connection.lost().is_some();
            if closing && self.batch.is_empty() {
                return Ok(());
            }
            let waits = self.accept_at > Instant::now();
            tokio::select! {
                permit = batches.reserve(), if !self.batch.is_empty() => match permit {
                    Ok(permit) => permit.send(self.batch.split().freeze()),
                    Err(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                },
                read = source.next(), if input.is_empty() && !closing => match read? {
                    Some(bytes) => input = bytes,
                    None => closing = true,
                },
                command = commands.recv(), if self.batch.len() < BATCH && !closing => match command {
                    Some(command) => self.apply(command),
                    None => match self.end {
                        ExecEnd::Usual | ExecEnd::Close(_) => self.connection.close(),
                        ExecEnd::GoAway => {
                            self.batch.extend_from_slice(GO_AWAY);
                            closing = true;
                        }
                        ExecEnd::Eof => closing = true,
                        ExecEnd::Stay => return self.stay(source, &batches).await,
                    },
                },
                () = sleep_until(self.accept_at), if waits => {}
                () = self.room.notified() => {}
            }
        }
    }

    /// Says nothing more until the client goes.
    async fn stay(mut self, source: &mut Source, batches: &mpsc::Sender<Bytes>) -> io::Result<()> {
        // a client that is gone ends it, too
        let _ = batches.send(self.batch.split().freeze()).await;
        while source.next().await?.is_some() {}
        Ok(())
    }

    fn take_events(&mut self) {
        while let Some(event) = self.connection.poll_event() {
            match event {
                Event::Opened { id, headers, .. } => {
                    let channel = match headers.get("streamtype") {
                        Some("error") => Channel::Error,
                        Some("stdin") => Channel::Stdin,
                        Some("stdout") => Channel::Stdout,
                        Some("stderr") => Channel::Stderr,
                        Some("resize") => Channel::Resize,
                        _ => {
                            self.connection.reset(id, Status::CANCEL);
                            continue;
                        }
                    };
                    // one that was not asked for hangs a real server; here it is refused, which tests see
                    match self.missing.iter().position(|it| *it == channel) {
                        Some(index) => {
                            self.missing.remove(index);
                            self.ids.insert(channel, id);
                            self.unanswered.push(id);
                        }
                        None => self.connection.reset(id, Status::PROTOCOL_ERROR),
                    }
                }
                Event::Readable(id) => {
                    self.readable.insert(id);
                }
                _ => {}
            }
        }
    }

    fn start(&mut self, remote: Remote, to_client: mpsc::Sender<Command<Channel>>) {
        let mut inlet = |channel| {
            let (chunks, receiver) = mpsc::channel(CHANNEL);
            if let Some(id) = self.ids.get(&channel) {
                self.inlets.insert(*id, chunks);
                self.readable.insert(*id);
            }
            Inlet::new(receiver, self.room.clone())
        };
        let ends = Ends {
            stdin: inlet(Channel::Stdin),
            sizes: inlet(Channel::Resize),
            to_client,
        };
        // not of this connection: it outlives its client
        tokio::spawn(remote.run(ends));
    }

    /// Moves what has arrived to the command, as far as it has room.
    fn deliver(&mut self) {
        for id in std::mem::take(&mut self.readable) {
            if self.deliver_stream(id) {
                self.readable.insert(id);
            }
        }
    }

    /// Says whether the stream must be looked at again.
    fn deliver_stream(&mut self, id: StreamId) -> bool {
        let Some(chunks) = self.inlets.get(&id) else {
            return false;
        };
        loop {
            let permit = match chunks.try_reserve() {
                Ok(permit) => Some(permit),
                Err(mpsc::error::TrySendError::Full(())) => return true,
                Err(mpsc::error::TrySendError::Closed(())) => None,
            };
            match self.connection.read(id) {
                Ok(Some(bytes)) => {
                    if let Some(permit) = permit {
                        permit.send(bytes);
                    }
                }
                Err(ReadError::Blocked) => return false,
                Ok(None) | Err(_) => {
                    drop(permit);
                    self.inlets.remove(&id);
                    return false;
                }
            }
        }
    }

    fn apply(&mut self, command: Command<Channel>) {
        match command {
            Command::Data(channel, mut bytes) => {
                let Some(&id) = self.ids.get(&channel) else {
                    return;
                };
                while !bytes.is_empty() && self.connection.write(id, &mut bytes).is_ok() {
                    self.collect();
                }
            }
            Command::Finish(channel) => {
                if let Some(&id) = self.ids.get(&channel) {
                    self.connection.finish(id);
                    self.collect();
                }
            }
            Command::Reset(_) => {}
        }
    }

    fn collect(&mut self) {
        while let Some(frame) = self.connection.poll_output() {
            self.batch.extend_from_slice(&frame.head);
            self.batch.extend_from_slice(&frame.body);
        }
    }
}
