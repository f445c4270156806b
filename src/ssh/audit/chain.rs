//! How lines hang together: each has the number after its predecessor's, and its predecessor's SHA-256.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use serde::Deserialize;

use super::line::MAX_LINE;

/// The SHA-256 of a line without its end, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LineHash([u8; 32]);

impl LineHash {
    /// What stands before the first line of a chain.
    pub const NONE: Self = Self([0; 32]);

    /// Of a line, with or without its end.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut hash = Self::NONE;
        hash.0
            .copy_from_slice(digest::digest(&digest::SHA256, line).as_ref());
        hash
    }
}

impl fmt::Display for LineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for LineHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LineHash {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix("sha256:").ok_or(())?.as_bytes();
        let mut hash = Self::NONE;
        if digits.len() != 2 * hash.0.len() {
            return Err(());
        }
        for (byte, pair) in hash.0.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| match c {
                b'0'..=b'9' => Ok(c - b'0'),
                b'a'..=b'f' => Ok(c - b'a' + 10), // only as it is written here
                _ => Err(()),
            };
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(hash)
    }
}

/// What the next line of a chain has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub seq: u64,
    /// Its predecessor's hash.
    pub prev: LineHash,
}

impl Link {
    /// For the first line.
    pub const FIRST: Self = Self {
        seq: 0,
        prev: LineHash::NONE,
    };

    /// For the line after this one.
    #[must_use]
    pub fn after(self, line: &[u8]) -> Self {
        Self {
            seq: self.seq.saturating_add(1),
            prev: LineHash::of(line),
        }
    }
}

/// What a line says about its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of which gateway.
    pub gateway: String,
    /// Its number and predecessor.
    pub link: Link,
    /// Whether a process ended here as it should.
    pub stop: bool,
}

impl Place {
    /// From a line, with or without its end; `None` if it isn't one of ours.
    #[must_use]
    pub fn of(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Head {
            v: u32,
            seq: u64,
            prev: String,
            gw: String,
            #[serde(rename = "type")]
            kind: String,
        }
        if line.len() > MAX_LINE {
            return None;
        }
        let head: Head = serde_json::from_slice(line).ok()?;
        (head.v == super::line::VERSION).then_some(())?;
        Some(Self {
            gateway: head.gw,
            link: Link {
                seq: head.seq,
                prev: head.prev.parse().ok()?,
            },
            stop: head.kind == "gateway.stop",
        })
    }
}

/// Where a chain goes on, from the end of its file (`whole` if that is all of it): the next line's link, and whether the
/// last line was cut off and needs an end first.
///
/// A line that the end of a process cut off keeps its place: it is hashed as it is, and counted.
///
/// # Errors
/// The last whole line isn't one of an audit log.
pub fn resume(tail: &[u8], whole: bool) -> Result<(Link, bool), NotALog> {
    let ended = tail.is_empty() || tail.ends_with(b"\n");
    let mut torn = Vec::new();
    let mut link = None;
    let lines = tail.strip_suffix(b"\n").unwrap_or(tail);
    for line in lines.rsplit(|&byte| byte == b'\n') {
        if let Some(place) = Place::of(line) {
            link = Some(place.link.after(line));
            break;
        }
        if !LINE_BEGIN.starts_with(&line[..line.len().min(LINE_BEGIN.len())]) {
            break;
        }
        if !line.is_empty() {
            torn.push(line);
        }
    }
    let all_torn = torn.iter().map(|line| line.len() + 1).sum::<usize>() > lines.len();
    let begin = (whole && (lines.is_empty() || all_torn)).then_some(Link::FIRST);
    let link = link.or(begin).ok_or(NotALog)?;
    let link = torn.iter().rev().fold(link, |link, line| link.after(line));
    Ok((link, !ended))
}

/// Every line begins so.
const LINE_BEGIN: &[u8] = b"{\"v\":1,\"ts\":\"";

/// The file holds something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its last line is not one of an audit log; name another file, or move this one away")]
pub struct NotALog;

#[cfg(test)]
mod tests {
    use super::super::event::{About, Kind};
    use super::super::line::encode;
    use super::*;

    fn lines(count: u64) -> Vec<Vec<u8>> {
        let mut link = Link::FIRST;
        let mut lines = Vec::new();
        for _ in 0..count {
            let line = encode(
                jiff::Timestamp::UNIX_EPOCH,
                &link,
                "gw",
                &About::default(),
                &Kind::SessionStart {},
            );
            link = link.after(&line);
            lines.push(line);
        }
        lines
    }

    #[test]
    fn a_hash_is_written_and_read() {
        // FIPS 180-2, appendix B.1.
        let hash = LineHash::of(b"abc\n");
        assert_eq!(
            hash.to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(hash, LineHash::of(b"abc"));
        assert_eq!(hash.to_string().parse(), Ok(hash));
        for wrong in ["", "sha256:", "sha256:BA", &hash.to_string()[1..]] {
            assert_eq!(wrong.parse::<LineHash>(), Err(()), "{wrong}");
        }
        assert!(hash.to_string().to_uppercase().parse::<LineHash>().is_err());
    }

    #[test]
    fn a_chain_goes_on_after_the_last_line() {
        let lines = lines(3);
        let file = lines.concat();
        let next = Link {
            seq: 3,
            prev: LineHash::of(&lines[2]),
        };
        assert_eq!(resume(&file, true), Ok((next, false)));
        assert_eq!(resume(&file[10..], false), Ok((next, false)));
        // Only the end of the last line is missing.
        assert_eq!(resume(&file[..file.len() - 1], true), Ok((next, true)));
        assert_eq!(resume(b"", true), Ok((Link::FIRST, false)));
    }

    #[test]
    fn a_torn_line_keeps_its_place() {
        let lines = lines(3);
        let torn = &lines[2][..40];
        let mut file = [&lines[0], &lines[1], torn].concat();
        let next = Link {
            seq: 3,
            prev: LineHash::of(torn),
        };
        assert_eq!(resume(&file, true), Ok((next, true)));
        file.push(b'\n');
        assert_eq!(resume(&file, true), Ok((next, false)));
        file.extend_from_slice(&torn[..5]);
        let second = Link {
            seq: 4,
            prev: LineHash::of(&torn[..5]),
        };
        assert_eq!(resume(&file, true), Ok((second, true)));
        let first = Link {
            seq: 1,
            prev: LineHash::of(torn),
        };
        assert_eq!(resume(torn, true), Ok((first, true)));
    }

    #[test]
    fn another_file_is_not_taken() {
        for file in [
            "hello",
            "hello\n",
            "{}\n",
            "\0\0\0",
            "{\"v\":2}\n",
            "x\n{\"v\"",
        ] {
            assert_eq!(resume(file.as_bytes(), true), Err(NotALog), "{file:?}");
        }
        assert_eq!(resume(b"{\"v\":1", false), Err(NotALog)); // its beginning was not looked at
    }
}
