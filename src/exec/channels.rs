//! The messages of `v5.channel.k8s.io`: one byte of channel, then its bytes. Pure functions.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{Fd, Size};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Its second byte says which channel the client has no more to say on.
const CLOSE: u8 = 255;

/// Bytes of stdin in one message. A server reads frames, not messages, each into one piece of memory; client-go's size.
pub(super) const MAX_STDIN: usize = 32 * 1024;

/// What a message from the server holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Output(Fd, Bytes),
    /// A part of the Status document.
    Status(Bytes),
    /// The message that says "established", and whatever has no meaning to a client.
    Nothing,
}

/// Reads a message from the server. Channels that only a client may use, and those that don't exist, are ignored.
pub(super) fn decode(message: Bytes) -> Received {
    let Some((&channel, payload)) = message.split_first() else {
        return Received::Nothing;
    };
    if payload.is_empty() {
        return Received::Nothing;
    }
    let payload = message.slice(1..);
    match channel {
        STDOUT => Received::Output(Fd::Stdout, payload),
        STDERR => Received::Output(Fd::Stderr, payload),
        ERROR => Received::Status(payload),
        _ => Received::Nothing,
    }
}

/// Bytes for the command's stdin.
pub(super) fn stdin(bytes: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(STDIN);
    message.put_slice(bytes);
    message.freeze()
}

/// The end of the command's stdin.
pub(super) fn stdin_end() -> Bytes {
    Bytes::from_static(&[CLOSE, STDIN])
}

/// The terminal's new size.
pub(super) fn resize(size: Size) -> Bytes {
    let document = size.document();
    let mut message = BytesMut::with_capacity(1 + document.len());
    message.put_u8(RESIZE);
    message.put_slice(document.as_bytes());
    message.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(message: &'static [u8]) -> Received {
        decode(Bytes::from_static(message))
    }

    #[test]
    fn output_and_status_are_told_apart() {
        let bytes = Bytes::from_static(b"a\x00b");
        assert_eq!(
            received(b"\x01a\x00b"),
            Received::Output(Fd::Stdout, bytes.clone())
        );
        assert_eq!(
            received(b"\x02a\x00b"),
            Received::Output(Fd::Stderr, bytes.clone())
        );
        assert_eq!(received(b"\x03a\x00b"), Received::Status(bytes));
    }

    /// Items 97 and 106 of the conformance list.
    #[test]
    fn what_has_no_meaning_is_ignored() {
        for message in [
            &b""[..],
            b"\x01",
            b"\x02",
            b"\x03",
            b"\x00typed by nobody",
            b"\x04{\"Width\":1,\"Height\":1}",
            b"\x05?",
            b"\xff\x00",
            b"\xff\x01",
            b"\xfe",
        ] {
            assert_eq!(
                decode(Bytes::copy_from_slice(message)),
                Received::Nothing,
                "{message:?}"
            );
        }
    }

    #[test]
    fn what_is_sent_begins_with_its_channel() {
        assert_eq!(stdin(b"")[..], [0]);
        assert_eq!(stdin(b"\xff\x00\n")[..], *b"\x00\xff\x00\n");
        assert_eq!(stdin_end()[..], [255, 0]);
        let size = Size::new(80, 24).unwrap();
        assert_eq!(resize(size)[..], *b"\x04{\"Width\":80,\"Height\":24}\n");
    }
}
