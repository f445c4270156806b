//! From the command to local streams and back.
//!
//! Output goes before input, and what the local side doesn't take is not read from the network: back-pressure is
//! nothing but a chunk that waits. stdin is not touched before the server has the streams.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Sleep, sleep};
use tokio_util::io::poll_read_buf;

use super::channels::MAX_STDIN;
use super::{Error, Fd, Session, Size};

/// How long output is taken in, and dropped, once nobody reads it here: the command is not to hang on it, but one
/// without end is not to keep us either.
const DRAIN: Duration = Duration::from_secs(5);
/// Chunks of output in a row before input gets a turn.
const MAX_CHUNKS: usize = 64;

/// The local ends of a command.
pub struct Local<R, W, E, S> {
    /// Read to its end once the command has its streams. `None` where the command was started without stdin.
    pub stdin: Option<R>,
    /// The command's stdout, or its terminal.
    pub stdout: W,
    /// The command's stderr; silent in a terminal.
    pub stderr: E,
    /// The terminal's sizes, the present one first.
    pub sizes: Option<S>,
}

impl<IO: AsyncRead + AsyncWrite + Send + Unpin + 'static> Session<IO> {
    /// Connects the command to local streams until it has ended and all it wrote is delivered. Returns its exit code.
    ///
    /// A local stream that can't be written ends it with a failure, after the rest of the output was drained for five
    /// seconds at most. One that can't be read ends it at once, and the command is not told of an end that was none. Not
    /// cancel-safe: what is in flight is dropped, and the connection closed.
    ///
    /// # Errors
    /// There is no exit code.
    pub async fn run<R, W, E, S>(self, local: Local<R, W, E, S>) -> Result<u8, Error>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
        S: Stream<Item = Size> + Unpin,
    {
        let input = match local.stdin {
            Some(_) => Input::Copying,
            None => Input::Done,
        };
        let mut relay = Relay {
            session: self,
            local,
            input,
            typed: Bytes::new(),
            buffer: BytesMut::new(),
            size: None,
            output: None,
            broken: None,
            drain: None,
        };
        let outcome = poll_fn(|cx| relay.poll(cx)).await;
        relay.session.close().await;
        outcome
    }
}

/// Where stdin stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Copying,
    /// It has ended, and the command isn't told yet.
    Ending,
    Done,
}

struct Relay<IO, R, W, E, S> {
    session: Session<IO>,
    local: Local<R, W, E, S>,
    input: Input,
    /// Read from stdin, and not yet written.
    typed: Bytes,
    buffer: BytesMut,
    /// The terminal's size where the command doesn't know it.
    size: Option<Size>,
    /// Received, and not yet written.
    output: Option<(Fd, Bytes)>,
    /// What could not be written to.
    broken: Option<(Fd, io::Error)>,
    drain: Option<Pin<Box<Sleep>>>,
}

impl<IO, R, W, E, S> Relay<IO, R, W, E, S>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
    S: Stream<Item = Size> + Unpin,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<u8, Error>> {
        if self.poll_output(cx).is_ready() || self.poll_drained(cx).is_ready() {
            return Poll::Ready(match self.broken.take() {
                Some((fd, error)) => Err(Error::Unwritable {
                    stream: match fd {
                        Fd::Stdout => "stdout",
                        Fd::Stderr => "stderr",
                    },
                    error,
                }),
                None => self.session.verdict(),
            });
        }
        if !self.session.is_over() && self.session.is_ready() {
            // A server that takes no more input says why with its output.
            if let Poll::Ready(Err(error)) = self.poll_input(cx) {
                return Poll::Ready(Err(error));
            }
        }
        let _ = self.session.poll_flush(cx);
        Poll::Pending
    }

    /// Ready when all output is delivered, as far as it can be.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..MAX_CHUNKS {
            if let Some((fd, bytes)) = &mut self.output {
                let fd = *fd;
                let written = match fd {
                    Fd::Stdout => Pin::new(&mut self.local.stdout).poll_write(cx, bytes),
                    Fd::Stderr => Pin::new(&mut self.local.stderr).poll_write(cx, bytes),
                };
                match ready!(written) {
                    Ok(0) => self.breaks(fd, io::ErrorKind::WriteZero.into()),
                    Ok(length) => {
                        bytes.advance(length);
                        if bytes.is_empty() {
                            self.output = None;
                        }
                    }
                    Err(error) => self.breaks(fd, error),
                }
                continue;
            }
            match self.session.poll_output(cx) {
                // What is broken takes no more; the other one may.
                Poll::Ready(Some((fd, _))) if self.broken.as_ref().is_some_and(|b| b.0 == fd) => {}
                Poll::Ready(Some(output)) => self.output = Some(output),
                Poll::Ready(None) => {
                    ready!(self.poll_local_flush(cx));
                    return Poll::Ready(());
                }
                Poll::Pending => {
                    let _ = self.poll_local_flush(cx);
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_local_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(error) = ready!(Pin::new(&mut self.local.stdout).poll_flush(cx)) {
            self.breaks(Fd::Stdout, error);
        }
        if let Err(error) = ready!(Pin::new(&mut self.local.stderr).poll_flush(cx)) {
            self.breaks(Fd::Stderr, error);
        }
        Poll::Ready(())
    }

    fn breaks(&mut self, fd: Fd, error: io::Error) {
        self.output = None;
        self.broken.get_or_insert((fd, error));
        self.drain.get_or_insert_with(|| Box::pin(sleep(DRAIN)));
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.drain {
            Some(drain) => drain.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Goes on until there is nothing more to read, or no room.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(sizes) = &mut self.local.sizes {
            while let Poll::Ready(Some(size)) = Pin::new(&mut *sizes).poll_next(cx) {
                self.size = Some(size);
            }
        }
        // The first size goes before the first byte.
        if let Some(size) = self.size {
            let _ = ready!(self.session.poll_resize(cx, size));
            self.size = None;
        }
        loop {
            match self.input {
                Input::Copying if !self.typed.is_empty() => {
                    if ready!(self.session.poll_write(cx, &mut self.typed)).is_err() {
                        self.input = Input::Done;
                    }
                }
                Input::Copying => {
                    let Some(stdin) = &mut self.local.stdin else {
                        self.input = Input::Done;
                        continue;
                    };
                    self.buffer.reserve(MAX_STDIN);
                    let read = ready!(poll_read_buf(Pin::new(stdin), cx, &mut self.buffer));
                    let length = read.map_err(Error::Unreadable)?;
                    self.typed = self.buffer.split().freeze();
                    if length == 0 {
                        // Runtimes take the end of a terminal's input for the end of the session, output included.
                        if self.session.tty {
                            return Poll::Ready(Err(Error::HungUp));
                        }
                        self.input = Input::Ending;
                    }
                }
                Input::Ending => {
                    let _ = ready!(self.session.poll_finish(cx));
                    self.input = Input::Done;
                }
                Input::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}
