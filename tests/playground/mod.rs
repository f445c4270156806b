//! A Kubernetes in one process, for people who try kpf and for its tests.
//!
//! It has an API server (TLS, users, roles, objects), a node and a container runtime as far as port-forward and exec
//! need them, and faults on demand. It is used as an example (`cargo run --example playground`) and as a module
//! of the integration tests, which reach its faults by calls.
//!
//! | module | what it is |
//! |---|---|
//! | [`server`], [`wire`], [`tls`] | the listener, its connections, and how to harm them |
//! | [`api`], [`read`], [`watch`], [`answer`] | the API server: routes, reading and watching objects, the words of its answers |
//! | [`access`], [`world`], [`objects`] | users and roles; objects, and which there are at the start |
//! | [`endpoints`] | which pods stand behind a service |
//! | [`upgrade`], [`transport`], [`portforward`], [`legacy`] | port-forward in its three forms |
//! | [`exec`], [`channels`], [`remote_spdy`] | exec, up to the 101 and over both transports |
//! | [`runtime`], [`process`] | commands in containers: local processes and how they end |
//! | [`workers`] | how a node reads a connection: without flow control |
//! | [`tunnel`] | a handle to an upgraded connection |
//! | [`node`], [`ports`], [`sshd`] | pods, and what answers on their ports |
//! | [`pods`], [`workloads`] | what becomes of pods: ready, terminating, replaced, rolled out |
//! | [`faults`], [`network`] | what goes wrong on purpose, and what was seen |
//! | [`kubeconfig`], [`plugin`] | the file that opens it all, and the program that it runs |
#![allow(dead_code, reason = "the example and each test suite use a part of it")]

pub(crate) mod access;
pub(crate) mod answer;
pub(crate) mod api;
pub(crate) mod channels;
pub(crate) mod endpoints;
pub(crate) mod exec;
pub(crate) mod faults;
pub(crate) mod kubeconfig;
pub(crate) mod legacy;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod objects;
pub(crate) mod plugin;
pub(crate) mod pods;
pub(crate) mod portforward;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod read;
pub(crate) mod remote_spdy;
pub(crate) mod request_line;
pub(crate) mod review;
pub(crate) mod runtime;
pub(crate) mod server;
pub(crate) mod sshd;
pub(crate) mod tls;
pub(crate) mod transport;
pub(crate) mod tunnel;
pub(crate) mod upgrade;
pub(crate) mod watch;
pub(crate) mod wire;
pub(crate) mod workers;
pub(crate) mod workloads;
pub(crate) mod world;
pub(crate) mod write;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hyper::Uri;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use access::{Proof, Users};
use faults::{Answer, Behaviour, Interruption, Request, Rule};
use network::Network;
use node::Node;
use server::Server;
use sshd::Sshd;
use tls::{Authority, Identity};
use tunnel::Tunnel;
use wire::lock;
use world::World;

/// How a playground is made.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where the API server listens.
    pub(crate) listen: SocketAddr,
    /// `1.29`, `1.36`...: decides about tunnelling (from 1.31), the second RBAC check (from 1.35) and `/version`.
    pub(crate) server_version: String,
    /// See [`Behaviour::half_close`].
    pub(crate) half_close: bool,
    /// The user whose context is the current one.
    pub(crate) user: String,
    /// A path before `/api`, as behind Rancher: `/k8s/clusters/c-1`.
    pub(crate) path_prefix: String,
    /// The credential plugin's command for the user `plugin`; it finds the token in `KPF_PLAYGROUND_TOKEN`.
    /// Without one a small shell script is made.
    pub(crate) plugin: Vec<String>,
    /// The server's certificate expired yesterday.
    pub(crate) expired_certificate: bool,
    /// Puts a [`Network`] between clients and the server, which tests can freeze.
    pub(crate) network: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            server_version: "1.36".to_owned(),
            half_close: false,
            user: "admin".to_owned(),
            path_prefix: String::new(),
            plugin: Vec::new(),
            expired_certificate: false,
            network: false,
        }
    }
}

/// A running playground; it ends, with all its processes and files, when it is dropped.
///
/// It has threads of its own, so it goes on while a test blocks on a child process.
pub(crate) struct Playground {
    server: Arc<Server>,
    authority: Authority,
    address: SocketAddr,
    folder: TempDir,
    listening: Mutex<CancellationToken>,
    network: Option<Network>,
    runtime: Option<Runtime>,
}

/// How to log in to the pod `sshd`.
#[derive(Clone, Debug)]
pub(crate) struct Ssh {
    pub(crate) user: String,
    pub(crate) key: PathBuf,
    pub(crate) known_hosts: PathBuf,
}

impl Playground {
    /// Starts a playground; it is ready when this returns.
    pub(crate) fn start(mut options: Options) -> anyhow::Result<Self> {
        let minor = options
            .server_version
            .trim_start_matches('v')
            .strip_prefix("1.")
            .and_then(|rest| rest.split('.').next()?.parse().ok())
            .with_context(|| format!("`{}` is no version like 1.36", options.server_version))?;
        let folder = tempfile::Builder::new()
            .prefix("kpf-playground-")
            .tempdir()
            .context("making a temporary folder")?;
        let authority = Authority::new()?;
        let users = Users::new(&authority)?;
        anyhow::ensure!(
            users.named(&options.user).is_some(),
            "there is no user `{}`",
            options.user
        );
        if options.plugin.is_empty() {
            options.plugin = vec![plugin::script(folder.path())?];
        }
        let behaviour = Behaviour {
            half_close: options.half_close,
            ..Behaviour::default()
        };
        let listener = server::bind(options.listen)
            .with_context(|| format!("listening on {}", options.listen))?;
        let address = listener.local_addr()?;
        let mut world = World::new();
        objects::create(&mut world);
        let server = Arc::new(Server {
            minor,
            users,
            world: Mutex::new(world),
            node: Node::default(),
            sshd: Sshd::prepare(folder.path())?.map(Arc::new),
            behaviour: Arc::new(Mutex::new(behaviour)),
            tunnels: Mutex::default(),
            rules: Mutex::default(),
            log: Mutex::default(),
            connections: Mutex::default(),
            accepted: AtomicU64::new(0),
            tunnels_opened: AtomicU64::new(0),
            watches: Mutex::default(),
            watches_opened: AtomicU64::new(0),
            interruptions: broadcast::Sender::new(16),
            tls: Arc::new(authority.server(options.expired_certificate)?),
            folder: folder.path().to_owned(),
            options,
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("playground")
            .enable_all()
            .build()?;
        let network = {
            let _entered = runtime.enter();
            let wanted = server.options.network;
            wanted.then(|| Network::start(address)).transpose()?
        };
        let playground = Self {
            server,
            authority,
            address,
            folder,
            listening: Mutex::default(),
            network,
            runtime: Some(runtime),
        };
        playground.start_pods();
        playground.listen(listener)?;
        let kubeconfig = playground.render_kubeconfig(&playground.server.options.user);
        kubeconfig::write_private(&playground.kubeconfig(), &kubeconfig)?;
        Ok(playground)
    }

    /// A kubeconfig file with all users; see [`kubeconfig::context`] for the names of its contexts.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// The content of a kubeconfig whose current context is this user's.
    pub(crate) fn render_kubeconfig(&self, user: &str) -> String {
        let url = self.url();
        let place = kubeconfig::Place {
            url: &url,
            authority: &self.authority.pem(),
            plugin: &self.server.options.plugin,
            current: user,
        };
        kubeconfig::render(&self.server.users, &place)
    }

    /// A folder that lives as long as the playground, for a test's own files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What is between the clients of the kubeconfig and the server.
    ///
    /// # Panics
    /// If the options asked for none.
    pub(crate) fn network(&self) -> &Network {
        self.network.as_ref().expect("Options::network")
    }

    /// A network of its own to another server, such as a pod's port.
    pub(crate) fn network_to(&self, server: SocketAddr) -> Network {
        let _entered = self.runtime().enter();
        Network::start(server).expect("a port")
    }

    /// Where the API server listens, past any network.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's URL as the kubeconfig has it.
    pub(crate) fn url(&self) -> String {
        let address = self.network.as_ref().map_or(self.address, Network::address);
        format!("https://{address}{}", self.server.options.path_prefix)
    }

    /// The certificate authority's certificate, PEM.
    pub(crate) fn authority(&self) -> String {
        self.authority.pem()
    }

    /// A user's bearer token, also that of the credential plugin's user.
    pub(crate) fn token(&self, user: &str) -> Option<String> {
        match &self.server.users.named(user)?.proof {
            Proof::Nothing(token) => Some(token.clone()),
            _ => self.server.users.token(user),
        }
    }

    /// The password of the user `basic`.
    pub(crate) fn password(&self) -> Option<String> {
        match &self.server.users.named("basic")?.proof {
            Proof::Basic(password) => Some(password.clone()),
            _ => None,
        }
    }

    /// The client certificate of the user `cert`.
    pub(crate) fn identity(&self) -> Option<Identity> {
        match &self.server.users.named("cert")?.proof {
            Proof::Certificate(identity) => Some((**identity).clone()),
            _ => None,
        }
    }

    /// How to log in to the pod `sshd`; `None` if this machine has no OpenSSH server.
    pub(crate) fn ssh(&self) -> Option<Ssh> {
        let sshd = self.server.sshd.as_ref()?;
        Some(Ssh {
            user: sshd.user.clone(),
            key: sshd.client_key(),
            known_hosts: sshd.known_hosts(),
        })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it lives until drop")
    }

    fn listen(&self, listener: std::net::TcpListener) -> anyhow::Result<()> {
        let _entered = self.runtime().enter();
        let listener = TcpListener::from_std(listener)?;
        let stop = CancellationToken::new();
        *lock(&self.listening) = stop.clone();
        tokio::spawn(self.server.clone().listen(listener, stop));
        Ok(())
    }
}

/// Faults.
impl Playground {
    /// Answers the next request that matches in another way, once.
    pub(crate) fn answer_next(
        &self,
        matches: impl Fn(&Request) -> bool + Send + 'static,
        answer: Answer,
    ) {
        self.answer(matches, 1, answer);
    }

    /// Answers so many of the requests that match in another way; `usize::MAX` for all. Rules are tried in the order
    /// in which they were given.
    pub(crate) fn answer(
        &self,
        matches: impl Fn(&Request) -> bool + Send + 'static,
        times: usize,
        answer: Answer,
    ) {
        lock(&self.server.rules).push(Rule {
            matches: Box::new(matches),
            times,
            answer,
        });
    }

    /// Forgets all rules.
    pub(crate) fn answer_as_usual(&self) {
        lock(&self.server.rules).clear();
    }

    /// Changes how the node behaves towards streams that are opened from now on.
    pub(crate) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.server.behaviour));
    }

    /// The tunnels that are open now, oldest first.
    pub(crate) fn tunnels(&self) -> Vec<Tunnel> {
        lock(&self.server.tunnels).values().cloned().collect()
    }

    /// Interrupts all watches that are open.
    pub(crate) fn interrupt_watches(&self, how: Interruption) {
        // nobody may be watching
        let _ = self.server.interruptions.send(how);
    }

    /// Refuses a user's token from now on (401). A new one is let in: [`token`](Self::token) has it, and so has the
    /// credential plugin when it is run again. Connections that are open stay.
    ///
    /// # Panics
    /// If the user has no token.
    pub(crate) fn expire_token(&self, user: &str) {
        let renewed = self.server.users.renew(user);
        let token = renewed.expect("random numbers").expect("a token");
        if user == "plugin" {
            let file = self.folder.path().join(plugin::TOKEN);
            kubeconfig::write_private(&file, &token).expect("the folder is its own");
        }
    }

    /// How often the credential plugin was run; only the one that comes without [`Options::plugin`] counts.
    pub(crate) fn plugin_runs(&self) -> usize {
        let runs = std::fs::read(self.folder.path().join(plugin::RUNS));
        runs.map_or(0, |runs| runs.len())
    }

    /// The kubelet goes away and with it all streams to pods, which themselves run on.
    pub(crate) fn stop_kubelet(&self) {
        self.server.node.set_up(false);
        for tunnel in self.tunnels() {
            tunnel.close();
        }
    }

    /// It comes back after [`stop_kubelet`](Self::stop_kubelet).
    pub(crate) fn start_kubelet(&self) {
        self.server.node.set_up(true);
    }

    /// Resets all TCP connections, upgraded or not.
    pub(crate) fn cut_all(&self) {
        for wire in lock(&self.server.connections).values() {
            wire.cut();
        }
        for tunnel in self.tunnels() {
            tunnel.cut();
        }
    }

    /// The API server goes away: nobody listens, and every connection is reset.
    pub(crate) fn stop(&self) {
        lock(&self.listening).cancel();
        self.cut_all();
    }

    /// It comes back on the same port after [`stop`](Self::stop).
    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        // the old listener is closed by its task, which may need a moment to notice
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match server::bind(self.address) {
                Ok(listener) => return self.listen(listener),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

/// What was seen.
impl Playground {
    /// All requests so far (the last ten thousand), oldest first, without secrets.
    pub(crate) fn requests(&self) -> Vec<Request> {
        lock(&self.server.log).iter().cloned().collect()
    }

    /// TCP connections that were accepted so far.
    pub(crate) fn connections_accepted(&self) -> u64 {
        self.server
            .accepted
            .load(std::sync::atomic::Ordering::Relaxed)
    }

    /// The watches that are open now, oldest first.
    pub(crate) fn watches(&self) -> Vec<Uri> {
        lock(&self.server.watches).values().cloned().collect()
    }

    /// Connections that are being forwarded to a pod now, over all its tunnels.
    pub(crate) fn open_pairs(&self, namespace: &str, pod: &str) -> u64 {
        let tunnels = self.tunnels().into_iter();
        let tunnels = tunnels.filter(|it| it.namespace == namespace && it.pod == pod);
        tunnels.map(|tunnel| tunnel.open_pairs()).sum()
    }

    /// Upgrades to SPDY, raw or tunnelled, that were granted so far.
    pub(crate) fn tunnels_opened(&self) -> u64 {
        let opened = &self.server.tunnels_opened;
        opened.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // All tasks are dropped, and their sockets and sshd processes with them. On a thread of its own because
            // a test may drop the playground inside another runtime, which must not block.
            let ended = std::thread::spawn(|| runtime.shutdown_timeout(Duration::from_secs(2)));
            let _ = ended.join();
        }
        // Commands of containers are in sessions of their own, or have left children.
        process::end_marked(&self.server.mark());
        if let Some(sshd) = &self.server.sshd {
            sshd.end_commands();
        }
    }
}
