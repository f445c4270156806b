use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
use tokio::io::AsyncReadExt as _;

use super::fifo::{BLOCK, Done, Fifo, Job, MARKS};
use super::*;

/// A disk that does its jobs when it is told to.
#[derive(Default)]
struct Disk {
    blocks: BTreeMap<u64, Vec<u8>>,
    job: Option<Job>,
}

impl Disk {
    fn step(&mut self, fifo: &mut Fifo<u8>) {
        let Some(job) = self.job.take().or_else(|| fifo.job()) else {
            return;
        };
        let done = match job {
            Job::Write(block, pieces) => {
                let data = pieces.concat();
                assert_eq!(data.len(), BLOCK);
                self.blocks.insert(block, data);
                Done::Written(block)
            }
            Job::Read(block) => Done::Read(block, Bytes::from(self.blocks[&block].clone())),
            Job::Truncate => {
                self.blocks.clear();
                Done::Truncated
            }
        };
        fifo.done(Ok(done));
        self.job = fifo.job();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Mark(u8),
    Read(usize),
    Disk(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![0..200usize, 4000..40_000usize, 100_000..300_000usize].prop_map(Step::Push),
        1 => any::<u8>().prop_map(Step::Mark),
        2 => (1..40usize).prop_map(Step::Read),
        3 => (1..6usize).prop_map(Step::Disk),
    ]
}

/// What was put in and didn't come out yet.
#[derive(Default)]
struct Model {
    bytes: VecDeque<u8>,
    /// By the bytes before them.
    marks: VecDeque<(usize, u8)>,
    written: usize,
    read: usize,
}

impl Model {
    fn push(&mut self, length: usize) -> Bytes {
        let data: Vec<u8> = (self.written..self.written + length)
            .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8)
            .collect();
        self.bytes.extend(&data);
        self.written += length;
        data.into()
    }

    /// Takes from `fifo` what it has, and compares. Whether there was something.
    fn read(&mut self, fifo: &mut Fifo<u8>) -> bool {
        match fifo.next() {
            Some(Ok(Some(Item::Data(data)))) => {
                assert!(!data.is_empty() && data.len() <= BLOCK);
                assert!(self.bytes.drain(..data.len()).eq(data.iter().copied()));
                self.read += data.len();
                assert!(self.marks.front().is_none_or(|(at, _)| *at >= self.read));
            }
            Some(Ok(Some(Item::Mark(mark)))) => {
                assert_eq!(self.marks.pop_front(), Some((self.read, mark)));
            }
            Some(end) => {
                assert!(matches!(end, Ok(None)), "{end:?}");
                assert!(self.is_empty(), "ended early");
                return false;
            }
            None => return false,
        }
        true
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.marks.is_empty()
    }
}

fn limits(memory: usize, channel: usize) -> Limits {
    Limits {
        memory,
        channel: channel as u64,
        directory: std::env::temp_dir(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn comes_out_as_it_went_in(memory in prop_oneof![Just(0), Just(1000), Just(300_000)], steps in prop::collection::vec(step(), 1..60)) {
        let quota = Quota::new(1 << 30, 1 << 30);
        let mut fifo = Fifo::new(&limits(memory, 1 << 30), &quota);
        let mut disk = Disk::default();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Push(length) => fifo.push(model.push(length)).unwrap(),
                Step::Mark(mark) => {
                    fifo.mark(mark).unwrap();
                    model.marks.push_back((model.written, mark));
                }
                Step::Read(times) => for _ in 0..times {
                    model.read(&mut fifo);
                },
                Step::Disk(times) => for _ in 0..times {
                    disk.step(&mut fifo);
                },
            }
            prop_assert_eq!(fifo.waiting(), model.bytes.len() as u64);
            prop_assert!(disk.blocks.len() * BLOCK <= quota.on_disk() as usize, "more on disk than was reserved");
        }
        fifo.end(Ok(()));
        while !model.is_empty() {
            if !model.read(&mut fifo) {
                let before = fifo.waiting();
                disk.step(&mut fifo);
                prop_assert_eq!(before, fifo.waiting());
            }
        }
        prop_assert!(matches!(fifo.next(), Some(Ok(None))));
        disk.step(&mut fifo);
        disk.step(&mut fifo);
        prop_assert!(disk.blocks.is_empty());
        prop_assert_eq!(quota.on_disk(), 0);
    }
}

#[test]
fn little_memory_is_used_while_the_disk_keeps_up() {
    let mut fifo = Fifo::<u8>::new(&limits(1 << 20, 1 << 30), &Quota::new(1 << 30, 1 << 18));
    let mut disk = Disk::default();
    for _ in 0..10_000 {
        fifo.push(Bytes::from_static(&[7; 32 * 1024])).unwrap(); // else it fails: more than 256 KiB behind
        disk.step(&mut fifo);
    }
}

#[test]
fn over_a_cap_all_is_dropped_and_given_back() {
    let quota = Quota::new(1 << 30, 1 << 30);
    let mut fifo = Fifo::<u8>::new(&limits(1000, 4 * BLOCK), &quota);
    let mut disk = Disk::default();
    let error = loop {
        disk.step(&mut fifo);
        if let Err(error) = fifo.push(Bytes::from_static(&[7; 30_000])) {
            break error;
        }
    };
    assert!(matches!(error, Error::Channel(_)), "{error}");
    assert!(matches!(fifo.next(), Some(Err(Error::Channel(_)))));
    assert!(matches!(
        fifo.push(Bytes::from_static(b"x")),
        Err(Error::Channel(_))
    ));
    disk.step(&mut fifo);
    disk.step(&mut fifo);
    assert!(disk.blocks.is_empty());
    assert_eq!(quota.on_disk(), 0);
}

#[test]
fn a_users_queues_share_a_cap() {
    let quota = Quota::new(8 * BLOCK as u64, 1 << 30);
    let mut fifos = [(); 3].map(|()| Fifo::<u8>::new(&limits(0, 1 << 30), &quota));
    let piece = Bytes::from_static(&[7; BLOCK]);
    for fifo in &mut fifos {
        fifo.push(piece.clone()).unwrap(); // in memory: the first always is
    }
    for _ in 0..4 {
        fifos[0].push(piece.clone()).unwrap();
        fifos[1].push(piece.clone()).unwrap();
    }
    let error = fifos[2].push(piece.clone()).unwrap_err();
    assert!(
        matches!(error, Error::User(limit) if limit == 8 * BLOCK as u64),
        "{error}"
    );
    assert!(
        fifos[0].next().unwrap().is_ok(),
        "another one's cap is none of this one's business"
    );
    let [first, ..] = fifos;
    drop(first);
    assert_eq!(quota.on_disk(), 4 * BLOCK as u64);
}

#[test]
fn a_disk_that_is_too_slow_is_an_error_and_no_memory() {
    let mut fifo = Fifo::<u8>::new(&limits(1000, 1 << 30), &Quota::new(1 << 30, 1 << 20));
    let mut taken = 0;
    let error = loop {
        match fifo.push(Bytes::from_static(&[7; 10_000])) {
            Ok(()) => taken += 10_000,
            Err(error) => break error,
        }
        let _ = fifo.job(); // started, never done
    };
    assert!(matches!(error, Error::Slow), "{error}");
    assert!(taken <= (1 << 20) + 20_000, "{taken}");
}

#[test]
fn small_pieces_are_kept_together_and_marks_are_counted() {
    let mut fifo = Fifo::<u8>::new(&limits(1 << 20, 1 << 30), &Quota::default());
    for _ in 0..100_000 {
        fifo.push(Bytes::from_static(b"x")).unwrap();
    }
    let mut pieces = 0;
    while let Some(Ok(Some(_))) = fifo.next() {
        pieces += 1;
    }
    assert!(pieces < 10, "{pieces}");
    for _ in 0..MARKS {
        fifo.mark(0).unwrap();
    }
    assert!(matches!(fifo.mark(0), Err(Error::Marks)));
}

fn noise(length: usize) -> Vec<u8> {
    (0..length as u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect()
}

fn within(directory: &tempfile::TempDir) -> Limits {
    Limits {
        memory: 200_000,
        ..Limits::within(directory.path().to_owned())
    }
}

#[tokio::test]
async fn through_a_real_file_that_has_no_name() {
    let directory = tempfile::tempdir().unwrap();
    let quota = Quota::default();
    let (writer, mut reader) = queue::<Infallible>(&within(&directory), &quota);
    let sent = noise(20 << 20);
    for piece in sent.chunks(32 * 1024) {
        writer.push(Bytes::copy_from_slice(piece)).unwrap();
    }
    assert_eq!(writer.waiting(), sent.len() as u64);
    assert!(quota.on_disk() > 18 << 20);
    writer.finish();
    let mut received = Vec::new();
    reader.read_to_end(&mut received).await.unwrap();
    assert!(received == sent);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// Both at once, and at changing speeds, on several threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let (writer, mut reader) = queue::<usize>(&within(&directory), &Quota::default());
    let sent = noise(30 << 20);
    let copy = sent.clone();
    let writing = tokio::spawn(async move {
        for (number, piece) in copy.chunks(10_007).enumerate() {
            writer.push(Bytes::copy_from_slice(piece)).unwrap();
            if number % 100 == 0 {
                writer.mark(number).unwrap();
                tokio::task::yield_now().await;
            }
        }
        writer.fail("gone away");
    });
    let mut received = Vec::new();
    let mut marks = 0;
    let error = loop {
        match reader.next().await {
            Ok(Some(Item::Data(data))) => received.extend_from_slice(&data),
            Ok(Some(Item::Mark(number))) => {
                assert_eq!(number, marks * 100);
                assert_eq!(received.len(), sent.len().min((number + 1) * 10_007));
                marks += 1;
            }
            Ok(None) => panic!("a clean end"),
            Err(error) => break error,
        }
    };
    writing.await.unwrap();
    assert_eq!(error.to_string(), "gone away");
    assert!(received == sent);
    assert_eq!(marks, sent.len().div_ceil(10_007).div_ceil(100));
}

#[tokio::test]
async fn a_disk_that_fails_is_one_channels_error() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let (writer, mut reader) = queue::<u8>(
        &Limits {
            memory: 1000,
            ..Limits::within(missing)
        },
        &Quota::default(),
    );
    let mut watch = reader.watch();
    for _ in 0..10 {
        if writer.push(Bytes::from_static(&[7; 30_000])).is_err() {
            break; // it may be known already
        }
    }
    let failed = tokio::spawn(async move { watch.failed().await });
    let error = failed.await.unwrap();
    assert!(matches!(error, Error::Disk(_)), "{error}");
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(matches!(reader.next().await, Err(Error::Disk(_))));
    assert!(matches!(
        writer.push(Bytes::from_static(b"x")),
        Err(Error::Disk(_))
    ));
}

#[tokio::test]
async fn ends_in_order() {
    let (writer, mut reader) = queue::<u8>(&limits(1000, 0), &Quota::default());
    let waiting = tokio::spawn(async move {
        let first = reader.next().await;
        let second = reader.next().await;
        (first, second, reader.next().await)
    });
    tokio::task::yield_now().await;
    writer.push(Bytes::from_static(b"last")).unwrap();
    drop(writer);
    let (first, second, third) = waiting.await.unwrap();
    assert_eq!(
        first.unwrap(),
        Some(Item::Data(Bytes::from_static(b"last")))
    );
    assert!(matches!(second, Err(Error::Abandoned)));
    assert!(matches!(third, Err(Error::Abandoned)));

    let (writer, reader) = queue::<u8>(&limits(1000, 0), &Quota::default());
    let mut watch = writer.watch();
    drop(reader);
    assert!(matches!(watch.failed().await, Error::Unread));
    assert!(matches!(
        writer.push(Bytes::from_static(b"x")),
        Err(Error::Unread)
    ));
}

#[tokio::test]
async fn the_file_is_for_nobody_else_while_it_has_a_name() {
    let directory = tempfile::tempdir().unwrap();
    let (writer, _reader) = queue::<u8>(&within(&directory), &Quota::default());
    for _ in 0..100 {
        writer.push(Bytes::from_static(&[7; 30_000])).unwrap();
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let spooled = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|fd| Some(fd.ok()?.path()))
            .find(|fd| {
                std::fs::read_link(fd).is_ok_and(|to| {
                    to.starts_with(directory.path()) && to.to_string_lossy().ends_with(" (deleted)")
                })
            });
        if let Some(fd) = spooled {
            let mode = std::fs::metadata(&fd).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            break;
        }
        assert!(std::time::Instant::now() < deadline, "nothing is spooled");
        tokio::task::yield_now().await;
    }
}

/// A stream and what is written to its other end.
fn valved(valve: &Valve) -> (Valved<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
    let (near, far) = tokio::io::duplex(1 << 16);
    (valve.wrap(near), far)
}

async fn is_read(stream: &mut Valved<tokio::io::DuplexStream>) -> bool {
    let mut byte = [0];
    let mut reading = std::pin::pin!(stream.read(&mut byte));
    poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx).is_ready())).await
}

#[tokio::test]
async fn a_stream_is_not_read_while_all_it_brings_has_to_wait() {
    let limits = limits(1000, 1 << 20);
    let valve = Valve::default();
    let (mut stream, mut peer) = valved(&valve);
    tokio::io::AsyncWriteExt::write_all(&mut peer, &[0; 100])
        .await
        .unwrap();
    let quota = Quota::default();
    assert!(is_read(&mut stream).await, "without a queue");
    let (one, mut reader) = queue_behind::<u8>(&limits, &quota, &valve);
    let (other, other_reader) = queue_behind::<u8>(&limits, &quota, &valve);
    one.push(Bytes::from_static(&[7; 2000])).unwrap();
    assert!(is_read(&mut stream).await, "there is another queue");
    other.push(Bytes::from_static(&[7; 2000])).unwrap();
    assert!(!is_read(&mut stream).await);

    // While an answer is awaited, and only then.
    let (answer, answered) = tokio::sync::oneshot::channel::<()>();
    let waiting = valve.clone();
    let waiting = tokio::spawn(async move { waiting.awaiting(answered).await });
    while valve.is_closed() {
        tokio::task::yield_now().await;
    }
    assert!(is_read(&mut stream).await);
    answer.send(()).unwrap();
    waiting.await.unwrap().unwrap();
    assert!(!is_read(&mut stream).await);
    valve.awaiting(std::future::ready(())).await;

    // Who has been waiting to read is woken.
    let reading = tokio::spawn(async move {
        stream.read_u8().await.unwrap();
        stream
    });
    tokio::task::yield_now().await;
    assert!(!reading.is_finished());
    assert!(matches!(reader.next().await, Ok(Some(Item::Data(_)))));
    let mut stream = reading.await.unwrap();
    one.push(Bytes::from_static(&[7; 2000])).unwrap();
    assert!(!is_read(&mut stream).await);

    // One that has ended doesn't count, nor does one that has failed.
    one.finish();
    assert!(!is_read(&mut stream).await, "the other is still full");
    drop(other_reader);
    assert!(is_read(&mut stream).await);

    valve.sever();
    assert!(stream.read_u8().await.is_err());
    assert!(
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"x")
            .await
            .is_err()
    );
}
