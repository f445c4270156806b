//! A terminal's recording: what is shown is recorded first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Start;
use crate::ssh::audit::recording::{Failure, Policy, Recorder, Terminal};
use crate::ssh::audit::{Direction, Exit, Kind};
use crate::ssh::metrics::Metrics;
use crate::ssh::policy::{Grant, Record};
use crate::ssh::request::Size;
use crate::ssh::server::{Journal, User};

/// Bytes that are recorded at a time.
const PIECE: usize = 32 * 1024;

/// The recording of one session, where its policy wants one and there is a terminal.
pub(super) struct Tape {
    recorder: Option<Recorder>,
    journal: Journal,
    metrics: Metrics,
}

impl Tape {
    /// Begins it, as the policy says. Commands without a terminal are not recorded: the log has their words.
    ///
    /// # Errors
    /// It can't be recorded and has to be: nothing is to be run.
    pub(super) async fn begin(
        user: &User,
        grant: &Grant,
        start: &Start,
        journal: &Journal,
    ) -> Result<Self, String> {
        let mut tape = Self {
            recorder: None,
            journal: journal.clone(),
            metrics: user.metrics.clone(),
        };
        let policy = match grant.record {
            Record::Off => return Ok(tape),
            Record::BestEffort => Policy::BestEffort,
            Record::Required => Policy::Required,
        };
        let Some((kind, size)) = &start.pty else {
            return match policy == Policy::Required && start.is_shell() {
                true => Err(must("there is no terminal: ask for one (ssh -tt)")),
                false => Ok(tape),
            };
        };
        let (session, channel) = journal.channel();
        let (Some(recordings), Some(session)) = (&user.recordings, session) else {
            return match policy {
                Policy::Required => Err(must("the gateway has no place for recordings")),
                Policy::BestEffort | Policy::Off => Ok(tape),
            };
        };
        let terminal = Terminal {
            kind: kind.clone(),
            columns: size.columns,
            rows: size.rows,
        };
        let begun = recordings.begin(policy, session, channel, terminal).await;
        tape.recorder = begun.map_err(|failure| {
            tape.metrics.recorded(0, false);
            must(failure)
        })?;
        if let Some(recorder) = &tape.recorder {
            let name = recorder.name().to_owned();
            journal.note(Kind::RecordingStart { name });
        }
        Ok(tape)
    }

    /// Records what goes to the terminal by this writer.
    pub(super) fn writer<W>(&self, inner: W) -> Taped<'_, W> {
        self.taped(inner, Direction::Out)
    }

    /// Records what is typed, if the configuration says so.
    pub(super) fn reader<R>(&self, inner: R) -> Taped<'_, R> {
        self.taped(inner, Direction::In)
    }

    fn taped<T>(&self, inner: T, direction: Direction) -> Taped<'_, T> {
        Taped {
            inner,
            direction,
            recorder: self.recorder.as_ref(),
            recording: None,
            ahead: 0,
        }
    }

    /// Records a new size.
    pub(super) async fn resize(&self, size: Size) {
        if let Some(recorder) = &self.recorder {
            // `failed` says so.
            let _ = recorder.resize(size.columns, size.rows).await;
        }
    }

    /// Ready, with a reason for the client, once what has to be recorded isn't.
    pub(super) async fn failed(&self) -> String {
        match &self.recorder {
            Some(recorder) => must(recorder.failed().await),
            None => std::future::pending().await,
        }
    }

    /// Ends it, and says what became of it.
    pub(super) async fn finish(self, exit: Exit) {
        let Some(recorder) = self.recorder else {
            return;
        };
        let summary = recorder.finish(exit).await;
        let is_whole = summary.incomplete.is_none();
        self.metrics.recorded(summary.bytes, is_whole);
        self.journal.note(summary.into());
    }
}

fn must(reason: impl std::fmt::Display) -> String {
    format!("this session has to be recorded: {reason}")
}

type Recording<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// A stream of which all that passes is recorded. Where it has to be and isn't, nothing passes any more, and
/// [`Tape::failed`] ends the session.
pub(super) struct Taped<'a, T> {
    inner: T,
    direction: Direction,
    recorder: Option<&'a Recorder>,
    recording: Option<Recording<'a>>,
    /// Bytes that are recorded and not written yet: the first ones of the next write, as `AsyncWrite` has it.
    ahead: usize,
}

impl<T> Taped<'_, T> {
    fn record(&mut self, bytes: &[u8]) {
        let Some(recorder) = self.recorder else {
            return;
        };
        let (direction, bytes) = (self.direction, Bytes::copy_from_slice(bytes));
        self.recording = Some(Box::pin(
            async move { recorder.data(direction, bytes).await },
        ));
    }

    /// Ready once what was to be recorded is.
    fn poll_recorded(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(recording) = &mut self.recording else {
            return Poll::Ready(());
        };
        let recorded = ready!(recording.as_mut().poll(cx));
        self.recording = None;
        match recorded {
            Ok(()) => Poll::Ready(()),
            Err(_) => {
                self.recording = Some(Box::pin(std::future::pending()));
                Poll::Pending
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Taped<'_, W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.recorder.is_none() {
            return Pin::new(&mut self.inner).poll_write(cx, bytes);
        }
        if self.recording.is_none() && self.ahead == 0 {
            let piece = bytes.get(..PIECE).unwrap_or(bytes);
            self.record(piece);
            self.ahead = piece.len();
        }
        ready!(self.poll_recorded(cx));
        let piece = bytes.get(..self.ahead).unwrap_or(bytes);
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, piece))?;
        self.ahead = self.ahead.saturating_sub(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Taped<'_, R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // What was read last is not passed on twice: it is recorded before anything follows it.
        ready!(self.poll_recorded(cx));
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let typed = buf.filled().get(before..).unwrap_or_default();
        if !typed.is_empty() {
            self.record(typed);
            // In the queue by now, unless the disk is slow.
            let _ = self.poll_recorded(cx);
        }
        Poll::Ready(Ok(()))
    }
}
