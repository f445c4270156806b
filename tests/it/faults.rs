//! The playground's faults do what they say; other suites rely on it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use hyper::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::playground::faults::{Answer, Request};
use crate::playground::objects::Pod;
use crate::playground::{Options, Playground, ports};
use crate::upgrade::{self, DEADLINE, End, Reply};

const PATH: &str = "/api/v1/namespaces/default/pods/echo/portforward";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// A PING of the server's.
const PING: &[u8] = &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2];

fn playground() -> Playground {
    Playground::start(Options::default()).expect("a playground")
}

async fn get(playground: &Playground, path: &str) -> Reply {
    upgrade::request(playground, "admin", Method::GET, path, &[]).await
}

#[tokio::test]
async fn answers_are_replaced_once_or_always() {
    let playground = playground();
    let busy = Answer::Text {
        code: StatusCode::TOO_MANY_REQUESTS,
        headers: vec![("retry-after", "60".to_owned())],
        body: "try later".to_owned(),
    };
    playground.answer_next(Request::is_spdy, busy);
    let reply = upgrade::spdy(&playground, "admin", PATH).await;
    assert_eq!(
        (reply.status(), reply.body()),
        (StatusCode::TOO_MANY_REQUESTS, "try later")
    );
    assert_eq!(reply.headers()["retry-after"], "60");
    let reply = upgrade::spdy(&playground, "admin", PATH).await;
    assert_eq!(reply.status(), StatusCode::SWITCHING_PROTOCOLS);

    let down = Answer::Status {
        code: StatusCode::INTERNAL_SERVER_ERROR,
        reason: "InternalError",
        message: "error dialing backend".to_owned(),
    };
    playground.answer(Request::is_upgrade, usize::MAX, down);
    for _ in 0..3 {
        let reply = upgrade::websocket(&playground, "admin", PATH, TUNNEL).await;
        assert_eq!(reply.message(), "error dialing backend");
    }
    playground.answer_as_usual();
    let reply = upgrade::websocket(&playground, "admin", PATH, TUNNEL).await;
    assert_eq!(reply.headers()["sec-websocket-protocol"], TUNNEL);
}

#[tokio::test]
async fn a_raw_answer_is_all_that_is_sent() {
    let playground = playground();
    let raw = Bytes::from_static(b"HTTP/1.1 403 Forbidden\r\n\r\n");
    playground.answer_next(Request::is_upgrade, Answer::Raw(raw));
    let reply = upgrade::spdy(&playground, "admin", PATH).await;
    assert_eq!(reply.status(), StatusCode::FORBIDDEN);
    assert!(reply.headers().is_empty(), "{:?}", reply.headers());
    assert_eq!(reply.body(), "");
}

#[tokio::test]
async fn a_script_has_the_upgraded_connection() {
    let playground = playground();
    let script = Answer::script(|mut io| async move {
        io.write_all(b"\x80\x03nonsense").await?;
        io.shutdown().await
    });
    playground.answer_next(Request::is_spdy, script);
    let mut io = upgrade::spdy(&playground, "admin", PATH).await.io();
    let mut heard = Vec::new();
    timeout(DEADLINE, io.read_to_end(&mut heard))
        .await
        .expect("an end in time")
        .expect("a clean end");
    assert_eq!(heard, b"\x80\x03nonsense");
}

#[tokio::test]
async fn early_bytes_come_first_and_the_tunnel_goes_on() {
    let playground = playground();
    let early = Answer::Early(Bytes::from_static(PING));
    playground.answer_next(Request::is_spdy, early);
    let mut io = upgrade::spdy(&playground, "admin", PATH).await.io();
    let mut heard = [0; PING.len()];
    timeout(DEADLINE, io.read_exact(&mut heard))
        .await
        .expect("bytes in time")
        .expect("bytes");
    assert_eq!(heard, PING);
    // an odd PING is echoed by the server behind
    let odd = [&PING[..11], &[1]].concat();
    io.write_all(&odd).await.expect("a server");
    io.flush().await.expect("a server");
    timeout(DEADLINE, io.read_exact(&mut heard))
        .await
        .expect("bytes in time")
        .expect("bytes");
    assert_eq!(heard, odd[..]);
}

#[tokio::test]
async fn a_tunnel_can_be_closed_said_goodbye_to_and_cut() {
    let playground = playground();
    for (order, end) in [("close", "end"), ("go away", "end"), ("cut", "error")] {
        let mut io = upgrade::spdy(&playground, "admin", PATH).await.io();
        let tunnel = loop {
            // the registration comes with the 101, its driver a moment later
            if let Some(tunnel) = playground.tunnels().pop() {
                break tunnel;
            }
            tokio::task::yield_now().await;
        };
        match order {
            "close" => tunnel.close(),
            "go away" => tunnel.go_away(),
            _ => tunnel.cut(),
        }
        let mut heard = Vec::new();
        let ended = timeout(DEADLINE, io.read_to_end(&mut heard))
            .await
            .expect("an end in time");
        assert_eq!(ended.is_ok(), end == "end", "{order}: {ended:?}");
        let goodbye: &[u8] = match order {
            "go away" => &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0],
            _ => &[],
        };
        assert_eq!(heard, goodbye, "{order}");
        let gone = async {
            while !playground.tunnels().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(DEADLINE, gone)
            .await
            .expect("the tunnel leaves the list");
    }
}

#[tokio::test]
async fn bytes_are_injected_into_a_websocket_too() {
    let playground = playground();
    let reply = upgrade::websocket(&playground, "admin", PATH, TUNNEL).await;
    let mut socket = reply.websocket().await;
    playground.tunnels()[0].inject(PING);
    let message = timeout(DEADLINE, socket.next())
        .await
        .expect("a message in time");
    assert_eq!(
        message.expect("a message").expect("a message").into_data(),
        PING
    );
}

#[tokio::test]
async fn a_stalled_tunnel_goes_on_where_it_was() {
    let playground = playground();
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let pair = client.open("7").await;
    client.write(pair.data, b"before").await;
    assert_eq!(client.read(pair.data, 6).await.0, b"before");
    let tunnel = &playground.tunnels()[0];
    tunnel.stall_reads(true);
    client.write(pair.data, b"during").await;
    let silence = timeout(Duration::from_millis(200), client.read(pair.data, 6)).await;
    assert!(silence.is_err(), "an answer from a stalled tunnel");
    tunnel.stall_reads(false);
    assert_eq!(client.read(pair.data, 6).await.0, b"during");
    assert_eq!(
        (tunnel.streams(), tunnel.pairs(), tunnel.open_pairs()),
        (2, 1, 1)
    );
}

#[tokio::test]
async fn a_killed_pod_ends_its_connections() {
    let playground = playground();
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let pair = client.open("7").await;
    client.write(pair.data, b"x").await;
    assert_eq!(client.read(pair.data, 1).await.0, b"x");
    let before = playground.pod("default", "echo").expect("a pod");
    playground.replace_pod("default", "echo");
    assert_eq!(client.read_to_end(pair.data).await.1, End::Fin);
    let after = playground.pod("default", "echo").expect("a pod");
    assert_ne!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert!(after["metadata"]["deletionTimestamp"].is_null());
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let pair = client.open("7").await;
    client.write(pair.data, b"y").await;
    assert_eq!(client.read(pair.data, 1).await.0, b"y");
}

#[tokio::test]
async fn the_server_can_stop_and_resume() {
    let playground = playground();
    assert_eq!(get(&playground, "/version").await.status(), StatusCode::OK);
    playground.stop();
    let refused = async {
        while tokio::net::TcpStream::connect(playground.address())
            .await
            .is_ok()
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, refused).await.expect("nobody listens");
    playground.resume().expect("the same port");
    assert_eq!(get(&playground, "/version").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn requests_are_remembered_without_secrets() {
    let playground = playground();
    get(&playground, "/api/v1/pods?limit=1").await;
    let requests = playground.requests();
    let [request] = &requests[..] else {
        panic!("{requests:?}")
    };
    assert_eq!(
        (&request.method, request.path()),
        (&Method::GET, "/api/v1/pods")
    );
    assert_eq!(request.headers["authorization"], "Bearer");
    assert_eq!(request.server_name.as_deref(), Some("localhost"));
    assert_eq!(playground.connections_accepted(), 1);
}

#[tokio::test]
async fn a_watch_sees_what_happens_and_can_expire() {
    let playground = playground();
    let list = get(
        &playground,
        "/api/v1/namespaces/default/pods?labelSelector=app%3Dwatched",
    )
    .await;
    let list: serde_json::Value = serde_json::from_str(list.body()).expect("a list");
    assert_eq!(list["items"], serde_json::json!([]));
    let version = list["metadata"]["resourceVersion"]
        .as_str()
        .expect("a version")
        .to_owned();
    playground.apply(Pod::new("default", "new", "watched").object());
    playground.delete_pod("default", "new");
    let path = "/api/v1/namespaces/default/pods?watch=1&timeoutSeconds=1&labelSelector=app%3Dwatched&resourceVersion=";
    let events = get(&playground, &format!("{path}{version}")).await;
    let changes: Vec<_> = events
        .body()
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("an event")["type"].clone()
        })
        .collect();
    assert_eq!(changes, ["ADDED", "MODIFIED", "DELETED"]);
    playground.compact();
    let events = get(&playground, &format!("{path}{version}")).await;
    let event: serde_json::Value = serde_json::from_str(events.body()).expect("an event");
    assert_eq!(
        (&event["type"], &event["object"]["code"]),
        (&"ERROR".into(), &410.into())
    );
}

#[tokio::test]
async fn discard_counts_and_stall_holds_up() {
    let playground = playground();
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let pair = client.open(&ports::DISCARD.to_string()).await;
    client.write(pair.data, &vec![0; 100_000]).await;
    let sandbox = playground.sandbox("default", "echo");
    let counted = async {
        while sandbox.discarded() < 100_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, counted).await.expect("all of it");

    // a pod that never reads holds up the connection once every buffer on the way is full
    let stalled = client.open(&ports::STALL.to_string()).await;
    let chunk = vec![0; 1 << 20];
    let flood = async {
        loop {
            client.write(stalled.data, &chunk).await;
        }
    };
    assert!(timeout(Duration::from_secs(2), flood).await.is_err());
    assert_eq!(sandbox.dials(), 2);
}
