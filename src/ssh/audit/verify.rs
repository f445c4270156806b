//! Whether a log is as it was written: no line changed, missing, added or moved.
//!
//! The chain has no key: whoever can write the file can make a new chain, or cut lines off its end. So keep
//! [`Report::last`] elsewhere now and then, or send the events to a second sink.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read as _};

use super::chain::{LineHash, Link, Place};
use super::line::MAX_LINE;

/// Findings that are listed; more are counted.
const MAX_FINDINGS: usize = 100;
/// Gateways whose lines may stand in one file, as a log collector leaves them.
const MAX_GATEWAYS: usize = 1000;

/// What [`verify()`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines that were read.
    pub lines: u64,
    /// What is wrong, in the order of the lines; the first hundred.
    pub findings: Vec<(At, Finding)>,
    /// How many there are.
    pub wrong: u64,
    /// Lines that a killed process left unfinished, after which the chain goes on. Their events had not been confirmed.
    pub torn: u64,
    /// The last line of each gateway: its number, its hash, and whether it says that the process ended as it should.
    pub last: BTreeMap<String, Last>,
}

/// A line of one of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Which, from 0.
    pub file: usize,
    /// Which of its lines, from 1.
    pub line: u64,
}

/// The end of a gateway's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// The number of the last line.
    pub seq: u64,
    /// Its hash.
    pub hash: LineHash,
    /// It is a `gateway.stop`. If not, the process runs, was killed, or the end of the file is gone.
    pub stopped: bool,
}

impl Report {
    /// Nothing is wrong.
    #[must_use]
    pub const fn is_intact(&self) -> bool {
        self.wrong == 0
    }
}

/// What is wrong at a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// It is no event, and nothing follows that was chained to it.
    #[error("not an event: damaged, or not written by the gateway")]
    Damaged,
    /// The file ends in the middle of it.
    #[error("cut off: the process was killed, is still writing, or the end of the file is gone")]
    CutOff,
    /// Numbers are missing before it.
    #[error("{missing} events before it are missing")]
    Gap {
        /// How many.
        missing: u64,
    },
    /// Its number has been before.
    #[error("event {seq} stands after event {after}: moved, or written twice")]
    Reordered {
        /// Its number.
        seq: u64,
        /// The number of the line before.
        after: u64,
    },
    /// It follows on another line than the one before it.
    #[error("the event before it was changed, or this one's place was")]
    Edited,
    /// The chain doesn't begin here.
    #[error("the log begins with event {seq}: what was before is not here")]
    Headless {
        /// The number of its first line.
        seq: u64,
    },
    /// A new chain begins in the middle.
    #[error("a new chain begins: the old one's end can't be told")]
    Restarted,
    /// Too many gateways to keep apart.
    #[error("from more gateways than can be told apart")]
    TooMany,
}

/// How strictly to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// The log may begin in the middle of a chain, and others may begin in it: rotated files of which the oldest are
    /// gone, or the stdout of a process that was started anew.
    pub partial: bool,
}

/// Reads a log to its end, in bounded memory.
///
/// # Errors
/// Only the reader's.
pub fn verify(reader: impl BufRead, options: Options) -> io::Result<Report> {
    let mut verifier = Verifier::new(options);
    verifier.read(reader)?;
    Ok(verifier.finish())
}

/// [`verify()`] for a log in several files, as rotation leaves them: read oldest first.
#[derive(Debug)]
pub struct Verifier {
    options: Options,
    report: Report,
    at: At,
    /// Lines that are no events, since the last that was one; the last one's hash.
    torn: Vec<At>,
    torn_hash: Option<LineHash>,
}

impl Verifier {
    /// Has read nothing.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            report: Report::default(),
            at: At::default(),
            torn: Vec::new(),
            torn_hash: None,
        }
    }

    /// Reads the next file to its end.
    ///
    /// # Errors
    /// Only the reader's.
    pub fn read(&mut self, reader: impl BufRead) -> io::Result<()> {
        self.at.line = 0;
        let mut lines = Lines { reader };
        while let Some(line) = lines.next()? {
            self.at.line += 1;
            self.report.lines += 1;
            match line {
                Line::Whole(line) => self.line(&line),
                Line::Overlong => self.damaged(),
                Line::CutOff(line) => self.cut_off(&line),
            }
        }
        self.at.file += 1;
        Ok(())
    }

    /// What was found.
    #[must_use]
    pub fn finish(mut self) -> Report {
        self.give_up_torn();
        self.report.findings.sort_by_key(|(at, _)| *at);
        self.report
    }

    fn line(&mut self, line: &[u8]) {
        let Some(place) = Place::of(line) else {
            self.torn.push(self.at);
            self.torn_hash = Some(LineHash::of(line));
            if self.torn.len() > MAX_FINDINGS {
                self.give_up_torn();
            }
            return;
        };
        let last = self.report.last.get(&place.gateway).copied();
        let expected = last.map_or(Link::FIRST, |last| Link {
            seq: last.seq.saturating_add(1),
            prev: last.hash,
        });
        let torn = Link {
            seq: expected.seq.saturating_add(self.torn.len() as u64),
            prev: self.torn_hash.unwrap_or(expected.prev),
        };
        if !self.torn.is_empty() && place.link == torn {
            self.report.torn += self.torn.len() as u64;
            self.torn.clear();
            self.torn_hash = None;
        } else {
            self.give_up_torn();
            if let Some(finding) = compare(place.link, expected, last.is_some(), self.options) {
                self.wrong(self.at, finding);
            }
        }
        if last.is_none() && self.report.last.len() == MAX_GATEWAYS {
            return self.wrong(self.at, Finding::TooMany);
        }
        let last = Last {
            seq: place.link.seq,
            hash: LineHash::of(line),
            stopped: place.stop,
        };
        self.report.last.insert(place.gateway, last);
    }

    fn damaged(&mut self) {
        self.give_up_torn();
        self.wrong(self.at, Finding::Damaged);
    }

    fn cut_off(&mut self, line: &[u8]) {
        // Perhaps only its end is missing; then it is compared as well.
        match Place::of(line) {
            Some(_) => self.line(line),
            None => self.give_up_torn(),
        }
        self.wrong(self.at, Finding::CutOff);
    }

    fn give_up_torn(&mut self) {
        self.torn_hash = None;
        for at in std::mem::take(&mut self.torn) {
            self.wrong(at, Finding::Damaged);
        }
    }

    fn wrong(&mut self, at: At, finding: Finding) {
        self.report.wrong += 1;
        if self.report.findings.len() < MAX_FINDINGS {
            self.report.findings.push((at, finding));
        }
    }
}

/// What is wrong with a line that has this link where another was expected.
fn compare(found: Link, expected: Link, known: bool, options: Options) -> Option<Finding> {
    if found == expected {
        return None;
    }
    if !known {
        return (!options.partial).then_some(Finding::Headless { seq: found.seq });
    }
    if found == Link::FIRST {
        return (!options.partial).then_some(Finding::Restarted);
    }
    Some(if found.seq > expected.seq {
        Finding::Gap {
            missing: found.seq - expected.seq,
        }
    } else if found.seq < expected.seq {
        Finding::Reordered {
            seq: found.seq,
            after: expected.seq - 1,
        }
    } else {
        Finding::Edited
    })
}

enum Line {
    Whole(Vec<u8>),
    Overlong,
    CutOff(Vec<u8>),
}

/// Lines of bounded length.
struct Lines<R> {
    reader: R,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        let bound = (MAX_LINE + 1) as u64;
        self.reader
            .by_ref()
            .take(bound)
            .read_until(b'\n', &mut line)?;
        Ok(match line.last() {
            None => None,
            Some(b'\n') => {
                line.pop();
                Some(Line::Whole(line))
            }
            Some(_) if line.len() > MAX_LINE => {
                self.reader.skip_until(b'\n')?;
                Some(Line::Overlong)
            }
            Some(_) => Some(Line::CutOff(line)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{About, Kind};
    use super::super::line::encode;
    use super::*;
    use proptest::prelude::*;

    fn chain(gateway: &str, begin: Link, count: u64) -> Vec<Vec<u8>> {
        let mut link = begin;
        let mut lines = Vec::new();
        for at in 0..count {
            let kind = Kind::TargetResolve {
                name: format!("pod-{at}"),
            };
            let line = encode(
                jiff::Timestamp::UNIX_EPOCH,
                &link,
                gateway,
                &About::default(),
                &kind,
            );
            link = link.after(&line);
            lines.push(line);
        }
        lines
    }

    fn next(lines: &[Vec<u8>]) -> Link {
        let last = lines.last().unwrap();
        Place::of(last).unwrap().link.after(last)
    }

    fn report(lines: &[Vec<u8>]) -> Report {
        verify(&lines.concat()[..], Options::default()).unwrap()
    }

    fn found(report: &Report) -> Vec<(u64, Finding)> {
        let findings = report.findings.iter();
        findings.map(|(at, finding)| (at.line, *finding)).collect()
    }

    fn partial(lines: &[Vec<u8>]) -> Report {
        verify(&lines.concat()[..], Options { partial: true }).unwrap()
    }

    #[test]
    fn an_intact_log() {
        let mut lines = chain("gw", Link::FIRST, 5);
        let stop = Kind::GatewayStop {
            reason: "SIGTERM".to_owned(),
        };
        let end = encode(
            jiff::Timestamp::UNIX_EPOCH,
            &next(&lines),
            "gw",
            &About::default(),
            &stop,
        );
        assert!(!report(&lines).last["gw"].stopped);
        lines.push(end.clone());
        let report = report(&lines);
        assert!(report.is_intact());
        assert_eq!((report.lines, report.torn), (6, 0));
        let last = Last {
            seq: 5,
            hash: LineHash::of(&end),
            stopped: true,
        };
        assert_eq!(report.last["gw"], last);
        assert!(verify(&b""[..], Options::default()).unwrap().is_intact());
    }

    #[test]
    fn lines_of_several_gateways_are_kept_apart() {
        let (a, b) = (chain("a", Link::FIRST, 3), chain("b", Link::FIRST, 3));
        let mixed: Vec<_> = [&a[0], &b[0], &b[1], &a[1], &a[2], &b[2]]
            .map(Clone::clone)
            .to_vec();
        assert!(report(&mixed).is_intact());
    }

    #[test]
    fn each_kind_of_damage_is_named() {
        let lines = chain("gw", Link::FIRST, 6);
        let damaged = |change: fn(&mut Vec<Vec<u8>>)| {
            let mut lines = lines.clone();
            change(&mut lines);
            found(&report(&lines))
        };
        assert_eq!(
            damaged(|lines| lines[2] = String::from_utf8(lines[2].clone())
                .unwrap()
                .replace("pod-2", "pod-7")
                .into_bytes()),
            [(4, Finding::Edited)]
        );
        assert_eq!(
            damaged(|lines| drop(lines.drain(2..4))),
            [(3, Finding::Gap { missing: 2 })]
        );
        assert_eq!(
            damaged(|lines| lines.swap(2, 3)),
            [
                (3, Finding::Gap { missing: 1 }),
                (4, Finding::Reordered { seq: 2, after: 3 }),
                (5, Finding::Gap { missing: 1 })
            ]
        );
        assert_eq!(
            damaged(|lines| lines.insert(3, lines[2].clone())),
            [(4, Finding::Reordered { seq: 2, after: 2 })]
        );
        assert_eq!(
            damaged(|lines| drop(lines.remove(0))),
            [(1, Finding::Headless { seq: 1 })]
        );
        assert_eq!(
            damaged(|lines| lines.insert(2, b"hello\n".to_vec())),
            [(3, Finding::Damaged)]
        );
        assert_eq!(
            damaged(|lines| lines[5].truncate(30)),
            [(6, Finding::CutOff)]
        );
        assert_eq!(
            damaged(|lines| lines[5].retain(|&byte| byte != b'\n')),
            [(6, Finding::CutOff)]
        );
        assert_eq!(
            damaged(|lines| lines[2].truncate(30)), // which also joins it with the next
            [(3, Finding::Damaged), (4, Finding::Gap { missing: 2 })]
        );
        assert_eq!(
            damaged(|lines| lines.insert(2, vec![b'x'; 3 * MAX_LINE])),
            [(3, Finding::Damaged), (4, Finding::Gap { missing: 1 })]
        );
    }

    #[test]
    fn a_torn_line_that_the_chain_goes_on_from_is_no_damage() {
        let mut lines = chain("gw", Link::FIRST, 3);
        let mut torn = lines[2][..40].to_vec();
        let link = next(&lines[..2]).after(&torn);
        torn.push(b'\n');
        lines[2] = torn;
        lines.extend(chain("gw", link, 2));
        let intact = report(&lines);
        assert!(intact.is_intact(), "{intact:?}");
        assert_eq!(intact.torn, 1);

        lines[2][20] ^= 1; // but it can't be changed any more
        assert_eq!(
            found(&report(&lines)),
            [(3, Finding::Damaged), (4, Finding::Gap { missing: 1 })]
        );
    }

    #[test]
    fn a_partial_log_may_begin_anywhere_and_anew() {
        let mut lines = chain("gw", Link::FIRST, 4);
        lines.remove(0);
        lines.extend(chain("gw", Link::FIRST, 2));
        assert_eq!(
            found(&report(&lines)),
            [(1, Finding::Headless { seq: 1 }), (4, Finding::Restarted)]
        );
        assert!(partial(&lines).is_intact());
        lines.remove(1);
        assert_eq!(found(&partial(&lines)), [(2, Finding::Gap { missing: 1 })]);
    }

    #[test]
    fn rotated_files_are_one_log() {
        let lines = chain("gw", Link::FIRST, 4);
        let read = |files: &[&[u8]]| {
            let mut verifier = Verifier::new(Options::default());
            for file in files {
                verifier.read(*file).unwrap();
            }
            verifier.finish()
        };
        let (old, new) = (lines[..2].concat(), lines[2..].concat());
        assert!(read(&[&old, &new]).is_intact());
        let at = |file, line| At { file, line };
        assert_eq!(
            read(&[&new, &old]).findings,
            [
                (at(0, 1), Finding::Headless { seq: 2 }),
                (at(1, 1), Finding::Restarted)
            ]
        );
        assert_eq!(
            read(&[&old, &lines[3]]).findings,
            [(at(1, 1), Finding::Gap { missing: 1 })]
        );
    }

    #[test]
    fn findings_are_bounded() {
        let report = verify("x\n".repeat(5000).as_bytes(), Options::default()).unwrap();
        assert_eq!((report.wrong, report.findings.len()), (5000, 100));
    }

    proptest! {
        #[test]
        fn any_changed_byte_but_the_last_lines_shows(at in any::<prop::sample::Index>(), xor in 1_u8..) {
            let lines = chain("gw", Link::FIRST, 8);
            let mut bytes = lines.concat();
            let at = at.index(bytes.len() - lines[7].len());
            bytes[at] ^= xor;
            let report = verify(&bytes[..], Options::default()).unwrap();
            prop_assert!(!report.is_intact());
        }

        #[test]
        fn any_missing_line_but_the_last_shows(at in 0_usize..7) {
            let mut lines = chain("gw", Link::FIRST, 8);
            lines.remove(at);
            prop_assert!(!report(&lines).is_intact());
        }

        #[test]
        fn any_other_order_shows(order in Just((0_usize..8).collect::<Vec<_>>()).prop_shuffle()) {
            let lines = chain("gw", Link::FIRST, 8);
            let shuffled: Vec<_> = order.iter().map(|&at| lines[at].clone()).collect();
            prop_assert_eq!(report(&shuffled).is_intact(), order.is_sorted());
        }

        #[test]
        fn any_bytes_are_read_to_their_end(bytes in any::<Vec<u8>>()) {
            let report = verify(&bytes[..], Options::default()).unwrap();
            prop_assert!(bytes.is_empty() || !report.is_intact());
        }
    }
}
