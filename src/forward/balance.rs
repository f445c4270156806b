//! Which of several pods is next.

/// How connections are spread over the pods of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// All go to one pod as long as it is ready.
    #[default]
    Sticky,
    /// They take turns.
    RoundRobin,
    /// Each goes to the pod with the fewest open ones.
    Least,
}

/// The index of the next one, given the connections that each has open and how many there have been.
pub(super) fn choose(balance: Balance, open: &[usize], turn: usize) -> Option<usize> {
    if open.is_empty() {
        return None;
    }
    let from = turn % open.len();
    match balance {
        Balance::Sticky => Some(0),
        Balance::RoundRobin => Some(from),
        // Of equals not always the first.
        Balance::Least => (0..open.len())
            .map(|step| (from + step) % open.len())
            .min_by_key(|&at| open[at]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_chooses_its_own_way() {
        use Balance::{Least, RoundRobin, Sticky};
        for balance in [Sticky, RoundRobin, Least] {
            assert_eq!(choose(balance, &[], 3), None);
        }
        assert_eq!(choose(Sticky, &[9, 0], 5), Some(0));
        let turns: Vec<_> = (0..4)
            .filter_map(|turn| choose(RoundRobin, &[0; 3], turn))
            .collect();
        assert_eq!(turns, [0, 1, 2, 0]);
        assert_eq!(choose(Least, &[2, 1, 3], 0), Some(1));
        let turns: Vec<_> = (0..3)
            .filter_map(|turn| choose(Least, &[1; 3], turn))
            .collect();
        assert_eq!(turns, [0, 1, 2]);
    }
}
