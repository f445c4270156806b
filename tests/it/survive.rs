//! `kpf forward` outlives what happens to pods, tunnels, servers, networks and credentials.

use std::collections::HashMap;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::forward::{Forward, assert_reset, echo};
use crate::playground::faults::Interruption;
use crate::playground::objects::Pod;
use crate::playground::ports::IDENTITY;
use crate::playground::{Options, kubeconfig};
use crate::program::{Ended, Noise, TestEnv, in_time, until};

/// A connection to the port that says which pod it is, and the pod's name and uid.
async fn identity(forward: &Forward) -> (TcpStream, String, String) {
    let mut tcp = BufReader::new(forward.connect(0).await);
    let mut line = String::new();
    in_time(tcp.read_line(&mut line)).await.unwrap();
    let (name, uid) = line.trim_end().split_once(' ').expect("a name and a uid");
    (tcp.into_inner(), name.to_owned(), uid.to_owned())
}

async fn forward(env: &TestEnv, words: &str) -> Forward {
    let words = format!("{words} --address 127.0.0.1");
    Forward::start(env.kpf(words.split(' ')), 1).await
}

/// Ends it as its user does; what it has said.
async fn end(mut forward: Forward) -> String {
    forward.process.signal(Signal::INT);
    let Ended { code, stderr, .. } = forward.process.end().await;
    assert_eq!(code, 0, "{stderr}");
    stderr
}

/// An echo, by a new connection each time that one is reset: the tunnel in advance may be lost, too, and be noticed later.
async fn echo_in_the_end(forward: &Forward, bytes: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut tcp = forward.connect(0).await;
        let mut heard = vec![0; bytes.len()];
        let answer = async {
            tcp.write_all(bytes).await?;
            tcp.read_exact(&mut heard).await
        };
        match in_time(answer).await {
            Ok(_) => return assert_eq!(heard, bytes),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

#[tokio::test]
async fn a_lost_tunnel_comes_back() {
    let env = TestEnv::new();
    for transport in ["websocket", "spdy"] {
        for how in ["cut", "close", "go away"] {
            let what = format!("{transport} {how}");
            let forward = forward(&env, &format!("pod/echo :7 --transport {transport}")).await;
            let mut tcp = forward.connect(0).await;
            echo(&mut tcp, b"before").await;
            until("one is dialled in advance", || {
                env.playground.tunnels().len() >= 2
            })
            .await;
            for tunnel in env.playground.tunnels() {
                match how {
                    "cut" => tunnel.cut(),
                    "close" => tunnel.close(),
                    _ => tunnel.go_away(),
                }
            }
            assert_reset(&mut tcp).await;
            echo_in_the_end(&forward, b"after").await;
            let said = end(forward).await;
            // the pool may have been faster than anybody could notice
            assert_eq!(
                said.contains("lost connection to pod echo ("),
                said.contains("connected to pod echo after "),
                "{what}: {said}"
            );
        }
    }
}

/// The port stays bound, and who connects meanwhile waits.
#[tokio::test]
async fn an_api_server_may_restart() {
    let env = TestEnv::new();
    let forward = forward(&env, "pod/echo :7").await;
    let mut open = forward.connect(0).await;
    echo(&mut open, b"before").await;
    env.playground.stop();
    assert_reset(&mut open).await;
    let mut held = forward.connect(0).await;
    held.write_all(b"held").await.unwrap();
    env.playground.resume().unwrap();
    let mut heard = [0; 4];
    in_time(held.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"held");
    let said = end(forward).await;
    // of several tunnels, one may have been closed before another was cut
    assert!(said.contains("lost connection to pod echo ("), "{said}");
}

#[tokio::test]
async fn a_kubelet_may_restart() {
    let env = TestEnv::new();
    let forward = forward(&env, "pod/echo :7").await;
    let mut open = forward.connect(0).await;
    echo(&mut open, b"before").await;
    env.playground.stop_kubelet();
    assert_reset(&mut open).await;
    let mut held = forward.connect(0).await;
    held.write_all(b"held").await.unwrap();
    until("it was refused", || {
        env.playground
            .requests()
            .iter()
            .filter(|it| it.is_upgrade())
            .count()
            > 2
    })
    .await;
    env.playground.start_kubelet();
    let mut heard = [0; 4];
    in_time(held.read_exact(&mut heard)).await.unwrap();
    end(forward).await;
}

/// The tunnel to the old pod would stay up for hours: the watch tells.
#[tokio::test]
async fn a_pod_of_the_same_name_takes_over() {
    let env = TestEnv::new();
    for user in ["admin", "no-watch"] {
        let context = kubeconfig::context(user);
        let forward = forward(&env, &format!("pod/echo :{IDENTITY} --context {context}")).await;
        let (_tcp, name, before) = identity(&forward).await;
        assert_eq!(name, "echo");
        env.playground.replace_pod("default", "echo");
        let (_tcp, _, after) = identity(&forward).await;
        assert_ne!(before, after, "{user}");
        let said = end(forward).await;
        assert!(!said.contains("error"), "{user}: {said}");
    }
}

#[tokio::test]
async fn a_deleted_pod_is_waited_for() {
    let env = TestEnv::new();
    let forward = forward(&env, &format!("pod/echo :{IDENTITY}")).await;
    drop(identity(&forward).await);
    env.playground.delete_pod("default", "echo");
    let (held, created) = tokio::join!(identity(&forward), async {
        sleep(Duration::from_millis(50)).await;
        env.playground
            .apply(Pod::new("default", "echo", "echo").object());
        Instant::now()
    });
    assert_eq!(held.1, "echo");
    assert!(created.elapsed() < Duration::from_secs(20));
    let said = end(forward).await;
    // whether it was seen without any pod is a matter of moments
    let (gone, replaced) = ("pod echo is gone", "pod echo was replaced");
    assert!(said.contains(gone) || said.contains(replaced), "{said}");
}

/// New connections go to the new pods, old ones live on until their pods end.
#[tokio::test]
async fn a_rollout_is_followed() {
    let env = TestEnv::new();
    let forward = forward(&env, "deploy/web :8080").await;
    let before = pod_of(&forward).await;
    let mut old = forward.connect(0).await;
    old.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let new = env
        .playground
        .roll("default", "web", Duration::from_secs(3600));
    until("it is followed", || {
        env.playground.tunnels().iter().any(|it| it.pod != before)
    })
    .await;
    let after = pod_of(&forward).await;
    assert!(new.contains(&after), "{after} is none of {new:?}");
    old.write_all(b"host: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 8];
    in_time(old.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1");
    let said = end(forward).await;
    assert!(said.contains(&format!("no longer to {before}")), "{said}");
}

/// A service's connections leave a pod that is not ready any more.
#[tokio::test]
async fn a_pod_that_is_not_ready_is_left() {
    let env = TestEnv::new();
    env.playground
        .scale("Deployment", ("default", "web"), 2, Duration::ZERO);
    let forward = forward(&env, "deploy/web :8080").await;
    let before = pod_of(&forward).await;
    until("it watches", || env.playground.watches().len() >= 2).await;
    env.playground.set_ready("default", &before, false);
    until("it moves", || {
        env.playground.tunnels().iter().any(|it| it.pod != before)
    })
    .await;
    assert_ne!(pod_of(&forward).await, before);
    end(forward).await;
}

/// The pod that answers on a page's port.
async fn pod_of(forward: &Forward) -> String {
    let mut tcp = forward.connect(0).await;
    tcp.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut page = String::new();
    in_time(tcp.read_to_string(&mut page)).await.unwrap();
    let pod = page
        .split("<b>")
        .nth(1)
        .and_then(|rest| rest.split("</b>").next());
    pod.unwrap_or_else(|| panic!("{page}")).to_owned()
}

#[tokio::test]
async fn connections_are_spread_over_ready_pods() {
    let env = TestEnv::new();
    env.playground
        .scale("Deployment", ("default", "web"), 3, Duration::ZERO);
    for (balance, fewest) in [("", 0), (" --balance", 3), (" --balance=least", 3)] {
        let forward = forward(&env, &format!("deploy/web :8080{balance}")).await;
        let mut open = Vec::new();
        let mut pods: HashMap<String, usize> = HashMap::new();
        // the first few may come before the first view
        until("it watches", || env.playground.watches().len() >= 2).await;
        for _ in 0..9 {
            let (pod, tcp) = kept(&forward).await;
            open.push(tcp);
            *pods.entry(pod).or_default() += 1;
        }
        match fewest {
            0 => assert_eq!(pods.len(), 1, "{balance}: {pods:?}"),
            _ => assert_eq!(pods.len(), 3, "{balance}: {pods:?}"),
        }
        drop(open);
        end(forward).await;
    }
}

/// The pod, and the connection, which stays open.
async fn kept(forward: &Forward) -> (String, TcpStream) {
    let mut tcp = forward.connect(0).await;
    tcp.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut page = Vec::new();
    while !page.ends_with(b"</html>\n") {
        assert_ne!(in_time(tcp.read_buf(&mut page)).await.unwrap(), 0);
    }
    let page = String::from_utf8(page).unwrap();
    let pod = page
        .split("<b>")
        .nth(1)
        .and_then(|rest| rest.split("</b>").next());
    (pod.unwrap_or_else(|| panic!("{page}")).to_owned(), tcp)
}

#[tokio::test]
async fn no_ready_pod_is_waited_for() {
    let env = TestEnv::new();
    env.playground
        .scale("Deployment", ("default", "web"), 1, Duration::ZERO);
    let forward = forward(&env, "deploy/web :8080").await;
    let pod = pod_of(&forward).await;
    until("it watches", || env.playground.watches().len() >= 2).await;
    env.playground
        .terminate_pod("default", &pod, Duration::ZERO);
    until("its tunnels are let go", || {
        env.playground.tunnels().is_empty()
    })
    .await;
    let (held, ()) = tokio::join!(pod_of(&forward), async {
        sleep(Duration::from_millis(50)).await;
        env.playground
            .scale("Deployment", ("default", "web"), 2, Duration::ZERO);
    });
    assert_ne!(held, pod);
    end(forward).await;
}

#[tokio::test]
async fn expired_credentials_are_renewed() {
    let env = TestEnv::new();
    let context = kubeconfig::context("plugin");
    let forward = forward(&env, &format!("pod/echo :7 --context {context}")).await;
    let mut open = forward.connect(0).await;
    echo(&mut open, b"before").await;
    let runs = env.playground.plugin_runs();
    env.playground.expire_token("plugin");
    for tunnel in env.playground.tunnels() {
        tunnel.cut();
    }
    assert_reset(&mut open).await;
    echo(&mut forward.connect(0).await, b"after").await;
    assert!(env.playground.plugin_runs() > runs);
    end(forward).await;
}

/// A network that goes away says nothing. Pings find out, and a question to the API server where a stalled upload
/// leaves them no room.
#[tokio::test]
async fn a_silent_network_is_found_out() {
    for upload in [false, true] {
        let env = TestEnv::with(Options {
            network: true,
            ..Options::default()
        });
        let words = match upload {
            true => "pod/echo :7 :9",
            false => "pod/echo :7",
        };
        let words = format!("{words} --address 127.0.0.1");
        let lines = if upload { 2 } else { 1 };
        let forward = Forward::start(env.kpf(words.split(' ')), lines).await;
        let mut tcp = forward.connect(0).await;
        echo(&mut tcp, b"before").await;
        let sending = upload.then(|| {
            let place = forward.places[1];
            tokio::spawn(async move {
                let tcp = crate::forward::connect(place).await;
                Noise::new(usize::MAX / 2).write_to(tcp).await
            })
        });
        let frozen = Instant::now();
        env.playground.network().freeze();
        assert_reset(&mut tcp).await;
        if let Some(sending) = sending {
            assert!(in_time(sending).await.unwrap().is_err());
        }
        assert!(
            frozen.elapsed() < Duration::from_secs(32),
            "{:?}",
            frozen.elapsed()
        );
        env.playground.network().thaw();
        echo(&mut forward.connect(0).await, b"after").await;
        end(forward).await;
    }
}

#[tokio::test]
async fn who_waits_too_long_hears_why() {
    let env = TestEnv::new();
    let held = forward(&env, "pod/echo :7 --hold 300ms").await;
    env.playground.stop();
    for _ in 0..2 {
        // the first one may have been in time, or reset before it is seen to be there
        if let Ok(mut tcp) = TcpStream::connect(held.places[0]).await {
            assert_reset(&mut tcp).await;
        }
    }
    let said = end(held).await;
    assert!(said.contains("no connection within 0.3 s: "), "{said}");

    let env = TestEnv::new();
    let mut forward = forward(&env, "pod/echo :7 --retry-max-elapsed 300ms").await;
    env.playground.stop();
    let ended = forward.process.end().await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("error: gave up after "),
        "{}",
        ended.stderr
    );
}

/// One watch for each kind of object, resumed where it ended, and nothing else is asked.
#[tokio::test]
async fn nothing_is_polled() {
    let env = TestEnv::new();
    for (target, watches) in [
        ("pod/echo :7", 1),
        ("deploy/web :8080", 2),
        ("svc/web :80", 3),
    ] {
        let forward = forward(&env, target).await;
        until("it watches", || env.playground.watches().len() == watches).await;
        let before = env.playground.requests().len();
        sleep(Duration::from_millis(300)).await;
        assert_eq!(env.playground.requests().len(), before, "{target}");
        env.playground.interrupt_watches(Interruption::End);
        until("it watches again", || {
            env.playground.requests().len() == before + watches
        })
        .await;
        let lists = |it: &&crate::playground::faults::Request| {
            !it.uri.query().unwrap_or_default().contains("watch=")
        };
        let requests = env.playground.requests();
        assert_eq!(
            requests[before..].iter().filter(lists).count(),
            0,
            "{target}"
        );
        end(forward).await;
        until("none is left", || env.playground.watches().is_empty()).await;
    }
}
