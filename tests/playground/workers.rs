//! How Go's spdystream reads a connection, whoever uses it: one reader, five workers, and no flow control.
//!
//! The reader cuts the bytes into frames and gives each to a worker: by the stream's id, so that a stream's frames
//! stay in order, and PINGs in turn. A worker that can't get rid of a frame, because nobody reads its stream or the
//! wire takes no answer, waits; 50 frames later its queue is full, the reader waits for it, and the whole connection
//! stands still: other streams, PINGs, even the RST that would end the trouble.
//!
//! All streams have the same priority in Kubernetes, so the queues of priorities are plain queues here.

use std::array;
use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Buf as _, Bytes, BytesMut};
use kpf::spdy::{Connection, Event, Headers, StreamId};

/// `FRAME_WORKERS`.
const WORKERS: usize = 5;
/// `QUEUE_SIZE`, of each worker.
const QUEUE: usize = 50;
/// What all frames begin with: 31 or 15 bits and a type, eight of flags, 24 of length.
pub(crate) const HEAD: usize = 8;
const CONTROL: u32 = 1 << 31;

/// A frame that a worker is to handle.
pub(crate) enum Job {
    /// The client opened a stream. The headers of all streams share one zlib context, so the reader reads them.
    Open(StreamId, Headers),
    /// Bytes of a stream, or its end.
    Data { id: u32, frame: Bytes },
    /// RST_STREAM.
    Reset { id: u32, frame: Bytes },
    /// PING, and what means nothing here.
    Other(Bytes),
}

impl Job {
    /// Whether there is an answer that the wire must take.
    fn answers(&self) -> bool {
        matches!(self, Self::Open(..) | Self::Other(_))
    }
}

/// Who handles frames.
pub(crate) trait Handler {
    /// The protocol, for header blocks.
    fn connection(&mut self) -> &mut Connection;
    /// Whether the wire takes answers at the moment.
    fn can_answer(&self) -> bool;
    /// Whether the stream's consumer has yet to take the frame that it was given.
    fn is_busy(&self, stream: u32) -> bool;
    /// Handles a frame, or gives it back if its stream takes none at the moment. Names the stream that was given
    /// bytes.
    fn handle(&mut self, job: Job) -> Result<Option<u32>, Job>;
}

/// The reader and its workers.
pub(crate) struct Workers {
    /// Not yet a frame.
    unread: BytesMut,
    /// What the reader has in hand while its worker's queue is full.
    held: Option<(usize, Job)>,
    workers: [Worker; WORKERS],
    /// Who gets the next frame that belongs to no stream.
    turn: usize,
    goodbye: bool,
}

#[derive(Default)]
struct Worker {
    queue: VecDeque<Job>,
    /// What it can't get rid of.
    held: Option<Job>,
    /// The stream whose consumer must take a frame before the worker goes on: spdystream's channels have no buffer.
    giving: Option<u32>,
}

impl Workers {
    pub(crate) fn new() -> Self {
        Self {
            unread: BytesMut::new(),
            held: None,
            workers: array::from_fn(|_| Worker::default()),
            turn: 0,
            goodbye: false,
        }
    }

    /// Bytes from the wire. Only while the reader isn't [`blocked`](Self::blocked), as a rule.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// Whether the reader waits for a worker: nothing on the connection is read.
    pub(crate) fn blocked(&self) -> bool {
        self.held.is_some()
    }

    /// Whether the client said GOAWAY.
    pub(crate) fn goodbye(&self) -> bool {
        self.goodbye
    }

    /// Whether everything that came is done with.
    pub(crate) fn idle(&self) -> bool {
        let idle = |worker: &Worker| {
            worker.queue.is_empty() && worker.held.is_none() && worker.giving.is_none()
        };
        self.held.is_none() && self.workers.iter().all(idle)
    }

    /// Lets reader and workers go on until each of them waits for something.
    pub(crate) fn run(&mut self, handler: &mut impl Handler) {
        loop {
            let mut moved = self.read(handler.connection());
            for worker in &mut self.workers {
                moved |= worker.run(handler);
            }
            if !moved {
                return;
            }
        }
    }

    /// The reader: says whether a worker got anything.
    fn read(&mut self, connection: &mut Connection) -> bool {
        let mut moved = false;
        while !self.goodbye {
            let next = match self.held.take() {
                Some(held) => Some(held),
                None => match self.cut() {
                    Some(frame) => self.sort(frame, connection),
                    None => return moved,
                },
            };
            let Some((worker, job)) = next else { continue };
            if self.workers[worker].queue.len() == QUEUE {
                self.held = Some((worker, job));
                return moved;
            }
            self.workers[worker].queue.push_back(job);
            moved = true;
        }
        moved
    }

    fn cut(&mut self) -> Option<Bytes> {
        let mut head = self.unread.get(..HEAD)?;
        head.advance(4);
        let length = head.get_u32() & 0x00ff_ffff;
        let length = HEAD + length as usize;
        (self.unread.len() >= length).then(|| self.unread.split_to(length).freeze())
    }

    /// Which worker gets the frame; none for what the reader handles by itself.
    fn sort(&mut self, mut frame: Bytes, connection: &mut Connection) -> Option<(usize, Job)> {
        let first = frame.clone().get_u32();
        if first & CONTROL == 0 {
            return Some((of_stream(first), Job::Data { id: first, frame }));
        }
        match first & 0xffff {
            // SYN_STREAM, SYN_REPLY and HEADERS: the zlib context goes with the wire's order
            1 | 2 | 8 => {
                pass(connection, &mut frame);
                while let Some(event) = connection.poll_event() {
                    if let Event::Opened { id, headers, .. } = event {
                        return Some((of_stream(id.get()), Job::Open(id, headers)));
                    }
                }
                None
            }
            3 if frame.len() >= HEAD + 4 => {
                let id = frame.slice(HEAD..).get_u32() & !CONTROL;
                Some((of_stream(id), Job::Reset { id, frame }))
            }
            7 => {
                self.goodbye = true;
                None
            }
            _ => {
                let worker = self.turn;
                self.turn = (worker + 1) % WORKERS;
                Some((worker, Job::Other(frame)))
            }
        }
    }
}

impl Worker {
    /// Says whether anything moved.
    fn run(&mut self, handler: &mut impl Handler) -> bool {
        let mut moved = false;
        loop {
            if self.giving.is_some_and(|stream| handler.is_busy(stream)) {
                return moved;
            }
            self.giving = None;
            let job = match self.held.take() {
                Some(job) => job,
                None => match self.queue.pop_front() {
                    Some(job) => {
                        moved = true;
                        job
                    }
                    None => return moved,
                },
            };
            let handled = match job.answers() && !handler.can_answer() {
                true => Err(job),
                false => handler.handle(job),
            };
            match handled {
                Ok(giving) => self.giving = giving,
                Err(job) => {
                    self.held = Some(job);
                    return moved;
                }
            }
            moved = true;
        }
    }
}

fn of_stream(id: u32) -> usize {
    id as usize % WORKERS
}

/// Hands a frame to the protocol; what the peer broke shows as a lost connection.
pub(crate) fn pass(connection: &mut Connection, frame: &mut Bytes) {
    let _ = connection.handle_input(frame, Instant::now());
}
