//! A bounded queue of bytes between two SSH connections: what has come in and can't go out yet.
//!
//! An SSH channel has a window, so that a reader who is slow makes the writer wait, on that channel and on no other.
//! russh 0.65 grants a window again when data *arrives*, not when it was consumed, and hands the data over from the one
//! task that runs the whole connection. Whoever makes that task wait stops every other channel of the connection, its
//! outgoing data and its keepalives, and two such connections back to back lock each other up: `ssh host cat < file` is
//! enough. So nothing may wait there. A [`Writer`] takes what it is given at once and never waits; what the other side
//! can't take yet stays in memory up to [`Limits::memory`], and in a file past that. A [`Limits::channel`] and a [`Quota`]
//! that a user's channels share cap the file; over the cap this one channel fails, with a reason, and nothing else does.
//!
//! The file has no name: it is unlinked before the first byte is written to it. It is read and written on the runtime's
//! blocking threads, in blocks.
//!
//! A [`Valve`] keeps most of that from happening: while all that a connection brings would have to wait, its stream isn't
//! read at all.
//!
//! What isn't data but has its place among it goes along as a *mark*: that what follows is standard error, or that
//! standard input has ended. A queue without marks ([`Infallible`]) is an [`AsyncRead`].

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::watch;

mod fifo;
mod quota;
mod shared;
#[cfg(test)]
mod tests;
mod valve;

pub use fifo::Item;
pub use quota::Quota;
use shared::Shared;
pub use valve::{Awaited, Valve, Valved};

/// Bounds of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes kept in memory before the file is used. A block more is kept while it is on its way to the disk.
    pub memory: usize,
    /// Bytes that the file may hold.
    pub channel: u64,
    /// Where the file is made. Its file system should have room for a few users' [`Quota`]s.
    pub directory: PathBuf,
}

impl Limits {
    /// 1 MiB of memory: about the window that OpenSSH gives a channel, so that who reads along never meets the disk.
    pub const MEMORY: usize = 1 << 20;
    /// 1 GiB on disk: a reader who pauses during a large transfer is no reason to end it, one who never reads again is.
    pub const CHANNEL: u64 = 1 << 30;

    /// The default bounds, with files made in `directory`.
    #[must_use]
    pub const fn within(directory: PathBuf) -> Self {
        Self {
            memory: Self::MEMORY,
            channel: Self::CHANNEL,
            directory,
        }
    }
}

/// Why a queue takes or gives nothing more.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Over [`Limits::channel`].
    #[error(
        "the other side reads too slowly: {0} bytes are waiting for it, which is all that one channel may hold back"
    )]
    Channel(u64),
    /// Over the user's [`Quota`] on disk.
    #[error(
        "the other side reads too slowly: your channels have {0} bytes waiting, which is all that a user's may hold back"
    )]
    User(u64),
    /// Over the user's [`Quota`] of what is on its way to the disk.
    #[error("the gateway's disk is too slow to hold back what the other side has not read")]
    Slow,
    /// More marks than anybody sends who means well.
    #[error("too many small pieces are waiting for the other side, which reads too slowly")]
    Marks,
    /// The file can't be made, written or read.
    #[error("the gateway can't hold back what the other side has not read: {0}")]
    Disk(Arc<io::Error>),
    /// The reader is gone.
    #[error("nobody reads what is sent")]
    Unread,
    /// The writer went away without an end.
    #[error("the sender went away in the middle")]
    Abandoned,
    /// What [`Writer::fail`] was told.
    #[error("{0}")]
    Broken(String),
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Disk(error) => error.kind(),
            Error::Channel(_) | Error::User(_) | Error::Slow | Error::Marks => {
                io::ErrorKind::QuotaExceeded
            }
            Error::Unread => io::ErrorKind::BrokenPipe,
            Error::Abandoned | Error::Broken(_) => io::ErrorKind::ConnectionAborted,
        };
        Self::new(kind, error)
    }
}

/// A queue: its two ends. What it holds back beyond memory is counted against `quota`.
///
/// # Panics
/// Outside a tokio runtime, whose blocking threads do the file's part.
pub fn queue<M: Send + 'static>(limits: &Limits, quota: &Quota) -> (Writer<M>, Reader<M>) {
    queue_behind(limits, quota, &Valve::default())
}

/// The same, with the valve of the connection that fills it: while all of its queues have enough in memory, its stream
/// isn't read.
///
/// # Panics
/// As [`queue`].
pub fn queue_behind<M: Send + 'static>(
    limits: &Limits,
    quota: &Quota,
    valve: &Valve,
) -> (Writer<M>, Reader<M>) {
    let shared = Arc::new(Shared::new(limits, quota, valve, Handle::current()));
    let reader = Reader {
        shared: Arc::clone(&shared),
        rest: Bytes::new(),
    };
    (Writer { shared }, reader)
}

/// Where bytes go in. Nothing here waits, so all of it may be called from a task that others depend on.
///
/// Dropped without an end, it leaves the reader with [`Error::Abandoned`] after the last byte.
#[derive(Debug)]
pub struct Writer<M: Send + 'static = Infallible> {
    shared: Arc<Shared<M>>,
}

impl<M: Send + 'static> Writer<M> {
    /// Takes `data` for the reader.
    ///
    /// # Errors
    /// The queue has failed, now or before: nothing of `data` was taken, what had been waiting is dropped, and the reader
    /// has the same error.
    pub fn push(&self, data: Bytes) -> Result<(), Error> {
        self.shared.write(|fifo| fifo.push(data))
    }

    /// Takes a mark, which the reader finds between the bytes before and after it.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn mark(&self, mark: M) -> Result<(), Error> {
        self.shared.write(|fifo| fifo.mark(mark))
    }

    /// Nothing more comes; the reader finds a clean end after the last byte.
    pub fn finish(self) {
        self.shared.end(Ok(()));
    }

    /// Nothing more comes, because of `reason`: the reader finds it after the last byte.
    pub fn fail(self, reason: impl Into<String>) {
        self.shared.end(Err(Error::Broken(reason.into())));
    }

    /// Bytes taken and not read yet.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.shared.waiting()
    }

    /// Tells when the queue fails.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(self.shared.watch())
    }
}

impl<M: Send + 'static> Drop for Writer<M> {
    fn drop(&mut self) {
        self.shared.end(Err(Error::Abandoned)); // unless it has ended
    }
}

/// Where bytes come out. Dropped, it makes [`Writer::push`] fail, and the file go.
#[derive(Debug)]
pub struct Reader<M: Send + 'static = Infallible> {
    shared: Arc<Shared<M>>,
    /// Given out, and not taken by `poll_read` yet.
    rest: Bytes,
}

impl<M: Send + 'static> Reader<M> {
    /// The next bytes, in pieces of any size up to a block of 128 KiB, or the next mark; `None` at a clean end.
    /// Cancel-safe.
    ///
    /// # Errors
    /// Why there is nothing more. An error of the sender's comes after its last byte; one of the queue itself at once.
    pub async fn next(&mut self) -> Result<Option<Item<M>>, Error> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`next`](Self::next).
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Item<M>>, Error>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(Item::Data(std::mem::take(&mut self.rest)))));
        }
        self.shared.poll_next(cx)
    }

    /// Bytes taken by the writer and not read yet.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.shared.waiting() + self.rest.len() as u64
    }

    /// Tells when the queue fails.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(self.shared.watch())
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match ready!(self.poll_next(cx))? {
            Some(Item::Data(mut data)) => {
                let length = data.len().min(buffer.remaining());
                buffer.put_slice(&data.split_to(length));
                self.rest = data;
            }
            Some(Item::Mark(never)) => match never {},
            None => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl<M: Send + 'static> Drop for Reader<M> {
    fn drop(&mut self) {
        self.shared.break_off(Error::Unread);
    }
}

/// Whether a queue still works, for who waits on something else: a reader that is held up writing would not see that the
/// queue behind it has failed.
#[derive(Clone, Debug)]
pub struct Watch(watch::Receiver<Option<Error>>);

impl Watch {
    /// Waits until the queue itself has failed: over a cap, a broken disk, a reader gone. Never returns for one that ends
    /// as its writer says. Cancel-safe.
    pub async fn failed(&mut self) -> Error {
        let failed = self.0.wait_for(Option::is_some).await;
        if let Some(error) = failed.ok().and_then(|failed| failed.clone()) {
            return error;
        }
        std::future::pending().await // both ends are gone
    }
}
