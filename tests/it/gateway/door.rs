//! The gateway's door with a real SSH engine behind it, against clients that are slow, many or only curious.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kpf::ssh::door::{Config, Door, Limit, Watch, startups};
use kpf::ssh::host_key::Store;
use rustix::process::{Resource, Rlimit, setrlimit};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::time::sleep;

use crate::program::{Process, in_time, until};
use crate::tools;

/// Whom nobody logs in to.
struct Nobody;

impl russh::server::Handler for Nobody {
    type Error = russh::Error;
}

/// Lets connections in and gives them to russh.
async fn open(config: Config) -> (SocketAddr, Watch) {
    let keys = TempDir::new().unwrap();
    let store = Store::File(keys.path().join("host_key"));
    let host_keys = store.load_or_make(SystemTime::now()).await.unwrap();
    let ssh = Arc::new(russh::server::Config {
        keys: host_keys.keys().to_vec(),
        ..russh::server::Config::default()
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut door = Door::new(vec![listener], config);
    let watch = door.watch();
    tokio::spawn(async move {
        loop {
            let admitted = door.accept().await;
            let ssh = ssh.clone();
            tokio::spawn(async move {
                let _permit = admitted.permit;
                if let Ok(session) = russh::server::run_stream(ssh, admitted.stream, Nobody).await {
                    let _ = session.await;
                }
            });
        }
    });
    (address, watch)
}

/// Each number is another source.
async fn connect_from(number: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, number], 0).into()).unwrap();
    in_time(socket.connect(to)).await.unwrap()
}

/// Whether SSH is spoken.
async fn greets(stream: TcpStream) -> bool {
    let mut line = String::new();
    let read = in_time(BufReader::new(stream).read_line(&mut line)).await;
    read.is_ok() && line.starts_with("SSH-2.0-")
}

/// Reads until the other side has closed.
async fn closed(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(1..) = in_time(stream.read(&mut buffer)).await {}
}

#[tokio::test]
async fn whoever_is_slow_is_cut_off_and_others_get_in() {
    let grace = Duration::from_secs(1);
    let config = Config {
        grace,
        startups: startups::Limits {
            per_source: 40,
            begin: 100,
            full: 200,
            ..startups::Limits::default()
        },
        ..Config::default()
    };
    let (address, watch) = open(config).await;
    let begin = Instant::now();
    let ident: &[u8] = b"SSH-2.0-slow\r\n";
    // What is sent at once, and what then byte by byte.
    let packet: &[u8] = &[0, 0, 4, 0, 10, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    let kinds: [(&[u8], &[u8]); 4] = [(b"", b""), (b"", ident), (ident, b""), (ident, packet)];
    let mut slow = Vec::new();
    for (kind, (at_once, trickle)) in kinds.into_iter().enumerate() {
        for _ in 0..10 {
            let mut stream = connect_from(kind as u8 + 2, address).await;
            slow.push(tokio::spawn(async move {
                stream.write_all(at_once).await.unwrap();
                for byte in trickle {
                    sleep(Duration::from_millis(200)).await;
                    if stream.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                }
                closed(stream).await;
            }));
        }
    }
    until("all are in", || watch.unauthenticated() == 40).await;
    assert!(greets(connect_from(1, address).await).await);
    for one in slow {
        in_time(one).await.unwrap();
    }
    assert!(begin.elapsed() >= grace);
    until("all are gone", || watch.connections() == 0).await;
    assert_eq!(watch.refused(Limit::Grace), 40);
    // Ten times ten seconds each: all four are turned away.
    assert_eq!(watch.penalised(), 4);
    assert!(!greets(connect_from(2, address).await).await);
    assert!(greets(connect_from(1, address).await).await);
}

#[tokio::test]
async fn a_key_scan_finds_the_key_and_is_not_penalised() {
    let Some(keyscan) = tools::find("ssh-keyscan") else {
        return;
    };
    let (address, watch) = open(Config::default()).await;
    for _ in 0..2 {
        let mut command = Command::new(&keyscan);
        command
            .args(["-T", "20", "-p", &address.port().to_string(), "127.0.0.1"])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = in_time(command.output()).await.unwrap();
        let keys = String::from_utf8(output.stdout).unwrap();
        assert!(keys.contains("ssh-ed25519"), "{keys}");
    }
    until("all are gone", || watch.connections() == 0).await;
    assert_eq!(watch.penalised(), 0);
    assert!(greets(connect_from(1, address).await).await);
}

#[tokio::test]
async fn what_is_no_ssh_gets_nothing() {
    let (address, watch) = open(Config::default()).await;
    let no_end = vec![b'x'; 100_000];
    let begins_well = [b"SSH-2.0-", &no_end[..]].concat();
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &no_end, &begins_well] {
        let mut stream = connect_from(1, address).await;
        let _ = stream.write_all(nonsense).await; // it may be closed by then
        closed(stream).await;
    }
    until("all are gone", || watch.connections() == 0).await;
}

/// In a process with few descriptors: this file's server, until its stdin ends.
const CHILD: &str = "gateway::door::a_process_with_few_descriptors";
/// What tells such a process from a test.
const IS_CHILD: &str = "KPF_TEST_DOOR_CHILD";
const DESCRIPTORS: u64 = 64;

/// What the next test starts again, in a process of its own; there is nothing to it otherwise.
#[tokio::test]
async fn a_process_with_few_descriptors() {
    if std::env::var_os(IS_CHILD).is_none() {
        return;
    }
    let limit = Rlimit {
        current: Some(DESCRIPTORS),
        maximum: Some(DESCRIPTORS),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let many = 100_000;
    let config = Config {
        startups: startups::Limits {
            begin: many,
            rate: 30,
            full: many,
            per_source: many,
        },
        max_connections: many,
        ..Config::default()
    };
    let (address, watch) = open(config).await;
    let mut stdout = tokio::io::stdout();
    let port = format!("\nPORT {}\n", address.port());
    stdout.write_all(port.as_bytes()).await.unwrap();
    stdout.flush().await.unwrap();
    let mut all = Vec::new();
    tokio::io::stdin().read_to_end(&mut all).await.unwrap();
    let hit = format!("\nHIT {}\n", watch.refused(Limit::Resources));
    stdout.write_all(hit.as_bytes()).await.unwrap();
    stdout.flush().await.unwrap();
}

#[tokio::test]
async fn a_flood_takes_all_descriptors_and_the_door_opens_again() {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", CHILD, "--nocapture"])
        .env(IS_CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = Process::start(command);
    let port = loop {
        let line = child.line().await;
        assert!(!line.is_empty(), "the child has ended");
        if let Some(port) = line.trim().strip_prefix("PORT ") {
            break port.parse::<u16>().unwrap();
        }
    };
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut flood = Vec::new();
    for _ in 0..3 * DESCRIPTORS {
        flood.push(connect_from(1, address).await);
    }
    // Those that fit are greeted; the others wait.
    let mut greeted = 0;
    for stream in &mut flood[..DESCRIPTORS as usize / 2] {
        let mut byte = [0];
        greeted += in_time(stream.read(&mut byte)).await.unwrap();
    }
    assert_eq!(greeted as u64, DESCRIPTORS / 2);
    // Long enough that accept has failed for want of descriptors, more than once.
    sleep(Duration::from_millis(300)).await;
    drop(flood);
    let begin = Instant::now();
    assert!(greets(connect_from(2, address).await).await);
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );

    drop(child.stdin.take());
    let mut hits = 0;
    loop {
        let line = child.line().await;
        if let Some(hit) = line.trim().strip_prefix("HIT ") {
            hits = hit.parse::<u64>().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    assert!(
        (1..100).contains(&hits),
        "{hits}: never, or without a pause"
    );
    assert_eq!(child.code().await, 0);
}
