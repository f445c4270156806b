//! PINGs of ours: when they go out, and what their answers, or the lack of them, say about the peer.

use std::time::{Duration, Instant};

use super::Config;
use super::connection::Role;

/// PINGs that may lack an answer. spdystream deals them out to five workers; one that hangs, since its container
/// doesn't read, swallows its share, and with 50 frames waiting for it the whole peer hangs.
const MAX_UNANSWERED: u32 = 16;

/// What the clock asks for.
pub(super) enum PingDue {
    Send(u32),
    Dead,
}

/// Pings that we send, and what their answers, or the lack of them, say about the peer.
#[derive(Debug)]
pub(super) struct Pings {
    period: Option<Duration>,
    silence: Duration,
    /// Odd for clients, even for servers; wraps before 2^31.
    pub(super) next_id: u32,
    next_at: Instant,
    unanswered: u32,
    /// The last one that was answered.
    answered: Option<u32>,
    /// A PING has gone out since anything was heard.
    asked: bool,
    /// The last moment at which the silence had a reason, or wasn't one.
    quiet_since: Instant,
    blocked: bool,
}

impl Pings {
    pub(super) fn new(role: Role, config: &Config, now: Instant) -> Self {
        Self {
            period: config.ping_period,
            silence: config.silence,
            next_id: if role == Role::Client { 1 } else { 2 },
            next_at: now + config.ping_period.unwrap_or_default(),
            unanswered: 0,
            answered: None,
            asked: false,
            quiet_since: now,
            blocked: false,
        }
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.asked = false;
        self.quiet_since = now;
    }

    pub(super) fn set_blocked(&mut self, blocked: bool, now: Instant) {
        if self.blocked || blocked {
            self.quiet_since = now;
        }
        self.blocked = blocked;
    }

    /// Whether a PING that came in answers ours, or at least pretends to: ids of our parity are never echoed.
    pub(super) fn answered(&mut self, id: u32) -> bool {
        let ours = id % 2 == self.next_id % 2;
        if ours {
            self.unanswered = self.unanswered.saturating_sub(1);
            self.answered = Some(id);
        }
        ours
    }

    /// A PING besides those that the clock asks for.
    pub(super) fn extra(&mut self) -> Option<u32> {
        (!self.blocked && self.unanswered < MAX_UNANSWERED).then(|| self.next())
    }

    /// Whether the PING with this id, or one after it, was answered; ids wrap.
    pub(super) fn is_answered(&self, id: u32) -> bool {
        let behind = |answered: u32| answered.wrapping_sub(id) & 0x7fff_ffff;
        self.answered
            .is_some_and(|answered| behind(answered) < 0x4000_0000)
    }

    fn next(&mut self) -> u32 {
        self.unanswered += 1;
        let id = self.next_id;
        self.next_id = if id >= 0x7fff_fffd {
            2 - id % 2
        } else {
            id + 2
        };
        id
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, paused: bool) -> Option<PingDue> {
        let period = self.period?;
        if paused || self.blocked {
            self.quiet_since = now;
        }
        if self.asked && now >= self.quiet_since + self.silence {
            return Some(PingDue::Dead);
        }
        if now < self.next_at {
            return None;
        }
        self.next_at = now + period;
        // None into a full pipe. One that stays unanswered proves nothing: the next ones reach other workers.
        if self.blocked || self.unanswered >= MAX_UNANSWERED {
            return None;
        }
        // The silence begins with the first question.
        if !self.asked {
            self.asked = true;
            self.quiet_since = now;
        }
        Some(PingDue::Send(self.next()))
    }

    pub(super) fn poll_timeout(&self, paused: bool) -> Option<Instant> {
        self.period?;
        let dead =
            (self.asked && !paused && !self.blocked).then(|| self.quiet_since + self.silence);
        Some(dead.map_or(self.next_at, |dead| dead.min(self.next_at)))
    }
}
