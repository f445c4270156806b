//! kubectl and kpf in a terminal, typed at in the same way: the same screen, byte by byte, and the same exit code.

use std::path::Path;

use rustix::process::Signal;

use super::side_by_side::kubectl;
use super::terminal::Typed;
use super::{TRANSPORTS, Transport, kpf, playground};
use crate::differences::Tally;
use crate::playground::Playground;

/// What is done at the terminal; each waits for what it needs to see first.
enum Step {
    Sees(&'static str),
    Types(&'static [u8]),
    Resizes(u16, u16),
    Signals(Signal),
}

use Step::{Resizes, Sees, Signals, Types};

const SIZES: &str = "trap 'stty size' WINCH; stty size; echo ready; while :; do sleep 0.02; done";

/// Waits to be interrupted. A shell would not do: dash loses a signal that comes while it executes its last command.
const WAITS: &str = "$| = 1; print qq(ready\\n); sleep 1000";

/// The arguments, the steps, and the code at the end.
type Row = (&'static [&'static str], &'static [Step], i32);

const ROWS: &[Row] = &[
    // what is typed is echoed by the pod's terminal
    (
        &[
            "-it",
            "web",
            "--",
            "sh",
            "-c",
            "echo ready; read x; echo got $x; exit 5",
        ],
        &[Sees("ready"), Types(b"hello \xc3\xa4\x7f\x08\x15again\r")],
        5,
    ),
    (
        &[
            "-it",
            "web",
            "--",
            "sh",
            "-c",
            "stty -echo; echo ready; read x; echo got $x",
        ],
        &[Sees("ready"), Types(b"secret\r")],
        0,
    ),
    (
        &[
            "-ti",
            "-q",
            "web",
            "--",
            "sh",
            "-c",
            "stty raw -echo; echo ready; head -c 6 | od -An -tx1; exit 1",
        ],
        &[Sees("ready"), Types(b"\x03\x04\x1a\r\x11\x1c")],
        1,
    ),
    // the end of input, interruption and quitting are the pod's
    (
        &["-it", "web", "--", "sh", "-c", "echo ready; cat; echo end"],
        &[
            Sees("ready"),
            Types(b"one\r"),
            Sees("one\r\none"),
            Types(b"two\r"),
            Sees("two\r\ntwo"),
            Types(b"\x04"),
        ],
        0,
    ),
    (
        &["-it", "web", "--", "perl", "-e", WAITS],
        &[Sees("ready"), Types(b"\x03")],
        130,
    ),
    (
        &[
            "-it",
            "web",
            "--",
            "sh",
            "-c",
            "ulimit -c 0; exec perl -e \"$0\"",
            WAITS,
        ],
        &[Sees("ready"), Types(b"\x1c")],
        131,
    ),
    (
        &[
            "-it",
            "web",
            "--",
            "sh",
            "-c",
            "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.02; done",
        ],
        &[Sees("ready"), Types(b"\x03")],
        9,
    ),
    // sizes, and none at all
    (
        &["-it", "web", "--", "sh", "-c", SIZES],
        &[
            Sees("ready"),
            Resizes(120, 50),
            Sees("50 120"),
            Resizes(0, 0),
            Resizes(1, 1),
            Sees("1 1\r"),
            Resizes(90, 0),
            Resizes(91, 31),
            Sees("31 91"),
            Types(b"\x03"),
        ],
        130,
    ),
    // much, and nothing
    (&["-it", "web", "--", "seq", "20000"], &[], 0),
    (&["-it", "web", "--", "true"], &[], 0),
    (&["-it", "web", "--", "sh", "-c", "exit 255"], &[], 255),
    (
        &["-it", "web", "--", "sh", "-c", "echo err >&2; exit 2"],
        &[],
        2,
    ),
    // what doesn't start
    (&["-it", "web", "--", "no-such-program"], &[], 1),
    (&["-it", "done", "--", "true"], &[], 1),
    (&["-it", "many", "-c", "nope", "--", "true"], &[], 1),
    (&["-it", "many", "--", "pwd"], &[], 0),
    // signals to the client
    (
        &["-it", "web", "--", "sh", "-c", "echo ready; sleep 1000"],
        &[Sees("ready"), Signals(Signal::TERM)],
        1,
    ),
    (
        &["-it", "web", "--", "sh", "-c", "echo ready; sleep 1000"],
        &[Sees("ready"), Signals(Signal::HUP)],
        1,
    ),
    (
        &["-i", "web", "--", "sh", "-c", "echo ready; cat"],
        &[Sees("ready"), Signals(Signal::INT)],
        1,
    ),
    // no terminal in the pod
    (
        &["-i", "web", "--", "sh", "-c", "echo ready; wc -c; exit 4"],
        &[Sees("ready"), Types(b"12345\n\x04")],
        4,
    ),
    (
        &["-t", "web", "--", "sh", "-c", "test -t 0 || echo none"],
        &[],
        0,
    ),
    (&["web", "--", "sh", "-c", "test -t 1 || echo none"], &[], 0),
];

fn play(program: &Path, playground: &Playground, transport: Transport, row: &Row) -> String {
    let (arguments, steps, code) = row;
    let mut typed = Typed::at(program, playground, transport, (100, 40), b"", arguments);
    for step in *steps {
        match *step {
            Sees(text) => typed.sees(text),
            Types(bytes) => typed.types(bytes),
            Resizes(columns, rows) => typed.resizes((columns, rows)),
            Signals(signal) => typed.signal(signal),
        }
    }
    let (ended, screen) = typed.end_with_screen();
    let name = program.display();
    assert_eq!(
        ended,
        Some(*code),
        "{arguments:?} {transport:?} {name}: {screen}"
    );
    screen
}

/// Without what kubectl logs when a command ends before its first terminal size was sent.
fn without_log(screen: &str) -> String {
    let is_log = |line: &&str| line.contains("] \"Encoding terminal size failed\" err=");
    let lines = screen.split_inclusive('\n');
    lines.filter(|line| !is_log(line)).collect()
}

#[test]
fn the_same_keys_show_the_same_screen() {
    let Some(kubectl) = kubectl() else { return };
    let playground = playground();
    let tally = Tally::default();
    for transport in TRANSPORTS {
        for row in ROWS {
            let theirs = without_log(&play(&kubectl, &playground, transport, row));
            let ours = play(kpf(), &playground, transport, row);
            assert_eq!(ours, theirs, "{:?} {transport:?}", row.0);
            tally.count(None);
        }
    }
    tally.print("exec in a terminal");
}
