//! Where there is no login: one line that says why, and what to do.

use super::*;
use crate::program::{in_time, run};

/// A gateway before something else than a good sshd.
pub(super) async fn gateway(pins: Pins, to: SocketAddr) -> (Gateway, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(Setup {
        dial: Box::new(move || {
            Box::pin(async move { Ok(Box::new(TcpStream::connect(to).await?) as Box<dyn Stream>) })
        }),
        authority: Authority::new(key()),
        login: "root".to_owned(),
        caps: Caps::all(),
        limits: limits(folder.path(), Limits::CHANNEL),
        quota: Quota::default(),
        pins,
    })
    .await;
    (gateway, folder)
}

/// What ssh says about it.
pub(super) async fn said(gateway: Gateway) -> String {
    let mut ground = Ground::start().await.unwrap();
    ground.gateway = gateway;
    let ended = run(ground.ssh(&["-o", "LogLevel=INFO", "pod", "true"])).await;
    assert_eq!(ended.code, 255);
    ended.stderr
}

#[tokio::test]
async fn no_sshd_is_said() {
    if tools::find("sshd").is_none() {
        return;
    }
    // closes at once
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let (closing, _folder) = gateway(Pins::default(), address).await;
    let text = said(closing).await;
    assert!(
        text.contains("nothing speaks SSH on port 22 of the pod"),
        "{text}"
    );

    // speaks, but not SSH
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let page = "HTTP/1.1 400 Bad Request\r\n\r\n".repeat(100);
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, page.as_bytes()).await;
        }
    });
    let (speaking, _folder) = gateway(Pins::default(), address).await;
    let text = said(speaking).await;
    assert!(
        text.contains("nothing speaks SSH on port 22 of the pod"),
        "{text}"
    );
}

#[tokio::test]
async fn a_pod_that_does_not_trust_the_gateway_is_told_what_to_write() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let (stranger, _folder) = gateway(Pins::default(), ground.direct).await;
    let line = stranger.setup.authority.public_line();
    let text = said(stranger).await;
    assert!(text.contains("TrustedUserCAKeys"), "{text}");
    assert!(text.contains(&line), "{text}");
}

#[tokio::test]
async fn another_host_key_is_refused() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let ended = run(ground.ssh(&["pod", "true"])).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    // The same pod, says its uid, and another key.
    let other = Ground::start().await.unwrap();
    let (impostor, _folder) = gateway(ground.gateway.setup.pins.clone(), other.direct).await;
    let text = said(impostor).await;
    assert!(
        text.contains("shows another host key than before"),
        "{text}"
    );
    assert!(!other.log().contains("kpf:alice"), "it got the certificate");
    // The right one goes on.
    let ended = in_time(run(ground.ssh(&["pod", "true"]))).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
}
