use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::ssh::audit::{About, Audit, Kind, OnFailure, Redact};
use crate::ssh::door::{Config, Door};

const SOON: Duration = Duration::from_secs(20);

/// The whole answer to one request on a connection of its own.
async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(SOON, stream.read_to_string(&mut answer)).await;
    read.unwrap().unwrap();
    answer
}

async fn served(status: Status) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, Arc::new(status)));
    address
}

#[tokio::test]
async fn all_is_told_by_its_documented_name() {
    let folder = tempfile::TempDir::new().unwrap();
    let sink = crate::ssh::audit::SinkConfig {
        kind: crate::ssh::audit::SinkKind::File(folder.path().join("log")),
        required: true,
    };
    let audit = Audit::open("gw", &[sink], OnFailure::Deny, Redact::default()).unwrap();
    let _ = audit
        .write(About::default(), Kind::SessionStart {})
        .unwrap();
    let ssh = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = ssh.local_addr().unwrap();
    let mut door = Door::new(vec![ssh], Config::default());
    let _client = TcpStream::connect(to).await.unwrap();
    let _admitted = timeout(SOON, door.accept()).await.unwrap();

    let metrics = Metrics::new();
    let _session = metrics.session("relay", "prod-eu");
    let _channel = metrics.channel("session");
    metrics.handshake("ok", "mlkem768x25519-sha256");
    metrics.auth("cert", "ok");
    metrics.logged_in(Duration::from_millis(70));
    metrics.session_lasted(Duration::from_secs(70));
    metrics.bytes("relay", "out").add(17);
    metrics.target_error("denied");
    metrics.dialled("prod-eu", "relay", Duration::from_millis(7));
    metrics.recheck("ok");
    metrics.recorded(1000, false);
    metrics.limit_hit(Limit::Channels);
    metrics.host_key_mismatch();
    let address = served(Status {
        metrics,
        door: Some(door.watch()),
        audit: Some(audit),
        ready: Box::new(|| Ok(())),
    })
    .await;
    let answer = ask(address, "GET /metrics HTTP/1.1").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    for line in [
        "connections{state=\"preauth\"} 1",
        "connections{state=\"auth\"} 0",
        "handshakes_total{result=\"ok\",kex=\"mlkem768x25519-sha256\"} 1",
        "auth_total{method=\"cert\",result=\"ok\"} 1",
        "auth_seconds_bucket{le=\"0.1\"} 1",
        "auth_seconds_count 1",
        "penalties_active 0",
        "sessions{backend=\"relay\",cluster=\"prod-eu\"} 1",
        "session_seconds_sum 70",
        "channels{type=\"session\"} 1",
        "bytes_total{backend=\"relay\",dir=\"out\"} 17",
        "target_errors_total{reason=\"denied\"} 1",
        "dial_seconds_count{cluster=\"prod-eu\",backend=\"relay\"} 1",
        "recheck_total{result=\"ok\"} 1",
        "events_total{sink=\"0-file\",result=\"queued\"} 1",
        "recording_bytes_total 1000",
        "recording_failures_total 1",
        "limits_hit_total{limit=\"channels\"} 1",
        "limits_hit_total{limit=\"startups\"} 0",
        "host_key_mismatch_total 1",
    ] {
        assert!(
            body.contains(&format!("\nkpf_gateway_{line}\n")),
            "{line}\n{body}"
        );
    }
    // Every sample follows its family's type, as the format wants it.
    let mut family = "";
    for line in body.lines() {
        match line.strip_prefix("# TYPE ") {
            Some(rest) => family = rest.split_once(' ').unwrap().0,
            None if line.starts_with('#') => {}
            None => assert!(line.starts_with(family), "{line}"),
        }
    }
}

#[tokio::test]
async fn probes() {
    let trouble = Arc::new(Mutex::new(None::<String>));
    let told = trouble.clone();
    let address = served(Status {
        metrics: Metrics::new(),
        door: None,
        audit: None,
        ready: Box::new(move || told.lock().unwrap().clone().map_or(Ok(()), Err)),
    })
    .await;
    let status = async |request: &str| {
        let answer = ask(address, request).await;
        answer.lines().next().unwrap()[9..].to_owned()
    };
    assert_eq!(status("GET /readyz HTTP/1.1").await, "200 OK");
    *trouble.lock().unwrap() = Some("no cluster".to_owned());
    let answer = ask(address, "GET /readyz HTTP/1.1").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.ends_with("\r\n\r\nno cluster\n"),
        "{answer}"
    );
    assert_eq!(status("GET /healthz HTTP/1.1").await, "200 OK");
    assert_eq!(status("HEAD /healthz HTTP/1.1").await, "200 OK");
    assert_eq!(status("GET / HTTP/1.1").await, "404 Not Found");
    assert_eq!(
        status("POST /metrics HTTP/1.1").await,
        "405 Method Not Allowed"
    );
    assert_eq!(status("nonsense").await, "400 Bad Request");
}

#[tokio::test]
async fn whoever_is_slow_holds_nobody_up() {
    let address = served(Status {
        metrics: Metrics::new(),
        door: None,
        audit: None,
        ready: Box::new(|| Ok(())),
    })
    .await;
    let mut slow = Vec::new();
    for _ in 0..80 {
        slow.push(TcpStream::connect(address).await.unwrap());
    }
    let begin = Instant::now();
    let answer = ask(address, "GET /healthz HTTP/1.1").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(begin.elapsed() < SOON);
}
