//! What holds for any sequence of operations, any bytes and any way to cut them.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::spdy::frame::{Control, Decoder, Item};
use crate::spdy::headers::{Inflater, Writer};

const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
const RECEIVE_BUFFER: usize = 700;

fn config() -> Config {
    Config {
        receive_buffer: RECEIVE_BUFFER,
        send_buffer: 900,
        reply_timeout: REPLY_TIMEOUT,
        ping_period: Some(Duration::from_secs(10)),
        silence: Duration::from_secs(60),
    }
}

fn chops() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1), 2..20usize, 100..2000usize, Just(usize::MAX)]
}

fn stream_ids() -> impl Strategy<Value = StreamId> {
    (1..=StreamId::MAX.get()).prop_map(StreamId::new)
}

/// A frame, and what a decoder makes of it.
fn frame() -> impl Strategy<Value = (Output, Item)> {
    let control = |frame: Output, control| (frame, Item::Control(control));
    let blocks = vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    prop_oneof![
        (stream_ids(), any::<bool>(), vec(any::<u8>(), 0..300)).prop_map(|(id, fin, body)| {
            let chunk = Bytes::from(body);
            let frame = Output::data(id, fin, chunk.clone());
            (frame, Item::Data { id, chunk, fin })
        }),
        (stream_ids(), any::<bool>(), blocks.clone()).prop_map(move |(id, fin, block)| control(
            Output::syn_stream(id, fin, &block),
            Control::SynStream { id, fin, block }
        )),
        (stream_ids(), any::<bool>(), blocks).prop_map(move |(id, fin, block)| control(
            Output::syn_reply(id, fin, &block),
            Control::SynReply { id, fin, block }
        )),
        (stream_ids(), any::<u32>().prop_map(Status)).prop_map(move |(id, status)| control(
            Output::rst_stream(id, status),
            Control::RstStream { id, status }
        )),
        (1..=u32::MAX).prop_map(move |id| control(Output::ping(id), Control::Ping(id))),
        any::<(u32, u32)>().prop_map(move |(last, status)| control(
            Output::go_away(last, status),
            Control::GoAway
        )),
    ]
}

/// Joins the slices of each DATA frame.
fn decode_all(wire: &[u8], chop: usize) -> Vec<Item> {
    let mut decoder = Decoder::new();
    let mut items = Vec::new();
    let mut begun = BytesMut::new();
    for piece in wire.chunks(chop.min(wire.len().max(1))) {
        let mut input = Bytes::copy_from_slice(piece);
        while !input.is_empty() {
            match decoder.decode(&mut input, usize::MAX).unwrap() {
                Some(Item::Data { id, chunk, fin }) => {
                    begun.extend_from_slice(&chunk);
                    if decoder.data_stream().is_none() {
                        let chunk = begun.split().freeze();
                        items.push(Item::Data { id, chunk, fin });
                    }
                }
                Some(item) => items.push(item),
                None => {}
            }
        }
    }
    items
}

/// Bytes that are nearly a conversation.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let control =
        (1..11u8, any::<u8>(), vec(any::<u8>(), 0..40)).prop_map(|(kind, flags, body)| {
            let mut frame = vec![0x80, 3, 0, kind, flags, 0, 0, body.len() as u8];
            frame.extend(body);
            frame
        });
    let data =
        (0..8u8, any::<u8>(), 0..2000u16, 0..2000usize).prop_map(|(id, flags, claimed, length)| {
            let [high, low] = claimed.to_be_bytes();
            let mut frame = vec![0, 0, 0, id, flags, 0, high, low];
            frame.resize(8 + length, b'd');
            frame
        });
    let whole = frame().prop_map(|(frame, _)| wire(&[frame]).to_vec());
    let noise = vec(any::<u8>(), 0..60);
    vec(
        prop_oneof![2 => control, 4 => data, 4 => whole, 1 => noise],
        0..30,
    )
    .prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn frames_survive_the_wire(frames in vec(frame(), 0..20), chop in chops()) {
        let (frames, items): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
        prop_assert_eq!(decode_all(&wire(&frames), chop), items);
    }

    #[test]
    fn headers_survive_the_wire(
        blocks in vec(vec(("[a-z0-9:-]{1,20}", "\\PC{0,300}"), 0..20), 1..20),
    ) {
        for mut writer in [Writer::stored(), Writer::deflated()] {
            let mut inflater = Inflater::default();
            for block in &blocks {
                let headers: Vec<_> = block.iter().map(|(n, v)| (&n[..], &v[..])).collect();
                let sent = writer.block(&headers).into();
                let received = inflater.block(&sent).unwrap();
                prop_assert!(received.iter().eq(headers));
            }
        }
    }

    #[test]
    fn any_soup_is_taken_without_a_panic_and_within_bounds(soup in soup(), chop in chops()) {
        let mut pair = Pair::with(config(), config());
        for _ in 0..3 {
            pair.open(&[]);
        }
        pair.drive();
        events(&mut pair.client);
        let now = pair.now;
        for side in [&mut pair.client, &mut pair.server] {
            'soup: for piece in soup.chunks(chop.min(soup.len().max(1))) {
                let mut input = Bytes::copy_from_slice(piece);
                while !input.is_empty() {
                    if side.handle_input(&mut input, now).is_err() {
                        prop_assert!(matches!(side.lost(), Some(Lost::Protocol(_))));
                        break 'soup;
                    }
                    // One of each kind for each of three streams, and the end.
                    let told = events(side).into_iter().filter(|e| !matches!(e, Event::Opened { .. }));
                    prop_assert!(told.count() <= 3 * 3 + 1);
                    for id in (1..10).map(StreamId::new) {
                        prop_assert!(side.unread(id) <= RECEIVE_BUFFER);
                        if side.paused() {
                            while let Ok(Some(_)) = side.read(id) {}
                        }
                    }
                    prop_assert!(!side.paused(), "everything has been read");
                }
            }
            prop_assert!(decode_all(&wire(&frames(side)), usize::MAX).len() <= 64 + 1024);
            side.handle_timeout(now + REPLY_TIMEOUT);
        }
    }

    #[test]
    fn any_operations_keep_the_promises(ops in vec(op(), 0..80), chop in chops()) {
        let mut world = World::new(chop);
        for op in ops {
            world.apply(op);
        }
        world.settle();
    }
}

/// 0 is the client, 1 the server.
#[derive(Clone, Debug)]
enum Op {
    Open {
        fin: bool,
    },
    Reply {
        stream: usize,
        fin: bool,
    },
    Write {
        side: usize,
        stream: usize,
        length: usize,
    },
    Read {
        side: usize,
        stream: usize,
    },
    Finish {
        side: usize,
        stream: usize,
    },
    Reset {
        side: usize,
        stream: usize,
    },
    Release {
        side: usize,
        stream: usize,
    },
    Send {
        side: usize,
        frames: usize,
    },
    Deliver {
        side: usize,
        bytes: usize,
    },
    Drive,
    Block {
        side: usize,
        blocked: bool,
    },
    Pass(Duration),
    Close {
        side: usize,
    },
    Cut,
}

fn op() -> impl Strategy<Value = Op> {
    let side = 0..2usize;
    let stream = 0..4usize;
    let at = (side.clone(), stream.clone());
    prop_oneof![
        8 => prop::bool::weighted(0.1).prop_map(|fin| Op::Open { fin }),
        6 => (stream, prop::bool::weighted(0.2)).prop_map(|(stream, fin)| Op::Reply { stream, fin }),
        20 => (at.clone(), 0..1500usize).prop_map(|((side, stream), length)| Op::Write { side, stream, length }),
        14 => at.clone().prop_map(|(side, stream)| Op::Read { side, stream }),
        4 => at.clone().prop_map(|(side, stream)| Op::Finish { side, stream }),
        2 => at.clone().prop_map(|(side, stream)| Op::Reset { side, stream }),
        2 => at.prop_map(|(side, stream)| Op::Release { side, stream }),
        10 => (side.clone(), 1..5usize).prop_map(|(side, frames)| Op::Send { side, frames }),
        10 => (side.clone(), 1..2000usize).prop_map(|(side, bytes)| Op::Deliver { side, bytes }),
        10 => Just(Op::Drive),
        2 => (side.clone(), any::<bool>()).prop_map(|(side, blocked)| Op::Block { side, blocked }),
        4 => (0..15_000u64).prop_map(|ms| Op::Pass(Duration::from_millis(ms))),
        1 => prop::bool::weighted(0.2).prop_flat_map(move |close| {
            let side = 0..2usize;
            side.prop_map(move |side| if close { Op::Close { side } } else { Op::Drive })
        }),
        1 => prop::bool::weighted(0.2).prop_map(|cut| if cut { Op::Cut } else { Op::Drive }),
    ]
}

/// One side's half of a stream, as its user sees it.
#[derive(Debug, Default)]
struct Half {
    /// The user has the stream: it opened it, or has seen it opened.
    held: bool,
    /// Readable has come since the last read that blocked.
    readable: bool,
    /// A write has blocked, and Writable has not come since.
    blocked: bool,
    written: usize,
    read: usize,
    finished: bool,
    /// Reset or released from here.
    cut: bool,
    end: Option<Result<(), ReadError>>,
}

#[derive(Debug)]
struct World {
    pair: Pair,
    streams: Vec<(StreamId, Instant, [Half; 2])>,
    /// Whether either side has closed, or the wire was cut.
    ended: bool,
}

/// The byte at `position` of what `side` writes.
fn byte(id: StreamId, side: usize, position: usize) -> u8 {
    (id.get() as usize * 7 + side * 101 + position % 251) as u8
}

impl World {
    fn new(chop: usize) -> Self {
        let pair = Pair::with(config(), config());
        Self {
            pair: Pair { chop, ..pair },
            streams: Vec::new(),
            ended: false,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Open { fin } => {
                if let Ok(id) = self.pair.client.open(&[("n", "v")], fin, self.pair.now) {
                    let client = Half {
                        held: true,
                        finished: fin,
                        ..Half::default()
                    };
                    let halves = [client, Half::default()];
                    self.streams.push((id, self.pair.now, halves));
                }
            }
            Op::Reply { stream, fin } => {
                if let Some((id, _, [_, server])) = self.streams.get_mut(stream)
                    && server.held
                {
                    server.finished |= fin;
                    self.pair.server.reply(*id, &[("r", "v")], fin);
                }
            }
            Op::Write {
                side,
                stream,
                length,
            } => self.write(side, stream, length),
            Op::Read { side, stream } => self.read(side, stream),
            Op::Finish { side, stream } => self.finish(side, stream),
            Op::Reset { side, stream } => {
                if let Some((id, _, halves)) = self.streams.get_mut(stream)
                    && halves[side].held
                {
                    halves[side].cut = true;
                    let id = *id;
                    self.pair.side(side).reset(id, Status::CANCEL);
                }
            }
            Op::Release { side, stream } => self.release(side, stream),
            Op::Send { side, frames } => {
                for _ in 0..frames {
                    let sent = self.pair.side(side).poll_output();
                    let to = match side {
                        0 => &mut self.pair.to_server,
                        _ => &mut self.pair.to_client,
                    };
                    to.extend_from_slice(&wire(sent.as_slice()));
                }
            }
            Op::Deliver { side, bytes } => {
                let pair = &mut self.pair;
                let (to, from) = if side == 0 {
                    (&mut pair.client, &mut pair.to_client)
                } else {
                    (&mut pair.server, &mut pair.to_server)
                };
                let mut some = from.split_to(from.len().min(bytes));
                deliver(to, &mut some, pair.chop, pair.now);
                some.extend_from_slice(from);
                *from = some;
            }
            Op::Drive => self.pair.drive(),
            Op::Block { side, blocked } => {
                let now = self.pair.now;
                self.pair.side(side).set_blocked(blocked, now);
            }
            Op::Pass(time) => self.pass(time),
            Op::Close { side } => {
                self.ended = true;
                self.pair.side(side).close();
            }
            Op::Cut => {
                self.ended = true;
                self.pair.client.handle_end();
                self.pair.server.handle_end();
            }
        }
        self.see_events();
    }

    fn write(&mut self, side: usize, stream: usize, length: usize) {
        let Some((id, _, halves)) = self.streams.get_mut(stream) else {
            return;
        };
        let (id, half) = (*id, &mut halves[side]);
        if !half.held {
            return;
        }
        let start = half.written;
        let mut body: Bytes = (start..start + length)
            .map(|at| byte(id, side, at))
            .collect();
        match self.pair.side(side).write(id, &mut body) {
            Ok(taken) => {
                assert_eq!(taken + body.len(), length);
                half.written += taken;
            }
            Err(WriteError::Blocked) => half.blocked = true,
            Err(_) => assert!(half.finished || self.may_end(stream)),
        }
    }

    fn read(&mut self, side: usize, stream: usize) {
        let Some((id, _, halves)) = self.streams.get_mut(stream) else {
            return;
        };
        let id = *id;
        if !halves[side].held {
            return;
        }
        let result = self.pair.side(side).read(id);
        let (_, _, halves) = &mut self.streams[stream];
        let [mine, theirs] = if side == 0 { [0, 1] } else { [1, 0] };
        match result {
            Ok(Some(chunk)) => {
                for (at, got) in chunk.iter().enumerate() {
                    assert_eq!(*got, byte(id, theirs, halves[mine].read + at));
                }
                halves[mine].read += chunk.len();
                assert!(halves[mine].read <= halves[theirs].written);
                assert_eq!(halves[mine].end, None, "no bytes after the end");
            }
            Err(ReadError::Blocked) => halves[mine].readable = false,
            end => {
                let end = end.map(drop);
                let half = &mut halves[mine];
                assert_eq!(
                    *half.end.get_or_insert_with(|| end.clone()),
                    end,
                    "one end only"
                );
                match end {
                    Ok(()) => {
                        assert!(halves[theirs].finished, "a FIN that nobody sent");
                        assert_eq!(halves[mine].read, halves[theirs].written);
                    }
                    Err(ReadError::Unknown(_)) => panic!("held, and unknown"),
                    Err(ReadError::Lost(_)) => assert!(self.is_lost()),
                    Err(_) => assert!(self.may_end(stream), "{end:?}"),
                }
            }
        }
    }

    fn finish(&mut self, side: usize, stream: usize) {
        if let Some((id, _, halves)) = self.streams.get_mut(stream)
            && halves[side].held
        {
            halves[side].finished = true;
            let id = *id;
            self.pair.side(side).finish(id);
        }
    }

    fn release(&mut self, side: usize, stream: usize) {
        if let Some((id, _, halves)) = self.streams.get_mut(stream)
            && halves[side].held
        {
            halves[side].cut = true;
            halves[side].held = false;
            let id = *id;
            self.pair.side(side).release(id);
        }
    }

    /// Whether the stream may have ended without a FIN.
    fn may_end(&self, stream: usize) -> bool {
        let (_, opened, halves) = &self.streams[stream];
        halves.iter().any(|half| half.cut)
            || self.pair.now >= *opened + REPLY_TIMEOUT
            || self.is_lost()
    }

    fn is_lost(&self) -> bool {
        let silent = |side: &Connection| side.lost() == Some(&Lost::Silent);
        self.ended || silent(&self.pair.client) || silent(&self.pair.server)
    }

    /// Sleeps from deadline to deadline: each call at its time must make progress.
    fn pass(&mut self, time: Duration) {
        let end = self.pair.now + time;
        let clients = [
            self.pair.client.poll_timeout(),
            self.pair.server.poll_timeout(),
        ];
        assert!(
            clients
                .into_iter()
                .flatten()
                .all(|due| due >= self.pair.now)
        );
        for side in [&mut self.pair.client, &mut self.pair.server] {
            while let Some(due) = side.poll_timeout().filter(|due| *due <= end) {
                side.handle_timeout(due);
                assert!(side.poll_timeout().is_none_or(|next| next > due), "busy");
            }
        }
        self.pair.now = end;
    }

    fn see_events(&mut self) {
        for side in 0..2 {
            for event in events(self.pair.side(side)) {
                let of = |id: StreamId| (id.get() as usize - 1) / 2;
                match event {
                    Event::Opened { id, fin, .. } => {
                        let half = &mut self.streams[of(id)].2[side];
                        (half.held, half.readable) = (true, fin);
                    }
                    Event::Readable(id) => self.streams[of(id)].2[side].readable = true,
                    Event::Writable(id) => self.streams[of(id)].2[side].blocked = false,
                    Event::Replied { .. } => assert_eq!(side, 0),
                    Event::Lost(_) => {}
                }
            }
        }
    }

    /// Does only what events ask for, until nothing happens any more.
    fn serve(&mut self) {
        loop {
            self.pair.drive();
            self.see_events();
            if self.is_lost() {
                self.pair.client.handle_end();
                self.pair.server.handle_end();
                self.see_events();
            }
            let mut served = false;
            for stream in 0..self.streams.len() {
                for side in 0..2 {
                    let half = &self.streams[stream].2[side];
                    if half.held && half.readable && half.end.is_none() {
                        self.read(side, stream);
                        served = true;
                    }
                }
            }
            if !served {
                return;
            }
        }
    }

    /// Lets everything come to its end: nobody waits for ever, and nothing stays.
    fn settle(&mut self) {
        for side in 0..2 {
            self.apply(Op::Block {
                side,
                blocked: false,
            });
        }
        self.serve();
        for stream in 0..self.streams.len() {
            self.apply(Op::Reply { stream, fin: false });
        }
        self.serve();
        for stream in 0..self.streams.len() {
            for side in 0..2 {
                let half = &self.streams[stream].2[side];
                assert!(!half.held || !half.blocked, "a writer waits for ever");
                self.finish(side, stream);
            }
        }
        self.serve();
        for stream in 0..self.streams.len() {
            for side in 0..2 {
                let half = &self.streams[stream].2[side];
                assert!(!half.held || half.end.is_some(), "a reader waits for ever");
                self.release(side, stream);
            }
        }
        self.serve();
        for side in [&self.pair.client, &self.pair.server] {
            assert_eq!(side.open_streams(), 0, "streams stay in the table");
            assert!(!side.has_output());
            assert!(!side.paused());
        }
    }
}
