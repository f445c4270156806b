//! `kpf exec` against the real cluster of `crate::real`, whose WebSocket is too old, so that both of [`TRANSPORTS`] end in SPDY.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::side_by_side::{ROWS, Row, check, kubectl};
use super::terminal::Typed;
use super::{Ended, TRANSPORTS, Transport, complete, kpf, run, until, wait};
use crate::program::{BULK, Noise, digest_of_file};
use crate::real::Real;

/// `PROGRAM exec ...` on the real cluster.
fn exec<Guard>(
    real: &Real<Guard>,
    program: &Path,
    user: &str,
    transport: Transport,
    arguments: &[&str],
) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", real.home.path())
        .env("KUBECONFIG", &real.kubeconfig);
    complete(command, user, transport, arguments)
}

fn kpf_exec<Guard>(real: &Real<Guard>, arguments: &[&str]) -> Command {
    exec(real, kpf(), "admin", Transport::WebSocket, arguments)
}

/// The table of the playground, but for ephemeral containers, which are younger than this cluster, and manifests, which are
/// the playground's.
#[tokio::test]
async fn kubectl_and_kpf_do_the_same() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let Some(kubectl) = kubectl() else {
        return;
    };
    let is_here = |row: &&Row| {
        let not_here = ["debugged", "-f", "--filename=many.json"];
        !row.arguments.iter().any(|word| not_here.contains(word))
    };
    let rows = ROWS.iter().filter(is_here);
    // containerd 1.6 loses an end of stdin now and then: of `exec -i web -- cat </dev/null`, 2 of kubectl's 1,500 and 1 of
    // kpf's 2,100 never ended
    let endless = 1;
    check(
        "exec, real",
        rows,
        &kubectl,
        endless,
        |program, row, transport| exec(&real, program, row.user, transport, row.arguments),
    );
}

#[tokio::test]
async fn the_exit_code_is_the_commands() {
    let Some(real) = Real::shared().await else {
        return;
    };
    for code in [0, 1, 2, 63, 64, 74, 126, 127, 128, 137, 254, 255] {
        let script = format!("exit {code}");
        let ended = run(
            kpf_exec(&real, &["web", "-c", "side", "--", "sh", "-c", &script]),
            None,
        );
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn a_hundred_megabytes_in_and_out() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let [up, down] = ["up", "down"].map(|name| real.home.path().join(name));
    let digest = Noise::new(BULK).save(&up);
    let mut command = kpf_exec(&real, &["-i", "echo", "--", "sha256sum"]);
    command.stdin(File::open(&up).unwrap());
    let ended = run(command, None);
    assert_eq!(ended.stdout(), format!("{digest}  -\n"), "{}", ended.stderr);
    assert_eq!(ended.code, Some(0));

    // stdin, stdout and the status at once
    let mut command = kpf_exec(&real, &["-i", "echo", "--", "sh", "-c", "cat; exit 9"]);
    command.stdin(File::open(&up).unwrap());
    command.stdout(File::create(&down).unwrap());
    let mut child = command.spawn().unwrap();
    assert_eq!(wait(&mut child).code(), Some(9));
    assert_eq!(digest_of_file(&down), digest);
}

#[tokio::test]
async fn a_terminal_is_one() {
    let Some(real) = Real::shared().await else {
        return;
    };
    for transport in TRANSPORTS {
        let arguments = |script| ["-it", "web", "-c", "side", "--", "sh", "-c", script];
        let start = |script, typed| {
            let arguments = arguments(script);
            let command = exec(&real, kpf(), "admin", transport, &arguments);
            Typed::run(command, (100, 40), typed)
        };
        let mut typed = start("while read line; do stty size; done; exit 7", b"\n");
        // the runtime sets a size when it gets round to it
        let shows = |typed: &mut Typed, size: &str| {
            until(size, || {
                typed.types(b"\n");
                thread::sleep(Duration::from_millis(50));
                typed.seen().contains(size)
            });
        };
        shows(&mut typed, "40 100");
        typed.resizes((120, 50));
        shows(&mut typed, "50 120");
        typed.types(b"\x04");
        assert_eq!(typed.end(), Some(7), "{transport:?}");

        let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done";
        let mut typed = start(script, b"");
        typed.sees("ready");
        typed.types(b"\x03");
        typed.sees("caught");
        assert_eq!(typed.end(), Some(9), "{transport:?}");

        let typed = start("echo ready; sleep 1000", b"");
        typed.sees("ready");
        typed.signal(Signal::TERM);
        assert_eq!(typed.end(), Some(1), "{transport:?}");
    }
}

/// A command that has said `ready`, and reads on.
struct Running {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { child, stdout }
    }

    fn say(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, text);
    }

    fn end(mut self) -> Ended {
        let code = wait(&mut self.child).code();
        let (mut stdout, mut stderr) = (Vec::new(), String::new());
        self.stdout.read_to_end(&mut stdout).unwrap();
        let mut pipe = self.child.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        Ended {
            code,
            stdout,
            stderr,
        }
    }
}

const CAT: [&str; 5] = ["echo", "--", "sh", "-c", "echo ready; cat"];

fn cat<Guard>(real: &Real<Guard>) -> Running {
    let arguments: Vec<_> = ["-i"].into_iter().chain(CAT).collect();
    let mut running = Running::start(kpf_exec(real, &arguments));
    running.say("before\n");
    running
}

#[tokio::test]
async fn a_signal_is_a_failure() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let running = cat(&real);
    let pid = rustix::process::Pid::from_child(&running.child);
    // not SIGINT, which a shell's background jobs ignore
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_ne!(running.end().code, Some(0));
}

/// The runtime reports how the command died with its container.
#[tokio::test]
async fn a_killed_container_is_the_commands_death() {
    let Some(real) = Real::alone().await else {
        return;
    };
    real.cluster(&["replace", "echo"]).await;
    let running = cat(&real);
    real.cluster(&["kill", "echo"]).await;
    let ended = running.end();
    assert_eq!(ended.code, Some(137), "{}", ended.stderr);
}

#[tokio::test]
async fn a_restart_of_the_kubelet_or_the_api_server_loses_the_command() {
    let Some(real) = Real::alone().await else {
        return;
    };
    for daemon in ["kubelet", "apiserver"] {
        let running = cat(&real);
        real.cluster(&["restart", daemon]).await;
        let ended = running.end();
        assert_eq!(ended.code, Some(74), "{daemon}: {}", ended.stderr);
        assert!(
            ended
                .stderr
                .starts_with("error: lost the command, its exit status is unknown"),
            "{daemon}: {}",
            ended.stderr
        );
        let mut again = cat(&real);
        again.child.stdin = None;
        assert_eq!(again.end().code, Some(0), "{daemon}");
    }
}
