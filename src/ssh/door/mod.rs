//! Who may stay before anybody knows who it is: the gateway's own accept loop, since the SSH engine's ends at the first
//! error.
//!
//! ```no_run
//! use kpf::ssh::door::{Config, Door};
//!
//! # async fn example() -> std::io::Result<()> {
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:2222").await?;
//! let mut door = Door::new(vec![listener], Config::default());
//! loop {
//!     let admitted = door.accept().await;
//!     tokio::spawn(async move {
//!         // `admitted.stream` goes to the SSH engine. It fails 30 seconds after it came unless, by then:
//!         admitted.permit.authenticated("alice")
//!     });
//! }
//! # }
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`startups`] | how many may be without a login |
//! | [`penalties`] | sources that misbehave have to wait |
//! | [`source`] | what a source is |
//! | [`proxy`] | where a connection that a balancer brings comes from |
//! | [`guarded`] | a stream with a deadline and a kill switch |
//! | [`permit`] | the place that a connection takes |
//! | [`occupancy`] | connections of a user, channels of a connection |

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout_at};

pub mod guarded;
mod ident;
mod notices;
pub mod occupancy;
pub mod penalties;
pub mod permit;
pub mod proxy;
pub mod source;
pub mod startups;

pub use guarded::{Ended, Guarded, Switch};
pub use occupancy::Channels;
pub use permit::Permit;

use notices::Notices;
use occupancy::Occupancy;
use penalties::Penalties;
use permit::{Book, lock};
use startups::{Refusal, Startups};

/// How long a balancer may take to say where a connection comes from.
const PROXY_TIME: Duration = Duration::from_millis(500);
/// Connections at a time of which a balancer has yet to say that.
const PROXY_PENDING: usize = 512;
/// The first pause after `accept` found no descriptor or memory, then twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest pause: how late a login may be after a flood.
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// The door's limits.
#[derive(Clone, Debug)]
pub struct Config {
    /// From accept to login.
    pub grace: Duration,
    /// Connections without a login.
    pub startups: startups::Limits,
    /// What offences cost, and who is exempt.
    pub penalties: penalties::Table,
    /// Connections in all.
    pub max_connections: usize,
    /// Connections of one user.
    pub max_per_user: usize,
    /// Who has to send a PROXY header; from everybody else one is an error.
    pub proxies: Vec<IpNet>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
            startups: startups::Limits::default(),
            penalties: penalties::Table::default(),
            max_connections: 2000,
            max_per_user: 50,
            proxies: Vec::new(),
        }
    }
}

/// A limit that said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Limit {
    /// Connections without a login.
    Startups,
    /// Connections without a login of one source.
    PerSource,
    /// The source has to wait.
    Penalty,
    /// Connections in all.
    Total,
    /// Connections of one user.
    PerUser,
    /// Channels of a connection.
    Channels,
    /// Session channels of a connection.
    Sessions,
    /// The time for a login.
    Grace,
    /// A balancer's header was missing, late or wrong.
    Proxy,
    /// Descriptors or memory of the process.
    Resources,
}

impl Limit {
    /// All, in the order of their declaration.
    pub const ALL: [Self; 10] = [
        Self::Startups,
        Self::PerSource,
        Self::Penalty,
        Self::Total,
        Self::PerUser,
        Self::Channels,
        Self::Sessions,
        Self::Grace,
        Self::Proxy,
        Self::Resources,
    ];

    /// As events and metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Startups => "startups",
            Self::PerSource => "per_source",
            Self::Penalty => "penalty",
            Self::Total => "connections",
            Self::PerUser => "per_user",
            Self::Channels => "channels",
            Self::Sessions => "sessions",
            Self::Grace => "grace",
            Self::Proxy => "proxy",
            Self::Resources => "resources",
        }
    }

    /// What a client is told in place of an identification line, as OpenSSH does: clients show it.
    const fn line(self) -> &'static [u8] {
        match self {
            Self::Startups | Self::PerSource => b"Exceeded MaxStartups\r\n",
            Self::Total => b"Too many connections\r\n",
            _ => b"Not allowed at this time\r\n",
        }
    }
}

impl From<Refusal> for Limit {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Startups => Self::Startups,
            Refusal::PerSource => Self::PerSource,
        }
    }
}

/// A connection that may stay, for now.
#[derive(Debug)]
pub struct Admitted {
    /// What the SSH engine is to speak on.
    pub stream: Guarded<TcpStream>,
    /// Where it comes from, as the balancer says if there is one.
    pub source: SocketAddr,
    /// The balancer.
    pub proxy: Option<SocketAddr>,
    /// Its place.
    pub permit: Permit,
}

/// Told of refusals, on the task that accepts, so it must not block: of each limit once a second, with the last source and
/// how many there were since it was told before.
pub type OnRefusal = Arc<dyn Fn(Option<SocketAddr>, Limit, u64) + Send + Sync>;

/// The accept loop. Dropping it closes the sockets it listens on; connections that were admitted stay.
pub struct Door {
    listeners: Vec<TcpListener>,
    /// Whom `accept` asks first, so that none starves.
    next: usize,
    config: Config,
    watch: Watch,
    /// Connections of which a balancer has yet to say where they come from.
    pending: JoinSet<Result<(TcpStream, Origin), SocketAddr>>,
    /// The pause after the next error, and the end of the one that goes on.
    pause: Duration,
    paused_until: Option<tokio::time::Instant>,
    on_refusal: Option<OnRefusal>,
}

/// Where a connection comes from, and since when it is there.
#[derive(Clone, Copy, Debug)]
struct Origin {
    source: SocketAddr,
    proxy: Option<SocketAddr>,
    since: tokio::time::Instant,
}

/// The door's figures, to be read from elsewhere. Cheap to clone.
#[derive(Clone)]
pub struct Watch {
    book: Arc<Mutex<Book>>,
    refusals: Arc<[AtomicU64; Limit::ALL.len()]>,
    notices: Arc<Mutex<Notices>>,
}

impl Door {
    /// Accepts on these sockets.
    #[must_use]
    pub fn new(listeners: Vec<TcpListener>, config: Config) -> Self {
        let book = Book {
            startups: Startups::new(config.startups),
            penalties: Penalties::new(config.penalties.clone()),
            occupancy: Occupancy::new(config.max_connections, config.max_per_user),
        };
        Self {
            listeners,
            next: 0,
            config,
            watch: Watch {
                book: Arc::new(Mutex::new(book)),
                refusals: Arc::default(),
                notices: Arc::default(),
            },
            pending: JoinSet::new(),
            pause: FIRST_PAUSE,
            paused_until: None,
            on_refusal: None,
        }
    }

    /// Has refusals told.
    #[must_use]
    pub fn on_refusal(mut self, on_refusal: OnRefusal) -> Self {
        self.on_refusal = Some(on_refusal);
        self
    }

    /// The figures.
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Waits for the next connection that may stay. Turns others away, waits while there are no descriptors, and never
    /// for a client. Cancel-safe.
    pub async fn accept(&mut self) -> Admitted {
        loop {
            tokio::select! {
                accepted = poll_fn(|cx| poll_accept(&self.listeners, &mut self.next, cx)), if self.paused_until.is_none() => {
                    match accepted {
                        Ok((stream, peer)) => {
                            if let Some(admitted) = self.accepted(stream, peer) {
                                return admitted;
                            }
                        }
                        Err(error) => self.accept_failed(&error),
                    }
                }
                // Descriptors come back when connections end, and those go on meanwhile.
                () = sleep_until(self.paused_until.unwrap_or_else(tokio::time::Instant::now)), if self.paused_until.is_some() => {
                    self.paused_until = None;
                }
                Some(told) = self.pending.join_next() => match told {
                    Ok(Ok((stream, origin))) => {
                        if let Some(admitted) = self.admit(stream, origin) {
                            return admitted;
                        }
                    }
                    Ok(Err(peer)) => self.refuse(None, Some(peer), Limit::Proxy),
                    Err(_) => {} // it can't panic, and is aborted only with the door
                },
            }
        }
    }

    fn accepted(&mut self, stream: TcpStream, peer: SocketAddr) -> Option<Admitted> {
        self.pause = FIRST_PAUSE;
        let origin = Origin {
            source: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            proxy: None,
            since: tokio::time::Instant::now(),
        };
        let trusted = |network: &IpNet| network.contains(&origin.source.ip());
        if !self.config.proxies.iter().any(trusted) {
            return self.admit(stream, origin);
        }
        if self.pending.len() >= PROXY_PENDING {
            self.refuse(Some(&stream), Some(peer), Limit::Proxy);
            return None;
        }
        self.pending.spawn(async move {
            let told = timeout_at(origin.since + PROXY_TIME, read_proxy(stream, origin)).await;
            told.ok().and_then(Result::ok).ok_or(origin.source)
        });
        None
    }

    fn admit(&self, stream: TcpStream, origin: Origin) -> Option<Admitted> {
        match self.enter(&origin) {
            Ok(()) => {}
            Err(limit) => {
                self.refuse(Some(&stream), Some(origin.source), limit);
                return None;
            }
        }
        let _ = stream.set_nodelay(true); // keystrokes; without it only slower
        let switch = Switch::new();
        let deadline = origin.since + self.config.grace;
        let grace = tokio::spawn({
            let switch = switch.clone();
            let refusals = self.refusals();
            async move {
                if switch.expire(deadline).await {
                    refusals.tell(Some(origin.source), Limit::Grace);
                }
            }
        });
        let permit = Permit::new(
            self.watch.book.clone(),
            origin.source,
            switch.clone(),
            grace.abort_handle(),
        );
        Some(Admitted {
            stream: Guarded::with_permit(stream, switch, Some(permit.clone())),
            source: origin.source,
            proxy: origin.proxy,
            permit,
        })
    }

    /// Counts a connection in, if it may stay.
    fn enter(&self, origin: &Origin) -> Result<(), Limit> {
        let source = origin.source.ip();
        let mut book = lock(&self.watch.book);
        if book.penalties.owed(source, Instant::now()).is_some() {
            return Err(Limit::Penalty);
        }
        book.startups.begin(source.into(), chance())?;
        let entered = book.occupancy.enter();
        if entered.is_err() {
            book.startups.end(source.into());
        }
        entered
    }

    fn accept_failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
        if matches!(
            error.kind(),
            ConnectionAborted | ConnectionReset | Interrupted
        ) {
            return; // the client has gone
        }
        tracing::warn!("accept: {error}; waiting {} ms", self.pause.as_millis());
        self.refuse(None, None, Limit::Resources);
        self.paused_until = Some(tokio::time::Instant::now() + self.pause);
        self.pause = (2 * self.pause).min(LAST_PAUSE);
    }

    /// The stream is closed after this; what fits its empty send buffer is said first.
    fn refuse(&self, stream: Option<&TcpStream>, source: Option<SocketAddr>, limit: Limit) {
        if let Some(stream) = stream {
            let _ = stream.try_write(limit.line());
        }
        self.refusals().tell(source, limit);
    }

    fn refusals(&self) -> Refusals {
        Refusals {
            watch: self.watch.clone(),
            on_refusal: self.on_refusal.clone(),
        }
    }
}

/// Counts refusals and has them told.
struct Refusals {
    watch: Watch,
    on_refusal: Option<OnRefusal>,
}

impl Refusals {
    fn tell(&self, source: Option<SocketAddr>, limit: Limit) {
        self.watch.refusals[limit as usize].fetch_add(1, Ordering::Relaxed);
        let Some(on_refusal) = &self.on_refusal else {
            return;
        };
        let notices = self.watch.notices.lock();
        let mut notices = notices.unwrap_or_else(PoisonError::into_inner);
        let count = notices.hit(limit, Instant::now());
        drop(notices);
        if let Some(count) = count {
            on_refusal(source, limit, count);
        }
    }
}

impl Watch {
    /// Connections that have not logged in.
    #[must_use]
    pub fn unauthenticated(&self) -> usize {
        lock(&self.book).startups.count()
    }

    /// All connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        lock(&self.book).occupancy.total()
    }

    /// Sources that are turned away.
    #[must_use]
    pub fn penalised(&self) -> usize {
        lock(&self.book).penalties.active(Instant::now())
    }

    /// How often a limit has said no, at the door or at the login.
    #[must_use]
    pub fn refused(&self, limit: Limit) -> u64 {
        self.refusals[limit as usize].load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("listeners", &self.listeners)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

/// The first that has a connection, from the one after the last that had.
fn poll_accept(
    listeners: &[TcpListener],
    next: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    for step in 0..listeners.len() {
        let at = (*next + step) % listeners.len();
        if let Poll::Ready(accepted) = listeners[at].poll_accept(cx) {
            *next = at + 1;
            return Poll::Ready(accepted);
        }
    }
    Poll::Pending
}

/// Reads a balancer's header, and nothing after it.
async fn read_proxy(mut stream: TcpStream, origin: Origin) -> io::Result<(TcpStream, Origin)> {
    let mut header = Vec::new();
    let source = loop {
        match proxy::parse(&header) {
            Ok(proxy::Progress::Done(source)) => break source,
            Ok(proxy::Progress::More(more)) => {
                let length = (&mut stream)
                    .take(more as u64)
                    .read_buf(&mut header)
                    .await?;
                if length == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(error) => {
                tracing::debug!("{}: {error}", origin.source);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    };
    let told = source.map(|source| Origin {
        source: SocketAddr::new(source.ip().to_canonical(), source.port()),
        proxy: Some(origin.source),
        since: origin.since,
    });
    Ok((stream, told.unwrap_or(origin)))
}

/// A random number below 100; 0, which is dropped first, where there is no randomness.
fn chance() -> u32 {
    let mut random = [0; 4];
    aws_lc_rs::rand::fill(&mut random).map_or(0, |()| u32::from_le_bytes(random) % 100)
}

#[cfg(test)]
mod tests;
