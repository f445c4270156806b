//! SPDY/3.1 as Kubernetes speaks it: no IO, no clock, no Kubernetes.
//!
//! A [`Connection`] is a state machine. Its methods are of four kinds:
//!
//! * **A. getters**, `&self`
//! * **B. `handle_*`**: bytes, time and the end of the wire come in
//! * **C. commands**: `open`, `write`, `read`, `finish`, `reset`, … They do no IO
//! * **D. `poll_*`**: what to send, when to wake, what happened. Call all of them after any B or C
//!
//! The other side is always Go's spdystream (in a container runtime, a kubelet or an API server), and Kubernetes
//! uses a subset of SPDY in ways that the draft doesn't tell:
//!
//! * There is no flow control: WINDOW_UPDATE and SETTINGS are never sent and mean nothing. A full receive buffer
//!   therefore pauses the whole connection ([`Connection::paused`]): nothing else can hold a peer back, and
//!   dropping bytes is not an option.
//! * FIN, RST, GOAWAY and a lost wire are four different ends here ([`ReadError`]); spdystream tells none apart.
//! * GOAWAY is a teardown, not a drain.
//! * Header blocks of one direction share one zlib context, so each one is inflated, in wire order, even when
//!   its stream is long gone.
#![deny(clippy::indexing_slicing)]

mod connection;
mod error;
mod frame;
mod headers;
mod pings;
mod stream;
#[cfg(test)]
mod tests;

pub use connection::{Config, Connection, Event};
pub use error::{Error, Lost, OpenError, ReadError, WriteError};
pub use frame::{MAX_DATA, Output, Status, StreamId};
pub use headers::Headers;
