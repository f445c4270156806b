//! How long to wait after a failure: longer each time, up to a bound, and never as long as everyone else.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// After the first failure; an API server that restarts is back within a few of these.
const FIRST: Duration = Duration::from_millis(200);

/// At most: what a person would wait before trying by hand.
const LONGEST: Duration = Duration::from_secs(10);

/// How often in a row something has failed.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    random: Random,
}

impl Backoff {
    pub(crate) fn new(random: Random) -> Self {
        Self {
            failures: 0,
            random,
        }
    }

    /// Counts a failure; what follows it waits so long.
    pub(crate) fn after_failure(&mut self) -> Duration {
        let delay = delay(self.failures, self.random.next());
        self.failures = self.failures.saturating_add(1);
        delay
    }

    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}

/// The delay after so many earlier failures: twice the one before, of which `random` takes up to a half away.
fn delay(failures: u32, random: u64) -> Duration {
    let full = FIRST.saturating_mul(2_u32.saturating_pow(failures));
    let full = full.min(LONGEST);
    full - full.mul_f64(share(random) / 2.0)
}

/// A number from 0 to below 1.
fn share(random: u64) -> f64 {
    f64::from((random >> 32) as u32) / f64::from(u32::MAX).next_up()
}

/// Numbers that needn't be secret, only different in each process (SplitMix64).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(RandomState::new().hash_one(()))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `from..to`.
    pub(crate) fn within(&mut self, from: u32, to: u32) -> u32 {
        let span = f64::from(to.saturating_sub(from));
        from + (share(self.next()) * span) as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_doubles_up_to_ten_seconds() {
        let longest: Vec<u128> = (0..9)
            .map(|failures| delay(failures, 0).as_millis())
            .collect();
        assert_eq!(
            longest,
            [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]
        );
        assert_eq!(delay(u32::MAX, 0), LONGEST);
        assert_eq!(delay(0, u64::MAX).as_millis(), 100);
    }

    #[test]
    fn a_seed_gives_its_own_delays_again_and_again() {
        let delays = |seed| {
            let mut backoff = Backoff::new(Random(seed));
            let mut delays: Vec<Duration> = (0..8).map(|_| backoff.after_failure()).collect();
            backoff.reset();
            delays.push(backoff.after_failure());
            delays
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
        assert!(delays(1)[8] <= FIRST);
    }

    proptest! {
        #[test]
        fn a_delay_is_at_least_half_of_its_longest(failures: u32, random: u64) {
            let (longest, delay) = (delay(failures, 0), delay(failures, random));
            prop_assert!(delay <= longest && delay >= longest / 2, "{delay:?} of {longest:?}");
        }

        #[test]
        fn a_number_is_within_its_bounds(seed: u64, from in 0..1000_u32, span in 1..1000_u32) {
            let number = Random(seed).within(from, from + span);
            prop_assert!((from..from + span).contains(&number));
        }
    }
}
