//! The first line of an SSH client (RFC 4253 §4.2), looked at as it passes: whatever speaks something else is gone with
//! its first bytes, before anything parses them.

/// What the line begins with; version 1 is long dead.
const BEGIN: &[u8] = b"SSH-2.0-";
/// Bytes of the line with its end, by the RFC.
const MAX_LINE: usize = 255;

/// How far the line has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ident {
    seen: usize,
    done: bool,
}

/// It isn't SSH that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotSsh;

impl Ident {
    /// Takes the next bytes that were received.
    pub(super) fn handle(&mut self, bytes: &[u8]) -> Result<(), NotSsh> {
        for &byte in bytes {
            if self.done {
                break;
            }
            if BEGIN
                .get(self.seen)
                .is_some_and(|&expected| byte != expected)
            {
                return Err(NotSsh);
            }
            self.seen += 1;
            self.done = byte == b'\n';
            if self.seen > MAX_LINE {
                return Err(NotSsh);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn handle(bytes: &[u8]) -> Result<(), NotSsh> {
        Ident::default().handle(bytes)
    }

    #[test]
    fn only_ssh_2_passes() {
        for ok in [
            &b""[..],
            b"SSH-",
            b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\0\0\0\0anything",
            b"SSH-2.0-PuTTY\nGET /",
        ] {
            assert_eq!(handle(ok), Ok(()), "{ok:?}");
        }
        for wrong in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"SSH-1.5-x",
            b"SSH-2.0\n",
            b"\r\n\r\n\0\r\nQUIT\n",
            b"hello\nSSH-2.0-x\r\n",
            b"\0",
        ] {
            assert_eq!(handle(wrong), Err(NotSsh), "{wrong:?}");
        }
        let longest = [b"SSH-2.0-", &[b'x'; 246][..], b"\n"].concat();
        assert_eq!(handle(&longest), Ok(()));
        let longer = [b"SSH-2.0-", &[b'x'; 247][..], b"\n"].concat();
        assert_eq!(handle(&longer), Err(NotSsh));
        assert_eq!(handle(&longer[..255]), Ok(()), "its end may follow");
    }

    proptest! {
        #[test]
        fn the_answer_is_the_same_in_any_pieces(bytes in "(SSH-2\\.0-)?[a-z\r\n]{0,300}", at in any::<prop::sample::Index>()) {
            let at = at.index(bytes.len() + 1);
            let mut ident = Ident::default();
            let (head, tail) = bytes.as_bytes().split_at(at);
            let pieces = ident.handle(head).and_then(|()| ident.handle(tail));
            prop_assert_eq!(pieces, handle(bytes.as_bytes()));
        }
    }
}
