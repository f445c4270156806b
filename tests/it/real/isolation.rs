//! What one connection does, no other one feels: with a runtime that really has no flow control.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use super::{ECHO, NEVER_READ, NOBODY, Real, ZEROS};
use crate::forward::{Forward, connect, echo};
use crate::program::{Noise, digest_of, in_time};

/// Longer than anything moves in pieces, so that what has not moved for as long stands still.
const STILL: Duration = Duration::from_secs(1);

async fn forward<Guard>(real: &Real<Guard>, ports: &[&str]) -> Forward {
    let mut command = real.kpf(&["forward", "pod/echo", "--address=127.0.0.1"]);
    command.args(ports.iter().map(|port| format!(":{port}")));
    Forward::start(command, ports.len()).await
}

/// New and old connections go on.
async fn others_go_on(forward: &Forward, old: &mut TcpStream) {
    for _ in 0..20 {
        echo(old, b"an old one").await;
        echo(&mut forward.connect(0).await, b"a new one").await;
    }
}

/// Sends for as long as anybody takes it, and counts.
async fn flood(place: SocketAddr, sent: Arc<AtomicUsize>) {
    let mut tcp = connect(place).await;
    let block = vec![b'x'; 64 * 1024];
    while let Ok(length) = tcp.write(&block).await {
        sent.fetch_add(length, Ordering::Relaxed);
    }
}

/// Waits until as many bytes have gone, and no more go.
async fn stands_still(sent: &AtomicUsize) {
    let mut before = (0, Instant::now());
    let still = async {
        loop {
            let now = sent.load(Ordering::Relaxed);
            if now != before.0 {
                before = (now, Instant::now());
            } else if now > 0 && before.1.elapsed() >= STILL {
                return;
            }
            sleep(STILL / 20).await;
        }
    };
    in_time(still).await;
}

#[tokio::test]
async fn a_reader_or_writer_that_stalls_stalls_alone() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let forward = forward(&real, &[ECHO, ZEROS, NEVER_READ]).await;
    let mut old = forward.connect(0).await;
    echo(&mut old, b"before").await;
    let mut unread = Vec::new();
    let mut sending = JoinSet::new();
    let mut counts = Vec::new();
    for _ in 0..3 {
        unread.push(forward.connect(1).await);
        let sent = Arc::<AtomicUsize>::default();
        counts.push(sent.clone());
        sending.spawn(flood(forward.places[2], sent));
    }
    for sent in &counts {
        stands_still(sent).await;
    }
    others_go_on(&forward, &mut old).await;
    assert!(sending.try_join_next().is_none(), "an upload has ended");
    drop(unread);
    sending.shutdown().await;
    others_go_on(&forward, &mut old).await;
    forward.interrupt().await;
}

#[tokio::test]
async fn aborted_downloads_harm_nobody() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let forward = forward(&real, &[ECHO, ZEROS]).await;
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

#[tokio::test]
async fn refusals_harm_nobody() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let forward = forward(&real, &[ECHO, NOBODY]).await;
    let mut old = forward.connect(0).await;
    let place = forward.places[1];
    let mut knocking = JoinSet::new();
    let mut pace = interval(Duration::from_millis(10));
    for _ in 0..100 {
        pace.tick().await;
        knocking.spawn(async move {
            // it may be reset before it is seen to be there
            if let Ok(mut tcp) = TcpStream::connect(place).await {
                let end = in_time(tcp.read(&mut [0])).await;
                assert!(end.is_err(), "{end:?}");
            }
        });
        echo(&mut old, b"x").await;
    }
    while let Some(knocked) = knocking.join_next().await {
        knocked.unwrap();
    }
    others_go_on(&forward, &mut old).await;
    forward.interrupt().await;
}

/// Nobody takes what was sent to a port that refuses: each such stream costs its tunnel one of its five workers for good.
#[tokio::test]
async fn refusals_of_those_who_send_harm_nobody() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let mut forward = forward(&real, &[ECHO, NOBODY]).await;
    let mut old = forward.connect(0).await;
    echo(&mut old, b"before").await;
    for _ in 0..20 {
        let mut tcp = forward.connect(1).await;
        let _ = in_time(tcp.write_all(b"hello")).await;
        let end = in_time(tcp.read(&mut [0])).await;
        assert!(end.is_err(), "{end:?}");
    }
    others_go_on(&forward, &mut old).await;
    // or it would have lost a tunnel, after 18 s of silence
    forward.process.signal(Signal::INT);
    let said = forward.process.end().await.stderr;
    assert!(!said.contains("lost connection to pod"), "{said}");
}

#[tokio::test]
async fn five_hundred_at_once() {
    const LENGTH: usize = 1 << 20;
    let Some(real) = Real::shared().await else {
        return;
    };
    let forward = forward(&real, &[ECHO]).await;
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
    forward.interrupt().await;
}
