//! One stream: two halves, each with its buffer and its end.
//!
//! ```text
//!             open() / SYN_STREAM
//!                    │
//!                  Open ──────── finish(), FIN out ───────► half-closed (local)
//!                    │                                              │
//!                FIN in                                          FIN in
//!                    ▼                                              ▼
//!           half-closed (remote) ── finish(), FIN out ──────────► Closed
//!
//!   any state ── RST in or out, no SYN_REPLY in time, connection lost ──► Ended(why)
//! ```
//! What has been received is still read after any of these ends.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::{Lost, ReadError, Status, WriteError};

/// Chunks smaller than this are joined: a slice of a few bytes would keep the whole block that it was read into. So a
/// full stream holds at most eight times what it counts, with blocks of 64 KiB; the copy costs a microsecond at most.
const SMALL: usize = 8 * 1024;

/// Why a stream is over in both directions at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Reset(Status),
    NoReply,
    Lost(Lost),
}

impl From<Ended> for ReadError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Reset(status) => Self::Reset(status),
            Ended::NoReply => Self::NoReply,
            Ended::Lost(lost) => Self::Lost(lost),
        }
    }
}

impl From<Ended> for WriteError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Reset(status) => Self::Reset(status),
            Ended::NoReply => Self::NoReply,
            Ended::Lost(lost) => Self::Lost(lost),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fin {
    Open,
    /// Goes out after what is queued.
    Queued,
    Sent,
}

/// Where the acceptor's SYN_REPLY stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The peer has yet to send it. We may write before.
    Due,
    /// We have yet to send it. Nothing goes out before: spdystream drops DATA that overtakes it.
    Owed,
    Done,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) send: Chunks,
    pub(super) fin: Fin,
    /// In the connection's queue of streams that have something to send.
    pub(super) scheduled: bool,
    pub(super) received: Chunks,
    pub(super) remote_fin: bool,
    pub(super) ended: Option<Ended>,
    pub(super) reply: Reply,
    /// Nobody holds the stream any more: it goes as soon as its last bytes are out.
    pub(super) released: bool,
    pub(super) reader_waits: bool,
    pub(super) writer_waits: bool,
}

impl Stream {
    pub(super) fn new(reply: Reply) -> Self {
        Self {
            send: Chunks::default(),
            fin: Fin::Open,
            scheduled: false,
            received: Chunks::default(),
            remote_fin: false,
            ended: None,
            reply,
            released: false,
            reader_waits: true,
            writer_waits: false,
        }
    }

    /// Whether both sides have said FIN, or the stream has ended otherwise.
    pub(super) fn over(&self) -> bool {
        self.ended.is_some() || (self.fin == Fin::Sent && self.remote_fin)
    }

    pub(super) fn end(&mut self, why: Ended) {
        self.send = Chunks::default();
        self.ended.get_or_insert(why);
    }

    pub(super) fn has_output(&self) -> bool {
        self.ended.is_none()
            && self.reply != Reply::Owed
            && (!self.send.is_empty() || self.fin == Fin::Queued)
    }
}

/// A queue of byte chunks that knows its length.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    chunks: VecDeque<Bytes>,
    /// Collects small chunks at the queue's end.
    tail: BytesMut,
    length: usize,
}

impl Chunks {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        self.length += chunk.len();
        if chunk.len() < SMALL {
            self.tail.extend_from_slice(&chunk);
            if self.tail.len() >= SMALL {
                self.chunks.push_back(self.tail.split().freeze());
            }
        } else {
            self.settle();
            self.chunks.push_back(chunk);
        }
    }

    /// The next chunk, at most `max` bytes of it.
    pub(super) fn pop(&mut self, max: usize) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.settle();
        }
        let front = self.chunks.front_mut()?;
        let chunk = if front.len() <= max {
            self.chunks.pop_front()?
        } else {
            front.split_to(max)
        };
        self.length -= chunk.len();
        Some(chunk)
    }

    fn settle(&mut self) {
        if self.tail.has_remaining() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }
}
