//! The local ends of forwards: ports and unix sockets, listened on in one way.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, tcp as tcp_halves};
#[cfg(unix)]
use tokio::net::{UnixStream, unix as unix_halves};

use crate::cluster::target::PodPort;
use crate::cluster::target::ports::{Address, LocalPort, PortSpec, RemotePort};

mod tcp;
#[cfg(unix)]
mod unix;

/// Connections that may wait to be accepted. A browser or a load test opens hundreds at once; the kernel lowers it
/// to its own limit.
const BACKLOG: i32 = 4096;

/// Listens where `spec` says, and where it doesn't at `addresses`; `port` is what its remote side turned out to be.
/// `lenient` lets `localhost` do with one of its two addresses whatever the other one's trouble is, as kubectl does.
///
/// Must be called in a tokio runtime.
pub(super) fn listen(
    spec: &PortSpec,
    port: &PodPort,
    addresses: &[Address],
    lenient: bool,
) -> Result<Vec<Listener>, ListenError> {
    if let LocalPort::Socket(path) = &spec.local {
        #[cfg(unix)]
        return match unix::Socket::bind(path) {
            Ok(socket) => Ok(vec![Listener::Unix(socket)]),
            Err(reason) => Err(ListenError::socket(path, reason)),
        };
        #[cfg(not(unix))]
        return Err(ListenError::socket(path, "this system has none".to_owned()));
    }
    let own = spec.address.map(|address| [address]);
    let addresses = own.as_ref().map_or(addresses, |own| own);
    let listeners = tcp::listen(addresses, wanted(spec, port), lenient)?;
    let listener = |(address, listener)| Listener::Tcp { address, listener };
    Ok(listeners.into_iter().map(listener).collect())
}

/// The local port that was asked for; none for any, and for a socket.
pub(super) fn wanted(spec: &PortSpec, port: &PodPort) -> Option<NonZeroU16> {
    match spec.local {
        LocalPort::Same => port.local,
        LocalPort::Number(number) => Some(number),
        LocalPort::Random | LocalPort::Socket(_) => None,
    }
}

/// Why a port or a socket isn't listened on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    #[error("unable to listen on {address}: {source}")]
    Port {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("unable to listen on unix:{}: {reason}", path.display())]
    Socket { path: PathBuf, reason: String },
}

impl ListenError {
    fn socket(path: &std::path::Path, reason: String) -> Self {
        Self::Socket {
            path: path.to_owned(),
            reason,
        }
    }

    fn is_taken(&self) -> bool {
        matches!(self, Self::Port { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }

    /// The machine lacks the address' family, or the address.
    fn is_absent(&self) -> bool {
        let Self::Port { source, .. } = self else {
            return false;
        };
        // EAFNOSUPPORT has no kind in std.
        source.kind() == io::ErrorKind::AddrNotAvailable
            || source.kind() == io::ErrorKind::Unsupported
            || source.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
    }

    /// What to do about it.
    pub(super) fn advice(&self, remote: &RemotePort) -> String {
        match self {
            Self::Socket { .. } => {
                "choose another path, or go on without it by --allow-partial".to_owned()
            }
            Self::Port { .. } if self.is_absent() => {
                "choose an address of this machine, such as localhost, with --address".to_owned()
            }
            Self::Port { .. } => format!(
                "choose another local port, `:{remote}` for any free one, or go on without it by --allow-partial"
            ),
        }
    }
}

/// Something local that is listened on. A socket's file is removed when this is dropped.
pub(super) enum Listener {
    Tcp {
        address: SocketAddr,
        listener: TcpListener,
    },
    #[cfg(unix)]
    Unix(unix::Socket),
}

impl Listener {
    /// The next connection. However it ends, kpf's own end included, its peer sees a reset, for a clean end would pass for
    /// an answer; unless it has [ended well](Connection::end_well). Cancel-safe.
    ///
    /// A unix socket can't be asked for a reset. Linux does it where the peer has sent something that nobody has read;
    /// else the peer sees an end.
    pub(super) async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                // What is small is often what is waited for.
                let _ = stream.set_nodelay(true);
                let _ = stream.set_zero_linger();
                Ok(Connection::Tcp(stream))
            }
            #[cfg(unix)]
            Self::Unix(socket) => socket.accept().await.map(Connection::Unix),
        }
    }

    /// Where it is, as in `127.0.0.1:8080`, `[::1]:8080` and `unix:/run/x.sock`.
    pub(super) fn place(&self) -> String {
        match self {
            // without the scope that an IPv6 address may print
            Self::Tcp { address, .. } => SocketAddr::new(address.ip(), address.port()).to_string(),
            #[cfg(unix)]
            Self::Unix(_) => self.name(),
        }
    }

    /// Its port; none of a unix socket.
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp { address, .. } => Some(address.port()),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }

    /// Where a program on this machine reaches it: an address, or a socket's path.
    pub(super) fn reached_at(&self) -> String {
        match self {
            Self::Tcp { address, .. } => {
                let host = match address.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                    ip => ip,
                };
                SocketAddr::new(host, address.port()).to_string()
            }
            #[cfg(unix)]
            Self::Unix(socket) => socket.path().display().to_string(),
        }
    }

    /// What its connections are called, as in `8080` and `unix:/run/x.sock`.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Tcp { address, .. } => address.port().to_string(),
            #[cfg(unix)]
            Self::Unix(socket) => format!("unix:{}", socket.path().display()),
        }
    }
}

/// A local connection.
pub(super) enum Connection {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Connection {
    /// Halves that borrow: owned ones would send an end of their own when they are dropped, before that reset.
    pub(super) fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        match self {
            Self::Tcp(stream) => {
                let (reader, writer) = stream.split();
                (Reader::Tcp(reader), Writer::Tcp(writer))
            }
            #[cfg(unix)]
            Self::Unix(stream) => {
                let (reader, writer) = stream.split();
                (Reader::Unix(reader), Writer::Unix(writer))
            }
        }
    }

    /// All has arrived: the peer is to see an end.
    pub(super) fn end_well(self) {
        match self {
            Self::Tcp(stream) => drop(SockRef::from(&stream).set_linger(None)),
            #[cfg(unix)]
            Self::Unix(_) => {}
        }
    }
}

/// The reading half of a [`Connection`].
pub(super) enum Reader<'a> {
    Tcp(tcp_halves::ReadHalf<'a>),
    #[cfg(unix)]
    Unix(unix_halves::ReadHalf<'a>),
}

/// The writing half of a [`Connection`].
pub(super) enum Writer<'a> {
    Tcp(tcp_halves::WriteHalf<'a>),
    #[cfg(unix)]
    Unix(unix_halves::WriteHalf<'a>),
}

impl AsyncRead for Reader<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buffer),
            #[cfg(unix)]
            Self::Unix(half) => Pin::new(half).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Writer<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write(cx, bytes),
            #[cfg(unix)]
            Self::Unix(half) => Pin::new(half).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_write_vectored(cx, slices),
            #[cfg(unix)]
            Self::Unix(half) => Pin::new(half).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_flush(cx),
            #[cfg(unix)]
            Self::Unix(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            #[cfg(unix)]
            Self::Unix(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// What the peer reads after it has sent `bytes` that nobody has read.
    async fn after_reset(bytes: &[u8]) -> io::Result<usize> {
        let (mut peer, ours) = UnixStream::pair().unwrap();
        peer.write_all(bytes).await.unwrap();
        let mut connection = Connection::Unix(ours);
        connection.split().1.write_all(b"x").await.unwrap();
        drop(connection);
        assert_eq!(
            peer.read(&mut [0; 9]).await.unwrap(),
            1,
            "what was sent arrives"
        );
        peer.read(&mut [0; 9]).await
    }

    #[tokio::test]
    async fn a_unix_connection_is_reset_as_far_as_it_can_be() {
        assert_eq!(after_reset(b"").await.unwrap(), 0);
        if cfg!(target_os = "linux") {
            let error = after_reset(b"unread").await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn a_tcp_connection_is_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut peer = TcpStream::connect(address).await.unwrap();
        let listener = Listener::Tcp { address, listener };
        assert_eq!(listener.place(), address.to_string());
        assert_eq!(listener.name(), address.port().to_string());
        drop(listener.accept().await.unwrap());
        let error = peer.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut peer = TcpStream::connect(address).await.unwrap();
        listener.accept().await.unwrap().end_well();
        assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
    }
}
