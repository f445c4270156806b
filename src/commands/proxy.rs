//! `kpf proxy`: SOCKS5 and HTTP CONNECT into the cluster.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::listen::{Connection, Listener};
use super::reach::Reach;
use super::signal::Signals;
use crate::cli::ProxyArgs;
use crate::cluster::target::ports::RemotePort;
use crate::cluster::target::{Target, TargetError};
use crate::dial::{Exec, Via};
use crate::forward::{Balance, Forwarder, Options};
use crate::proxy::{Greeting, Place, Refusal, Step, Wish, place};
use crate::splice::{Broken, Ends, splice};
use crate::tunnel::pool::Limits;
use crate::ui::Ui;

/// For a client to say what it wants.
const GREETING: Duration = Duration::from_secs(10);
/// Ways that are kept at once. A page has tens of hosts; each way keeps a tunnel ready.
const MOST_WAYS: usize = 64;
/// How long accepting rests when the process is out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs until a signal.
pub(super) async fn run(args: &ProxyArgs, reach: Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let listen = args.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("unable to listen on {listen}; choose another address by --listen")
    })?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        ui.warning("whoever reaches this address reaches the cluster as you");
    }
    ui.document(format!("Proxying on {address}: SOCKS5 and HTTP CONNECT\n").as_bytes())?;
    let proxy = Proxy {
        wait: reach.wait,
        reach: Arc::new(Mutex::new(reach)),
        via: args.via.clone().map(Arc::new),
        ends: Ends {
            half_close_grace: args.half_close_grace,
            ..Ends::SOCKET
        },
        ways: Arc::default(),
        ui: ui.clone(),
    };
    let listener = Listener::Tcp { address, listener };
    let mut connections = JoinSet::new();
    let code = loop {
        tokio::select! {
            code = signals.wait() => break code,
            accepted = listener.accept() => match accepted {
                Ok(socket) => {
                    connections.spawn(proxy.clone().serve(socket));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    sleep(PAUSE).await;
                }
            },
            // A panic of one connection is that connection's.
            Some(ended) = connections.join_next() => if let Err(panic) = ended {
                tracing::error!(%panic, "a connection's task failed");
            },
        }
    };
    connections.shutdown().await;
    proxy.close().await;
    Ok(code)
}

/// What all connections share.
#[derive(Clone)]
struct Proxy {
    reach: Arc<Mutex<Reach>>,
    wait: Duration,
    via: Option<Arc<Target>>,
    ends: Ends,
    ways: Arc<Mutex<Ways>>,
    ui: Ui,
}

/// One for each place that was asked for; the least recent are forgotten.
#[derive(Default)]
struct Ways {
    all: HashMap<String, (u64, Arc<OnceCell<Forwarder>>)>,
    turn: u64,
}

impl Ways {
    /// The way of this name, made or to be made.
    fn get(&mut self, name: &str) -> Arc<OnceCell<Forwarder>> {
        self.turn += 1;
        let turn = self.turn;
        let way = self.all.entry(name.to_owned()).or_default();
        way.0 = turn;
        let found = way.1.clone();
        if self.all.len() > MOST_WAYS {
            // Connections that use it keep it for as long as they last.
            let oldest = self.all.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.all.remove(&oldest);
            }
        }
        found
    }
}

/// Why a client gets nothing, for it and for people.
struct Denied {
    refusal: Refusal,
    why: String,
}

impl Denied {
    fn new(refusal: Refusal, why: impl ToString) -> Self {
        Self {
            refusal,
            why: why.to_string(),
        }
    }
}

impl Proxy {
    /// One connection, to its end.
    async fn serve(self, mut socket: Connection) {
        let mut sent = Vec::new();
        let greeted = timeout(GREETING, greet(&mut socket, &mut sent)).await;
        let Ok(Some((greeting, wish, length))) = greeted else {
            return;
        };
        let opened = match self.way(&wish).await {
            Ok(way) => {
                let opened = way.open(0).await;
                opened.map_err(|error| Denied::new(Refusal::Failed, error))
            }
            Err(denied) => Err(denied),
        };
        let Wish { host, port } = &wish;
        let connection = match opened {
            Ok(connection) => connection,
            Err(Denied { refusal, why }) => {
                self.ui.error(format_args!("proxy to {host}:{port}: {why}"));
                let (_, mut writer) = socket.split();
                if writer.write_all(&greeting.refusal(refusal)).await.is_ok() {
                    socket.end_well();
                }
                return;
            }
        };
        let _counted = connection.guard;
        let (reader, mut writer) = socket.split();
        if writer.write_all(&greeting.success()).await.is_err() {
            return;
        }
        // What came with the greeting is for the pod.
        let reader = sent[length..].chain(reader);
        let ends = connection.stream.ends(self.ends);
        match splice(reader, writer, connection.stream, ends).await.end {
            Ok(()) => socket.end_well(),
            // Whoever hung up knows it.
            Err(error @ Broken::Near(_)) => tracing::debug!(%error, "connection broke off"),
            Err(Broken::Far(error)) => {
                self.ui
                    .error(format_args!("proxy to {host}:{port}: {error}"));
            }
        }
    }

    async fn way(&self, wish: &Wish) -> Result<Forwarder, Denied> {
        let Wish { host, port } = wish;
        let (target, remote) = match (place(host), &self.via) {
            (Place::Cluster(target), _) => (target, port.to_string()),
            (Place::Elsewhere, Some(via)) => {
                let host = match host.contains(':') {
                    true => format!("[{host}]"),
                    false => host.clone(),
                };
                ((**via).clone(), format!("{host}:{port}"))
            }
            (Place::Elsewhere, None) => {
                let why = "it is no name of the cluster: write SERVICE.NAMESPACE or POD.NAMESPACE.kpf, or give --via";
                return Err(Denied::new(Refusal::NotAllowed, why));
            }
        };
        let remote: RemotePort = remote
            .parse()
            .map_err(|error| Denied::new(Refusal::Malformed, error))?;
        let name = format!("{host} {port}");
        let way = self.lock().get(&name);
        let way = way.get_or_try_init(|| self.make(&target, remote)).await?;
        Ok(way.clone())
    }

    async fn make(&self, target: &Target, remote: RemotePort) -> Result<Forwarder, Denied> {
        let dialer = {
            let mut reach = self.reach.lock().unwrap_or_else(PoisonError::into_inner);
            reach.dialer(target)
        };
        let dialer = dialer.map_err(|error| Denied::new(Refusal::NoHost, error))?;
        let remotes = [remote];
        let resolved = dialer.cluster().resolve(target, &remotes, self.wait).await;
        let resolved = resolved.map_err(|error| {
            let refusal = match error {
                TargetError::NoSuchPort(_) => Refusal::Refused,
                TargetError::Request(_) | TargetError::NoAnswer { .. } => Refusal::Failed,
                _ => Refusal::NoHost,
            };
            Denied::new(refusal, error)
        })?;
        let options = Options {
            via: Via::Auto,
            exec: Exec::default(),
            limits: Limits::default(),
            balance: Balance::Sticky,
            hold: self.wait,
            reconnect: true,
            give_up_after: None,
        };
        let started = Forwarder::start(dialer, target, &remotes, &resolved, options).await;
        let (forwarder, mut events) =
            started.map_err(|error| Denied::new(Refusal::Failed, error))?;
        let (ui, target) = (self.ui.clone(), target.to_string());
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                ui.notice(format_args!("{target}: {event}"));
            }
        });
        Ok(forwarder)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ways> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn close(self) {
        let ways = std::mem::take(&mut self.lock().all);
        let closing = ways.into_values().filter_map(|(_, way)| way.get().cloned());
        futures_util::future::join_all(closing.map(Forwarder::close)).await;
    }
}

/// Finds out what a client wants, and how much of what it has sent so far says that; none if it doesn't get any further.
async fn greet(socket: &mut Connection, sent: &mut Vec<u8>) -> Option<(Greeting, Wish, usize)> {
    let mut greeting = Greeting::default();
    loop {
        let (mut reader, mut writer) = socket.split();
        match greeting.advance(sent) {
            Step::Read => {
                if reader.read_buf(sent).await.ok()? == 0 {
                    return None;
                }
            }
            Step::Reply(reply) => writer.write_all(&reply).await.ok()?,
            Step::Wish(wish, length) => return Some((greeting, wish, length)),
            Step::Refuse(reply) => {
                writer.write_all(&reply).await.ok()?;
                let _ = writer.shutdown().await;
                return None;
            }
        }
    }
}
