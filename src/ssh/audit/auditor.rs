//! The seam for code that watches sessions as they run: a library's user can hand the gateway one.

use super::event::{About, Kind};
use super::session::SessionId;

/// Watches events and bytes, and may end what it sees. Called on the task that moves the bytes, so it must not block;
/// what takes time belongs on a task of its own, which says [`Verdict::Close`] at the next call.
pub trait Auditor: Send + Sync {
    /// Something happened. `Close` closes the channel that the event is of, or, if it is of none, the connection.
    fn on_event(&self, about: &About, kind: &Kind) -> Verdict {
        let _ = (about, kind);
        Verdict::Continue
    }

    /// Bytes are about to be passed on; `Close` closes the channel, and they are not.
    fn on_bytes(
        &self,
        session: &SessionId,
        channel: u32,
        direction: Direction,
        bytes: &[u8],
    ) -> Verdict {
        let _ = (session, channel, direction, bytes);
        Verdict::Continue
    }
}

/// What an [`Auditor`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Go on.
    Continue,
    /// End this channel, or the connection.
    Close,
}

impl Verdict {
    /// `Close` if either says so.
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Continue, Self::Continue) => Self::Continue,
            _ => Self::Close,
        }
    }
}

/// Which way bytes go, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the pod: stdin.
    In,
    /// From the pod to the client: stdout.
    Out,
    /// From the pod to the client, beside the output: stderr.
    Error,
}
