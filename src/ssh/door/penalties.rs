//! Sources that misbehave have to wait: OpenSSH's `PerSourcePenalties`, with its defaults and its semantics.
//!
//! Each offence adds seconds. Once more than [`Table::min`] are owed, the source is turned away until they are over.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::source::Source;

/// What a connection without a login ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offence {
    /// A login failed.
    AuthFail,
    /// None was tried.
    NoAuth,
    /// The time for it was over.
    Grace,
}

impl Offence {
    /// As the event calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AuthFail => "authfail",
            Self::NoAuth => "noauth",
            Self::Grace => "grace",
        }
    }
}

/// What offences cost.
#[derive(Clone, Debug)]
pub struct Table {
    /// For [`Offence::AuthFail`].
    pub auth_fail: Duration,
    /// For [`Offence::NoAuth`].
    pub no_auth: Duration,
    /// For [`Offence::Grace`].
    pub grace: Duration,
    /// Up to so much has no effect.
    pub min: Duration,
    /// No source owes more.
    pub max: Duration,
    /// So many are kept, of each address family; those that owe the least are forgotten first.
    pub sources: usize,
    /// Never penalised: health checks, load balancers.
    pub exempt: Vec<IpNet>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            auth_fail: Duration::from_secs(5),
            no_auth: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            min: Duration::from_secs(15),
            max: Duration::from_secs(600),
            sources: 65_536,
            exempt: Vec::new(),
        }
    }
}

/// Who owes how much.
#[derive(Debug)]
pub struct Penalties {
    table: Table,
    v4: Family,
    v6: Family,
}

/// Kept apart, since IPv6 addresses are cheap and would push the others out.
#[derive(Debug, Default)]
struct Family {
    by_source: HashMap<Source, Penalty>,
    by_expiry: BTreeSet<(Instant, Source)>,
}

#[derive(Clone, Copy, Debug)]
struct Penalty {
    expiry: Instant,
    /// More than the minimum was owed once; holds until it is over.
    active: bool,
}

impl Penalties {
    /// Nobody owes anything.
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self {
            table,
            v4: Family::default(),
            v6: Family::default(),
        }
    }

    /// Whether a source is turned away, and for how long still.
    #[must_use]
    pub fn owed(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let penalty = self.family(address).by_source.get(&address.into())?;
        let left = penalty.expiry.checked_duration_since(now)?;
        (penalty.active && !left.is_zero() && !self.is_exempt(address)).then_some(left)
    }

    /// Adds an offence. Whether the source is turned away from now on, and wasn't.
    pub fn penalise(&mut self, address: IpAddr, offence: Offence, now: Instant) -> bool {
        if self.is_exempt(address) {
            return false;
        }
        self.expire(now);
        let cost = match offence {
            Offence::AuthFail => self.table.auth_fail,
            Offence::NoAuth => self.table.no_auth,
            Offence::Grace => self.table.grace,
        };
        if cost.is_zero() {
            return false;
        }
        let Table {
            min, max, sources, ..
        } = self.table;
        let family = self.family_mut(address);
        let source = Source::from(address);
        let before = family.by_source.get(&source).copied();
        let expiry = before.map_or(now, |penalty| penalty.expiry) + cost;
        let expiry = expiry.min(now + max);
        let was_active = before.is_some_and(|penalty| penalty.active);
        let active = was_active || expiry - now > min;
        if let Some(before) = before {
            family.by_expiry.remove(&(before.expiry, source));
        }
        family.by_expiry.insert((expiry, source));
        family.by_source.insert(source, Penalty { expiry, active });
        if family.by_source.len() > sources {
            family.forget_first();
        }
        active && !was_active
    }

    /// How many sources are turned away.
    #[must_use]
    pub fn active(&self, now: Instant) -> usize {
        [&self.v4, &self.v6]
            .into_iter()
            .flat_map(|family| family.by_source.values())
            .filter(|penalty| penalty.active && penalty.expiry > now)
            .count()
    }

    fn expire(&mut self, now: Instant) {
        for family in [&mut self.v4, &mut self.v6] {
            while family
                .by_expiry
                .first()
                .is_some_and(|(expiry, _)| *expiry <= now)
            {
                family.forget_first();
            }
        }
    }

    fn is_exempt(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let exempt = &self.table.exempt;
        exempt.iter().any(|network| network.contains(&address))
    }

    fn family(&self, address: IpAddr) -> &Family {
        match address.to_canonical() {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => &self.v6,
        }
    }

    fn family_mut(&mut self, address: IpAddr) -> &mut Family {
        match address.to_canonical() {
            IpAddr::V4(_) => &mut self.v4,
            IpAddr::V6(_) => &mut self.v6,
        }
    }
}

impl Family {
    fn forget_first(&mut self) {
        if let Some((_, source)) = self.by_expiry.pop_first() {
            self.by_source.remove(&source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn new() -> (Penalties, Instant) {
        (Penalties::new(Table::default()), Instant::now())
    }

    #[test]
    fn nothing_happens_up_to_the_minimum_and_then_all_that_is_owed_counts() {
        let (mut penalties, now) = new();
        let evil = ip("192.0.2.1");
        for _ in 0..3 {
            assert!(!penalties.penalise(evil, Offence::AuthFail, now));
            assert_eq!(penalties.owed(evil, now), None);
        }
        assert!(penalties.penalise(evil, Offence::AuthFail, now));
        assert_eq!(penalties.owed(evil, now), Some(20 * SECOND));
        assert!(
            !penalties.penalise(evil, Offence::Grace, now),
            "it was before"
        );
        // It stays turned away below the minimum too, to the end.
        assert_eq!(penalties.owed(evil, now + 29 * SECOND), Some(SECOND));
        assert_eq!(penalties.owed(evil, now + 30 * SECOND), None);
        assert_eq!(penalties.active(now), 1);
        assert_eq!(penalties.active(now + 30 * SECOND), 0);
        assert_eq!(penalties.owed(ip("192.0.2.2"), now), None);
        assert!(penalties.owed(ip("::ffff:192.0.2.1"), now).is_some());
    }

    #[test]
    fn offences_that_are_long_ago_are_forgotten() {
        let (mut penalties, now) = new();
        let slow = ip("2001:db8::1");
        for minute in 0..100 {
            let at = now + minute * 6 * SECOND;
            assert!(!penalties.penalise(slow, Offence::AuthFail, at));
            assert_eq!(penalties.owed(slow, at), None);
        }
    }

    #[test]
    fn a_key_scan_is_no_offender() {
        let (mut penalties, now) = new();
        for _ in 0..10 {
            penalties.penalise(ip("192.0.2.1"), Offence::NoAuth, now);
        }
        assert_eq!(penalties.owed(ip("192.0.2.1"), now), None);
    }

    #[test]
    fn no_more_than_the_maximum_and_never_the_exempt() {
        let table = Table {
            exempt: vec!["10.0.0.0/8".parse().unwrap()],
            ..Table::default()
        };
        let mut penalties = Penalties::new(table);
        let now = Instant::now();
        for _ in 0..1000 {
            penalties.penalise(ip("192.0.2.1"), Offence::Grace, now);
            penalties.penalise(ip("10.1.2.3"), Offence::Grace, now);
        }
        assert_eq!(penalties.owed(ip("192.0.2.1"), now), Some(600 * SECOND));
        assert_eq!(penalties.owed(ip("10.1.2.3"), now), None);
        assert_eq!(penalties.active(now), 1);
    }

    #[test]
    fn memory_is_bounded_and_those_who_owe_most_are_kept() {
        let table = Table {
            sources: 100,
            ..Table::default()
        };
        let mut penalties = Penalties::new(table);
        let now = Instant::now();
        let worst = ip("203.0.113.1");
        for _ in 0..10 {
            penalties.penalise(worst, Offence::Grace, now);
        }
        for number in 0..10_000_u32 {
            let v4 = std::net::Ipv4Addr::from_bits(number).into();
            let v6 = std::net::Ipv6Addr::from_bits(u128::from(number) << 64).into();
            penalties.penalise(v4, Offence::AuthFail, now);
            penalties.penalise(v6, Offence::AuthFail, now);
        }
        assert_eq!(penalties.v4.by_source.len(), 100);
        assert_eq!(penalties.v6.by_source.len(), 100);
        assert!(penalties.owed(worst, now).is_some());
    }

    proptest! {
        #[test]
        fn as_a_simple_model_says(steps in prop::collection::vec((0_u8..3, 0_u64..4000, 0_u8..3), 0..200)) {
            let (mut penalties, begin) = new();
            let mut model: HashMap<u8, (Instant, bool)> = HashMap::new();
            let mut now = begin;
            for (who, millis, offence) in steps {
                now += Duration::from_millis(millis);
                let offence = [Offence::AuthFail, Offence::NoAuth, Offence::Grace][usize::from(offence)];
                let cost = [5, 1, 10][offence as usize] * SECOND;
                let (expiry, active) = model.entry(who).or_insert((now, false));
                if *expiry <= now {
                    (*expiry, *active) = (now, false);
                }
                *expiry = (*expiry + cost).min(now + 600 * SECOND);
                *active |= *expiry - now > 15 * SECOND;
                let address = IpAddr::from([192, 0, 2, who]);
                penalties.penalise(address, offence, now);
                let expected = active.then(|| *expiry - now);
                prop_assert_eq!(penalties.owed(address, now), expected);
                let active = model.values().filter(|(expiry, active)| *active && *expiry > now).count();
                prop_assert_eq!(penalties.active(now), active);
                prop_assert_eq!(penalties.v4.by_source.len(), penalties.v4.by_expiry.len());
            }
        }
    }
}
