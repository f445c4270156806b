//! Whether the machine was asleep: then wall time has passed that the timers haven't seen.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Wall clocks are set now and then; by more than this only when something has happened.
const JUMP: Duration = Duration::from_secs(10);

/// Compares the two clocks. Monotonic time stands still in suspend on Linux and macOS.
#[derive(Debug)]
pub(super) struct Clock {
    wall: SystemTime,
    timer: Instant,
}

impl Clock {
    pub(super) fn new(wall: SystemTime, timer: Instant) -> Self {
        Self { wall, timer }
    }

    /// How long the machine was asleep since the last look, if it was.
    pub(super) fn look(&mut self, wall: SystemTime, timer: Instant) -> Option<Duration> {
        let passed = wall.duration_since(self.wall).unwrap_or_default();
        let asleep = passed.saturating_sub(timer - self.timer);
        *self = Self { wall, timer };
        (asleep > JUMP).then_some(asleep)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_jump_forward_is_a_sleep() {
        let (wall, timer) = (SystemTime::now(), Instant::now());
        let seconds = Duration::from_secs;
        let mut clock = Clock::new(wall, timer);
        assert_eq!(clock.look(wall + seconds(5), timer + seconds(5)), None);
        // set by some seconds, and back by an hour
        assert_eq!(clock.look(wall + seconds(15), timer + seconds(6)), None);
        assert_eq!(clock.look(wall - seconds(3600), timer + seconds(11)), None);
        let asleep = clock.look(wall, timer + seconds(16));
        assert_eq!(asleep, Some(seconds(3595)));
    }
}
