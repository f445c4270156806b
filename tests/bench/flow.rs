//! Streams at full speed, each on a thread.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::clients::Forward;
use crate::ground::Ground;
use crate::playground::ports::{CHARGEN, DISCARD};
use crate::process::DEADLINE;

/// What is read or written at once; larger than any client's own pieces.
const BUFFER: usize = 256 * 1024;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Direction {
    Down,
    Up,
}

/// So many connections that carry what they can until this is dropped.
pub(crate) struct Flow {
    direction: Direction,
    streams: Vec<Stream>,
    stopped: Arc<AtomicBool>,
}

struct Stream {
    tcp: TcpStream,
    moved: Arc<AtomicU64>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

/// What a flow carried while it was measured.
pub(crate) struct Carried {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
    /// The client's.
    pub(crate) cpu: Option<Duration>,
    /// The client's resident memory at the end, in bytes.
    pub(crate) resident: Option<u64>,
}

impl Flow {
    /// Starts the streams, and waits until each has moved something.
    pub(crate) fn start(
        forward: &Forward,
        direction: Direction,
        count: usize,
    ) -> anyhow::Result<Self> {
        let mut flow = Self {
            direction,
            streams: Vec::with_capacity(count),
            stopped: Arc::default(),
        };
        for _ in 0..count {
            let stream = Stream::start(forward, direction, Arc::clone(&flow.stopped))?;
            flow.streams.push(stream);
        }
        let deadline = Instant::now() + DEADLINE;
        while flow.streams.iter().any(|stream| stream.moved() == 0) {
            flow.check()?;
            anyhow::ensure!(Instant::now() < deadline, "a stream moves nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(flow)
    }

    /// Measures for a while.
    pub(crate) fn measure(
        &self,
        forward: &Forward,
        ground: &Ground,
        window: Duration,
    ) -> anyhow::Result<Carried> {
        // buffers fill and processors warm up
        std::thread::sleep(window / 5);
        let cpu = || forward.process().map(|process| process.cpu()).transpose();
        let each: Vec<u64> = self.streams.iter().map(Stream::moved).collect();
        let (bytes_before, cpu_before) = (self.arrived(ground)?, cpu()?);
        let begun = Instant::now();
        std::thread::sleep(window);
        let (time, bytes, cpu_after) = (begun.elapsed(), self.arrived(ground)?, cpu()?);
        self.check()?;
        let stalled = self.streams.iter().zip(each);
        let stalled = stalled.filter(|(stream, before)| stream.moved() == *before);
        let stalled = stalled.count();
        anyhow::ensure!(
            stalled == 0,
            "{stalled} of {} streams moved nothing for {window:?}",
            self.streams.len()
        );
        let resident = forward.process().map(|process| process.resident());
        Ok(Carried {
            bytes: bytes - bytes_before,
            time,
            cpu: cpu_after
                .zip(cpu_before)
                .map(|(after, before)| after - before),
            resident: resident.transpose()?,
        })
    }

    /// Bytes that have got to the far end.
    fn arrived(&self, ground: &Ground) -> anyhow::Result<u64> {
        match self.direction {
            Direction::Down => Ok(self.streams.iter().map(Stream::moved).sum()),
            Direction::Up => ground.discarded(),
        }
    }

    /// Whether all still run.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let ended = |stream: &Stream| stream.thread.as_ref().is_none_or(JoinHandle::is_finished);
        let ended = self.streams.iter().filter(|stream| ended(stream)).count();
        anyhow::ensure!(
            ended == 0,
            "{ended} of {} streams ended by themselves",
            self.streams.len()
        );
        Ok(())
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for stream in &mut self.streams {
            // ends what blocks in a read or a write
            let _ = stream.tcp.shutdown(Shutdown::Both);
            if let Some(thread) = stream.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl Stream {
    fn start(
        forward: &Forward,
        direction: Direction,
        stopped: Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let port = match direction {
            Direction::Down => CHARGEN,
            Direction::Up => DISCARD,
        };
        let tcp = forward.connect(port).context("connecting a stream")?;
        let moved: Arc<AtomicU64> = Arc::default();
        let (mut carrier, counter) = (tcp.try_clone()?, Arc::clone(&moved));
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![b'x'; BUFFER];
            while !stopped.load(Ordering::Relaxed) {
                let n = match direction {
                    Direction::Down => carrier.read(&mut buffer)?,
                    Direction::Up => carrier.write(&buffer)?,
                };
                if n == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                counter.fetch_add(n as u64, Ordering::Relaxed);
            }
            Ok(())
        });
        Ok(Self {
            tcp,
            moved,
            thread: Some(thread),
        })
    }

    fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }
}
