//! Text that a server, a proxy or a pod has sent, made fit for a terminal and a log.
//!
//! Every layer shows such text in its errors, so this imports nothing of the crate.

use std::fmt::Write as _;

/// Makes one bounded line of `text`: runs of white space become one space, everything that could steer
/// a terminal (control characters, bidirectional overrides, other invisible ones) is escaped as `\u{..}`,
/// and at most `max` characters of the result are kept, the last of them `…` where something was cut.
pub fn printable(text: &str, max: usize) -> String {
    let mut line = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        if length > 0 {
            line.push(' ');
            length += 1;
        }
        for c in word.chars() {
            if is_hidden(c) {
                let _ = write!(line, "\\u{{{:x}}}", u32::from(c)); // a String takes everything
            } else {
                line.push(c);
            }
            length += 1;
            if length > max {
                return cut(&line, max);
            }
        }
    }
    cut(&line, max)
}

fn cut(line: &str, max: usize) -> String {
    if line.chars().count() <= max {
        return line.to_owned();
    }
    line.chars()
        .take(max.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// Whether a character could steer a terminal, end a line, reorder what follows or not be seen: control characters of
/// both sets, separators of lines, format characters, fillers.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_without_control_characters() {
        assert_eq!(
            printable("pods\t\"x\"\r\n  not found\n", 80),
            "pods \"x\" not found"
        );
        assert_eq!(
            printable("\u{1b}[2Jgone\u{9b}K\u{202e}txt", 80),
            "\\u{1b}[2Jgone\\u{9b}K\\u{202e}txt"
        );
        assert_eq!(printable(" \n ", 80), "");
        assert_eq!(printable("grüße 日本", 80), "grüße 日本");
    }

    #[test]
    fn never_longer_than_asked() {
        assert_eq!(printable("abcdef", 6), "abcdef");
        assert_eq!(printable("abcdefg", 6), "abcde…");
        for max in 0..20 {
            let escaped = printable(&"\u{1b}x ".repeat(50), max);
            assert!(escaped.chars().count() <= max.max(1), "{max}: {escaped}");
        }
    }
}
