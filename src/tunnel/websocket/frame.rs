//! WebSocket frames (RFC 6455) of a client, sans-IO: payloads pass as slices, whatever the message's size.
//!
//! A general library hands out whole messages, which it has to gather first. A tunnel has no use for messages: this
//! saves a copy of all that is received and two of all that is sent.

use std::hash::{BuildHasher as _, RandomState};

use bytes::{Buf, BufMut, Bytes, BytesMut};

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// A client's frame before its payload, at most: two bytes, eight of length, four of mask.
pub(super) const MAX_HEAD: usize = 14;
/// Payload of a control frame, at most.
const MAX_CONTROL: usize = 125;
/// Payload of a frame, at most: one SPDY frame of the largest size. Kubernetes sends 32 KiB. Nothing is allocated for
/// it, but a length past that is no length.
const MAX_PAYLOAD: u64 = 16 * 1024 * 1024 + 8;

/// What the server has sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// Part of a binary message.
    Data(Bytes),
    Ping(Bytes),
    Close,
}

/// What no server may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("a text message in a binary tunnel")]
    Text,
    #[error("a frame with reserved bits or an unknown opcode")]
    Reserved,
    #[error("a masked frame from a server")]
    Masked,
    #[error("a control frame in pieces or of more than 125 bytes")]
    Control,
    #[error("a continuation of nothing, or a new message inside another one")]
    Order,
    #[error("a frame of more than 16 MiB")]
    Length,
}

#[derive(Debug)]
enum State {
    /// Two bytes, and up to eight more with a length.
    Head(BytesMut),
    Data {
        remaining: usize,
    },
    Control {
        opcode: u8,
        length: usize,
        payload: BytesMut,
    },
}

/// Cuts what a server sends into frames.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    /// A message has begun and its last frame hasn't come.
    in_message: bool,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            state: State::Head(BytesMut::new()),
            in_message: false,
        }
    }

    /// Takes bytes from `input` up to the next item; `None` when it has run dry.
    pub(super) fn decode(&mut self, input: &mut Bytes) -> Result<Option<Item>, Error> {
        while input.has_remaining() {
            match &mut self.state {
                State::Head(head) => {
                    head.put_u8(input.get_u8());
                    let [first, second, ..] = head[..] else {
                        continue;
                    };
                    let extended = match second & !MASKED {
                        126 => 2,
                        127 => 8,
                        _ => 0,
                    };
                    if head.len() < 2 + extended {
                        continue;
                    }
                    let length = match extended {
                        0 => u64::from(second & !MASKED),
                        _ => head[2..]
                            .iter()
                            .fold(0, |n, byte| n << 8 | u64::from(*byte)),
                    };
                    self.begin(first, second, length)?;
                }
                State::Data { remaining } => {
                    let chunk = input.split_to(input.len().min(*remaining));
                    *remaining -= chunk.len();
                    if *remaining == 0 {
                        self.state = State::Head(BytesMut::new());
                    }
                    return Ok(Some(Item::Data(chunk)));
                }
                State::Control {
                    opcode,
                    length,
                    payload,
                } => {
                    let take = input.len().min(*length - payload.len());
                    payload.extend_from_slice(&input.split_to(take));
                    if payload.len() == *length {
                        let item = control(*opcode, payload.split().freeze());
                        self.state = State::Head(BytesMut::new());
                        if item.is_some() {
                            return Ok(item);
                        }
                    }
                }
            }
            if let State::Control {
                opcode, length: 0, ..
            } = self.state
            {
                self.state = State::Head(BytesMut::new());
                if let Some(item) = control(opcode, Bytes::new()) {
                    return Ok(Some(item));
                }
            }
        }
        Ok(None)
    }

    fn begin(&mut self, first: u8, second: u8, length: u64) -> Result<(), Error> {
        let (fin, opcode) = (first & FIN != 0, first & 0x0f);
        if first & RESERVED != 0 {
            return Err(Error::Reserved);
        }
        if second & MASKED != 0 {
            return Err(Error::Masked);
        }
        if length > MAX_PAYLOAD {
            return Err(Error::Length);
        }
        let length = length as usize;
        match opcode {
            CONTINUATION | BINARY if self.in_message != (opcode == CONTINUATION) => {
                return Err(Error::Order);
            }
            CONTINUATION | BINARY => {
                self.in_message = !fin;
                // Go's FIN frames make empty messages, and its server ends long ones with an empty frame.
                self.state = match length {
                    0 => State::Head(BytesMut::new()),
                    remaining => State::Data { remaining },
                };
            }
            CLOSE | PING | PONG if fin && length <= MAX_CONTROL => {
                self.state = State::Control {
                    opcode,
                    length,
                    payload: BytesMut::new(),
                };
            }
            CLOSE | PING | PONG => return Err(Error::Control),
            TEXT => return Err(Error::Text),
            _ => return Err(Error::Reserved),
        }
        Ok(())
    }
}

fn control(opcode: u8, payload: Bytes) -> Option<Item> {
    match opcode {
        PING => Some(Item::Ping(payload)),
        CLOSE => Some(Item::Close),
        _ => None,
    }
}

/// Writes a client's frames, each one a message, masked.
#[derive(Debug)]
pub(super) struct Encoder {
    /// SipHash with a random key makes masks that nobody can foresee, as the RFC wants them.
    masks: RandomState,
    count: u64,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self {
            masks: RandomState::new(),
            count: 0,
        }
    }

    /// A binary message of two parts, the first one's length a multiple of four.
    pub(super) fn binary(&mut self, parts: [&[u8]; 2], out: &mut BytesMut) {
        debug_assert!(parts[0].len().is_multiple_of(4), "the mask would shift");
        self.frame(BINARY, parts, out);
    }

    /// The answer to a ping.
    pub(super) fn pong(&mut self, payload: &[u8], out: &mut BytesMut) {
        self.frame(PONG, [payload, &[]], out);
    }

    /// A normal closure (1000).
    pub(super) fn close(&mut self, out: &mut BytesMut) {
        self.frame(CLOSE, [&1000_u16.to_be_bytes(), &[]], out);
    }

    fn frame(&mut self, opcode: u8, parts: [&[u8]; 2], out: &mut BytesMut) {
        let length = parts[0].len() + parts[1].len();
        out.reserve(MAX_HEAD + length);
        out.put_u8(FIN | opcode);
        match length {
            0..=125 => out.put_u8(MASKED | length as u8),
            126..=0xffff => {
                out.put_u8(MASKED | 126);
                out.put_u16(length as u16);
            }
            _ => {
                out.put_u8(MASKED | 127);
                out.put_u64(length as u64);
            }
        }
        self.count += 1;
        let mask = self.masks.hash_one(self.count) as u32;
        out.put_slice(&mask.to_ne_bytes());
        for part in parts {
            let start = out.len();
            out.put_slice(part);
            apply(mask, &mut out[start..]);
        }
    }
}

/// Masks eight bytes at a time, which compilers turn into whole vectors.
fn apply(mask: u32, bytes: &mut [u8]) {
    let wide = u64::from(mask) << 32 | u64::from(mask);
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};

    use super::*;

    /// Decodes everything, `chop` bytes at a time; data is joined.
    fn decode(bytes: &[u8], chop: usize) -> Result<(Vec<u8>, Vec<Item>), Error> {
        let mut decoder = Decoder::new();
        let (mut data, mut others) = (Vec::new(), Vec::new());
        for chunk in bytes.chunks(chop) {
            let mut input = Bytes::copy_from_slice(chunk);
            while let Some(item) = decoder.decode(&mut input)? {
                match item {
                    Item::Data(chunk) => data.extend_from_slice(&chunk),
                    other => others.push(other),
                }
            }
            assert!(input.is_empty());
        }
        Ok((data, others))
    }

    #[test]
    fn what_gorilla_sends_is_understood() {
        // a fragmented message with a ping inside and an empty end, an empty message, a long one, a close
        let mut bytes = vec![
            0x02, 3, 1, 2, 3, 0x89, 2, 7, 7, 0x00, 1, 4, 0x80, 0, 0x82, 0,
        ];
        bytes.extend([0x82, 126, 1, 0]);
        bytes.extend([9; 256]);
        bytes.extend([0x8a, 0, 0x88, 2, 3, 232]);
        let mut expected = vec![1, 2, 3, 4];
        expected.extend([9; 256]);
        for chop in [1, 2, 3, 7, 1000] {
            let (data, others) = decode(&bytes, chop).unwrap();
            assert_eq!(data, expected);
            assert_eq!(others, [Item::Ping(vec![7, 7].into()), Item::Close]);
        }
    }

    #[test]
    fn what_no_server_may_send_is_refused() {
        let long_ping = [&[0x89, 126, 0, 126][..], &[0; 126]].concat();
        for (bytes, error) in [
            (&[0x81, 0][..], Error::Text),
            (&[0xf2, 1, 0], Error::Reserved),
            (&[0x83, 1, 0], Error::Reserved),
            (&[0x82, 0x81, 1, 2, 3, 4, 5], Error::Masked),
            (&long_ping, Error::Control),
            (&[0x09, 0], Error::Control),
            (&[0x80, 1, 0], Error::Order),
            (&[0x02, 1, 0, 0x82, 1, 0], Error::Order),
            (&[0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0], Error::Length),
            (&[0x82, 127, 128, 0, 0, 0, 0, 0, 0, 0], Error::Length),
        ] {
            assert_eq!(decode(bytes, 1).map(drop), Err(error), "{bytes:x?}");
        }
    }

    proptest! {
        /// Another implementation, as the server, takes what we send.
        #[test]
        fn a_library_reads_what_we_write(lengths in prop::collection::vec(0_usize..70_000, 1..5)) {
            let (mut encoder, mut wire) = (Encoder::new(), BytesMut::new());
            let bodies: Vec<Vec<u8>> = lengths.iter().map(|length| {
                (0..*length).map(|i| i as u8).collect()
            }).collect();
            for body in &bodies {
                encoder.binary([b"headhead", body], &mut wire);
            }
            encoder.pong(b"pong", &mut wire);
            encoder.close(&mut wire);
            let mut server = WebSocket::from_raw_socket(
                std::io::Cursor::new(wire.to_vec()), Role::Server, None,
            );
            for body in &bodies {
                let message = server.read().unwrap().into_data();
                prop_assert_eq!(&message[..8], b"headhead");
                prop_assert!(&message[8..] == body);
            }
            prop_assert_eq!(server.read().unwrap(), Message::Pong(Bytes::from_static(b"pong")));
            prop_assert!(matches!(server.read().unwrap(), Message::Close(Some(_))));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), chop in 1_usize..50) {
            let whole = decode(&bytes, usize::MAX);
            prop_assert_eq!(decode(&bytes, chop), whole);
        }
    }
}
