//! Single values, as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::untrusted::printable;

/// A time, as `30s`, `1h30m` or `1500ms`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{}` is no time: write 1500ms, 30s, 5m, 7h, 2d or several of them as in 1h30m",
                printable(text, 40)
            )
        };
        let mut total = Duration::ZERO;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, after) = rest.split_at(digits);
            let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, after) = after.split_at(letters);
            let number: u64 = number.parse().map_err(|_| wrong())?;
            let unit = match unit {
                "ms" => 1,
                "s" => 1000,
                "m" => 60 * 1000,
                "h" => 3600 * 1000,
                "d" => 24 * 3600 * 1000,
                _ => return Err(wrong()),
            };
            let milliseconds = number.checked_mul(unit).ok_or_else(wrong)?;
            let span = Duration::from_millis(milliseconds);
            total = total.checked_add(span).ok_or_else(wrong)?;
            rest = after;
        }
        match total {
            Duration::ZERO => Err(wrong()),
            total => Ok(Self(total)),
        }
    }
}

/// A time, or `off`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SpanOrOff(pub(super) Option<Duration>);

impl FromStr for SpanOrOff {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            text => match text.parse() {
                Ok(Span(span)) => Ok(Self(Some(span))),
                Err(reason) => Err(format!("{reason}, or off")),
            },
        }
    }
}

/// A number of bytes, as `64KiB`, `1GiB` or `4096`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit {
            "" | "B" => Some(0),
            "KiB" => Some(10),
            "MiB" => Some(20),
            "GiB" => Some(30),
            "TiB" => Some(40),
            _ => None,
        };
        let size = shift.and_then(|shift| number.parse::<u64>().ok()?.checked_mul(1 << shift));
        size.filter(|size| *size > 0).map(Self).ok_or_else(|| {
            format!(
                "`{}` is no size: write 4096, 64KiB, 16MiB, 1GiB or 2TiB",
                printable(text, 40)
            )
        })
    }
}

/// A number of things, at least one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Count(pub(super) u32);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count) if count > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Self(count))
            }
            _ => Err(format!(
                "`{}` is no number from 1 to {}",
                printable(text, 40),
                u32::MAX
            )),
        }
    }
}

/// How many connections may be without a login: from `begin` on, new ones are turned away with a probability of `rate`
/// percent, which grows to certainty at `full`. sshd's `MaxStartups`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Startups {
    /// From here on by chance.
    pub begin: u32,
    /// In percent.
    pub rate: u32,
    /// From here on always.
    pub full: u32,
}

impl FromStr for Startups {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<u32>> = text
            .split(':')
            .map(|number| number.parse().ok().map(|Count(count)| count))
            .collect();
        match numbers.as_deref() {
            Some(&[begin, rate @ 1..=100, full]) if begin <= full => Ok(Self { begin, rate, full }),
            _ => Err(format!(
                "`{}` is not BEGIN:PERCENT:FULL, as in 20:30:100",
                printable(text, 40)
            )),
        }
    }
}

impl fmt::Display for Startups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.begin, self.rate, self.full)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_and_sizes_are_written_as_people_say_them() {
        let span = |text: &str| text.parse::<Span>().map(|Span(span)| span.as_millis());
        for (text, expected) in [
            ("1500ms", 1500),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("7h", 25_200_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(span(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "0s",
            "-1s",
            "1.5h",
            "1 h",
            "1h 30m",
            "1y",
            "30S",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert!(span(text).unwrap_err().contains("is no time"), "{text}");
        }
        assert_eq!("off".parse(), Ok(SpanOrOff(None)));
        assert_eq!("1s".parse(), Ok(SpanOrOff(Some(Duration::from_secs(1)))));
        assert!(
            "never"
                .parse::<SpanOrOff>()
                .unwrap_err()
                .ends_with(", or off")
        );
        for (text, expected) in [
            ("4096", 4096),
            ("64KiB", 65_536),
            ("1GiB", 1 << 30),
            ("7B", 7),
        ] {
            assert_eq!(text.parse(), Ok(Size(expected)), "{text}");
        }
        for text in ["", "0", "-1", "64k", "64KB", "1.5GiB", "16777216TiB", "GiB"] {
            let error = text.parse::<Size>().unwrap_err();
            assert!(error.contains("is no size"), "{text}: {error}");
        }
        assert_eq!(
            "20:30:100".parse(),
            Ok(Startups {
                begin: 20,
                rate: 30,
                full: 100
            })
        );
        for text in [
            "",
            "20",
            "20:30",
            "20:0:100",
            "20:101:100",
            "100:30:20",
            "1:2:3:4",
            "a:b:c",
        ] {
            text.parse::<Startups>().unwrap_err();
        }
        assert_eq!("12".parse(), Ok(Count(12)));
        for text in ["", "0", "-1", "+1", "1.0", "4294967296"] {
            text.parse::<Count>().unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_value_or_an_error(text in "\\PC{0,12}|[0-9]{0,22}[a-zA-Z]{0,3}([0-9]{1,3}[smhd])?") {
            for error in [
                text.parse::<Span>().err(),
                text.parse::<SpanOrOff>().err(),
                text.parse::<Size>().err(),
                text.parse::<Count>().err(),
                text.parse::<Startups>().err(),
            ] {
                prop_assert!(error.is_none_or(|error| !error.contains('\n')));
            }
        }
    }
}
