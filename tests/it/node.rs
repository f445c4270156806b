//! The playground's node reads a connection as a real one does: other suites' claims about isolation rest on it.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kpf::spdy::{Config, Connection, Status, StreamId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::playground::faults::Ending;
use crate::playground::tunnel::Tunnel;
use crate::playground::{Options, Playground, ports};
use crate::program::{Process, TestEnv, in_time, until};
use crate::{tools, upgrade};

const PATH: &str = "/api/v1/namespaces/default/pods/echo/portforward";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];
/// What a worker's queue holds.
const QUEUE: usize = 50;
/// For what must not happen.
const A_WHILE: Duration = Duration::from_millis(200);

fn playground() -> Playground {
    Playground::start(Options::default()).expect("a playground")
}

/// The pipe under a client, which reads only when it is told to.
enum Pipe {
    Raw(TokioIo<Upgraded>),
    WebSocket(Box<WebSocketStream<TokioIo<Upgraded>>>),
}

struct Client {
    pipe: Pipe,
    connection: Connection,
    requests: u32,
}

impl Client {
    async fn new(playground: &Playground, transport: &str) -> Self {
        let pipe = match transport {
            "spdy" => Pipe::Raw(upgrade::spdy(playground, "admin", PATH).await.io()),
            _ => {
                let reply = upgrade::websocket(playground, "admin", PATH, TUNNEL).await;
                Pipe::WebSocket(Box::new(reply.websocket().await))
            }
        };
        // a buffer that never pauses: what is read here was meant to be
        let config = Config {
            receive_buffer: 1 << 30,
            ping_period: None,
            ..Config::default()
        };
        Self {
            pipe,
            connection: Connection::client(config, Instant::now()),
            requests: 0,
        }
    }

    async fn send(&mut self, bytes: Bytes) {
        match &mut self.pipe {
            Pipe::Raw(io) => {
                in_time(io.write_all(&bytes)).await.expect("a node");
                in_time(io.flush()).await.expect("a node");
            }
            Pipe::WebSocket(socket) => {
                let message = Message::Binary(bytes);
                in_time(socket.send(message)).await.expect("a node");
            }
        }
    }

    async fn flush(&mut self) {
        let mut bytes = BytesMut::new();
        while let Some(frame) = self.connection.poll_output() {
            bytes.extend_from_slice(&frame.head);
            bytes.extend_from_slice(&frame.body);
        }
        self.send(bytes.freeze()).await;
    }

    async fn open_stream(&mut self, kind: &str, port: u16, request: &str) -> StreamId {
        let port = port.to_string();
        let headers = [
            ("streamtype", kind),
            ("port", &port),
            ("requestid", request),
        ];
        let opened = self.connection.open(&headers, false, Instant::now());
        self.flush().await;
        opened.expect("a stream")
    }

    /// Both streams of a pair; returns the second one, for data.
    async fn open(&mut self, port: u16) -> StreamId {
        self.requests += 1;
        let request = self.requests.to_string();
        let error = self.open_stream("error", port, &request).await;
        self.connection.finish(error);
        self.open_stream("data", port, &request).await
    }

    async fn write(&mut self, id: StreamId, data: &[u8]) {
        let mut data = Bytes::copy_from_slice(data);
        while !data.is_empty() {
            self.connection.write(id, &mut data).expect("it is open");
            self.flush().await;
        }
    }

    /// Takes in what the node sends next.
    async fn step(&mut self) -> Bytes {
        let bytes = match &mut self.pipe {
            Pipe::Raw(io) => {
                let mut buffer = BytesMut::with_capacity(64 * 1024);
                io.read_buf(&mut buffer).await.expect("a node");
                buffer.freeze()
            }
            Pipe::WebSocket(socket) => {
                let message = socket.next().await.expect("a node");
                message.expect("a message").into_data()
            }
        };
        assert!(!bytes.is_empty(), "the node closed the connection");
        bytes
    }

    /// Reads a stream until that many bytes are there.
    async fn read(&mut self, id: StreamId, enough: usize) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            while data.len() < enough
                && let Ok(Some(bytes)) = self.connection.read(id)
            {
                data.extend_from_slice(&bytes);
            }
            if data.len() >= enough {
                return data;
            }
            let mut bytes = in_time(self.step()).await;
            let taken = self.connection.handle_input(&mut bytes, Instant::now());
            taken.expect("SPDY");
        }
    }

    /// How many of so many PINGs are answered.
    async fn pongs(&mut self, pings: u32) -> usize {
        let ping = |id: u32| [&[0x80, 3, 0, 6, 0, 0, 0, 4], &id.to_be_bytes()[..]].concat();
        for id in 0..pings {
            self.send(ping(2 * id + 1).into()).await;
        }
        let mut heard = BytesMut::new();
        while let Ok(bytes) = timeout(A_WHILE, self.step()).await {
            heard.extend_from_slice(&bytes);
        }
        let answers = heard.chunks(12);
        answers
            .filter(|frame| frame.starts_with(&ping(0)[..8]))
            .count()
    }
}

/// Waits until the node's reader waits for good: on the way there it does so for moments.
async fn stuck(tunnel: &Tunnel) {
    in_time(async {
        let mut since = Instant::now();
        while since.elapsed() < A_WHILE {
            if !tunnel.blocked() {
                since = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn fifty_one_unread_frames_stop_a_worker_and_one_more_stops_all() {
    for transport in TRANSPORTS {
        let playground = playground();
        let mut client = Client::new(&playground, transport).await;
        // a pair that stays single is read by nobody; its neighbour has other workers
        let lonely = client.open_stream("data", ports::ECHO, "lonely").await;
        let echo = client.open(ports::ECHO).await;
        assert_eq!((lonely.get(), echo.get()), (1, 5));
        // one that the worker has in hand, the others in its queue
        for _ in 0..QUEUE {
            client.write(lonely, b"x").await;
        }
        client.write(echo, b"echo").await;
        assert_eq!(client.read(echo, 4).await, b"echo", "{transport}");
        // the workers get PINGs in turn; the queue is full with this one
        assert_eq!(client.pongs(5).await, 4, "{transport}");
        let tunnel = playground.tunnels().pop().expect("a tunnel");
        assert!(!tunnel.blocked(), "{transport}");
        client.write(lonely, b"x").await;
        until("the reader waits", || tunnel.blocked()).await;
        // now nothing moves, not even the reset that would help
        client.write(echo, b"late").await;
        client.connection.reset(lonely, Status::CANCEL);
        client.flush().await;
        assert_eq!(client.pongs(10).await, 0, "{transport}");
        assert!(tunnel.blocked(), "{transport}");
    }
}

#[tokio::test]
async fn a_pod_that_does_not_read_stops_its_connection_and_no_other() {
    for transport in TRANSPORTS {
        let playground = playground();
        let mut client = Client::new(&playground, transport).await;
        let mut other = Client::new(&playground, transport).await;
        let stalled = client.open(ports::STALL).await;
        let echo = client.open(ports::ECHO).await;
        client.write(echo, b"before").await;
        assert_eq!(client.read(echo, 6).await, b"before");
        let tunnel = playground.tunnels().remove(0);
        let chunk = vec![0; 32 * 1024];
        let flood = async {
            loop {
                client.write(stalled, &chunk).await;
            }
        };
        tokio::select! {
            () = stuck(&tunnel) => {}
            () = flood => {}
        }
        let echo = other.open(ports::ECHO).await;
        other.write(echo, b"other").await;
        assert_eq!(other.read(echo, 5).await, b"other", "{transport}");
        // the pod ends, and the connection goes on
        playground.kill_pod("default", "echo");
        until("the reader goes on", || !tunnel.blocked()).await;
    }
}

#[tokio::test]
async fn an_unread_download_holds_up_what_comes_down_and_not_what_goes_up() {
    for transport in TRANSPORTS {
        let playground = playground();
        let mut client = Client::new(&playground, transport).await;
        let echo = client.open(ports::ECHO).await;
        let discard = client.open(ports::DISCARD).await;
        client.write(echo, b"x").await;
        assert_eq!(client.read(echo, 1).await, b"x");
        let download = client.open(ports::CHARGEN).await;
        // until every buffer on the way is full
        let sandbox = playground.sandbox("default", "echo");
        until("a dial", || sandbox.dials() == 3).await;
        tokio::time::sleep(A_WHILE).await;
        client.write(echo, b"y").await;
        client.write(discard, &[0; 1000]).await;
        until("the upload", || sandbox.discarded() == 1000).await;
        assert_eq!(client.read(echo, 1).await, b"y", "{transport}");
        let before = client.connection.unread(download);
        assert!(before > 256 * 1024, "{transport}: {before}");
    }
}

#[tokio::test]
async fn bytes_for_a_forward_that_is_over_block_a_worker() {
    for (ending, blocks) in [(Ending::Current, true), (Ending::ErrorStreamFirst, false)] {
        let playground = playground();
        playground.behave(|node| node.ending = ending);
        let mut client = Client::new(&playground, "spdy").await;
        let daytime = client.open(ports::DAYTIME).await;
        while client.connection.read(daytime) != Ok(None) {
            let mut bytes = in_time(client.step()).await;
            let taken = client.connection.handle_input(&mut bytes, Instant::now());
            taken.expect("SPDY");
        }
        // one is lost on the copy that fails, one is in hand, and one doesn't fit in the queue
        for _ in 0..1 + 1 + QUEUE + 1 {
            client.write(daytime, b"x").await;
        }
        if blocks {
            let tunnel = playground.tunnels().pop().expect("a tunnel");
            until("the reader waits", || tunnel.blocked()).await;
        }
        let alive = client.pongs(1).await == 1;
        assert_eq!(alive, !blocks, "{ending:?}");
    }
}

#[tokio::test]
async fn a_frame_may_be_longer_than_any_buffer() {
    let playground = playground();
    let mut client = Client::new(&playground, "spdy").await;
    let echo = client.open(ports::ECHO).await;
    let sent: Vec<u8> = (0..1u32 << 20).flat_map(u32::to_be_bytes).collect();
    let length = u32::try_from(sent.len()).expect("24 bits").to_be_bytes();
    let frame = [&echo.get().to_be_bytes(), &length, &sent[..]].concat();
    client.send(frame.into()).await;
    assert!(client.read(echo, sent.len()).await == sent);
}

/// `kubectl port-forward pod/echo`, with the local ports of these ones.
async fn forward(
    env: &TestEnv,
    kubectl: &Path,
    websockets: bool,
    ports: &[u16],
) -> (Process, Vec<u16>) {
    let mut command = env.command(kubectl);
    command
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets.to_string())
        .args(["port-forward", "--address=127.0.0.1", "pod/echo"])
        .args(ports.iter().map(|port| format!(":{port}")));
    let mut process = Process::start(command);
    let mut local = Vec::new();
    for _ in ports {
        let line = process.line().await;
        let port = line.strip_prefix("Forwarding from 127.0.0.1:");
        let port = port.and_then(|rest| rest.split(' ').next()?.parse().ok());
        local.push(port.unwrap_or_else(|| panic!("{line:?}")));
    }
    (process, local)
}

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port))
        .await
        .expect("a listener")
}

async fn echo(tcp: &mut TcpStream) -> std::io::Result<usize> {
    tcp.write_all(b"x").await?;
    tcp.read_exact(&mut [0]).await
}

#[tokio::test]
async fn kubectl_freezes_as_on_a_real_node() {
    for kubectl in tools::kubectls() {
        for websockets in [true, false] {
            let env = TestEnv::new();
            let all = [ports::STALL, ports::ECHO];
            let (_kubectl, local) = forward(&env, &kubectl, websockets, &all).await;
            let mut open = connect(local[1]).await;
            in_time(echo(&mut open)).await.expect("an echo");
            let mut stalled = connect(local[0]).await;
            let tunnel = env.playground.tunnels().remove(0);
            let flood = async { while stalled.write_all(&[0; 32 * 1024]).await.is_ok() {} };
            tokio::select! {
                () = stuck(&tunnel) => {}
                () = flood => panic!("the upload ended"),
            }
            // the open connection, a new one, and still after the cause is closed
            assert!(timeout(A_WHILE, echo(&mut open)).await.is_err());
            let mut new = connect(local[1]).await;
            assert!(timeout(A_WHILE, echo(&mut new)).await.is_err());
            drop(stalled);
            assert!(timeout(A_WHILE, echo(&mut new)).await.is_err());
            assert!(tunnel.blocked());
            // another tunnel is none the worse
            let (_beside, local) = forward(&env, &kubectl, websockets, &[ports::ECHO]).await;
            in_time(echo(&mut connect(local[0]).await))
                .await
                .expect("an echo");
        }
    }
}
