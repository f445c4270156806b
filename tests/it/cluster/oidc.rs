//! OIDC users, with a provider that is the cluster at the same time.

use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use kpf::cluster::{Cluster, Options};

use super::server::{Answer, Request, SPDY, Server, answer, within};
use super::upgrade::spdy;

fn token(name: &str, expiry: u64) -> String {
    let claims = format!(r#"{{"sub": "{name}", "exp": {expiry}}}"#);
    format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))
}

const PAST: u64 = 1;
const FUTURE: u64 = 4_000_000_000;

/// A server that answers upgrades, and requests for tokens by `provide`.
async fn server(provide: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
    Server::start(
        move |request| match request.line.split(' ').nth(1).unwrap() {
            "/idp/.well-known/openid-configuration" => {
                let body = format!(
                    r#"{{"token_endpoint": "http://{}/token"}}"#,
                    request.header("host")
                );
                answer("200 OK", "", &body)
            }
            "/token" => provide(request),
            _ => Answer::Echo(SPDY.into()),
        },
    )
    .await
}

fn cluster(server: &Server, config: &str) -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    let address = server.address;
    let config = format!(
        "current-context: c\nclusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         users: [{{name: u, user: {{auth-provider: {{name: oidc, config: {{idp-issuer-url: 'http://{address}/idp/', client-id: kpf, client-secret: 's/cret', {config}}}}}}}}}]\n"
    );
    std::fs::write(&path, config).unwrap();
    Cluster::load(&Options {
        kubeconfig: Some(path),
        ..Options::default()
    })
    .unwrap()
}

fn seen(server: &Server, path: &str) -> Vec<Request> {
    server
        .seen()
        .into_iter()
        .filter(|request| request.line.contains(path))
        .collect()
}

#[tokio::test]
async fn a_valid_id_token_is_sent_as_it_is() {
    let server = server(|_| answer("500 X", "", "")).await;
    let valid = token("jane", FUTURE);
    within(cluster(&server, &format!("id-token: {valid}")).upgrade(spdy()))
        .await
        .unwrap();
    assert_eq!(server.seen().len(), 1, "no provider is asked");
    assert_eq!(
        server.seen()[0].header("authorization"),
        format!("Bearer {valid}")
    );
}

/// `crates.md` §0 row 13: the rotated refresh token counts from then on.
#[tokio::test]
async fn an_expired_id_token_is_renewed_and_a_rotated_refresh_token_is_used() {
    let count = AtomicUsize::new(0);
    let server = server(move |request| match request.header("authorization") {
        "" => {
            let count = count.fetch_add(1, Ordering::SeqCst) + 1;
            let id = token(&format!("jane-{count}"), PAST);
            answer(
                "200 OK",
                "",
                &format!(r#"{{"id_token": "{id}", "refresh_token": "r&{count}"}}"#),
            )
        }
        _ => answer("401 X", "", r#"{"error": "invalid_client"}"#), // knows client-id only as a parameter
    })
    .await;
    let cluster = cluster(
        &server,
        &format!("id-token: {}, refresh-token: 'r&0'", token("jane", PAST)),
    );
    within(cluster.upgrade(spdy())).await.unwrap();
    within(cluster.upgrade(spdy())).await.unwrap();
    let asked = seen(&server, "/token");
    assert_eq!(asked[0].header("authorization"), "Basic a3BmOnMlMkZjcmV0");
    assert_eq!(
        asked[1].body,
        "grant_type=refresh_token&refresh_token=r%260&client_id=kpf&client_secret=s%2Fcret"
    );
    assert!(
        asked[3]
            .body
            .starts_with("grant_type=refresh_token&refresh_token=r%261&"),
        "{}",
        asked[3].body
    );
    let sent: Vec<_> = seen(&server, "portforward")
        .iter()
        .map(|request| request.header("authorization").to_owned())
        .collect();
    assert_eq!(
        sent,
        [1, 2].map(|run| format!("Bearer {}", token(&format!("jane-{run}"), PAST)))
    );
}

#[tokio::test]
async fn many_requests_wait_for_one_renewal() {
    let server = server(|_| {
        answer(
            "200 OK",
            "",
            &format!(r#"{{"id_token": "{}"}}"#, token("jane", FUTURE)),
        )
    })
    .await;
    let cluster = cluster(&server, "refresh-token: r");
    let upgrades = join_all((0..10).map(|_| cluster.upgrade(spdy())));
    assert!(within(upgrades).await.iter().all(Result::is_ok));
    assert_eq!(seen(&server, "/token").len(), 1);
}

#[tokio::test]
async fn what_the_provider_refuses_is_told_without_secrets() {
    for (config, status, body, why) in [
        (
            "id-token: x",
            "200 OK",
            "{}",
            "cannot refresh without refresh-token",
        ),
        (
            "refresh-token: s3cret",
            "400 Bad Request",
            r#"{"error": "invalid_grant", "error_description": "token\nis gone"}"#,
            "400 Bad Request invalid_grant: token is gone",
        ),
        (
            "refresh-token: s3cret",
            "200 OK",
            r#"{"access_token": "s3cret"}"#,
            "no id_token",
        ),
        ("refresh-token: s3cret", "200 OK", "s3cret", "no id_token"),
        (
            "refresh-token: s3cret",
            "503 X",
            "s3cret",
            "503 Service Unavailable",
        ),
    ] {
        let server = server(move |_| answer(status, "", body)).await;
        let error = within(cluster(&server, config).upgrade(spdy()))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("getting credentials: oidc: ") && text.contains(why),
            "{text}"
        );
        assert!(!text.contains("s3cret") && !text.contains('\n'), "{text}");
        assert!(!error.allows_fallback());
    }
}

#[test]
fn providers_that_kubectl_has_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    let config = "current-context: c\nclusters: [{name: c, cluster: {server: 'http://x'}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n\
         users: [{name: u, user: {auth-provider: {name: gcp}}}]\n";
    std::fs::write(&path, config).unwrap();
    let error = Cluster::load(&Options {
        kubeconfig: Some(path),
        ..Options::default()
    })
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(r#"no Auth Provider found for name "gcp""#),
        "{error}"
    );
}
