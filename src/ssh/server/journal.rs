//! What is written down about a connection and its channels, and how many bytes went through them.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::AsyncWrite;
use tokio_util::sync::CancellationToken;

use crate::ssh::audit::{About, Audit, Direction, Exit, Kind, Refused, SessionId, Verdict};
use crate::ssh::metrics::{Counter, Metrics};

/// The events of a connection, or of one of its channels. A gateway without a log has one that writes nothing.
#[derive(Clone)]
pub struct Journal {
    audit: Option<Audit>,
    about: About,
    /// Cancelled where an auditor wants the end of it.
    end: CancellationToken,
}

impl Journal {
    pub(super) fn new(audit: Option<Audit>, about: About, end: CancellationToken) -> Self {
        Self { audit, about, end }
    }

    /// The same about something closer.
    #[must_use]
    pub fn about(&self, say: impl FnOnce(&mut About)) -> Self {
        let mut journal = self.clone();
        say(&mut journal.about);
        journal
    }

    /// The same of a channel, which an auditor may end on its own.
    pub(super) fn of_channel(&self, number: u32, end: CancellationToken) -> Self {
        let mut journal = self.about(|about| about.channel = Some(number));
        journal.end = end;
        journal
    }

    /// Of which channel it is, and of which connection.
    #[must_use]
    pub fn channel(&self) -> (Option<SessionId>, u32) {
        (self.about.session, self.about.channel.unwrap_or_default())
    }

    /// Writes it, without waiting. If the log fails where it must not, all connections end: nobody has to ask.
    pub fn note(&self, kind: Kind) {
        let Some(audit) = &self.audit else { return };
        if let Ok(Verdict::Close) = audit.write(self.about.clone(), kind) {
            self.end.cancel();
        }
    }

    /// Writes what must not happen unseen, and waits until it is written.
    ///
    /// # Errors
    /// It isn't: it must not happen.
    pub async fn commit(&self, kind: Kind) -> Result<(), Refused> {
        let Some(audit) = &self.audit else {
            return Ok(());
        };
        match audit.commit(self.about.clone(), kind).await? {
            Verdict::Continue => Ok(()),
            Verdict::Close => Err(Refused("an auditor does not allow it".to_owned())),
        }
    }

    /// Shows bytes that are about to be passed on.
    fn show(&self, direction: Direction, bytes: &[u8]) {
        let (Some(audit), Some(session)) = (&self.audit, &self.about.session) else {
            return;
        };
        let channel = self.about.channel.unwrap_or_default();
        if audit.bytes(session, channel, direction, bytes) == Verdict::Close {
            self.end.cancel();
        }
    }

    /// Ready once the log has failed and sessions have to end for it.
    pub(super) async fn failed(&self) {
        match &self.audit {
            Some(audit) => audit.failed().await,
            None => std::future::pending().await,
        }
    }
}

/// Counts what goes through a channel, and shows it to auditors.
pub struct Meter {
    journal: Journal,
    begun: Instant,
    received: AtomicU64,
    sent: AtomicU64,
    /// Of all channels of the connection, both ways.
    total: Arc<AtomicU64>,
    /// In and out, once it is known what the channel is served by.
    counters: OnceLock<[Arc<Counter>; 2]>,
}

impl Meter {
    pub(super) fn new(journal: Journal, total: Arc<AtomicU64>) -> Self {
        Self {
            journal,
            begun: Instant::now(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            total,
            counters: OnceLock::new(),
        }
    }

    /// The channel's events.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// From now on its bytes, and those that have come already, are a backend's.
    pub fn count_for(&self, metrics: &Metrics, backend: &'static str) {
        self.counters.get_or_init(|| {
            let [into, out] = ["in", "out"].map(|way| metrics.bytes(backend, way));
            into.add(self.received.load(Ordering::Relaxed));
            out.add(self.sent.load(Ordering::Relaxed));
            [into, out]
        });
    }

    pub(super) fn received(&self, bytes: &[u8]) {
        self.count(&self.received, bytes.len());
        if let Some([into, _]) = self.counters.get() {
            into.add(bytes.len() as u64);
        }
        self.journal.show(Direction::In, bytes);
    }

    pub(super) fn sent(&self, direction: Direction, bytes: &[u8]) {
        self.count(&self.sent, bytes.len());
        if let Some([_, out]) = self.counters.get() {
            out.add(bytes.len() as u64);
        }
        self.journal.show(direction, bytes);
    }

    fn count(&self, counter: &AtomicU64, length: usize) {
        let length = length as u64;
        counter.fetch_add(length, Ordering::Relaxed);
        self.total.fetch_add(length, Ordering::Relaxed);
    }

    /// The end of a way to a pod.
    pub fn session_end(&self, reason: &str, exit: Exit) -> Kind {
        Kind::SessionEnd {
            reason: reason.to_owned(),
            exit,
            bytes_in: self.received.load(Ordering::Relaxed),
            bytes_out: self.sent.load(Ordering::Relaxed),
            duration: self.begun.elapsed(),
        }
    }

    pub(super) fn channel_close(&self, reason: &str) -> Kind {
        Kind::ChannelClose {
            reason: reason.to_owned(),
            exit: Exit::Unknown,
            bytes_in: self.received.load(Ordering::Relaxed),
            bytes_out: self.sent.load(Ordering::Relaxed),
            resizes: 0,
            duration: self.begun.elapsed(),
        }
    }
}

/// What is written is counted.
pub(super) struct Metered<W> {
    pub(super) inner: W,
    pub(super) meter: Arc<Meter>,
    pub(super) direction: Direction,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Metered<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.meter
            .sent(self.direction, bytes.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
