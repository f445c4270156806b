//! One connection to the API server: name, proxy, TCP, TLS, each with its own kind of failure.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::http::Uri;
use hyper_util::client::legacy::connect::{
    Connected, Connection as HyperConnection, HttpConnector,
};
use hyper_util::rt::TokioIo;
use kube::config::Cluster;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::{Service, ServiceExt as _};

use super::read_ahead::ReadAhead;
use super::tunnel;
use crate::cluster::proxy::{self, Proxy, Scheme};
use crate::cluster::{Environment, Error, tls};
use crate::untrusted::printable;

/// Why there is no connection to the API server. Shown in kubectl's words.
///
/// None of these is a reason to try another transport: the next try would end the same way.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unreachable {
    /// Nobody listens there.
    #[error(
        "The connection to the server {server} was refused - did you specify the right host or port?"
    )]
    Refused {
        /// `host:port`
        server: String,
    },
    /// The name means nothing here.
    #[error("Unable to connect to the server: lookup {host}: {reason}")]
    Dns {
        /// The name that was looked up.
        host: String,
        /// The resolver's words.
        reason: String,
    },
    /// The network didn't carry it.
    #[error("Unable to connect to the server: dial tcp {server}: {reason}")]
    Tcp {
        /// `host:port`
        server: String,
        /// The operating system's words.
        reason: String,
    },
    /// No connection, TLS included, in time.
    #[error("Unable to connect to the server: dial tcp {server}: i/o timeout (no connection after {} s)", after.as_secs())]
    Timeout {
        /// `host:port`
        server: String,
        /// How long it was tried.
        after: Duration,
    },
    /// No agreement on TLS, or a certificate that isn't trusted.
    #[error("Unable to connect to the server: {reason}")]
    Tls {
        /// Go's words and a hint.
        reason: String,
    },
    /// The proxy cannot be reached or refuses.
    #[error("Unable to connect to the server: proxy {proxy}: {reason}")]
    Proxy {
        /// The proxy's URL without credentials.
        proxy: String,
        /// Its HTTP status, where it has answered with one.
        status: Option<u16>,
        /// Its words.
        reason: String,
    },
    /// There was a connection, and it ended before an answer.
    #[error("Unable to connect to the server: {reason}")]
    Lost {
        /// What ended it.
        reason: String,
    },
}

/// Opens connections for the HTTP client. Clones share everything.
#[derive(Clone)]
pub(in crate::cluster) struct Connector {
    /// To the server, as nobody until an identity is put into it.
    pub(super) tls: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    proxy: Option<Arc<Proxy>>,
    /// TLS to the proxy itself, where its scheme is https.
    proxy_tls: Option<Arc<ClientConfig>>,
    tcp: HttpConnector,
}

impl Connector {
    /// Connections to `server` as `cluster` describes it: its CA, its server name, its proxy or the environment's.
    pub(in crate::cluster) fn new(
        server: &Uri,
        cluster: &Cluster,
        environment: &Environment,
    ) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_keepalive_interval(Some(KEEPALIVE));
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT)); // shared out over the addresses of a name
        let proxy = proxy::choose(server, cluster.proxy_url.as_deref(), environment)?;
        let proxy_tls = match &proxy {
            Some(proxy) if proxy.scheme == Scheme::Https => {
                Some(Arc::new(tls::proxy_config(cluster)?))
            }
            _ => None,
        };
        Ok(Self {
            tls: Arc::new(tls::client_config(server, cluster)?),
            server_name: tls::server_name(cluster)?,
            proxy: proxy.map(Arc::new),
            proxy_tls,
            tcp,
        })
    }

    pub(in crate::cluster) async fn connect(self, server: Uri) -> Result<Connection, Unreachable> {
        let host = proxy::bare(server.host().unwrap_or_default()).to_owned();
        let port = proxy::port(&server);
        let wire = match &self.proxy {
            None => Wire::Tcp(self.dial(&host, port).await?),
            Some(proxy) => self.dial_through(proxy, &host, port).await?,
        };
        if server.scheme_str() != Some("https") {
            return Ok(match wire {
                Wire::Tcp(tcp) => Connection { io: Io::Tcp(tcp) },
                Wire::Tls(tls) => Connection { io: Io::Tls(tls) },
            });
        }
        let name = match self.server_name {
            Some(name) => name,
            None => ServerName::try_from(host).map_err(|error| Unreachable::Tls {
                reason: format!("tls: {error}"),
            })?,
        };
        let failed = |error: io::Error| Unreachable::Tls {
            reason: tls::explain(&error),
        };
        let connector = TlsConnector::from(self.tls);
        let io = match wire {
            Wire::Tcp(tcp) => Io::Tls(Box::new(
                connector
                    .connect(name, ReadAhead::new(tcp))
                    .await
                    .map_err(failed)?,
            )),
            Wire::Tls(tls) => Io::Nested(Box::new(
                connector.connect(name, *tls).await.map_err(failed)?,
            )),
        };
        Ok(Connection { io })
    }

    /// The proxy's URL without credentials, if connections go through one.
    pub(in crate::cluster) fn proxy(&self) -> Option<String> {
        self.proxy.as_ref().map(ToString::to_string)
    }

    /// Who is dialled first: the proxy, else the server.
    pub(in crate::cluster) fn first_hop(&self, server: &Uri) -> (String, u16) {
        match &self.proxy {
            Some(proxy) => (proxy.host.clone(), proxy.port),
            None => {
                let host = proxy::bare(server.host().unwrap_or_default());
                (host.to_owned(), proxy::port(server))
            }
        }
    }

    pub(in crate::cluster) async fn dial(
        &self,
        host: &str,
        port: u16,
    ) -> Result<TcpStream, Unreachable> {
        let server = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let uri = Uri::builder()
            .scheme("http")
            .authority(server.as_str())
            .path_and_query("/")
            .build();
        let uri = uri.map_err(|error| Unreachable::Tcp {
            server: printable(&server, 300),
            reason: error.to_string(),
        })?;
        match self.tcp.clone().oneshot(uri).await {
            Ok(stream) => Ok(stream.into_inner()),
            Err(error) => {
                let cause = io_cause(&error);
                let reason = cause.map_or_else(|| error.to_string(), ToString::to_string);
                let reason = printable(&reason, 200);
                Err(match cause.map(io::Error::kind) {
                    // hyper-util tells its stages apart by this text only
                    _ if error.to_string().starts_with("dns error") => Unreachable::Dns {
                        host: host.to_owned(),
                        reason,
                    },
                    Some(io::ErrorKind::ConnectionRefused) => Unreachable::Refused { server },
                    Some(io::ErrorKind::TimedOut) => Unreachable::Timeout {
                        server,
                        after: CONNECT_TIMEOUT,
                    },
                    _ => Unreachable::Tcp { server, reason },
                })
            }
        }
    }

    async fn dial_through(
        &self,
        proxy: &Proxy,
        host: &str,
        port: u16,
    ) -> Result<Wire, Unreachable> {
        let failed = |status, reason| Unreachable::Proxy {
            proxy: proxy.to_string(),
            status,
            reason,
        };
        let tcp = self
            .dial(&proxy.host, proxy.port)
            .await
            .map_err(|error| match error {
                Unreachable::Refused { .. } => failed(None, "connection refused".to_owned()),
                Unreachable::Dns { reason, .. } | Unreachable::Tcp { reason, .. } => {
                    failed(None, reason)
                }
                other => failed(None, other.to_string()),
            })?;
        let mut wire = match &self.proxy_tls {
            None => Wire::Tcp(tcp),
            Some(config) => {
                let name = ServerName::try_from(proxy.host.clone())
                    .map_err(|error| failed(None, error.to_string()))?;
                let connecting = TlsConnector::from(config.clone())
                    .connect(name, ReadAhead::new(tcp))
                    .await;
                Wire::Tls(Box::new(
                    connecting.map_err(|error| failed(None, tls::explain(&error)))?,
                ))
            }
        };
        let credentials = proxy.credentials.as_ref();
        let asked = match (&mut wire, proxy.scheme) {
            (Wire::Tcp(tcp), Scheme::Socks5) => tunnel::socks5(tcp, host, port, credentials).await,
            (Wire::Tcp(tcp), _) => tunnel::connect(tcp, host, port, credentials).await,
            (Wire::Tls(tls), _) => tunnel::connect(tls, host, port, credentials).await,
        };
        asked.map_err(|refusal| failed(refusal.status, refusal.reason))?;
        Ok(wire)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = Unreachable;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let address = format!(
            "{}:{}",
            server.host().unwrap_or_default(),
            proxy::port(&server)
        );
        let connecting = timeout(CONNECT_TIMEOUT, self.clone().connect(server));
        Box::pin(async move {
            match connecting.await {
                Ok(connection) => connection.map(TokioIo::new),
                Err(_) => Err(Unreachable::Timeout {
                    server: address,
                    after: CONNECT_TIMEOUT,
                }),
            }
        })
    }
}

fn io_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Go's net.Dialer in client-go probes an idle connection as often.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// For everything up to the end of the TLS handshake, as in client-go.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// What leads to the server before the server's own TLS.
enum Wire {
    Tcp(TcpStream),
    Tls(Box<TlsStream<ReadAhead<TcpStream>>>),
}

/// A connection to the API server as a pair of byte streams, whatever leads there.
///
/// Vectored writes reach the socket or the TLS layer as they are.
pub struct Connection {
    io: Io,
}

/// What a TLS handshake has agreed on.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    /// As in `TLSv1_3`.
    pub version: String,
    /// As in `TLS13_AES_256_GCM_SHA384`.
    pub cipher_suite: String,
    /// As in `X25519MLKEM768`; none where the version has none.
    pub key_exchange: Option<String>,
    /// Certificates that the server has sent.
    pub certificates: usize,
}

impl Connection {
    /// What its TLS to the server has agreed on; none without TLS.
    pub fn tls(&self) -> Option<TlsFacts> {
        let agreed = match &self.io {
            Io::Tcp(_) => return None,
            Io::Tls(tls) => tls.get_ref().1,
            Io::Nested(tls) => tls.get_ref().1,
        };
        let suite = agreed.negotiated_cipher_suite()?.suite();
        let group = agreed.negotiated_key_exchange_group();
        Some(TlsFacts {
            version: format!("{:?}", agreed.protocol_version()?),
            cipher_suite: format!("{suite:?}"),
            key_exchange: group.map(|group| format!("{:?}", group.name())),
            certificates: agreed.peer_certificates().map_or(0, <[_]>::len),
        })
    }
}

enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<ReadAhead<TcpStream>>>),
    /// TLS to the server inside TLS to an https proxy.
    Nested(Box<TlsStream<TlsStream<ReadAhead<TcpStream>>>>),
}

macro_rules! each_io {
    ($connection:expr, $io:ident => $call:expr) => {
        match &mut $connection.get_mut().io {
            Io::Tcp($io) => {
                let $io = Pin::new($io);
                $call
            }
            Io::Tls($io) => {
                let $io = Pin::new($io);
                $call
            }
            Io::Nested($io) => {
                let $io = Pin::new($io);
                $call
            }
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each_io!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each_io!(self, io => io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each_io!(self, io => io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Tcp(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
            Io::Nested(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_io!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_io!(self, io => io.poll_shutdown(cx))
    }
}

impl HyperConnection for Connection {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.io {
            Io::Tcp(_) => "Tcp",
            Io::Tls(_) => "Tls",
            Io::Nested(_) => "Nested",
        };
        f.debug_tuple("Connection").field(&kind).finish()
    }
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;

    /// `crates.md` §0 row 1.
    #[tokio::test]
    async fn nagle_is_off_and_keepalive_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server: Uri = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let connector =
            Connector::new(&server, &Cluster::default(), &Environment::default()).unwrap();
        let connection = connector.oneshot(server).await.unwrap().into_inner();
        assert!(connection.is_write_vectored());
        let Io::Tcp(tcp) = &connection.io else {
            panic!("{connection:?}")
        };
        assert!(tcp.nodelay().unwrap());
        let socket = SockRef::from(tcp);
        assert!(socket.keepalive().unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE);
        }
    }
}
