//! Whether all of stdin has arrived: the container counts it, and the count comes back.
//!
//! Runtimes are known to lose the end of a command's stdin and to report success for all that (containerd #12734,
//! #13934, kubernetes #112834). Nothing in the protocol acknowledges stdin, so a shell beside the command does it: `tee`
//! hands the bytes on, `wc` counts them, and what it says comes last on stderr, behind a mark that nobody can guess. The
//! shell lives until stdin has ended and is counted, which by itself keeps the runtime from tearing the streams down.
//!
//! What the command made of its stdin, only the command knows.

use std::ffi::OsString;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::mark::{Mark, Marked};

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

/// The check of one command.
#[derive(Debug)]
pub struct Verify {
    mark: Mark,
}

impl Verify {
    /// # Errors
    /// This machine has no random numbers.
    pub fn new() -> io::Result<Self> {
        let mark = Mark::new("verify")?;
        Ok(Self { mark })
    }

    /// The command that runs `words` and acknowledges its stdin. It needs `sh`, `tee` and `wc` in the container, and ends
    /// as `words` do, but not before its stdin has ended.
    #[must_use]
    pub fn wrap(&self, words: Vec<OsString>) -> Vec<OsString> {
        let shell = ["sh", "-c", SCRIPT, "sh", self.mark.text()].map(OsString::from);
        shell.into_iter().chain(words).collect()
    }

    /// `inner` as the local stderr; without a check it is left as it is.
    pub fn stderr<W: AsyncWrite + Unpin>(check: Option<&Self>, inner: W) -> Marked<W> {
        Marked::new(inner, check.map(|check| &check.mark))
    }

    /// Compares what was read here with what the container has counted.
    ///
    /// # Errors
    /// Something is missing.
    pub fn compare<R>(&self, stdin: &Counted<R>) -> Result<(), Short> {
        let sent = stdin.bytes;
        match self.mark.number() {
            None => Err(Short::Unacknowledged),
            Some(received) if received != sent => Err(Short::Cut { received, sent }),
            Some(_) if !stdin.ended => Err(Short::Unread { sent }),
            Some(_) => Ok(()),
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
    /// `inner` as the local stdin.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            bytes: 0,
            ended: false,
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn counts_are_compared() {
        for (acknowledged, expected) in [
            (5, Ok(())),
            (
                4,
                Err(Short::Cut {
                    received: 4,
                    sent: 5,
                }),
            ),
        ] {
            let verify = Verify::new().unwrap();
            let mut stdin = Counted::new(&b"12345"[..]);
            assert_eq!(verify.compare(&stdin), Err(Short::Unacknowledged));
            stdin.read_exact(&mut [0; 5]).await.unwrap();
            let line = format!("{}{acknowledged}\n", verify.mark.text());
            let mut stderr = Verify::stderr(Some(&verify), Vec::new());
            stderr.write_all(line.as_bytes()).await.unwrap();
            if acknowledged == 5 {
                assert_eq!(verify.compare(&stdin), Err(Short::Unread { sent: 5 }));
            }
            stdin.read_to_end(&mut Vec::new()).await.unwrap();
            assert_eq!(verify.compare(&stdin), expected);
        }
    }
}
