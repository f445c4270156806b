//! The asciicast formats, 3 (asciinema 3) and 2 (older players): a line of JSON about the terminal, then a line per event.

use std::time::Duration;

use serde::Serialize;

use super::text::Decoder;
use crate::ssh::audit::auditor::Direction;
use crate::ssh::audit::event::Exit;
use crate::ssh::audit::line::{Bounded, Escaping};

/// Which format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Times since the event before, and how the command ended.
    #[default]
    V3,
    /// Times since the beginning; the end is a marker.
    V2,
}

/// What is known of the terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terminal {
    /// `TERM`, as the client sent it.
    pub kind: String,
    /// Characters across.
    pub columns: u32,
    /// Characters down.
    pub rows: u32,
}

/// Turns what happens on a channel into lines. Times are since the beginning and never go back.
#[derive(Debug)]
pub struct Encoder {
    format: Format,
    /// Microseconds up to the last event.
    last: u64,
    /// Of each direction's text.
    decoders: [Decoder; 3],
}

impl Encoder {
    /// With the first line.
    #[must_use]
    pub fn new(format: Format, terminal: &Terminal, unix_seconds: i64) -> (Self, Vec<u8>) {
        #[derive(Serialize)]
        struct V3<'a> {
            version: u8,
            term: Term<'a>,
            timestamp: i64,
        }
        #[derive(Serialize)]
        struct Term<'a> {
            cols: u32,
            rows: u32,
            #[serde(rename = "type")]
            kind: Bounded<'a>,
        }
        #[derive(Serialize)]
        struct V2<'a> {
            version: u8,
            width: u32,
            height: u32,
            timestamp: i64,
            env: Env<'a>,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "UPPERCASE")]
        struct Env<'a> {
            term: Bounded<'a>,
        }
        let mut line = Vec::new();
        let kind = Bounded::name(&terminal.kind);
        let (columns, rows) = (terminal.columns, terminal.rows);
        match format {
            Format::V3 => json(
                &mut line,
                &V3 {
                    version: 3,
                    term: Term {
                        cols: columns,
                        rows,
                        kind,
                    },
                    timestamp: unix_seconds,
                },
            ),
            Format::V2 => json(
                &mut line,
                &V2 {
                    version: 2,
                    width: columns,
                    height: rows,
                    timestamp: unix_seconds,
                    env: Env { term: kind },
                },
            ),
        }
        line.push(b'\n');
        let encoder = Self {
            format,
            last: 0,
            decoders: Default::default(),
        };
        (encoder, line)
    }

    /// Bytes of the terminal, or of the keyboard.
    pub fn data(&mut self, at: Duration, direction: Direction, bytes: &[u8], to: &mut Vec<u8>) {
        let text = self.decoders[direction as usize].decode(bytes);
        if !text.is_empty() {
            self.event(at, code(direction), &text, to);
        }
    }

    /// The terminal's size has changed.
    pub fn resize(&mut self, at: Duration, columns: u32, rows: u32, to: &mut Vec<u8>) {
        self.event(at, "r", &format!("{columns}x{rows}"), to);
    }

    /// A remark of ours.
    pub fn marker(&mut self, at: Duration, text: &str, to: &mut Vec<u8>) {
        self.event(at, "m", text, to);
    }

    /// The end of the channel: what is left of its text, and how its command ended.
    pub fn end(&mut self, at: Duration, exit: &Exit, to: &mut Vec<u8>) {
        for direction in [Direction::In, Direction::Out, Direction::Error] {
            if let Some(cut) = self.decoders[direction as usize].finish() {
                self.event(at, code(direction), cut.encode_utf8(&mut [0; 4]), to);
            }
        }
        match (exit, self.format) {
            (Exit::Unknown, _) => {}
            (Exit::Code(code), Format::V3) => self.event(at, "x", &code.to_string(), to),
            (Exit::Code(code), Format::V2) => self.marker(at, &format!("exit {code}"), to),
            // The format has numbers only; which signal is in the event log, too.
            (Exit::Signal(signal), _) => {
                let mut text = format!("signal {signal}");
                text.truncate(64);
                self.marker(at, &text, to);
            }
        }
    }

    fn event(&mut self, at: Duration, code: &str, text: &str, to: &mut Vec<u8>) {
        let micros = u64::try_from(at.as_micros())
            .unwrap_or(u64::MAX)
            .max(self.last);
        // As integers, so that differences add up to the whole.
        let shown = match self.format {
            Format::V3 => micros - self.last,
            Format::V2 => micros,
        };
        self.last = micros;
        let (seconds, micros) = (shown / 1_000_000, shown % 1_000_000);
        to.extend_from_slice(format!("[{seconds}.{micros:06}, \"{code}\", ").as_bytes());
        json(to, &text);
        to.extend_from_slice(b"]\n");
    }
}

/// Everything that is shown is `o`: a player knows one screen.
const fn code(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "i",
        Direction::Out | Direction::Error => "o",
    }
}

fn json(to: &mut Vec<u8>, value: &impl Serialize) {
    let mut serializer = serde_json::Serializer::with_formatter(to, Escaping);
    value
        .serialize(&mut serializer)
        .expect("strings and numbers can be written to memory");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn terminal() -> Terminal {
        Terminal {
            kind: "xterm-256color".to_owned(),
            columns: 80,
            rows: 24,
        }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn session(format: Format) -> String {
        let (mut encoder, mut cast) = Encoder::new(format, &terminal(), 1_763_773_323);
        encoder.data(at(250), Direction::Out, b"$ \x1b[1ml\xc3", &mut cast);
        encoder.data(at(1000), Direction::Out, b"\xa4\r\n", &mut cast);
        encoder.data(at(900), Direction::Error, b"late\xc3", &mut cast);
        encoder.resize(at(61_000), 100, 50, &mut cast);
        encoder.end(at(61_001), &Exit::Code(3), &mut cast);
        String::from_utf8(cast).unwrap()
    }

    #[test]
    fn version_3() {
        assert_eq!(
            session(Format::V3),
            concat!(
                r#"{"version":3,"term":{"cols":80,"rows":24,"type":"xterm-256color"},"timestamp":1763773323}"#,
                "\n[0.250000, \"o\", \"$ \\u001b[1ml\"]\n",
                "[0.750000, \"o\", \"ä\\r\\n\"]\n",
                "[0.000000, \"o\", \"late\"]\n",
                "[60.000000, \"r\", \"100x50\"]\n",
                "[0.001000, \"o\", \"\u{fffd}\"]\n",
                "[0.000000, \"x\", \"3\"]\n",
            )
        );
    }

    #[test]
    fn version_2() {
        assert_eq!(
            session(Format::V2),
            concat!(
                r#"{"version":2,"width":80,"height":24,"timestamp":1763773323,"env":{"TERM":"xterm-256color"}}"#,
                "\n[0.250000, \"o\", \"$ \\u001b[1ml\"]\n",
                "[1.000000, \"o\", \"ä\\r\\n\"]\n",
                "[1.000000, \"o\", \"late\"]\n",
                "[61.000000, \"r\", \"100x50\"]\n",
                "[61.001000, \"o\", \"\u{fffd}\"]\n",
                "[61.001000, \"m\", \"exit 3\"]\n",
            )
        );
    }

    #[test]
    fn a_file_can_be_looked_at() {
        let terminal = Terminal {
            kind: "\u{1b}]0;x\u{7}".repeat(1000),
            ..terminal()
        };
        let (mut encoder, mut cast) = Encoder::new(Format::V3, &terminal, 0);
        assert!(cast.len() < 4096, "{}", cast.len());
        let nasty = "\u{1b}[2J\u{9b}K\u{202e}\u{7f}";
        encoder.data(at(0), Direction::Out, nasty.as_bytes(), &mut cast);
        encoder.end(at(0), &Exit::Signal("\u{1b}".to_owned()), &mut cast);
        let text = String::from_utf8(cast).unwrap();
        let harmless = |c| c == '\n' || !crate::untrusted::is_hidden(c);
        assert!(text.chars().all(harmless), "{text:?}");
    }

    proptest! {
        #[test]
        fn the_text_comes_back_and_so_do_the_times(
            pieces in prop::collection::vec((any::<String>(), 0_u64..10_000_000, any::<prop::sample::Index>()), 0..20),
        ) {
            let (mut encoder, mut cast) = Encoder::new(Format::V3, &terminal(), 0);
            let mut sent = Vec::new();
            let mut now = Duration::ZERO;
            cast.clear();
            for (text, micros, cut) in &pieces {
                now += Duration::from_micros(*micros);
                let (head, tail) = text.as_bytes().split_at(cut.index(text.len() + 1));
                encoder.data(now, Direction::Out, head, &mut cast);
                encoder.data(now, Direction::Out, tail, &mut cast);
                sent.extend_from_slice(text.as_bytes());
            }
            encoder.end(now, &Exit::Code(0), &mut cast);
            let mut seen = String::new();
            let mut micros = 0;
            for line in String::from_utf8(cast).unwrap().lines() {
                let (interval, code, text): (f64, String, String) = serde_json::from_str(line).unwrap();
                micros += (interval * 1e6).round() as u64;
                if code == "o" {
                    seen += &text;
                }
            }
            prop_assert_eq!(seen.as_bytes(), sent);
            prop_assert_eq!(u128::from(micros), now.as_micros());
        }
    }
}
