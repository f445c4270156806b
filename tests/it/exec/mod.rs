//! `kpf exec` against the playground and a real cluster: side by side with the real kubectl, in a terminal, and where things go wrong.

mod bad_input;
mod bulk;
mod faults;
mod hang_up;
mod real;
mod server;
mod side_by_side;
mod terminal;
mod typed_alike;
mod verify;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::playground::{Options, Playground, kubeconfig};

/// No command here takes longer, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Transport {
    WebSocket,
    Spdy,
}

const TRANSPORTS: [Transport; 2] = [Transport::WebSocket, Transport::Spdy];

fn playground() -> Playground {
    Playground::start(Options::default()).expect("a playground")
}

fn kpf() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_kpf"))
}

/// `PROGRAM exec ...` with nothing of the person who runs the test.
fn exec(
    program: &Path,
    playground: &Playground,
    user: &str,
    transport: Transport,
    arguments: &[&str],
) -> Command {
    let mut command = Command::new(program);
    let context = kubeconfig::context(user);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", playground.folder())
        .env("KUBECONFIG", playground.kubeconfig());
    complete(command, &context, transport, arguments)
}

/// Adds what follows the program and its clusters.
fn complete(
    mut command: Command,
    context: &str,
    transport: Transport,
    arguments: &[&str],
) -> Command {
    command
        .args(["--context", context, "exec"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if transport == Transport::Spdy {
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
    }
    command
}

/// How a command ended, and all it said.
#[derive(Debug, PartialEq)]
struct Ended {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ended {
    fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs it with these bytes on stdin; nothing for `/dev/null`.
fn run(command: Command, stdin: Option<&[u8]>) -> Ended {
    try_run(command, stdin).unwrap_or_else(|endless| panic!("{endless}"))
}

/// The same, unless it does not end.
fn try_run(mut command: Command, stdin: Option<&[u8]>) -> Result<Ended, String> {
    if stdin.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().expect("it starts");
    // a test may have put something else in its place
    let output = child.stdout.take();
    let mut errors = child.stderr.take().expect("a pipe");
    let input = child.stdin.take();
    thread::scope(|scope| {
        if let (Some(mut input), Some(bytes)) = (input, stdin) {
            // a command that reads no more closes it
            scope.spawn(move || input.write_all(bytes));
        }
        let stdout = scope.spawn(move || {
            let mut bytes = Vec::new();
            let read = output.map(|mut output| output.read_to_end(&mut bytes));
            read.transpose().map(|_| bytes)
        });
        let stderr = scope.spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).map(|_| text)
        });
        let ended = try_wait(&mut child)?;
        Ok(Ended {
            code: ended.code(),
            stdout: stdout.join().unwrap().unwrap(),
            stderr: stderr.join().unwrap().unwrap(),
        })
    })
}

/// Waits for it, but not for ever.
fn wait(child: &mut Child) -> ExitStatus {
    try_wait(child).unwrap_or_else(|endless| panic!("{endless}"))
}

/// Waits for it; kills it at the deadline, and says what it was.
fn try_wait(child: &mut Child) -> Result<ExitStatus, String> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(ended) = child.try_wait().expect("a child") {
            return Ok(ended);
        }
        if Instant::now() > deadline {
            let words = std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
            let _ = child.kill();
            let words = String::from_utf8_lossy(&words);
            return Err(format!("it does not end: {words:?}"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until something is so.
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < deadline, "it never came to pass: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
