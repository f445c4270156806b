//! The README's first command: the playground as a program.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::tools;

/// A start on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// The built example, which lies beside the tests; `cargo test` builds it, `cargo test --test it` does not.
fn program() -> Option<PathBuf> {
    let test = std::env::current_exe().expect("a path");
    let program = test
        .parent()
        .and_then(Path::parent)
        .expect("a folder")
        .join("examples/playground");
    if program.is_file() {
        return Some(program);
    }
    tools::skip("the example is not built: `cargo build --example playground`");
    None
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a pid");
    kill_process(pid, signal).expect("it runs");
}

fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(ended) = child.try_wait().expect("a child") {
            return ended.code();
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the playground does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn it_runs_a_command_against_itself() {
    let Some(program) = program() else { return };
    let home = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(program)
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .args(["forward", "pod/web", ":80"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("text");
    let port = line
        .strip_prefix("Forwarding from 127.0.0.1:")
        .and_then(|rest| rest.split(' ').next()?.parse::<u16>().ok())
        .unwrap_or_else(|| panic!("{line:?}"));
    let mut http = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
    http.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    http.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a server");
    let mut page = String::new();
    http.read_to_string(&mut page).expect("a page");
    assert!(page.contains("served by the pod <b>web</b>"), "{page}");
    signal(&child, Signal::INT);
    wait(&mut child);
    assert!(
        TcpStream::connect(("127.0.0.1", port)).is_err(),
        "the command outlives the playground"
    );
    let left = std::fs::read_dir(home.path()).expect("a folder").count();
    assert_eq!(left, 0, "files are left behind");
}

#[test]
fn it_hands_on_the_commands_exit_code() {
    let Some(program) = program() else { return };
    for (arguments, code, stdout) in [
        (
            &["connect", "echo", "13"][..],
            0,
            "2026-01-02T03:04:05Z\r\n",
        ),
        (
            &["--", "connect", "team-b/echo", "13"],
            0,
            "2026-01-02T03:04:05Z\r\n",
        ),
        (
            &["--context-user", "viewer", "connect", "echo", "13"],
            77,
            "",
        ),
        (
            &["--server-version", "1.29", "connect", "echo", "1006"],
            111,
            "",
        ),
    ] {
        let output = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            stdout,
            "{arguments:?}"
        );
    }
}

#[test]
fn it_serves_until_it_is_told_to_end() {
    let Some(program) = program() else { return };
    for end in [Signal::INT, Signal::TERM] {
        let home = tempfile::tempdir().expect("a folder");
        let file = home.path().join("config");
        let mut child = Command::new(&program)
            .env("TMPDIR", home.path())
            .arg("--kubeconfig")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("text");
        assert_eq!(line, format!("export KUBECONFIG={}\n", file.display()));
        let mode = std::fs::metadata(&file)
            .expect("the file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut rest = String::new();
        while !rest.contains("kubectl get pods") {
            stdout.read_line(&mut rest).expect("text");
        }
        signal(&child, end);
        assert_eq!(wait(&mut child), Some(0));
        let left: Vec<_> = std::fs::read_dir(home.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(left, ["config"]);
    }
}
