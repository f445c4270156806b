//! A client of nothing but the upgrade: it sees what is on the wire, answers of all kinds included.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use kpf::spdy::{Config, Connection, Event, ReadError, StreamId};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::playground::Playground;

/// No answer in a test takes longer, pauses of the protocol included.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What came back.
pub(crate) enum Reply {
    Refused {
        status: StatusCode,
        headers: HeaderMap,
        body: String,
    },
    Switched {
        headers: HeaderMap,
        io: TokioIo<Upgraded>,
    },
}

impl Reply {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Refused { status, .. } => *status,
            Self::Switched { .. } => StatusCode::SWITCHING_PROTOCOLS,
        }
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        match self {
            Self::Refused { headers, .. } | Self::Switched { headers, .. } => headers,
        }
    }

    /// The body of a refusal; empty when there was none.
    pub(crate) fn body(&self) -> &str {
        match self {
            Self::Refused { body, .. } => body,
            Self::Switched { .. } => "",
        }
    }

    /// `message` of the Status in the body.
    pub(crate) fn message(&self) -> String {
        let status: serde_json::Value = serde_json::from_str(self.body()).expect("a Status");
        assert_eq!(status["kind"], "Status");
        status["message"].as_str().expect("a message").to_owned()
    }

    pub(crate) fn io(self) -> TokioIo<Upgraded> {
        match self {
            Self::Switched { io, .. } => io,
            Self::Refused { status, body, .. } => panic!("{status}: {body}"),
        }
    }

    pub(crate) fn spdy(self) -> Spdy {
        Spdy::new(self.io())
    }

    pub(crate) async fn websocket(self) -> WebSocketStream<TokioIo<Upgraded>> {
        WebSocketStream::from_raw_socket(self.io(), Role::Client, None).await
    }
}

/// POST, as kubectl asks for raw SPDY.
pub(crate) async fn spdy(playground: &Playground, user: &str, path: &str) -> Reply {
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "portforward.k8s.io"),
    ];
    request(playground, user, Method::POST, path, &headers).await
}

/// GET, as a WebSocket client asks, with these subprotocols in one line.
pub(crate) async fn websocket(
    playground: &Playground,
    user: &str,
    path: &str,
    subprotocols: &str,
) -> Reply {
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", subprotocols),
    ];
    request(playground, user, Method::GET, path, &headers).await
}

/// One request on a connection of its own.
pub(crate) async fn request(
    playground: &Playground,
    user: &str,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Reply {
    timeout(DEADLINE, ask(playground, user, method, path, headers))
        .await
        .expect("an answer in time")
}

async fn ask(
    playground: &Playground,
    user: &str,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Reply {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(playground.authority().as_bytes());
    roots.add(authority.expect("PEM")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match playground.identity().filter(|_| user == "cert") {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("PEM");
            config
                .with_client_auth_cert(vec![identity.der], key)
                .expect("a key")
        }
    };
    let tcp = TcpStream::connect(playground.address())
        .await
        .expect("a server");
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tls = connector.connect(name, tcp).await.expect("TLS");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls))
        .await
        .expect("a connection");
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost");
    for (name, value) in headers {
        request = request.header(
            HeaderName::try_from(*name).expect("a name"),
            HeaderValue::from_str(value).expect("a value"),
        );
    }
    if let Some(token) = playground.token(user) {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(Empty::<Bytes>::new()).expect("a request");
    let mut response = sender.send_request(request).await.expect("an answer");
    let headers = response.headers().clone();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgraded = hyper::upgrade::on(&mut response).await.expect("an upgrade");
        let io = TokioIo::new(upgraded);
        return Reply::Switched { headers, io };
    }
    let status = response.status();
    let body = response.into_body().collect().await.expect("a body");
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    Reply::Refused {
        status,
        headers,
        body,
    }
}

/// A SPDY client in one task: it writes and reads when asked.
pub(crate) struct Spdy {
    io: TokioIo<Upgraded>,
    connection: Connection,
    requests: u32,
    /// What happened, in the order of the wire: `data <- 5`, `error <- FIN`, `data <- RST 5`...
    pub(crate) log: Vec<String>,
}

/// A pair of streams, or what was made of it.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) error: StreamId,
    pub(crate) data: StreamId,
}

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset(u32),
    Lost,
}

impl Spdy {
    fn new(io: TokioIo<Upgraded>) -> Self {
        Self {
            io,
            connection: Connection::client(Config::default(), Instant::now()),
            requests: 0,
            log: Vec::new(),
        }
    }

    /// Opens the two streams of a forward with these headers; empty values are left out.
    pub(crate) async fn open(&mut self, port: &str) -> Pair {
        let request = self.requests.to_string();
        self.requests += 1;
        let error = self.open_stream("error", port, &request);
        self.connection.finish(error);
        let data = self.open_stream("data", port, &request);
        self.flush().await;
        Pair { error, data }
    }

    /// Opens one stream; empty values are left out.
    pub(crate) fn open_stream(&mut self, kind: &str, port: &str, request: &str) -> StreamId {
        let headers = [("streamtype", kind), ("port", port), ("requestid", request)];
        let headers: Vec<_> = headers
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect();
        self.connection
            .open(&headers, false, Instant::now())
            .expect("a stream")
    }

    pub(crate) async fn write(&mut self, id: StreamId, data: &[u8]) {
        let mut data = Bytes::copy_from_slice(data);
        while !data.is_empty() {
            self.connection
                .write(id, &mut data)
                .expect("an open stream");
            self.flush().await;
        }
    }

    pub(crate) async fn finish(&mut self, id: StreamId) {
        self.connection.finish(id);
        self.flush().await;
    }

    pub(crate) async fn flush(&mut self) {
        while let Some(frame) = self.connection.poll_output() {
            self.io
                .write_all(&frame.head)
                .await
                .expect("a server that reads");
            self.io
                .write_all(&frame.body)
                .await
                .expect("a server that reads");
        }
        self.io.flush().await.expect("a server that reads");
    }

    /// Reads a stream to its end.
    pub(crate) async fn read_to_end(&mut self, id: StreamId) -> (Vec<u8>, End) {
        self.read(id, usize::MAX).await
    }

    /// Reads a stream until it has so many bytes, or ends.
    pub(crate) async fn read(&mut self, id: StreamId, enough: usize) -> (Vec<u8>, End) {
        let mut data = Vec::new();
        loop {
            match self.connection.read(id) {
                Ok(Some(chunk)) => data.extend_from_slice(&chunk),
                Ok(None) => return (data, End::Fin),
                Err(ReadError::Reset(status)) => return (data, End::Reset(status.0)),
                Err(ReadError::Blocked) if data.len() >= enough => return (data, End::Lost),
                Err(ReadError::Blocked) => {
                    timeout(DEADLINE, self.step()).await.expect("bytes in time")
                }
                Err(error) => panic!("stream {id}: {error}"),
            }
        }
    }

    /// Takes in what the server sends next.
    async fn step(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        let n = self.io.read(&mut buffer).await.unwrap_or(0);
        buffer.truncate(n);
        let mut input = Bytes::from(buffer);
        if input.is_empty() {
            self.connection.handle_end();
        }
        self.connection
            .handle_input(&mut input, Instant::now())
            .expect("SPDY");
        assert!(input.is_empty(), "a test reads less than a stream's buffer");
        while let Some(event) = self.connection.poll_event() {
            if let Event::Replied { id, .. } = event {
                self.log.push(format!("reply {id}"));
            }
        }
        self.flush().await;
    }
}
