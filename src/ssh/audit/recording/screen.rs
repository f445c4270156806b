//! What a recording may do to the terminal of whoever watches it: show text, colours and movement. A pod that was recorded
//! chose every byte; it may not ask the terminal anything (the answer would be typed into a shell), set its title, reach its
//! clipboard or print.
//!
//! By a list of what is allowed: only text, a few control characters and whole sequences that are known come through.

/// Sets the terminal back once a recording has ended anywhere: modes, colours, the other screen, the cursor.
pub const RESET: &str = "\u{1b}[!p\u{1b}[?1049l\u{1b}[?25h\u{1b}[0m";
/// Bytes of a sequence between its introducer and its end; the longest in use set a few colours.
const MAX_SEQUENCE: usize = 128;
/// Private modes that only change what is shown (xterm's `ctlseqs`, DEC private mode set).
const MODES: &[&str] = &[
    "1", "3", "5", "6", "7", "12", "25", "45", "47", "66", "1047", "1048", "1049", "2026",
];

/// Takes out of a terminal's output what a replay may not do. Fed in pieces cut anywhere.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    state: State,
    /// The sequence so far, from after ESC.
    sequence: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC, and what stands between it and its end.
    Escape,
    /// After ESC `[`.
    Control,
    /// In an OSC, which BEL ends too.
    Command,
    /// In a DCS, SOS, PM or APC.
    String,
}

impl Filter {
    /// Adds what may be shown to `to`.
    pub fn pass(&mut self, text: &str, to: &mut String) {
        for c in text.chars() {
            self.pass_char(c, to);
        }
    }

    fn pass_char(&mut self, c: char, to: &mut String) {
        match c {
            '\u{1b}' => return self.begin(State::Escape),
            '\u{18}' | '\u{1a}' => return self.begin(State::Text), // CAN, SUB: never mind
            '\u{9b}' => return self.begin_control(),
            '\u{9d}' => return self.begin(State::Command),
            '\u{90}' | '\u{98}' | '\u{9e}' | '\u{9f}' => return self.begin(State::String),
            '\u{80}'..='\u{9f}' => return self.begin(State::Text), // ST among them
            _ => {}
        }
        match self.state {
            State::Command if c == '\u{7}' => self.begin(State::Text),
            State::Command | State::String => {}
            // Control characters in the middle of a sequence act at once.
            _ if c.is_control() => {
                if matches!(c, '\u{7}'..='\u{f}') {
                    to.push(c);
                }
            }
            State::Text => to.push(c),
            State::Escape => self.escape(c, to),
            State::Control => self.control(c, to),
        }
    }

    fn begin(&mut self, state: State) {
        self.state = state;
        self.sequence.clear();
    }

    fn begin_control(&mut self) {
        self.begin(State::Control);
        self.sequence.push('[');
    }

    fn escape(&mut self, c: char, to: &mut String) {
        if self.sequence.is_empty() {
            match c {
                '[' => return self.begin_control(),
                ']' => return self.begin(State::Command),
                'P' | 'X' | '^' | '_' => return self.begin(State::String),
                _ => {}
            }
        }
        self.sequence.push(c);
        if matches!(c, ' '..='/') && self.sequence.len() < 3 {
            return; // an intermediate
        }
        let shown = match self.sequence.as_bytes() {
            // Cursor kept and restored, index, next line, tab stop, reverse index, keypad, reset, single shifts.
            [b'7' | b'8' | b'D' | b'E' | b'H' | b'M' | b'=' | b'>' | b'c' | b'N' | b'O'] => true,
            [b'#', b'3'..=b'6' | b'8'] => true, // line sizes, the test screen
            [b'(' | b')' | b'*' | b'+', b'0'..=b'~'] => true, // character sets
            _ => false,
        };
        self.end(shown, to);
    }

    fn control(&mut self, c: char, to: &mut String) {
        if self.sequence.len() < MAX_SEQUENCE {
            self.sequence.push(c);
        }
        match c {
            '\u{20}'..='\u{3f}' => {}
            '@'..='~' => {
                let whole = self.sequence.len() < MAX_SEQUENCE;
                let shown = whole && may_control(&self.sequence[1..]);
                self.end(shown, to);
            }
            _ => self.begin(State::Text), // no sequence after all
        }
    }

    fn end(&mut self, shown: bool, to: &mut String) {
        if shown {
            to.push('\u{1b}');
            to.push_str(&self.sequence);
        }
        self.begin(State::Text);
    }
}

/// Whether a control sequence (without its introducer) only changes what is shown.
fn may_control(sequence: &str) -> bool {
    let Some((end, parameters)) = sequence.as_bytes().split_last() else {
        return false;
    };
    let numbers = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, b'0'..=b';'));
    match (parameters, end) {
        ([b'?', modes @ ..], b'h' | b'l') => {
            let modes = std::str::from_utf8(modes).unwrap_or_default();
            modes.split(';').all(|mode| MODES.contains(&mode))
        }
        (b"4" | b"20", b'h' | b'l') => true, // insert mode, new line mode
        (b"!", b'p') => true,                // soft reset
        ([number @ .., b' '], b'q') => numbers(number), // the cursor's shape
        (b"", b's' | b'u') => true,          // the cursor kept and restored
        (number, b'T') => number.iter().all(u8::is_ascii_digit), // with more numbers a mouse mode
        (
            all,
            b'@'..=b'M'
            | b'P'
            | b'S'
            | b'X'
            | b'Z'
            | b'`'
            | b'a'
            | b'b'
            | b'd'..=b'g'
            | b'm'
            | b'r',
        ) => numbers(all),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::Regex;

    fn pass(text: &str) -> String {
        let mut shown = String::new();
        Filter::default().pass(text, &mut shown);
        shown
    }

    #[test]
    fn what_is_shown_passes() {
        for text in [
            "plain, grüße, 日本, 👩‍💻\r\n\t\u{8}\u{7}",
            "\u{1b}[1;38;2;1;2;3mred\u{1b}[4:3m\u{1b}[m",
            "\u{1b}[2J\u{1b}[H\u{1b}[10;20H\u{1b}[3A\u{1b}[K\u{1b}[5P\u{1b}[2@\u{1b}[3X\u{1b}[1;24r",
            "\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7;12h\u{1b}[?25h\u{1b}[4h\u{1b}[2 q\u{1b}[s\u{1b}[u",
            "\u{1b}7\u{1b}8\u{1b}M\u{1b}(0lqk\u{1b}(B\u{e}\u{f}\u{1b}#8\u{1b}c",
            RESET,
        ] {
            assert_eq!(pass(text), text);
        }
    }

    #[test]
    fn what_acts_on_the_terminal_does_not() {
        for text in [
            "\u{1b}]52;c;ZWNobyBoaQ==\u{7}", // the clipboard
            "\u{1b}]52;c;ZWNobyBoaQ==\u{1b}\\",
            "\u{9d}52;c;ZWNobyBoaQ==\u{9c}",
            "\u{1b}]0;title\u{7}\u{1b}]2;title\u{1b}\\",
            "\u{1b}]8;;http://x\u{7}",
            "\u{1b}]10;?\u{7}", // which colour
            "\u{1b}P+q544e\u{1b}\\\u{1b}P$qm\u{1b}\\\u{90}$qm\u{9c}",
            "\u{1b}_Gi=1;AAAA\u{1b}\\\u{1b}^x\u{1b}\\\u{1b}Xx\u{1b}\\",
            "\u{1b}[c\u{1b}[>c\u{1b}[=c\u{1b}[0c\u{1b}Z\u{9b}c", // what are you
            "\u{1b}[6n\u{1b}[?6n\u{1b}[5n\u{1b}[x\u{5}",
            "\u{1b}[21t\u{1b}[22;0t\u{1b}[8;1;1t", // windows
            "\u{1b}[?1$p\u{1b}[>q\u{1b}[?u\u{1b}[>1u\u{1b}[?1;1;0S",
            "\u{1b}[?1000h\u{1b}[?1003;1006h\u{1b}[?1004h\u{1b}[?25;1000h\u{1b}[?2004h",
            "\u{1b}[5i\u{1b}[4i\u{1b}[?5i", // the printer
            "\u{1b}[>4;2m\u{1b}[1;2;3;4;5T\u{1b}[1*y\u{1b}[2$y\u{1b}[!x",
            "\u{1b}%G\u{1b}n\u{1b}|\u{1b} F\u{0}\u{7f}\u{85}",
        ] {
            assert_eq!(pass(text), "", "{text:?}");
        }
    }

    #[test]
    fn text_goes_on_after_what_was_taken_out() {
        assert_eq!(pass("a\u{1b}]0;b\u{7}c"), "ac");
        assert_eq!(pass("a\u{1b}]0;b\u{1b}[1mc"), "a\u{1b}[1mc");
        assert_eq!(pass("a\u{1b}Pb\u{7}c\u{1b}\\d"), "ad");
        assert_eq!(pass("a\u{1b}[1\u{18}b"), "ab");
        assert_eq!(pass("a\u{1b}[1\nmb"), "a\n\u{1b}[1mb");
        assert_eq!(pass("a\u{1b}\u{1b}[1mb"), "a\u{1b}[1mb");
        assert_eq!(pass("\u{9b}31mx"), "\u{1b}[31mx");
        let long = format!("\u{1b}[{}mx", "1;".repeat(1000));
        assert_eq!(pass(&long), "x");
    }

    proptest! {
        #[test]
        fn nothing_but_text_and_known_sequences_comes_out(
            text in "([ -~]|[\\x00-\\x1f\\x7f-\\u{9f}]|\\x1b[\\[\\]P_^X#(]|\\x1b\\[[?>!;0-9 ]{0,4}[@-~]|ü){0,60}",
            cut in any::<prop::sample::Index>(),
        ) {
            let allowed = Regex::new(concat!(
                r"^(?:[^\x00-\x1f\x7f-\x{9f}]|[\x07-\x0f]",
                r"|\x1b\[[0-9:;]*[@A-MPSTXZ`abdefgmr]|\x1b\[[su]|\x1b\[\??[0-9;]+[hl]|\x1b\[!p|\x1b\[[0-9:;]* q",
                r"|\x1b[78DEHM=>cNO]|\x1b#[34568]|\x1b[()*+][0-~])*$"
            )).unwrap();
            let shown = pass(&text);
            prop_assert!(allowed.is_match(&shown), "{:?}", shown);
            prop_assert_eq!(&pass(&shown), &shown);

            let at = text.char_indices().map(|(at, _)| at).nth(cut.index(text.chars().count() + 1)).unwrap_or(text.len());
            let (head, tail) = text.split_at(at);
            let mut pieces = String::new();
            let mut filter = Filter::default();
            filter.pass(head, &mut pieces);
            filter.pass(tail, &mut pieces);
            prop_assert_eq!(pieces, shown);
        }
    }
}
