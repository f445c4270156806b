//! A scripted HTTP/1.1 server, with or without TLS: every byte of an answer is the test's own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kpf::cluster::{Cluster, Options};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{NamedGroup, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// What the server read.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub(super) line: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    pub(super) tls: Option<Tls>,
}

/// What the server knows of the request's TLS connection.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) group: Option<NamedGroup>,
    pub(super) alpn: Option<Vec<u8>>,
    pub(super) server_name: Option<String>,
    pub(super) client_certificate: Option<Vec<u8>>,
    pub(super) resumed: bool,
}

impl Request {
    /// All values of the header `name`, one for each line.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let lines = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        lines.map(|(_, value)| value.as_str()).collect()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or_default()
    }

    /// A correct 101 to this WebSocket request.
    pub(super) fn websocket(&self, protocol: &str) -> String {
        let key = format!(
            "{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11",
            self.header("sec-websocket-key")
        );
        let accept = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes()));
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
        )
    }
}

/// What the server does with a request.
pub(super) enum Answer {
    /// Sends this; the connection serves on.
    Send(Vec<u8>),
    /// Sends this and echoes what comes.
    Echo(Vec<u8>),
    /// Sends this and closes.
    Close(Vec<u8>),
    /// Sends this, and no more.
    Hang(Vec<u8>),
    /// Connects to this address and copies both ways, after `200`.
    Relay(SocketAddr),
}

pub(super) fn answer(status: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    Answer::Send(
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
            .into_bytes(),
    )
}

/// A Kubernetes Status.
pub(super) fn status(code: u16, reason: &str, message: &str) -> Answer {
    let body = serde_json::json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code });
    answer(
        &format!("{code} X"),
        "Content-Type: application/json\r\n",
        &body.to_string(),
    )
}

pub(super) const SPDY: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n";

pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(
        respond: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start_tls(None, respond).await
    }

    pub(super) async fn start_tls(
        tls: Option<ServerConfig>,
        respond: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, connections) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(AtomicUsize::new(0)),
        );
        let shared = (seen.clone(), connections.clone(), Arc::new(respond));
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let task = tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let ((seen, connections, respond), acceptor) = (shared.clone(), acceptor.clone());
                connections.fetch_add(1, Ordering::SeqCst);
                tasks.spawn(async move {
                    let Some(acceptor) = acceptor else {
                        return serve(tcp, None, &seen, &*respond).await;
                    };
                    let Ok(io) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let connection = io.get_ref().1;
                    let tls = Tls {
                        group: connection
                            .negotiated_key_exchange_group()
                            .map(|group| group.name()),
                        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
                        server_name: connection.server_name().map(str::to_owned),
                        client_certificate: connection
                            .peer_certificates()
                            .map(|chain| chain[0].to_vec()),
                        resumed: connection.handshake_kind()
                            == Some(rustls::HandshakeKind::Resumed),
                    };
                    serve(io, Some(tls), &seen, &*respond).await;
                });
            }
        });
        Self {
            address,
            seen,
            connections,
            task,
        }
    }

    /// The requests so far.
    pub(super) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// A cluster at this server under `path`, without anything else.
    pub(super) fn cluster(&self, path: &str) -> Cluster {
        let server = Some(format!("http://{}{path}", self.address));
        Cluster::load(&Options {
            server,
            ..Options::default()
        })
        .unwrap()
    }

    /// Waits until `count` requests were read.
    pub(super) async fn requests(&self, count: usize) {
        within(async {
            while self.seen.lock().unwrap().len() < count {
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    tls: Option<Tls>,
    seen: &Mutex<Vec<Request>>,
    respond: &(dyn Fn(&Request) -> Answer + Send + Sync),
) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match io.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let line = lines.next().unwrap().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut request = Request {
            line,
            headers: headers.collect(),
            body: String::new(),
            tls: tls.clone(),
        };
        let mut body = vec![0; request.header("content-length").parse().unwrap_or(0)];
        if io.read_exact(&mut body).await.is_err() {
            return;
        }
        request.body = String::from_utf8(body).unwrap();
        let answer = respond(&request);
        seen.lock().unwrap().push(request);
        match answer {
            Answer::Send(bytes) => {
                if io.write_all(&bytes).await.is_err() || io.flush().await.is_err() {
                    return;
                }
            }
            Answer::Close(bytes) => {
                let _ = io.write_all(&bytes).await;
                let _ = io.shutdown().await;
                return;
            }
            Answer::Hang(bytes) => {
                let _ = io.write_all(&bytes).await;
                let _ = io.flush().await;
                return std::future::pending().await;
            }
            Answer::Echo(bytes) => {
                let _ = io.write_all(&bytes).await;
                let _ = io.flush().await;
                let (mut reader, mut writer) = tokio::io::split(io);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
                return;
            }
            Answer::Relay(address) => {
                let mut onward = TcpStream::connect(address).await.unwrap();
                let _ = io
                    .write_all(b"HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n")
                    .await;
                let _ = tokio::io::copy_bidirectional(&mut io, &mut onward).await;
                return;
            }
        }
    }
}

/// The outcome of `future`, which a test doesn't wait for longer than it should.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("within a minute")
}

/// A certificate authority with what it has signed.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(super) fn issue(&self, name: &str) -> Identity {
        self.issue_until(name, 2100)
    }

    pub(super) fn issue_until(&self, name: &str, year: i32) -> Identity {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A server that has `identity` and asks for certificates of this authority.
    pub(super) fn server(&self, identity: &Identity) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap())
            .unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let verifier = verifier.allow_unauthenticated().build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let mut config = builder
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}
