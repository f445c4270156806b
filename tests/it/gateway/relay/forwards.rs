//! `-L`, `-R`, sockets and the agent.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::program::{Process, in_time, run, until};

/// A multiplexed connection with a `-L` to each of some listeners.
pub(super) struct Mux {
    path: String,
    master: Process,
    ports: Vec<u16>,
}

/// A port that was free a moment ago.
async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

impl Mux {
    pub(super) async fn start(ground: &Ground, to: &[&TcpListener]) -> Self {
        let control = ground.path("mux");
        let path = format!("ControlPath={control}");
        let mut words = vec!["-M".to_owned(), "-o".to_owned(), path.clone()];
        let mut ports = Vec::new();
        for listener in to {
            let port = free_port().await;
            words.push("-L".to_owned());
            words.push(format!("{port}:{}", listener.local_addr().unwrap()));
            ports.push(port);
        }
        words.extend(["pod".to_owned(), "cat".to_owned()]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let master = Process::start(ground.piped(&words));
        until("the master listens", || fs::exists(&control).unwrap()).await;
        Self {
            path,
            master,
            ports,
        }
    }

    pub(super) async fn connect(&self, number: usize) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.ports[number]))
            .await
            .unwrap()
    }

    /// A second session, and the first one.
    pub(super) async fn answers(&mut self, ground: &Ground) {
        let ended = run(ground.ssh(&["-o", &self.path, "pod", "echo alive"])).await;
        assert_eq!(ended.stdout, b"alive\n", "{}", ended.stderr);
        let stdin = self.master.stdin.as_mut().unwrap();
        stdin.write_all(b"and well\n").await.unwrap();
        assert_eq!(self.master.line().await, "and well\n");
    }

    pub(super) async fn end(&mut self) {
        drop(self.master.stdin.take());
        self.master.signal(rustix::process::Signal::TERM);
        self.master.code().await;
    }
}

/// Answers what it gets, in capitals, to its end.
async fn shout(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    stream
        .write_all(text.to_uppercase().as_bytes())
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
}

/// Half-closes, and takes the answer.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, text: &str) -> String {
    in_time(async {
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await
}

#[tokio::test]
async fn local_forwards_half_close_and_refuse() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut mux = Mux::start(&ground, &[&server, &refused]).await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.accept().await {
            tokio::spawn(shout(stream));
        }
    });
    let asking = (0..50).map(|number| {
        let mux = &mux;
        async move {
            let answer = ask(mux.connect(0).await, &format!("hello {number}")).await;
            assert_eq!(answer, format!("HELLO {number}"));
        }
    });
    in_time(futures_util::future::join_all(asking)).await;
    drop(refused);
    assert_eq!(ask(mux.connect(1).await, "").await, "");
    mux.answers(&ground).await;
    mux.end().await;
}

/// It was sent, and the connection is closed on this side: the pod gets all of it.
#[tokio::test]
async fn what_was_sent_before_the_close_arrives() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let sink = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut mux = Mux::start(&ground, &[&sink]).await;
    let stream = mux.connect(0).await;
    let (mut reader, _) = in_time(sink.accept()).await.unwrap();
    let length = 20 << 20;
    let sent = in_time(crate::program::Noise::new(length).write_to(stream)).await; // and closed
    ground.at_rest().await;
    let read = in_time(crate::program::digest_of(&mut reader, usize::MAX)).await;
    assert_eq!(read.unwrap(), sent.unwrap());
    mux.answers(&ground).await;
    mux.end().await;
}

#[tokio::test]
async fn remote_forwards_listen_in_the_pod() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = server.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.accept().await {
            tokio::spawn(shout(stream));
        }
    });
    let port = free_port().await;
    let forward = format!("127.0.0.1:{port}:{to}");
    let any = format!("127.0.0.1:0:{to}");
    let strict = ["-o", "ExitOnForwardFailure=yes", "-o", "LogLevel=INFO"];
    let words = [
        &strict[..],
        &["-R", &forward, "-R", &any, "pod", "echo ready; cat"],
    ]
    .concat();
    let mut process = Process::start(ground.piped(&words));
    assert_eq!(process.line().await, "ready\n");
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert_eq!(ask(stream, "to the user").await, "TO THE USER");

    // taken already: said, and nothing left
    let ended = run(ground.ssh(&[&strict[..], &["-R", &forward, "pod", "true"]].concat())).await;
    assert_ne!(ended.code, 0);
    assert!(
        ended.stderr.contains("remote port forwarding failed"),
        "{}",
        ended.stderr
    );

    drop(process.stdin.take());
    let ended = process.end().await;
    assert_eq!(ended.code, 0);
    let said = ended
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("Allocated port "));
    let chosen: u16 = said
        .and_then(|it| it.split(' ').next()?.parse().ok())
        .expect("a port");
    assert_ne!(chosen, 0);
    // sshd is gone, and has closed it
    until("nobody listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
    })
    .await;
}

#[tokio::test]
async fn sockets_are_forwarded_both_ways() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let [near, far, back, here] = ["near", "far", "back", "here"].map(|name| ground.path(name));
    let servers = [&far, &here].map(|path| UnixListener::bind(path).unwrap());
    for server in servers {
        tokio::spawn(async move {
            while let Ok((stream, _)) = server.accept().await {
                tokio::spawn(shout(stream));
            }
        });
    }
    let (local, remote) = (format!("{near}:{far}"), format!("{back}:{here}"));
    let words = ["-L", &local, "-R", &remote, "pod", "echo ready; cat"];
    let mut process = Process::start(ground.piped(&words));
    assert_eq!(process.line().await, "ready\n");
    for path in [&near, &back] {
        let stream = UnixStream::connect(path).await.unwrap();
        assert_eq!(
            ask(stream, "through a socket").await,
            "THROUGH A SOCKET",
            "{path}"
        );
    }
    drop(process.stdin.take());
    assert_eq!(process.code().await, 0);
}

#[tokio::test]
async fn the_agent_is_there_for_all_who_ask() {
    let (Some(agent), Some(add), Some(ground)) = (
        tools::find("ssh-agent"),
        tools::find("ssh-add"),
        Ground::start().await,
    ) else {
        return;
    };
    let socket = ground.path("agent");
    let folder = ground.folder.path();
    let mut running = command(agent.as_os_str(), folder, folder);
    running.args(["-D", "-a", &socket]);
    let _running = Process::start(running);
    until("it listens", || fs::exists(&socket).unwrap()).await;
    let mut adding = command(add.as_os_str(), folder, folder);
    adding
        .env("SSH_AUTH_SOCK", &socket)
        .arg(ground.sshd.client_key());
    assert_eq!(run(adding).await.code, 0);

    let list = "for i in 1 2 3 4; do ssh-add -l & done; wait";
    let mut with = ground.ssh(&["-A", "pod", list]);
    with.env("SSH_AUTH_SOCK", &socket);
    let ended = run(with).await;
    let listed = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(
        listed.matches("ED25519").count(),
        4,
        "{listed} {}",
        ended.stderr
    );
    let mut without = ground.ssh(&["-a", "pod", "ssh-add -l"]);
    without.env("SSH_AUTH_SOCK", &socket);
    assert_ne!(run(without).await.code, 0);
}
