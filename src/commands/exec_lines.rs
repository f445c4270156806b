//! `kpf exec -o json`: what a command does as JSON lines, its output among them, byte by byte.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::stdio::Output;

/// The version of the format: fields and types may be added to it, none changes.
const VERSION: u32 = 1;
/// Bytes of output in one line: it is held in memory until it is written.
const LARGEST: usize = 32 << 10;

/// stdout as lines. Clones write to the same.
#[derive(Clone)]
pub(super) struct Lines(Arc<Mutex<Sink>>);

struct Sink {
    output: Output,
    /// A line that is not written yet, and how much of it is.
    line: Vec<u8>,
    written: usize,
}

impl Lines {
    pub(super) fn new(output: Output) -> Self {
        Self(Arc::new(Mutex::new(Sink {
            output,
            line: Vec::new(),
            written: 0,
        })))
    }

    /// Writes one line that is no output, and all before it.
    pub(super) async fn tell(&self, kind: &str, mut fields: Value) -> io::Result<()> {
        fields["version"] = json!(VERSION);
        fields["type"] = json!(kind);
        std::future::poll_fn(|cx| {
            let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            ready!(sink.poll_line(cx))?;
            sink.set(&fields);
            Poll::Ready(Ok(()))
        })
        .await
        .and(self.stream("").flush().await)
    }

    /// One of the command's outputs.
    pub(super) fn stream(&self, name: &'static str) -> Written {
        Written::Lines(self.clone(), name)
    }
}

impl Sink {
    fn set(&mut self, value: &Value) {
        self.line = format!("{value}\n").into_bytes();
        self.written = 0;
    }

    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.line.len() {
            let rest = &self.line[self.written..];
            match ready!(Pin::new(&mut self.output).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Where an output of the command goes: as it is, or in lines.
pub(super) enum Written {
    Plain(Output),
    Lines(Lines, &'static str),
}

impl AsyncWrite for Written {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(output) => Pin::new(output).poll_write(cx, bytes),
            Self::Lines(lines, stream) => {
                let mut sink = lines.0.lock().unwrap_or_else(PoisonError::into_inner);
                ready!(sink.poll_line(cx))?;
                let bytes = &bytes[..bytes.len().min(LARGEST)];
                let (mut line, taken) = encode(bytes);
                if taken > 0 {
                    line["version"] = json!(VERSION);
                    line["type"] = json!("output");
                    line["stream"] = json!(*stream);
                    sink.set(&line);
                    // as much of it as there is room for; the rest goes before what comes next
                    if let Poll::Ready(Err(error)) = sink.poll_line(cx) {
                        return Poll::Ready(Err(error));
                    }
                }
                Poll::Ready(Ok(taken))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(output) => Pin::new(output).poll_flush(cx),
            Self::Lines(lines, _) => {
                let mut sink = lines.0.lock().unwrap_or_else(PoisonError::into_inner);
                ready!(sink.poll_line(cx))?;
                Pin::new(&mut sink.output).poll_flush(cx)
            }
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(output) => Pin::new(output).poll_shutdown(cx),
            // the other output goes on, and so does the line of the end
            lines @ Self::Lines(..) => Pin::new(lines).poll_flush(cx),
        }
    }
}

/// Bytes as text if they are, up to a character that is cut off; else in base64. Says how many of them.
fn encode(bytes: &[u8]) -> (Value, usize) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (json!({ "text": text }), bytes.len()),
        Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
            let (whole, _) = bytes.split_at(error.valid_up_to());
            (
                json!({ "text": String::from_utf8_lossy(whole) }),
                whole.len(),
            )
        }
        Err(_) => (json!({ "base64": STANDARD.encode(bytes) }), bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(line: &Value) -> Vec<u8> {
        match (line["text"].as_str(), line["base64"].as_str()) {
            (Some(text), None) => text.as_bytes().to_vec(),
            (None, Some(base64)) => STANDARD.decode(base64).unwrap(),
            _ => panic!("{line}"),
        }
    }

    #[test]
    fn text_is_text_and_nothing_else_is() {
        assert_eq!(encode(b"a\n"), (json!({ "text": "a\n" }), 2));
        assert_eq!(
            encode("a\u{e4}".as_bytes().split_last().unwrap().1),
            (json!({ "text": "a" }), 1)
        );
        assert_eq!(encode(b"a\xff"), (json!({ "base64": "Yf8=" }), 2));
        // half a character that may be all that comes
        assert_eq!(encode(b"\xc3"), (json!({ "base64": "ww==" }), 1));
    }

    proptest! {
        #[test]
        fn every_byte_arrives(bytes in any::<Vec<u8>>()) {
            let (mut rest, mut all) = (&bytes[..], Vec::new());
            while !rest.is_empty() {
                let (line, taken) = encode(rest);
                prop_assert!(taken > 0);
                all.extend(decode(&line));
                rest = &rest[taken..];
            }
            prop_assert_eq!(all, bytes);
        }
    }
}
