//! What the driver needs of a wire.

use std::collections::VecDeque;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::spdy::Output;

/// Bytes in, frames out: raw, or in WebSocket messages.
pub(super) trait Wire: Unpin {
    /// The next received bytes, cut anywhere; `None` when the other side has closed.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>>;

    /// Takes frames from the queue's front while there is room. `Ready` once none is left and all are handed to the
    /// operating system.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Output>,
    ) -> Poll<io::Result<()>>;

    /// Says goodbye. Nothing is sent after it.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}
