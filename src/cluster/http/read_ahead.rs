//! Reading ahead of TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// Bytes that are asked for at a time: four TLS records.
const BLOCK: usize = 64 * 1024;

/// A connection that is read in large blocks. rustls reads 4 KiB at a time: four system calls for a full record.
///
/// Unlike a `BufReader`, it has no block while there is nothing to read: many connections wait.
#[derive(Debug)]
pub(super) struct ReadAhead<IO> {
    io: IO,
    ahead: BytesMut,
}

impl<IO> ReadAhead<IO> {
    pub(super) fn new(io: IO) -> Self {
        Self {
            io,
            ahead: BytesMut::new(),
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, ahead } = self.get_mut();
        if ahead.is_empty() {
            ahead.reserve(BLOCK);
            let read = poll_read_buf(Pin::new(io), cx, ahead);
            if !matches!(read, Poll::Ready(Ok(1..))) {
                *ahead = BytesMut::new();
            }
            ready!(read)?;
        }
        let part = ahead.get(..buf.remaining().min(ahead.len()));
        let part = part.unwrap_or_default();
        buf.put_slice(part);
        let length = part.len();
        ahead.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn all_is_read_and_no_block_is_kept_while_there_is_nothing() {
        let (mut sender, io) = duplex(BLOCK);
        let mut reader = ReadAhead::new(io);
        let sent: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        sender.write_all(&sent).await.unwrap();
        let mut got = vec![0; 4096];
        reader.read_exact(&mut got).await.unwrap();
        assert_eq!(reader.ahead.len(), sent.len() - 4096);
        let mut rest = vec![0; sent.len() - 4096];
        reader.read_exact(&mut rest).await.unwrap();
        assert_eq!([got, rest].concat(), sent);
        let more = futures_util::future::poll_immediate(reader.read_u8()).await;
        assert!(more.is_none());
        assert_eq!(reader.ahead.capacity(), 0);
        drop(sender);
        assert_eq!(reader.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(reader.ahead.capacity(), 0);
    }
}
