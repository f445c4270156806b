//! SPDY in binary WebSocket messages, as KEP-4006 tunnels it. Message boundaries mean nothing.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::wire::Wire;
use crate::spdy::Output;

/// One SPDY frame of the largest size. Kubernetes sends 32 KiB at most.
const MAX_MESSAGE: usize = 16 * 1024 * 1024 + 8;

pub(super) struct WebSocket<IO> {
    inner: WebSocketStream<IO>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> WebSocket<IO> {
    pub(super) async fn new(io: IO, early: Bytes) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(32 * 1024)
            .write_buffer_size(32 * 1024)
            .max_write_buffer_size(256 * 1024)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        Self {
            inner: WebSocketStream::from_partially_read(
                io,
                early.into(),
                Role::Client,
                Some(config),
            )
            .await,
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire for WebSocket<IO> {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                // Go's FIN frames make empty messages.
                Some(Ok(Message::Binary(chunk))) if chunk.is_empty() => continue,
                Some(Ok(Message::Binary(chunk))) => Ok(Some(chunk)),
                // Pings are answered by the library, with the next read or write.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                Some(Ok(Message::Close(_))) | None => Ok(None),
                Some(Ok(Message::Text(_) | Message::Frame(_))) => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the server sent a text message in a binary tunnel",
                )),
                Some(Err(error)) => Err(io_error(error)),
            });
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Output>,
    ) -> Poll<io::Result<()>> {
        while !frames.is_empty() {
            ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(io_error)?;
            let Some(frame) = frames.pop_front() else {
                break;
            };
            let mut message = BytesMut::with_capacity(frame.len());
            message.put_slice(&frame.head);
            message.put_slice(&frame.body);
            Pin::new(&mut self.inner)
                .start_send(Message::Binary(message.freeze()))
                .map_err(io_error)?;
        }
        Pin::new(&mut self.inner).poll_flush(cx).map_err(io_error)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Close 1000; the echo is not waited for, as in Go.
        Pin::new(&mut self.inner).poll_close(cx).map_err(io_error)
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}
