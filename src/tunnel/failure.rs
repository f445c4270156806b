//! Why a stream to a pod's port failed.

use std::io;

use crate::spdy::{Lost, ReadError, WriteError};
use crate::untrusted;

/// Why a stream did not end cleanly. Comes inside the `io::Error` that a [`Stream`](super::Stream) returns:
/// [`Failure::of`] takes it out again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nothing in the pod listens on the port.
    #[error("{0}")]
    Refused(String),
    /// The pod, or its network, is no more: no other stream of this tunnel will work.
    #[error("{0}")]
    PodGone(String),
    /// The runtime can't forward ports.
    #[error("{0}")]
    Unsupported(String),
    /// The runtime says something else.
    #[error("{0}")]
    Other(String),
    /// The pod's side reset the connection, or closed it before it had read all.
    #[error("connection reset by the pod")]
    Reset,
    /// The server never answered the opening of the stream.
    #[error("the server did not open the stream in time")]
    NoReply,
    /// The pod's side has ended, and the server has not told whether all went well.
    #[error("the server did not confirm the end of the stream")]
    Unconfirmed,
    /// The tunnel has ended.
    #[error("lost connection to pod: {0}")]
    Lost(#[from] Lost),
    /// The command that carried the stream is lost.
    #[error("lost connection to pod: {0}")]
    Cut(String),
}

impl Failure {
    /// The failure inside an error that a stream returned.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// What a runtime's text on the error stream means. The runtimes have no codes, so their wordings are matched
    /// (containerd 1.5 to 2.4, CRI-O to 1.36, socat of the Docker days); an unknown one is `Other`, which is safe.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Self {
        const GONE: [&str; 5] = [
            "failed to find sandbox",
            "could not find sandbox",
            "network namespace for sandbox",
            "PodSandbox with ID",
            "is not running",
        ];
        // Nodes without the tools of the Docker days, virtual nodes, Windows.
        const UNABLE: [&str; 4] = [
            "nimplemented",
            "not implemented",
            "not supported",
            "unable to do port forwarding",
        ];
        let text = untrusted::printable(&String::from_utf8_lossy(text), MAX_TEXT);
        if GONE.iter().any(|gone| text.contains(gone)) {
            Self::PodGone(text)
        } else if UNABLE.iter().any(|unable| text.contains(unable)) {
            Self::Unsupported(text)
        } else if text.to_ascii_lowercase().contains("connection refused") {
            Self::Refused(text)
        } else if text.contains("connection reset by peer") || text.contains("broken pipe") {
            // Which sockets of the runtime that were is of no interest; that the container did it, is.
            Self::Reset
        } else {
            Self::Other(text)
        }
    }

    pub(super) fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Refused(_) => io::ErrorKind::ConnectionRefused,
            Self::Reset | Self::Lost(_) | Self::Cut(_) => io::ErrorKind::ConnectionReset,
            Self::NoReply | Self::Unconfirmed => io::ErrorKind::TimedOut,
            Self::PodGone(_) | Self::Unsupported(_) | Self::Other(_) => io::ErrorKind::Other,
        }
    }
}

/// Characters of a runtime's text that are shown.
const MAX_TEXT: usize = 1024;

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Lost(lost) => Self::Lost(lost),
            ReadError::NoReply => Self::NoReply,
            _ => Self::Reset,
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Lost(lost) => Self::Lost(lost),
            WriteError::NoReply => Self::NoReply,
            _ => Self::Reset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_runtimes_are_known() {
        let text = |text: &str| Failure::from_text(text.as_bytes());
        let before = "error forwarding port 80 to pod 1, uid : ";
        let netns = "failed to execute portforward in network namespace \"/var/run/netns/cni-1\": ";
        for (words, reset) in [
            (
                "read tcp4 127.0.0.1:4->127.0.0.1:80: read: connection reset by peer",
                true,
            ),
            (
                "write tcp4 127.0.0.1:4->127.0.0.1:80: write: broken pipe",
                true,
            ),
            ("something new", false),
        ] {
            let failure = text(&format!("{before}{netns}{words}"));
            assert_eq!(failure == Failure::Reset, reset, "{failure:?}");
        }
        let refused = format!("{before}{netns}dial tcp4 127.0.0.1:80: connect: connection refused");
        assert_eq!(text(&refused), Failure::Refused(refused.clone()));
        let gone = format!("{before}failed to find sandbox \"1\" in store: not found");
        assert_eq!(text(&gone), Failure::PodGone(gone.clone()));
        let unable = format!("{before}unable to do port forwarding: socat not found");
        assert_eq!(text(&unable), Failure::Unsupported(unable.clone()));
    }
}
