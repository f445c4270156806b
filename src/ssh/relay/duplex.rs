//! A stream to a pod as russh wants it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::splice::Far;

/// The far side of a splice, read and written as any other stream.
#[derive(Debug)]
pub struct Duplex<F>(pub F);

impl<F: Far> AsyncRead for Duplex<F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut taken = 0;
        for chunk in ready!(self.0.poll_chunks(cx))? {
            let length = chunk.len().min(buffer.remaining());
            buffer.put_slice(chunk.get(..length).unwrap_or_default());
            taken += length;
        }
        self.0.consume(taken);
        Poll::Ready(Ok(()))
    }
}

impl<F: Far> AsyncWrite for Duplex<F> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut rest = Bytes::copy_from_slice(data);
        ready!(self.0.poll_send(cx, &mut rest))?;
        Poll::Ready(Ok(data.len() - rest.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_finish(cx)
    }
}
