//! Channels to ports: jumps, and forwarding.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Gateway, says};
use crate::playground::ports;
use crate::program::{Noise, Process, digest_of, feed, in_time, run, until};

/// A port that nobody has; the next one who asks may get it.
async fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap().port()
}

async fn connect(port: u16) -> TcpStream {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    in_time(async {
        loop {
            if let Ok(tcp) = TcpStream::connect(address).await {
                return tcp;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Row 40: what comes in is what went out, and the end too.
#[tokio::test]
async fn stdin_and_stdout_become_a_port() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let ended = feed(gateway.ssh(&["-W", "echo.default:7", "gw"]), b"hello\n").await;
    assert_eq!(ended.stdout, b"hello\n", "{}", ended.stderr);
    assert_eq!(ended.code, 0);
    // a server that speaks first
    let ended = feed(gateway.ssh(&["-W", "echo.default:13", "gw"]), b"").await;
    assert_eq!(ended.stdout, b"2026-01-02T03:04:05Z\r\n");
    // the service's port, not the pod's
    let request = b"GET / HTTP/1.0\r\n\r\n";
    let ended = feed(gateway.ssh(&["-W", "svc_web.default:80", "gw"]), request).await;
    assert!(ended.stdout.starts_with(b"HTTP/1."), "{}", ended.stderr);
}

/// §0.1's second case: russh alone stops here.
#[tokio::test]
async fn an_echo_of_a_hundred_megabytes() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let length = 100 << 20;
    let mut process = Process::start(gateway.fed(&["-W", "echo.default:7", "gw"]));
    let stdin = process.stdin.take().unwrap();
    let stdout = process.stdout.take().unwrap();
    let (sent, heard) = tokio::join!(
        in_time(Noise::new(length).write_to(stdin)),
        in_time(digest_of(stdout, length)),
    );
    assert_eq!(heard.unwrap(), sent.unwrap());
}

/// Row 39, by a second host in between.
#[tokio::test]
async fn a_chain_of_jumps() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let words = [
        "-J",
        "direct,gw",
        "-oHostName=sshd.default",
        "jump",
        "echo there; exit 4",
    ];
    let ended = run(gateway.ssh(&words)).await;
    assert_eq!(ended.stdout, b"there\n", "{}", ended.stderr);
    assert_eq!(ended.code, 4);
}

/// Rows 43 and 62, and threat 27: each with a reason, and nothing but pods can be reached.
#[tokio::test]
async fn what_is_no_pod_is_refused_with_a_reason() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    for (to, part) in [
        ("echo.default:1006", "connection refused"),
        (
            "nothing.default:22",
            "there is no such pod, or you may not reach it",
        ),
        (
            "echo.nowhere:22",
            "there is no such pod, or you may not reach it",
        ),
        ("169.254.169.254:80", "is no cluster"),
        ("kubernetes.default.svc:443", "is no cluster"),
        ("localhost:22", "log in as OBJECT.NAMESPACE"),
        ("127.0.0.1:22", "log in as OBJECT.NAMESPACE"),
        ("[::1]:22", "log in as OBJECT.NAMESPACE"),
        ("2130706433:22", "lacks a namespace"),
        ("0.0.0.0:22", "is no cluster"),
        ("web:22", "lacks a namespace"),
        ("svc_web.default:22", "does not have a service port 22"),
    ] {
        let words = ["-oLogLevel=INFO", "-W", to, "gw"];
        let ended = feed(gateway.ssh(&words), b"").await;
        assert_eq!(ended.code, 255, "{to}");
        assert!(ended.stderr.contains(part), "{to}: {}", ended.stderr);
    }
}

/// Rows 41 to 45: a hundred connections at once, into the pod that was logged in to; a refused one harms no other.
#[tokio::test]
async fn local_forwards_lead_into_the_pod() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let [echo, time, nobody, socks] = [
        free_port().await,
        free_port().await,
        free_port().await,
        free_port().await,
    ];
    let [to_echo, to_time, to_nobody] = [
        format!("{echo}:localhost:{}", ports::ECHO),
        format!("{time}:127.0.0.1:{}", ports::DAYTIME),
        format!("{nobody}:[::1]:{}", ports::REFUSED),
    ];
    let socks_port = socks.to_string();
    let mut session = Process::start(gateway.fed(&[
        "-oExitOnForwardFailure=yes",
        "-L",
        &to_echo,
        "-L",
        &to_time,
        "-L",
        &to_nobody,
        "-D",
        &socks_port,
        "exec",
        "echo ready; cat",
    ]));
    says(&mut session, "ready").await;
    let mut connections = JoinSet::new();
    for number in 0..100u32 {
        connections.spawn(async move {
            let mut tcp = connect(echo).await;
            let text = format!("connection {number}\n").repeat(100);
            tcp.write_all(text.as_bytes()).await.unwrap();
            tcp.shutdown().await.unwrap();
            let mut heard = Vec::new();
            in_time(tcp.read_to_end(&mut heard)).await.unwrap();
            heard == text.as_bytes()
        });
    }
    let whole = connections.join_all().await;
    let whole = whole.into_iter().filter(|whole| *whole).count();
    assert_eq!(whole, 100);

    let mut heard = String::new();
    let mut tcp = connect(time).await;
    in_time(tcp.read_to_string(&mut heard)).await.unwrap();
    assert_eq!(heard, "2026-01-02T03:04:05Z\r\n");
    let mut tcp = connect(nobody).await;
    assert_eq!(in_time(tcp.read(&mut [0; 1])).await.unwrap_or(0), 0);

    // SOCKS5, no authentication, CONNECT to the name `localhost`
    let mut tcp = connect(socks).await;
    tcp.write_all(b"\x05\x01\x00").await.unwrap();
    let mut answer = [0; 2];
    in_time(tcp.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, [5, 0]);
    tcp.write_all(b"\x05\x01\x00\x03\x09localhost\x00\x07")
        .await
        .unwrap();
    let mut answer = [0; 10];
    in_time(tcp.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[1], 0);
    tcp.write_all(b"socks").await.unwrap();
    let mut answer = [0; 5];
    in_time(tcp.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"socks");
    drop(tcp);

    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"still here\n").await.unwrap();
    says(&mut session, "still here").await;
    drop(stdin);
    assert_eq!(session.code().await, 0);
}

/// Rows 44, 51 and 52: russh alone hangs here.
#[tokio::test]
async fn a_stalled_forward_stops_nobody_else() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let stall = free_port().await;
    let forward = format!("{stall}:localhost:{}", ports::STALL);
    let socket = gateway.folder().join("master");
    let path = format!("-oControlPath={}", socket.display());
    let mut master = Process::start(gateway.ssh(&["-M", "-N", "-L", &forward, &path, "exec"]));
    until("the master is there", || socket.exists()).await;
    let mut tcp = connect(stall).await;
    let stuffing = tokio::spawn(async move {
        let block = vec![b'x'; 1 << 16];
        for _ in 0..512 {
            let writing = tcp.write_all(&block);
            if tokio::time::timeout(Duration::from_secs(2), writing)
                .await
                .is_err()
            {
                break;
            }
        }
        tcp
    });
    for number in 0..10 {
        let word = format!("echo {number}");
        let ended = run(gateway.ssh(&[&path, "exec", &word])).await;
        let expected = format!("{number}\n");
        assert_eq!(ended.stdout, expected.as_bytes(), "{}", ended.stderr);
    }
    let _tcp = in_time(stuffing).await.unwrap();
    let ended = run(gateway.ssh(&[&path, "exec", "echo alive"])).await;
    assert_eq!(ended.stdout, b"alive\n", "{}", ended.stderr);
    let ended = run(gateway.ssh(&["-O", "exit", &path, "exec"])).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    master.code().await;
    // The node has one reader for a tunnel, and that one is stuck: its end is no measure.
    until("the gateway's connections are closed", || {
        gateway.sockets() <= RESTING
    })
    .await;
}

/// Sockets of a gateway without connections: what it listens on, and one that is kept for the next request.
const RESTING: usize = 2;

/// A pod that was made anew under the same name is another pod.
#[tokio::test]
async fn a_connection_keeps_to_the_pod_that_it_first_reached() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let socket = gateway.folder().join("master");
    let path = format!("-oControlPath={}", socket.display());
    let mut master = Process::start(gateway.ssh(&["-M", "-N", &path, "exec"]));
    until("the master is there", || socket.exists()).await;
    let echo = ["-oLogLevel=INFO", &path, "exec", "echo same"];
    assert_eq!(run(gateway.ssh(&echo)).await.stdout, b"same\n");
    gateway.env.playground.replace_pod("default", "web");
    let ended = run(gateway.ssh(&echo)).await;
    assert_eq!(ended.code, 255);
    assert!(ended.stderr.contains("was replaced"), "{}", ended.stderr);
    run(gateway.ssh(&["-O", "exit", &path, "exec"])).await;
    master.code().await;
    assert_eq!(
        run(gateway.ssh(&["exec", "echo new"])).await.stdout,
        b"new\n"
    );
}
