//! `--hang-up`: the command ends with its client, whichever way that goes.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt as _;

use super::terminal::Typed;
use super::{Ended, TRANSPORTS, Transport, exec, kpf, playground, run, until, wait};
use crate::playground::Playground;
use crate::playground::faults::{Answer, Request};
use crate::tools;

/// Says who it is, and that of its child.
const SCRIPT: &str = "sleep 1000 & echo $! $$; wait";

fn start(playground: &Playground, transport: Transport, flags: &[&str]) -> (Child, String) {
    let arguments = [flags, &["web", "--", "sh", "-c", SCRIPT]].concat();
    let mut command = exec(kpf(), playground, "admin", transport, &arguments);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut pids = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut pids).unwrap();
    assert!(pids.split_whitespace().all(runs), "{pids:?}");
    (child, pids)
}

fn runs(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

fn ends(pids: &str) {
    until("it has ended", || !pids.split_whitespace().any(runs));
}

#[test]
fn a_signal_ends_the_command_too() {
    let playground = playground();
    for transport in TRANSPORTS {
        for (signal, code) in [
            (Signal::INT, 130),
            (Signal::TERM, 143),
            (Signal::HUP, 129),
            (Signal::QUIT, 131),
        ] {
            let (mut child, pids) = start(&playground, transport, &["-i", "--hang-up"]);
            let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
            kill_process(pid, signal).unwrap();
            assert_eq!(wait(&mut child).code(), Some(code), "{transport:?}");
            ends(&pids);
            let mut stderr = String::new();
            let mut errors = child.stderr.take().unwrap();
            errors.read_to_string(&mut stderr).unwrap();
            assert_eq!(stderr, "", "{transport:?}");
        }
    }
}

#[test]
fn a_lost_connection_ends_the_command_too() {
    let playground = playground();
    for transport in TRANSPORTS {
        for flags in [&["--hang-up"][..], &["-i", "--hang-up", "--verify"]] {
            let (mut child, pids) = start(&playground, transport, flags);
            playground.cut_all();
            assert_eq!(wait(&mut child).code(), Some(74), "{transport:?}");
            ends(&pids);
        }
        // when there is no way back, that is said
        let (mut child, _) = start(&playground, transport, &["--hang-up"]);
        playground.stop();
        assert_eq!(wait(&mut child).code(), Some(74), "{transport:?}");
        let mut stderr = String::new();
        let mut errors = child.stderr.take().unwrap();
        errors.read_to_string(&mut stderr).unwrap();
        let warning = "warning: the command may still run in the container: The connection to";
        assert!(stderr.contains(warning), "{stderr}");
        playground.resume().unwrap();
    }
}

#[test]
fn a_reader_that_is_gone_ends_the_command_too() {
    let playground = playground();
    let arguments = ["--hang-up", "web", "--", "sh", "-c", "echo $$; exec yes"];
    let mut command = exec(kpf(), &playground, "admin", Transport::Spdy, &arguments);
    let mut child = command.spawn().unwrap();
    let mut pid = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut pid).unwrap();
    drop(stdout);
    assert_eq!(wait(&mut child).code(), Some(141));
    ends(&pid);
}

#[test]
fn a_terminal_that_goes_ends_the_command_too() {
    let playground = playground();
    for transport in TRANSPORTS {
        let script = "echo $$; echo ready; sleep 1000";
        let arguments = ["-it", "--hang-up", "web", "--", "sh", "-c", script];
        let typed = Typed::start(&playground, transport, (80, 24), b"", &arguments);
        typed.sees("ready");
        let seen = typed.seen();
        let (pid, rest) = seen.split_once("\r\n").unwrap();
        assert!(runs(pid), "{seen:?}");
        assert_eq!(rest, "ready\r\n");
        typed.signal(Signal::HUP);
        assert_eq!(typed.end(), Some(1), "{transport:?}");
        ends(pid);
    }
}

#[test]
fn a_command_that_ends_by_itself_is_as_any_other() {
    let playground = playground();
    for transport in TRANSPORTS {
        for flags in [&["-i", "--hang-up"][..], &["-i", "--hang-up", "--verify"]] {
            let script = "cat; echo err >&2; exit 3";
            let arguments = [flags, &["web", "--", "sh", "-c", script]].concat();
            let command = exec(kpf(), &playground, "admin", transport, &arguments);
            let expected = Ended {
                code: Some(3),
                stdout: b"in\0".to_vec(),
                stderr: "err\ncommand terminated with exit code 3\n".to_owned(),
            };
            let seen = playground.requests().len();
            assert_eq!(run(command, Some(b"in\0")), expected, "{transport:?}");
            let requests = playground.requests().split_off(seen);
            let upgrades = requests.iter().filter(|request| request.is_upgrade());
            assert_eq!(upgrades.count(), 1);
        }
    }
}

#[test]
fn a_command_that_nobody_knows_is_told_of() {
    let playground = playground();
    // says that it has the streams, and is gone
    let script = Answer::script(|mut io| async move {
        io.write_all(b"\x82\x01\x01").await?;
        io.flush().await
    });
    playground.answer_next(Request::is_websocket, script);
    let arguments = ["--hang-up", "web", "--", "true"];
    let command = exec(
        kpf(),
        &playground,
        "admin",
        Transport::WebSocket,
        &arguments,
    );
    let ended = run(command, None);
    assert_eq!(ended.code, Some(74));
    let warning = "warning: the command may still run in the container: it has not said which process it is\n";
    assert!(ended.stderr.starts_with(warning), "{}", ended.stderr);
}

#[test]
fn without_it_the_command_stays_as_with_kubectl() {
    let playground = playground();
    let programs = [kpf().to_owned()].into_iter().chain(tools::kubectls());
    for program in programs {
        for transport in TRANSPORTS {
            let mut command = exec(&program, &playground, "admin", transport, &ARGUMENTS);
            let mut child = command.spawn().unwrap();
            let mut pids = String::new();
            let mut stdout = BufReader::new(child.stdout.take().unwrap());
            stdout.read_line(&mut pids).unwrap();
            let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
            kill_process(pid, Signal::TERM).unwrap();
            assert_eq!(wait(&mut child).signal(), Some(Signal::TERM.as_raw()));
            until("the connection is gone", || playground.tunnels().is_empty());
            assert!(pids.split_whitespace().all(runs), "{pids:?}");
        }
    }
}

const ARGUMENTS: [&str; 5] = ["web", "--", "sh", "-c", SCRIPT];
