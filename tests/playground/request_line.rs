//! Request lines longer than hyper's URIs, which end at 64 KiB: Go's servers take a megabyte, and long commands need it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Go's `DefaultMaxHeaderBytes` and what its servers read beyond.
pub(crate) const MAX_HEAD: usize = (1 << 20) + 4096;
/// The query of a request whose line was too long for hyper.
pub(crate) const QUERY: &str = "x-playground-query";

/// The longest line that is left as it is.
const MAX_LINE: usize = 60_000;

/// A connection on which the query of the first request, if it is a long one, is moved into a header. Clients send a
/// request to upgrade on a connection of its own, and no others are long.
pub(crate) struct ShortLine<T> {
    inner: T,
    /// Bytes of the first request that were read ahead.
    head: BytesMut,
    looking: bool,
}

impl<T> ShortLine<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self {
            inner,
            head: BytesMut::new(),
            looking: true,
        }
    }
}

/// `GET /path?query HTTP/1.1` in other words.
fn shorten(line: &str) -> Option<String> {
    let (target, version) = line.rsplit_once(' ')?;
    let (path, query) = target.split_once('?')?;
    Some(format!("{path} {version}\r\n{QUERY}: {query}"))
}

impl<T: AsyncRead + Unpin> AsyncRead for ShortLine<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self {
            inner,
            head,
            looking,
        } = &mut *self;
        while *looking {
            let mut chunk = [0; 16 * 1024];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut *inner).poll_read(cx, &mut chunk))?;
            let searched = head.len().saturating_sub(1);
            head.extend_from_slice(chunk.filled());
            let end = head[searched..].windows(2).position(|pair| pair == b"\r\n");
            let end = end.map(|end| searched + end);
            *looking = end.is_none() && !chunk.filled().is_empty() && head.len() < MAX_HEAD;
            if let Some(end) = end.filter(|&end| end > MAX_LINE)
                && let Some(short) = std::str::from_utf8(&head[..end]).ok().and_then(shorten)
            {
                let rest = head.split_off(end);
                *head = BytesMut::from(short.as_bytes());
                head.unsplit(rest);
            }
        }
        if head.is_empty() {
            return Pin::new(inner).poll_read(cx, buf);
        }
        let length = head.len().min(buf.remaining());
        buf.put_slice(&head[..length]);
        head.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ShortLine<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
