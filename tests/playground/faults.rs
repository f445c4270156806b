//! What goes wrong on purpose, and what was seen.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::{HeaderMap, Method, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite};

/// A request as it was seen, without its secrets.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    /// `Authorization` is there with only its scheme.
    pub(crate) headers: HeaderMap,
    /// Which connection brought it, counted from 1.
    pub(crate) connection: u64,
    /// What the client offered by ALPN on that connection.
    pub(crate) alpn: Vec<String>,
    /// The server name that the client asked for (none for an IP address).
    pub(crate) server_name: Option<String>,
    /// Whether that connection resumed a TLS session.
    pub(crate) resumed: bool,
}

impl Request {
    /// The path without the query.
    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }

    /// Whether it asks for an upgrade of any kind.
    pub(crate) fn is_upgrade(&self) -> bool {
        self.headers.contains_key(hyper::header::UPGRADE)
    }

    pub(crate) fn is_websocket(&self) -> bool {
        self.is_upgrade_to("websocket")
    }

    pub(crate) fn is_spdy(&self) -> bool {
        self.is_upgrade_to("SPDY/3.1")
    }

    fn is_upgrade_to(&self, protocol: &str) -> bool {
        self.headers
            .get(hyper::header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()))
    }
}

/// A byte stream that was handed to a script.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Serves one connection after another, from an async closure.
pub(crate) struct Handler<T>(
    #[expect(clippy::type_complexity, reason = "this struct is its name")]
    Arc<dyn Fn(T) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send>> + Send + Sync>,
);

impl<T> Handler<T> {
    pub(crate) fn new<F, R>(serve: F) -> Self
    where
        F: Fn(T) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<()>> + Send + 'static,
    {
        Self(Arc::new(move |connection| Box::pin(serve(connection))))
    }

    pub(crate) async fn serve(&self, connection: T) -> io::Result<()> {
        (self.0)(connection).await
    }
}

impl<T> Clone for Handler<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// How a request is answered when not as usual.
#[derive(Clone)]
pub(crate) enum Answer {
    /// As usual, but late.
    Late(Duration),
    /// A `metav1.Status` as the API server writes it.
    Status {
        code: StatusCode,
        reason: &'static str,
        message: String,
    },
    /// Plain text as a kubelet writes it.
    Text {
        code: StatusCode,
        headers: Vec<(&'static str, String)>,
        body: String,
    },
    /// These bytes instead of an HTTP response, then the end of the connection.
    Raw(Bytes),
    /// None at all; the connection stays open.
    Never,
    /// TCP reset.
    Reset,
    /// The proper 101, in one packet with these bytes of the new protocol; then as usual.
    Early(Bytes),
    /// The proper 101, then the script instead of the tunnel: it has the bytes after the 101, whatever the protocol.
    Script(Handler<Box<dyn Io>>),
}

impl Answer {
    /// A script from an async closure.
    pub(crate) fn script<F, R>(script: F) -> Self
    where
        F: Fn(Box<dyn Io>) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<()>> + Send + 'static,
    {
        Self::Script(Handler::new(script))
    }
}

/// Which requests get which [`Answer`], and how often.
pub(crate) struct Rule {
    pub(crate) matches: Box<dyn Fn(&Request) -> bool + Send>,
    pub(crate) times: usize,
    pub(crate) answer: Answer,
}

/// The order in which a runtime ends a forward; a client must cope with all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// containerd 2.1 and later, CRI-O: after a failure the message, then RST of the error stream.
    #[default]
    Current,
    /// containerd 1.6.22 and 1.7.3 and later of those lines: a reset by the container becomes two RSTs
    /// and no message; other failures a message and FIN.
    Containerd17,
    /// containerd 2.0 and before 1.6.22: a message and FIN for every failure.
    Containerd20,
    /// A runtime that leaves closing to the streaming server: the error stream's FIN comes first.
    ErrorStreamFirst,
}

/// How new streams are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Replies {
    #[default]
    AtOnce,
    /// The second stream of a pair is replied to before the first.
    Swapped,
    /// Not at all.
    Never,
    /// RST(CANCEL) instead.
    Reset,
}

/// How bytes become WebSocket messages. A client must not care.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Messages {
    /// Up to 32 KiB each, fragmented as by gorilla's server: what API servers send.
    #[default]
    Usual,
    /// Of all sizes, empty and of one byte too, with pings between the fragments.
    Ragged,
}

/// What goes wrong with commands that are started from now on.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExecFaults {
    /// The pieces of the Status at their end instead of the true one; none at all if empty.
    pub(crate) status: Option<Vec<Bytes>>,
    /// What comes after the Status.
    pub(crate) end: ExecEnd,
    /// How long the server takes to accept the streams.
    pub(crate) late: Duration,
    /// Nobody reads the command's stdin.
    pub(crate) stdin_unread: bool,
    /// The folder of the only programs that containers have; otherwise they have the machine's.
    pub(crate) programs: Option<PathBuf>,
    /// The command's stdin ends after so many bytes, and nobody is told: containerd #12734, #13934.
    pub(crate) stdin_lost_after: Option<usize>,
}

/// How the connection of a command ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ExecEnd {
    /// By RST of the streams that are left and GOAWAY, or by Close(1000).
    #[default]
    Usual,
    /// By GOAWAY alone; a WebSocket as usual.
    GoAway,
    /// Without a word: the connection's end, but no goodbye of SPDY's or the WebSocket's.
    Eof,
    /// By Close with this code; SPDY as usual.
    Close(u16),
    /// Not at all: it stays open, and silent.
    Stay,
}

/// How the node behaves; new streams follow the latest setting.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    pub(crate) ending: Ending,
    pub(crate) replies: Replies,
    /// Passes half-closes on and lets each direction end by itself; a real node gives the other direction
    /// [`grace`](Self::grace).
    pub(crate) half_close: bool,
    /// How long a forward lives on after one direction ended; one second in all runtimes.
    pub(crate) grace: Duration,
    /// How long the second stream of a pair may take; 30 seconds in all versions.
    pub(crate) pair_timeout: Duration,
    /// Waits this long before it connects to the container.
    pub(crate) dial_delay: Duration,
    /// Every forward fails with this text before it reaches the container.
    pub(crate) fail_before_dial: Option<String>,
    /// How a new tunnel's bytes are cut into WebSocket messages.
    pub(crate) messages: Messages,
    pub(crate) exec: ExecFaults,
    /// How often a watch that wants bookmarks gets one; API servers: about a minute.
    pub(crate) bookmarks: Duration,
}

/// What happens to all watches that are open.
#[derive(Clone, Debug)]
pub(crate) enum Interruption {
    /// They end, as API servers end watches whenever they like.
    End,
    /// They get an ERROR event with this Status, and end.
    Error {
        code: StatusCode,
        reason: &'static str,
        message: String,
    },
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            ending: Ending::default(),
            replies: Replies::default(),
            half_close: false,
            grace: Duration::from_secs(1),
            pair_timeout: Duration::from_secs(30),
            dial_delay: Duration::ZERO,
            fail_before_dial: None,
            messages: Messages::default(),
            exec: ExecFaults::default(),
            bookmarks: Duration::from_secs(60),
        }
    }
}

/// A request's headers as they may be kept and printed.
pub(crate) fn without_secrets(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    if let Some(value) = headers.get_mut(hyper::header::AUTHORIZATION) {
        let scheme = value.to_str().unwrap_or_default();
        let scheme = scheme.split(' ').next().unwrap_or_default();
        let kept = hyper::header::HeaderValue::from_str(scheme);
        *value = kept.unwrap_or_else(|_| hyper::header::HeaderValue::from_static(""));
    }
    headers
}
