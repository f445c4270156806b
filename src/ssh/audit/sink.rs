//! Each sink has a thread and a bounded queue of its own, so that one that is stuck holds nobody up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::target::Target;
pub use super::target::{OpenError, SinkKind};

/// Lines that wait for a sink; more than a second of a gateway that does nothing but log in.
const QUEUE: usize = 4096;
/// Bytes that are written at a time, a line more.
const BATCH: usize = 64 * 1024;
/// Until a sink that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// A sink that takes nothing for this long has failed.
pub(super) const STALL: Duration = Duration::from_secs(5);

/// A sink, as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkConfig {
    /// Where to.
    pub kind: SinkKind,
    /// Whether nothing may happen without it ([`OnFailure`](super::OnFailure)).
    pub required: bool,
}

/// A line on its way: its text, and how many lines the chain has with it.
pub(super) struct Queued {
    pub(super) line: Arc<[u8]>,
    pub(super) count: u64,
}

/// How a sink is doing, told by its thread: `Err` with the reason when it failed, `Ok` when it works again.
pub(super) type Tell = Box<dyn Fn(Result<(), String>) + Send>;

/// The thread of one sink, seen from the others.
pub(super) struct Sink {
    /// Dropped, it lets the thread end once all is written.
    pub(super) queue: Option<SyncSender<Queued>>,
    /// How many lines of the chain are written. Closed once the thread has ended.
    pub(super) written: watch::Receiver<u64>,
    closing: Arc<AtomicBool>,
    thread: thread::Thread,
}

impl Sink {
    /// Starts the thread; `begin` lines of the chain are elsewhere already.
    pub(super) fn start(target: Target, begin: u64, tell: Tell) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE);
        let (progress, written) = watch::channel(begin);
        let closing = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            target,
            lines,
            progress,
            tell,
            closing: closing.clone(),
            batch: Vec::new(),
            at: 0,
            count: begin,
        };
        let thread = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())?;
        Ok(Self {
            queue: Some(queue),
            written,
            closing,
            thread: thread.thread().clone(),
        })
    }

    /// Takes no more. The thread writes what is queued and ends; a sink that fails is not waited for.
    pub(super) fn close(&mut self) {
        self.queue = None;
        self.closing.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.close();
    }
}

/// The thread's side.
struct Writer {
    target: Target,
    lines: Receiver<Queued>,
    progress: watch::Sender<u64>,
    tell: Tell,
    closing: Arc<AtomicBool>,
    /// Whole lines, written up to `at`.
    batch: Vec<u8>,
    at: usize,
    /// Lines of the chain up to the end of the batch.
    count: u64,
}

impl Writer {
    fn run(mut self) {
        while self.fill() {
            if !self.write_batch(false) {
                return;
            }
        }
        self.write_batch(true);
    }

    /// Waits for lines and takes as many as fit a batch; `false` when no more will come.
    fn fill(&mut self) -> bool {
        let first = match self.target.sync_at() {
            None => self.lines.recv().map_err(RecvTimeoutError::from),
            Some(at) => self
                .lines
                .recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        let open = !matches!(first, Err(RecvTimeoutError::Disconnected));
        let mut next = first.ok();
        while let Some(queued) = next {
            self.batch.extend_from_slice(&queued.line);
            self.count = queued.count;
            let more = self.batch.len() < BATCH;
            next = more.then(|| self.lines.try_recv().ok()).flatten();
        }
        open
    }

    /// Writes the batch, as often as it has to be tried, and at the end brings it to the disk. `false` if the sink was
    /// closed before that could be done.
    fn write_batch(&mut self, last: bool) -> bool {
        while let Err(error) = self.try_write(last) {
            (self.tell)(Err(error.to_string()));
            if self.closing.load(Ordering::Relaxed) {
                return false;
            }
            thread::park_timeout(RETRY);
        }
        if !self.batch.is_empty() {
            (self.tell)(Ok(()));
            self.batch.clear();
            self.batch.shrink_to(2 * BATCH);
            self.at = 0;
            self.progress.send_replace(self.count);
        }
        true
    }

    fn try_write(&mut self, last: bool) -> io::Result<()> {
        while self.at < self.batch.len() {
            match self.target.write(&self.batch[self.at..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.at += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if self.target.starts_over() {
                        let written = &self.batch[..self.at];
                        let end = written.iter().rposition(|&byte| byte == b'\n');
                        self.at = end.map_or(0, |end| end + 1);
                    }
                    return Err(error);
                }
            }
        }
        self.target.sync(Instant::now(), last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::sync::Mutex;

    #[test]
    fn a_full_disk_is_told_and_nothing_is_taken_for_written() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = {
            let told = told.clone();
            Box::new(move |outcome| told.lock().unwrap().push(outcome))
        };
        let mut sink = Sink::start(Target::Stdout(full), 7, tell).unwrap();
        let queue = sink.queue.as_ref().unwrap();
        let line: Arc<[u8]> = b"{}\n"[..].into();
        queue.send(Queued { line, count: 8 }).unwrap();
        let begin = Instant::now();
        while told.lock().unwrap().is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(20));
            thread::yield_now();
        }
        sink.close();
        while sink.written.has_changed().is_ok() {
            assert!(begin.elapsed() < Duration::from_secs(20));
            thread::yield_now();
        }
        assert_eq!(*sink.written.borrow(), 7);
        let told = told.lock().unwrap();
        let why = told[0].clone().unwrap_err();
        assert!(why.contains("No space left"), "{why}");
        assert!(told.iter().all(Result::is_err));
    }
}
