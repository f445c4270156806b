//! Secrets that people type into commands, taken out before anything is written.

use std::borrow::Cow;

use regex::Regex;

/// What stands where something was taken out.
const REDACTED: &str = "[redacted]";
/// Bytes that one compiled pattern may take; the crate's default of 10 MB is a lot for one line of configuration.
const MAX_COMPILED: usize = 1 << 20;

/// Patterns whose matches are not written. A pattern with groups loses what its groups match, one without loses all:
/// `--password[= ](\S+)` keeps the option's name.
#[derive(Clone, Debug, Default)]
pub struct Redact(Vec<Regex>);

impl Redact {
    /// From the configuration's patterns.
    ///
    /// # Errors
    /// The first that is no regular expression or takes too much memory.
    pub fn new<'a>(
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, (String, regex::Error)> {
        patterns
            .into_iter()
            .map(|pattern| {
                regex::RegexBuilder::new(pattern)
                    .size_limit(MAX_COMPILED)
                    .build()
                    .map_err(|error| (pattern.to_owned(), error))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The text without what the patterns match. Linear in its length.
    pub fn apply<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for pattern in &self.0 {
            if pattern.is_match(&text) {
                text = Cow::Owned(without(pattern, &text));
            }
        }
        text
    }
}

fn without(pattern: &Regex, text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut at = 0;
    for captures in pattern.captures_iter(text) {
        let mut secrets: Vec<_> = captures.iter().skip(1).flatten().collect();
        if secrets.is_empty() {
            secrets.extend(captures.get(0));
        }
        secrets.sort_by_key(regex::Match::start);
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            if secret.start() >= at {
                kept.push_str(&text[at..secret.start()]);
                kept.push_str(REDACTED);
            }
            at = at.max(secret.end()); // a group within a group is gone with it
        }
    }
    kept.push_str(&text[at..]);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_out_groups_or_the_whole_match() {
        let redact = Redact::new([r"--password[= ](\S+)", r"AKIA[A-Z0-9]{4,}"]).unwrap();
        assert_eq!(
            redact.apply("mysql --password=hunter2 --password hunter3 ; echo AKIA1234 x"),
            "mysql --password=[redacted] --password [redacted] ; echo [redacted] x"
        );
        assert!(matches!(redact.apply("ls -l"), Cow::Borrowed("ls -l")));
        let nested = Redact::new([r"(a(b)c)(d)?"]).unwrap();
        assert_eq!(
            nested.apply("xabcy abcd"),
            "x[redacted]y [redacted][redacted]"
        );
        assert_eq!(Redact::new(["x*"]).unwrap().apply("axb"), "a[redacted]b");
    }

    #[test]
    fn a_broken_or_enormous_pattern_is_an_error() {
        assert_eq!(Redact::new(["ok", "("]).unwrap_err().0, "(");
        assert!(Redact::new([r"(\w{500}){500}"]).is_err());
    }
}
