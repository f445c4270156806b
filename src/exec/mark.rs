//! A number that a shell script in the container says among a command's output, behind a mark that nobody can guess.

use std::fmt::Write as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// Bytes of a number and its line end, CR LF in a terminal; 2^64 has 20 digits.
const MAX_LINE: usize = 22;

/// A mark, and the number behind it once it was seen.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    text: String,
    number: Arc<OnceLock<u64>>,
}

impl Mark {
    pub(super) fn new(name: &str) -> io::Result<Self> {
        let mut nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|_| io::Error::other("no random numbers on this machine"))?;
        let mut text = format!("kpf-{name}-");
        for byte in nonce {
            let _ = write!(text, "{byte:02x}");
        }
        text.push(':');
        Ok(Self {
            text,
            number: Arc::default(),
        })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn number(&self) -> Option<u64> {
        self.number.get().copied()
    }
}

/// Passes on what is written, but for the mark, its number and the line's end.
#[derive(Debug)]
pub struct Marked<W> {
    inner: W,
    /// None where there is nothing to look for.
    mark: Option<Mark>,
    /// What may be the beginning of the mark.
    held: BytesMut,
    /// What isn't, and is to be written.
    ready: BytesMut,
}

impl<W: AsyncWrite + Unpin> Marked<W> {
    pub(super) fn new(inner: W, mark: Option<&Mark>) -> Self {
        Self {
            inner,
            mark: mark.cloned(),
            held: BytesMut::new(),
            ready: BytesMut::new(),
        }
    }

    /// Writes what was held back and was no mark. To be called once at the end.
    ///
    /// # Errors
    /// It can't be written.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.ready.unsplit(self.held.split());
        self.inner.write_all(&self.ready.split()).await?;
        self.inner.flush().await
    }

    /// Tells the mark from the rest, as far as that can be done.
    fn sort(&mut self) {
        let Some(mark) = &self.mark else { return };
        loop {
            if mark.number().is_some() {
                self.ready.unsplit(self.held.split());
                return;
            }
            let text = mark.text.as_bytes();
            let found = self.held.windows(text.len()).position(|it| it == text);
            let Some(start) = found else {
                let longest = self.held.len().min(text.len() - 1);
                let begun = (0..=longest)
                    .rev()
                    .find(|&length| self.held.ends_with(&text[..length]));
                let length = self.held.len() - begun.unwrap_or_default();
                self.ready.unsplit(self.held.split_to(length));
                return;
            };
            self.ready.unsplit(self.held.split_to(start));
            let rest = &self.held[text.len()..];
            let end = rest.iter().position(|&byte| byte == b'\n');
            if end.is_none() && rest.len() < MAX_LINE {
                return;
            }
            let line = std::str::from_utf8(&rest[..end.unwrap_or_default()]).unwrap_or_default();
            match line.trim_end_matches('\r').parse() {
                Ok(number) => {
                    mark.number.get_or_init(|| number);
                    let length = text.len() + end.map_or(0, |end| end + 1);
                    self.held.advance(length);
                }
                // Not the script's: a command that shows its own words.
                Err(_) => self.ready.unsplit(self.held.split_to(text.len())),
            }
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.ready.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.ready))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.ready.advance(length),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether all that comes is for `inner`.
    fn is_through(&self) -> bool {
        let done = |mark: &Mark| mark.number().is_some();
        self.held.is_empty() && self.mark.as_ref().is_none_or(done)
    }
}

impl Marked<Vec<u8>> {
    /// As a write, which a vector never delays.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        self.sort();
        if self.mark.is_none() {
            self.ready.unsplit(self.held.split());
        }
        self.inner.extend_from_slice(&self.ready.split());
    }

    /// What came through.
    pub(super) fn text(&self) -> &[u8] {
        &self.inner
    }

    pub(super) fn text_mut(&mut self) -> &mut Vec<u8> {
        &mut self.inner
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Marked<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        if self.is_through() {
            return Pin::new(&mut self.inner).poll_write(cx, bytes);
        }
        self.held.extend_from_slice(bytes);
        self.sort();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes through, and the number, of output in these pieces.
    async fn sorted(text: &str, pieces: &[&[u8]]) -> (Vec<u8>, Option<u64>) {
        let mark = Mark {
            text: text.to_owned(),
            number: Arc::default(),
        };
        let mut output = Marked::new(Vec::new(), Some(&mark));
        for piece in pieces {
            output.write_all(piece).await.unwrap();
            output.flush().await.unwrap();
        }
        output.finish().await.unwrap();
        (output.inner, mark.number())
    }

    #[tokio::test]
    async fn the_mark_is_found_in_any_pieces() {
        let mark = Mark::new("test").unwrap();
        let mark = mark.text();
        for line_end in ["\n", "\r\n"] {
            let whole = format!("k\nkpf-test-\n{mark}18446744073709551615{line_end}late");
            let whole = whole.as_bytes();
            let expected = (b"k\nkpf-test-\nlate".to_vec(), Some(u64::MAX));
            assert_eq!(sorted(mark, &[whole]).await, expected);
            for at in 0..whole.len() {
                let (head, tail) = whole.split_at(at);
                assert_eq!(sorted(mark, &[head, tail]).await, expected, "{at}");
            }
            let bytes: Vec<&[u8]> = whole.chunks(1).collect();
            assert_eq!(sorted(mark, &bytes).await, expected);
        }
    }

    #[tokio::test]
    async fn what_is_none_comes_through() {
        let mark = Mark::new("test").unwrap();
        let mark = mark.text();
        for text in [
            String::new(),
            "kpf".to_owned(),
            mark[..mark.len() - 1].to_owned(),
            mark.to_owned(),
            format!("{mark}12"),
            format!("{mark}-1\n"),
            format!("{mark}x\n"),
            format!("{mark}123456789012345678901234567890\n"),
            format!("{mark}\n"),
            Mark::new("test").unwrap().text + "12\n",
        ] {
            let expected = (text.clone().into_bytes(), None);
            assert_eq!(sorted(mark, &[text.as_bytes()]).await, expected);
        }
    }

    #[tokio::test]
    async fn without_a_mark_all_comes_through() {
        let mut output = Marked::new(Vec::new(), None);
        output.write_all(b"kpf-").await.unwrap();
        assert_eq!(output.inner, b"kpf-");
    }
}
