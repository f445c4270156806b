//! The playground's exec is one: what it refuses and how, by version, and the protocols that kpf doesn't speak.

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::{Method, StatusCode};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::{Transport, exec, kpf, run};
use crate::playground::faults::Request;
use crate::playground::{Options, Playground};
use crate::tools;
use crate::upgrade::{self, DEADLINE};

const PATH: &str = "/api/v1/namespaces/default/pods/many/exec";
const V5: &str = "v5.channel.k8s.io";

fn playground(version: &str) -> Playground {
    let options = Options {
        server_version: version.to_owned(),
        ..Options::default()
    };
    Playground::start(options).expect("a playground")
}

fn path(query: &str) -> String {
    format!("{PATH}?{query}")
}

async fn post(playground: &Playground, user: &str, path: &str, protocols: &str) -> upgrade::Reply {
    let headers = [
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", protocols),
    ];
    upgrade::request(playground, user, Method::POST, path, &headers).await
}

/// All messages up to the server's Close.
async fn conversation(reply: upgrade::Reply, send: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut socket = reply.websocket().await;
    for message in send {
        let message = Message::Binary(message.to_vec().into());
        socket.send(message).await.expect("a server");
    }
    let mut messages = Vec::new();
    loop {
        let message = timeout(DEADLINE, socket.next()).await.expect("in time");
        match message.expect("a close first").expect("a message") {
            Message::Binary(bytes) => messages.push(bytes.to_vec()),
            Message::Close(_) => return messages,
            _ => {}
        }
    }
}

#[tokio::test]
async fn refusals_have_the_servers_words() {
    let playground = playground("1.36");
    for (query, message) in [
        (
            "command=true&stdout=true",
            "a container name must be specified for pod many, choose one of: [app sidecar]",
        ),
        (
            "command=true&stdout=true&container=x",
            "container x is not valid for pod many",
        ),
    ] {
        let reply = post(&playground, "admin", &path(query), "v4.channel.k8s.io").await;
        assert_eq!(reply.status(), StatusCode::BAD_REQUEST);
        assert_eq!(reply.message(), message);
    }
    let reply = post(
        &playground,
        "admin",
        &path("command=true&container=app"),
        V5,
    )
    .await;
    assert_eq!(reply.status(), StatusCode::BAD_REQUEST);
    let text = "you must specify at least 1 of stdin, stdout, stderr\n";
    assert_eq!(reply.body(), text);
    let setup = path("command=true&stdout=true&container=setup");
    let reply = post(&playground, "admin", &setup, "v4.channel.k8s.io").await;
    assert_eq!(reply.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(reply.body(), "container not found (\"setup\")\n");
    let app = path("command=true&stdout=true&container=app");
    let reply = post(&playground, "admin", &app, V5).await;
    assert_eq!(reply.status(), StatusCode::FORBIDDEN);
    assert!(
        reply.body().contains("client supports [v5.channel.k8s.io]"),
        "{}",
        reply.body()
    );
}

/// Before 1.36 the API server has said 101 before it hears of the kubelet's refusal.
#[tokio::test]
async fn a_translated_refusal_is_a_status() {
    let query = "command=true&stdout=true&container=setup";
    let old = playground("1.35");
    let reply = upgrade::websocket(&old, "admin", &path(query), V5).await;
    let messages = conversation(reply, &[]).await;
    assert_eq!(messages[0], [3]);
    let status: serde_json::Value = serde_json::from_slice(&messages[1][1..]).unwrap();
    assert_eq!(
        status["message"],
        "Internal error occurred: unable to upgrade connection: container not found (\"setup\")"
    );
    let ours = exec(
        kpf(),
        &old,
        "admin",
        Transport::WebSocket,
        &["many", "-c", "setup", "--", "x"],
    );
    let ended = tokio::task::spawn_blocking(|| run(ours, None))
        .await
        .unwrap();
    assert_eq!(ended.code, Some(1));
    assert_eq!(
        ended.stderr,
        "error: Internal error occurred: unable to upgrade connection: container not found (\"setup\")\n"
    );
}

#[tokio::test]
async fn a_role_decides_which_transport_works() {
    const YES: StatusCode = StatusCode::SWITCHING_PROTOCOLS;
    const NO: StatusCode = StatusCode::FORBIDDEN;
    let path = path("command=true&stdout=true&container=app");
    for (version, get_only) in [("1.34", YES), ("1.35", NO), ("1.36", NO)] {
        let playground = playground(version);
        for (user, create, get) in [
            ("viewer", NO, NO),
            ("get-only", NO, get_only),
            ("create-only", YES, NO),
            ("admin", YES, YES),
        ] {
            let spdy = post(&playground, user, &path, "v4.channel.k8s.io").await;
            assert_eq!(spdy.status(), create, "{user} POST {version}");
            let websocket = upgrade::websocket(&playground, user, &path, V5).await;
            assert_eq!(websocket.status(), get, "{user} GET {version}");
        }
    }
}

#[tokio::test]
async fn an_old_server_refuses_v5_without_a_word() {
    let playground = playground("1.29");
    let path = path("command=true&stdout=true&container=app");
    let reply = upgrade::websocket(&playground, "admin", &path, V5).await;
    assert_eq!((reply.status(), reply.body()), (StatusCode::FORBIDDEN, ""));
    assert!(reply.headers().is_empty(), "{:?}", reply.headers());

    let seen = playground.requests().len();
    let arguments = ["-i", "web", "--", "cat"];
    let ours = exec(
        kpf(),
        &playground,
        "admin",
        Transport::WebSocket,
        &arguments,
    );
    let ended = tokio::task::spawn_blocking(|| run(ours, Some(b"by SPDY"))).await;
    let ended = ended.unwrap();
    assert_eq!((ended.code, &*ended.stdout()), (Some(0), "by SPDY"));
    assert_eq!(ended.stderr, "");
    let requests = playground.requests().split_off(seen);
    let upgrades: Vec<_> = requests.iter().filter(|it| it.is_upgrade()).collect();
    assert_eq!(upgrades.len(), 2);
    assert!(upgrades[0].is_websocket() && upgrades[1].is_spdy());
    let only = ["--transport=websocket", "web", "--", "true"];
    let ours = exec(kpf(), &playground, "admin", Transport::WebSocket, &only);
    let ended = tokio::task::spawn_blocking(|| run(ours, None))
        .await
        .unwrap();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
}

#[tokio::test]
async fn the_channels_of_v5_and_v4() {
    let playground = playground("1.36");
    let query = "command=sh&command=-c&command=cat;echo+e+%3E%262;exit+5&container=app\
                 &stdin=true&stdout=true&stderr=true";
    let reply = upgrade::websocket(&playground, "admin", &path(query), V5).await;
    assert_eq!(reply.headers()["sec-websocket-protocol"], V5);
    let mut messages = conversation(reply, &[b"\0hello", b"\0", b"\xff\0"]).await;
    // two pipes have no order
    messages[1..3].sort();
    assert_eq!(messages[..3], [&[1][..], b"\x01hello", b"\x02e\n"]);
    let status: serde_json::Value = serde_json::from_slice(&messages[3][1..]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "5");
    assert_eq!(messages.len(), 4);

    // the older ones can't end stdin
    let query = "command=head&command=-c5&container=app&stdin=true&stdout=true";
    let reply = upgrade::websocket(&playground, "admin", &path(query), "v4.channel.k8s.io").await;
    let messages = conversation(reply, &[b"\0hello"]).await;
    assert_eq!(messages[..2], [&[1][..], b"\x01hello"]);
    assert!(messages[2].starts_with(b"\x03{\"metadata\":{},\"status\":\"Success\"}"));
    let query = "command=false&container=app&stdout=true";
    let reply = upgrade::websocket(&playground, "admin", &path(query), "channel.k8s.io").await;
    let messages = conversation(reply, &[]).await;
    let text = b"\x03command terminated with non-zero exit code: exit status 1";
    assert_eq!(messages, [&[1][..], text]);
}

/// kpf asks for what kubectl asks for, in as many requests.
#[test]
fn requests_are_kubectls() {
    let kubectls = tools::kubectls();
    let playground = playground("1.36");
    let uris = |program: &std::path::Path, arguments: &[&str]| {
        let seen = playground.requests().len();
        let command = exec(
            program,
            &playground,
            "admin",
            Transport::WebSocket,
            arguments,
        );
        assert_eq!(run(command, Some(b"")).code, Some(0));
        let requests: Vec<Request> = playground.requests().split_off(seen);
        let uris = requests.iter().map(|it| {
            // Go writes a space as a plus, which means the same
            it.uri.to_string().replace('+', "%20")
        });
        uris.collect::<Vec<_>>()
    };
    let arguments = ["-i", "web", "--", "printf", "%s", "a b&c=d", "", "ü"];
    let ours = uris(kpf(), &arguments);
    assert_eq!(ours.len(), 2, "{ours:?}");
    for kubectl in kubectls {
        let mut theirs = uris(&kubectl, &arguments);
        // kubectl also asks for the server's version and for the kinds that it has
        theirs.retain(|uri| uri.starts_with("/api/v1/"));
        assert_eq!(theirs, ours);
    }
}

#[test]
fn a_command_line_that_is_too_long_is_refused_here() {
    let playground = playground("1.36");
    let long = "x".repeat(64 * 1024);
    let command = exec(
        kpf(),
        &playground,
        "admin",
        Transport::WebSocket,
        &["web", "--", "echo", &long],
    );
    let ended = run(command, None);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended
            .stderr
            .starts_with("error: unable to upgrade connection: the command line is 65")
            && ended.stderr.lines().count() == 1,
        "{}",
        ended.stderr
    );
}
