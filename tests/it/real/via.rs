//! `--via exec`: commands in real containers, by the socat and the busybox of `tests/cluster/image.sh`.

use std::fs;
use std::process::Stdio;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::{COUNT, ECHO, LINE, LOOPBACK_ECHO, NOBODY, RESET, Real, ZEROS, assert_says, exchange};
use crate::forward::Forward;
use crate::program::{Noise, Process, digest_of, feed, in_time, run};

/// Bytes of a transfer: many times what any buffer on the way holds.
const LONG: usize = 8 << 20;

fn via<Guard>(real: &Real<Guard>, words: &[&str]) -> Command {
    let mut command = real.kpf(&["connect", "--via=exec"]);
    command.args(words);
    command
}

/// Runs a shell's script in the pod `echo`.
async fn inside<Guard>(real: &Real<Guard>, script: &str) -> String {
    let ended = run(real.kpf(&["exec", "echo", "--", "sh", "-c", script])).await;
    assert_eq!(ended.code, 0, "{script}: {}", ended.stderr);
    String::from_utf8(ended.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn bytes_and_ends_arrive() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let file = real.home.path().join("bytes");
    Noise::new(LONG).save(&file);
    let nc = ["--via-command=nc {host} {port}", "echo"];
    for target in [&["--via=exec", "echo"][..], &nc] {
        let connect = |port: &str| {
            let mut command = real.kpf(&["connect"]);
            command.args(target).arg(port).stdin(Stdio::piped());
            command
        };
        let mut process = Process::start(connect(ECHO));
        let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take());
        let (sent, heard) = tokio::join!(
            in_time(Noise::new(LONG).write_to(stdin)),
            in_time(digest_of(stdout.unwrap(), usize::MAX)),
        );
        assert_eq!(heard.unwrap(), sent.unwrap(), "{target:?}");
        assert_eq!(process.code().await, 0, "{target:?}");

        // what no port-forward can carry: an answer to the end of stdin
        let mut command = connect(COUNT);
        command.stdin(fs::File::open(&file).unwrap());
        let ended = run(command).await;
        let said = String::from_utf8_lossy(&ended.stdout);
        assert_eq!(said, format!("{LONG}\n"), "{target:?}: {}", ended.stderr);
        assert_eq!((ended.code, &*ended.stderr), (0, ""), "{target:?}");
    }
}

#[tokio::test]
async fn every_end_is_told() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let mut command = via(&real, &["echo", LINE]);
    command.stdin(Stdio::piped());
    // the pod ends first
    let mut process = Process::start(command);
    let _stdin = process.stdin.take();
    let ended = process.end().await;
    assert_eq!((ended.code, &*ended.stderr), (0, ""));
    assert_eq!(ended.stdout, b"one line\n");
    assert_says(
        &run(via(&real, &["echo", RESET])).await,
        74,
        "reset by the pod",
    );
    assert_says(&run(via(&real, &["echo", NOBODY])).await, 111, "refused");
    let ended = run(via(&real, &["nothing", ECHO])).await;
    assert_says(&ended, 68, "pods \"nothing\" not found");
}

#[tokio::test]
async fn other_hosts_and_sockets_are_reached() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let host = format!("{}:{ECHO}", inside(&real, "hostname -i").await);
    let ended = feed(real.kpf(&["connect", "web", &host]), b"hello").await;
    assert_eq!(ended.stdout, b"hello", "{}", ended.stderr);
    assert_eq!((ended.code, &*ended.stderr), (0, ""));

    let serve = "socat UNIX-LISTEN:/tmp/via.sock,unlink-early EXEC:cat & \
                 until [ -S /tmp/via.sock ]; do sleep 0.01; done; echo ready; wait";
    let mut server = Process::start(real.kpf(&["exec", "echo", "--", "sh", "-c", serve]));
    assert_eq!(server.line().await, "ready\n");
    let unix = ["connect", "echo", "unix:/tmp/via.sock"];
    let ended = feed(real.kpf(&unix), b"hello").await;
    assert_eq!(ended.stdout, b"hello", "{}", ended.stderr);
    assert_eq!((ended.code, &*ended.stderr), (0, ""));
    assert_eq!(server.end().await.code, 0);
}

/// A role that may do nothing but exec, and not even read a pod.
#[tokio::test]
async fn exec_takes_port_forwards_place() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let as_user = ["connect", "--context=exec-only", "default/echo", ECHO];
    let ended = feed(real.kpf(&as_user), b"hello").await;
    assert_eq!(ended.stdout, b"hello", "{}", ended.stderr);
    assert_says(&ended, 0, "(--via exec)");
    assert!(
        ended.stderr.contains("pods/portforward"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_forward_by_commands() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let ports = [ECHO, NOBODY, RESET, COUNT].map(|port| format!(":{port}"));
    let mut command = real.kpf(&["forward", "--via=exec", "--address=127.0.0.1", "echo"]);
    command.args(&ports);
    let forward = Forward::start(command, ports.len()).await;
    let mut kept = forward.connect(0).await;
    exchange(&mut kept, "kept", "kept").await;
    for index in [1, 2] {
        let mut byte = [0];
        let end = in_time(forward.connect(index).await.read(&mut byte)).await;
        let kind = end.unwrap_err().kind();
        assert_eq!(
            kind,
            std::io::ErrorKind::ConnectionReset,
            "{}",
            ports[index]
        );
    }
    let echoes = (0..4).map(|_| async {
        let (reader, mut writer) = forward.connect(0).await.into_split();
        let (sent, heard) = tokio::join!(
            async {
                let sent = in_time(Noise::new(LONG).write_to(&mut writer)).await;
                writer.shutdown().await.unwrap();
                sent.unwrap()
            },
            in_time(digest_of(reader, usize::MAX)),
        );
        assert_eq!(heard.unwrap(), sent);
    });
    futures_util::future::join_all(echoes).await;
    let count = async |mut tcp: TcpStream| {
        tcp.write_all(b"12345").await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut said = String::new();
        in_time(tcp.read_to_string(&mut said)).await.unwrap();
        assert_eq!(said, "5\n");
    };
    count(forward.connect(3).await).await;
    exchange(&mut kept, "still", "still").await;
    forward.interrupt().await;
}

/// How many socats there are in the pod `echo` that lead to a port that no other test leads one to.
async fn socats<Guard>(real: &Real<Guard>, port: &str) -> String {
    let count = format!("ps -o args | grep -c '[T]CP:127.0.0.1:{port}$' || true");
    inside(real, &count).await
}

/// Where the service ends after its input has ended.
#[tokio::test]
async fn a_killed_kpf_leaves_nothing_behind() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let mut command = via(&real, &["echo", LOOPBACK_ECHO]);
    command.stdin(Stdio::piped());
    let mut process = Process::start(command);
    let stdin = process.stdin.as_mut().unwrap();
    stdin.write_all(b"before\n").await.unwrap();
    assert_eq!(process.line().await, "before\n");
    assert_eq!(socats(&real, LOOPBACK_ECHO).await, "1");
    process.signal(Signal::KILL);
    process.code().await;
    in_time(async { while socats(&real, LOOPBACK_ECHO).await != "0" {} }).await;
}

/// Where it does not: a download that is broken off.
#[tokio::test]
async fn a_dropped_connection_leaves_nothing_behind() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let words = ["forward", "--via=exec", "--address=127.0.0.1", "echo"];
    let mut command = real.kpf(&words);
    command.arg(format!(":{ZEROS}"));
    let forward = Forward::start(command, 1).await;
    let download = async || {
        let mut tcp = forward.connect(0).await;
        in_time(tcp.read_exact(&mut [0; 1 << 16])).await.unwrap();
        tcp
    };
    drop(download().await);
    in_time(async { while socats(&real, ZEROS).await != "0" {} }).await;
    let open = download().await;
    assert_eq!(socats(&real, ZEROS).await, "1");
    forward.interrupt().await;
    assert_eq!(socats(&real, ZEROS).await, "0");
    drop(open);
}
