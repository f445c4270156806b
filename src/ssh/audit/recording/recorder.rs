//! One channel's recording: a bounded queue, and a task that encodes and has it written.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::asciicast::{Encoder, Terminal};
use super::store::{Store, name};
use super::{Config, Failure, Policy};
use crate::ssh::audit::auditor::Direction;
use crate::ssh::audit::event::{Exit, Kind};
use crate::ssh::audit::session::SessionId;

/// Pieces that wait to be written; an SSH packet each, so 2 MiB at most.
const QUEUE: usize = 64;
/// Bytes that are written at a time, a piece more.
const BATCH: usize = 256 * 1024;
/// How far a required recording may be behind what its user sees.
pub(super) const BEHIND: Duration = Duration::from_secs(5);
/// How long any other may hold its user up before it is given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the volume's free space is looked at.
const LOOK_EVERY: u64 = 4 * 1024 * 1024;

/// A recording under way. [`finish`](Self::finish) it; dropped, it ends without its last event.
#[derive(Debug)]
pub struct Recorder {
    name: String,
    required: bool,
    queue: mpsc::Sender<(Instant, Piece)>,
    input: bool,
    /// Set once, by either side; nothing is recorded after.
    failure: Arc<watch::Sender<Option<Failure>>>,
    task: JoinHandle<Summary>,
}

/// Something to record.
#[derive(Clone, Debug)]
enum Piece {
    Data(Direction, Bytes),
    Resize(u32, u32),
    Marker(&'static str),
    End(Exit),
}

/// What became of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its name below the directory.
    pub name: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Of the file, in hexadecimal; absent if nobody knows what is in it.
    pub sha256: Option<String>,
    /// Why it is not whole.
    pub incomplete: Option<Failure>,
}

impl From<Summary> for Kind {
    fn from(summary: Summary) -> Self {
        Self::RecordingEnd {
            name: summary.name,
            sha256: summary.sha256,
            bytes: summary.bytes,
            incomplete: summary.incomplete.map(|failure| failure.to_string()),
        }
    }
}

impl Recorder {
    /// Makes the file and starts. One that isn't required never fails: it is incomplete.
    pub(super) async fn begin(
        store: Arc<Store>,
        config: Config,
        policy: Policy,
        session: SessionId,
        channel: u32,
        terminal: Terminal,
    ) -> Result<Self, Failure> {
        let now = jiff::Timestamp::now();
        let begin = Instant::now();
        let name = name(now, &session, channel);
        let (encoder, header) = Encoder::new(config.format, &terminal, now.as_second());
        let opened = Output::create(store, name.clone(), config, header).await;
        let required = policy == Policy::Required;
        let (output, failed) = match opened {
            Ok(output) => (Some(output), None),
            Err(failure) if required => return Err(failure),
            Err(failure) => (None, Some(failure)),
        };
        let (queue, pieces) = mpsc::channel(QUEUE);
        let failure = Arc::new(watch::Sender::new(failed));
        let writer = Writer {
            name: name.clone(),
            begin,
            encoder,
            output,
            bytes: 0,
            pieces,
            failure: failure.clone(),
        };
        Ok(Self {
            name,
            required,
            queue,
            input: config.input,
            failure,
            task: tokio::spawn(writer.run()),
        })
    }

    /// Its name below the directory, for the event.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Records bytes, before they are passed on. Waits for a slow disk, for as long as the policy lets it.
    ///
    /// # Errors
    /// The recording is required and doesn't go on: close the channel, and don't pass the bytes on. One that isn't
    /// required has no errors, and waits for a second once.
    pub async fn data(&self, direction: Direction, bytes: Bytes) -> Result<(), Failure> {
        if direction == Direction::In && !self.input {
            return self.check();
        }
        self.send(Piece::Data(direction, bytes)).await
    }

    /// Records the terminal's new size.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    pub async fn resize(&self, columns: u32, rows: u32) -> Result<(), Failure> {
        self.send(Piece::Resize(columns, rows)).await
    }

    /// Records a remark.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    pub async fn marker(&self, text: &'static str) -> Result<(), Failure> {
        self.send(Piece::Marker(text)).await
    }

    /// Ready when a required recording doesn't go on, even while nothing happens on the channel. Cancel-safe.
    pub async fn failed(&self) -> Failure {
        if !self.required {
            return std::future::pending().await;
        }
        let mut failure = self.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await;
        let failed = failed.expect("the sender is in self").clone();
        failed.expect("it was waited for")
    }

    /// Records the end, writes all of it and brings it to the disk.
    pub async fn finish(self, exit: Exit) -> Summary {
        let _ = self.send(Piece::End(exit)).await; // `incomplete` says it
        drop(self.queue);
        let lost = Summary {
            name: self.name,
            bytes: 0,
            sha256: None,
            incomplete: Some(Failure::Behind),
        };
        self.task.await.unwrap_or(lost) // the runtime ends
    }

    /// A required recording's failure.
    fn check(&self) -> Result<(), Failure> {
        match &*self.failure.borrow() {
            Some(failure) if self.required => Err(failure.clone()),
            _ => Ok(()),
        }
    }

    async fn send(&self, piece: Piece) -> Result<(), Failure> {
        let patience = match self.required {
            true => BEHIND,
            false => PATIENCE,
        };
        if self.failure.borrow().is_none() {
            let sent = timeout(patience, self.queue.send((Instant::now(), piece))).await;
            if sent.is_err() {
                fail(&self.failure, Failure::Behind);
            }
        }
        self.check()
    }
}

/// The first reason counts.
fn fail(failure: &watch::Sender<Option<Failure>>, why: Failure) {
    failure.send_if_modified(|failure| {
        let first = failure.is_none();
        failure.get_or_insert(why);
        first
    });
}

/// The task's side.
struct Writer {
    name: String,
    begin: Instant,
    encoder: Encoder,
    /// Absent when it could not be made, and while it is being written to.
    output: Option<Output>,
    /// Of the file, when last seen.
    bytes: u64,
    pieces: mpsc::Receiver<(Instant, Piece)>,
    failure: Arc<watch::Sender<Option<Failure>>>,
}

impl Writer {
    async fn run(mut self) -> Summary {
        let mut lines = Vec::new();
        let mut last = Duration::ZERO;
        while let Some(first) = self.pieces.recv().await {
            let mut next = Some(first);
            while let Some((at, piece)) = next {
                last = at.duration_since(self.begin);
                self.encode(last, piece, &mut lines);
                let more = lines.len() < BATCH;
                next = more.then(|| self.pieces.try_recv().ok()).flatten();
            }
            let batch = std::mem::take(&mut lines);
            if let Err(failure) = self.write(move |output| output.write(&batch)).await {
                fail(&self.failure, failure);
                self.pieces.close();
                break;
            }
        }
        self.end(last).await
    }

    fn encode(&mut self, at: Duration, piece: Piece, to: &mut Vec<u8>) {
        match piece {
            Piece::Data(direction, bytes) => self.encoder.data(at, direction, &bytes, to),
            Piece::Resize(columns, rows) => self.encoder.resize(at, columns, rows, to),
            Piece::Marker(text) => self.encoder.marker(at, text, to),
            Piece::End(exit) => self.encoder.end(at, &exit, to),
        }
    }

    /// Has the file written to where that may block, for as long as it may be behind.
    async fn write(
        &mut self,
        write: impl FnOnce(&mut Output) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        let Some(mut output) = self.output.take() else {
            return Err(Failure::Behind);
        };
        let writing = spawn_blocking(move || {
            let outcome = write(&mut output);
            (output, outcome)
        });
        match timeout(BEHIND, writing).await {
            Ok(Ok((output, outcome))) => {
                self.bytes = output.bytes;
                self.output = Some(output);
                outcome
            }
            Ok(Err(_)) | Err(_) => Err(Failure::Behind), // its thread is stuck, and the file with it
        }
    }

    async fn end(mut self, last: Duration) -> Summary {
        let incomplete = self.failure.borrow().clone();
        let mut lines = Vec::new();
        if let Some(failure) = &incomplete {
            let text = format!("recording stopped: {failure}");
            self.encoder.marker(last, &text, &mut lines);
        }
        let ended = self.write(move |output| output.end(&lines)).await;
        Summary {
            name: self.name,
            bytes: self.bytes,
            sha256: self.output.map(|output| hex(output.hash.finish().as_ref())),
            incomplete: incomplete.or_else(|| ended.err()),
        }
    }
}

/// The file, and what is known of its content.
struct Output {
    store: Arc<Store>,
    file: File,
    hash: digest::Context,
    bytes: u64,
    max_bytes: u64,
    min_free: u64,
    /// When the volume's free space is looked at next.
    look_at: u64,
}

impl Output {
    /// Makes the file and writes its first line.
    async fn create(
        store: Arc<Store>,
        name: String,
        config: Config,
        header: Vec<u8>,
    ) -> Result<Self, Failure> {
        let created = spawn_blocking(move || {
            let file = store.create(&name).map_err(|error| Failure::Create {
                directory: store.path().to_owned(),
                why: error.to_string(),
            })?;
            let mut output = Self {
                store,
                file,
                hash: digest::Context::new(&digest::SHA256),
                bytes: 0,
                max_bytes: config.max_bytes,
                min_free: config.min_free,
                look_at: 0,
            };
            output.write(&header)?;
            Ok(output)
        });
        match timeout(BEHIND, created).await {
            Ok(Ok(created)) => created,
            Ok(Err(_)) | Err(_) => Err(Failure::Behind),
        }
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Failure> {
        if self.bytes + lines.len() as u64 > self.max_bytes {
            return Err(Failure::TooLarge(self.max_bytes));
        }
        if self.bytes >= self.look_at {
            self.look_at = self.bytes + LOOK_EVERY;
            let free = self.store.free().map_err(|error| written(&error))?;
            if free < self.min_free {
                return Err(Failure::NoSpace(self.min_free));
            }
        }
        self.append(lines).map_err(|error| written(&error))
    }

    /// The last lines, past every limit; and to the disk.
    fn end(&mut self, lines: &[u8]) -> Result<(), Failure> {
        self.append(lines)
            .and_then(|()| self.file.sync_data())
            .map_err(|error| written(&error))
    }

    fn append(&mut self, mut lines: &[u8]) -> io::Result<()> {
        while !lines.is_empty() {
            match self.file.write(lines) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => {
                    self.hash.update(&lines[..length]);
                    self.bytes += length as u64;
                    lines = &lines[length..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn written(error: &io::Error) -> Failure {
    Failure::Write(error.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
