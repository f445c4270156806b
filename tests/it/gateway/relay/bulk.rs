//! Much data: cases 9 to 16 of the conformance list, of which a relay that waits in the wrong place survives few.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::program::{BULK, Noise, Process, digest_of, in_time, until};

/// Sends noise to a command and takes the digest of what comes back.
async fn round_trip(ground: &Ground, options: &[&str], remote: &str, length: usize) {
    let words = [options, &["pod", remote]].concat();
    let mut process = Process::start(ground.piped(&words));
    let stdin = process.stdin.take().unwrap();
    let stdout = process.stdout.take().unwrap();
    let (sent, heard) = tokio::join!(
        in_time(Noise::new(length).write_to(stdin)),
        in_time(digest_of(stdout, usize::MAX)),
    );
    assert_eq!(process.code().await, 0);
    assert_eq!(heard.unwrap(), sent.unwrap(), "{remote}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_there_and_back() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    round_trip(&ground, &[], "cat", BULK).await;
    let carried = ground.gateway.carried.lock().unwrap().pop().unwrap();
    assert_eq!((carried.sent, carried.received), (BULK as u64, BULK as u64));
    assert_eq!(carried.status, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_and_late_readers() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    round_trip(&ground, &[], "gzip -1 | gzip -dc", BULK / 4).await;
    round_trip(&ground, &[], "sleep 2; cat", BULK / 2).await;
    round_trip(&ground, &["-o", "RekeyLimit=1M"], "cat", BULK / 5).await;
    assert_eq!(ground.gateway.setup.quota.on_disk(), 0);
}

/// ssh says that its stdout is closed by a request that russh knows nothing of; it can only hang up.
#[tokio::test]
async fn who_has_seen_enough_hangs_up() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    for _ in 0..3 {
        let mut process = Process::start(ground.ssh(&["pod", "yes"]));
        assert_eq!(process.line().await, "y\n");
        process.signal(rustix::process::Signal::TERM);
        process.end().await;
    }
    until("all channels have ended", || {
        ground.gateway.carried.lock().unwrap().len() == 3
    })
    .await;
}

/// The pod's stream isn't read while its only reader pauses: no memory, no disk, and sshd waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_pauses_makes_the_pod_wait() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let command = format!("head -c {BULK} /dev/zero");
    let mut process = Process::start(ground.ssh(&["pod", &command]));
    let mut stdout = process.stdout.take().unwrap();
    in_time(stdout.read_u8()).await.unwrap();
    let (read, _) = ground.at_rest().await;
    assert!(read < 16 << 20, "{read} bytes were taken from the pod");
    assert!(ground.gateway.setup.quota.on_disk() < 1 << 20);
    let mut rest = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match in_time(stdout.read(&mut buffer)).await.unwrap() {
            0 => break,
            length => rest += length,
        }
    }
    assert_eq!(rest, BULK - 1);
    assert_eq!(process.code().await, 0);
    assert_eq!(ground.gateway.setup.quota.on_disk(), 0);
}

/// And the same the other way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_pauses_makes_the_user_wait() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let go = ground.path("go");
    let command = format!("while ! test -e {go}; do sleep 0.05; done; sha256sum | cut -d' ' -f1");
    let mut process = Process::start(ground.piped(&["pod", &command]));
    let stdin = process.stdin.take().unwrap();
    let sending = tokio::spawn(Noise::new(BULK).write_to(stdin));
    let (_, written) = ground.at_rest().await;
    assert!(written < 16 << 20, "{written} bytes were sent to the pod");
    assert!(ground.gateway.setup.quota.on_disk() < 1 << 20);
    assert!(!sending.is_finished());
    fs::write(&go, "").unwrap();
    let sent = in_time(sending).await.unwrap().unwrap();
    assert_eq!(process.line().await.trim(), sent);
    assert_eq!(process.code().await, 0);
}

/// A forwarded connection to who never reads, and one that nobody reads from: the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_forward_stalls_nobody() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let sink = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut mux = forwards::Mux::start(&ground, &[&sink, &source]).await;
    let mut into = mux.connect(0).await;
    let (_never_read, _) = in_time(sink.accept()).await.unwrap();
    let filling = tokio::spawn(async move {
        let block = vec![7; 1 << 20];
        for _ in 0..64 {
            into.write_all(&block).await.unwrap();
        }
        into
    });
    // As much as it takes is taken, and the rest waits on disk.
    until("it is spooled", || {
        ground.gateway.setup.quota.on_disk() > 8 << 20
    })
    .await;
    mux.answers(&ground).await;

    let _nobody_reads = mux.connect(1).await;
    let (mut flood, _) = in_time(source.accept()).await.unwrap();
    let flooding = tokio::spawn(async move {
        let block = vec![7; 1 << 20];
        for _ in 0..64 {
            flood.write_all(&block).await.unwrap();
        }
        flood
    });
    let _kept = in_time(filling).await.unwrap();
    let _kept = in_time(flooding).await.unwrap();
    mux.answers(&ground).await;
    mux.end().await;
    until("nothing is left on disk", || {
        ground.gateway.setup.quota.on_disk() == 0
    })
    .await;
}

/// Over the cap one channel is closed, and no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_the_cap_that_one_channel_ends() {
    let Some(ground) = Ground::with(4 << 20, Caps::all()).await else {
        return;
    };
    let sink = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut mux = forwards::Mux::start(&ground, &[&sink, &source]).await;
    let mut into = mux.connect(0).await;
    let (mut never_read, _) = in_time(sink.accept()).await.unwrap();
    let writing = async {
        let block = vec![7; 1 << 20];
        while into.write_all(&block).await.is_ok() {}
    };
    in_time(writing).await;
    let mut all = Vec::new();
    let _ = in_time(never_read.read_to_end(&mut all)).await; // ends
    mux.answers(&ground).await;

    let mut nobody_reads = mux.connect(1).await;
    let (mut flood, _) = in_time(source.accept()).await.unwrap();
    let flooding = async {
        let block = vec![7; 1 << 20];
        while flood.write_all(&block).await.is_ok() {}
    };
    in_time(flooding).await;
    let _ = in_time(nobody_reads.read_to_end(&mut all)).await;
    mux.answers(&ground).await;
    mux.end().await;
    let carried = ground.gateway.carried.lock().unwrap();
    let cut = carried.iter().find_map(|it| match &it.end {
        kpf::ssh::relay::End::CutOff(reason) => Some(reason.clone()),
        _ => None,
    });
    assert!(
        cut.as_ref()
            .is_some_and(|it| it.contains("reads too slowly")),
        "{carried:?}"
    );
    assert_eq!(ground.gateway.setup.quota.on_disk(), 0);
}
