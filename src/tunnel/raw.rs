//! SPDY directly on the connection.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::wire::Wire;
use crate::spdy::Output;

/// Bytes asked for in one read: four TLS records.
const READ: usize = 64 * 1024;
/// Slices of one vectored write: heads and bodies of 32 frames.
const SLICES: usize = 64;

pub(super) struct Raw<IO> {
    io: IO,
    early: Bytes,
    reader: Reader,
    /// Bytes of the first frame in the queue that are already out.
    written: usize,
    unflushed: bool,
}

impl<IO> Raw<IO> {
    pub(super) fn new(io: IO, early: Bytes) -> Self {
        Self {
            io,
            early,
            reader: Reader::default(),
            written: 0,
            unflushed: false,
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Wire for Raw<IO> {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.early.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.early))));
        }
        self.reader.poll_read(&mut self.io, cx)
    }

    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Output>,
    ) -> Poll<io::Result<()>> {
        while !frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = fill(&mut slices, frames, self.written);
            let slices = slices.get(..count).unwrap_or_default();
            let length = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.written += length;
            while let Some(frame) = frames.front()
                && self.written >= frame.len()
            {
                self.written -= frame.len();
                frames.pop_front();
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Reads blocks and hands them out without a copy.
#[derive(Default)]
pub(super) struct Reader(BytesMut);

impl Reader {
    /// `None` at the end.
    pub(super) fn poll_read(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        // Reuses the block once nobody holds a slice of it.
        self.0.reserve(READ);
        // TLS gives a record at a time; a frame in one piece costs one system call less on its way out. The end, or
        // an error, shows again with the next call.
        while self.0.len() < READ {
            match poll_read_buf(Pin::new(&mut *io), cx, &mut self.0) {
                Poll::Ready(Ok(1..)) => {}
                _ if !self.0.is_empty() => break,
                Poll::Ready(Ok(_)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    // Who waits needs no block.
                    self.0 = BytesMut::new();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(Some(self.0.split().freeze())))
    }
}

/// Lists what is left of the frames, `skip` bytes of the first one aside. Returns how many slices there are.
fn fill<'a>(slices: &mut [IoSlice<'a>], frames: &'a VecDeque<Output>, skip: usize) -> usize {
    let parts = frames.iter().enumerate().flat_map(|(i, frame)| {
        let mut parts = (&frame.head[..]).chain(&frame.body[..]);
        parts.advance(if i == 0 { skip } else { 0 });
        let (head, body) = parts.into_inner();
        [head, body]
    });
    let mut count = 0;
    for (slice, part) in slices.iter_mut().zip(parts.filter(|part| !part.is_empty())) {
        *slice = IoSlice::new(part);
        count += 1;
    }
    count
}
