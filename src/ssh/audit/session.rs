//! What a connection is called in events, recordings and certificates.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Crockford's base 32: no letter that could be taken for a digit.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A ULID: milliseconds since 1970, and 80 random bits. Sorts by time, and holds nothing that the client chose, so it may
/// be a file's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u128);

impl SessionId {
    /// An id for a session that begins now.
    ///
    /// # Panics
    /// This machine has no random numbers, without which there is no SSH either.
    #[must_use]
    pub fn random() -> Self {
        let mut random = [0; 10];
        aws_lc_rs::rand::fill(&mut random).expect("the system's randomness works");
        Self::new(SystemTime::now(), random)
    }

    /// From a time and 80 bits.
    #[must_use]
    pub fn new(begin: SystemTime, random: [u8; 10]) -> Self {
        let millis = begin
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        let mut low = [0; 16];
        low[6..].copy_from_slice(&random);
        Self((millis & ((1 << 48) - 1)) << 80 | u128::from_be_bytes(low))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = (0..26)
            .rev()
            .map(|digit| char::from(DIGITS[(self.0 >> (5 * digit)) as usize & 31]));
        f.pad(&digits.collect::<String>())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn as_ulids_are_written() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(
            SessionId::new(at(0), [0; 10]).to_string(),
            "00000000000000000000000000"
        );
        // The example of the specification's readme: 01ARZ3NDEK is this time.
        assert!(
            SessionId::new(at(1_469_922_850_259), [7; 10])
                .to_string()
                .starts_with("01ARZ3NDEK")
        );
        assert_eq!(
            SessionId::new(at((1 << 48) - 1), [255; 10]).to_string(),
            "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"
        );
        assert!(SessionId::new(at(1), [255; 10]) < SessionId::new(at(2), [0; 10]));
        assert_ne!(SessionId::random(), SessionId::random());
    }
}
