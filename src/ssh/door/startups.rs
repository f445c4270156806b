//! How many connections may be without a login: some are dropped by chance before all would be, so that a flood doesn't
//! shut the door for everybody (OpenSSH's `MaxStartups` and `PerSourceMaxStartups`).

use std::collections::HashMap;

use super::source::Source;

/// The limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From so many on a new one may be dropped.
    pub begin: usize,
    /// With this probability in percent, which grows to 100 at `full`.
    pub rate: u32,
    /// From so many on all are.
    pub full: usize,
    /// So many may be of one source.
    pub per_source: usize,
}

impl Default for Limits {
    /// `20:30:100`, and 8 of one source: OpenSSH has 10:30:100 and no limit per source, for hosts with fewer users.
    fn default() -> Self {
        Self {
            begin: 20,
            rate: 30,
            full: 100,
            per_source: 8,
        }
    }
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too many are without a login.
    Startups,
    /// Too many of this source are.
    PerSource,
}

/// The connections without a login.
#[derive(Clone, Debug)]
pub struct Startups {
    limits: Limits,
    count: usize,
    sources: HashMap<Source, usize>,
}

impl Startups {
    /// None yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            count: 0,
            sources: HashMap::new(),
        }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// A connection has come. `chance` is a random number below 100.
    ///
    /// # Errors
    /// It is not to be let in, and not counted.
    pub fn begin(&mut self, source: Source, chance: u32) -> Result<(), Refusal> {
        if chance < self.drop_percent() {
            return Err(Refusal::Startups);
        }
        let of_source = self.sources.get(&source).copied().unwrap_or(0);
        if of_source >= self.limits.per_source {
            return Err(Refusal::PerSource);
        }
        self.sources.insert(source, of_source + 1);
        self.count += 1;
        Ok(())
    }

    /// One that had begun has logged in or ended.
    pub fn end(&mut self, source: Source) {
        if let Some(of_source) = self.sources.get_mut(&source) {
            self.count -= 1;
            *of_source -= 1;
            if *of_source == 0 {
                self.sources.remove(&source);
            }
        }
    }

    /// The probability with which the next is dropped.
    fn drop_percent(&self) -> u32 {
        let Limits {
            begin, rate, full, ..
        } = self.limits;
        if self.count < begin {
            0
        } else if self.count >= full || rate >= 100 {
            100
        } else {
            let part = (100 - rate) as usize * (self.count - begin) / (full - begin);
            rate + part as u32 // below 100
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn source(number: u32) -> Source {
        Source::from(std::net::IpAddr::from(Ipv4Addr::from_bits(number)))
    }

    #[test]
    fn the_more_there_are_the_fewer_get_in() {
        let mut startups = Startups::new(Limits::default());
        let mut percents = Vec::new();
        for number in 0..100 {
            percents.push(startups.drop_percent());
            startups.begin(source(number), 99).unwrap();
        }
        assert_eq!((percents[0], percents[19]), (0, 0));
        assert_eq!((percents[20], percents[60], percents[99]), (30, 65, 99));
        assert!(percents.is_sorted());
        assert_eq!(startups.begin(source(100), 99), Err(Refusal::Startups));
        startups.end(source(0));
        assert_eq!(startups.begin(source(100), 98), Err(Refusal::Startups));
        assert_eq!(startups.begin(source(100), 99), Ok(()));
    }

    #[test]
    fn one_source_has_its_share() {
        let mut startups = Startups::new(Limits::default());
        for _ in 0..8 {
            startups.begin(source(1), 0).unwrap();
        }
        assert_eq!(startups.begin(source(1), 0), Err(Refusal::PerSource));
        assert_eq!(startups.begin(source(2), 0), Ok(()));
        startups.end(source(1));
        assert_eq!(startups.begin(source(1), 0), Ok(()));
    }

    proptest! {
        #[test]
        fn counts_are_right(steps in prop::collection::vec((any::<bool>(), 0_u32..20, 0_u32..100), 0..400)) {
            let limits = Limits { begin: 5, rate: 30, full: 30, per_source: 3 };
            let mut startups = Startups::new(limits);
            let mut model: HashMap<u32, usize> = HashMap::new();
            for (begin, number, chance) in steps {
                let of_source = model.entry(number).or_default();
                match begin {
                    true => *of_source += usize::from(startups.begin(source(number), chance).is_ok()),
                    false => {
                        startups.end(source(number)); // also one that never began
                        *of_source = of_source.saturating_sub(1);
                    }
                }
                prop_assert!(*of_source <= 3);
                let sum = model.values().sum::<usize>();
                prop_assert_eq!(startups.count(), sum);
                prop_assert!(sum <= 30);
                prop_assert_eq!(startups.sources.len(), model.values().filter(|count| **count > 0).count());
            }
        }
    }
}
