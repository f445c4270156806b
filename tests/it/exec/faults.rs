//! Where things go wrong: the exit status is honest, output is delivered, and nothing hangs.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;

use super::{Ended, TRANSPORTS, Transport, exec, kpf, playground, run, until, wait};
use crate::playground::Playground;
use crate::playground::faults::{Answer, ExecEnd, ExecFaults, Request};

const LOST: &str = "error: lost the command, its exit status is unknown: ";

fn with(playground: &Playground, faults: ExecFaults) {
    playground.behave(|behaviour| behaviour.exec = faults);
}

fn status(pieces: &[&str]) -> Option<Vec<Bytes>> {
    let pieces = pieces.iter();
    Some(
        pieces
            .map(|piece| Bytes::copy_from_slice(piece.as_bytes()))
            .collect(),
    )
}

fn sh(playground: &Playground, transport: Transport, script: &str) -> Ended {
    let arguments = ["web", "--", "sh", "-c", script];
    run(
        exec(kpf(), playground, "admin", transport, &arguments),
        None,
    )
}

/// Items 100, 104 and 105, over the wire.
#[test]
fn the_status_decides() {
    let playground = playground();
    let exit = r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;
    let (head, tail) = exit.split_at(50);
    let long = vec!["x".repeat(64 << 10); 32];
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    for transport in TRANSPORTS {
        for (pieces, code, stderr) in [
            (&[r#"{"status":"Success"}"#][..], 0, ""),
            (&[exit], 42, "command terminated with exit code 42\n"),
            (&[head, tail], 42, "command terminated with exit code 42\n"),
            (
                &[r#"{"status":"Failure","message":"no\u001b[2J\nway"}"#],
                1,
                "error: no\\u{1b}[2J way\n",
            ),
            (
                &[r#"{"status":"Failure","reason":"NonZeroExitCode"}"#],
                1,
                "error: error stream protocol error: details must be set\n",
            ),
            (
                &[&exit.replace("42", "256")],
                1,
                "error: error stream protocol error: invalid exit code value \"256\"\n",
            ),
            (
                &[r#"{"status":"Perhaps"}"#],
                1,
                "error: error stream protocol error: unknown error\n",
            ),
            (
                &long,
                1,
                "error: error stream protocol error: the status is longer than 1048576 bytes\n",
            ),
        ] {
            let faults = ExecFaults {
                status: status(pieces),
                ..ExecFaults::default()
            };
            with(&playground, faults);
            let ended = sh(&playground, transport, "echo before");
            assert_eq!(
                ended.stdout(),
                "before\n",
                "{transport:?}: {}",
                ended.stderr
            );
            assert_eq!(
                (ended.code, &*ended.stderr),
                (Some(code), stderr),
                "{transport:?}"
            );
        }
    }
}

/// Item 101: whatever the end looks like.
#[test]
fn no_status_is_a_failure() {
    let playground = playground();
    for transport in TRANSPORTS {
        for end in [
            ExecEnd::Usual,
            ExecEnd::GoAway,
            ExecEnd::Eof,
            ExecEnd::Close(1001),
        ] {
            let faults = ExecFaults {
                status: status(&[]),
                end,
                ..ExecFaults::default()
            };
            with(&playground, faults);
            let ended = sh(&playground, transport, "echo before; exit 0");
            assert_eq!(ended.stdout(), "before\n", "{transport:?} {end:?}");
            assert_eq!(
                ended.code,
                Some(74),
                "{transport:?} {end:?}: {}",
                ended.stderr
            );
            assert!(
                ended.stderr.starts_with(LOST) && ended.stderr.lines().count() == 1,
                "{transport:?} {end:?}: {}",
                ended.stderr
            );
        }
    }
}

/// Item 102.
#[test]
fn after_the_status_any_end_is_a_good_one() {
    let playground = playground();
    for transport in TRANSPORTS {
        for end in [
            ExecEnd::GoAway,
            ExecEnd::Eof,
            ExecEnd::Close(1011),
            ExecEnd::Stay,
        ] {
            let faults = ExecFaults {
                end,
                ..ExecFaults::default()
            };
            with(&playground, faults);
            let ended = sh(&playground, transport, "echo before; exit 6");
            assert_eq!(ended.stdout(), "before\n", "{transport:?} {end:?}");
            assert_eq!(
                ended.code,
                Some(6),
                "{transport:?} {end:?}: {}",
                ended.stderr
            );
        }
    }
}

#[test]
fn a_lost_connection_is_a_failure() {
    let playground = playground();
    for transport in TRANSPORTS {
        let arguments = ["web", "--", "sh", "-c", "echo ready; sleep 1000"];
        let mut command = exec(kpf(), &playground, "admin", transport, &arguments);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        playground.cut_all();
        assert_eq!(wait(&mut child).code(), Some(74), "{transport:?}");
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        assert!(stderr.starts_with(LOST), "{transport:?}: {stderr}");
    }
}

#[test]
fn a_killed_container_has_the_status_of_its_process() {
    let playground = playground();
    for transport in TRANSPORTS {
        let arguments = ["echo", "--", "sh", "-c", "echo ready; sleep 1000"];
        let mut command = exec(kpf(), &playground, "admin", transport, &arguments);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        playground.replace_pod("default", "echo");
        assert_eq!(wait(&mut child).code(), Some(137), "{transport:?}");
    }
}

#[test]
fn stdin_waits_for_a_server_that_is_late() {
    let playground = playground();
    for transport in TRANSPORTS {
        let faults = ExecFaults {
            late: Duration::from_millis(500),
            ..ExecFaults::default()
        };
        with(&playground, faults);
        let arguments = ["-i", "web", "--", "cat"];
        let command = exec(kpf(), &playground, "admin", transport, &arguments);
        let ended = run(command, Some(b"in time"));
        assert_eq!(ended.stdout(), "in time", "{transport:?}: {}", ended.stderr);
        assert_eq!(ended.code, Some(0));
    }
}

#[test]
fn a_stdin_that_nobody_reads_holds_nothing_up() {
    let playground = playground();
    let input = vec![b'x'; 8 << 20];
    for transport in TRANSPORTS {
        for unread in [true, false] {
            let faults = ExecFaults {
                stdin_unread: unread,
                ..ExecFaults::default()
            };
            with(&playground, faults);
            let script = "head -c 1000000 /dev/zero; echo done >&2; exit 4";
            let arguments = ["-i", "web", "--", "sh", "-c", script];
            let command = exec(kpf(), &playground, "admin", transport, &arguments);
            let ended = run(command, Some(&input));
            assert_eq!(
                ended.stdout.len(),
                1_000_000,
                "{transport:?}: {}",
                ended.stderr
            );
            assert_eq!(ended.stderr, "done\ncommand terminated with exit code 4\n");
            assert_eq!(ended.code, Some(4), "{transport:?}");
        }
    }
}

/// Item 109.
#[test]
fn a_closed_stdout_is_drained_and_is_a_failure() {
    let playground = playground();
    for transport in TRANSPORTS {
        let script = "echo one; head -c 10000000 /dev/zero; echo two >&2; touch done";
        let arguments = ["web", "--", "sh", "-c", script];
        let mut command = exec(kpf(), &playground, "admin", transport, &arguments);
        let mut child = command.spawn().unwrap();
        let mut first = [0; 4];
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut first).unwrap();
        drop(stdout);
        assert_eq!(wait(&mut child).code(), Some(141), "{transport:?}");
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        assert_eq!(stderr, "two\n", "{transport:?}");
        let done = playground.folder().join("pods/default/web/main/done");
        std::fs::remove_file(done).expect("the command went on to its end");
    }
}

#[test]
fn a_closed_stdout_does_not_keep_us_for_ever() {
    let playground = playground();
    let started = Instant::now();
    let arguments = ["web", "--", "yes"];
    let mut children = TRANSPORTS.map(|transport| {
        let mut command = exec(kpf(), &playground, "admin", transport, &arguments);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        child
    });
    for child in &mut children {
        assert_eq!(wait(child).code(), Some(141));
    }
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_full_disk_is_a_failure() {
    let playground = playground();
    for transport in TRANSPORTS {
        let full = std::fs::File::options().write(true).open("/dev/full");
        let arguments = ["web", "--", "sh", "-c", "echo lost; echo told >&2"];
        let mut command = exec(kpf(), &playground, "admin", transport, &arguments);
        let mut child = command.stdout(full.unwrap()).spawn().unwrap();
        assert_eq!(wait(&mut child).code(), Some(74), "{transport:?}");
        let mut stderr = String::new();
        let mut errors = child.stderr.take().unwrap();
        errors.read_to_string(&mut stderr).unwrap();
        let line = "error: cannot write to stdout: No space left on device (os error 28)\n";
        assert!(stderr.ends_with(line), "{transport:?}: {stderr}");
        assert!(stderr.starts_with("told\n"), "{transport:?}: {stderr}");
    }
}

/// A truncated upload must not pass for a whole one.
#[test]
fn a_stdin_that_fails_is_no_end() {
    let playground = playground();
    for transport in TRANSPORTS {
        let arguments = ["-i", "web", "--", "cat"];
        let mut command = exec(kpf(), &playground, "admin", transport, &arguments);
        let folder = std::fs::File::open("/").unwrap(); // reading it fails
        let ended = run_from(command.stdin(folder));
        assert_eq!(ended.code, Some(74), "{transport:?}: {}", ended.stderr);
        assert!(
            ended.stderr.starts_with("error: cannot read stdin: "),
            "{}",
            ended.stderr
        );
    }
}

fn run_from(command: &mut std::process::Command) -> Ended {
    let mut child = command.spawn().unwrap();
    let code = wait(&mut child).code();
    let mut stdout = Vec::new();
    let mut stderr = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut stdout)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    Ended {
        code,
        stdout,
        stderr,
    }
}

/// What stays behind in the container holds nobody up, unless it holds the streams.
#[test]
fn a_process_that_outlives_its_command_is_left_alone() {
    let playground = playground();
    for transport in TRANSPORTS {
        let script = "sleep 1000 >/dev/null 2>&1 </dev/null & echo started";
        let ended = sh(&playground, transport, script);
        assert_eq!((ended.code, &*ended.stdout()), (Some(0), "started\n"));
        let ended = sh(
            &playground,
            transport,
            "(sleep 0.3; echo late) & echo early",
        );
        assert_eq!((ended.code, &*ended.stdout()), (Some(0), "early\nlate\n"));
    }
}

/// The playground's own promise: commands end with it, wherever they have got to.
#[test]
fn nothing_outlives_the_playground() {
    let playground = playground();
    let file = playground.folder().join("pods/default/web/main/pids");
    let script = "sleep 1000 >/dev/null 2>&1 </dev/null & echo $! >pids; \
                  setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo started";
    let ended = sh(&playground, Transport::Spdy, script);
    assert_eq!(ended.stdout(), "started\n", "{}", ended.stderr);
    let arguments = [
        "web",
        "--",
        "sh",
        "-c",
        "echo $$ >>pids; echo ready; sleep 1000",
    ];
    let mut command = exec(
        kpf(),
        &playground,
        "admin",
        Transport::WebSocket,
        &arguments,
    );
    let mut child = command.spawn().unwrap();
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 6])
        .unwrap();
    // its client goes, and it stays, as on a real node
    child.kill().unwrap();
    child.wait().unwrap();
    let pids = std::fs::read_to_string(file).unwrap();
    let runs = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    assert_eq!(pids.lines().count(), 2);
    assert!(pids.lines().all(runs), "{pids}");
    drop(playground);
    until("all have ended", || !pids.lines().any(runs));
}

#[test]
fn a_closed_stdin_is_an_empty_one() {
    let playground = playground();
    for transport in TRANSPORTS {
        let arguments = ["-i", "web", "--", "wc", "-c"];
        let ours = exec(kpf(), &playground, "admin", transport, &arguments);
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", "exec \"$0\" \"$@\" <&-"])
            .arg(ours.get_program());
        shell.args(ours.get_args()).env_clear();
        for (name, value) in ours.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        shell.stdout(Stdio::piped()).stderr(Stdio::piped());
        let ended = run_from(&mut shell);
        assert_eq!(
            (ended.code, &*ended.stdout()),
            (Some(0), "0\n"),
            "{}",
            ended.stderr
        );
    }
}

/// Without a terminal kpf dies of signals as any program does.
#[test]
fn without_a_terminal_a_signal_is_a_signal() {
    use rustix::process::{Pid, Signal, kill_process};
    use std::os::unix::process::ExitStatusExt as _;

    let playground = playground();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let arguments = ["-i", "web", "--", "cat"];
        let mut command = exec(
            kpf(),
            &playground,
            "admin",
            Transport::WebSocket,
            &arguments,
        );
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
        assert_eq!(wait(&mut child).signal(), Some(signal.as_raw()));
    }
}

#[test]
fn nonsense_from_the_server_is_a_failure() {
    let playground = playground();
    // a text message; a reserved opcode; a frame that claims 2^63 bytes; a masked frame
    let websocket: [&[u8]; 4] = [
        b"\x82\x01\x01\x81\x02hi",
        b"\x82\x01\x01\x8b\x00",
        b"\x82\x01\x01\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00",
        b"\x82\x81\x00\x00\x00\x00\x01",
    ];
    for frames in websocket {
        let script = Answer::script(move |mut io| async move {
            io.write_all(frames).await?;
            io.flush().await?;
            // the client's end
            tokio::io::copy(&mut io, &mut tokio::io::sink())
                .await
                .map(drop)
        });
        playground.answer_next(Request::is_websocket, script);
        let ended = sh(&playground, Transport::WebSocket, "true");
        assert_eq!(ended.code, Some(74), "{frames:?}: {}", ended.stderr);
        assert!(ended.stderr.starts_with(LOST), "{}", ended.stderr);
    }
    let script = Answer::script(|mut io| async move {
        io.write_all(b"\x80\x03\x00\x63nonsense").await?;
        io.flush().await?;
        tokio::io::copy(&mut io, &mut tokio::io::sink())
            .await
            .map(drop)
    });
    playground.answer_next(Request::is_spdy, script);
    let ended = sh(&playground, Transport::Spdy, "true");
    assert_eq!(ended.code, Some(74), "{}", ended.stderr);
}
