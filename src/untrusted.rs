//! Text that a server, a proxy or a pod wrote, made fit for a terminal and a log.

/// One line of at most `max` characters: control characters are escaped, runs of white space become one blank.
#[must_use]
pub fn line(text: &str, max: usize) -> String {
    let mut line = String::new();
    for (count, part) in text
        .split_whitespace()
        .flat_map(|word| std::iter::once(' ').chain(word.chars()))
        .skip(1)
        .enumerate()
    {
        if count == max {
            line.push('…');
            break;
        }
        if part.is_control() || is_deceptive(part) {
            line.extend(part.escape_unicode());
        } else {
            line.push(part);
        }
    }
    line
}

/// Characters that change how others are shown: bidirectional controls, zero-width ones, tags.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_would_act_on() {
        assert_eq!(line("a\x1b[31mred\x07", 100), "a\\u{1b}[31mred\\u{7}");
        assert_eq!(line("ab\u{202e}cd", 100), "ab\\u{202e}cd");
    }

    #[test]
    fn joins_lines_and_trims() {
        assert_eq!(line("  one\r\n\ttwo  \n", 100), "one two");
    }

    #[test]
    fn is_bounded() {
        assert_eq!(line("abcdef", 3), "abc…");
        assert_eq!(line("abc", 3), "abc");
    }
}
