//! What the two ends of a queue share, and the blocking thread that carries out its jobs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::fifo::{BLOCK, Done, Fifo, Item, Job};
use super::valve::{Level, Place};
use super::{Error, Limits, Quota, Valve};

/// Names that are tried for the file, should others be there already.
const NAMES: usize = 16;

#[derive(Debug)]
pub(super) struct Shared<M> {
    state: Mutex<State<M>>,
    /// Made when it is needed. Only the thread that carries out jobs locks it, and there is one at a time.
    file: Mutex<Option<File>>,
    directory: PathBuf,
    /// Bytes that are enough to have waiting: all that fits the memory.
    enough: u64,
    runtime: Handle,
    failure: watch::Sender<Option<Error>>,
}

#[derive(Debug)]
struct State<M> {
    fifo: Fifo<M>,
    place: Place,
    reader: Option<Waker>,
}

impl<M> State<M> {
    /// Tells the valve, with a gap between the two marks so that it isn't turned for each packet.
    fn level(&mut self, enough: u64) {
        let waiting = self.fifo.waiting();
        if self.fifo.is_ended() {
            self.place.set(Level::Apart);
        } else if waiting > enough {
            self.place.set(Level::Stuck);
        } else if waiting <= enough / 2 {
            self.place.set(Level::Flowing);
        }
    }
}

impl<M: Send + 'static> Shared<M> {
    pub(super) fn new(limits: &Limits, quota: &Quota, valve: &Valve, runtime: Handle) -> Self {
        Self {
            state: Mutex::new(State {
                fifo: Fifo::new(limits, quota),
                place: Place::at(valve),
                reader: None,
            }),
            file: Mutex::new(None),
            directory: limits.directory.clone(),
            enough: limits.memory as u64,
            runtime,
            failure: watch::Sender::new(None),
        }
    }

    pub(super) fn waiting(&self) -> u64 {
        self.lock().fifo.waiting()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Error>> {
        self.failure.subscribe()
    }

    /// The writer's side: does something with the queue, and what follows from it.
    pub(super) fn write<T>(self: &Arc<Self>, action: impl FnOnce(&mut Fifo<M>) -> T) -> T {
        let mut state = self.lock();
        let result = action(&mut state.fifo);
        let reader = state.reader.take();
        self.settle(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        result
    }

    pub(super) fn end(self: &Arc<Self>, end: Result<(), Error>) {
        self.write(|fifo| fifo.end(end));
    }

    pub(super) fn break_off(self: &Arc<Self>, error: Error) {
        self.write(|fifo| fifo.fail(error));
    }

    pub(super) fn poll_next(
        self: &Arc<Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Item<M>>, Error>> {
        let mut state = self.lock();
        let next = state.fifo.next();
        if next.is_none() {
            state.reader = Some(cx.waker().clone());
        }
        self.settle(state);
        next.map_or(Poll::Pending, Poll::Ready)
    }

    /// Starts what is to be done with the file, and tells of a failure.
    fn settle(self: &Arc<Self>, mut state: MutexGuard<'_, State<M>>) {
        let job = state.fifo.job();
        state.level(self.enough);
        self.tell(&state);
        drop(state);
        if let Some(job) = job {
            let shared = Arc::clone(self);
            self.runtime.spawn_blocking(move || shared.work(job));
        }
    }

    fn work(&self, first: Job) {
        let mut next = Some(first);
        while let Some(job) = next {
            let done = self
                .carry_out(job)
                .map_err(|error| Error::Disk(Arc::new(error)));
            let mut state = self.lock();
            state.fifo.done(done);
            next = state.fifo.job();
            state.level(self.enough);
            self.tell(&state);
            let reader = state.reader.take();
            drop(state);
            if let Some(reader) = reader {
                reader.wake();
            }
        }
    }

    fn carry_out(&self, job: Job) -> io::Result<Done> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match &mut *file {
            Some(file) => file,
            none => none.insert(unnamed(&self.directory)?),
        };
        Ok(match job {
            Job::Write(block, pieces) => {
                let mut data = Vec::with_capacity(BLOCK);
                for piece in pieces {
                    data.write_all(&piece)?;
                }
                file.write_all_at(&data, block * BLOCK as u64)?;
                Done::Written(block)
            }
            Job::Read(block) => {
                let mut data = vec![0; BLOCK];
                file.read_exact_at(&mut data, block * BLOCK as u64)?;
                Done::Read(block, Bytes::from(data))
            }
            Job::Truncate => {
                file.set_len(0)?;
                Done::Truncated
            }
        })
    }

    fn tell(&self, state: &State<M>) {
        if let Some(error) = state.fifo.failure() {
            self.failure.send_if_modified(|told| {
                let news = told.is_none();
                told.get_or_insert_with(|| error.clone());
                news
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file of nobody's but ours that has no name any more.
fn unnamed(directory: &Path) -> io::Result<File> {
    let mut tried = 0;
    loop {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(io::Error::other)?;
        let path = directory.join(format!("kpf-{:016x}", u64::from_ne_bytes(random)));
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true) // O_EXCL: follows no link
            .mode(0o600)
            .open(&path);
        tried += 1;
        match opened {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tried < NAMES => {}
            Err(error) => {
                let text = format!("{}: {error}", directory.display());
                return Err(io::Error::new(error.kind(), text));
            }
        }
    }
}
