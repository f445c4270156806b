//! An sshd that means harm: what it does is its own loss, within bounds.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// Answers each connection with `first`, then with `again` for as long as it is taken; says how much was.
async fn peer(first: Vec<u8>, again: Vec<u8>) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::<AtomicU64>::default();
    let count = taken.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (first, again, count) = (first.clone(), again.clone(), count.clone());
            tokio::spawn(async move {
                let (mut read, mut write) = stream.into_split();
                let reading = async {
                    let mut buffer = [0; 4096];
                    while read.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
                };
                let writing = async {
                    if write.write_all(&first).await.is_err() {
                        return;
                    }
                    while !again.is_empty() && write.write_all(&again).await.is_ok() {
                        count.fetch_add(again.len() as u64, Ordering::Relaxed);
                    }
                    std::future::pending().await
                };
                tokio::select! {
                    () = reading => {}
                    () = writing => {}
                }
            });
        }
    });
    (address, taken)
}

/// A KEXINIT with sensible lists, in a packet of its own.
fn kexinit() -> Vec<u8> {
    let mut payload = vec![20];
    payload.extend([7; 16]);
    for list in [
        "curve25519-sha256",
        "ssh-ed25519",
        "aes256-ctr",
        "aes256-ctr",
        "hmac-sha2-256",
        "hmac-sha2-256",
        "none",
        "none",
        "",
        "",
    ] {
        payload.extend(u32::try_from(list.len()).unwrap().to_be_bytes());
        payload.extend(list.as_bytes());
    }
    payload.extend([0; 5]);
    let padding = 8 - (payload.len() + 5) % 8 + 8;
    let length = u32::try_from(payload.len() + padding + 1).unwrap();
    let mut packet = length.to_be_bytes().to_vec();
    packet.push(u8::try_from(padding).unwrap());
    packet.extend(payload);
    packet.resize(packet.len() + padding, 0);
    packet
}

async fn refused(first: Vec<u8>, again: Vec<u8>) -> (String, u64) {
    let (address, taken) = peer(first, again).await;
    let (gateway, _folder) = refusals::gateway(Pins::default(), address).await;
    let text = refusals::said(gateway).await;
    (text, taken.load(Ordering::Relaxed))
}

#[tokio::test]
async fn endless_greetings_and_key_exchanges_end() {
    if tools::find("sshd").is_none() {
        return;
    }
    let ident = b"SSH-2.0-OpenSSH_9.9\r\n".to_vec();
    for (what, first, again, says) in [
        (
            "a banner without end",
            vec![],
            b"welcome\r\n".repeat(1000),
            "nothing speaks SSH",
        ),
        (
            "a line without end",
            vec![],
            vec![b'x'; 65536],
            "nothing speaks SSH",
        ),
        (
            "KEXINIT for ever",
            ident.clone(),
            kexinit(),
            "cannot log in to the pod's sshd",
        ),
        (
            "no packets",
            ident.clone(),
            vec![0xff; 65536],
            "cannot log in to the pod's sshd",
        ),
        (
            "a packet of 4 GiB",
            [&ident[..], &[0xff; 8]].concat(),
            vec![0; 65536],
            "cannot log in to the pod's sshd",
        ),
    ] {
        let (text, taken) = refused(first, again).await;
        assert!(text.contains(says), "{what}: {text}");
        assert!(taken < 16 << 20, "{what}: {taken} bytes");
    }
}

/// Opens every kind of channel towards the gateway that it was not asked for. A real SSH server, but an odd one.
struct Pushy {
    opened: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl russh::server::Handler for Pushy {
    type Error = russh::Error;

    async fn auth_openssh_certificate(
        &mut self,
        _: &str,
        _: &russh::keys::Certificate,
    ) -> Result<russh::server::Auth, Self::Error> {
        Ok(russh::server::Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: russh::Channel<russh::server::Msg>,
        reply: russh::server::ChannelOpenHandle,
        session: &mut russh::server::Session,
    ) -> Result<(), Self::Error> {
        reply.accept().await;
        let handle = session.handle();
        let (opened, refused) = (self.opened.clone(), self.refused.clone());
        tokio::spawn(async move {
            let (_, half) = channel.split();
            for _ in 0..20 {
                for answer in [
                    handle
                        .channel_open_forwarded_tcpip("127.0.0.1", 22, "1.2.3.4", 5)
                        .await,
                    handle.channel_open_forwarded_streamlocal("/tmp/x").await,
                    handle.channel_open_agent().await,
                    handle.channel_open_x11("1.2.3.4", 5).await,
                    handle.channel_open_session().await,
                    handle
                        .channel_open_direct_tcpip("127.0.0.1", 22, "1.2.3.4", 5)
                        .await,
                    handle.channel_open_direct_streamlocal("/tmp/x").await,
                ] {
                    let count = if answer.is_ok() { &opened } else { &refused };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            half.exit_status(0).await.unwrap();
            half.close().await.unwrap();
        });
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: russh::ChannelId,
        _: &[u8],
        session: &mut russh::server::Session,
    ) -> Result<(), Self::Error> {
        session.channel_success(id)
    }
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_opened() {
    if tools::find("ssh").is_none() {
        return;
    }
    let [opened, refused] = [(); 2].map(|()| Arc::<AtomicU64>::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counts = (opened.clone(), refused.clone());
    tokio::spawn(async move {
        let config = Arc::new(russh::server::Config {
            keys: vec![key().as_ref().clone()],
            ..Default::default()
        });
        while let Ok((stream, _)) = listener.accept().await {
            let (opened, refused) = counts.clone();
            let pushy = Pushy { opened, refused };
            if let Ok(session) = russh::server::run_stream(config.clone(), stream, pushy).await {
                tokio::spawn(session);
            }
        }
    });
    let mut ground = Ground::start().await.unwrap();
    let (gateway, _folder) = refusals::gateway(Pins::default(), address).await;
    ground.gateway = gateway;
    let ended = crate::program::run(ground.ssh(&["pod", "true"])).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(opened.load(Ordering::Relaxed), 0);
    assert_eq!(refused.load(Ordering::Relaxed), 140);
}
