//! The playground's exec is one: what it refuses and how, by version, and the protocols that kpf doesn't speak.

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::{Method, StatusCode};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::{TRANSPORTS, Transport, exec, kpf, run};
use crate::playground::faults::{Answer, Request};
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

/// Longer than hyper's URIs, and kubectl's way beside ours.
#[test]
fn long_command_lines_arrive() {
    let playground = playground("1.36");
    let programs = [kpf().to_owned()].into_iter().chain(tools::kubectls());
    let programs: Vec<_> = programs.collect();
    for transport in TRANSPORTS {
        for (words, length) in [(1, 60_000), (1, 64 << 10), (100, 2 << 10), (6, 100 << 10)] {
            let word = format!("{}\u{e4}\n&", "x".repeat(length));
            let mut arguments = vec!["many", "-c", "app", "--", "sh", "-c"];
            arguments.extend(["printf %s \"$*\" | sha256sum; echo $#", "sh"]);
            arguments.extend(vec![&*word; words]);
            let digest = sha256(vec![&*word; words].join(" ").as_bytes());
            for program in &programs {
                let command = exec(program, &playground, "admin", transport, &arguments);
                let ended = run(command, None);
                let expected = format!("{digest}  -\n{words}\n");
                assert_eq!(
                    (ended.code, &*ended.stdout(), &*ended.stderr),
                    (Some(0), &*expected, ""),
                    "{transport:?}, {} of {length}, {}",
                    words,
                    program.display()
                );
            }
        }
    }
}

/// The fallback and the refusals are the same as for short ones.
#[test]
fn long_command_lines_are_refused_like_others() {
    let long = "x".repeat(100 << 10);
    let arguments = ["web", "--", "echo", "-n", &long];
    let transport = Transport::WebSocket;
    let old = playground("1.29");
    let ended = run(exec(kpf(), &old, "admin", transport, &arguments), None);
    assert_eq!(
        (ended.code, ended.stdout.len()),
        (Some(0), long.len()),
        "{}",
        ended.stderr
    );
    let playground = playground("1.36");
    let ended = run(
        exec(kpf(), &playground, "create-only", transport, &arguments),
        None,
    );
    assert_eq!(ended.stdout.len(), long.len(), "{}", ended.stderr);
    let ended = run(
        exec(kpf(), &playground, "viewer", transport, &arguments),
        None,
    );
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.contains("User \"viewer\" cannot create") && ended.stderr.lines().count() == 1,
        "{}",
        ended.stderr
    );
}

#[test]
fn a_command_line_that_no_server_takes_is_one_clear_line() {
    const NEXT: &str = "pass data on stdin, or a script to `sh -s`";
    let playground = playground("1.36");
    // three bytes each when they are escaped
    let long = "/".repeat(100 << 10);
    let arguments = ["web", "--", "echo", &long, &long, &long, &long];
    for transport in TRANSPORTS {
        let seen = playground.requests().len();
        let ended = run(
            exec(kpf(), &playground, "admin", transport, &arguments),
            None,
        );
        let line = "error: unable to upgrade connection: the command line is 12";
        assert_eq!(ended.code, Some(1));
        assert!(
            ended.stderr.starts_with(line)
                && ended.stderr.contains(NEXT)
                && ended.stderr.lines().count() == 1,
            "{}",
            ended.stderr
        );
        let upgrades = playground.requests().split_off(seen);
        assert!(!upgrades.iter().any(Request::is_upgrade));
        // a proxy on the way takes less
        for (code, words) in [(414, "Request-URI Too Large"), (431, "")] {
            let answer = Answer::Text {
                code: StatusCode::from_u16(code).unwrap(),
                headers: Vec::new(),
                body: words.to_owned(),
            };
            playground.answer(Request::is_upgrade, usize::MAX, answer);
            let arguments = ["web", "--", "echo", &long];
            let ended = run(
                exec(kpf(), &playground, "admin", transport, &arguments),
                None,
            );
            assert_eq!(ended.code, Some(1));
            assert!(
                ended.stderr.contains(NEXT)
                    && ended.stderr.contains(words)
                    && ended.stderr.lines().count() == 1,
                "{}",
                ended.stderr
            );
            playground.answer_as_usual();
        }
        playground.answer(Request::is_upgrade, usize::MAX, Answer::Reset);
        let arguments = ["web", "--", "echo", &long];
        let ended = run(
            exec(kpf(), &playground, "admin", transport, &arguments),
            None,
        );
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains(NEXT), "{}", ended.stderr);
        playground.answer_as_usual();
    }
}

/// In coreutils' words.
fn sha256(bytes: &[u8]) -> String {
    let mut command = std::process::Command::new("sha256sum");
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let said = run(command, Some(bytes)).stdout();
    said.split(' ').next().unwrap_or_default().to_owned()
}
