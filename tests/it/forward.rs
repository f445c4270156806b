//! `kpf forward`: its lines, its connections, and how it ends.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::playground::objects::{Pod, service};
use crate::playground::{Options, kubeconfig};
use crate::program::{Noise, Process, TestEnv, digest_of, in_time, run, until};

/// A kpf or kubectl that forwards, and the addresses that it listens on.
pub(crate) struct Forward {
    pub(crate) process: Process,
    pub(crate) lines: Vec<String>,
    pub(crate) places: Vec<SocketAddr>,
}

impl Forward {
    /// Starts it, and reads so many lines of `Forwarding from`.
    pub(crate) async fn start(command: Command, lines: usize) -> Self {
        let mut forward = Self {
            process: Process::start(command),
            lines: Vec::new(),
            places: Vec::new(),
        };
        for _ in 0..lines {
            let line = forward.process.line().await;
            if line.is_empty() {
                panic!("it is over: {:?}", forward.process.end().await);
            }
            let place = line
                .strip_prefix("Forwarding from ")
                .and_then(|rest| rest.split(' ').next()?.parse().ok());
            forward
                .places
                .push(place.unwrap_or_else(|| panic!("unexpected {line:?}")));
            forward.lines.push(line);
        }
        forward
    }

    pub(crate) async fn connect(&self, index: usize) -> TcpStream {
        connect(self.places[index]).await
    }

    /// Ends it as its user does, and well.
    pub(crate) async fn interrupt(mut self) {
        self.process.signal(Signal::INT);
        assert_eq!(self.process.code().await, 0);
        self.process.nobody_left().await;
    }
}

pub(crate) async fn connect(place: SocketAddr) -> TcpStream {
    in_time(TcpStream::connect(place))
        .await
        .expect("somebody listens")
}

/// Below the range that systems take random ports from, so that no other test gets one of these by chance.
const FIXED: RangeInclusive<u16> = 15_000..=25_000;

/// A port that is free in both families.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // test runs at the same time begin at different places
    let begin = std::process::id() % u32::from(FIXED.end() - FIXED.start());
    let begin = FIXED.start() + u16::try_from(begin).expect("a part of the range");
    loop {
        let port = begin + NEXT.fetch_add(1, Ordering::Relaxed);
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port));
        if v4.is_ok() && v6.is_ok() {
            return port;
        }
    }
}

/// Sends bytes and expects them back.
pub(crate) async fn echo(tcp: &mut TcpStream, bytes: &[u8]) {
    in_time(tcp.write_all(bytes)).await.unwrap();
    let mut heard = vec![0; bytes.len()];
    in_time(tcp.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, bytes);
}

async fn page(tcp: &mut TcpStream) -> String {
    in_time(tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"))
        .await
        .unwrap();
    let mut page = Vec::new();
    while !page.ends_with(b"</html>\n") {
        let n = in_time(tcp.read_buf(&mut page)).await.unwrap();
        assert_ne!(n, 0, "{}", String::from_utf8_lossy(&page));
    }
    String::from_utf8(page).unwrap()
}

/// What a reader gets from a connection that failed: a reset, and not an end.
pub(crate) async fn assert_reset(tcp: &mut TcpStream) {
    let error = in_time(tcp.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn stdout_is_kubectls_line_by_line() {
    let env = TestEnv::new();
    for words in [
        &["forward"][..],
        &["port-forward"],
        &[],
        &["-n", "default"],
        &["--transport=spdy", "forward"],
    ] {
        let port = free_port();
        let spec = format!("{port}:7");
        let command = env.kpf(words.iter().copied().chain(["pod/echo", &spec]));
        let mut forward = Forward::start(command, 2).await;
        assert_eq!(
            forward.lines,
            [
                format!("Forwarding from 127.0.0.1:{port} -> 7\n"),
                format!("Forwarding from [::1]:{port} -> 7\n"),
            ]
        );
        for family in [0, 1] {
            let mut tcp = forward.connect(family).await;
            let handling = forward.process.line().await;
            assert_eq!(handling, format!("Handling connection for {port}\n"));
            echo(&mut tcp, b"hello").await;
        }
        forward.process.signal(Signal::INT);
        let ended = forward.process.end().await;
        assert_eq!(
            (ended.code, &ended.stdout[..], &ended.stderr[..]),
            (0, &b""[..], "")
        );
    }
}

#[tokio::test]
async fn several_ports_of_several_targets() {
    let env = TestEnv::new();
    let words =
        "forward pod/echo :7 :13 team-b/svc/web :http db-0.team-b.kpf :80 --address 127.0.0.1";
    let forward = Forward::start(env.kpf(words.split(' ')), 4).await;
    let remotes: Vec<_> = forward
        .lines
        .iter()
        .map(|line| line.trim_end().rsplit(' ').next().unwrap())
        .collect();
    assert_eq!(remotes, ["7", "13", "8080", "80"]);
    echo(&mut forward.connect(0).await, b"hello").await;
    let mut daytime = String::new();
    let mut tcp = forward.connect(1).await;
    in_time(tcp.read_to_string(&mut daytime)).await.unwrap();
    assert_eq!(daytime, "2026-01-02T03:04:05Z\r\n");
    for (index, pod) in [(2, "<b>web</b>"), (3, "<b>db-0</b>")] {
        let page = page(&mut forward.connect(index).await).await;
        assert!(page.contains(pod), "{page}");
    }
    let mut pods: Vec<_> = env
        .playground
        .tunnels()
        .into_iter()
        .map(|tunnel| format!("{}/{}", tunnel.namespace, tunnel.pod))
        .collect();
    pods.sort();
    pods.dedup();
    assert_eq!(pods, ["default/echo", "team-b/db-0", "team-b/web"]);
    forward.interrupt().await;
}

#[tokio::test]
async fn it_listens_where_it_is_told_to() {
    let env = TestEnv::new();
    let port = free_port();
    for (words, places) in [
        (format!("{port}:7"), vec!["127.0.0.1", "[::1]"]),
        (
            format!("{port}:7 --address localhost"),
            vec!["127.0.0.1", "[::1]"],
        ),
        (format!("{port}:7 --address 127.0.0.1"), vec!["127.0.0.1"]),
        (format!("{port}:7 --address ::1"), vec!["[::1]"]),
        (
            format!("{port}:7 --address 127.0.0.2,127.0.0.1"),
            vec!["127.0.0.1", "127.0.0.2"],
        ),
        (
            format!("{port}:7 --address localhost,127.0.0.2"),
            vec!["127.0.0.1", "127.0.0.2", "[::1]"],
        ),
        (format!("127.0.0.3:{port}:7"), vec!["127.0.0.3"]),
        (format!("[::1]:{port}:7 --address 127.0.0.1"), vec!["[::1]"]),
    ] {
        let command = env.kpf(["pod/echo"].into_iter().chain(words.split(' ')));
        let forward = Forward::start(command, places.len()).await;
        let expected: Vec<_> = places
            .iter()
            .map(|place| format!("Forwarding from {place}:{port} -> 7\n"))
            .collect();
        assert_eq!(forward.lines, expected, "{words}");
        for index in 0..places.len() {
            echo(&mut forward.connect(index).await, b"hello").await;
        }
        forward.interrupt().await;
    }
}

#[tokio::test]
async fn a_random_port_is_the_same_in_both_families() {
    let env = TestEnv::new();
    let forward = Forward::start(env.kpf(["pod/echo", ":7", "0:13"]), 4).await;
    let ports: Vec<_> = forward.places.iter().map(SocketAddr::port).collect();
    assert_eq!((ports[0], ports[2]), (ports[1], ports[3]));
    assert_ne!(ports[0], ports[2]);
    assert!(!ports.contains(&0));
    forward.interrupt().await;
}

#[tokio::test]
async fn names_and_service_ports_lead_to_the_pods_port() {
    let env = TestEnv::new();
    for (target, port, remote) in [
        ("svc/web", ":http", 8080),
        ("svc/web", ":80", 8080),
        ("svc/web", ":number", 8080),
        ("svc/web", ":8080", 8080),
        ("svc/headless", ":80", 80),
        ("svc/headless", ":http", 80),
        ("pod/web", ":http", 8080),
        ("many", ":metrics", 80),
        ("many", ":web", 8080),
        ("deploy/web", ":http", 8080),
        ("sts/db", ":80", 80),
    ] {
        let command = env.kpf([target, port, "--address=127.0.0.1"]);
        let forward = Forward::start(command, 1).await;
        let line = &forward.lines[0];
        assert!(
            line.ends_with(&format!(" -> {remote}\n")),
            "{target} {line}"
        );
        let page = page(&mut forward.connect(0).await).await;
        assert!(page.contains("It works."), "{target}: {page}");
        forward.interrupt().await;
    }
    // the local port is the service's, not the pod's
    let port = free_port();
    env.playground.apply(service(
        "default",
        "moved",
        Some("web"),
        json!([{ "port": port, "targetPort": 80, "protocol": "TCP" }]),
    ));
    let command = env.kpf(["svc/moved", &port.to_string(), "--address=127.0.0.1"]);
    let forward = Forward::start(command, 1).await;
    assert_eq!(
        forward.lines,
        [format!("Forwarding from 127.0.0.1:{port} -> 80\n")]
    );
    forward.interrupt().await;
}

#[tokio::test]
async fn a_failed_connection_ends_alone() {
    let env = TestEnv::new();
    for transport in ["websocket", "spdy"] {
        let words = format!("pod/echo :7 :1006 :1002 --address 127.0.0.1 --transport {transport}");
        let mut forward = Forward::start(env.kpf(words.split(' ')), 3).await;
        let mut other = forward.connect(0).await;
        echo(&mut other, b"before").await;
        for index in [1, 2, 1] {
            assert_reset(&mut forward.connect(index).await).await;
            echo(&mut other, b"after").await;
            echo(&mut forward.connect(0).await, b"a new one").await;
        }
        forward.process.signal(Signal::INT);
        let ended = forward.process.end().await;
        assert_eq!(ended.code, 0);
        let lines: Vec<_> = ended.stderr.lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        for (line, part) in lines.iter().zip(["refused", "reset", "refused"]) {
            let port = if part == "reset" { 1002 } else { 1006 };
            assert!(line.starts_with("error: forwarding "), "{line}");
            assert!(line.contains(&format!("-> {port}: ")), "{line}");
            assert!(line.contains(part), "{line}");
        }
    }
}

#[tokio::test]
async fn fifty_connections_at_once() {
    const LENGTH: usize = 1 << 20;
    let env = TestEnv::new();
    for transport in ["websocket", "spdy"] {
        let words = format!("pod/echo :7 --address 127.0.0.1 --transport {transport}");
        let forward = Forward::start(env.kpf(words.split(' ')), 1).await;
        let mut connections = JoinSet::new();
        for number in 0..50 {
            let place = forward.places[0];
            connections.spawn(async move {
                let (mut reader, writer) = connect(place).await.into_split();
                // each one's bytes are its own
                let length = LENGTH + number;
                let writing = tokio::spawn(Noise::new(length).write_to(writer));
                let heard = in_time(digest_of(&mut reader, length)).await.unwrap();
                assert_eq!(heard, writing.await.unwrap().unwrap());
            });
        }
        while let Some(ended) = connections.join_next().await {
            ended.unwrap();
        }
        forward.interrupt().await;
    }
}

#[tokio::test]
async fn three_hundred_connections_one_after_the_other() {
    let env = TestEnv::new();
    let forward = Forward::start(env.kpf(["echo", ":7", "--address", "127.0.0.1"]), 1).await;
    for number in 0..300u32 {
        echo(&mut forward.connect(0).await, &number.to_be_bytes()).await;
    }
    // what ended on this side ends on the other one
    let tunnels = env.playground.tunnels();
    until("all of them end", || {
        tunnels.iter().all(|tunnel| tunnel.open_pairs() == 0)
    })
    .await;
    assert_eq!(env.playground.sandbox("default", "echo").dials(), 300);
    forward.interrupt().await;
}

#[tokio::test]
async fn half_a_close_loses_nothing() {
    let env = TestEnv::new();
    let forward = Forward::start(env.kpf(["echo", ":7", "--address", "127.0.0.1"]), 1).await;
    let (mut reader, mut writer) = forward.connect(0).await.into_split();
    let sent = Noise::new(8 << 20).digest();
    let writing = tokio::spawn(async move {
        Noise::new(8 << 20).write_to(&mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    // to the end, and not only so many bytes
    let heard = in_time(digest_of(&mut reader, usize::MAX)).await.unwrap();
    assert_eq!(heard, sent);
    writing.await.unwrap();
    forward.interrupt().await;
}

#[tokio::test]
async fn each_signal_ends_it_with_its_code() {
    let env = TestEnv::new();
    for (signal, code) in [(Signal::INT, 0), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let port = free_port();
        let spec = format!("{port}:7");
        let mut forward = Forward::start(env.kpf(["pod/echo", &spec]), 2).await;
        let mut tcp = forward.connect(0).await;
        echo(&mut tcp, b"still open").await;
        forward.process.signal(signal);
        let ended = forward.process.end().await;
        assert_eq!((ended.code, &ended.stderr[..]), (code, ""), "{signal:?}");
        forward.process.nobody_left().await;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("the port is free");
        TcpListener::bind((Ipv6Addr::LOCALHOST, port)).expect("the port is free");
        until("the tunnel is closed", || {
            env.playground.tunnels().is_empty()
        })
        .await;

        // while it waits for a pod
        let before = watches(&env);
        let mut waiting = Process::start(env.kpf(["pod/pending", ":80"]));
        until("it waits", || watches(&env) > before).await;
        waiting.signal(signal);
        let ended = waiting.end().await;
        assert_eq!((ended.code, &ended.stdout[..]), (code, &b""[..]));
    }
}

fn watches(env: &TestEnv) -> usize {
    let requests = env.playground.requests();
    let watch = |query: Option<&str>| query.is_some_and(|query| query.contains("watch="));
    requests
        .iter()
        .filter(|request| watch(request.uri.query()))
        .count()
}

#[tokio::test]
async fn a_port_in_use_is_an_error_at_start() {
    let env = TestEnv::new();
    for taken in [
        TcpListener::bind("127.0.0.1:0").unwrap(),
        TcpListener::bind("[::1]:0").unwrap(),
    ] {
        let port = taken.local_addr().unwrap().port();
        let spec = format!("{port}:7");
        let ended = run(env.kpf(["pod/echo", &spec, ":13"])).await;
        assert_eq!((ended.code, &ended.stdout[..]), (1, &b""[..]));
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        let says = |part: &str| ended.stderr.contains(part);
        assert!(
            says(&format!(":{port}")) && says("in use"),
            "{}",
            ended.stderr
        );
        assert!(says("--allow-partial"), "what to do: {}", ended.stderr);
        assert_eq!(env.playground.tunnels_opened(), 0);
    }
}

#[tokio::test]
async fn with_allow_partial_the_other_ports_go_on() {
    let env = TestEnv::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let spec = format!("{port}:7");
    let command = env.kpf([
        "pod/echo",
        &spec,
        ":13",
        "--address=127.0.0.1",
        "--allow-partial",
    ]);
    let mut forward = Forward::start(command, 1).await;
    assert!(
        forward.lines[0].ends_with(" -> 13\n"),
        "{:?}",
        forward.lines
    );
    forward.process.signal(Signal::INT);
    let ended = forward.process.end().await;
    let said = format!(
        "Unable to listen on port {port}: Listeners failed to create with the following errors: ["
    );
    assert!(ended.stderr.starts_with(&said), "{}", ended.stderr);
    assert_eq!(ended.code, 0);

    // one family is enough for localhost
    let forward = Forward::start(env.kpf(["pod/echo", &spec, "--allow-partial"]), 1).await;
    assert_eq!(
        forward.lines,
        [format!("Forwarding from [::1]:{port} -> 7\n")]
    );
    forward.interrupt().await;

    let command = env.kpf(["pod/echo", &spec, "--address=127.0.0.1", "--allow-partial"]);
    let ended = run(command).await;
    let none = format!("error: unable to listen on any of the requested ports: [{{{port} 7}}]\n");
    assert!(ended.stderr.ends_with(&none), "{}", ended.stderr);
    assert_eq!((ended.code, &ended.stdout[..]), (1, &b""[..]));
}

#[tokio::test]
async fn it_waits_for_a_pod_that_is_not_ready_yet() {
    let env = TestEnv::new();
    for (target, pod, app) in [
        ("pod/pending", "pending", "pending"),
        ("svc/later", "new", "later"),
    ] {
        env.playground.apply(service(
            "default",
            "later",
            Some("later"),
            json!([{ "port": 7, "protocol": "TCP" }]),
        ));
        let (before, opened) = (watches(&env), env.playground.tunnels_opened());
        let start = Forward::start(env.kpf([target, ":7", "--address=127.0.0.1"]), 1);
        let appear = async {
            until("it waits", || watches(&env) > before).await;
            assert_eq!(env.playground.tunnels_opened(), opened, "{target}");
            env.playground.apply(Pod::new("default", pod, app).object());
        };
        let (forward, ()) = tokio::join!(start, appear);
        echo(&mut forward.connect(0).await, b"hello").await;
        forward.interrupt().await;
    }
    let ended = run(env.kpf(["deploy/empty", ":7", "--pod-running-timeout=100ms"])).await;
    assert_eq!((ended.code, &ended.stdout[..]), (1, &b""[..]));
    assert!(ended.stderr.contains("timed out waiting for the condition"));
}

/// kubectl's way, for those who want it.
#[tokio::test]
async fn without_reconnecting_a_lost_tunnel_is_the_end() {
    for transport in ["websocket", "spdy"] {
        for how in ["cut", "close", "go away"] {
            let env = TestEnv::new();
            let words = ["pod/echo", ":7", "--no-reconnect", "--transport", transport];
            let mut forward = Forward::start(env.kpf(words), 2).await;
            let mut tcp = forward.connect(0).await;
            echo(&mut tcp, b"hello").await;
            until("there is one in advance", || {
                env.playground.tunnels().len() == 2
            })
            .await;
            for tunnel in env.playground.tunnels() {
                match how {
                    "cut" => tunnel.cut(),
                    "close" => tunnel.close(),
                    _ => tunnel.go_away(),
                }
            }
            let ended = forward.process.end().await;
            let last = ended.stderr.lines().last().unwrap_or_default();
            assert!(
                last.starts_with("error: lost connection to pod"),
                "{transport} {how}: {last}"
            );
            assert_eq!(ended.code, 1);
            assert_reset(&mut tcp).await;
        }
    }
}

#[tokio::test]
async fn a_script_may_read_one_line_and_no_more() {
    let env = TestEnv::new();
    let mut forward = Forward::start(env.kpf(["pod/echo", ":7"]), 1).await;
    drop(forward.process.stdout.take());
    for _ in 0..3 {
        echo(&mut forward.connect(0).await, b"hello").await;
    }
    forward.interrupt().await;
}

#[tokio::test]
async fn every_kind_of_user_is_let_in() {
    let env = TestEnv::new();
    for user in ["admin", "cert", "basic", "plugin", "create-only"] {
        let context = kubeconfig::context(user);
        let mut command = env.kpf(["pod/echo", ":7", "--context", &context]);
        // a plugin may have stdin here, and doesn't want it
        command.stdin(Stdio::piped());
        let forward = Forward::start(command, 2).await;
        let tunnel = env.playground.tunnels().pop().unwrap();
        let transport = if user == "create-only" {
            "spdy"
        } else {
            "websocket"
        };
        assert_eq!(tunnel.transport, transport, "{user}");
        echo(&mut forward.connect(0).await, b"hello").await;
        forward.interrupt().await;
    }
}

#[tokio::test]
async fn old_servers_are_reached_by_spdy() {
    let env = TestEnv::with(Options {
        server_version: "1.29".to_owned(),
        ..Options::default()
    });
    let forward = Forward::start(env.kpf(["pod/echo", ":7"]), 2).await;
    assert_eq!(env.playground.tunnels()[0].transport, "spdy");
    echo(&mut forward.connect(1).await, b"hello").await;
    forward.interrupt().await;
    let ended = run(env.kpf(["pod/echo", ":7", "--transport=websocket"])).await;
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("query parameter"), "{}", ended.stderr);
    let mut command = env.kpf(["pod/echo", ":7"]);
    command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
    let requests = env.playground.requests().len();
    let forward = Forward::start(command, 2).await;
    let asked = env.playground.requests().split_off(requests);
    assert!(asked.iter().all(|request| !request.is_websocket()));
    forward.interrupt().await;
}
