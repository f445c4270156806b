//! A command that runs in a container: its streams, its terminal's size and how it ended, over one connection.
//!
//! A [`Session`] is handed an upgraded connection and speaks `v5.channel.k8s.io` over WebSocket or `v4.channel.k8s.io`
//! over SPDY on it, which mean the same. [`Session::run`] connects it to local streams.
//!
//! The server's Status document decides how the command ended. A connection that ends without one has cut the output
//! off at an unknown place: that is a failure, however clean the end looked.
//!
//! | file | what it is |
//! |---|---|
//! | `channels` | the messages of `v5.channel.k8s.io`, pure functions |
//! | `status` | the Status document and what it means |
//! | `websocket`, `streams` | the two transports |
//! | `relay` | local streams, and what goes first |
//! | `pipe` | a command as one byte stream |
//! | `bridge` | commands that make connections, for such streams |
//! | [`verify`] | whether all of stdin has arrived |
//! | [`hang_up`] | how a command ends with its client |
//! | `mark` | what both learn from the container |

use std::ffi::OsString;
use std::io;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};

use crate::spdy::OpenError;
use status::Report;
use streams::Streams;
use websocket::WebSocket;

pub mod bridge;
mod channels;
pub mod hang_up;
mod mark;
mod pipe;
mod relay;
mod status;
mod streams;
#[cfg(test)]
mod tests;
pub mod verify;
mod websocket;

pub use mark::Marked;
pub use pipe::{EndMark, Pipe};
pub use relay::Local;

/// The protocol over WebSocket. Older ones can't pass the end of stdin on: they are not for us.
pub const WEBSOCKET_PROTOCOL: &str = "v5.channel.k8s.io";
/// The protocol over SPDY: all runtimes have it, and its successor changes nothing there.
pub const SPDY_PROTOCOL: &str = "v4.channel.k8s.io";

/// What to run, and with which streams. stdout is always among them, and stderr too unless a terminal takes both.
///
/// Has no `Debug`: a command's words may be secret.
#[derive(Clone)]
pub struct Command {
    /// The program and its arguments.
    pub words: Vec<OsString>,
    /// Where; a pod with a single container needs no name.
    pub container: Option<String>,
    /// Whether the command has a stdin.
    pub stdin: bool,
    /// Whether it runs in a terminal.
    pub tty: bool,
}

impl Command {
    /// The query of the request that starts it, keys in kubectl's order.
    #[must_use]
    pub fn query(&self) -> String {
        let words = self.words.iter().map(|word| {
            let word = percent_encode(word.as_encoded_bytes(), ESCAPED);
            format!("command={word}")
        });
        let container = self.container.as_ref().map(|container| {
            let container = percent_encode(container.as_bytes(), ESCAPED);
            format!("container={container}")
        });
        // What is false is left out: a server takes even an empty value for true.
        let flags = [
            (!self.tty, "stderr=true"),
            (self.stdin, "stdin=true"),
            (true, "stdout=true"),
            (self.tty, "tty=true"),
        ];
        let flags = flags.into_iter().filter(|(set, _)| *set);
        let parts = words
            .chain(container)
            .chain(flags.map(|(_, flag)| flag.to_owned()));
        parts.collect::<Vec<_>>().join("&")
    }
}

/// All but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A terminal's size, in characters; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    columns: NonZeroU16,
    rows: NonZeroU16,
}

impl Size {
    /// None where either is 0: a terminal that knows no size, or is being resized to nothing.
    #[must_use]
    pub fn new(columns: u16, rows: u16) -> Option<Self> {
        Some(Self {
            columns: NonZeroU16::new(columns)?,
            rows: NonZeroU16::new(rows)?,
        })
    }

    /// As it goes over the wire, a line of JSON.
    fn document(self) -> String {
        format!("{{\"Width\":{},\"Height\":{}}}\n", self.columns, self.rows)
    }
}

/// Where output comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fd {
    /// The command's stdout, or its terminal.
    Stdout,
    /// The command's stderr.
    Stderr,
}

/// How the connection of a command has ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// Properly, as far as the transport goes.
    #[error("the server closed the connection")]
    Closed,
    /// In any other way.
    #[error("{0}")]
    Cut(String),
    /// Nothing was heard of the server for a minute.
    #[error("the server stopped answering")]
    Silent,
    /// The server never got as far as to take the streams.
    #[error("the server did not open the command's streams within {} s", START.as_secs())]
    NotStarted,
}

/// Why there is no exit code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The command did not run, or not to its end, in the server's words.
    #[error("{0}")]
    Remote(String),
    /// The server's report makes no sense.
    #[error("error stream protocol error: {0}")]
    Protocol(String),
    /// There is no report: output may be missing, and whether the command has ended nobody knows.
    #[error("lost the command, its exit status is unknown: {0}")]
    NoStatus(Lost),
    /// stdin can't be read. The command was not told of an end that is none.
    #[error("cannot read stdin: {0}")]
    Unreadable(io::Error),
    /// stdout or stderr can't be written.
    #[error("cannot write to {stream}: {error}")]
    Unwritable {
        /// Which.
        stream: &'static str,
        /// The operating system's words.
        error: io::Error,
    },
    /// The terminal that was typed at is gone.
    #[error("the terminal has hung up")]
    HungUp,
}

/// A command that was started. Dropping it closes the connection; what becomes of the command then is the runtime's
/// affair: most let it run, see [`hang_up`].
pub struct Session<IO> {
    transport: Transport<IO>,
    tty: bool,
    report: Report,
    lost: Option<Lost>,
    /// Runs once the server is done and sends no more.
    patience: Option<Pin<Box<Sleep>>>,
}

enum Transport<IO> {
    WebSocket(Box<WebSocket<IO>>),
    Spdy(Box<Streams>),
}

/// What a transport has received.
enum Event {
    Output(Fd, Bytes),
    Status(Bytes),
    End(Lost),
}

/// How long a server may take to accept the streams; client-go and the runtimes have the same bound.
const START: Duration = Duration::from_secs(30);
/// How long the connection may stay open and silent after the Status before it is closed from here. Servers close it at
/// once; what they send until then is still delivered.
const PATIENCE: Duration = Duration::from_secs(1);

impl<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static> Session<IO> {
    /// Speaks [`WEBSOCKET_PROTOCOL`]. `early` holds what the server sent together with its 101.
    pub async fn websocket(io: IO, early: Bytes, command: &Command) -> Self {
        let websocket = WebSocket::new(io, early).await;
        Self::new(Transport::WebSocket(Box::new(websocket)), command)
    }

    /// Speaks [`SPDY_PROTOCOL`]. Spawns a task: must be called in a tokio runtime.
    ///
    /// # Errors
    /// The connection has ended already.
    pub fn spdy(io: IO, early: Bytes, command: &Command) -> Result<Self, OpenError> {
        let streams = Streams::open(io, early, command)?;
        Ok(Self::new(Transport::Spdy(Box::new(streams)), command))
    }

    fn new(transport: Transport<IO>, command: &Command) -> Self {
        Self {
            transport,
            tty: command.tty,
            report: Report::default(),
            lost: None,
            patience: None,
        }
    }

    /// Whether the server has taken all streams. Before that nothing may be written. Turns true only while output is
    /// polled for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match &self.transport {
            Transport::WebSocket(websocket) => websocket.is_ready(),
            Transport::Spdy(streams) => streams.is_ready(),
        }
    }

    /// Whether nothing that is written can matter any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.lost.is_some() || self.report.is_whole()
    }

    /// The next output of the command; `None` once there is no more and [`verdict`](Self::verdict) has the outcome.
    /// Whoever can't take output may leave it unpolled: then the server, and in the end the command, has to wait.
    pub fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Fd, Bytes)>> {
        while self.lost.is_none() {
            let event = match &mut self.transport {
                Transport::WebSocket(websocket) => websocket.poll_event(cx),
                Transport::Spdy(streams) => streams.poll_event(cx),
            };
            match event {
                Poll::Ready(event) => {
                    self.patience = None;
                    match event {
                        Event::Output(fd, bytes) => return Poll::Ready(Some((fd, bytes))),
                        Event::Status(piece) => self.report.push(&piece),
                        Event::End(lost) => self.lost = Some(lost),
                    }
                }
                Poll::Pending => {
                    let done = match &self.transport {
                        Transport::WebSocket(_) => false,
                        Transport::Spdy(streams) => streams.has_reported(),
                    };
                    if !done && !self.report.is_whole() {
                        return Poll::Pending;
                    }
                    let patience = self
                        .patience
                        .get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
                    ready!(patience.as_mut().poll(cx));
                    self.lost = Some(Lost::Closed);
                }
            }
        }
        Poll::Ready(None)
    }

    /// Writes from the front of `data` to the command's stdin. Pending while there is no room.
    ///
    /// # Errors
    /// The command reads no more. That is no failure; why it was, the output's end tells.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<(), StdinClosed>> {
        match &mut self.transport {
            Transport::WebSocket(websocket) => websocket.poll_write(cx, data),
            Transport::Spdy(streams) => streams.poll_write(cx, data),
        }
    }

    /// Ends the command's stdin. To be called once.
    ///
    /// # Errors
    /// As for [`poll_write`](Self::poll_write).
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StdinClosed>> {
        match &mut self.transport {
            Transport::WebSocket(websocket) => websocket.poll_finish(cx),
            Transport::Spdy(streams) => {
                streams.finish();
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Tells the command's terminal its size.
    ///
    /// # Errors
    /// As for [`poll_write`](Self::poll_write).
    pub fn poll_resize(
        &mut self,
        cx: &mut Context<'_>,
        size: Size,
    ) -> Poll<Result<(), StdinClosed>> {
        match &mut self.transport {
            Transport::WebSocket(websocket) => websocket.poll_resize(cx, size),
            Transport::Spdy(streams) => streams.poll_resize(cx, size),
        }
    }

    /// Sends what was written, and what keeps the connection alive. To be called whenever the caller is about to wait.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.transport {
            Transport::WebSocket(websocket) => websocket.poll_flush(cx),
            // The driver does it on its own.
            Transport::Spdy(_) => Poll::Ready(()),
        }
    }

    /// The exit code, once the output has ended.
    ///
    /// # Errors
    /// The command did not end by itself, or nobody knows.
    pub fn verdict(&self) -> Result<u8, Error> {
        self.report
            .verdict(self.lost.clone().unwrap_or(Lost::Closed))
    }

    /// Says goodbye and closes the connection. Takes a second at most.
    pub async fn close(self) {
        match self.transport {
            Transport::WebSocket(websocket) => websocket.close().await,
            Transport::Spdy(streams) => streams.close().await,
        }
    }
}

/// The command takes no more input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the command reads no more")]
pub struct StdinClosed;
