//! The table of port tests that every Kubernetes port-forward server is held to: bad ports are refused, the smallest
//! and the greatest work, with data both ways, with and without the pod's uid.

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::playground::faults::{Behaviour, Ending, Replies};
use crate::playground::ports::{self, Service};
use crate::playground::{Options, Playground};
use crate::upgrade::{self, DEADLINE, End};

const PATH: &str = "/api/v1/namespaces/default/pods/echo/portforward";
const BAD_PORTS: [&str; 5] = ["", "abc", "-1", "0", "65536"];
const GOOD_PORTS: [u16; 3] = [1, 8000, 65535];
const FROM_POD: &[u8] = b"data from the pod";
const FROM_CLIENT: &[u8] = b"data from the client";

fn playground() -> Playground {
    Playground::start(Options::default()).expect("a playground")
}

/// A service that speaks first, then wants to hear its client.
fn conversation() -> Service {
    Service::handler(|mut tcp| async move {
        tcp.write_all(FROM_POD).await?;
        let mut heard = vec![0; FROM_CLIENT.len()];
        tcp.read_exact(&mut heard).await?;
        let verdict: &[u8] = if heard == FROM_CLIENT {
            b" heard"
        } else {
            b" misheard"
        };
        tcp.write_all(verdict).await
    })
}

fn conversation_result() -> Vec<u8> {
    [FROM_POD, b" heard"].concat()
}

#[tokio::test]
async fn spdy_resets_streams_with_bad_ports() {
    let playground = playground();
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    for port in BAD_PORTS {
        let pair = client.open(port).await;
        for id in [pair.error, pair.data] {
            let ended = client.read_to_end(id).await;
            assert_eq!(ended, (vec![], End::Reset(5)), "port {port:?}");
        }
    }
    // and the connection is none the worse
    let pair = client.open("13").await;
    let (line, end) = client.read_to_end(pair.data).await;
    assert_eq!((line.len(), end), (22, End::Fin));
}

#[tokio::test]
async fn spdy_forwards_all_good_ports() {
    let playground = playground();
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    for port in GOOD_PORTS {
        playground.serve("default", "echo", port, conversation());
        let pair = client.open(&port.to_string()).await;
        client.write(pair.data, FROM_CLIENT).await;
        let answer = client.read_to_end(pair.data).await;
        assert_eq!(answer, (conversation_result(), End::Fin), "port {port}");
        assert_eq!(client.read_to_end(pair.error).await, (vec![], End::Fin));
    }
}

#[tokio::test]
async fn spdy_resets_streams_of_unknown_type() {
    let playground = playground();
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    for kind in ["", "stdin"] {
        let id = client.open_stream(kind, "7", "0");
        client.flush().await;
        assert_eq!(client.read_to_end(id).await, (vec![], End::Reset(5)));
    }
}

#[tokio::test]
async fn spdy_says_when_a_request_id_is_taken() {
    let playground = playground();
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let first = client.open_stream("error", "7", "same");
    client.open_stream("error", "7", "same");
    client.flush().await;
    let expected = b"error processing stream for request same: error stream already assigned";
    let (text, _) = client.read(first, expected.len()).await;
    assert_eq!(text, expected);
}

#[tokio::test]
async fn spdy_gives_up_a_pair_that_stays_single() {
    let playground = playground();
    playground.behave(|node| node.pair_timeout = std::time::Duration::from_millis(50));
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let error = client.open_stream("error", "7", "9");
    client.flush().await;
    let (text, _) = client.read(error, 1).await;
    let text = String::from_utf8(text).expect("text");
    assert!(
        text.ends_with("request=9) timed out waiting for streams"),
        "{text}"
    );
}

#[tokio::test]
async fn spdy_ends_as_the_chosen_runtime_does() {
    let refused = "connect: connection refused";
    let reset = "read: connection reset by peer";
    for (ending, port, data, error, text) in [
        (
            Ending::Current,
            ports::REFUSED,
            End::Fin,
            End::Reset(5),
            refused,
        ),
        (
            Ending::Containerd17,
            ports::REFUSED,
            End::Fin,
            End::Fin,
            refused,
        ),
        (
            Ending::Containerd20,
            ports::REFUSED,
            End::Fin,
            End::Fin,
            refused,
        ),
        (
            Ending::ErrorStreamFirst,
            ports::REFUSED,
            End::Reset(5),
            End::Reset(5),
            refused,
        ),
        (
            Ending::Current,
            ports::RESET,
            End::Fin,
            End::Reset(5),
            reset,
        ),
        (
            Ending::Containerd17,
            ports::RESET,
            End::Reset(5),
            End::Reset(5),
            "",
        ),
        (
            Ending::Containerd20,
            ports::RESET,
            End::Fin,
            End::Fin,
            reset,
        ),
    ] {
        let playground = playground();
        playground.behave(|node| node.ending = ending);
        let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
        let pair = client.open(&port.to_string()).await;
        let case = format!("{ending:?} port {port}");
        assert_eq!(
            client.read_to_end(pair.data).await,
            (vec![], data),
            "{case}"
        );
        let (message, end) = client.read_to_end(pair.error).await;
        let message = String::from_utf8(message).expect("text");
        assert_eq!(end, error, "{case}: {message}");
        assert!(message.ends_with(text), "{case}: {message}");
        let prefix = format!("error forwarding port {port} to pod ");
        assert_eq!(
            message.starts_with(&prefix),
            !text.is_empty(),
            "{case}: {message}"
        );
    }
}

#[tokio::test]
async fn spdy_says_that_the_pod_is_gone() {
    let playground = playground();
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    playground.delete_pod("default", "echo");
    let pair = client.open("7").await;
    let (text, end) = client.read_to_end(pair.error).await;
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains("failed to find sandbox"), "{text}");
    assert_eq!(end, End::Reset(5));
    assert_eq!(client.read_to_end(pair.data).await, (vec![], End::Reset(5)));
    let again = upgrade::spdy(&playground, "admin", PATH).await;
    assert_eq!(again.status(), StatusCode::NOT_FOUND);
    assert_eq!(again.message(), "pods \"echo\" not found");
}

#[tokio::test]
async fn spdy_replies_as_told() {
    let playground = playground();
    playground.behave(|node| node.replies = Replies::Swapped);
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let pair = client.open("13").await;
    assert_eq!(client.read_to_end(pair.data).await.1, End::Fin);
    assert_eq!(client.log, ["reply 3", "reply 1"]);

    playground.behave(|node| node.replies = Replies::Reset);
    let pair = client.open("13").await;
    assert_eq!(client.read_to_end(pair.data).await, (vec![], End::Reset(5)));
}

#[tokio::test]
async fn a_node_gives_an_answer_one_second_after_the_clients_end() {
    let playground = playground();
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let pair = client.open(&ports::COUNT.to_string()).await;
    client.write(pair.data, b"12345").await;
    let finished = std::time::Instant::now();
    client.finish(pair.data).await;
    assert_eq!(client.read_to_end(pair.data).await, (vec![], End::Fin));
    assert!(finished.elapsed() >= Behaviour::default().grace);
}

#[tokio::test]
async fn half_close_lets_the_answer_through() {
    let options = Options {
        half_close: true,
        ..Options::default()
    };
    let playground = Playground::start(options).expect("a playground");
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let pair = client.open(&ports::COUNT.to_string()).await;
    client.write(pair.data, b"12345").await;
    client.finish(pair.data).await;
    let answer = client.read_to_end(pair.data).await;
    assert_eq!(answer, (b"5\n".to_vec(), End::Fin));
    assert_eq!(client.read_to_end(pair.error).await, (vec![], End::Fin));
}

#[tokio::test]
async fn echo_returns_a_large_upload() {
    let playground = playground();
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let pair = client.open("7").await;
    let sent: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_be_bytes).collect();
    let mut heard = Vec::new();
    for chunk in sent.chunks(100_000) {
        client.write(pair.data, chunk).await;
        heard.extend(client.read(pair.data, chunk.len()).await.0);
    }
    assert!(heard == sent, "{} of {} bytes", heard.len(), sent.len());
}

#[tokio::test]
async fn verify_finds_what_is_wrong() {
    let playground = playground();
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    for (counters, verdict) in [([0, 1, 2], "ok 3\n"), ([0, 2, 2], "wrong at 1\n")] {
        let pair = client.open(&ports::VERIFY.to_string()).await;
        let all = [3].into_iter().chain(counters);
        let bytes: Vec<u8> = all.flat_map(u64::to_be_bytes).collect();
        client.write(pair.data, &bytes).await;
        let answer = client.read(pair.data, verdict.len()).await.0;
        assert_eq!(answer, verdict.as_bytes());
    }
}

#[tokio::test]
async fn the_legacy_websocket_refuses_bad_ports() {
    let playground = playground();
    for (query, message) in [
        ("", "query parameter \"port\" is required\n"),
        ("?ports=0", "port \"0\" must be > 0\n"),
        ("?ports=7,0", "port \"0\" must be > 0\n"),
    ] {
        let path = format!("{PATH}{query}");
        let reply = upgrade::websocket(&playground, "admin", &path, "v4.channel.k8s.io").await;
        assert_eq!(reply.status(), StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(reply.body(), message, "{query}");
    }
    for (query, reason) in [
        ("?ports=", "parsing \"\": invalid syntax"),
        ("?ports=abc", "parsing \"abc\": invalid syntax"),
        ("?ports=-1", "parsing \"-1\": invalid syntax"),
        ("?ports=65536", "parsing \"65536\": value out of range"),
    ] {
        let path = format!("{PATH}{query}");
        let reply = upgrade::websocket(&playground, "admin", &path, "v4.channel.k8s.io").await;
        assert_eq!(reply.status(), StatusCode::BAD_REQUEST, "{query}");
        let message = format!("cannot convert to []int32: strconv.ParseUint: {reason}");
        assert_eq!(reply.message(), message, "{query}");
    }
}

#[tokio::test]
async fn the_legacy_websocket_forwards_all_good_ports() {
    let playground = playground();
    let uid = playground.pod("default", "echo").expect("a pod")["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    let node = "/api/v1/nodes/playground/proxy/portForward/default/echo";
    for port in GOOD_PORTS {
        playground.serve("default", "echo", port, conversation());
        for path in [
            format!("{PATH}?ports={port}"),
            format!("{node}?port={port}"),
            format!("{node}/{uid}?port={port}"),
        ] {
            let reply = upgrade::websocket(&playground, "admin", &path, "v4.channel.k8s.io").await;
            let mut socket = reply.websocket().await;
            let said = [&[0u8][..], FROM_CLIENT].concat();
            socket
                .send(Message::binary(said))
                .await
                .expect("a server that reads");
            let [low, high] = port.to_le_bytes();
            let mut first = Vec::new();
            let mut data = Vec::new();
            let talk = async {
                while let Some(Ok(message)) = socket.next().await {
                    match message {
                        Message::Binary(bytes) if first.len() < 2 => first.push(bytes.to_vec()),
                        Message::Binary(bytes) if bytes[0] == 0 => {
                            data.extend_from_slice(&bytes[1..])
                        }
                        Message::Binary(bytes) => panic!("{path}: {bytes:?}"),
                        _ => {}
                    }
                }
            };
            timeout(DEADLINE, talk).await.expect("an end in time");
            assert_eq!(first, [vec![0, low, high], vec![1, low, high]], "{path}");
            assert_eq!(data, conversation_result(), "{path}");
        }
    }
    let path = format!("{node}/another-uid?port=7");
    let reply = upgrade::websocket(&playground, "admin", &path, "v4.channel.k8s.io").await;
    assert_eq!(
        (reply.status(), reply.body()),
        (StatusCode::NOT_FOUND, "pod not found\n")
    );
}

#[tokio::test]
async fn the_legacy_websocket_tells_what_failed() {
    let playground = playground();
    let path = format!("{PATH}?ports={}", ports::REFUSED);
    for subprotocol in ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"] {
        let reply = upgrade::websocket(&playground, "admin", &path, subprotocol).await;
        let mut socket = reply.websocket().await;
        let mut last = None;
        let listen = async {
            while let Some(Ok(message)) = socket.next().await {
                if message.is_binary() || message.is_text() {
                    last = Some(message);
                }
            }
        };
        timeout(DEADLINE, listen).await.expect("an end in time");
        match last.expect("a message") {
            Message::Binary(bytes) => {
                assert_eq!(bytes[0], 1);
                let text = String::from_utf8_lossy(&bytes[1..]);
                assert!(text.ends_with("connection refused"), "{text}");
            }
            Message::Text(text) => assert!(text.starts_with('1'), "{text}"),
            other => panic!("{other:?}"),
        }
    }
    let reply = upgrade::websocket(&playground, "admin", &path, "v9.channel.k8s.io").await;
    assert_eq!((reply.status(), reply.body()), (StatusCode::FORBIDDEN, ""));
}
