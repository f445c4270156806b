//! The listener and its connections, and what they share.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use hyper::Uri;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::CancellationToken;

use super::Options;
use super::access::Users;
use super::api;
use super::faults::{Answer, Behaviour, Interruption, Request, Rule};
use super::node::Node;
use super::request_line::{self, ShortLine};
use super::sshd::Sshd;
use super::tunnel::Tunnel;
use super::wire::{Line, LineControl, Wire, WireControl, lock};
use super::world::World;

/// Requests that are remembered; a playground may serve for days.
const LOG: usize = 10_000;

/// Everything that the connections share.
pub(crate) struct Server {
    pub(crate) options: Options,
    /// For the containers' files.
    pub(crate) folder: PathBuf,
    /// The minor version that the server claims and acts as.
    pub(crate) minor: u32,
    pub(crate) users: Users,
    pub(crate) world: Mutex<World>,
    pub(crate) node: Node,
    pub(crate) sshd: Option<Arc<Sshd>>,
    pub(crate) behaviour: Arc<Mutex<Behaviour>>,
    pub(crate) tunnels: Mutex<BTreeMap<u64, Tunnel>>,
    pub(crate) rules: Mutex<Vec<Rule>>,
    pub(crate) log: Mutex<VecDeque<Request>>,
    pub(crate) connections: Mutex<BTreeMap<u64, WireControl>>,
    pub(crate) accepted: AtomicU64,
    pub(crate) tunnels_opened: AtomicU64,
    /// Those that are open, by their URIs.
    pub(crate) watches: Mutex<BTreeMap<u64, Uri>>,
    pub(crate) watches_opened: AtomicU64,
    pub(crate) interruptions: broadcast::Sender<Interruption>,
    pub(crate) tls: Arc<ServerConfig>,
}

/// One connection to the API server.
pub(crate) struct Visitor {
    pub(crate) number: u64,
    pub(crate) alpn: Vec<String>,
    pub(crate) server_name: Option<String>,
    pub(crate) resumed: bool,
    pub(crate) certificate: Option<CertificateDer<'static>>,
    pub(crate) wire: WireControl,
    pub(crate) line: LineControl,
}

impl Server {
    /// Accepts connections until `stop`.
    pub(crate) async fn listen(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            // out of file descriptors, or the client went away before we looked
            let Ok((tcp, _)) = accepted else {
                tokio::task::yield_now().await;
                continue;
            };
            let server = self.clone();
            tokio::spawn(async move {
                let number = server.accepted.fetch_add(1, Ordering::Relaxed) + 1;
                let wire = WireControl::default();
                lock(&server.connections).insert(number, wire.clone());
                // a client that breaks off is no news here
                let _ = server.clone().welcome(tcp, number, wire).await;
                lock(&server.connections).remove(&number);
            });
        }
    }

    async fn welcome(
        self: Arc<Self>,
        tcp: TcpStream,
        number: u64,
        wire: WireControl,
    ) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let tcp = Wire::new(tcp, wire.clone());
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await?;
        let (alpn, server_name) = {
            let hello = hello.client_hello();
            let alpn = hello.alpn().into_iter().flatten();
            let alpn = alpn.map(|name| String::from_utf8_lossy(name).into_owned());
            (alpn.collect(), hello.server_name().map(str::to_owned))
        };
        let tls = hello.into_stream(self.tls.clone()).await?;
        let certificates = tls.get_ref().1.peer_certificates();
        let certificate = certificates.and_then(|chain| chain.first());
        let line = LineControl::default();
        let visitor = Arc::new(Visitor {
            number,
            alpn,
            server_name,
            resumed: tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed),
            certificate: certificate.map(|certificate| certificate.clone().into_owned()),
            wire,
            line: line.clone(),
        });
        let service = service_fn(move |request| {
            let response = api::respond(self.clone(), visitor.clone(), request);
            async { Ok::<_, Infallible>(response.await) }
        });
        let io = ShortLine::new(Line::new(tls, line));
        http1::Builder::new()
            .title_case_headers(true)
            .max_buf_size(request_line::MAX_HEAD)
            .serve_connection(TokioIo::new(io), service)
            .with_upgrades()
            .await
            .map_err(io::Error::other)
    }

    /// The first rule that wants this request.
    pub(crate) fn fault_for(&self, request: &Request) -> Option<Answer> {
        let mut rules = lock(&self.rules);
        let found = rules.iter().position(|rule| (rule.matches)(request))?;
        rules[found].times -= 1;
        match rules[found].times {
            0 => Some(rules.remove(found).answer),
            _ => Some(rules[found].answer.clone()),
        }
    }

    pub(crate) fn record(&self, request: Request) {
        let mut log = lock(&self.log);
        if log.len() == LOG {
            log.pop_front();
        }
        log.push_back(request);
    }

    /// What every command in a container has in its environment.
    pub(crate) fn mark(&self) -> String {
        format!("KPF_PLAYGROUND={}/pods", self.folder.display())
    }

    /// Lists a watch, until whoever asked takes it off.
    pub(crate) fn next_watch(&self, uri: &Uri) -> u64 {
        let number = self.watches_opened.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.watches).insert(number, uri.clone());
        number
    }

    pub(crate) fn next_tunnel(&self) -> u64 {
        self.tunnels_opened.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Binds the address; a port that was just given up can be had again.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // kubectl opens 500 connections at once in some tests
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
