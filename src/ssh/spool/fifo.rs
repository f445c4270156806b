//! The queue without its file: what lies where, and what is to be written and read next. No IO and no waiting.
//!
//! In order, from the oldest byte: the *head* in memory, whole blocks *stored* in the file, one block that is being
//! written, and the *tail* in memory. While nothing is stored, all is head and tail, and the file isn't touched.

use std::collections::{BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};

use super::quota::{Quota, Share};
use super::{Error, Limits};

/// What is written and read at a time: enough that a disk is used well, little enough to keep in memory per channel.
pub(super) const BLOCK: usize = 128 * 1024;
/// Pieces smaller than this are copied together; larger ones are kept as they came.
const SMALL: usize = 4 * 1024;
/// Marks at most. A program that alternates between two outputs line by line gets this far ahead of its reader.
pub(super) const MARKS: usize = 256 * 1024;

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<M> {
    /// Bytes, at least one.
    Data(Bytes),
    /// What the writer marked here.
    Mark(M),
}

/// Something to do with the file. The next one is given when this one is done.
#[derive(Debug)]
pub(super) enum Job {
    /// Write these pieces, a block together, as this block of the file.
    Write(u64, Vec<Bytes>),
    /// Read this block of the file.
    Read(u64),
    /// Nothing of the file is needed any more.
    Truncate,
}

/// What came of a job.
#[derive(Debug)]
pub(super) enum Done {
    Written(u64),
    Read(u64, Bytes),
    Truncated,
}

#[derive(Debug)]
pub(super) struct Fifo<M> {
    memory: usize,
    channel: u64,
    head: Pieces,
    /// Blocks of the file, oldest first.
    stored: VecDeque<u64>,
    tail: Pieces,
    /// Blocks of the file that hold nothing; the first is taken first, so that the file stays short.
    free: BTreeSet<u64>,
    /// Blocks that the file is long.
    blocks: u64,
    busy: Option<Busy>,
    /// The last job wrote: a fast writer and a fast reader take turns.
    wrote: bool,
    /// By the count of bytes before them.
    marks: VecDeque<(u64, M)>,
    written: u64,
    read: u64,
    end: Option<Result<(), Error>>,
    failure: Option<Error>,
    /// What the file may grow to as things are: it never shrinks but to nothing.
    disk: Share,
    /// The tail, and what is being written.
    behind: Share,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Busy {
    Writing,
    Reading,
    Truncating,
}

impl<M> Fifo<M> {
    pub(super) fn new(limits: &Limits, quota: &Quota) -> Self {
        Self {
            memory: limits.memory,
            channel: limits.channel,
            head: Pieces::default(),
            stored: VecDeque::new(),
            tail: Pieces::default(),
            free: BTreeSet::new(),
            blocks: 0,
            busy: None,
            wrote: false,
            marks: VecDeque::new(),
            written: 0,
            read: 0,
            end: None,
            failure: None,
            disk: quota.disk(),
            behind: quota.memory(),
        }
    }

    pub(super) fn waiting(&self) -> u64 {
        self.written - self.read
    }

    /// Whether nothing more can come in.
    pub(super) fn is_ended(&self) -> bool {
        self.end.is_some() || self.failure.is_some()
    }

    pub(super) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    pub(super) fn push(&mut self, data: Bytes) -> Result<(), Error> {
        self.check()?;
        if data.is_empty() {
            return Ok(());
        }
        let length = data.len();
        if self.fits(length) {
            self.head.push(data);
        } else {
            self.tail.push(data);
            if let Err(error) = self.reserve() {
                self.fail(error.clone());
                return Err(error);
            }
        }
        self.written += length as u64;
        Ok(())
    }

    pub(super) fn mark(&mut self, mark: M) -> Result<(), Error> {
        self.check()?;
        if self.marks.len() == MARKS {
            self.fail(Error::Marks);
            return Err(Error::Marks);
        }
        self.marks.push_back((self.written, mark));
        Ok(())
    }

    /// The writer's last word; only the first counts.
    pub(super) fn end(&mut self, end: Result<(), Error>) {
        self.end.get_or_insert(end);
    }

    /// The next thing to read; `None` if it isn't here yet.
    pub(super) fn next(&mut self) -> Option<Result<Option<Item<M>>, Error>> {
        if let Some(error) = &self.failure {
            return Some(Err(error.clone()));
        }
        let until_mark = match self.marks.front() {
            Some((at, _)) if *at == self.read => {
                return Some(Ok(self.marks.pop_front().map(|(_, mark)| Item::Mark(mark))));
            }
            Some((at, _)) => at - self.read,
            None => u64::MAX,
        };
        let most = usize::try_from(until_mark).map_or(BLOCK, |length| length.min(BLOCK));
        if let Some(data) = self.head.pop(most) {
            self.read += data.len() as u64;
            self.settle();
            return Some(Ok(Some(Item::Data(data))));
        }
        if self.waiting() > 0 {
            return None;
        }
        self.end.clone().map(|end| end.map(|()| None))
    }

    /// What is to be done with the file now. It is to be answered with `done` before the next is asked for.
    pub(super) fn job(&mut self) -> Option<Job> {
        if self.busy.is_some() {
            return None;
        }
        let write = self.tail.length >= BLOCK;
        let read = !self.stored.is_empty() && self.has_room(BLOCK);
        if read && (self.wrote || !write) {
            let block = self.stored.pop_front()?;
            self.busy = Some(Busy::Reading);
            self.wrote = false;
            return Some(Job::Read(block));
        }
        if write {
            let block = self.free.pop_first().unwrap_or_else(|| {
                self.blocks += 1;
                self.blocks - 1
            });
            self.busy = Some(Busy::Writing);
            self.wrote = true;
            return Some(Job::Write(block, self.tail.take(BLOCK)));
        }
        if self.blocks > 0 && self.stored.is_empty() {
            // also when it has failed
            self.busy = Some(Busy::Truncating);
            return Some(Job::Truncate);
        }
        None
    }

    pub(super) fn done(&mut self, done: Result<Done, Error>) {
        let was = self.busy.take();
        match done {
            Ok(Done::Truncated) => self.emptied(),
            Ok(_) if self.failure.is_some() => {}
            Ok(Done::Written(block)) => {
                self.stored.push_back(block);
                self.behind.shrink(self.tail.length as u64);
            }
            Ok(Done::Read(block, data)) => {
                self.free.insert(block);
                self.head.push(data);
            }
            Err(error) => {
                self.fail(error);
                if was == Some(Busy::Truncating) {
                    self.emptied(); // not to be tried for ever
                }
            }
        }
        self.settle();
    }

    fn emptied(&mut self) {
        self.free.clear();
        self.blocks = 0;
        self.disk.shrink(self.needed());
    }

    /// Nothing that is waiting will be read.
    pub(super) fn fail(&mut self, error: Error) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(error);
        self.head = Pieces::default();
        self.tail = Pieces::default();
        self.stored.clear();
        self.marks.clear();
        self.read = self.written;
        self.settle();
    }

    fn check(&self) -> Result<(), Error> {
        match (&self.failure, &self.end) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(_)) => Err(Error::Abandoned),
            (None, None) => Ok(()),
        }
    }

    /// Whether nothing lies between the head and what comes next.
    fn is_memory_only(&self) -> bool {
        self.stored.is_empty() && matches!(self.busy, None | Some(Busy::Truncating))
    }

    fn fits(&self, length: usize) -> bool {
        self.is_memory_only() && self.tail.length == 0 && self.has_room(length)
    }

    fn has_room(&self, length: usize) -> bool {
        self.head.length == 0 || self.head.length + length <= self.memory
    }

    /// Moves what need not go through the file.
    fn settle(&mut self) {
        if !self.is_memory_only() {
            return;
        }
        while let Some(length) = self.tail.first() {
            if !self.has_room(length) {
                break;
            }
            if let Some(piece) = self.tail.pop(length) {
                self.head.push(piece);
            }
        }
        self.behind.shrink(self.tail.length as u64);
        if self.blocks == 0 {
            self.disk.shrink(self.needed());
        }
    }

    /// Bytes that the file needs for all that doesn't fit the memory.
    fn needed(&self) -> u64 {
        let moving = usize::from(matches!(self.busy, Some(Busy::Writing | Busy::Reading)));
        (self.stored.len() + moving + self.tail.length.div_ceil(BLOCK)) as u64 * BLOCK as u64
    }

    /// Takes room for the tail, before it is known whether it will go to the file.
    fn reserve(&mut self) -> Result<(), Error> {
        let writing = match self.busy {
            Some(Busy::Writing) => BLOCK,
            _ => 0,
        };
        self.behind
            .set((self.tail.length + writing) as u64)
            .map_err(|_| Error::Slow)?;
        let needed = self.needed();
        if needed > self.channel {
            return Err(Error::Channel(self.waiting()));
        }
        if needed > self.disk.held() {
            self.disk.set(needed).map_err(Error::User)?;
        }
        Ok(())
    }
}

/// Bytes in memory, in pieces.
#[derive(Debug, Default)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    /// Small ones, copied together; they come after `pieces`.
    small: BytesMut,
    length: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        let length = piece.len();
        if length < SMALL && self.length > 0 {
            self.small.extend_from_slice(&piece);
            if self.small.len() >= BLOCK / 4 {
                self.seal();
            }
        } else {
            self.seal();
            self.pieces.push_back(piece);
        }
        self.length += length;
    }

    fn seal(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }

    /// How long the first piece is.
    fn first(&mut self) -> Option<usize> {
        if self.pieces.is_empty() {
            self.seal();
        }
        self.pieces.front().map(Bytes::len)
    }

    /// The first piece, or as much of it as `most`.
    fn pop(&mut self, most: usize) -> Option<Bytes> {
        let length = self.first()?.min(most);
        let front = self.pieces.front_mut()?;
        let data = front.split_to(length);
        if front.is_empty() {
            self.pieces.pop_front();
        }
        self.length -= length;
        Some(data)
    }

    /// The first `length` bytes, which there must be.
    fn take(&mut self, length: usize) -> Vec<Bytes> {
        let mut taken = Vec::new();
        let mut missing = length;
        while let Some(piece) = self.pop(missing).filter(|_| missing > 0) {
            missing -= piece.len();
            taken.push(piece);
        }
        taken
    }
}
