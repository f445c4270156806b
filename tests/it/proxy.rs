//! `kpf proxy`, and clients that know nothing of kpf.

use std::net::SocketAddr;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::program::{Process, TestEnv, in_time, run, until};

struct Proxy {
    process: Process,
    address: SocketAddr,
}

impl Proxy {
    async fn start(env: &TestEnv, words: &[&str]) -> Self {
        let words = [&["proxy", "--listen", "127.0.0.1:0"], words].concat();
        let mut process = Process::start(env.kpf(words));
        let line = process.line().await;
        let address = line
            .strip_prefix("Proxying on ")
            .and_then(|it| it.split_once(": "));
        let address = address
            .unwrap_or_else(|| panic!("{line:?}"))
            .0
            .parse()
            .unwrap();
        Self { process, address }
    }

    /// Sends this, and reads so many bytes, or up to the end.
    async fn talk(&self, sent: &[u8], length: usize) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let mut limited = stream.take(length as u64);
        // a reset ends it as well
        let _ = in_time(limited.read_to_end(&mut answer)).await;
        answer
    }

    async fn connect(&self, authority: &str, sent: &str, length: usize) -> String {
        let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n{sent}");
        let ok = "HTTP/1.1 200 Connection established\r\n\r\n".len();
        String::from_utf8(self.talk(head.as_bytes(), ok + length).await).unwrap()
    }
}

fn socks(host: &str, port: u16) -> Vec<u8> {
    let mut bytes = b"\x05\x01\x00\x05\x01\x00\x03".to_vec();
    bytes.push(host.len().try_into().unwrap());
    bytes.extend(host.bytes());
    bytes.extend(port.to_be_bytes());
    bytes
}

#[tokio::test]
async fn names_of_the_cluster_are_reached_by_both_protocols() {
    let env = TestEnv::new();
    let mut proxy = Proxy::start(&env, &[]).await;
    for host in [
        "echo.default",
        "echo.default.svc",
        "echo.default.svc.cluster.local",
        "echo.default.kpf",
        "svc_echo.default.kpf",
    ] {
        let answer = proxy.connect(&format!("{host}:7"), "hello", 5).await;
        assert_eq!(
            answer, "HTTP/1.1 200 Connection established\r\n\r\nhello",
            "{host}"
        );
        // the request and what follows it in one packet
        let answer = proxy
            .talk(&[&socks(host, 7)[..], b"hello"].concat(), 17)
            .await;
        assert_eq!(
            answer, b"\x05\x00\x05\x00\x00\x01\0\0\0\0\0\0hello",
            "{host}"
        );
    }
    proxy.process.signal(Signal::INT);
    let ended = proxy.process.end().await;
    assert_eq!((ended.code, &ended.stderr[..]), (0, ""));
    until("its tunnels are closed", || {
        env.playground.tunnels().is_empty()
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_had_is_refused_with_a_reason() {
    let env = TestEnv::new();
    let mut proxy = Proxy::start(&env, &["--pod-running-timeout", "2s"]).await;
    for (authority, status, code) in [
        ("nothing.default:80", "404", 4),
        ("echo.default:81", "502", 5),
        ("www.example.com:443", "403", 2),
        ("127.0.0.1:22", "403", 2),
        ("localhost:22", "403", 2),
        ("echo.default.nowhere.kpf:7", "404", 4),
    ] {
        let answer = proxy.connect(authority, "", 1000).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{authority}: {answer}"
        );
        let (host, port) = authority.rsplit_once(':').unwrap();
        let answer = proxy.talk(&socks(host, port.parse().unwrap()), 1000).await;
        assert_eq!(answer[..4], [5, 0, 5, code], "{authority}");
    }
    for (malformed, answer) in [
        (&b"\x04\x01\x00\x50"[..], &b""[..]),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 "),
        (b"CONNECT x HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"\x05\x01\x02", b"\x05\xff"),
    ] {
        assert!(proxy.talk(malformed, 1000).await.starts_with(answer));
    }
    // The others don't mind.
    let answer = proxy.connect("echo.default:7", "x", 1).await;
    assert!(answer.ends_with("\r\n\r\nx"), "{answer}");
    proxy.process.signal(Signal::INT);
    let ended = proxy.process.end().await;
    assert!(
        ended
            .stderr
            .contains("error: proxy to www.example.com:443: it is no name of the cluster"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("panicked"));

    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    for (address, part) in [
        (&taken[..], "unable to listen on"),
        ("1080", "invalid value '1080'"),
    ] {
        let ended = run(env.kpf(["proxy", "--listen", address])).await;
        assert_eq!(
            (ended.code, ended.stderr.lines().count()),
            (1, 1),
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains(part), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_stream_survives_its_pod() {
    let env = TestEnv::new();
    let proxy = Proxy::start(&env, &[]).await;
    for _ in 0..2 {
        let answer = proxy.connect("echo.default:7", "x", 1).await;
        assert!(answer.ends_with("\r\n\r\nx"), "{answer}");
        env.playground.replace_pod("default", "echo");
    }
    let answer = proxy.connect("echo.default:7", "x", 1).await;
    assert!(answer.ends_with("\r\n\r\nx"), "{answer}");
}

#[tokio::test]
async fn elsewhere_is_reached_via_a_pod() {
    let env = TestEnv::new();
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let proxy = Proxy::start(&env, &["--via", "web"]).await;
    let serving = async {
        let (mut stream, _) = server.accept().await.unwrap();
        stream.write_all(b"from elsewhere").await.unwrap();
    };
    let request = [
        &b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01"[..],
        &port.to_be_bytes(),
    ]
    .concat();
    let asked = proxy.talk(&request, 26);
    let (answer, ()) = tokio::join!(asked, serving);
    assert_eq!(&answer[12..], b"from elsewhere");
}
