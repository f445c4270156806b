//! A tunnel against a scripted server, over a pipe of few bytes.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::spdy::{Config, Connection, Event, Headers, ReadError, Status, StreamId};

/// Small enough to cut frames anywhere.
const PIPE: usize = 7;

/// The server's end, which does what a test tells it.
struct Server {
    io: DuplexStream,
    spdy: Connection,
    input: Bytes,
}

/// The two streams of one forwarded connection, accepted.
struct Pair {
    error: StreamId,
    data: StreamId,
    headers: Headers,
}

impl Server {
    fn start(pipe: usize) -> (Tunnel, Self) {
        let (ours, theirs) = duplex(pipe);
        let tunnel = Tunnel::start(ours, Bytes::new(), Framing::Raw);
        let server = Self {
            io: theirs,
            spdy: Connection::server(Config::default(), Instant::now()),
            input: Bytes::new(),
        };
        (tunnel, server)
    }

    /// Sends all that waits, then takes in bytes until something happens.
    async fn event(&mut self) -> Event {
        loop {
            self.flush().await;
            if let Some(event) = self.spdy.poll_event() {
                return event;
            }
            if self.input.is_empty() || self.spdy.paused() {
                let mut buffer = vec![0; 64 * 1024];
                let length = self.io.read(&mut buffer).await.unwrap();
                if length == 0 {
                    self.spdy.handle_end();
                    continue;
                }
                buffer.truncate(length);
                self.input = buffer.into();
            }
            self.spdy
                .handle_input(&mut self.input, Instant::now())
                .unwrap();
        }
    }

    async fn flush(&mut self) {
        while let Some(frame) = self.spdy.poll_output() {
            // A tunnel that is gone shows as the end of what is read.
            let _ = self.io.write_all(&frame.head).await;
            let _ = self.io.write_all(&frame.body).await;
        }
    }

    async fn accept(&mut self) -> Pair {
        let mut opened = Vec::new();
        while opened.len() < 2 {
            if let Event::Opened { id, headers, .. } = self.event().await {
                self.spdy.reply(id, &[], false);
                opened.push((id, headers));
            }
        }
        let (data, headers) = opened.pop().unwrap();
        let (error, first) = opened.pop().unwrap();
        assert_eq!(first.get("streamtype"), Some("error"));
        assert_eq!(headers.get("streamtype"), Some("data"));
        assert_eq!(first.get("requestid"), headers.get("requestid"));
        assert_eq!(first.get("port"), headers.get("port"));
        self.flush().await;
        Pair {
            error,
            data,
            headers,
        }
    }

    fn send(&mut self, id: StreamId, text: &str) {
        let mut bytes = Bytes::copy_from_slice(text.as_bytes());
        self.spdy.write(id, &mut bytes).unwrap();
        assert!(bytes.is_empty());
    }

    /// Reads a stream to its end.
    async fn receive(&mut self, id: StreamId) -> (Vec<u8>, Result<(), ReadError>) {
        let mut all = Vec::new();
        loop {
            match self.spdy.read(id) {
                Ok(Some(chunk)) => all.extend_from_slice(&chunk),
                Ok(None) => return (all, Ok(())),
                Err(ReadError::Blocked) => {
                    self.event().await;
                }
                Err(error) => return (all, Err(error)),
            }
        }
    }

    /// Goes on until the tunnel is gone.
    async fn run(mut self) -> Self {
        while self.spdy.lost().is_none() {
            self.event().await;
        }
        self
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future)
        .await
        .expect("in time")
}

async fn read(stream: &mut Stream) -> (String, Result<(), Failure>) {
    let mut text = Vec::new();
    let end = within(stream.read_to_end(&mut text)).await;
    let end = end
        .map(|_| ())
        .map_err(|error| Failure::of(&error).expect("a failure").clone());
    (String::from_utf8(text).unwrap(), end)
}

#[tokio::test]
async fn opens_error_stream_then_data_stream_without_waiting() {
    let (tunnel, mut server) = Server::start(PIPE);
    let mut stream = tunnel.open(8080).unwrap();
    stream.write_all(b"early").await.unwrap();
    stream.shutdown().await.unwrap();
    within(async {
        let pair = server.accept().await;
        assert_eq!(pair.headers.get("port"), Some("8080"));
        assert_eq!(pair.headers.get("requestid"), Some("0"));
        // The error stream is half-closed at once, nothing was ever written to it.
        assert_eq!(server.receive(pair.error).await, (vec![], Ok(())));
        assert_eq!(server.receive(pair.data).await, (b"early".to_vec(), Ok(())));
        server.send(pair.data, "answer");
        server.spdy.finish(pair.data);
        server.spdy.finish(pair.error);
        tokio::spawn(server.run());
    })
    .await;
    assert_eq!(read(&mut stream).await, ("answer".into(), Ok(())));
}

/// How servers end a stream, and what the reader is told. The first answer comes before every end.
#[tokio::test(start_paused = true)]
async fn every_end_has_its_verdict() {
    const REFUSED: &str = "error forwarding port 1 to pod x, uid : failed to connect to localhost:1 inside \
        namespace \"x\", IPv4: dial tcp4 127.0.0.1:1: connect: connection refused";
    const GONE: &str =
        "error forwarding port 1 to pod x, uid : failed to find sandbox \"x\" in store: not found";
    use Step::{Cut, FinData, FinError, GoAway, RstData, RstError, Text};
    let refused = || Failure::Refused(crate::untrusted::printable(REFUSED, 1024));
    let gone = || Failure::PodGone(crate::untrusted::printable(GONE, 1024));
    let unpaired = "(conn=1, request=0) timed out waiting for streams";
    #[rustfmt::skip]
    let cases: &[(&str, &[Step], Result<(), Failure>)] = &[
        ("success, containerd", &[FinData, FinError], Ok(())),
        ("success, others", &[FinError, FinData], Ok(())),
        ("refused, containerd 2.1", &[FinData, Text(REFUSED), RstError], Err(refused())),
        ("refused, containerd 1.7", &[FinData, Text(REFUSED), FinError], Err(refused())),
        ("pod gone", &[Text(GONE), RstData, RstError], Err(gone())),
        ("silent reset", &[RstData, RstError], Err(Failure::Reset)),
        ("data ends, error reset", &[FinData, RstError], Err(Failure::Reset)),
        ("no verdict", &[FinData], Err(Failure::Unconfirmed)),
        ("pair timeout", &[Text(unpaired)], Err(Failure::Other(unpaired.into()))),
        ("GOAWAY", &[GoAway], Err(Failure::Lost(Lost::GoAway))),
        ("cut wire", &[Cut], Err(Failure::Lost(Lost::Cut))),
    ];
    for (name, steps, expected) in cases {
        let (tunnel, mut server) = Server::start(64 * 1024);
        let mut stream = tunnel.open(1).unwrap();
        let pair = within(server.accept()).await;
        server.send(pair.data, "hello");
        for step in *steps {
            within(server.flush()).await;
            match step {
                Text(text) => server.send(pair.error, text),
                FinData => server.spdy.finish(pair.data),
                FinError => server.spdy.finish(pair.error),
                RstData => server.spdy.reset(pair.data, Status::CANCEL),
                RstError => server.spdy.reset(pair.error, Status::CANCEL),
                GoAway => server.io.write_all(&GOAWAY).await.unwrap(),
                Cut => server.io.shutdown().await.unwrap(),
            }
        }
        let task = tokio::spawn(server.run());
        let outcome = read(&mut stream).await;
        assert_eq!(outcome, ("hello".into(), expected.clone()), "{name}");
        drop((stream, tunnel));
        within(task).await.unwrap();
    }
}

enum Step {
    Text(&'static str),
    FinData,
    FinError,
    RstData,
    RstError,
    GoAway,
    Cut,
}

const GOAWAY: [u8; 16] = [0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0];

#[tokio::test]
async fn a_stream_that_fails_leaves_the_others_alone() {
    let (tunnel, mut server) = Server::start(64 * 1024);
    let (mut bad, mut good) = (tunnel.open(1).unwrap(), tunnel.open(2).unwrap());
    within(async {
        let (first, second) = (server.accept().await, server.accept().await);
        server.send(first.error, "connection refused");
        server.spdy.finish(first.data);
        server.spdy.finish(first.error);
        server.send(second.data, "fine");
        server.spdy.finish(second.data);
        server.spdy.finish(second.error);
        tokio::spawn(server.run());
    })
    .await;
    let refused = Failure::Refused("connection refused".into());
    assert_eq!(read(&mut bad).await, (String::new(), Err(refused)));
    assert_eq!(read(&mut good).await, ("fine".into(), Ok(())));
}

#[tokio::test]
async fn bytes_written_before_shutdown_survive_the_stream_and_the_tunnel() {
    let (tunnel, mut server) = Server::start(PIPE);
    let mut stream = tunnel.open(9).unwrap();
    let payload = vec![7; 60_000];
    stream.write_all(&payload).await.unwrap();
    stream.shutdown().await.unwrap();
    drop((stream, tunnel));
    within(async {
        let pair = server.accept().await;
        assert_eq!(server.receive(pair.data).await, (payload, Ok(())));
        server.run().await;
    })
    .await;
}

#[tokio::test]
async fn dropping_an_unfinished_stream_resets_it_only() {
    let (tunnel, mut server) = Server::start(PIPE);
    let stream = tunnel.open(1).unwrap();
    let _other = tunnel.open(2).unwrap();
    within(async {
        let pair = server.accept().await;
        let other = server.accept().await;
        drop(stream);
        let (_, end) = server.receive(pair.data).await;
        assert_eq!(end, Err(ReadError::Reset(Status::CANCEL)));
        assert_eq!(server.spdy.read(other.data), Err(ReadError::Blocked));
    })
    .await;
}

/// A reader that sleeps holds the server back, and what is held in memory stays within the stream's buffer.
#[tokio::test]
async fn an_unread_stream_pauses_the_tunnel_and_loses_nothing() {
    const TOTAL: usize = 3 << 20;
    let (tunnel, mut server) = Server::start(16 * 1024);
    let mut stream = tunnel.open(19).unwrap();
    let pair = within(server.accept()).await;
    let sender = tokio::spawn(async move {
        let mut source = Bytes::from((0..TOTAL).map(|i| i as u8).collect::<Vec<_>>());
        while !source.is_empty() {
            if server.spdy.write(pair.data, &mut source).is_err() {
                server.flush().await;
            }
        }
        server.spdy.finish(pair.data);
        server.spdy.finish(pair.error);
        server.run().await
    });
    // The pause shows as soon as the buffer is full.
    within(async {
        while !tunnel.streams.handle.0.lock().connection.paused() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let unread = tunnel
        .streams
        .handle
        .0
        .lock()
        .connection
        .unread(stream.data);
    assert_eq!(unread, Config::default().receive_buffer);
    assert!(!sender.is_finished());
    let mut all = Vec::new();
    within(stream.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all.len(), TOTAL);
    assert!(all.iter().enumerate().all(|(i, byte)| *byte == i as u8));
    drop((stream, tunnel));
    within(sender).await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_read_blocks_the_writer_at_its_buffer() {
    let (tunnel, server) = Server::start(1024);
    let mut stream = tunnel.open(9).unwrap();
    let mut written = 0;
    let blocked = async {
        loop {
            written += stream.write(&[0; 8192]).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_millis(200), blocked)
        .await
        .expect_err("the writer waits");
    let bound = Config::default().send_buffer + 128 * 1024 + 1024;
    assert!(written <= bound, "{written} bytes taken");
    drop(server);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_replies_fails_the_stream_in_time() {
    let (tunnel, mut server) = Server::start(64 * 1024);
    let mut stream = tunnel.open(1).unwrap();
    // it lives, as its answers to PINGs tell
    let lives = async {
        loop {
            server.event().await;
        }
    };
    tokio::select! {
        outcome = read(&mut stream) => assert_eq!(outcome, (String::new(), Err(Failure::NoReply))),
        () = lives => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_found_dead() {
    let (tunnel, server) = Server::start(64 * 1024);
    let started = tokio::time::Instant::now();
    assert_eq!(tunnel.ended().await, Lost::Silent);
    assert!(started.elapsed() <= Duration::from_secs(70));
    drop(server);
}

#[tokio::test]
async fn close_says_goaway_and_ends() {
    let (tunnel, server) = Server::start(PIPE);
    let stream = tunnel.open(1).unwrap();
    let server = tokio::spawn(server.run());
    within(tunnel.close()).await;
    drop(stream);
    assert_eq!(
        within(server).await.unwrap().spdy.lost(),
        Some(&Lost::GoAway)
    );
}

#[tokio::test]
async fn early_bytes_belong_to_the_protocol() {
    let (ours, theirs) = duplex(1024);
    let mut peer = Connection::server(Config::default(), Instant::now());
    peer.close();
    let goaway = peer.poll_output().unwrap();
    let tunnel = Tunnel::start(
        ours,
        [&goaway.head[..], &goaway.body].concat().into(),
        Framing::Raw,
    );
    assert_eq!(within(tunnel.ended()).await, Lost::GoAway);
    drop(theirs);
}

/// Messages of every size and kind that servers and proxies make, a byte a message among them.
#[tokio::test]
async fn websocket_message_boundaries_mean_nothing() {
    let (ours, theirs) = duplex(16 * 1024);
    let tunnel = Tunnel::start(ours, Bytes::new(), Framing::WebSocket);
    let mut stream = tunnel.open(7).unwrap();
    let server = tokio::spawn(async move {
        let mut socket = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
        let mut spdy = Connection::server(Config::default(), Instant::now());
        let mut pair = Vec::new();
        while pair.len() < 2 {
            let mut input = socket.next().await.unwrap().unwrap().into_data();
            spdy.handle_input(&mut input, Instant::now()).unwrap();
            while let Some(event) = spdy.poll_event() {
                if let Event::Opened { id, .. } = event {
                    spdy.reply(id, &[], false);
                    pair.push(id);
                }
            }
        }
        spdy.write(pair[1], &mut Bytes::from_static(b"hello, tunnel"))
            .unwrap();
        spdy.finish(pair[1]);
        spdy.finish(pair[0]);
        socket
            .send(Message::Ping(Bytes::from_static(b"are you there")))
            .await
            .unwrap();
        while let Some(frame) = spdy.poll_output() {
            for byte in frame.head.iter().chain(&frame.body) {
                let message = Bytes::copy_from_slice(&[*byte]);
                socket.send(Message::Binary(message)).await.unwrap();
            }
            socket.send(Message::Binary(Bytes::new())).await.unwrap();
        }
        loop {
            match socket.next().await {
                Some(Ok(Message::Pong(payload))) => assert_eq!(&payload[..], b"are you there"),
                Some(Ok(Message::Close(_))) => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
    });
    assert_eq!(read(&mut stream).await, ("hello, tunnel".into(), Ok(())));
    drop(stream);
    within(tunnel.close()).await;
    assert!(within(server).await.unwrap(), "a Close frame says goodbye");
}

#[tokio::test]
async fn websocket_text_ends_the_tunnel() {
    let (ours, theirs) = duplex(1024);
    let tunnel = Tunnel::start(ours, Bytes::new(), Framing::WebSocket);
    let mut socket = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(within(tunnel.ended()).await, Lost::Cut);
}

/// Fail-closed on what no server may send: masked frames, reserved bits, unknown opcodes, giant lengths.
#[tokio::test]
async fn websocket_frames_that_break_the_protocol_end_the_tunnel() {
    let frames: [&[u8]; 5] = [
        &[0x82, 0x81, 1, 2, 3, 4, 5],
        &[0xf2, 0x01, 0],
        &[0x83, 0x01, 0],
        &[&[0x89, 126, 0, 126][..], &[0; 126]].concat(),
        &[0x82, 127, 0, 0, 1, 0, 0, 0, 0, 0],
    ];
    for frame in frames {
        let (ours, mut theirs) = duplex(1024);
        let tunnel = Tunnel::start(ours, Bytes::new(), Framing::WebSocket);
        theirs.write_all(frame).await.unwrap();
        assert_eq!(within(tunnel.ended()).await, Lost::Cut, "{frame:x?}");
    }
}

#[tokio::test]
async fn concurrent_opens_keep_ids_in_order() {
    let (tunnel, mut server) = Server::start(64 * 1024);
    let streams: Vec<_> = (0..1000).map(|_| tunnel.open(1).unwrap()).collect();
    let mut requests = Vec::new();
    within(async {
        for _ in &streams {
            let pair = server.accept().await;
            assert!(pair.error < pair.data);
            requests.push(pair.headers.get("requestid").unwrap().to_owned());
        }
    })
    .await;
    let count = requests.len();
    requests.sort_unstable();
    requests.dedup();
    assert_eq!(requests.len(), count);
    assert_eq!(tunnel.open_streams(), count);
    drop(streams);
    assert_eq!(tunnel.open_streams(), 0);
}
