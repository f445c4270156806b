//! What can go wrong: with the peer, with an open, with a read, with a write.

use super::{Status, StreamId};

/// The peer broke the protocol; the connection can't go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A control frame of a version that isn't SPDY/2 or SPDY/3.
    #[error("control frame of unknown version `{0}`")]
    Version(u16),
    /// A control frame whose length its type does not allow.
    #[error("{kind} frame of `{length}` bytes")]
    Length {
        /// The frame's name.
        kind: &'static str,
        /// The payload's length that its head claims.
        length: usize,
    },
    /// A frame for stream 0.
    #[error("{0} frame for stream 0")]
    StreamZero(&'static str),
    /// PING 0 is reserved.
    #[error("PING with id 0")]
    PingZero,
    /// A header block that zlib can't inflate, or that wants another dictionary.
    #[error("corrupt header block: {0}")]
    Compression(&'static str),
    /// A header block past the limits.
    #[error("header block exceeds {0}")]
    HeaderLimit(&'static str),
    /// A header block that isn't a list of names and values.
    #[error("malformed header block: {0}")]
    Headers(&'static str),
}

/// Why a connection, and with it every open stream, ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// The wire ended without a GOAWAY.
    #[error("the connection was cut")]
    Cut,
    /// The peer said GOAWAY.
    #[error("the server closed the connection")]
    GoAway,
    /// The peer broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(#[from] Error),
    /// The peer was silent too long while a PING waited for its answer.
    #[error("the server stopped answering")]
    Silent,
    /// This side closed it.
    #[error("the connection is closed")]
    Closed,
}

/// Why a stream can't be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// All 2^30 stream ids are used up: dial anew.
    #[error("the connection's stream ids are exhausted")]
    Exhausted,
    /// The connection has ended.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// What a read returns instead of bytes or of the end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Nothing there yet; [`super::Event::Readable`] follows.
    #[error("nothing to read yet")]
    Blocked,
    /// The stream was reset, by either side.
    #[error("stream reset: {0}")]
    Reset(Status),
    /// The peer didn't acknowledge the stream in time.
    #[error("the server did not answer the opening of a stream")]
    NoReply,
    /// The connection has ended.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// No such stream.
    #[error("stream {0} is gone")]
    Unknown(StreamId),
}

/// What a write returns instead of a count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The stream's send buffer is full; [`super::Event::Writable`] follows.
    #[error("the send buffer is full")]
    Blocked,
    /// This side has finished the stream.
    #[error("the stream's sending side is finished")]
    Finished,
    /// The stream was reset, by either side.
    #[error("stream reset: {0}")]
    Reset(Status),
    /// The peer didn't acknowledge the stream in time.
    #[error("the server did not answer the opening of a stream")]
    NoReply,
    /// The connection has ended.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// No such stream.
    #[error("stream {0} is gone")]
    Unknown(StreamId),
}
