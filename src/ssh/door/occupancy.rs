//! How many connections there are, in all and of each user; and how many channels one of them has.

use std::collections::HashMap;

use super::Limit;

/// The connections that are open.
#[derive(Clone, Debug)]
pub(super) struct Occupancy {
    max_total: usize,
    max_per_user: usize,
    total: usize,
    users: HashMap<String, usize>,
}

impl Occupancy {
    pub(super) fn new(max_total: usize, max_per_user: usize) -> Self {
        Self {
            max_total,
            max_per_user,
            total: 0,
            users: HashMap::new(),
        }
    }

    pub(super) const fn total(&self) -> usize {
        self.total
    }

    /// A connection has come.
    pub(super) fn enter(&mut self) -> Result<(), Limit> {
        if self.total >= self.max_total {
            return Err(Limit::Total);
        }
        self.total += 1;
        Ok(())
    }

    /// One that has entered turns out to be this user's.
    pub(super) fn log_in(&mut self, user: &str) -> Result<(), Limit> {
        let of_user = self.users.get(user).copied().unwrap_or(0);
        if of_user >= self.max_per_user {
            return Err(Limit::PerUser);
        }
        self.users.insert(user.to_owned(), of_user + 1);
        Ok(())
    }

    /// One has ended, of this user if it has logged in.
    pub(super) fn leave(&mut self, user: Option<&str>) {
        self.total = self.total.saturating_sub(1);
        if let Some(user) = user {
            self.log_out(user);
        }
    }

    /// One that has logged in turns out to be too late.
    pub(super) fn log_out(&mut self, user: &str) {
        if let Some(of_user) = self.users.get_mut(user) {
            *of_user -= 1;
            if *of_user == 0 {
                self.users.remove(user);
            }
        }
    }
}

/// The channels of one connection: sessions and all others together are bounded, and sessions by a bound of their own.
#[derive(Clone, Copy, Debug)]
pub struct Channels {
    max: usize,
    max_sessions: usize,
    sessions: usize,
    others: usize,
}

impl Default for Channels {
    /// 64, of which 10 sessions, as OpenSSH's `MaxSessions`.
    fn default() -> Self {
        Self::new(64, 10)
    }
}

impl Channels {
    /// None yet.
    #[must_use]
    pub const fn new(max: usize, max_sessions: usize) -> Self {
        Self {
            max,
            max_sessions,
            sessions: 0,
            others: 0,
        }
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.sessions + self.others
    }

    /// One is to be opened.
    ///
    /// # Errors
    /// It is to be refused (`SSH_OPEN_RESOURCE_SHORTAGE`), and not counted.
    pub const fn open(&mut self, session: bool) -> Result<(), Limit> {
        if self.count() >= self.max {
            return Err(Limit::Channels);
        }
        if session {
            if self.sessions >= self.max_sessions {
                return Err(Limit::Sessions);
            }
            self.sessions += 1;
        } else {
            self.others += 1;
        }
        Ok(())
    }

    /// One that was opened is closed.
    pub const fn close(&mut self, session: bool) {
        let count = match session {
            true => &mut self.sessions,
            false => &mut self.others,
        };
        *count = count.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_a_user_and_so_many_in_all() {
        let mut occupancy = Occupancy::new(3, 2);
        for _ in 0..2 {
            occupancy.enter().unwrap();
            occupancy.log_in("alice").unwrap();
        }
        occupancy.enter().unwrap();
        assert_eq!(occupancy.enter(), Err(Limit::Total));
        assert_eq!(occupancy.log_in("alice"), Err(Limit::PerUser));
        occupancy.log_in("bob").unwrap();
        occupancy.leave(Some("alice"));
        occupancy.enter().unwrap();
        occupancy.log_in("alice").unwrap();
        for user in ["alice", "alice", "bob"] {
            occupancy.leave(Some(user));
        }
        assert_eq!((occupancy.total(), occupancy.users.len()), (0, 0));
    }

    #[test]
    fn channels_are_counted_by_kind() {
        let mut channels = Channels::new(3, 2);
        assert_eq!(channels.open(true), Ok(()));
        assert_eq!(channels.open(true), Ok(()));
        assert_eq!(channels.open(true), Err(Limit::Sessions));
        assert_eq!(channels.open(false), Ok(()));
        assert_eq!(channels.open(false), Err(Limit::Channels));
        channels.close(true);
        assert_eq!(channels.open(false), Ok(()));
        assert_eq!(channels.open(true), Err(Limit::Channels));
        assert_eq!(channels.count(), 3);
    }
}
