//! What can't work: one clear line and the right code, in a pipe and at a terminal, which is left as it was.

use hyper::StatusCode;

use super::terminal::Typed;
use super::{TRANSPORTS, exec, kpf, playground, run};
use crate::playground::faults::{Answer, Request};

/// The arguments, the code, and what the line says.
const ROWS: &[(&[&str], i32, &str)] = &[
    (&[], 1, "pod, type/name or --filename must be specified"),
    (
        &["web"],
        1,
        "you must specify at least one command for the container",
    ),
    (
        &["web", "--"],
        1,
        "you must specify at least one command for the container",
    ),
    (&["web", "--", ""], 1, "executable file not found"),
    (
        &["-c", "nope", "many", "--", "true"],
        1,
        "container nope is not valid for pod many out of: app, sidecar, setup (init)",
    ),
    (
        &["-c", "setup", "many", "--", "true"],
        1,
        "container not found (\"setup\")",
    ),
    (
        &["done", "--", "true"],
        1,
        "cannot exec into a container in a completed pod; current phase is Succeeded",
    ),
    (
        &["nothing", "--", "true"],
        1,
        "pods \"nothing\" not found in namespace `default`",
    ),
    (
        &["web", "--", "no-such-program"],
        1,
        "executable file not found in $PATH",
    ),
    (&["web", "--", "/etc/passwd"], 1, "permission denied"),
    (
        &["--context=playground-viewer", "web", "--", "true"],
        1,
        "the role needs the verb `create` on `pods/exec`",
    ),
    (
        &["--context=playground-wrong", "web", "--", "true"],
        1,
        "You must be logged in to the server",
    ),
    (
        &["-s", "https://127.0.0.1:1", "web", "--", "true"],
        1,
        "The connection to the server 127.0.0.1:1 was refused",
    ),
    (
        &["--pod-running-timeout=0s", "web", "--", "true"],
        1,
        "--pod-running-timeout must be higher than zero",
    ),
    (
        &["-f", "missing.yaml", "--", "true"],
        1,
        "the path \"missing.yaml\" does not exist",
    ),
    (
        &["-f", "http://127.0.0.1/pod.yaml", "--", "true"],
        1,
        "fetch `http://127.0.0.1/pod.yaml` yourself",
    ),
    (
        &["-i", "-f", "-", "--", "true"],
        1,
        "-f - and -i both want stdin",
    ),
    (
        &["-f", "/dev/zero", "--", "true"],
        1,
        "is no manifest: it is longer than 4194304 bytes",
    ),
    (
        &["--verify", "web", "--", "true"],
        1,
        "--verify is for a stdin that is no terminal",
    ),
];

#[test]
fn bad_input_is_one_clear_line() {
    let playground = playground();
    for transport in TRANSPORTS {
        for &(arguments, code, part) in ROWS {
            let command = exec(kpf(), &playground, "admin", transport, arguments);
            let ended = run(command, Some(b""));
            let what = format!("{arguments:?} {transport:?}: {}", ended.stderr);
            assert_eq!((ended.code, &*ended.stdout()), (Some(code), ""), "{what}");
            assert_eq!(ended.stderr.lines().count(), 1, "{what}");
            assert!(ended.stderr.contains(part), "{what}");

            let arguments = [&["-it", "-q"], arguments].concat();
            let typed = Typed::start(&playground, transport, (80, 24), b"", &arguments);
            let (ended, screen) = typed.end_with_screen();
            assert_eq!(ended, Some(code), "{arguments:?} {transport:?}: {screen}");
            assert_eq!(screen.matches("\r\n").count(), 1, "{screen}");
        }
    }
}

#[test]
fn two_refusals_are_one_line() {
    let playground = playground();
    let answer = |code: u16, body: &str| Answer::Text {
        code: StatusCode::from_u16(code).unwrap(),
        headers: Vec::new(),
        body: body.to_owned(),
    };
    playground.answer(
        Request::is_websocket,
        usize::MAX,
        answer(400, "no\u{1b}[2Jsuch\nthing"),
    );
    playground.answer(Request::is_spdy, usize::MAX, answer(503, ""));
    for arguments in [
        &["web", "--", "true"][..],
        &["-it", "-q", "web", "--", "true"],
    ] {
        let command = exec(kpf(), &playground, "admin", TRANSPORTS[0], arguments);
        let ended = run(command, Some(b""));
        assert_eq!(ended.code, Some(1));
        assert_eq!(
            ended.stderr,
            "error: unable to upgrade connection: empty server response \
             (SPDY; before that by WebSocket: unable to upgrade connection: no\\u{1b}[2Jsuch thing)\n"
        );
    }
}
