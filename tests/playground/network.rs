//! The network between clients and the API server, for when it goes wrong: a TCP relay.
//!
//! A relay can't lose packets, but to both ends it looks the same when it stops carrying: what they send stays on
//! the way (their kernels take it), nobody says FIN or RST, and once the network is back the bytes arrive, as if
//! they had been sent again.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::server;
use super::wire::lock;

/// Carried at once.
const CHUNK: usize = 16 * 1024;
/// Chunks on their way in each direction: a megabyte, enough for 100 MB/s over 10 ms.
const ON_THE_WAY: usize = 64;

/// A handle to the network.
#[derive(Clone)]
pub(crate) struct Network {
    address: SocketAddr,
    link: Arc<Link>,
}

struct Link {
    frozen: watch::Sender<bool>,
    speed: Mutex<Speed>,
    /// Ends all connections of now.
    cut: Mutex<CancellationToken>,
    /// Leaves all connections of now without a way.
    forgotten: Mutex<CancellationToken>,
}

/// How fast the network is.
#[derive(Clone, Copy, Default)]
struct Speed {
    /// One way.
    delay: Duration,
    /// Bytes per second of a connection's direction; as many as possible without.
    rate: Option<u64>,
}

impl Network {
    /// A network of one address that leads to the server.
    pub(crate) fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = server::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = TcpListener::from_std(listener)?;
        let network = Self {
            address: listener.local_addr()?,
            link: Arc::new(Link {
                frozen: watch::Sender::new(false),
                speed: Mutex::default(),
                cut: Mutex::default(),
                forgotten: Mutex::default(),
            }),
        };
        tokio::spawn(network.link.clone().listen(listener, server));
        Ok(network)
    }

    /// Where clients reach the server.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Carries nothing until [`thaw`](Self::thaw). New connections seem to be made, for the kernel makes them, and
    /// get no answer.
    pub(crate) fn freeze(&self) {
        self.link.frozen.send_replace(true);
    }

    /// Carries everything again, also what was sent meanwhile.
    pub(crate) fn thaw(&self) {
        self.link.frozen.send_replace(false);
    }

    /// Forgets the connections of now, as a router does that restarts: nothing of them ever arrives again, and nobody
    /// is told. New ones work.
    pub(crate) fn forget(&self) {
        std::mem::take(&mut *lock(&self.link.forgotten)).cancel();
    }

    /// Resets the connections of now.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *lock(&self.link.cut)).cancel();
    }

    /// Makes the network slow: a delay one way, and bytes per second of each connection's direction.
    pub(crate) fn slow(&self, delay: Duration, rate: Option<u64>) {
        *lock(&self.link.speed) = Speed { delay, rate };
    }
}

impl Link {
    async fn listen(self: Arc<Self>, listener: TcpListener, server: SocketAddr) {
        loop {
            // out of file descriptors, or the client went away before we looked
            let Ok((client, _)) = listener.accept().await else {
                tokio::task::yield_now().await;
                continue;
            };
            let cut = lock(&self.cut).clone();
            let forgotten = lock(&self.forgotten).clone();
            let link = self.clone();
            tokio::spawn(async move {
                let way = Way { link, forgotten };
                // what goes wrong reaches both ends as a reset
                let _ = way.join(client, server, cut).await;
            });
        }
    }
}

/// A connection's view of the network.
struct Way {
    link: Arc<Link>,
    forgotten: CancellationToken,
}

impl Way {
    async fn join(
        &self,
        mut client: TcpStream,
        server: SocketAddr,
        cut: CancellationToken,
    ) -> io::Result<()> {
        client.set_nodelay(true)?;
        self.open().await;
        let mut server = TcpStream::connect(server).await?;
        server.set_nodelay(true)?;
        let carried = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let both = async {
                tokio::try_join!(
                    self.carry(from_client, to_server),
                    self.carry(from_server, to_client)
                )
            };
            tokio::select! {
                carried = both => carried.map(|_| ()),
                () = cut.cancelled() => Err(io::ErrorKind::ConnectionReset.into()),
            }
        };
        if carried.is_err() {
            for end in [&client, &server] {
                SockRef::from(end).set_linger(Some(Duration::ZERO))?;
            }
        }
        carried
    }

    /// Waits until there is a way.
    async fn open(&self) {
        let mut frozen = self.link.frozen.subscribe();
        // the sender lives as long as this
        let _ = frozen.wait_for(|frozen| !frozen).await;
        if self.forgotten.is_cancelled() {
            std::future::pending().await
        }
    }

    /// One direction, up to its end and with it.
    async fn carry(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let (chunks, mut on_the_way) = mpsc::channel::<(Instant, io::Result<Bytes>)>(ON_THE_WAY);
        let reading = async {
            let mut buffer = BytesMut::new();
            loop {
                buffer.reserve(CHUNK);
                let read = from.read_buf(&mut buffer).await;
                let over = !matches!(read, Ok(1..));
                let arrives = Instant::now() + lock(&self.link.speed).delay;
                let chunk = read.map(|_| buffer.split().freeze());
                if chunks.send((arrives, chunk)).await.is_err() || over {
                    return;
                }
            }
        };
        let writing = async {
            while let Some((arrives, chunk)) = on_the_way.recv().await {
                if arrives > Instant::now() {
                    sleep_until(arrives).await;
                }
                self.open().await;
                let chunk = chunk?;
                if chunk.is_empty() {
                    return to.shutdown().await;
                }
                let rate = lock(&self.link.speed).rate;
                if let Some(rate) = rate {
                    sleep(Duration::from_secs_f64(chunk.len() as f64 / rate as f64)).await;
                }
                to.write_all(&chunk).await?;
            }
            Ok(())
        };
        // whoever can't be written to need not be read from
        tokio::pin!(reading, writing);
        tokio::select! {
            written = &mut writing => written,
            () = &mut reading => writing.await,
        }
    }
}
