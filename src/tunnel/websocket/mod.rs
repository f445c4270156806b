//! SPDY in binary WebSocket messages, as KEP-4006 tunnels it. Message boundaries mean nothing.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use super::raw::Reader;
use super::wire::Wire;
use crate::spdy::Output;
use frame::{Decoder, Encoder, Item};

mod frame;

/// Bytes that are encoded before they are written: one system call's worth, and TLS records that are full.
const BATCH: usize = 128 * 1024;
/// Bytes of answers to pings that may wait. A server that sends pings and reads nothing gets no more.
const MAX_PONGS: usize = 4 * 1024;

pub(super) struct WebSocket<IO> {
    io: IO,
    reader: Reader,
    input: Bytes,
    decoder: Decoder,
    encoder: Encoder,
    /// Encoded, and not yet written.
    output: BytesMut,
    unflushed: bool,
    closing: bool,
}

impl<IO> WebSocket<IO> {
    pub(super) fn new(io: IO, early: Bytes) -> Self {
        Self {
            io,
            reader: Reader::default(),
            input: early,
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            output: BytesMut::new(),
            unflushed: false,
            closing: false,
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> WebSocket<IO> {
    /// In one block: growing it would copy it.
    fn encode(&mut self, frames: &mut VecDeque<Output>) {
        let lengths = frames.iter().map(|frame| frame::MAX_HEAD + frame.len());
        self.output.reserve(lengths.sum()); // the driver hands out no more than a batch and a frame
        while self.output.len() < BATCH
            && let Some(frame) = frames.pop_front()
        {
            self.encoder
                .binary([&frame.head, &frame.body], &mut self.output);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.output.has_remaining() {
            let length = ready!(Pin::new(&mut self.io).poll_write(cx, &self.output))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(length);
            self.unflushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire for WebSocket<IO> {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            let item = self.decoder.decode(&mut self.input);
            match item.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                Some(Item::Data(chunk)) => return Poll::Ready(Ok(Some(chunk))),
                // Sent with what the driver sends next, which it tries right after it has received.
                Some(Item::Ping(payload)) => {
                    if self.output.len() < MAX_PONGS {
                        self.encoder.pong(&payload, &mut self.output);
                    }
                }
                Some(Item::Close) => return Poll::Ready(Ok(None)),
                None => match ready!(self.reader.poll_read(&mut self.io, cx))? {
                    Some(chunk) => self.input = chunk,
                    None => return Poll::Ready(Ok(None)),
                },
            }
        }
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Output>,
    ) -> Poll<io::Result<()>> {
        loop {
            self.encode(frames);
            if self.output.is_empty() {
                break;
            }
            ready!(self.poll_write(cx))?;
        }
        // Who waits needs no block.
        self.output = BytesMut::new();
        self.poll_flush(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            self.closing = true;
            self.encoder.close(&mut self.output);
        }
        // The echo is not waited for, as in Go.
        ready!(self.poll_write(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
