//! Frames: decode and encode, one by one.
//!
//! ```text
//! control  |1| version 15 | type 16 |     data  |0| stream id 31     |
//!          | flags 8 | length 24    |           | flags 8 | length 24 |
//! ```
//! The decoder takes chunks of any size, since Go writes each field on its own and a proxy cuts where it likes.
//! DATA payloads pass as slices of the input; only control payloads, which are bounded, are gathered.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Error;

/// Payload bytes of a DATA frame that is sent, at most. The frame, its head and a WebSocket frame's head of 8 bytes
/// fill two TLS records of 16 KiB; Go's copy loops take 32 KiB at a time.
pub const MAX_DATA: usize = 2 * 16 * 1024 - 8 - 8;

/// Largest control payload that is taken in. spdystream takes 16 MiB; Kubernetes' own need less than 1 KiB.
const MAX_CONTROL: usize = 64 * 1024;

const HEAD: usize = 8;
const CONTROL_BIT: u8 = 0x80;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 0x01;
const ID_MASK: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// A stream's number: 31 bits, never 0; odd when the client opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u32);

impl StreamId {
    /// The last id there is.
    pub const MAX: Self = Self(ID_MASK);

    pub(super) const fn new(id: u32) -> Self {
        Self(id & ID_MASK)
    }

    fn parse(raw: u32, kind: &'static str) -> Result<Self, Error> {
        match raw & ID_MASK {
            0 => Err(Error::StreamZero(kind)),
            id => Ok(Self(id)),
        }
    }

    /// The id after this one of the same side, if any is left.
    pub(super) fn next(self) -> Option<Self> {
        (self.0 <= ID_MASK - 2).then_some(Self(self.0 + 2))
    }

    /// The number on the wire.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a stream was reset (RST_STREAM's status). Kubernetes sends only `CANCEL` and `PROTOCOL_ERROR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

impl Status {
    /// The frame breaks the protocol, a reused stream id for one.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// The stream was refused before it did anything.
    pub const REFUSED_STREAM: Self = Self(3);
    /// Its creator, or its reader, wants it no longer.
    pub const CANCEL: Self = Self(5);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            1 => "PROTOCOL_ERROR",
            2 => "INVALID_STREAM",
            3 => "REFUSED_STREAM",
            4 => "UNSUPPORTED_VERSION",
            5 => "CANCEL",
            6 => "INTERNAL_ERROR",
            7 => "FLOW_CONTROL_ERROR",
            8 => "STREAM_IN_USE",
            9 => "STREAM_ALREADY_CLOSED",
            10 => "INVALID_CREDENTIALS",
            11 => "FRAME_TOO_LARGE",
            other => return write!(f, "status {other}"),
        };
        f.write_str(name)
    }
}

/// One frame to send: head and body, to be written one after the other and never joined by a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The frame's first eight bytes.
    pub head: [u8; HEAD],
    /// The rest; may be empty.
    pub body: Bytes,
}

impl Output {
    /// Bytes on the wire.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        HEAD + self.body.len()
    }

    pub(super) fn syn_stream(id: StreamId, fin: bool, block: &[u8]) -> Self {
        let mut body = BytesMut::with_capacity(10 + block.len());
        body.put_u32(id.0);
        body.put_u32(0); // no associated stream
        body.put_u16(0); // highest priority, as client-go; slot 0
        body.put_slice(block);
        Self::control(SYN_STREAM, fin, body.freeze())
    }

    pub(super) fn syn_reply(id: StreamId, fin: bool, block: &[u8]) -> Self {
        let mut body = BytesMut::with_capacity(4 + block.len());
        body.put_u32(id.0);
        body.put_slice(block);
        Self::control(SYN_REPLY, fin, body.freeze())
    }

    pub(super) fn rst_stream(id: StreamId, status: Status) -> Self {
        Self::control(RST_STREAM, false, two_words(id.0, status.0))
    }

    pub(super) fn ping(id: u32) -> Self {
        Self::control(PING, false, Bytes::copy_from_slice(&id.to_be_bytes()))
    }

    pub(super) fn go_away(last_good: u32, status: u32) -> Self {
        Self::control(GOAWAY, false, two_words(last_good, status))
    }

    /// `body` is at most 2^24 - 1 bytes.
    pub(super) fn data(id: StreamId, fin: bool, body: Bytes) -> Self {
        let mut head = [0; HEAD];
        let mut fields = &mut head[..];
        fields.put_u32(id.0);
        fields.put_u32(flags_and_length(fin, body.len()));
        Self { head, body }
    }

    fn control(kind: u16, fin: bool, body: Bytes) -> Self {
        let mut head = [0; HEAD];
        let mut fields = &mut head[..];
        fields.put_u16(u16::from(CONTROL_BIT) << 8 | VERSION);
        fields.put_u16(kind);
        fields.put_u32(flags_and_length(fin, body.len()));
        Self { head, body }
    }
}

fn two_words(first: u32, second: u32) -> Bytes {
    let mut body = BytesMut::with_capacity(8);
    body.put_u32(first);
    body.put_u32(second);
    body.freeze()
}

fn flags_and_length(fin: bool, length: usize) -> u32 {
    debug_assert!(length < 1 << 24, "a frame's length has 24 bits");
    u32::from(if fin { FLAG_FIN } else { 0 }) << 24 | length as u32
}

/// A control frame that means something to Kubernetes. Header blocks are still deflated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Control {
    SynStream {
        id: StreamId,
        fin: bool,
        block: Bytes,
    },
    SynReply {
        id: StreamId,
        fin: bool,
        block: Bytes,
    },
    RstStream {
        id: StreamId,
        status: Status,
    },
    Ping(u32),
    GoAway,
    Headers {
        id: StreamId,
        fin: bool,
        block: Bytes,
    },
}

impl Control {
    fn parse(head: ControlHead, mut payload: Bytes) -> Result<Self, Error> {
        let ControlHead { kind, fin, .. } = head;
        match kind {
            SYN_STREAM => {
                let id = StreamId::parse(payload.get_u32(), "SYN_STREAM")?;
                payload.advance(6); // associated stream, priority, slot: unused here
                Ok(Self::SynStream {
                    id,
                    fin,
                    block: payload,
                })
            }
            SYN_REPLY => Ok(Self::SynReply {
                id: StreamId::parse(payload.get_u32(), "SYN_REPLY")?,
                fin,
                block: payload,
            }),
            RST_STREAM => Ok(Self::RstStream {
                id: StreamId::parse(payload.get_u32(), "RST_STREAM")?,
                status: Status(payload.get_u32()),
            }),
            PING => match payload.get_u32() {
                0 => Err(Error::PingZero),
                id => Ok(Self::Ping(id)),
            },
            HEADERS => Ok(Self::Headers {
                id: StreamId::parse(payload.get_u32(), "HEADERS")?,
                fin,
                block: payload,
            }),
            _ => Ok(Self::GoAway),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct ControlHead {
    kind: u16,
    fin: bool,
    length: usize,
}

impl ControlHead {
    /// What to do with the payload: gather it, or skip what has no meaning here.
    fn admit(self) -> Result<State, Error> {
        let (kind, allowed) = match self.kind {
            SYN_STREAM => ("SYN_STREAM", 10..=MAX_CONTROL),
            SYN_REPLY => ("SYN_REPLY", 4..=MAX_CONTROL),
            RST_STREAM => ("RST_STREAM", 8..=8),
            PING => ("PING", 4..=4),
            GOAWAY => ("GOAWAY", 8..=8),
            HEADERS => ("HEADERS", 4..=MAX_CONTROL),
            // Session windows (stream 0) are legal in SPDY/3.1, and as meaningless here as all windows.
            WINDOW_UPDATE => ("WINDOW_UPDATE", 8..=8),
            // Never sent by anyone in Kubernetes; an unknown type is skipped by its length as the draft asks.
            SETTINGS => ("SETTINGS", 4..=usize::MAX),
            _ => ("unknown", 0..=usize::MAX),
        };
        if !allowed.contains(&self.length) {
            return Err(Error::Length {
                kind,
                length: self.length,
            });
        }
        Ok(match self.kind {
            SYN_STREAM | SYN_REPLY | RST_STREAM | PING | GOAWAY | HEADERS => {
                State::Control(self, BytesMut::new())
            }
            _ => State::Skip(self.length),
        })
    }
}

/// What the decoder has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    Control(Control),
    /// A slice of a DATA frame's payload. `fin` only on a frame's last slice.
    Data {
        id: StreamId,
        chunk: Bytes,
        fin: bool,
    },
}

#[derive(Debug)]
enum State {
    Head(BytesMut),
    Control(ControlHead, BytesMut),
    Data {
        id: StreamId,
        remaining: usize,
        fin: bool,
    },
    Skip(usize),
}

/// Cuts a byte stream into frames.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            state: State::Head(BytesMut::new()),
        }
    }

    /// The stream that the next payload bytes belong to, when the decoder stands inside a DATA frame.
    pub(super) fn data_stream(&self) -> Option<StreamId> {
        match self.state {
            State::Data { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Takes bytes from `input` up to the next item, of a DATA payload no more than `room`. `None` when a DATA frame
    /// has just begun (its stream is now known) or `input` has run dry.
    pub(super) fn decode(&mut self, input: &mut Bytes, room: usize) -> Result<Option<Item>, Error> {
        match &mut self.state {
            State::Head(have) => {
                let Some(head) = gather(have, HEAD, input) else {
                    return Ok(None);
                };
                self.state = Self::begin(head)?;
                // DATA without payload is whole already: nothing may come that would end it.
                let State::Data {
                    id,
                    remaining: 0,
                    fin,
                } = self.state
                else {
                    return Ok(None);
                };
                self.state = State::Head(BytesMut::new());
                Ok(Some(Item::Data {
                    id,
                    chunk: Bytes::new(),
                    fin,
                }))
            }
            State::Control(head, have) => {
                let head = *head;
                let Some(payload) = gather(have, head.length, input) else {
                    return Ok(None);
                };
                self.state = State::Head(BytesMut::new());
                Control::parse(head, payload).map(|control| Some(Item::Control(control)))
            }
            State::Data { id, remaining, fin } => {
                let (id, take) = (*id, input.len().min(*remaining).min(room));
                if take == 0 {
                    return Ok(None);
                }
                let chunk = input.split_to(take);
                *remaining -= take;
                let fin = *fin && *remaining == 0;
                if *remaining == 0 {
                    self.state = State::Head(BytesMut::new());
                }
                Ok(Some(Item::Data { id, chunk, fin }))
            }
            State::Skip(remaining) => {
                let take = input.len().min(*remaining);
                input.advance(take);
                *remaining -= take;
                if *remaining == 0 {
                    self.state = State::Head(BytesMut::new());
                }
                Ok(None)
            }
        }
    }

    fn begin(mut head: Bytes) -> Result<State, Error> {
        let first = head.get_u32();
        let second = head.get_u32();
        let fin = (second >> 24) as u8 & FLAG_FIN != 0;
        let length = (second & 0x00ff_ffff) as usize;
        if first >> 31 == 0 {
            return Ok(State::Data {
                id: StreamId::parse(first, "DATA")?,
                remaining: length,
                fin,
            });
        }
        let version = (first >> 16) as u16 & 0x7fff;
        // spdystream writes 3 and never looks at what it reads.
        if !(2..=3).contains(&version) {
            return Err(Error::Version(version));
        }
        ControlHead {
            kind: first as u16,
            fin,
            length,
        }
        .admit()
    }
}

/// Adds to `have` until it holds `want` bytes, then hands them out. Without a copy when `input` has them all.
fn gather(have: &mut BytesMut, want: usize, input: &mut Bytes) -> Option<Bytes> {
    if have.is_empty() && input.len() >= want {
        return Some(input.split_to(want));
    }
    let take = input.len().min(want - have.len());
    have.extend_from_slice(&input.split_to(take));
    (have.len() == want).then(|| have.split().freeze())
}
