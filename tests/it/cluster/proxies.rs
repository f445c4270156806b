//! Real bytes through proxies of every kind.

use std::net::SocketAddr;

use kpf::cluster::{Cluster, Options, Unreachable, UpgradeError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::server::{Answer, Authority, SPDY, Server, answer, within};
use super::upgrade::spdy;

/// A cluster that only the proxy can reach: its name means nothing here.
fn behind(proxy: &str) -> Cluster {
    let server = Some("http://cluster.invalid:6443".to_owned());
    Cluster::load(&Options {
        server,
        proxy_url: Some(proxy.to_owned()),
        ..Options::default()
    })
    .unwrap()
}

async fn echoes(cluster: &Cluster) {
    let mut upgraded = within(cluster.upgrade(spdy())).await.unwrap();
    upgraded.io.write_all(b"through").await.unwrap();
    let mut back = [0; 7];
    within(upgraded.io.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"through");
}

#[tokio::test]
async fn http_proxy_with_credentials() {
    let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
    let address = server.address;
    let proxy = Server::start(move |_| Answer::Relay(address)).await;
    echoes(&behind(&format!("http://me:p%40ss@{}", proxy.address))).await;
    let asked = &proxy.seen()[0];
    assert_eq!(asked.line, "CONNECT cluster.invalid:6443 HTTP/1.1");
    assert_eq!(asked.header("host"), "cluster.invalid:6443");
    assert_eq!(asked.header("proxy-authorization"), "Basic bWU6cEBzcw==");
    assert_eq!(server.seen()[0].all("proxy-authorization").len(), 0);
}

#[tokio::test]
async fn https_proxy_before_an_https_server() {
    let authority = Authority::new("ca");
    let inner = authority.issue("cluster.invalid");
    let outer = authority.issue("127.0.0.1");
    let server = Server::start_tls(Some(authority.server(&inner)), |_| {
        Answer::Echo(SPDY.into())
    })
    .await;
    let address = server.address;
    let proxy = Server::start_tls(Some(authority.server(&outer)), move |_| {
        Answer::Relay(address)
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let options = Options {
        server: Some("https://cluster.invalid".to_owned()),
        proxy_url: Some(format!("https://{}", proxy.address)),
        certificate_authority: Some(ca),
        ..Options::default()
    };
    echoes(&Cluster::load(&options).unwrap()).await;
    assert_eq!(proxy.seen()[0].line, "CONNECT cluster.invalid:443 HTTP/1.1");
    assert_eq!(
        server.seen()[0]
            .tls
            .as_ref()
            .unwrap()
            .server_name
            .as_deref(),
        Some("cluster.invalid")
    );
}

/// `crates.md` §0 row 8.
#[tokio::test]
async fn the_proxys_status_is_told_and_its_password_isnt() {
    for (line, told) in [
        ("403 Forbidden\u{1b}", 403),
        ("407 Proxy Authentication Required", 407),
        ("502 Bad Gateway", 502),
    ] {
        let proxy = Server::start(move |_| answer(line, "", "sorry")).await;
        let error = within(behind(&format!("http://me:s3cret@{}", proxy.address)).upgrade(spdy()))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, UpgradeError::Unreachable(Unreachable::Proxy { status: Some(status), .. }) if *status == told),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains(&format!("proxy http://{}: {told} ", proxy.address)),
            "{text}"
        );
        assert!(
            !text.contains("s3cret")
                && !text.contains('\u{1b}')
                && !format!("{error:?}").contains("s3cret"),
            "{text}"
        );
        assert!(!error.allows_fallback());
    }
}

#[tokio::test]
async fn proxies_that_make_no_sense() {
    for bytes in ["", "SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
        let proxy = Server::start(move |_| Answer::Close(bytes.into())).await;
        let error = within(behind(&format!("http://{}", proxy.address)).upgrade(spdy()))
            .await
            .unwrap_err();
        assert!(
            matches!(
                &error,
                UpgradeError::Unreachable(Unreachable::Proxy { status: None, .. })
            ),
            "{bytes}: {error:?}"
        );
    }
    let endless = Server::start(|_| {
        Answer::Hang([b"HTTP/1.1 200 OK\r\n".to_vec(), vec![b'x'; 100_000]].concat())
    })
    .await;
    let error = within(behind(&format!("http://{}", endless.address)).upgrade(spdy()))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no end"), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = within(behind(&format!("http://{address}")).upgrade(spdy()))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("Unable to connect to the server: proxy http://{address}: connection refused")
    );
}

/// `crates.md` §0 rows 5 and 6, with a server of this machine.
#[tokio::test]
async fn the_environments_proxy_isnt_asked_for_this_machine() {
    let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
    let proxy = Server::start(|_| answer("500 X", "", "")).await;
    let environment = [("HTTP_PROXY", format!("http://{}", proxy.address))]
        .into_iter()
        .collect();
    let options = Options {
        server: Some(format!("http://{}", server.address)),
        environment,
        ..Options::default()
    };
    echoes(&Cluster::load(&options).unwrap()).await;
    assert_eq!(proxy.connections(), 0);
}

/// Answers one SOCKS5 client with `verdict` after `user:password`, and returns what it asked for.
async fn socks(
    onward: SocketAddr,
    user: Option<&'static str>,
    verdict: u8,
) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        let mut head = [0; 2];
        io.read_exact(&mut head).await.unwrap();
        let mut methods = vec![0; head[1].into()];
        io.read_exact(&mut methods).await.unwrap();
        if let Some(expected) = user {
            if !methods.contains(&2) {
                io.write_all(&[5, 0xff]).await.unwrap();
                return "nothing".to_owned();
            }
            io.write_all(&[5, 2]).await.unwrap();
            assert_eq!(io.read_u8().await.unwrap(), 1);
            let mut given = String::new();
            for separator in [":", ""] {
                let mut text = vec![0; io.read_u8().await.unwrap().into()];
                io.read_exact(&mut text).await.unwrap();
                given += &(String::from_utf8(text).unwrap() + separator);
            }
            io.write_all(&[1, u8::from(given != expected)])
                .await
                .unwrap();
        } else {
            io.write_all(&[5, 0]).await.unwrap();
        }
        let mut request = [0; 4];
        if io.read_exact(&mut request).await.is_err() {
            return "nothing".to_owned();
        }
        assert_eq!(request[..3], [5, 1, 0]);
        let host = match request[3] {
            3 => {
                let mut name = vec![0; io.read_u8().await.unwrap().into()];
                io.read_exact(&mut name).await.unwrap();
                String::from_utf8(name).unwrap()
            }
            4 => {
                let mut octets = [0; 16];
                io.read_exact(&mut octets).await.unwrap();
                std::net::Ipv6Addr::from(octets).to_string()
            }
            kind => panic!("{kind}"),
        };
        let port = io.read_u16().await.unwrap();
        io.write_all(&[5, verdict, 0, 3, 2, b'a', b'b', 0, 0])
            .await
            .unwrap();
        if verdict == 0 {
            let mut onward = TcpStream::connect(onward).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut io, &mut onward).await });
        }
        format!("{host} {port}")
    });
    (address, task)
}

#[tokio::test]
async fn socks5_proxy_with_and_without_credentials() {
    let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
    let (proxy, asked) = socks(server.address, None, 0).await;
    echoes(&behind(&format!("socks5://{proxy}"))).await;
    assert_eq!(
        within(asked).await.unwrap(),
        "cluster.invalid 6443",
        "the name is the proxy's to resolve"
    );

    let (proxy, asked) = socks(server.address, Some("me:p:w"), 0).await;
    echoes(&behind(&format!("socks5h://me:p%3Aw@{proxy}"))).await;
    within(asked).await.unwrap();

    let (proxy, asked) = socks(server.address, None, 0).await;
    let options = Options {
        server: Some("http://[fd00::1]:99".to_owned()),
        proxy_url: Some(format!("socks5://{proxy}")),
        ..Options::default()
    };
    echoes(&Cluster::load(&options).unwrap()).await;
    assert_eq!(within(asked).await.unwrap(), "fd00::1 99");
}

#[tokio::test]
async fn socks5_refusals_say_why() {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let (proxy, _asked) = socks(nowhere, None, 2).await;
    let error = within(behind(&format!("socks5://{proxy}")).upgrade(spdy()))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("connection not allowed by ruleset"),
        "{error}"
    );
    let (proxy, _asked) = socks(nowhere, Some("me:right"), 0).await;
    let error = within(behind(&format!("socks5://me:wr0ng@{proxy}")).upgrade(spdy()))
        .await
        .unwrap_err();
    assert!(
        error.to_string().ends_with("wrong user or password")
            && !error.to_string().contains("wr0ng"),
        "{error}"
    );
    let (proxy, _asked) = socks(nowhere, Some("me:right"), 0).await;
    let error = within(behind(&format!("socks5://{proxy}")).upgrade(spdy()))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("wants a user and password"),
        "{error}"
    );
}
