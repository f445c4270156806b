//! An upgrade whose request line is longer than a [`Uri`] can be, which is 64 KiB: that of a long command.
//!
//! API servers take a megabyte, and kubectl sends it. So hyper is given the path alone, on a connection of its own, and
//! the request line that it writes there is replaced by the whole one. All the rest stays hyper's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::header::HOST;
use ::http::{HeaderValue, Request, Response, Uri};
use bytes::{Buf as _, Bytes};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::ServiceExt as _;

use super::{Connection, RequestError, Transport, unreachable};
use crate::cluster::credentials::Credential;
use crate::cluster::proxy;

/// Bytes of a URI that the `http` crate takes.
const URI_MAX: usize = u16::MAX as usize - 1;

impl Transport {
    /// Whether a request for `path_and_query` is one for [`send_long`](Self::send_long).
    pub(super) fn is_long(&self, path_and_query: &str) -> bool {
        // scheme and authority count too, and the server's own path
        self.0.server.to_string().len() + path_and_query.len() > URI_MAX
    }

    /// Sends `request`, whose own URI is a placeholder, for `path_and_query`. Must be called in a tokio runtime.
    pub(super) async fn send_long(
        &self,
        mut request: Request<Body>,
        path_and_query: &str,
        credential: &Credential,
    ) -> Result<Response<Incoming>, RequestError> {
        // What `Uri` checks elsewhere: nothing here may end the line.
        if !path_and_query.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(RequestError::Invalid("invalid uri character".to_owned()));
        }
        let server = &self.0.server;
        let prefix = server.path().trim_end_matches('/');
        let line = format!("{} {prefix}{path_and_query} HTTP/1.1\r\n", request.method());
        self.identify(&mut request, credential);
        request.headers_mut().insert(HOST, host(server)?);
        let identity = credential.identity.as_ref();
        let connector = self.0.connector.as_identity(identity);
        let connection = connector.oneshot(server.clone()).await;
        let connection = connection.map_err(RequestError::Unreachable)?;
        let io = LongLine {
            io: connection.into_inner(),
            line: line.into(),
            replacing: true,
        };
        let lost = |error| RequestError::Unreachable(unreachable(&error));
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(lost)?;
        // Ends with the response, or when it hands the connection over.
        tokio::spawn(connection.with_upgrades());
        let path = request.uri().path().to_owned();
        let response = sender.send_request(request).await.map_err(lost)?;
        tracing::debug!(path, status = response.status().as_u16(), "answered");
        self.answered(&response, credential);
        Ok(response)
    }
}

/// As hyper writes it where it has a whole URI.
fn host(server: &Uri) -> Result<HeaderValue, RequestError> {
    let host = server.host().unwrap_or_default();
    let host = match (server.scheme_str(), proxy::port(server)) {
        (Some("https"), 443) | (Some("http"), 80) => host.to_owned(),
        (_, port) => format!("{host}:{port}"),
    };
    HeaderValue::try_from(host).map_err(|error| RequestError::Invalid(error.to_string()))
}

/// A connection on which the first line that is written is replaced by another one.
pub(super) struct LongLine {
    io: Connection,
    /// What is left of the other one.
    line: Bytes,
    /// The first line isn't through yet.
    replacing: bool,
}

impl LongLine {
    pub(super) fn into_inner(self) -> Connection {
        self.io
    }
}

impl AsyncWrite for LongLine {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self {
            io,
            line,
            replacing,
        } = &mut *self;
        while !line.is_empty() {
            match ready!(Pin::new(&mut *io).poll_write(cx, line))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => line.advance(length),
            }
        }
        if *replacing {
            let end = bytes.iter().position(|&byte| byte == b'\n');
            *replacing = end.is_none();
            return Poll::Ready(Ok(end.map_or(bytes.len(), |end| end + 1)));
        }
        Pin::new(io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl AsyncRead for LongLine {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}
