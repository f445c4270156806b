//! What all channels of one user may hold back together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by the queues of one user, over all of their connections: clone it into each.
#[derive(Clone, Debug)]
pub struct Quota {
    disk: Arc<Budget>,
    memory: Arc<Budget>,
}

impl Quota {
    /// 4 GiB on disk: four channels at their cap.
    pub const DISK: u64 = 4 << 30;
    /// 64 MiB on the way to the disk: what arrives at 1 GB/s while a disk makes everybody wait for 60 ms.
    pub const MEMORY: u64 = 64 << 20;

    /// `disk` bytes in files; and `memory` bytes beyond what each queue may keep, on their way there.
    #[must_use]
    pub fn new(disk: u64, memory: u64) -> Self {
        Self {
            disk: Budget::new(disk),
            memory: Budget::new(memory),
        }
    }

    /// Bytes that files of the user take up on disk, or are about to.
    #[must_use]
    pub fn on_disk(&self) -> u64 {
        self.disk.taken.load(Ordering::Relaxed)
    }

    pub(super) fn disk(&self) -> Share {
        Share::of(&self.disk)
    }

    pub(super) fn memory(&self) -> Share {
        Share::of(&self.memory)
    }
}

impl Default for Quota {
    fn default() -> Self {
        Self::new(Self::DISK, Self::MEMORY)
    }
}

#[derive(Debug)]
struct Budget {
    limit: u64,
    taken: AtomicU64,
}

impl Budget {
    fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            taken: AtomicU64::new(0),
        })
    }
}

/// One queue's share of a budget, given back when it goes.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    held: u64,
}

impl Share {
    fn of(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            held: 0,
        }
    }

    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// Makes this share `held` in all.
    ///
    /// # Errors
    /// The budget, which hasn't so much left; the share stays as it was.
    pub(super) fn set(&mut self, held: u64) -> Result<(), u64> {
        if let Some(more) = held.checked_sub(self.held) {
            self.budget
                .taken
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                    taken
                        .checked_add(more)
                        .filter(|&taken| taken <= self.budget.limit)
                })
                .map_err(|_| self.budget.limit)?;
        } else {
            self.budget
                .taken
                .fetch_sub(self.held - held, Ordering::Relaxed);
        }
        self.held = held;
        Ok(())
    }

    /// Makes this share `held` if it is more now.
    pub(super) fn shrink(&mut self, held: u64) {
        if held < self.held {
            self.set(held).unwrap_or_default(); // less never fails
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(0);
    }
}
