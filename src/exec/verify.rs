//! Whether all of stdin has arrived: the container counts it, and the count comes back.
//!
//! Runtimes are known to lose the end of a command's stdin and to report success for all that (containerd #12734,
//! #13934, kubernetes #112834). Nothing in the protocol acknowledges stdin, so a shell beside the command does it: `tee`
//! hands the bytes on, `wc` counts them, and what it says comes last on stderr, behind a mark that nobody can guess. The
//! shell lives until stdin has ended and is counted, which by itself keeps the runtime from tearing the streams down.
//!
//! What the command made of its stdin, only the command knows.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// For any POSIX shell, the user's words as positional parameters only.
///
/// fd 3 and 4 are the command's stdout and stderr, 5 leads to `wc`, 6 to the variable, which gets the exit code and then
/// the count: `wc` ends after the last one who has 5. `exec` keeps the shell's builtins out of the way.
const SCRIPT: &str = r#"mark=$1
shift
for tool in tee wc; do
  command -v "$tool" >/dev/null || { echo "--verify needs $tool in the container" >&2; exit 127; }
done
[ -e /proc/self/fd/0 ] || { echo "--verify needs /proc in the container" >&2; exit 127; }
exec 3>&1 4>&2
set -- $(
  {
    {
      tee /proc/self/fd/5 2>/dev/null 3>&- 4>&- 6>&- |
        { (exec "$@" 3>&- 4>&- 5>&- 6>&-) >&3 2>&4; echo "$?" >&6; }
    } 5>&1 | wc -c
  } 6>&1
)
printf '%s%s\n' "$mark" "$2" >&2
exit "$1""#;

/// Bytes of a count and its line end; 2^64 has 20 digits.
const MAX_COUNT: usize = 21;

/// The check of one command.
#[derive(Debug)]
pub struct Verify {
    mark: String,
}

impl Verify {
    /// # Errors
    /// This machine has no random numbers.
    pub fn new() -> io::Result<Self> {
        let mut nonce = [0; 16];
        aws_lc_rs::rand::fill(&mut nonce)
            .map_err(|_| io::Error::other("no random numbers on this machine"))?;
        let mut mark = "kpf-verify-".to_owned();
        for byte in nonce {
            let _ = write!(mark, "{byte:02x}");
        }
        mark.push(':');
        Ok(Self { mark })
    }

    /// The command that runs `words` and acknowledges its stdin. It needs `sh`, `tee` and `wc` in the container, and ends
    /// as `words` do, but not before its stdin has ended.
    #[must_use]
    pub fn wrap(&self, words: Vec<OsString>) -> Vec<OsString> {
        let shell = ["sh", "-c", SCRIPT, "sh", &self.mark].map(OsString::from);
        shell.into_iter().chain(words).collect()
    }

    /// `inner` as the local stdin.
    pub fn stdin<R>(&self, inner: R) -> Counted<R> {
        Counted {
            inner,
            bytes: 0,
            ended: false,
        }
    }

    /// `inner` as the local stderr.
    pub fn stderr<W>(&self, inner: W) -> Acknowledged<W> {
        Acknowledged {
            inner,
            mark: self.mark.clone(),
            held: BytesMut::new(),
            ready: BytesMut::new(),
            count: None,
        }
    }
}

/// Counts what is read.
#[derive(Debug)]
pub struct Counted<R> {
    inner: R,
    bytes: u64,
    ended: bool,
}

/// Passes on what is written, but for the acknowledgement.
#[derive(Debug)]
pub struct Acknowledged<W> {
    inner: W,
    mark: String,
    /// What may be the beginning of the acknowledgement.
    held: BytesMut,
    /// What isn't, and is to be written.
    ready: BytesMut,
    count: Option<u64>,
}

/// stdin was not acknowledged in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Short {
    /// Fewer bytes have arrived than were read here.
    #[error(
        "stdin was cut short on its way: {received} of {sent} bytes have arrived in the container"
    )]
    Cut {
        /// Counted in the container.
        received: u64,
        /// Counted here.
        sent: u64,
    },
    /// The command was over before stdin was.
    #[error("stdin was cut short: the command ended before {sent} bytes and the rest were read")]
    Unread {
        /// Counted here.
        sent: u64,
    },
    /// There is no count.
    #[error("stdin was not acknowledged by the container")]
    Unacknowledged,
}

impl<R> Counted<R> {
    /// Compares with what the container has counted.
    ///
    /// # Errors
    /// Something is missing.
    pub fn compare<W>(&self, acknowledged: &Acknowledged<W>) -> Result<(), Short> {
        let sent = self.bytes;
        match acknowledged.count {
            None => Err(Short::Unacknowledged),
            Some(received) if received != sent => Err(Short::Cut { received, sent }),
            Some(_) if !self.ended => Err(Short::Unread { sent }),
            Some(_) => Ok(()),
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        let length = buffer.filled().len() - before;
        self.bytes += length as u64;
        self.ended |= length == 0;
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncWrite + Unpin> Acknowledged<W> {
    /// Writes what was held back and was no acknowledgement. To be called once at the end.
    ///
    /// # Errors
    /// It can't be written.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.ready.unsplit(self.held.split());
        self.inner.write_all(&self.ready.split()).await?;
        self.inner.flush().await
    }

    /// Tells the acknowledgement from the rest, as far as that can be done.
    fn sort(&mut self) {
        loop {
            let mark = self.mark.as_bytes();
            let found = self.held.windows(mark.len()).position(|it| it == mark);
            let Some(start) = found else {
                let longest = self.held.len().min(mark.len() - 1);
                let begun = (0..=longest)
                    .rev()
                    .find(|&length| self.held.ends_with(&mark[..length]));
                let length = self.held.len() - begun.unwrap_or_default();
                self.ready.unsplit(self.held.split_to(length));
                return;
            };
            self.ready.unsplit(self.held.split_to(start));
            let rest = &self.held[mark.len()..];
            let end = rest.iter().position(|&byte| byte == b'\n');
            if end.is_none() && rest.len() < MAX_COUNT {
                return;
            }
            let line = std::str::from_utf8(&rest[..end.unwrap_or_default()]);
            match line.ok().and_then(|line| line.parse().ok()) {
                Some(count) => {
                    self.count = Some(count);
                    self.held.advance(mark.len() + end.map_or(0, |end| end + 1));
                }
                // Not the script's: a command that shows its own words.
                None => self.ready.unsplit(self.held.split_to(mark.len())),
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
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Acknowledged<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
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

    /// What comes through, and the count, of stderr in these pieces.
    async fn sorted(verify: &Verify, pieces: &[&[u8]]) -> (Vec<u8>, Option<u64>) {
        let mut stderr = verify.stderr(Vec::new());
        for piece in pieces {
            stderr.write_all(piece).await.unwrap();
            stderr.flush().await.unwrap();
        }
        stderr.finish().await.unwrap();
        (stderr.inner, stderr.count)
    }

    #[tokio::test]
    async fn the_acknowledgement_is_found_in_any_pieces() {
        let verify = Verify::new().unwrap();
        let whole = format!("k\nkpf-verify-\n{}18446744073709551615\nlate", verify.mark);
        let whole = whole.as_bytes();
        let expected = (b"k\nkpf-verify-\nlate".to_vec(), Some(u64::MAX));
        assert_eq!(sorted(&verify, &[whole]).await, expected);
        for at in 0..whole.len() {
            let (head, tail) = whole.split_at(at);
            assert_eq!(sorted(&verify, &[head, tail]).await, expected, "{at}");
        }
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(sorted(&verify, &bytes).await, expected);
    }

    #[tokio::test]
    async fn what_is_none_comes_through() {
        let verify = Verify::new().unwrap();
        let mark = &verify.mark;
        for text in [
            String::new(),
            "kpf".to_owned(),
            mark[..mark.len() - 1].to_owned(),
            mark.clone(),
            format!("{mark}12"),
            format!("{mark}-1\n"),
            format!("{mark}x\n"),
            format!("{mark}123456789012345678901234567890\n"),
            format!("{mark}\n"),
            Verify::new().unwrap().mark + "12\n",
        ] {
            let expected = (text.clone().into_bytes(), None);
            assert_eq!(sorted(&verify, &[text.as_bytes()]).await, expected);
        }
    }

    #[tokio::test]
    async fn counts_are_compared() {
        let verify = Verify::new().unwrap();
        let mut stdin = verify.stdin(&b"12345"[..]);
        let mut stderr = verify.stderr(Vec::<u8>::new());
        assert_eq!(stdin.compare(&stderr), Err(Short::Unacknowledged));
        let mut five = [0; 5];
        tokio::io::AsyncReadExt::read_exact(&mut stdin, &mut five)
            .await
            .unwrap();
        stderr.count = Some(5);
        assert_eq!(stdin.compare(&stderr), Err(Short::Unread { sent: 5 }));
        tokio::io::AsyncReadExt::read_to_end(&mut stdin, &mut Vec::new())
            .await
            .unwrap();
        assert_eq!(stdin.compare(&stderr), Ok(()));
        stderr.count = Some(4);
        let cut = Short::Cut {
            received: 4,
            sent: 5,
        };
        assert_eq!(stdin.compare(&stderr), Err(cut));
    }
}
