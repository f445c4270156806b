//! A recording is read, of either format, whoever made it.

use std::io::{self, BufRead, Read as _};
use std::time::Duration;

use serde::Deserialize;

/// Bytes of a line at most; ours have 200 KiB.
const MAX_LINE: usize = 8 << 20;
/// No single pause is longer: a number in a file is no reason to wait for ever.
const MAX_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads events one by one, in bounded memory.
#[derive(Debug)]
pub struct Replay<R> {
    reader: R,
    line: u64,
    /// Whether times are since the event before.
    relative: bool,
    /// Of the last event, in seconds.
    last: f64,
    /// Columns and rows at the beginning.
    size: (u32, u32),
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// How long after the event before.
    pub after: Duration,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It was shown. Not fit for a terminal unless filtered ([`screen`](super::screen)).
    Shown(String),
    /// Anything else: keys, sizes, markers, the exit code.
    Other,
}

/// Why a recording can't be played (on).
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It can't be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It begins otherwise.
    #[error("not an asciicast: its first line is not a header of version 2 or 3")]
    NotACast,
    /// A line is broken: cut off, perhaps.
    #[error("line {0} is not an event")]
    NotAnEvent(u64),
}

impl<R: BufRead> Replay<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// It isn't one.
    pub fn new(reader: R) -> Result<Self, ReplayError> {
        #[derive(Deserialize)]
        struct Header {
            version: u8,
            width: Option<u32>,
            height: Option<u32>,
            term: Option<Term>,
        }
        #[derive(Deserialize)]
        struct Term {
            cols: u32,
            rows: u32,
        }
        let mut replay = Self {
            reader,
            line: 0,
            relative: true,
            last: 0.0,
            size: (0, 0),
        };
        let first = replay.next_line()?.ok_or(ReplayError::NotACast)?;
        let header: Header = serde_json::from_slice(&first).map_err(|_| ReplayError::NotACast)?;
        replay.relative = header.version == 3;
        replay.size = match (header.version, header.term, header.width, header.height) {
            (3, Some(term), ..) => (term.cols, term.rows),
            (2, _, Some(width), Some(height)) => (width, height),
            _ => return Err(ReplayError::NotACast),
        };
        Ok(replay)
    }

    /// Columns and rows of the terminal when the recording began.
    #[must_use]
    pub const fn size(&self) -> (u32, u32) {
        self.size
    }

    fn next_event(&mut self) -> Result<Option<Event>, ReplayError> {
        loop {
            let Some(line) = self.next_line()? else {
                return Ok(None);
            };
            if line.starts_with(b"#") || line.trim_ascii().is_empty() {
                continue; // a comment
            }
            let broken = ReplayError::NotAnEvent(self.line);
            let Ok((time, code, text)) = serde_json::from_slice::<(f64, String, String)>(&line)
            else {
                return Err(broken);
            };
            let seconds = match self.relative {
                true => time,
                false => time - std::mem::replace(&mut self.last, time),
            };
            let after = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(MAX_PAUSE);
            return Ok(Some(Event {
                after: after.min(MAX_PAUSE),
                what: match code.as_str() {
                    "o" => What::Shown(text),
                    _ => What::Other,
                },
            }));
        }
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, ReplayError> {
        self.line += 1;
        let mut line = Vec::new();
        let bound = MAX_LINE as u64 + 1;
        self.reader
            .by_ref()
            .take(bound)
            .read_until(b'\n', &mut line)?;
        if line.len() > MAX_LINE {
            return Err(ReplayError::NotAnEvent(self.line));
        }
        Ok((!line.is_empty()).then_some(line))
    }
}

impl<R: BufRead> Iterator for Replay<R> {
    type Item = Result<Event, ReplayError>;

    /// After an error the next line may be tried.
    fn next(&mut self) -> Option<Self::Item> {
        self.next_event().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::super::asciicast::{Encoder, Format, Terminal};
    use super::*;
    use crate::ssh::audit::auditor::Direction;
    use crate::ssh::audit::event::Exit;
    use proptest::prelude::*;

    fn cast(format: Format) -> Vec<u8> {
        let terminal = Terminal {
            kind: "xterm".to_owned(),
            columns: 80,
            rows: 24,
        };
        let (mut encoder, mut cast) = Encoder::new(format, &terminal, 0);
        let at = Duration::from_millis;
        encoder.data(at(250), Direction::Out, b"one", &mut cast);
        encoder.resize(at(500), 100, 50, &mut cast);
        encoder.data(at(1500), Direction::Out, b"two", &mut cast);
        encoder.end(at(2000), &Exit::Code(0), &mut cast);
        cast
    }

    fn events(cast: &[u8]) -> Vec<(u128, What)> {
        Replay::new(cast)
            .unwrap()
            .map(|event| event.unwrap())
            .map(|event| (event.after.as_millis(), event.what))
            .collect()
    }

    #[test]
    fn both_formats_are_read() {
        let expected = [
            (250, What::Shown("one".to_owned())),
            (250, What::Other),
            (1000, What::Shown("two".to_owned())),
            (500, What::Other),
        ];
        for format in [Format::V3, Format::V2] {
            let cast = cast(format);
            assert_eq!(Replay::new(&cast[..]).unwrap().size(), (80, 24));
            assert_eq!(events(&cast), expected);
        }
    }

    #[test]
    fn what_is_broken_is_named() {
        for wrong in ["", "x", "{}", "{\"version\":1}", "{\"version\":3}", "[]"] {
            let error = Replay::new(wrong.as_bytes()).unwrap_err();
            assert!(matches!(error, ReplayError::NotACast), "{wrong}");
        }
        let mut cast = cast(Format::V3);
        cast.truncate(cast.len() - 3);
        let last = Replay::new(&cast[..]).unwrap().last().unwrap();
        assert_eq!(last.unwrap_err().to_string(), "line 5 is not an event");
    }

    #[test]
    fn odd_times_do_no_harm() {
        let cast = concat!(
            "{\"version\":2,\"width\":1,\"height\":1}\n# a comment\n\n",
            "[1e300, \"o\", \"a\"]\n[-1e300, \"o\", \"b\"]\n[1, \"o\", \"c\"]\n"
        );
        let pauses: Vec<_> = events(cast.as_bytes())
            .iter()
            .map(|(after, _)| *after)
            .collect();
        let day = MAX_PAUSE.as_millis();
        assert_eq!(pauses, [day, 0, day]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(bytes in any::<Vec<u8>>(), lines in "(\\[[0-9.e-]{1,6}, ?\"[a-z]\", ?\"x\"\\]?\n){0,9}") {
            let _ = Replay::new(&bytes[..]);
            let cast = format!("{{\"version\":3,\"term\":{{\"cols\":1,\"rows\":1}}}}\n{lines}");
            prop_assert!(Replay::new(cast.as_bytes()).unwrap().count() <= 9);
        }
    }
}
