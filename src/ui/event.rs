//! What `-o json` prints: one event per line.
//!
//! Every line is an object with `version` (1; fields may be added to it, and kinds of events, but none changes), `seq` (from
//! 0, without a gap: a gap tells of lines that nobody had room for), `time` (RFC 3339) and `type`, which tells the rest.

use serde::Serialize;

/// The version of the format.
const VERSION: u32 = 1;

/// Something that `forward` tells.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event<'a> {
    /// A local address is listened on.
    Listening {
        /// What it leads to, as in `shop/service/web`.
        target: &'a str,
        /// The pod that was found for it.
        pod: &'a str,
        /// Where it is: `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/x.sock`.
        address: &'a str,
        /// The local port; none of a unix socket.
        #[serde(skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        /// Where it leads to in the pod: a port, `HOST:PORT` or `unix:/PATH`.
        remote: &'a str,
    },
    /// All addresses are listened on, and their pods are connected.
    Ready,
    /// A local connection was accepted.
    Opened {
        /// Its number.
        connection: u64,
        /// What it leads to.
        target: &'a str,
        /// The local port or socket.
        local: &'a str,
        /// Where it leads to in the pod.
        remote: &'a str,
    },
    /// It has ended.
    Closed {
        /// Its number.
        connection: u64,
        /// The pod, if one was reached.
        #[serde(skip_serializing_if = "Option::is_none")]
        pod: Option<&'a str>,
        /// Bytes to the pod.
        sent: u64,
        /// Bytes from the pod.
        received: u64,
        /// Why it failed; none if it has ended well or the local side hung up.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    },
    /// The way to a target has changed.
    State {
        /// The target.
        target: &'a str,
        /// `lost`, `gone`, `connected`, `moved`, `waiting` or `resumed`.
        state: &'a str,
        /// The pod that it is about.
        #[serde(skip_serializing_if = "Option::is_none")]
        pod: Option<&'a str>,
        /// The line that people see.
        message: &'a str,
    },
    /// It is over.
    Ended {
        /// The exit code.
        code: u8,
        /// Why, if it is a failure.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    version: u32,
    seq: u64,
    time: String,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// An event as a line, without its end.
pub(super) fn line(event: &Event<'_>, seq: u64) -> String {
    let line = Line {
        version: VERSION,
        seq,
        time: jiff::Timestamp::now().to_string(),
        event,
    };
    // Strings and numbers alone: nothing in it can fail.
    serde_json::to_string(&line).unwrap_or_default()
}
