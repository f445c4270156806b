//! Values as Go's flags take them, so that kubectl's command lines work unchanged.

use std::time::Duration;

/// Reads a duration in Go's syntax: `1m0s`, `1.5h`, `300ms`, `0`.
///
/// # Errors
///
/// Says what is wrong, without the value (clap adds it).
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err("it is empty: write 30s or 1m30s".to_owned());
    }
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let (amount, after) = split_at_first(rest, |c| !c.is_ascii_digit() && c != '.');
        let (unit, after) = split_at_first(after, |c| c.is_ascii_digit() || c == '.');
        let amount: f64 = amount
            .parse()
            .map_err(|_| "it is no duration: write 30s or 1m30s".to_owned())?;
        seconds += amount
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6, // both code points that pass for a mu
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "" => return Err("it lacks a unit: write 30s or 1m30s".to_owned()),
                unit => return Err(format!("`{unit}` is no unit of time: write 30s or 1m30s")),
            };
        rest = after;
    }
    if seconds > LONGEST.as_secs_f64() {
        return Err("it is too long: ten years are the most".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// `--request-timeout`: as [`duration`], or a bare number of seconds.
pub(super) fn request_timeout(text: &str) -> Result<Duration, String> {
    match text.parse::<u32>() {
        Ok(seconds) => duration(&format!("{seconds}s")),
        Err(_) => duration(text),
    }
}

/// `--pod-running-timeout`: as [`duration`], above zero.
pub(super) fn pod_running_timeout(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("--pod-running-timeout must be higher than zero".to_owned()),
        timeout => Ok(timeout),
    }
}

/// Reads a boolean as Go's `strconv.ParseBool` does.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

fn split_at_first(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(stop).unwrap_or(text.len()))
}

/// Far below where adding a duration to an instant overflows.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in [
            ("0", 0),
            ("0s", 0),
            ("1m0s", 60_000),
            ("1h2m3s", 3_723_000),
            ("300ms", 300),
            ("1.5s", 1_500),
            (".5s", 500),
            ("1.s", 1_000),
            ("2000us", 2),
            ("2000µs", 2),
            ("3000000ns", 3),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for (text, part) in [
            ("", "empty"),
            ("30", "lacks a unit"),
            ("1m30", "lacks a unit"),
            ("s", "no duration"),
            ("-1s", "no duration"),
            ("1..5s", "no duration"),
            ("1 s", "no unit"),
            ("1d", "`d` is no unit"),
            ("99999999h", "too long"),
            ("1e300s", "no unit"),
        ] {
            assert!(
                duration(text).expect_err(text).contains(part),
                "{text}: {:?}",
                duration(text)
            );
        }
    }

    #[test]
    fn timeouts_have_rules_of_their_own() {
        assert_eq!(request_timeout("30"), Ok(Duration::from_secs(30)));
        assert_eq!(request_timeout("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(request_timeout("0"), Ok(Duration::ZERO));
        assert!(request_timeout("x").is_err());
        assert!(request_timeout(&u32::MAX.to_string()).is_err());
        let error = pod_running_timeout("0s").unwrap_err();
        assert_eq!(error, "--pod-running-timeout must be higher than zero");
        assert!(pod_running_timeout("60").is_err());
    }

    #[test]
    fn booleans_are_read_as_go_reads_them() {
        assert_eq!(boolean("True"), Ok(true));
        assert_eq!(boolean("f"), Ok(false));
        assert!(boolean("yes").is_err());
    }
}
