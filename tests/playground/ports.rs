//! What answers on the ports of the playground's pods.
//!
//! Every service is a real TCP listener on loopback, so half-close, reset and backpressure are the
//! kernel's own.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::faults::Handler;

/// Sends back what it gets, and its end too (RFC 862).
pub(crate) const ECHO: u16 = 7;
/// Takes everything (RFC 863).
pub(crate) const DISCARD: u16 = 9;
/// One line, then the end (RFC 867).
pub(crate) const DAYTIME: u16 = 13;
/// Lines of characters without end (RFC 864).
pub(crate) const CHARGEN: u16 = 19;
/// OpenSSH, in the pods `sshd` where the machine has one.
pub(crate) const SSH: u16 = 22;
/// A page that says which pod it is.
pub(crate) const HTTP: u16 = 80;
/// The same page; the usual port of a container behind a service's 80.
pub(crate) const HTTP_ALT: u16 = 8080;
/// Counts bytes up to their end, then answers with the number. No real node lets the answer through.
pub(crate) const COUNT: u16 = 1001;
/// Resets the connection at once.
pub(crate) const RESET: u16 = 1002;
/// Accepts and never reads.
pub(crate) const STALL: u16 = 1003;
/// Big-endian 64-bit counters from 0 without end.
pub(crate) const COUNTERS: u16 = 1004;
/// Reads a big-endian 64-bit N, then N counters; answers `ok N` or `wrong at I`, and ends.
pub(crate) const VERIFY: u16 = 1005;
/// Nobody listens here; the same is true of every port that has no name above.
pub(crate) const REFUSED: u16 = 1006;

/// Says the pod's name and uid in a line, then sends back what it gets.
pub(crate) const IDENTITY: u16 = 1007;

/// Reads and writes of the bulk services.
const BUFFER: usize = 256 * 1024;

/// What a test puts on a port of a pod.
#[derive(Clone)]
pub(crate) enum Service {
    /// One of the constants of this module.
    Builtin(u16),
    /// A server of the test's own.
    Address(SocketAddr),
    /// One connection after another is given to it.
    Handler(Handler<TcpStream>),
}

impl Service {
    /// A service from an async closure.
    pub(crate) fn handler<F, R>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<()>> + Send + 'static,
    {
        Self::Handler(Handler::new(serve))
    }

    /// What listens on a port if the test said nothing about it.
    pub(crate) fn builtin(port: u16) -> Option<Self> {
        let known = [
            ECHO, DISCARD, DAYTIME, CHARGEN, HTTP, HTTP_ALT, COUNT, RESET, STALL, COUNTERS, VERIFY,
            IDENTITY,
        ];
        known.contains(&port).then_some(Self::Builtin(port))
    }
}

/// What the services know about their pod.
pub(crate) struct Pod<'a> {
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) discarded: &'a AtomicU64,
}

/// Serves one connection to a built-in port.
pub(crate) async fn serve(port: u16, pod: &Pod<'_>, mut tcp: TcpStream) -> io::Result<()> {
    match port {
        ECHO => echo(tcp).await,
        DISCARD => discard(tcp, pod.discarded).await,
        DAYTIME => tcp.write_all(b"2026-01-02T03:04:05Z\r\n").await,
        CHARGEN => repeat(tcp, &lines()).await,
        HTTP | HTTP_ALT => page(tcp, pod.name).await,
        COUNT => count(tcp).await,
        RESET => reset(&tcp),
        STALL => std::future::pending().await,
        COUNTERS => counters(tcp).await,
        VERIFY => verify(tcp).await,
        IDENTITY => {
            let line = format!("{} {}\n", pod.name, pod.uid);
            tcp.write_all(line.as_bytes()).await?;
            echo(tcp).await
        }
        _ => Ok(()),
    }
}

/// Makes the socket end by a reset when it is dropped.
pub(crate) fn reset(tcp: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO))
}

async fn echo(mut tcp: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = tcp.read(&mut buffer).await?;
        if n == 0 {
            return tcp.shutdown().await;
        }
        tcp.write_all(&buffer[..n]).await?;
    }
}

async fn discard(mut tcp: TcpStream, discarded: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = tcp.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        discarded.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// RFC 864's pattern: 95 lines of 72 characters, each one further on.
pub(crate) fn lines() -> Vec<u8> {
    (0..95u8)
        .flat_map(|line| {
            let characters = (0..72u8).map(move |column| b' ' + (line + column) % 95);
            characters.chain(*b"\r\n")
        })
        .collect()
}

async fn repeat(mut tcp: TcpStream, pattern: &[u8]) -> io::Result<()> {
    let buffer = pattern.repeat(BUFFER / pattern.len());
    loop {
        tcp.write_all(&buffer).await?;
    }
}

async fn count(mut tcp: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut total = 0u64;
    loop {
        let n = tcp.read(&mut buffer).await?;
        if n == 0 {
            break;
        }
        total += n as u64;
    }
    tcp.write_all(format!("{total}\n").as_bytes()).await
}

async fn counters(mut tcp: TcpStream) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut next = 0u64;
    loop {
        buffer.clear();
        let chunk = next..next + BUFFER as u64 / 8;
        next = chunk.end;
        buffer.extend(chunk.flat_map(u64::to_be_bytes));
        tcp.write_all(&buffer).await?;
    }
}

async fn verify(tcp: TcpStream) -> io::Result<()> {
    let mut tcp = tokio::io::BufStream::with_capacity(BUFFER, 1024, tcp);
    let total = tcp.read_u64().await?;
    let mut verdict = format!("ok {total}\n");
    for expected in 0..total {
        if tcp.read_u64().await? != expected {
            verdict = format!("wrong at {expected}\n");
            break;
        }
    }
    tcp.write_all(verdict.as_bytes()).await?;
    tcp.flush().await
}

async fn page(tcp: TcpStream, pod: &str) -> io::Result<()> {
    let respond = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
        let known = request.uri().path() == "/";
        let (code, body) = match known {
            true => (StatusCode::OK, html(pod)),
            false => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
        };
        let response = Response::builder()
            .status(code)
            .header(CONTENT_TYPE, "text/html; charset=utf-8")
            .body(Full::new(Bytes::from(body)));
        std::future::ready(response)
    });
    hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(tcp), respond)
        .await
        .map_err(io::Error::other)
}

fn html(pod: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>{pod}</title>\n\
         <style>body {{ font: 1.1em/1.5 sans-serif; max-width: 40em; margin: 4em auto; }}</style></head>\n\
         <body>\n<h1>It works.</h1>\n\
         <p>This page was served by the pod <b>{pod}</b> of the kpf playground: a one-process Kubernetes \
         with TLS, users, roles, pods and services, made to try and to test port forwarding.</p>\n\
         <p>Your browser spoke to a local port; from there the request went through an upgraded connection \
         to the API server and over a SPDY stream to the pod.</p>\n</body>\n</html>\n"
    )
}
