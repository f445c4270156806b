//! How often a refusal is worth a line: whoever floods the door must not flood the log with it.

use std::time::{Duration, Instant};

use super::Limit;

/// Between two lines about the same limit.
const EVERY: Duration = Duration::from_secs(1);

/// What has been told of each limit.
#[derive(Debug, Default)]
pub(super) struct Notices([Notice; Limit::ALL.len()]);

#[derive(Clone, Copy, Debug, Default)]
struct Notice {
    told: Option<Instant>,
    /// Since then.
    untold: u64,
}

impl Notices {
    /// A limit has said no. If that is to be told now, how often it has since it last was, this time included.
    pub(super) fn hit(&mut self, limit: Limit, now: Instant) -> Option<u64> {
        let notice = &mut self.0[limit as usize];
        notice.untold += 1;
        if notice.told.is_some_and(|told| now < told + EVERY) {
            return None;
        }
        notice.told = Some(now);
        Some(std::mem::take(&mut notice.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_then_one_a_second() {
        let mut notices = Notices::default();
        let now = Instant::now();
        assert_eq!(notices.hit(Limit::Startups, now), Some(1));
        assert_eq!(notices.hit(Limit::Penalty, now), Some(1));
        for _ in 0..1000 {
            assert_eq!(notices.hit(Limit::Startups, now + EVERY / 2), None);
        }
        assert_eq!(notices.hit(Limit::Startups, now + EVERY), Some(1001));
        assert_eq!(notices.hit(Limit::Startups, now + EVERY), None);
        assert_eq!(notices.hit(Limit::Startups, now + 100 * EVERY), Some(2));
    }
}
