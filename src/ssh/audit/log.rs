//! The one who writes: numbers events, chains them and hands them to every sink. Fails closed.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::timeout;

use super::auditor::{Auditor, Direction, Verdict};
use super::chain::Link;
use super::event::{About, Kind};
use super::line;
use super::redact::Redact;
use super::session::SessionId;
use super::sink::{OpenError, Queued, STALL, Sink, SinkConfig};
use super::target::Target;

/// What becomes of sessions while a required sink doesn't work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// None starts, and running ones end.
    #[default]
    Deny,
    /// They go on; the log shows a gap.
    Continue,
}

/// The log. Cheap to clone.
#[derive(Clone)]
pub struct Audit(Arc<Shared>);

struct Shared {
    gateway: String,
    on_failure: OnFailure,
    redact: Redact,
    auditors: Vec<Box<dyn Auditor>>,
    /// Names, and whether each is required.
    sinks: Vec<(&'static str, bool)>,
    sealer: Mutex<Sealer>,
    troubles: watch::Sender<Troubles>,
}

/// The end of the chain, and the queues: under one lock, so that lines are in the same order everywhere.
struct Sealer {
    link: Link,
    outlets: Vec<Outlet>,
}

/// A sink, and what it has been given.
struct Outlet {
    sink: Sink,
    count: Count,
    /// Lines of the chain up to the last that was queued.
    sent: u64,
    /// A line that it had not taken when last looked at, and since when.
    waiting: Option<(u64, Instant)>,
}

/// Sinks that don't work, by their place in the configuration, and why.
type Troubles = BTreeMap<usize, String>;

/// Events of one sink since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Handed to it.
    pub queued: u64,
    /// Not handed to it, since its queue was full.
    pub lost: u64,
}

/// A required sink doesn't work: nothing may go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log takes no events: {0}")]
pub struct Refused(pub String);

impl Audit {
    /// Opens every sink and starts their threads. The chain goes on from the first file's last line.
    ///
    /// # Errors
    /// The first sink that can't be opened, required or not: at the start somebody reads it.
    pub fn open(
        gateway: &str,
        sinks: &[SinkConfig],
        on_failure: OnFailure,
        redact: Redact,
    ) -> Result<Self, OpenError> {
        Self::with_auditors(gateway, sinks, on_failure, redact, Vec::new())
    }

    /// The same, with code that watches.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_auditors(
        gateway: &str,
        sinks: &[SinkConfig],
        on_failure: OnFailure,
        redact: Redact,
        auditors: Vec<Box<dyn Auditor>>,
    ) -> Result<Self, OpenError> {
        let opened = sinks
            .iter()
            .map(|sink| Target::open(&sink.kind))
            .collect::<Result<Vec<_>, _>>()?;
        let link = opened
            .iter()
            .find_map(|(_, link)| *link)
            .unwrap_or(Link::FIRST);
        let troubles = watch::Sender::new(Troubles::new());
        let mut started = Vec::new();
        for (number, (target, _)) in opened.into_iter().enumerate() {
            let troubles = troubles.clone();
            let tell = Box::new(move |outcome: Result<(), String>| {
                set_trouble(&troubles, number, outcome.err());
            });
            started.push(Outlet {
                sink: Sink::start(target, link.seq, tell)?,
                count: Count::default(),
                sent: link.seq,
                waiting: None,
            });
        }
        Ok(Self(Arc::new(Shared {
            gateway: gateway.to_owned(),
            on_failure,
            redact,
            auditors,
            sinks: sinks
                .iter()
                .map(|sink| (sink.kind.name(), sink.required))
                .collect(),
            sealer: Mutex::new(Sealer {
                link,
                outlets: started,
            }),
            troubles,
        })))
    }

    /// Writes an event, without waiting: it is in every sink's queue then, unless one doesn't work.
    ///
    /// # Errors
    /// A required sink doesn't work and sessions end for it. The event is queued even so where there is room: an end is
    /// worth writing when nothing may go on.
    pub fn write(&self, about: About, kind: Kind) -> Result<Verdict, Refused> {
        self.write_at(&about, &kind, Timestamp::now(), Instant::now());
        self.check()?;
        Ok(self.ask(|auditor| auditor.on_event(&about, &kind)))
    }

    /// Writes an event, and waits until every required sink has taken it: for what must not happen unseen. Waits for
    /// nothing if sessions go on without a log. If cancelled, the event is written all the same.
    ///
    /// # Errors
    /// A required sink doesn't work, or takes nothing for five seconds.
    pub async fn commit(&self, about: About, kind: Kind) -> Result<Verdict, Refused> {
        let count = self.write_at(&about, &kind, Timestamp::now(), Instant::now());
        self.check()?;
        if self.0.on_failure == OnFailure::Deny {
            let mut required: Vec<watch::Receiver<u64>> = self
                .sealer()
                .outlets
                .iter()
                .zip(&self.0.sinks)
                .filter(|(_, (_, required))| *required)
                .map(|(outlet, _)| outlet.sink.written.clone())
                .collect();
            let written = async {
                for sink in &mut required {
                    let done = sink.wait_for(|written| *written >= count).await;
                    done.map_err(|_| Refused("a sink has ended".to_owned()))?;
                }
                Ok(())
            };
            tokio::select! {
                written = timeout(STALL, written) => {
                    written.unwrap_or_else(|_| Err(Refused(stalled())))?;
                }
                () = self.failed() => self.check()?,
            }
        }
        Ok(self.ask(|auditor| auditor.on_event(&about, &kind)))
    }

    /// Bytes that are about to be passed on; `Close` if an auditor says so. Free where there is none.
    pub fn bytes(
        &self,
        session: &SessionId,
        channel: u32,
        direction: Direction,
        bytes: &[u8],
    ) -> Verdict {
        self.ask(|auditor| auditor.on_bytes(session, channel, direction, bytes))
    }

    /// Whether sessions may start and go on.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), Refused> {
        match self.0.on_failure {
            OnFailure::Deny => self.works(),
            OnFailure::Continue => Ok(()),
        }
    }

    /// Whether every required sink takes events: for a readiness probe.
    ///
    /// # Errors
    /// The first that doesn't, and why.
    pub fn works(&self) -> Result<(), Refused> {
        self.look_for_stalls(Instant::now());
        let troubles = self.0.troubles.borrow();
        self.first_required(&troubles)
            .map_or(Ok(()), |why| Err(Refused(why.clone())))
    }

    /// Ready once sessions have to end because of the log. Cancel-safe.
    pub async fn failed(&self) {
        if self.0.on_failure == OnFailure::Continue {
            return std::future::pending().await;
        }
        let mut troubles = self.0.troubles.subscribe();
        let failed = troubles.wait_for(|troubles| self.first_required(troubles).is_some());
        drop(failed.await.expect("the sender is in self"));
    }

    /// How many events each sink has had, by its kind's name.
    #[must_use]
    pub fn counts(&self) -> Vec<(&'static str, Count)> {
        let counts = self.sealer();
        let counts = counts.outlets.iter().map(|outlet| outlet.count);
        self.0
            .sinks
            .iter()
            .map(|(name, _)| *name)
            .zip(counts)
            .collect()
    }

    /// Takes no more events, writes those that are queued and brings files to the disk. To be called after the last
    /// event, before the process ends.
    ///
    /// # Errors
    /// What could not be written in time.
    pub async fn close(&self, grace: Duration) -> Result<(), Refused> {
        let mut threads = Vec::new();
        for outlet in &mut self.sealer().outlets {
            outlet.sink.close();
            threads.push(outlet.sink.written.clone());
        }
        let ended = async {
            for thread in &mut threads {
                while thread.changed().await.is_ok() {}
            }
        };
        let in_time = timeout(grace, ended).await.is_ok();
        match self.0.troubles.borrow().values().next() {
            Some(why) => Err(Refused(why.clone())),
            None if in_time => Ok(()),
            None => Err(Refused(stalled())),
        }
    }

    /// Seals the event and queues it; returns how many lines the chain has with it.
    fn write_at(&self, about: &About, kind: &Kind, at: Timestamp, now: Instant) -> u64 {
        let kind = line::redacted(kind, &self.0.redact);
        let mut lost = Vec::new();
        let mut sealer = self.sealer();
        let line: Arc<[u8]> = line::encode(at, &sealer.link, &self.0.gateway, about, &kind).into();
        sealer.link = sealer.link.after(&line);
        let count = sealer.link.seq;
        for (number, outlet) in sealer.outlets.iter_mut().enumerate() {
            let queued = Queued {
                line: line.clone(),
                count,
            };
            match outlet
                .sink
                .queue
                .as_ref()
                .map(|queue| queue.try_send(queued))
            {
                Some(Ok(())) => {
                    outlet.count.queued += 1;
                    outlet.sent = count;
                    outlet.waiting.get_or_insert((count, now));
                }
                _ => {
                    outlet.count.lost += 1;
                    lost.push(number);
                }
            }
        }
        drop(sealer);
        for number in lost {
            set_trouble(&self.0.troubles, number, Some(stalled()));
        }
        count
    }

    /// A sink whose thread is stuck can't say so itself.
    fn look_for_stalls(&self, now: Instant) {
        let mut idle = Vec::new();
        let mut stuck = Vec::new();
        for (number, outlet) in self.sealer().outlets.iter_mut().enumerate() {
            let written = *outlet.sink.written.borrow();
            if outlet.waiting.is_some_and(|(count, _)| written >= count) {
                outlet.waiting = (written < outlet.sent).then_some((outlet.sent, now));
            }
            match outlet.waiting {
                None => idle.push(number),
                Some((_, since)) if now.duration_since(since) >= STALL => stuck.push(number),
                Some(_) => {}
            }
        }
        for number in stuck {
            if !self.0.troubles.borrow().contains_key(&number) {
                set_trouble(&self.0.troubles, number, Some(stalled()));
            }
        }
        for number in idle {
            // It has caught up since its queue was found full.
            if self.0.troubles.borrow().get(&number) == Some(&stalled()) {
                set_trouble(&self.0.troubles, number, None);
            }
        }
    }

    fn first_required<'t>(&self, troubles: &'t Troubles) -> Option<&'t String> {
        troubles
            .iter()
            .find(|(number, _)| self.0.sinks[**number].1)
            .map(|(_, why)| why)
    }

    fn ask(&self, ask: impl Fn(&dyn Auditor) -> Verdict) -> Verdict {
        self.0
            .auditors
            .iter()
            .map(|auditor| ask(&**auditor))
            .fold(Verdict::Continue, Verdict::and)
    }

    fn sealer(&self) -> MutexGuard<'_, Sealer> {
        self.0.sealer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("gateway", &self.0.gateway)
            .field("sinks", &self.0.sinks)
            .finish_non_exhaustive()
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        Self::other(refused)
    }
}

fn stalled() -> String {
    format!(
        "a sink has taken nothing for {} s, or its queue is full",
        STALL.as_secs()
    )
}

/// Wakes those who wait only if something changed.
fn set_trouble(troubles: &watch::Sender<Troubles>, number: usize, why: Option<String>) {
    troubles.send_if_modified(|troubles| match why {
        Some(why) => troubles.insert(number, why.clone()).as_ref() != Some(&why),
        None => troubles.remove(&number).is_some(),
    });
}
