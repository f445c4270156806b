//! Bytes become text piece by piece.

/// Decodes UTF-8 that comes in pieces cut anywhere: a character that is not whole yet waits for the next piece, and only
/// true errors become U+FFFD.
#[derive(Clone, Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a character: three bytes at most.
    tail: Vec<u8>,
}

impl Decoder {
    /// The text so far.
    pub(super) fn decode(&mut self, bytes: &[u8]) -> String {
        let joined;
        let all = match self.tail.is_empty() {
            true => bytes,
            false => {
                self.tail.extend_from_slice(bytes);
                joined = std::mem::take(&mut self.tail);
                &joined[..]
            }
        };
        let mut text = String::with_capacity(all.len());
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && may_go_on(invalid) {
                self.tail = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text
    }

    /// What is left, once no more will come: a character that was cut off.
    pub(super) fn finish(&mut self) -> Option<char> {
        let cut = !std::mem::take(&mut self.tail).is_empty();
        cut.then_some(char::REPLACEMENT_CHARACTER)
    }
}

/// Whether bytes are a character's beginning and no error yet.
fn may_go_on(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pieces(bytes: &[u8], cuts: &[prop::sample::Index]) -> String {
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut decoder = Decoder::default();
        let mut begin = 0;
        let mut text = String::new();
        for end in ends {
            text += &decoder.decode(&bytes[begin..end]);
            begin = end;
        }
        text.extend(decoder.finish());
        text
    }

    #[test]
    fn an_unfinished_character_waits() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.decode(b"a\xf0\x9f"), "a");
        assert_eq!(decoder.decode(b""), "");
        assert_eq!(decoder.decode(b"\x98"), "");
        assert_eq!(decoder.decode(b"\x80b"), "\u{1f600}b");
        assert_eq!(decoder.decode(b"\xe2\x82"), "");
        assert_eq!(decoder.decode(b"x\xff"), "\u{fffd}x\u{fffd}");
        assert_eq!(decoder.decode(b"\xc3"), "");
        assert_eq!(decoder.finish(), Some('\u{fffd}'));
        assert_eq!(decoder.finish(), None);
    }

    proptest! {
        #[test]
        fn text_is_the_same_in_any_pieces(text in any::<String>(), cuts in any::<Vec<prop::sample::Index>>()) {
            prop_assert_eq!(pieces(text.as_bytes(), &cuts), text);
        }

        #[test]
        fn bytes_are_decoded_as_if_they_were_whole(bytes in any::<Vec<u8>>(), cuts in any::<Vec<prop::sample::Index>>()) {
            prop_assert_eq!(pieces(&bytes, &cuts), String::from_utf8_lossy(&bytes));
        }
    }
}
