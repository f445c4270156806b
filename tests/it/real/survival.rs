//! What pods and a cluster go through while kpf is connected: containers die, pods are replaced, servers restart.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{ECHO, Real, assert_says, exchange};
use crate::forward::Forward;
use crate::program::{feed, in_time};

/// A forward of one local port to the echo port.
async fn forward<Guard>(real: &Real<Guard>, words: &[&str]) -> Forward {
    let mut command = real.kpf(&["forward", "--address=127.0.0.1"]);
    command.args(words).arg(format!(":{ECHO}"));
    Forward::start(command, 1).await
}

/// On the same local port, by whatever way and to whatever target.
#[tokio::test]
async fn a_forward_goes_on_whatever_happens() {
    let Some(real) = Real::alone().await else {
        return;
    };
    let forwards = [
        forward(&real, &["echo"]).await,
        forward(&real, &["svc/echo"]).await,
        forward(&real, &["--via=exec", "echo"]).await,
    ];
    for breaks in [
        ["restart", "kubelet"],
        ["restart", "apiserver"],
        ["replace", "echo"],
    ] {
        let mut open = Vec::new();
        for forward in &forwards {
            let mut tcp = forward.connect(0).await;
            exchange(&mut tcp, "before", "before").await;
            open.push(tcp);
        }
        real.cluster(&breaks).await;
        for (forward, mut open) in forwards.iter().zip(open) {
            // it has ended, one way or the other: nothing hangs
            let _ = in_time(open.read(&mut [0])).await;
            exchange(&mut forward.connect(0).await, "after", "after").await;
        }
    }
    for forward in forwards {
        forward.interrupt().await;
    }
}

/// What comes while there is no API server is held.
#[tokio::test]
async fn a_connection_waits_for_the_api_server() {
    let Some(real) = Real::alone().await else {
        return;
    };
    let forward = forward(&real, &["echo"]).await;
    let restarting = real.cluster(&["restart", "apiserver"]);
    let connecting = async {
        // some before it stops, some while it is away, some after it; the one that it breaks fails
        let mut failed = 0;
        for _ in 0..10 {
            let mut tcp = forward.connect(0).await;
            let asked = in_time(tcp.write_all(b"held")).await;
            let mut heard = [0; 4];
            let answered = in_time(tcp.read_exact(&mut heard)).await;
            failed += i32::from(asked.is_err() || answered.is_err());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert!(failed <= 1, "{failed} of 10 failed");
    };
    tokio::join!(restarting, connecting);
    exchange(&mut forward.connect(0).await, "after", "after").await;
    forward.interrupt().await;
}

#[tokio::test]
async fn without_reconnecting_a_forward_ends() {
    let Some(real) = Real::alone().await else {
        return;
    };
    let mut forward = forward(&real, &["--no-reconnect", "echo"]).await;
    real.cluster(&["restart", "kubelet"]).await;
    let ended = forward.process.end().await;
    assert_says(&ended, 1, "lost connection to pod");
}

#[tokio::test]
async fn a_killed_container_ends_its_connections_and_the_next_one_serves_again() {
    let Some(real) = Real::alone().await else {
        return;
    };
    // one that has not died yet is started again at once
    real.cluster(&["replace", "echo"]).await;
    let forward = forward(&real, &["echo"]).await;
    let mut open = real.open().await;
    real.cluster(&["kill", "echo"]).await;
    // the runtime tells no difference between this and a service that ends
    let ended = open.end().await;
    assert_eq!((ended.code, &ended.stderr[..]), (0, ""));
    let served_again = async {
        let mut heard = [0; 5];
        while &heard != b"again" {
            let mut again = forward.connect(0).await;
            // refused until the container is back, and reset then
            let _ = again.write_all(b"again").await;
            let _ = again.read_exact(&mut heard).await;
        }
    };
    in_time(served_again).await;
    forward.interrupt().await;
}

#[tokio::test]
async fn a_deleted_pod_ends_its_connections() {
    let Some(real) = Real::alone().await else {
        return;
    };
    let mut open = real.open().await;
    real.cluster(&["replace", "echo"]).await;
    assert_eq!(open.end().await.code, 0);
    let ended = feed(real.connect(ECHO), b"new").await;
    assert_eq!(
        (ended.code, &ended.stdout[..]),
        (0, &b"new"[..]),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_restart_of_the_kubelet_or_the_api_server_cuts_connections() {
    let Some(real) = Real::alone().await else {
        return;
    };
    for daemon in ["kubelet", "apiserver"] {
        let mut open = real.open().await;
        real.cluster(&["restart", daemon]).await;
        assert_says(&open.end().await, 74, "lost connection to pod");
        let ended = feed(real.connect(ECHO), b"new").await;
        assert_eq!(
            (ended.code, &ended.stdout[..]),
            (0, &b"new"[..]),
            "{daemon}"
        );
    }
}
