//! A command over WebSocket: `v5.channel.k8s.io`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::channels::{self, MAX_STDIN, Received};
use super::{Event, Lost, START, Size, StdinClosed};
use crate::untrusted;

/// Kubernetes sends 32 KiB at most.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// client-go's period. Pings keep middleboxes from closing the connection; they don't count for servers.
const PING: Duration = Duration::from_secs(5);
/// How long nothing at all may arrive before the server counts as dead.
const SILENCE: Duration = Duration::from_secs(60);
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Characters of a close frame's reason that are shown; it has 123 bytes at most.
const MAX_REASON: usize = 123;

pub(super) struct WebSocket<IO> {
    socket: WebSocketStream<IO>,
    ready: bool,
    /// The connection has ended, and this is why.
    lost: Option<Lost>,
    pulse: Pulse,
}

/// Pings, and how long the server has been silent without a reason.
struct Pulse {
    started: Instant,
    next_ping: Instant,
    /// The last moment at which the silence had a reason, or wasn't one.
    heard: Instant,
    /// A ping has gone out since.
    asked: bool,
    /// The network takes no more of ours, so the server may not be reading: a command that doesn't read its stdin keeps
    /// its server from answering pings.
    blocked: bool,
    /// We are waiting for the server, and not it for us.
    listening: bool,
    timer: Pin<Box<Sleep>>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> WebSocket<IO> {
    pub(super) async fn new(io: IO, early: Bytes) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(32 * 1024)
            .write_buffer_size(32 * 1024)
            .max_write_buffer_size(256 * 1024)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let role = Role::Client;
        let now = Instant::now();
        Self {
            socket: WebSocketStream::from_partially_read(io, early.into(), role, Some(config))
                .await,
            ready: false,
            lost: None,
            pulse: Pulse {
                started: now,
                next_ping: now + PING,
                heard: now,
                asked: false,
                blocked: false,
                listening: false,
                timer: Box::pin(sleep_until(now + PING)),
            },
        }
    }

    /// The server's first message says that it has the streams.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if !self.pulse.listening {
            self.pulse.listening = true;
            self.pulse.heard();
        }
        let event = self.poll_message(cx);
        if event.is_ready() {
            // Until we are asked again, it's the local side that holds things up.
            self.pulse.listening = false;
        }
        event
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(lost) = &self.lost {
                return Poll::Ready(Event::End(lost.clone()));
            }
            let Poll::Ready(message) = Pin::new(&mut self.socket).poll_next(cx) else {
                // Keeping the pulse may end the connection.
                let _ = self.poll_flush(cx);
                match self.lost {
                    Some(_) => continue,
                    None => return Poll::Pending,
                }
            };
            self.pulse.heard();
            let message = match message {
                Some(Ok(Message::Binary(message))) => message,
                // Pings are answered by the library, with the next read or write.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(frame))) => {
                    self.lost = Some(closed(frame));
                    continue;
                }
                Some(Ok(Message::Text(_) | Message::Frame(_))) => {
                    self.lost = Some(Lost::Cut("the server sent a text message".to_owned()));
                    continue;
                }
                Some(Err(Error::ConnectionClosed)) | None => {
                    self.lost = Some(Lost::Closed);
                    continue;
                }
                Some(Err(error)) => {
                    let error = untrusted::printable(&error.to_string(), MAX_REASON);
                    self.lost = Some(Lost::Cut(format!("the connection was cut: {error}")));
                    continue;
                }
            };
            self.ready = true;
            match channels::decode(message) {
                Received::Output(fd, bytes) => return Poll::Ready(Event::Output(fd, bytes)),
                Received::Status(piece) => return Poll::Ready(Event::Status(piece)),
                Received::Nothing => {}
            }
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<(), StdinClosed>> {
        ready!(self.poll_room(cx))?;
        let part = data.split_to(data.len().min(MAX_STDIN));
        Poll::Ready(self.send(channels::stdin(&part)))
    }

    pub(super) fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StdinClosed>> {
        ready!(self.poll_room(cx))?;
        Poll::Ready(self.send(channels::stdin_end()))
    }

    pub(super) fn poll_resize(
        &mut self,
        cx: &mut Context<'_>,
        size: Size,
    ) -> Poll<Result<(), StdinClosed>> {
        ready!(self.poll_room(cx))?;
        Poll::Ready(self.send(channels::resize(size)))
    }

    /// What sending can fail of, the next read tells.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StdinClosed>> {
        let room = Pin::new(&mut self.socket).poll_ready(cx);
        self.pulse.set_blocked(room.is_pending());
        room.map_err(|_| StdinClosed)
    }

    fn send(&mut self, message: Bytes) -> Result<(), StdinClosed> {
        Pin::new(&mut self.socket)
            .start_send(Message::Binary(message))
            .map_err(|_| StdinClosed)
    }

    /// Sends what is due. Ready when all is with the operating system.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.lost.is_some() {
            return Poll::Ready(());
        }
        loop {
            // An error shows when the next message is read.
            let flushed = Pin::new(&mut self.socket).poll_flush(cx).map(drop);
            self.pulse.set_blocked(flushed.is_pending());
            match self.pulse.poll(cx, self.ready) {
                Poll::Ready(Ok(())) if flushed.is_ready() => {
                    let _ = Pin::new(&mut self.socket).start_send(Message::Ping(Bytes::new()));
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(lost)) => {
                    self.lost = Some(lost);
                    return Poll::Ready(());
                }
                Poll::Pending => return flushed,
            }
        }
    }

    /// Close 1000. The echo is not waited for, as in Go.
    pub(super) async fn close(mut self) {
        let normal = CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        // A courtesy: the server may have closed already.
        let _ = timeout(GOODBYE, self.socket.close(Some(normal))).await;
    }
}

impl Pulse {
    fn heard(&mut self) {
        self.heard = Instant::now();
        self.asked = false;
    }

    fn set_blocked(&mut self, blocked: bool) {
        if self.blocked || blocked {
            self.heard();
        }
        self.blocked = blocked;
    }

    /// Ready when a ping is due, or the server counts as dead.
    fn poll(&mut self, cx: &mut Context<'_>, ready: bool) -> Poll<Result<(), Lost>> {
        loop {
            let now = Instant::now();
            if !ready && now >= self.started + START {
                return Poll::Ready(Err(Lost::NotStarted));
            }
            if !self.listening {
                self.heard();
            }
            if self.asked && now >= self.heard + SILENCE {
                return Poll::Ready(Err(Lost::Silent));
            }
            if now >= self.next_ping {
                self.next_ping = now + PING;
                // The silence begins with the first question.
                if !self.asked {
                    self.heard();
                    self.asked = !self.blocked;
                }
                return Poll::Ready(Ok(()));
            }
            // Pings come often enough to look at the other deadlines, too.
            if self.timer.deadline() != self.next_ping {
                self.timer.as_mut().reset(self.next_ping);
            }
            ready!(self.timer.as_mut().poll(cx));
        }
    }
}

fn closed(frame: Option<CloseFrame>) -> Lost {
    match frame {
        Some(frame) if frame.code != CloseCode::Normal => Lost::Cut(format!(
            "the server closed the connection with code {}: {}",
            u16::from(frame.code),
            untrusted::printable(&frame.reason, MAX_REASON)
        )),
        _ => Lost::Closed,
    }
}
