//! The address for Prometheus and for probes: apart from SSH, for the cluster's own network.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Metrics;
use crate::ssh::audit::Audit;
use crate::ssh::door::Watch;

/// Connections at a time: some probes, some Prometheus.
const CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may last, however many requests it has.
const CONNECTION: Duration = Duration::from_secs(300);
/// The pause when `accept` fails, for want of descriptors.
const PAUSE: Duration = Duration::from_millis(200);

/// What is told.
pub struct Status {
    /// The figures that are counted.
    pub metrics: Metrics,
    /// The door's own.
    pub door: Option<Watch>,
    /// The audit log's own; not ready while a required sink fails.
    pub audit: Option<Audit>,
    /// Whether connections are taken and a cluster can be reached; why not, in a few words that may be shown.
    pub ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// Answers on this socket until it is dropped: `/metrics`, `/healthz` (the process lives) and `/readyz` (503 and why, if
/// not). Nothing else, and to anybody who can connect.
pub async fn serve(listener: TcpListener, status: Arc<Status>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => drop(connections.spawn(attend(stream, status.clone()))),
                Err(error) => {
                    tracing::warn!("accept on the address for metrics: {error}");
                    sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn attend(stream: TcpStream, status: Arc<Status>) {
    let service = service_fn(|request| {
        let response = status.answer(&request);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever asks will ask again; there is nobody to tell.
    let _ = timeout(CONNECTION, connection).await;
}

impl Status {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
            let methods = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, methods);
            return response;
        }
        match request.uri().path() {
            "/metrics" => {
                let metrics = self.metrics.text(self.door.as_ref(), self.audit.as_ref());
                text(StatusCode::OK, metrics)
            }
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match self.is_ready() {
                Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            _ => text(
                StatusCode::NOT_FOUND,
                "/metrics, /healthz or /readyz\n".to_owned(),
            ),
        }
    }

    fn is_ready(&self) -> Result<(), String> {
        if let Some(audit) = &self.audit {
            audit.check().map_err(|refused| refused.to_string())?;
        }
        (self.ready)()
    }
}

/// Prometheus' text format is plain text of a version.
fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
