//! TLS: trust, identity, key exchange, resumption, and the words for what goes wrong.

use std::path::PathBuf;

use kpf::cluster::{Cluster, Options, Unreachable, UpgradeError};
use rustls::NamedGroup;

use super::server::{Answer, Authority, Identity, SPDY, Server, answer, status, within};
use super::upgrade::{spdy, websocket};

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn options(&self, server: &Server, authority: &Authority) -> Options {
        Options {
            server: Some(format!("https://localhost:{}", server.address.port())),
            certificate_authority: Some(self.put("ca.pem", &authority.pem())),
            ..Options::default()
        }
    }

    fn identify(&self, options: &mut Options, identity: &Identity) {
        options.client_certificate = Some(self.put("client.pem", &identity.certificate));
        options.client_key = Some(self.put("client.key", &identity.key));
    }
}

async fn upgrade(options: &Options) -> Result<(), UpgradeError> {
    within(Cluster::load(options).unwrap().upgrade(spdy()))
        .await
        .map(|_| ())
}

async fn server_as(authority: &Authority, identity: &Identity) -> Server {
    Server::start_tls(Some(authority.server(identity)), |_| {
        Answer::Echo(SPDY.into())
    })
    .await
}

#[tokio::test]
async fn post_quantum_key_exchange_and_no_alpn() {
    let (authority, files) = (Authority::new("ca"), Files::new());
    let server = server_as(&authority, &authority.issue("localhost")).await;
    upgrade(&files.options(&server, &authority)).await.unwrap();
    let tls = server.seen()[0].tls.clone().unwrap();
    assert_eq!(tls.group, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(tls.alpn, None, "rule 1: never h2");
    assert_eq!(tls.client_certificate, None);
}

#[tokio::test]
async fn a_client_certificate_from_files_and_from_data() {
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let (authority, files) = (Authority::new("ca"), Files::new());
    let server = server_as(&authority, &authority.issue("localhost")).await;
    let jane = authority.issue("jane");
    let mut options = files.options(&server, &authority);
    files.identify(&mut options, &jane);
    upgrade(&options).await.unwrap();
    assert!(
        server.seen()[0]
            .tls
            .as_ref()
            .unwrap()
            .client_certificate
            .is_some()
    );

    let (ca, cert, key) = (
        encode(&authority.pem()),
        encode(&jane.certificate),
        encode(&jane.key),
    );
    let config = format!(
        "current-context: c\nclusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:{}', tls-server-name: localhost, certificate-authority-data: {ca}}}}}]\n\
         users: [{{name: u, user: {{client-certificate-data: {cert}, client-key-data: {key}}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
        server.address.port()
    );
    let options = Options {
        kubeconfig: Some(files.put("config", &config)),
        ..Options::default()
    };
    upgrade(&options).await.unwrap();
    let seen = server.seen();
    let (file, data) = (seen[0].tls.clone().unwrap(), seen[1].tls.clone().unwrap());
    assert_eq!(file.client_certificate, data.client_certificate);
    assert_eq!(
        data.server_name.as_deref(),
        Some("localhost"),
        "tls-server-name"
    );
}

#[tokio::test]
async fn handshakes_that_fail_say_what_to_do() {
    let (authority, files) = (Authority::new("ca"), Files::new());
    let reason = async |options: &Options| match upgrade(options).await.unwrap_err() {
        UpgradeError::Unreachable(error @ Unreachable::Tls { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let expired = server_as(&authority, &authority.issue_until("localhost", 2001)).await;
    let text = reason(&files.options(&expired, &authority)).await;
    assert!(
        text.contains("x509: certificate has expired or is not yet valid")
            && text.contains("clock"),
        "{text}"
    );

    let server = server_as(&authority, &authority.issue("localhost")).await;
    let text = reason(&files.options(&server, &Authority::new("another"))).await;
    assert!(text.starts_with("Unable to connect to the server: tls: failed to verify certificate: x509: certificate signed by unknown authority"), "{text}");

    let mut wrong = files.options(&server, &authority);
    wrong.tls_server_name = Some("other.example".to_owned());
    let text = reason(&wrong).await;
    assert!(
        text.contains("certificate is valid for")
            && text.contains("localhost")
            && text.contains("not other.example"),
        "{text}"
    );
    assert!(text.contains("--tls-server-name"), "{text}");

    let plain = Server::start(|_| answer("400 Bad Request", "", "")).await;
    // a TLS hello has no empty line in it, so the plain server answers only what asks for it
    let bad = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = bad.local_addr().unwrap();
    let task = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let (mut io, _) = bad.accept().await.unwrap();
        let _ = io.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
        io
    });
    let mut options = files.options(&plain, &authority);
    options.server = Some(format!("https://localhost:{}", address.port()));
    let text = reason(&options).await;
    assert!(
        text.contains("server gave HTTP response to HTTPS client"),
        "{text}"
    );
    task.abort();
}

#[tokio::test]
async fn a_client_certificate_that_the_server_refuses() {
    let (authority, files) = (Authority::new("ca"), Files::new());
    let server = server_as(&authority, &authority.issue("localhost")).await;
    let mut options = files.options(&server, &authority);
    files.identify(&mut options, &authority.issue_until("jane", 2001));
    let error = upgrade(&options).await.unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
    assert!(
        error.to_string().contains("refused our client certificate"),
        "{error}"
    );
}

#[tokio::test]
async fn insecure_skips_verification() {
    let (authority, files) = (Authority::new("ca"), Files::new());
    let server = server_as(&authority, &authority.issue_until("other.example", 2001)).await;
    let mut options = files.options(&server, &authority);
    options.certificate_authority = None;
    options.insecure_skip_tls_verify = true;
    upgrade(&options).await.unwrap();
    options.certificate_authority = Some(files.put("ca.pem", &authority.pem()));
    let error = Cluster::load(&options).unwrap_err().to_string();
    assert_eq!(
        error,
        "specifying a root certificates file with the insecure flag is not allowed"
    );
}

#[tokio::test]
async fn sessions_are_resumed_and_a_refusal_keeps_its_connection() {
    let (authority, files) = (Authority::new("ca"), Files::new());
    let server = Server::start_tls(
        Some(authority.server(&authority.issue("localhost"))),
        |request| match request.header("upgrade") {
            "websocket" => status(403, "Forbidden", "no"),
            _ => Answer::Echo(SPDY.into()),
        },
    )
    .await;
    let cluster = Cluster::load(&files.options(&server, &authority)).unwrap();
    within(cluster.upgrade(websocket())).await.unwrap_err();
    let first = within(cluster.upgrade(spdy())).await.unwrap();
    assert_eq!(server.connections(), 1, "one handshake for both attempts");
    let second = within(cluster.upgrade(spdy())).await.unwrap();
    let seen = server.seen();
    assert!(!seen[1].tls.as_ref().unwrap().resumed);
    assert!(seen[2].tls.as_ref().unwrap().resumed);
    drop((first, second));
}

#[test]
fn certificates_and_keys_that_cannot_be_used() {
    let (authority, files) = (Authority::new("ca"), Files::new());
    let (jane, joe) = (authority.issue("jane"), authority.issue("joe"));
    let options = Options {
        server: Some("https://localhost".to_owned()),
        ..Options::default()
    };
    let error = |options: &Options| Cluster::load(options).unwrap_err().to_string();

    let ca = Options {
        certificate_authority: Some(files.put("ca", "nothing")),
        ..options.clone()
    };
    assert!(
        error(&ca).contains("no usable certificate"),
        "{}",
        error(&ca)
    );
    let missing = Options {
        certificate_authority: Some("/nonexistent/ca".into()),
        ..options.clone()
    };
    assert!(
        error(&missing).contains("/nonexistent/ca"),
        "{}",
        error(&missing)
    );
    let mut mixed = options.clone();
    files.identify(
        &mut mixed,
        &Identity {
            certificate: jane.certificate.clone(),
            key: joe.key,
        },
    );
    assert!(
        error(&mixed).contains("doesn't belong"),
        "{}",
        error(&mixed)
    );
    let mut no_key = options.clone();
    files.identify(
        &mut no_key,
        &Identity {
            certificate: jane.certificate,
            key: "s3cret".to_owned(),
        },
    );
    assert!(error(&no_key).contains("no PEM private key") && !error(&no_key).contains("s3cret"));
    let half = Options {
        client_key: None,
        ..no_key
    };
    assert!(
        error(&half).contains("without client-key"),
        "{}",
        error(&half)
    );
}
