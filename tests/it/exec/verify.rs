//! `--verify`: a stdin that is lost on its way is a failure, and everything else is as without.

use std::fs::File;
use std::process::Command;

use super::{Ended, TRANSPORTS, Transport, exec, kpf, playground, run};
use crate::playground::Playground;

fn verified(playground: &Playground, transport: Transport, words: &[&str]) -> Command {
    let arguments = [&["-i", "--verify", "web", "--"], words].concat();
    exec(kpf(), playground, "admin", transport, &arguments)
}

#[test]
fn a_verified_command_is_as_any_other() {
    let playground = playground();
    let data: Vec<u8> = (0..1u32 << 20).flat_map(u32::to_be_bytes).collect();
    for transport in TRANSPORTS {
        for input in [&b""[..], b"a\0b\xff", &data] {
            let ended = run(verified(&playground, transport, &["cat"]), Some(input));
            assert!(ended.stdout == input, "{transport:?}: {}", ended.stderr);
            assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
        }
        let script = "cat >&2; echo out; printf end >&2; exit $1";
        let words = ["sh", "-c", script, "sh", "3"];
        let ended = run(verified(&playground, transport, &words), Some(b"in "));
        let expected = Ended {
            code: Some(3),
            stdout: b"out\n".to_vec(),
            stderr: "in endcommand terminated with exit code 3\n".to_owned(),
        };
        assert_eq!(ended, expected);
        // words arrive as they are, and no builtin runs in the program's place
        let words = [
            "printf",
            "[%s]",
            "a  b",
            "",
            "*",
            "$0",
            "'\"\\",
            "-i",
            "two\nlines",
        ];
        let ended = run(verified(&playground, transport, &words), Some(b""));
        let expected = "[a  b][][*][$0]['\"\\][-i][two\nlines]";
        assert_eq!((ended.code, &*ended.stdout()), (Some(0), expected));
        let ended = run(verified(&playground, transport, &["exit", "0"]), Some(b""));
        assert_eq!(ended.code, Some(127), "{}", ended.stderr);
        let words = ["sh", "-c", "kill -9 $$"];
        let ended = run(verified(&playground, transport, &words), Some(b""));
        assert_eq!(ended.code, Some(137), "{}", ended.stderr);
    }
}

#[test]
fn a_stdin_that_is_cut_short_is_a_failure() {
    let playground = playground();
    let data = vec![b'x'; 4 << 20];
    for transport in TRANSPORTS {
        playground.behave(|behaviour| behaviour.exec.stdin_lost_after = Some(192 << 10));
        // that is what it is against: success, and most of it gone
        let arguments = ["-i", "web", "--", "wc", "-c"];
        let command = exec(kpf(), &playground, "admin", transport, &arguments);
        let ended = run(command, Some(&data));
        assert_eq!((ended.code, &*ended.stdout()), (Some(0), "196608\n"));
        let file = playground.folder().join("data");
        std::fs::write(&file, &data).unwrap();
        for piped in [true, false] {
            let mut command = verified(&playground, transport, &["wc", "-c"]);
            if !piped {
                command.stdin(File::open(&file).unwrap());
            }
            let ended = run(command, piped.then_some(&data));
            assert_eq!(ended.stdout(), "196608\n");
            assert_eq!(ended.code, Some(74), "{transport:?}: {}", ended.stderr);
            assert!(
                ended
                    .stderr
                    .starts_with("error: stdin was cut short on its way: 196608 of ")
                    && ended.stderr.lines().count() == 1,
                "{}",
                ended.stderr
            );
        }
        playground.behave(|behaviour| behaviour.exec.stdin_lost_after = None);
        // nor is it enough that the command had enough
        let ended = run(
            verified(&playground, transport, &["head", "-c", "1"]),
            Some(&data),
        );
        assert_eq!((ended.code, &*ended.stdout()), (Some(74), "x"));
    }
}

#[test]
fn what_it_needs_is_said() {
    let playground = playground();
    for arguments in [
        &["--verify", "web", "--", "true"][..],
        &["-it", "--verify", "web", "--", "true"],
    ] {
        let command = exec(kpf(), &playground, "admin", Transport::Spdy, arguments);
        let ended = run(command, Some(b""));
        let line = "error: --verify is for a stdin that is no terminal: give -i, and not -t\n";
        assert_eq!((ended.code, &*ended.stderr), (Some(1), line));
    }
}
