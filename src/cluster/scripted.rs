//! An API server for unit tests: it expects these requests in this order, and has these answers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

/// One request that is expected and its answer.
pub(super) struct Exchange {
    /// What its URI contains.
    path: String,
    status: u16,
    lines: Vec<String>,
    end: End,
}

/// What comes after the lines.
enum End {
    Proper,
    /// None, as with a watch.
    Never,
    Broken,
    /// Not even the lines: there is no answer.
    Silence,
}

impl Exchange {
    fn new(path: &str, lines: Vec<Value>, end: End) -> Self {
        Self {
            path: path.to_owned(),
            status: 200,
            lines: lines.iter().map(Value::to_string).collect(),
            end,
        }
    }

    /// The connection is lost after what was sent.
    pub(super) fn breaks(self) -> Self {
        Self {
            end: End::Broken,
            ..self
        }
    }

    pub(super) fn ends(self) -> Self {
        Self {
            end: End::Proper,
            ..self
        }
    }

    /// A line more, which may be anything.
    pub(super) fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }
}

pub(super) fn answers(path: &str, body: Value) -> Exchange {
    Exchange::new(path, vec![body], End::Proper)
}

pub(super) fn watches(path: &str, events: Vec<Value>) -> Exchange {
    Exchange::new(path, events, End::Never)
}

pub(super) fn refuses(path: &str, status: u16, message: &str) -> Exchange {
    let body = json!({ "kind": "Status", "status": "Failure", "code": status, "message": message });
    Exchange {
        status,
        ..answers(path, body)
    }
}

pub(super) fn is_silent(path: &str) -> Exchange {
    Exchange::new(path, Vec::new(), End::Silence)
}

/// What has been asked, and what is still expected.
#[derive(Default)]
pub(super) struct Script {
    pub(super) left: VecDeque<Exchange>,
    /// The URIs, and when.
    pub(super) asked: Vec<(Instant, String)>,
}

/// A client of such a server. A request that is not expected panics.
pub(super) fn server(exchanges: Vec<Exchange>) -> (Client, Arc<Mutex<Script>>) {
    let script = Arc::new(Mutex::new(Script {
        left: exchanges.into(),
        asked: Vec::new(),
    }));
    let server = script.clone();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let asked = request.uri().to_string();
        let mut script = server.lock().unwrap();
        script.asked.push((Instant::now(), asked.clone()));
        let exchange = script.left.pop_front();
        async move {
            let exchange = exchange.unwrap_or_else(|| panic!("unexpected request: {asked}"));
            let path = &exchange.path;
            assert!(asked.contains(path), "{asked} instead of {path}");
            let lines = exchange.lines.into_iter();
            let lines = lines.map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n")))));
            let lines = stream::iter(lines.collect::<Vec<io::Result<_>>>());
            let body = match exchange.end {
                End::Proper => StreamBody::new(lines).boxed_unsync(),
                End::Never => StreamBody::new(lines.chain(stream::pending())).boxed_unsync(),
                End::Broken => {
                    let broken = io::Error::from(io::ErrorKind::ConnectionReset);
                    let lines = lines.chain(stream::iter([Err(broken)]));
                    StreamBody::new(lines).boxed_unsync()
                }
                End::Silence => pending().await,
            };
            let response = http::Response::builder().status(exchange.status);
            Ok::<_, Infallible>(response.body(body).unwrap())
        }
    });
    (Client::new(service, "default"), script)
}
