//! `Cluster::upgrade`, by the rules of the conformance checklist.

use std::time::Duration;

use kpf::cluster::{Protocol, UpgradeError, UpgradeRequest, Upgraded};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::server::{Answer, SPDY, Server, answer, status, within};

const PATH: &str = "/api/v1/namespaces/n/pods/p/portforward";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

pub(super) fn websocket() -> UpgradeRequest {
    let subprotocols = vec![TUNNEL.to_owned(), "v5.channel.k8s.io".to_owned()];
    UpgradeRequest {
        path_and_query: PATH.to_owned(),
        protocol: Protocol::WebSocket { subprotocols },
    }
}

pub(super) fn spdy() -> UpgradeRequest {
    let protocols = vec!["portforward.k8s.io".to_owned()];
    UpgradeRequest {
        path_and_query: PATH.to_owned(),
        protocol: Protocol::Spdy { protocols },
    }
}

/// What a client makes of `bytes` as the answer to `request`.
async fn against(request: UpgradeRequest, bytes: &str) -> Result<Upgraded, UpgradeError> {
    let bytes = bytes.as_bytes().to_vec();
    let server = Server::start(move |_| Answer::Close(bytes.clone())).await;
    within(server.cluster("").upgrade(request)).await
}

async fn refusal(bytes: &str) -> (u16, String, bool) {
    match against(spdy(), bytes).await {
        Err(UpgradeError::Status {
            code,
            message,
            status_document,
            ..
        }) => (code, message, status_document),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn rule_1_spdy_is_post_and_websocket_is_get() {
    let server = Server::start(|request| match request.header("upgrade") {
        "websocket" => Answer::Echo(request.websocket(TUNNEL).into()),
        _ => Answer::Echo(SPDY.into()),
    })
    .await;
    let cluster = server.cluster("");
    assert_eq!(
        within(cluster.upgrade(websocket())).await.unwrap().protocol,
        TUNNEL
    );
    assert_eq!(
        within(cluster.upgrade(spdy())).await.unwrap().protocol,
        "portforward.k8s.io"
    );
    let seen = server.seen();
    assert_eq!(seen[0].line, format!("GET {PATH} HTTP/1.1"));
    assert_eq!(seen[1].line, format!("POST {PATH} HTTP/1.1"));
    assert_eq!(seen[1].all("content-length"), ["0"]);
    assert_eq!(
        seen[1].all("x-stream-protocol-version"),
        ["portforward.k8s.io"]
    );
    assert_eq!(seen[0].all("sec-websocket-version"), ["13"]);
    assert!(seen[0].all("origin").is_empty() && seen[0].all("sec-websocket-extensions").is_empty());
    for request in seen {
        assert_eq!(request.header("host"), server.address.to_string());
        assert_eq!(
            request.header("user-agent"),
            concat!("kpf/", env!("CARGO_PKG_VERSION"))
        );
    }
}

#[tokio::test]
async fn rule_2_the_servers_path_prefix_is_kept() {
    let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
    within(server.cluster("/k8s/clusters/c-1/").upgrade(spdy()))
        .await
        .unwrap();
    assert_eq!(
        server.seen()[0].line,
        format!("POST /k8s/clusters/c-1{PATH} HTTP/1.1")
    );
}

#[tokio::test]
async fn rule_3_subprotocols_are_one_header_line() {
    let server = Server::start(|request| Answer::Echo(request.websocket(TUNNEL).into())).await;
    within(server.cluster("").upgrade(websocket()))
        .await
        .unwrap();
    assert_eq!(
        server.seen()[0].all("sec-websocket-protocol"),
        [format!("{TUNNEL}, v5.channel.k8s.io")]
    );
}

#[tokio::test]
async fn rule_4_upgrade_has_one_value() {
    let server = Server::start(|_| answer("400 Bad Request", "", "")).await;
    let cluster = server.cluster("");
    within(cluster.upgrade(websocket())).await.unwrap_err();
    let protocols = vec![
        "v5.channel.k8s.io".to_owned(),
        "v4.channel.k8s.io".to_owned(),
    ];
    let exec = UpgradeRequest {
        protocol: Protocol::Spdy {
            protocols: protocols.clone(),
        },
        ..spdy()
    };
    within(cluster.upgrade(exec)).await.unwrap_err();
    let seen = server.seen();
    assert_eq!(seen[0].all("upgrade"), ["websocket"]);
    assert_eq!(seen[1].all("upgrade"), ["SPDY/3.1"]);
    assert_eq!(seen[0].all("connection"), ["Upgrade"]);
    assert_eq!(
        seen[1].all("x-stream-protocol-version"),
        protocols,
        "one line for each"
    );
}

#[tokio::test]
async fn rule_5_letter_case_of_a_101_doesnt_matter() {
    let bytes = SPDY
        .replace("Connection: Upgrade", "CONNECTION: keep-alive, uPGRADE")
        .replace("Upgrade: SPDY", "upgrade: spdy");
    against(spdy(), &bytes).await.unwrap();
    let server = Server::start(|request| {
        let bytes = request
            .websocket(TUNNEL)
            .replace("Connection: Upgrade", "connection: upgrade")
            .replace(": websocket", ": WebSocket");
        Answer::Echo(bytes.into())
    })
    .await;
    within(server.cluster("").upgrade(websocket()))
        .await
        .unwrap();
}

#[tokio::test]
async fn rule_6_a_wrong_accept_key_is_refused() {
    for accept in ["Sec-WebSocket-Accept: AAAA\r\n", ""] {
        let server = Server::start(move |request| {
            let right = request.websocket(TUNNEL);
            let start = right.find("Sec-WebSocket-Accept").unwrap();
            let end = right.find("Sec-WebSocket-Protocol").unwrap();
            Answer::Echo(format!("{}{accept}{}", &right[..start], &right[end..]).into())
        })
        .await;
        let error = within(server.cluster("").upgrade(websocket()))
            .await
            .unwrap_err();
        assert!(matches!(&error, UpgradeError::Handshake(_)), "{error:?}");
        assert!(error.allows_fallback());
    }
}

#[tokio::test]
async fn rule_7_a_subprotocol_that_wasnt_offered_is_refused() {
    for chosen in ["", "v4.channel.k8s.io", "spdy/3.1+portforward.k8s.io"] {
        let server =
            Server::start(move |request| Answer::Echo(request.websocket(chosen).into())).await;
        let error = within(server.cluster("").upgrade(websocket()))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, UpgradeError::Handshake(text) if text.contains("negotiate")),
            "{error:?}"
        );
        assert!(error.allows_fallback());
    }
}

#[tokio::test]
async fn rule_8_a_stream_protocol_that_wasnt_offered_is_refused() {
    for bytes in [
        SPDY.replace(": portforward.k8s.io", ": v2.portforward.k8s.io"),
        SPDY.replace("X-Stream-Protocol-Version", "X-Other"),
    ] {
        let error = against(spdy(), &bytes).await.unwrap_err();
        assert!(
            error.to_string().contains("unable to negotiate protocol"),
            "{error}"
        );
    }
    for bytes in [
        SPDY.replace("SPDY/3.1", "SPDY/2"),
        SPDY.replace("Connection: Upgrade", "Connection: close"),
    ] {
        let error = against(spdy(), &bytes).await.unwrap_err();
        assert!(matches!(error, UpgradeError::Handshake(_)), "{error:?}");
    }
}

#[tokio::test]
async fn rule_9_bytes_behind_the_101_are_kept() {
    let server = Server::start(|_| Answer::Echo(format!("{SPDY}early bird").into())).await;
    let mut upgraded = within(server.cluster("").upgrade(spdy())).await.unwrap();
    upgraded.io.write_all(b"ping").await.unwrap();
    let mut all = upgraded.read_buf.to_vec();
    let mut rest = vec![0; "early birdping".len() - all.len()];
    within(upgraded.io.read_exact(&mut rest)).await.unwrap();
    all.extend(rest);
    assert_eq!(all, b"early birdping");
}

#[tokio::test]
async fn rule_10_the_time_to_the_101_is_bounded() {
    let server = Server::start(|_| Answer::Hang(Vec::new())).await;
    let cluster = server.cluster("");
    let upgrade = tokio::spawn(async move { cluster.upgrade(spdy()).await });
    server.requests(1).await;
    tokio::time::pause();
    let before = tokio::time::Instant::now();
    let error = upgrade.await.unwrap().unwrap_err();
    assert!(matches!(error, UpgradeError::Timeout(_)), "{error:?}");
    assert!(error.is_unreachable() && !error.allows_fallback());
    assert!(before.elapsed() <= Duration::from_secs(31));
}

#[tokio::test]
async fn rule_10_the_body_of_a_refusal_is_bounded() {
    let server = Server::start(|_| {
        let mut bytes = b"HTTP/1.1 500 X\r\nContent-Length: 100000000\r\n\r\n".to_vec();
        bytes.resize(300_000, b'x');
        Answer::Hang(bytes)
    })
    .await;
    let error = within(server.cluster("").upgrade(spdy()))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, UpgradeError::Status { code: 500, message, .. } if message.len() < 4000),
        "{error:?}"
    );

    // a body that begins and doesn't go on
    let server = Server::start(|_| {
        Answer::Hang(b"HTTP/1.1 500 X\r\nContent-Length: 100\r\n\r\nso far".to_vec())
    })
    .await;
    let cluster = server.cluster("");
    let upgrade = tokio::spawn(async move { cluster.upgrade(spdy()).await });
    server.requests(1).await;
    let error = within(upgrade).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, UpgradeError::Status { code: 500, message, .. } if message == "so far"),
        "{error:?}"
    );
}

#[tokio::test]
async fn rule_11_the_words_of_a_refusal_are_kubectls() {
    let body = |body: &str| {
        format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let document = r#"{"kind":"Status","status":"Failure","message":"pods \"p\" not found","reason":"NotFound","code":404}"#;
    assert_eq!(
        refusal(&body(document)).await,
        (400, r#"pods "p" not found"#.to_owned(), true)
    );
    assert_eq!(
        refusal(&body(r#"{"error":"from a proxy"}"#)).await,
        (400, "from a proxy".to_owned(), false)
    );
    assert_eq!(
        refusal(&body("  query parameter \"port\" is required\n"))
            .await
            .1,
        r#"query parameter "port" is required"#
    );
    assert_eq!(refusal(&body("")).await.1, "empty server response");
    assert_eq!(refusal(&body(" \r\n ")).await.1, "empty server response");
    assert_eq!(
        refusal(&body("a\nb\u{1b}]0;title\u{7}")).await.1,
        r"a b\u{1b}]0;title\u{7}"
    );
    assert_eq!(refusal(&body("[1]")).await.1, "[1]");
    let (_, message, _) = refusal(&body(&"long ".repeat(10_000))).await;
    assert!(message.chars().count() <= 1000, "{}", message.len());
    let error = against(spdy(), &body(document)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"unable to upgrade connection: pods "p" not found"#
    );
    assert!(
        matches!(error, UpgradeError::Status { reason: Some(reason), .. } if reason == "NotFound")
    );
}

#[tokio::test]
async fn rule_12_a_403_with_nothing_at_all() {
    assert_eq!(
        refusal("HTTP/1.1 403 Forbidden\r\n\r\n").await,
        (403, "empty server response".to_owned(), false)
    );
    let error = against(websocket(), "HTTP/1.1 403 Forbidden\r\n\r\n")
        .await
        .unwrap_err();
    assert!(error.is_forbidden() && error.allows_fallback());
}

#[tokio::test]
async fn rule_13_redirects_are_not_followed() {
    let elsewhere = Server::start(|_| Answer::Echo(SPDY.into())).await;
    for code in [301, 302, 303, 307, 308] {
        let location = format!("Location: http://{}/x\r\n", elsewhere.address);
        let server = Server::start(move |_| answer(&format!("{code} X"), &location, "")).await;
        let error = within(server.cluster("").upgrade(spdy()))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, UpgradeError::Status { code: c, .. } if *c == code),
            "{error:?}"
        );
        assert!(error.to_string().contains("redirects"), "{error}");
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn rule_14_every_answer_but_101_allows_the_other_transport() {
    for code in [200, 204, 400, 401, 403, 404, 405, 426, 429, 500, 502, 503] {
        let error = against(
            websocket(),
            &format!("HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n"),
        )
        .await
        .unwrap_err();
        assert!(error.allows_fallback(), "{code}: {error:?}");
        assert_eq!(error.is_unauthorized(), code == 401);
        assert_eq!(error.is_forbidden(), code == 403);
        assert_eq!(error.is_not_found(), code == 404);
    }
    let error = against(
        websocket(),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    )
    .await
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("ignored the upgrade (200 OK): hello"),
        "{error}"
    );
}

#[tokio::test]
async fn rule_14_after_the_api_servers_no_the_other_transport_takes_the_same_connection() {
    let server = Server::start(|request| match request.header("upgrade") {
        "websocket" => status(403, "Forbidden", "pods \"p\" is forbidden"),
        _ => Answer::Echo(SPDY.into()),
    })
    .await;
    let cluster = server.cluster("");
    within(cluster.upgrade(websocket())).await.unwrap_err();
    within(cluster.upgrade(spdy())).await.unwrap();
    assert_eq!((server.connections(), server.seen().len()), (1, 2));
}

/// The API server closes it behind a kubelet's refusal, without having said so.
#[tokio::test]
async fn rule_14_after_a_kubelets_no_the_other_transport_takes_a_new_connection() {
    let server = Server::start(|request| match request.header("upgrade") {
        "websocket" => answer(
            "400 Bad Request",
            "Content-Type: text/plain; charset=utf-8\r\n",
            "query parameter \"port\" is required",
        ),
        _ => Answer::Echo(SPDY.into()),
    })
    .await;
    let cluster = server.cluster("");
    within(cluster.upgrade(websocket())).await.unwrap_err();
    within(cluster.upgrade(spdy())).await.unwrap();
    assert_eq!((server.connections(), server.seen().len()), (2, 2));
}

#[tokio::test]
async fn rule_15_no_answer_allows_no_other_transport() {
    for bytes in ["", "garbage\r\n\r\n", "HTTP/1.1 10"] {
        let error = against(websocket(), bytes).await.unwrap_err();
        assert!(
            error.is_unreachable() && !error.allows_fallback(),
            "{bytes}: {error:?}"
        );
    }
}

#[tokio::test]
async fn rule_18_retry_after_is_passed_on() {
    let error = against(
        spdy(),
        "HTTP/1.1 429 X\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nslow",
    )
    .await
    .unwrap_err();
    let UpgradeError::Status { retry_after, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(retry_after, Some(Duration::from_secs(7)));
}

#[tokio::test]
async fn rule_19_the_query_arrives_as_it_was_encoded() {
    let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
    let path_and_query =
        "/exec?command=sh&command=&command=a%26b%2Bc%0A%C3%A4&stdin=true".to_owned();
    within(server.cluster("/prefix").upgrade(UpgradeRequest {
        path_and_query: path_and_query.clone(),
        ..spdy()
    }))
    .await
    .unwrap();
    assert_eq!(
        server.seen()[0].line,
        format!("POST /prefix{path_and_query} HTTP/1.1")
    );
    let error = within(server.cluster("").upgrade(UpgradeRequest {
        path_and_query: "/a b\r\nx: y".to_owned(),
        ..spdy()
    }))
    .await
    .unwrap_err();
    assert!(matches!(error, UpgradeError::Request(_)), "{error:?}");
}

#[tokio::test]
async fn a_401_says_so() {
    let server = Server::start(|_| status(401, "Unauthorized", "Unauthorized")).await;
    let error = within(server.cluster("").upgrade(spdy()))
        .await
        .unwrap_err();
    assert!(error.is_unauthorized());
    assert_eq!(
        error.to_string(),
        "You must be logged in to the server (Unauthorized)"
    );
}
