//! The byte pipe under a tunnel: the raw connection, or binary WebSocket messages as the API server cuts them.

use std::io;
use std::iter::Cycle;
use std::slice::Iter;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::faults::{Io, Messages};

/// Read at once from a raw connection.
const CHUNK: usize = 64 * 1024;
/// The API server's WebSocket library has a write buffer of 4096 bytes: a message that fits goes out as one frame...
const ONE_FRAME: usize = 4096;
/// ... one up to this as two, and a longer one as a frame followed by an empty continuation.
const TWO_FRAMES: usize = 8220;

/// Where a tunnel's bytes come from.
pub(crate) enum Source {
    Raw(ReadHalf<Box<dyn Io>>, BytesMut),
    WebSocket(SplitStream<WebSocketStream<Box<dyn Io>>>),
}

/// Where a tunnel's bytes go to.
pub(crate) enum Sink {
    Raw(WriteHalf<Box<dyn Io>>),
    WebSocket {
        socket: SplitSink<WebSocketStream<Box<dyn Io>>, Message>,
        sizes: Cycle<Iter<'static, usize>>,
        pings: bool,
    },
}

impl Messages {
    /// The sizes of messages, one after another and again.
    fn sizes(self) -> &'static [usize] {
        match self {
            Self::Usual => &[32 * 1024],
            Self::Ragged => &[0, 1, 4, 4, 0, 8, 4096, 4097, 8220, 8221, 32 * 1024],
        }
    }
}

/// SPDY right on the connection.
pub(crate) fn raw(io: Box<dyn Io>) -> (Source, Sink) {
    let (reader, writer) = tokio::io::split(io);
    (Source::Raw(reader, BytesMut::new()), Sink::Raw(writer))
}

/// SPDY in WebSocket messages.
pub(crate) async fn websocket(io: Box<dyn Io>, messages: Messages) -> (Source, Sink) {
    let (socket, stream) = accept(io).await.split();
    let sink = Sink::WebSocket {
        socket,
        sizes: messages.sizes().iter().cycle(),
        pings: messages == Messages::Ragged,
    };
    (Source::WebSocket(stream), sink)
}

/// The server's end of a WebSocket whose handshake is done.
pub(crate) async fn accept(io: Box<dyn Io>) -> WebSocketStream<Box<dyn Io>> {
    let config = WebSocketConfig::default()
        .write_buffer_size(CHUNK)
        .max_write_buffer_size(4 * CHUNK);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

impl Source {
    /// The next bytes; `None` at a proper end. Cancel safe.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match self {
            Self::Raw(reader, buffer) => {
                buffer.reserve(CHUNK);
                let n = reader.read_buf(buffer).await?;
                Ok((n > 0).then(|| buffer.split().freeze()))
            }
            Self::WebSocket(stream) => loop {
                match stream.next().await {
                    Some(Ok(Message::Binary(bytes))) => return Ok(Some(bytes)),
                    Some(Ok(Message::Text(_))) => {
                        return Err(io::Error::other("invalid message type received"));
                    }
                    Some(Ok(Message::Close(_))) | None => return Ok(None),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(io::Error::other(error)),
                }
            },
        }
    }
}

impl Sink {
    /// Sends what comes through `batches`, then closes: Close(1000) on a WebSocket.
    pub(crate) async fn run(mut self, mut batches: mpsc::Receiver<Bytes>) -> io::Result<()> {
        while let Some(batch) = batches.recv().await {
            match &mut self {
                Self::Raw(writer) => {
                    writer.write_all(&batch).await?;
                    writer.flush().await?;
                }
                Self::WebSocket {
                    socket,
                    sizes,
                    pings,
                } => {
                    feed(socket, batch, sizes, *pings)
                        .await
                        .map_err(io::Error::other)?;
                    if batches.is_empty() {
                        socket.flush().await.map_err(io::Error::other)?;
                    }
                }
            }
        }
        match &mut self {
            Self::Raw(writer) => writer.shutdown().await,
            Self::WebSocket { socket, .. } => {
                let normal = CloseFrame {
                    code: CloseCode::Normal,
                    reason: "".into(),
                };
                let _ = socket.send(Message::Close(Some(normal))).await;
                Ok(())
            }
        }
    }
}

/// Sends bytes as messages, fragmented as gorilla's server does it.
async fn feed(
    socket: &mut SplitSink<WebSocketStream<Box<dyn Io>>, Message>,
    mut batch: Bytes,
    sizes: &mut Cycle<Iter<'static, usize>>,
    pings: bool,
) -> Result<(), Error> {
    while !batch.is_empty() {
        let size = sizes.next().copied().unwrap_or(CHUNK);
        let message = batch.split_to(batch.len().min(size));
        let (first, rest) = match message.len() {
            n if n <= ONE_FRAME => (message, None),
            n if n <= TWO_FRAMES => {
                let mut first = message;
                let rest = first.split_off(ONE_FRAME);
                (first, Some(rest))
            }
            _ => (message, Some(Bytes::new())),
        };
        let opening = Frame::message(first, OpCode::Data(Data::Binary), rest.is_none());
        socket.feed(Message::Frame(opening)).await?;
        if pings {
            socket.feed(Message::Ping("between".into())).await?;
        }
        if let Some(rest) = rest {
            let closing = Frame::message(rest, OpCode::Data(Data::Continue), true);
            socket.feed(Message::Frame(closing)).await?;
        }
    }
    Ok(())
}
