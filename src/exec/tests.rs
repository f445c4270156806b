//! Sessions against scripted servers, with a clock of their own. The numbers are those of the conformance list.

use std::ffi::OsString;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use futures_util::{SinkExt as _, stream::Iter};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::spdy::{self, Config, Connection, Event, StreamId};

const WIRE: usize = 64 * 1024;
const SUCCESS: &[u8] = br#"{"metadata":{},"status":"Success"}"#;

fn command(stdin: bool, tty: bool) -> Command {
    Command {
        words: vec![OsString::from("true")],
        container: None,
        stdin,
        tty,
    }
}

fn size(columns: u16, rows: u16) -> Size {
    Size::new(columns, rows).unwrap()
}

/// What a session came to.
struct Ran {
    outcome: Result<u8, Error>,
    stdout: Vec<u8>,
}

async fn run<R>(
    session: Session<DuplexStream>,
    stdin: Option<R>,
    sizes: Option<Iter<std::vec::IntoIter<Size>>>,
) -> Ran
where
    R: AsyncRead + Unpin,
{
    let mut stdout = Vec::new();
    let local = Local {
        stdin,
        stdout: &mut stdout,
        stderr: tokio::io::sink(),
        sizes,
    };
    let outcome = session.run(local).await;
    Ran { outcome, stdout }
}

/// A session over WebSocket, and its server.
async fn websocket<R>(
    command: Command,
    stdin: Option<R>,
    sizes: Vec<Size>,
) -> (JoinHandle<Ran>, WebSocketStream<DuplexStream>)
where
    R: AsyncRead + Unpin + Send + 'static,
{
    let (ours, theirs) = duplex(WIRE);
    let session = Session::websocket(ours, Bytes::new(), &command).await;
    let sizes = (!sizes.is_empty()).then(|| stream::iter(sizes));
    let running = tokio::spawn(run(session, stdin, sizes));
    let server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
    (running, server)
}

async fn send(server: &mut WebSocketStream<DuplexStream>, message: &[u8]) {
    let message = Message::Binary(Bytes::copy_from_slice(message));
    server.send(message).await.unwrap();
}

async fn status(server: &mut WebSocketStream<DuplexStream>) {
    send(server, &[b"\x03", SUCCESS].concat()).await;
    server.close(None).await.unwrap();
}

/// The next message that is no ping, within ten seconds.
async fn next(server: &mut WebSocketStream<DuplexStream>) -> Option<Bytes> {
    let message = async {
        loop {
            match server.next().await.unwrap().unwrap() {
                Message::Binary(bytes) => return bytes,
                Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    timeout(Duration::from_secs(10), message).await.ok()
}

#[test]
fn the_query_is_kubectls() {
    let words = ["printf", "a b&c=d+e", "", "ü\n%"].map(OsString::from);
    let mut command = Command {
        words: words.to_vec(),
        container: Some("main".to_owned()),
        stdin: true,
        tty: false,
    };
    assert_eq!(
        command.query(),
        "command=printf&command=a%20b%26c%3Dd%2Be&command=&command=%C3%BC%0A%25\
         &container=main&stderr=true&stdin=true&stdout=true"
    );
    // 94: no stderr beside a terminal
    command.tty = true;
    command.words.truncate(1);
    command.container = None;
    assert_eq!(
        command.query(),
        "command=printf&stdin=true&stdout=true&tty=true"
    );
}

#[test]
fn a_size_is_never_nothing() {
    for (columns, rows) in [(0, 0), (0, 24), (80, 0)] {
        assert_eq!(Size::new(columns, rows), None);
    }
    assert_eq!(size(80, 24).document(), "{\"Width\":80,\"Height\":24}\n");
}

/// 95, 97, 98 and 106.
#[tokio::test(start_paused = true)]
async fn stdin_follows_the_first_message_and_ends_once() {
    let (running, mut server) = websocket(command(true, false), Some(&b"input"[..]), vec![]).await;
    assert_eq!(next(&mut server).await, None);
    send(&mut server, b"\x01").await;
    assert_eq!(next(&mut server).await.unwrap()[..], *b"\x00input");
    assert_eq!(next(&mut server).await.unwrap()[..], *b"\xff\x00");
    for message in [
        &b"\x02"[..],
        b"",
        b"\x01out",
        b"\xff\x00",
        b"\x00?",
        b"\x01put",
    ] {
        send(&mut server, message).await;
    }
    assert_eq!(next(&mut server).await, None);
    status(&mut server).await;
    let Ran { outcome, stdout } = running.await.unwrap();
    assert_eq!((outcome.unwrap(), &stdout[..]), (0, &b"output"[..]));
}

/// 91: servers read frames, not messages.
#[tokio::test(start_paused = true)]
async fn a_message_is_one_frame_of_at_most_32_kib() {
    let input = vec![7; 200_000];
    let stdin = io::Cursor::new(input.clone());
    let (running, mut server) = websocket(command(true, false), Some(stdin), vec![]).await;
    send(&mut server, b"\x01").await;
    let mut got = Vec::new();
    loop {
        let message = next(&mut server).await.unwrap();
        match message[0] {
            0 => got.extend_from_slice(&message[1..]),
            255 => break,
            other => panic!("channel {other}"),
        }
        assert!(message.len() <= 32 * 1024 + 1);
    }
    assert!(got == input);
    status(&mut server).await;
    assert_eq!(running.await.unwrap().outcome.unwrap(), 0);
}

/// 99 and 107.
#[tokio::test(start_paused = true)]
async fn a_terminal_has_its_size_first_and_no_end_of_input() {
    let sizes = vec![size(80, 24), size(100, 40)];
    let (running, mut server) = websocket(command(true, true), Some(&b"key"[..]), sizes).await;
    send(&mut server, b"\x01").await;
    let first = next(&mut server).await.unwrap();
    assert_eq!(first[..], *b"\x04{\"Width\":100,\"Height\":40}\n");
    assert_eq!(next(&mut server).await.unwrap()[..], *b"\x00key");
    // a terminal's input ends only where the terminal is gone
    let Ran { outcome, .. } = running.await.unwrap();
    assert!(matches!(outcome, Err(Error::HungUp)));
    while let Some(Ok(message)) = server.next().await {
        assert!(!message.is_binary(), "{message:?}");
    }
}

/// 108.
#[tokio::test(start_paused = true)]
async fn pings_go_out_and_a_minutes_silence_is_the_end() {
    let (ours, mut theirs) = duplex(WIRE);
    let session = Session::websocket(ours, Bytes::new(), &command(false, false)).await;
    let started = Instant::now();
    let running = tokio::spawn(run(session, None::<tokio::io::Empty>, None));
    theirs.write_all(b"\x82\x01\x01").await.unwrap();
    let Ran { outcome, .. } = running.await.unwrap();
    assert!(matches!(outcome, Err(Error::NoStatus(Lost::Silent))));
    let silence = started.elapsed().as_secs();
    assert!((61..=70).contains(&silence), "{silence} s");
    let mut sent = Vec::new();
    theirs.read_to_end(&mut sent).await.unwrap();
    let pings = sent.iter().filter(|byte| **byte == 0x89).count();
    assert!((12..=14).contains(&pings), "{pings} pings: {sent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_pings_may_be_silent_for_hours() {
    let stdin = None::<tokio::io::Empty>;
    let (running, mut server) = websocket(command(false, false), stdin, vec![]).await;
    send(&mut server, b"\x01").await;
    let hours = timeout(Duration::from_secs(3 * 3600), async {
        while let Some(message) = server.next().await {
            assert!(message.unwrap().is_ping());
        }
    });
    assert!(hours.await.is_err());
    status(&mut server).await;
    assert_eq!(running.await.unwrap().outcome.unwrap(), 0);
}

/// 108: a command that doesn't read its stdin keeps its server from answering pings.
#[tokio::test(start_paused = true)]
async fn backpressure_is_no_silence() {
    let stdin = tokio::io::repeat(1);
    let (running, mut server) = websocket(command(true, false), Some(stdin), vec![]).await;
    send(&mut server, b"\x01").await;
    sleep(Duration::from_secs(600)).await;
    assert!(!running.is_finished());
    // all that while it could say something, and it counts
    send(&mut server, b"\x01still here").await;
    send(&mut server, &[b"\x03", SUCCESS].concat()).await;
    let Ran { outcome, stdout } = running.await.unwrap();
    assert_eq!((outcome.unwrap(), &stdout[..]), (0, &b"still here"[..]));
}

/// The other way round: nobody takes the output here.
#[tokio::test(start_paused = true)]
async fn a_slow_local_side_is_no_silence_either() {
    let (ours, theirs) = duplex(WIRE);
    let session = Session::websocket(ours, Bytes::new(), &command(false, false)).await;
    let (stdout, mut reader) = duplex(100);
    let running = tokio::spawn(session.run(Local {
        stdin: None::<tokio::io::Empty>,
        stdout,
        stderr: tokio::io::sink(),
        sizes: None::<stream::Empty<Size>>,
    }));
    let mut server = WebSocketStream::from_raw_socket(theirs, Role::Server, None).await;
    send(&mut server, b"\x01").await;
    let sending = tokio::spawn(async move {
        for _ in 0..50 {
            send(&mut server, &[1; 10_000]).await;
        }
        status(&mut server).await;
    });
    sleep(Duration::from_secs(600)).await;
    assert!(!running.is_finished() && !sending.is_finished());
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await.unwrap();
    assert_eq!(all.len(), 50 * 9_999);
    assert_eq!(running.await.unwrap().unwrap(), 0);
}

/// 96.
#[tokio::test(start_paused = true)]
async fn a_server_that_never_begins_is_given_up() {
    for spdy in [false, true] {
        let (ours, _theirs) = duplex(WIRE);
        let command = command(true, false);
        let session = if spdy {
            Session::spdy(ours, Bytes::new(), &command).unwrap()
        } else {
            Session::websocket(ours, Bytes::new(), &command).await
        };
        let started = Instant::now();
        let Ran { outcome, .. } = run(session, Some(tokio::io::repeat(1)), None).await;
        let elapsed = started.elapsed().as_secs();
        match outcome {
            // nothing at all, not even an answer to a PING
            Err(Error::NoStatus(Lost::Cut(_))) if spdy => assert!(elapsed <= 30, "{elapsed} s"),
            Err(Error::NoStatus(Lost::NotStarted)) => assert!((30..=35).contains(&elapsed)),
            outcome => panic!("{outcome:?}"),
        }
    }
}

/// A container runtime on the other end of a wire.
struct Runtime {
    connection: Connection,
    io: DuplexStream,
    opened: Vec<(String, StreamId)>,
}

impl Runtime {
    fn new(io: DuplexStream) -> Self {
        Self {
            connection: Connection::server(Config::default(), Instant::now().into_std()),
            io,
            opened: Vec::new(),
        }
    }

    /// Sends all that is to be sent, and takes in what comes within a second.
    async fn turn(&mut self) {
        while let Some(frame) = self.connection.poll_output() {
            self.io.write_all(&frame.head).await.unwrap();
            self.io.write_all(&frame.body).await.unwrap();
        }
        let mut buffer = vec![0; WIRE];
        let wait = Duration::from_secs(1);
        while let Ok(Ok(length @ 1..)) = timeout(wait, self.io.read(&mut buffer)).await {
            let mut input = Bytes::copy_from_slice(&buffer[..length]);
            let now = Instant::now().into_std();
            self.connection.handle_input(&mut input, now).unwrap();
        }
        while let Some(event) = self.connection.poll_event() {
            if let Event::Opened { id, headers, fin } = event {
                assert!(!fin);
                let kind = headers.get("streamtype").unwrap().to_owned();
                self.opened.push((kind, id));
            }
        }
    }

    fn kinds(&self) -> Vec<&str> {
        self.opened.iter().map(|(kind, _)| kind.as_str()).collect()
    }

    fn id(&self, kind: &str) -> StreamId {
        let found = self.opened.iter().find(|(it, _)| it == kind);
        found.unwrap().1
    }

    fn write(&mut self, kind: &str, bytes: &'static [u8]) {
        let id = self.id(kind);
        let mut bytes = Bytes::from_static(bytes);
        self.connection.write(id, &mut bytes).unwrap();
    }
}

fn over_spdy<R>(command: &Command, stdin: Option<R>, sizes: Vec<Size>) -> (JoinHandle<Ran>, Runtime)
where
    R: AsyncRead + Unpin + Send + 'static,
{
    let (ours, theirs) = duplex(WIRE);
    let session = Session::spdy(ours, Bytes::new(), command).unwrap();
    let sizes = (!sizes.is_empty()).then(|| stream::iter(sizes));
    let running = tokio::spawn(run(session, stdin, sizes));
    (running, Runtime::new(theirs))
}

/// 94.
#[tokio::test(start_paused = true)]
async fn exactly_the_expected_streams_are_opened() {
    for (stdin, tty, kinds) in [
        (false, false, &["error", "stdout", "stderr"][..]),
        (true, false, &["error", "stdin", "stdout", "stderr"]),
        (true, true, &["error", "stdin", "stdout", "resize"]),
    ] {
        let stdin_bytes = stdin.then_some(tokio::io::empty());
        let (running, mut runtime) = over_spdy(&command(stdin, tty), stdin_bytes, vec![]);
        runtime.turn().await;
        assert_eq!(runtime.kinds(), kinds);
        running.abort();
    }
}

/// 95, and how a runtime ends a command: 102.
#[tokio::test(start_paused = true)]
async fn stdin_follows_the_last_reply() {
    let (running, mut runtime) = over_spdy(&command(true, false), Some(&b"input"[..]), vec![]);
    runtime.turn().await;
    for kind in ["stdin", "stdout", "stderr", "error"] {
        let stdin = runtime.id("stdin");
        assert_eq!(
            runtime.connection.read(stdin),
            Err(spdy::ReadError::Blocked),
            "before the reply to {kind}"
        );
        let id = runtime.id(kind);
        runtime.connection.reply(id, &[], false);
        runtime.turn().await;
    }
    let stdin = runtime.id("stdin");
    let input = runtime.connection.read(stdin).unwrap().unwrap();
    assert_eq!(input[..], *b"input");
    assert_eq!(runtime.connection.read(stdin), Ok(None));
    runtime.write("stdout", b"output");
    for kind in ["stdout", "stderr"] {
        let id = runtime.id(kind);
        runtime.connection.finish(id);
    }
    let (head, tail) = SUCCESS.split_at(9);
    runtime.write("error", head);
    runtime.turn().await;
    runtime.write("error", tail);
    runtime.turn().await;
    // RST of what is not finished, then GOAWAY
    runtime.connection.close();
    runtime.turn().await;
    let Ran { outcome, stdout } = running.await.unwrap();
    assert_eq!((outcome.unwrap(), &stdout[..]), (0, &b"output"[..]));
}

/// 107, over SPDY.
#[tokio::test(start_paused = true)]
async fn the_size_goes_before_the_first_key() {
    let sizes = vec![size(80, 24)];
    let (mut keyboard, stdin) = duplex(100);
    keyboard.write_all(b"key").await.unwrap();
    let (running, mut runtime) = over_spdy(&command(true, true), Some(stdin), sizes);
    runtime.turn().await;
    for kind in ["error", "stdin", "stdout", "resize"] {
        let id = runtime.id(kind);
        runtime.connection.reply(id, &[], false);
    }
    runtime.turn().await;
    let resize = runtime.id("resize");
    let document = runtime.connection.read(resize).unwrap().unwrap();
    assert_eq!(document[..], *b"{\"Width\":80,\"Height\":24}\n");
    let stdin = runtime.id("stdin");
    assert_eq!(
        runtime.connection.read(stdin).unwrap().unwrap()[..],
        *b"key"
    );
    // 99: the input's end is not passed on, the session ends instead
    drop(keyboard);
    runtime.turn().await;
    assert!(matches!(
        runtime.connection.read(stdin),
        Err(spdy::ReadError::Reset(_))
    ));
    assert!(matches!(running.await.unwrap().outcome, Err(Error::HungUp)));
}

/// 101: each of these looks like an end.
#[tokio::test(start_paused = true)]
async fn an_end_without_a_status_is_a_failure() {
    for cut in [false, true] {
        let stdin = None::<tokio::io::Empty>;
        let (running, mut runtime) = over_spdy(&command(false, false), stdin, vec![]);
        runtime.turn().await;
        for kind in ["error", "stdout", "stderr"] {
            let id = runtime.id(kind);
            runtime.connection.reply(id, &[], false);
        }
        runtime.write("stdout", b"half of it");
        for kind in ["stdout", "stderr", "error"] {
            let id = runtime.id(kind);
            if !cut {
                runtime.connection.finish(id);
            }
        }
        runtime.turn().await;
        drop(runtime);
        let Ran { outcome, stdout } = running.await.unwrap();
        assert!(matches!(outcome, Err(Error::NoStatus(_))));
        assert_eq!(stdout, b"half of it");
    }
}

/// A server that is done and says no more, but doesn't hang up either.
#[tokio::test(start_paused = true)]
async fn a_connection_that_stays_open_holds_nobody_up() {
    let stdin = None::<tokio::io::Empty>;
    let (running, mut runtime) = over_spdy(&command(false, false), stdin, vec![]);
    runtime.turn().await;
    for kind in ["error", "stdout", "stderr"] {
        let id = runtime.id(kind);
        runtime.connection.reply(id, &[], false);
    }
    runtime.write("error", SUCCESS);
    runtime.write("stdout", b"late, but in time");
    let started = Instant::now();
    runtime.turn().await;
    let Ran { outcome, stdout } = running.await.unwrap();
    assert_eq!(outcome.unwrap(), 0);
    assert_eq!(stdout, b"late, but in time");
    assert!(started.elapsed() < Duration::from_secs(10));
}
