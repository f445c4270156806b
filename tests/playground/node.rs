//! The node: what runs the pods, and the container runtime's end of a forward.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::faults::Behaviour;
use super::ports::{self, Service};
use super::server;
use super::sshd::Sshd;
use super::tls::random_hex;
use super::wire::lock;

/// What a runtime reads at once from a container; Go's `io.Copy` has the same size.
const CHUNK: usize = 32 * 1024;

/// The pods that run, and the kubelet that leads to them.
#[derive(Default)]
pub(crate) struct Node {
    sandboxes: Mutex<HashMap<(String, String), Arc<Sandbox>>>,
    /// The kubelet takes no requests; pods don't notice.
    down: AtomicBool,
}

/// A running pod: its network namespace, in effect.
pub(crate) struct Sandbox {
    /// The runtime's name for it; a new one whenever the pod is made again.
    pub(crate) id: String,
    pub(crate) uid: String,
    pub(crate) name: String,
    services: Mutex<HashMap<u16, Option<Service>>>,
    listening: tokio::sync::Mutex<HashMap<u16, (SocketAddr, CancellationToken)>>,
    sshd: Option<Arc<Sshd>>,
    /// Ends with the pod.
    alive: CancellationToken,
    /// Ends with the containers' processes; there is another one when they are started again.
    processes: Mutex<CancellationToken>,
    discarded: AtomicU64,
    dials: AtomicU64,
    tunnels: AtomicU64,
}

impl Node {
    /// Starts a pod.
    pub(crate) fn start(&self, namespace: &str, name: &str, uid: &str, sshd: Option<Arc<Sshd>>) {
        let alive = CancellationToken::new();
        let sandbox = Sandbox {
            id: random_hex(32).expect("it worked for the tokens"),
            uid: uid.to_owned(),
            name: name.to_owned(),
            services: Mutex::default(),
            listening: tokio::sync::Mutex::default(),
            sshd,
            processes: Mutex::new(alive.child_token()),
            alive,
            discarded: AtomicU64::new(0),
            dials: AtomicU64::new(0),
            tunnels: AtomicU64::new(0),
        };
        let key = (namespace.to_owned(), name.to_owned());
        lock(&self.sandboxes).insert(key, Arc::new(sandbox));
    }

    pub(crate) fn sandbox(&self, namespace: &str, name: &str) -> Option<Arc<Sandbox>> {
        let key = (namespace.to_owned(), name.to_owned());
        lock(&self.sandboxes).get(&key).cloned()
    }

    pub(crate) fn is_up(&self) -> bool {
        !self.down.load(Ordering::SeqCst)
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.down.store(!up, Ordering::SeqCst);
    }

    /// Ends a pod's processes: their sockets close, and tunnels that know it get "not found" from now on.
    pub(crate) fn kill(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(sandbox) = lock(&self.sandboxes).remove(&key) {
            sandbox.alive.cancel();
        }
    }
}

impl Sandbox {
    /// Says what answers on a port; `None` for nobody.
    pub(crate) fn serve(&self, port: u16, service: Option<Service>) {
        lock(&self.services).insert(port, service);
    }

    /// Bytes that the discard service took so far.
    pub(crate) fn discarded(&self) -> u64 {
        self.discarded.load(Ordering::Relaxed)
    }

    /// Connections that were made to this pod's ports so far.
    pub(crate) fn dials(&self) -> u64 {
        self.dials.load(Ordering::Relaxed)
    }

    /// Tunnels to this pod that were granted so far.
    pub(crate) fn tunnels_opened(&self) -> u64 {
        self.tunnels.load(Ordering::Relaxed)
    }

    pub(crate) fn count_tunnel(&self) {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends the containers' processes, and all their connections; the pod and its network stay.
    pub(crate) fn stop(&self) {
        lock(&self.processes).cancel();
    }

    /// Starts the containers again after [`stop`](Self::stop).
    pub(crate) fn restart(&self) {
        *lock(&self.processes) = self.alive.child_token();
    }

    pub(crate) fn is_running(&self) -> bool {
        !lock(&self.processes).is_cancelled()
    }

    /// Waits until the processes that run now are killed.
    pub(crate) async fn killed(&self) {
        let processes = lock(&self.processes).clone();
        processes.cancelled().await;
    }

    async fn connect(self: &Arc<Self>, port: u16) -> io::Result<TcpStream> {
        self.dials.fetch_add(1, Ordering::Relaxed);
        let address = self.address(port).await?;
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    /// Where the service of a port listens; it is started when first asked for.
    pub(crate) async fn address(self: &Arc<Self>, port: u16) -> io::Result<SocketAddr> {
        let chosen = lock(&self.services).get(&port).cloned();
        let service = chosen.unwrap_or_else(|| match port {
            ports::SSH if self.sshd.is_some() => Some(Service::Builtin(ports::SSH)),
            _ => Service::builtin(port),
        });
        let processes = lock(&self.processes).clone();
        let service = service.filter(|_| !processes.is_cancelled());
        let service = service.ok_or(io::ErrorKind::ConnectionRefused)?;
        if let Service::Address(address) = service {
            return Ok(address);
        }
        let mut listening = self.listening.lock().await;
        if let Some((address, since)) = listening.get(&port)
            && !since.is_cancelled()
        {
            return Ok(*address);
        }
        // many connections at once must find room in the queue: one that does not is tried again after a second
        let listener = server::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        listening.insert(port, (address, processes.clone()));
        tokio::spawn(self.clone().accept(listener, service, processes));
        Ok(address)
    }

    async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        service: Service,
        processes: CancellationToken,
    ) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = processes.cancelled() => return,
            };
            // out of file descriptors, or the client went away before we looked
            let Ok((tcp, _)) = accepted else { continue };
            let _ = tcp.set_nodelay(true);
            let sandbox = self.clone();
            let service = service.clone();
            let processes = processes.clone();
            tokio::spawn(async move {
                tokio::select! {
                    // how a service ends is between it and its client
                    _ = sandbox.answer(&service, tcp) => {}
                    () = processes.cancelled() => {}
                }
            });
        }
    }

    async fn answer(&self, service: &Service, tcp: TcpStream) -> io::Result<()> {
        match (service, &self.sshd) {
            (Service::Builtin(ports::SSH), Some(sshd)) => sshd.serve(tcp).await,
            (Service::Builtin(port), _) => {
                let pod = ports::Pod {
                    name: &self.name,
                    uid: &self.uid,
                    discarded: &self.discarded,
                };
                ports::serve(*port, &pod, tcp).await
            }
            (Service::Handler(handler), _) => handler.serve(tcp).await,
            (Service::Address(_), _) => Ok(()),
        }
    }
}

/// What goes to the client: bytes of a stream, its end, or its reset. `Id` is a SPDY stream or a channel
/// of the legacy WebSocket.
pub(crate) enum Command<Id> {
    Data(Id, Bytes),
    Finish(Id),
    Reset(Id),
}

/// What comes from the client.
pub(crate) struct Inlet {
    chunks: mpsc::Receiver<Bytes>,
    taken: Arc<Notify>,
}

impl Inlet {
    /// `taken` is told whenever there is room again.
    pub(crate) fn new(chunks: mpsc::Receiver<Bytes>, taken: Arc<Notify>) -> Self {
        Self { chunks, taken }
    }

    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let chunk = self.chunks.recv().await;
        self.taken.notify_one();
        chunk
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        // whoever waits for room must see that there is nobody to make any
        self.chunks.close();
        self.taken.notify_one();
    }
}

/// How a forward failed.
pub(crate) struct Failure {
    /// Whether the runtime got as far as dialling; it closes the data stream by itself then.
    pub(crate) dialled: bool,
    /// Whether the container reset the connection or stopped reading it.
    pub(crate) reset: bool,
    /// In containerd's words.
    pub(crate) text: String,
}

/// Connects to a port of a pod and copies both ways, as container runtimes do: after either direction
/// ended the other one has [`Behaviour::grace`], and a half-close is never passed on.
pub(crate) async fn forward<Id: Copy>(
    sandbox: &Arc<Sandbox>,
    port: u16,
    behaviour: &Behaviour,
    mut from_client: Inlet,
    to_client: &mpsc::Sender<Command<Id>>,
    id: Id,
) -> Result<(), Failure> {
    let fail = |dialled, reset, text: String| Failure {
        dialled,
        reset,
        text: format!(
            "error forwarding port {port} to pod {}, uid : {text}",
            sandbox.id
        ),
    };
    if let Some(text) = &behaviour.fail_before_dial {
        return Err(fail(false, false, text.clone()));
    }
    if sandbox.alive.is_cancelled() {
        let text = format!(
            "failed to find sandbox {:?} in store: not found",
            sandbox.id
        );
        return Err(fail(false, false, text));
    }
    if !behaviour.dial_delay.is_zero() {
        // even no time at all is a millisecond to the timer
        sleep(behaviour.dial_delay).await;
    }
    let namespace = format!(
        "failed to execute portforward in network namespace \"/var/run/netns/cni-{}\"",
        &sandbox.id[..8]
    );
    let failed = |verb: &str, error: &io::Error| {
        let text = format!(
            "{namespace}: {verb} tcp4 127.0.0.1:40000->127.0.0.1:{port}: {verb}: {}",
            go_error(error)
        );
        let reset = matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        );
        fail(true, reset, text)
    };
    let container = sandbox.connect(port).await.map_err(|error| {
        // a reset that is quicker than we are: the connection did exist
        if error.kind() == io::ErrorKind::ConnectionReset {
            return failed("read", &error);
        }
        let error = go_error(&error);
        let text = format!(
            "{namespace}: failed to connect to localhost:{port} inside namespace {:?}, \
             IPv4: dial tcp4 127.0.0.1:{port}: connect: {error} \
             IPv6 dial tcp6 [::1]:{port}: connect: {error}",
            sandbox.id
        );
        fail(true, false, text)
    })?;

    let (mut reader, mut writer) = container.into_split();
    let down = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK);
            let n = reader
                .read_buf(&mut buffer)
                .await
                .map_err(|error| failed("read", &error))?;
            // a client that is gone ends the forward through the other direction
            let bytes = buffer.split().freeze();
            if n == 0 || to_client.send(Command::Data(id, bytes)).await.is_err() {
                break;
            }
        }
        if behaviour.half_close {
            let _ = to_client.send(Command::Finish(id)).await;
        }
        Ok(())
    };
    let up = async {
        while let Some(bytes) = from_client.next().await {
            writer
                .write_all(&bytes)
                .await
                .map_err(|error| failed("write", &error))?;
        }
        if behaviour.half_close {
            let _ = writer.shutdown().await;
        }
        Ok(())
    };
    tokio::pin!(down, up);
    if behaviour.half_close {
        return tokio::try_join!(down, up).map(|_| ());
    }
    let (first, second) = tokio::select! {
        ended = &mut down => (ended, timeout(behaviour.grace, up).await),
        ended = &mut up => (ended, timeout(behaviour.grace, down).await),
    };
    first?;
    match second {
        Ok(ended) => ended,
        Err(_) => Ok(()),
    }
}

/// The words of Go's `syscall.Errno`.
fn go_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        io::ErrorKind::BrokenPipe => "broken pipe".to_owned(),
        _ => error.to_string(),
    }
}
