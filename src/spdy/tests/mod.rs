//! Two state machines and a wire of bytes, with a clock that the test owns.
#![allow(clippy::indexing_slicing, reason = "a test may panic")]

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::*;

mod backpressure;
mod codec;
mod endings;
mod liveness;
mod properties;
mod streams;
mod vectors;

/// A client and a server joined by two pipes that deliver `chop` bytes at a time.
#[derive(Debug)]
struct Pair {
    client: Connection,
    server: Connection,
    to_server: BytesMut,
    to_client: BytesMut,
    now: Instant,
    chop: usize,
}

impl Pair {
    fn new() -> Self {
        Self::with(Config::default(), Config::default())
    }

    fn with(client: Config, server: Config) -> Self {
        let now = Instant::now();
        Self {
            client: Connection::client(client, now),
            server: Connection::server(server, now),
            to_server: BytesMut::new(),
            to_client: BytesMut::new(),
            now,
            chop: usize::MAX,
        }
    }

    /// Carries everything that both have to say until neither says more, or takes more.
    fn drive(&mut self) {
        loop {
            let sent = take_output(&mut self.client, &mut self.to_server)
                + take_output(&mut self.server, &mut self.to_client);
            let taken = deliver(&mut self.server, &mut self.to_server, self.chop, self.now)
                + deliver(&mut self.client, &mut self.to_client, self.chop, self.now);
            if sent + taken == 0 {
                return;
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.client.handle_timeout(self.now);
        self.server.handle_timeout(self.now);
    }

    fn open(&mut self, headers: &[(&str, &str)]) -> StreamId {
        self.client.open(headers, false, self.now).unwrap()
    }

    /// 0 is the client, 1 the server.
    fn side(&mut self, side: usize) -> &mut Connection {
        match side {
            0 => &mut self.client,
            _ => &mut self.server,
        }
    }

    /// A stream that the server has accepted, with all events about it taken.
    fn accepted(&mut self) -> StreamId {
        let id = self.open(&[("streamtype", "data")]);
        self.drive();
        self.server.reply(id, &[], false);
        self.drive();
        events(&mut self.server);
        events(&mut self.client);
        id
    }

    /// What a scripted server says.
    fn say(&mut self, frames: &[Output]) -> Result<(), Error> {
        self.client.handle_input(&mut wire(frames), self.now)
    }
}

/// Everything that `of` has to send.
fn frames(of: &mut Connection) -> Vec<Output> {
    std::iter::from_fn(|| of.poll_output()).collect()
}

fn wire(frames: &[Output]) -> Bytes {
    let mut bytes = BytesMut::new();
    for frame in frames {
        bytes.extend_from_slice(&frame.head);
        bytes.extend_from_slice(&frame.body);
    }
    bytes.freeze()
}

/// How much `of` holds: every byte of it shows in its Debug text.
fn weight(of: &Connection) -> usize {
    format!("{of:?}").len()
}

/// A DATA frame.
fn data(id: StreamId, body: &'static [u8], fin: bool) -> Output {
    Output::data(id, fin, Bytes::from_static(body))
}

/// Writes all of `body`, which must fit.
fn write(to: &mut Connection, id: StreamId, body: &[u8]) {
    let mut body = Bytes::copy_from_slice(body);
    to.write(id, &mut body).unwrap();
    assert!(body.is_empty(), "it fits the send buffer");
}

fn take_output(from: &mut Connection, wire: &mut BytesMut) -> usize {
    let before = wire.len();
    while let Some(frame) = from.poll_output() {
        wire.extend_from_slice(&frame.head);
        wire.extend_from_slice(&frame.body);
    }
    wire.len() - before
}

/// Returns how many bytes were taken.
fn deliver(to: &mut Connection, wire: &mut BytesMut, chop: usize, now: Instant) -> usize {
    let before = wire.len();
    while !wire.is_empty() {
        let mut input = wire.split_to(wire.len().min(chop)).freeze();
        let whole = input.len();
        to.handle_input(&mut input, now).unwrap();
        let stuck = input.len() == whole;
        if !input.is_empty() {
            let rest = wire.split();
            wire.extend_from_slice(&input);
            wire.extend_from_slice(&rest);
        }
        if stuck {
            break;
        }
    }
    before - wire.len()
}

fn events(of: &mut Connection) -> Vec<Event> {
    std::iter::from_fn(|| of.poll_event()).collect()
}

/// All that is there to read, and how it ended.
fn read_all(of: &mut Connection, id: StreamId) -> (Vec<u8>, Result<(), ReadError>) {
    let mut all = Vec::new();
    loop {
        match of.read(id) {
            Ok(Some(chunk)) => all.extend_from_slice(&chunk),
            Ok(None) => return (all, Ok(())),
            Err(error) => return (all, Err(error)),
        }
    }
}

fn hex(text: &str) -> Bytes {
    let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect::<Vec<_>>()
        .into()
}
