//! What one connection does, no other one feels.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::forward::{Forward, assert_reset, connect, echo};
use crate::playground::ports::{CHARGEN, ECHO, REFUSED, STALL};
use crate::program::{Noise, TestEnv, digest_of, in_time, until};

/// More than all buffers on the way hold.
const FLOOD: usize = 256 << 20;
const TRANSPORTS: [&str; 2] = ["websocket", "spdy"];

async fn forward(env: &TestEnv, transport: &str, ports: &[u16], more: &[&str]) -> Forward {
    let mut command = env.kpf(["forward", "pod/echo", "--address", "127.0.0.1"]);
    command.args(ports.iter().map(|port| format!(":{port}")));
    command.args(["--transport", transport]).args(more);
    Forward::start(command, ports.len()).await
}

/// New and old connections go on.
async fn others_go_on(forward: &Forward, old: &mut TcpStream) {
    for _ in 0..20 {
        echo(old, b"an old one").await;
        echo(&mut forward.connect(0).await, b"a new one").await;
    }
}

#[tokio::test]
async fn a_reader_or_writer_that_stalls_stalls_alone() {
    let env = TestEnv::new();
    for transport in TRANSPORTS {
        let forward = forward(&env, transport, &[ECHO, CHARGEN, STALL], &[]).await;
        let mut old = forward.connect(0).await;
        echo(&mut old, b"before").await;
        let mut unread = Vec::new();
        let mut sending = JoinSet::new();
        for _ in 0..4 {
            unread.push(forward.connect(1).await);
            let place = forward.places[2];
            sending.spawn(async move { Noise::new(FLOOD).write_to(connect(place).await).await });
        }
        until("the node stands still", || {
            env.playground
                .tunnels()
                .iter()
                .filter(|it| it.blocked())
                .count()
                >= 4
        })
        .await;
        others_go_on(&forward, &mut old).await;
        assert!(sending.try_join_next().is_none(), "{transport}");
        drop(unread);
        sending.shutdown().await;
        // those who have stalled are gone, and with them what they blocked
        others_go_on(&forward, &mut old).await;
        forward.interrupt().await;
    }
}

#[tokio::test]
async fn aborted_downloads_harm_nobody() {
    let env = TestEnv::new();
    for transport in TRANSPORTS {
        let forward = forward(&env, transport, &[ECHO, CHARGEN], &[]).await;
        let mut old = forward.connect(0).await;
        for _ in 0..200 {
            let mut tcp = forward.connect(1).await;
            in_time(tcp.read_exact(&mut [0; 1000])).await.unwrap();
            // a reset, not an end
            SockRef::from(&tcp)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
        others_go_on(&forward, &mut old).await;
        forward.interrupt().await;
    }
}

#[tokio::test]
async fn refusals_harm_nobody() {
    let env = TestEnv::new();
    for transport in TRANSPORTS {
        let forward = forward(&env, transport, &[ECHO, REFUSED], &[]).await;
        let mut old = forward.connect(0).await;
        for _ in 0..100 {
            // it may be reset before it is seen to be there
            if let Ok(mut tcp) = TcpStream::connect(forward.places[1]).await {
                assert_reset(&mut tcp).await;
            }
            echo(&mut old, b"x").await;
        }
        others_go_on(&forward, &mut old).await;
        forward.interrupt().await;
    }
}

/// Nobody takes what was sent to a port that refuses: each such stream costs its tunnel one of its five workers for good.
#[tokio::test]
async fn refusals_of_those_who_send_harm_nobody() {
    let env = TestEnv::new();
    for transport in TRANSPORTS {
        let mut forward = forward(&env, transport, &[ECHO, REFUSED], &[]).await;
        let mut old = forward.connect(0).await;
        for _ in 0..20 {
            let mut tcp = forward.connect(1).await;
            let _ = in_time(tcp.write_all(b"hello")).await;
            assert_reset(&mut tcp).await;
        }
        others_go_on(&forward, &mut old).await;
        // or it would have lost a tunnel, after 18 s of silence
        forward.process.signal(Signal::INT);
        let said = forward.process.end().await.stderr;
        assert!(!said.contains("lost connection to pod"), "{said}");
    }
}

/// Past the bound connections share tunnels, but none that stands still.
#[tokio::test]
async fn a_stalled_tunnel_is_shared_with_nobody() {
    let env = TestEnv::new();
    for transport in TRANSPORTS {
        let forward = forward(&env, transport, &[ECHO, STALL], &["--max-tunnels", "2"]).await;
        let place = forward.places[1];
        let sending =
            tokio::spawn(async move { Noise::new(FLOOD).write_to(connect(place).await).await });
        until("the node stands still", || {
            env.playground.tunnels().iter().any(|it| it.blocked())
        })
        .await;
        sleep(Duration::from_secs(2)).await; // it must stay so for a while to count
        let mut open = Vec::new();
        for _ in 0..10 {
            let mut tcp = forward.connect(0).await;
            echo(&mut tcp, b"hello").await;
            open.push(tcp);
        }
        // one that stands still takes its time to go
        let tunnels = env.playground.tunnels();
        let ours = tunnels.iter().filter(|it| it.transport == transport);
        assert_eq!(ours.count(), 2);
        sending.abort();
        forward.interrupt().await;
    }
}

#[tokio::test]
async fn five_hundred_at_once() {
    const LENGTH: usize = 1 << 20;
    let env = TestEnv::new();
    for transport in TRANSPORTS {
        let forward = forward(&env, transport, &[ECHO], &[]).await;
        let mut connections = JoinSet::new();
        for number in 0..500 {
            let place = forward.places[0];
            connections.spawn(async move {
                let (mut reader, writer) = connect(place).await.into_split();
                // each one's bytes are its own
                let length = LENGTH + number;
                let writing = tokio::spawn(Noise::new(length).write_to(writer));
                let heard = in_time(digest_of(&mut reader, length)).await.unwrap();
                assert_eq!(heard, writing.await.unwrap().unwrap());
            });
        }
        while let Some(ended) = connections.join_next().await {
            ended.unwrap();
        }
        assert!(env.playground.tunnels().len() <= 32);
        forward.interrupt().await;
    }
}

/// Resident memory in KiB, and open files.
fn footprint(forward: &Forward) -> (u64, usize) {
    let process = format!("/proc/{}", forward.process.id());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|rest| rest.split_whitespace().next());
    let files = fs::read_dir(format!("{process}/fd")).unwrap().count();
    (resident.unwrap().parse().unwrap(), files)
}

#[tokio::test]
async fn ten_thousand_one_after_another_leave_nothing() {
    let env = TestEnv::new();
    // without waiting for half-closed ones, of which a thousand would be open at a time
    let at_once = ["--half-close-grace", "0"];
    let mut forward = forward(&env, "websocket", &[ECHO], &at_once).await;
    // nobody reads as many lines
    drop(forward.process.stdout.take());
    let mut rounds = Vec::new();
    for _ in 0..20 {
        for _ in 0..500 {
            let mut tcp = forward.connect(0).await;
            echo(&mut tcp, b"hello").await;
        }
        // how many are open at a time is the machine's pace: each round begins with none
        until("all are closed", || footprint(&forward).1 < 40).await;
        rounds.push((footprint(&forward).0, env.playground.tunnels().len()));
    }
    let (early, late) = rounds.split_at(10);
    let most = |of: fn(&(u64, usize)) -> u64| early.iter().map(of).max().unwrap();
    let (memory, tunnels) = (most(|round| round.0), most(|round| round.1 as u64));
    for &(kilobytes, open) in late {
        assert!(kilobytes < memory + 8192, "{rounds:?}");
        assert!(open as u64 <= tunnels + 8, "{rounds:?}");
    }
    forward.process.signal(Signal::INT);
    assert_eq!(forward.process.code().await, 0);
}
