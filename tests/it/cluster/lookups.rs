//! Ordinary requests by `Cluster::client`, and what their failures are called.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kpf::cluster::{Cluster, Options, RequestError, Unreachable};
use kube::Api;
use tokio::net::TcpListener;

use super::server::{Answer, SPDY, Server, answer, status, within};
use super::upgrade::spdy;

pub(super) async fn pod(cluster: &Cluster) -> Result<Pod, RequestError> {
    let pods = Api::<Pod>::default_namespaced(cluster.client());
    Ok(within(pods.get("p")).await?)
}

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}"#;

#[tokio::test]
async fn a_lookup_and_an_upgrade_share_a_connection() {
    let server = Server::start(|request| match request.line.starts_with("GET") {
        true => answer("200 OK", "", POD),
        false => Answer::Echo(SPDY.into()),
    })
    .await;
    let cluster = server.cluster("/prefix");
    assert_eq!(
        pod(&cluster).await.unwrap().metadata.name.as_deref(),
        Some("p")
    );
    within(cluster.upgrade(spdy())).await.unwrap();
    assert_eq!(
        server.seen()[0].line,
        "GET /prefix/api/v1/namespaces/default/pods/p? HTTP/1.1".replace("? ", " ")
    );
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn refusals_are_told_in_kubectls_words() {
    for (code, reason, line) in [
        (
            401,
            "Unauthorized",
            "You must be logged in to the server (no\u{fffd})",
        ),
        (
            403,
            "Forbidden",
            "Error from server (Forbidden): no\u{fffd}",
        ),
        (404, "NotFound", "Error from server (NotFound): no\u{fffd}"),
        (500, "", "Error from server: no\u{fffd}"),
    ] {
        let server = Server::start(move |_| status(code, reason, "no\n\u{1b}[2J")).await;
        let error = pod(&server.cluster("")).await.unwrap_err();
        assert_eq!(error.to_string(), line.replace('\u{fffd}', r" \u{1b}[2J"));
        assert_eq!(error.is_unauthorized(), code == 401);
        assert_eq!(error.is_forbidden(), code == 403);
        assert_eq!(error.is_not_found(), code == 404);
        assert!(!error.is_unreachable());
    }
}

/// `crates.md` §0 row 9.
#[tokio::test]
async fn nothing_is_retried() {
    for code in [429, 500, 503, 504] {
        let server = Server::start(move |_| status(code, "X", "no")).await;
        pod(&server.cluster("")).await.unwrap_err();
        within(server.cluster("").upgrade(spdy()))
            .await
            .unwrap_err();
        assert_eq!(server.seen().len(), 2, "{code}");
    }
}

#[tokio::test]
async fn nobody_listens_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let options = Options {
        server: Some(format!("http://{address}")),
        ..Options::default()
    };
    let cluster = Cluster::load(&options).unwrap();
    let line = format!(
        "The connection to the server {address} was refused - did you specify the right host or port?"
    );
    let error = pod(&cluster).await.unwrap_err();
    assert_eq!(error.to_string(), line);
    assert!(error.is_unreachable());
    let error = within(cluster.upgrade(spdy())).await.unwrap_err();
    assert_eq!(error.to_string(), line);
    assert!(error.is_unreachable() && !error.allows_fallback());
}

#[tokio::test]
async fn a_name_that_means_nothing() {
    let options = Options {
        server: Some("https://kpf.invalid:1".to_owned()),
        insecure_skip_tls_verify: true,
        ..Options::default()
    };
    let error = pod(&Cluster::load(&options).unwrap()).await.unwrap_err();
    assert!(
        matches!(&error, RequestError::Unreachable(Unreachable::Dns { host, .. }) if host == "kpf.invalid"),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .starts_with("Unable to connect to the server: lookup kpf.invalid: "),
        "{error}"
    );
}

#[tokio::test]
async fn request_timeout_cuts_lookups_but_no_stream() {
    let server = Server::start(|request| match request.line.starts_with("GET") {
        true => Answer::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_vec()),
        false => Answer::Echo(SPDY.into()),
    })
    .await;
    let limit = Some(Duration::from_millis(50));
    let options = Options {
        server: Some(format!("http://{}", server.address)),
        request_timeout: limit,
        ..Options::default()
    };
    let cluster = Cluster::load(&options).unwrap();
    let error = pod(&cluster).await.unwrap_err();
    assert!(
        matches!(error, RequestError::Timeout(after) if Some(after) == limit),
        "{error:?}"
    );
    assert!(error.is_unreachable());

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = within(cluster.upgrade(spdy())).await.unwrap().io;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3600)).await;
    tokio::time::resume();
    stream.write_all(b"x").await.unwrap();
    assert_eq!(within(stream.read_u8()).await.unwrap(), b'x');
}

#[tokio::test]
async fn impersonation_goes_with_every_request() {
    let server = Server::start(|_| answer("404 X", "", "")).await;
    let options = Options {
        server: Some(format!("http://{}", server.address)),
        token: Some("t".to_owned()),
        as_user: Some("jane".to_owned()),
        as_groups: vec!["a".to_owned(), "b".to_owned()],
        as_uid: Some("7".to_owned()),
        as_user_extra: vec!["Scopes=x".to_owned()],
        ..Options::default()
    };
    let cluster = Cluster::load(&options).unwrap();
    pod(&cluster).await.unwrap_err();
    within(cluster.upgrade(spdy())).await.unwrap_err();
    for request in server.seen() {
        assert_eq!(request.all("impersonate-user"), ["jane"]);
        assert_eq!(request.all("impersonate-group"), ["a", "b"]);
        assert_eq!(request.all("impersonate-uid"), ["7"]);
        assert_eq!(request.all("impersonate-extra-scopes"), ["x"]);
        assert_eq!(request.all("authorization"), ["Bearer t"]);
    }
}

#[test]
fn loading_needs_no_runtime_and_shows_no_secret() {
    let secret = Some("s3cret".to_owned());
    let options = Options {
        server: Some("http://localhost:1".to_owned()),
        token: secret.clone(),
        environment: [("TOKEN", "s3cret")].into_iter().collect(),
        proxy_url: Some("http://me:s3cret@proxy".to_owned()),
        ..Options::default()
    };
    let cluster = Cluster::load(&options).unwrap();
    let shown = format!("{options:?} {cluster:?} {:?}", options.environment);
    assert!(!shown.contains("s3cret"), "{shown}");
    assert_eq!(cluster.namespace(), "default");
    assert_eq!(cluster.namespace_flag(), None);
}
