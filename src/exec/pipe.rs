//! A command's stdin and stdout as one byte stream.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

use super::hang_up::{HangUp, Leash};
use super::{Command, Error, Fd, Marked, Session};
use crate::splice::Far;
use crate::tunnel::Failure;
use crate::untrusted;

/// Chunks that are held at a time; servers send them of 32 KiB at most.
const MAX_CHUNKS: usize = 4;
/// Bytes of stderr that are kept, the last ones: where a program fails, it says so at its end.
const MAX_STDERR: usize = 4 * 1024;
/// Characters of it that are shown.
const MAX_TEXT: usize = 400;
/// How long the words of stderr about a mark may take; they come by another way, and may be overtaken.
const TESTIMONY: Duration = Duration::from_secs(5);

/// What a command prints after its last byte, to say that it has no more while it goes on reading.
#[derive(Clone, Debug)]
pub struct EndMark {
    text: String,
    witness: Option<Witness>,
}

/// What stderr says about an end, where neither a mark nor the exit code tells a clean one from another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Witness {
    pub(super) clean: &'static str,
    pub(super) broken: &'static str,
}

impl EndMark {
    /// One that no pod's data can hold: 128 random bits.
    #[must_use]
    pub fn random() -> Self {
        let mut bits = [0; 16];
        // Without randomness there would be no TLS either, and so no pod to ask.
        aws_lc_rs::rand::fill(&mut bits).expect("the system's randomness works");
        Self {
            text: format!("kpf:{:032x}", u128::from_ne_bytes(bits)),
            witness: None,
        }
    }

    pub(super) fn with(mut self, witness: Witness) -> Self {
        self.witness = Some(witness);
        self
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

/// A command as a byte stream. It reads to a clean end only when its mark has come or it has ended with exit code 0.
/// What else ends it is an error, with a [`Failure`] inside that has the last of its stderr.
///
/// Dropping it closes the connection; most commands then see the end of their stdin. What else they need to end is for
/// [`Pipe::on_leash`].
pub struct Pipe<IO> {
    session: Session<IO>,
    /// The command's name, for errors.
    name: String,
    mark: Option<EndMark>,
    marked: Ending,
    chunks: VecDeque<Bytes>,
    /// The last bytes that were received, where they may be the first ones of the mark.
    held: Bytes,
    stderr: Marked<Vec<u8>>,
    leash: Option<Leash>,
    /// Whether the command knows of the end of its stdin, or needs to know no more.
    told: bool,
    /// How the session ended.
    over: Option<Result<(), Failure>>,
}

enum Ending {
    No,
    /// It has come, but may be a failure's.
    Perhaps(Pin<Box<Sleep>>),
    Yes,
}

impl<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static> Pipe<IO> {
    /// The stdin and stdout of a session that nothing was read from or written to. `name` is the command's, for
    /// errors.
    #[must_use]
    pub fn new(session: Session<IO>, name: String, mark: Option<EndMark>) -> Self {
        Self {
            session,
            name,
            mark,
            marked: Ending::No,
            chunks: VecDeque::new(),
            held: Bytes::new(),
            stderr: Marked::new(Vec::new(), None),
            leash: None,
            told: false,
            over: None,
        }
    }

    /// The command was wrapped by `hang_up`, and runs in `container`. Should this be dropped before it has ended, `end` gets
    /// the command that ends it: one whose stdout nobody reads, and whose peer never ends, would stay for ever.
    #[must_use]
    pub fn on_leash(
        mut self,
        hang_up: HangUp,
        container: Option<String>,
        end: impl FnOnce(Command) + Send + Sync + 'static,
    ) -> Self {
        self.stderr = HangUp::output(Some(&hang_up), Vec::new());
        self.leash = Some(Leash {
            hang_up,
            container,
            end: Some(Box::new(end)),
        });
        self
    }

    /// What the command has written to stdout until its end; for short answers.
    ///
    /// # Errors
    /// It failed, or wrote more than `limit` bytes.
    pub async fn output(mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        loop {
            let length = std::future::poll_fn(|cx| {
                let chunks = ready!(self.poll_chunks(cx))?;
                output.extend(chunks.iter().flatten());
                Poll::Ready(io::Result::Ok(chunks.iter().map(Bytes::len).sum::<usize>()))
            });
            match length.await? {
                0 => break,
                length => self.consume(length),
            }
            if output.len() > limit {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
        }
        self.session.close().await;
        Ok(output)
    }

    /// Takes in what has come; ready at the end of the session.
    fn poll_session(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.over.is_none() && self.chunks.len() < MAX_CHUNKS {
            match self.session.poll_output(cx) {
                Poll::Ready(Some((Fd::Stdout, bytes))) => self.receive(bytes),
                Poll::Ready(Some((Fd::Stderr, bytes))) => self.complain(&bytes),
                Poll::Ready(None) => {
                    if !self.held.is_empty() {
                        self.chunks.push_back(std::mem::take(&mut self.held));
                    }
                    let verdict = self.verdict();
                    // A connection that was cut says nothing of the command.
                    if !matches!(verdict, Err(Failure::Cut(_)))
                        && let Some(leash) = &mut self.leash
                    {
                        leash.end = None;
                    }
                    self.over = Some(verdict);
                }
                Poll::Pending => {
                    let _ = self.session.poll_flush(cx);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }

    /// Puts the mark, and what may become one, aside.
    fn receive(&mut self, bytes: Bytes) {
        let Some(mark) = &self.mark else {
            self.chunks.push_back(bytes);
            return;
        };
        if !matches!(self.marked, Ending::No) {
            return; // nothing comes after a mark
        }
        let mark = mark.text.as_bytes();
        let bytes = if self.held.is_empty() {
            bytes
        } else {
            let mut joined = BytesMut::from(&*std::mem::take(&mut self.held));
            joined.extend_from_slice(&bytes);
            joined.freeze()
        };
        let longest = mark.len().min(bytes.len());
        let kept = (1..=longest).rev().find(|&length| {
            let (tail, head) = (bytes.get(bytes.len() - length..), mark.get(..length));
            tail == head
        });
        let kept = kept.unwrap_or(0);
        let data = bytes.slice(..bytes.len() - kept);
        if kept == mark.len() {
            self.marked = Ending::Perhaps(Box::pin(sleep(TESTIMONY)));
        } else {
            self.held = bytes.slice(bytes.len() - kept..);
        }
        if !data.is_empty() {
            self.chunks.push_back(data);
        }
    }

    fn complain(&mut self, bytes: &[u8]) {
        self.stderr.extend(bytes);
        let text = self.stderr.text_mut();
        let surplus = text.len().saturating_sub(MAX_STDERR);
        text.drain(..surplus);
    }

    /// Ready when nothing more comes.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let testimony = self.testimony();
        match &mut self.marked {
            Ending::Yes => return Poll::Ready(Ok(())),
            Ending::Perhaps(patience) => match testimony {
                None | Some(Some(true)) => {
                    self.marked = Ending::Yes;
                    return Poll::Ready(Ok(()));
                }
                Some(Some(false)) => return Poll::Ready(Err(Failure::Reset)),
                Some(None) if self.over.is_none() => {
                    ready!(patience.as_mut().poll(cx));
                    return Poll::Ready(Err(Failure::Unconfirmed));
                }
                Some(None) => {}
            },
            Ending::No => {}
        }
        self.over.clone().map_or(Poll::Pending, Poll::Ready)
    }

    /// Whether stderr calls the end clean, where it has said so already; none where it has nothing to say.
    fn testimony(&self) -> Option<Option<bool>> {
        let witness = self.mark.as_ref()?.witness?;
        Some(if contains(self.stderr.text(), witness.broken) {
            Some(false)
        } else {
            contains(self.stderr.text(), witness.clean).then_some(true)
        })
    }

    fn verdict(&self) -> Result<(), Failure> {
        let name = &self.name;
        let code = match (self.session.verdict(), self.testimony()) {
            (Ok(_), Some(Some(false))) => return Err(Failure::Reset),
            (Ok(0), None | Some(Some(true))) => return Ok(()),
            (Ok(code), _) => code,
            (Err(Error::NoStatus(lost)), _) => return Err(Failure::Cut(lost.to_string())),
            (Err(error), _) => {
                let error = untrusted::printable(&error.to_string(), MAX_TEXT);
                return Err(Failure::Other(format!("{name} in the container: {error}")));
            }
        };
        let stderr = String::from_utf8_lossy(self.stderr.text());
        // socat grades its lines: E is an error.
        let errors: Vec<_> = stderr.lines().filter(|line| line.contains(" E ")).collect();
        let said = match errors[..] {
            [] => stderr.trim().to_owned(),
            _ => errors.join("; "),
        };
        // The end has the reason.
        let surplus = said.chars().count().saturating_sub(MAX_TEXT);
        let said: String = said.chars().skip(surplus).collect();
        let said = untrusted::printable(&said, MAX_TEXT);
        let ended = match code {
            0 => format!("{name} in the container"),
            code => format!("{name} in the container ended with exit code {code}"),
        };
        let text = match said.as_str() {
            "" => format!("{ended} did not say how the connection has ended"),
            said => format!("{ended}: {said}"),
        };
        let lower = said.to_ascii_lowercase();
        Err(if lower.contains("connection refused") {
            Failure::Refused(text)
        } else if lower.contains("reset by peer") || lower.contains("broken pipe") {
            Failure::Reset
        } else {
            Failure::Other(text)
        })
    }
}

fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len())
        .any(|window| window == part.as_bytes())
}

impl<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static> Far for Pipe<IO> {
    fn poll_chunks(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&VecDeque<Bytes>>> {
        if self.chunks.is_empty() {
            let _ = self.poll_session(cx);
            if self.chunks.is_empty() {
                ready!(self.poll_end(cx))?;
            }
        }
        Poll::Ready(Ok(&self.chunks))
    }

    fn consume(&mut self, length: usize) {
        let mut left = length;
        while left > 0
            && let Some(chunk) = self.chunks.front_mut()
        {
            let part = left.min(chunk.len());
            chunk.advance(part);
            left -= part;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        if self.session.is_over() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // It turns ready while output is polled for, which a splice does first.
        if !self.session.is_ready() {
            return Poll::Pending;
        }
        let written = ready!(self.session.poll_write(cx, data));
        let _ = self.session.poll_flush(cx);
        Poll::Ready(written.map_err(|_| io::ErrorKind::BrokenPipe.into()))
    }

    /// Ready when the command has ended: only then is all delivered that it was sent.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.told {
            if self.session.is_over() {
                self.told = true;
            } else if self.session.is_ready() {
                // What it doesn't take any more, it doesn't miss.
                let _ = ready!(self.session.poll_finish(cx));
                self.told = true;
            }
            let _ = self.session.poll_flush(cx);
        }
        // Before the mark, whoever reads the output does this.
        if matches!(self.marked, Ending::Yes) {
            ready!(self.poll_session(cx));
        }
        match &self.over {
            // The exit code of a program whose connection has ended says nothing new.
            Some(Err(failure @ Failure::Cut(_))) => Poll::Ready(Err(failure.clone().into())),
            Some(_) => Poll::Ready(Ok(())),
            None => Poll::Pending,
        }
    }
}
