//! The container runtime's end of a remote command, whatever the client's transport: a process, its streams, and the
//! Status at its end.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::process::ChildStderr;
use tokio::sync::mpsc;

use super::faults::ExecFaults;
use super::node::{Command, Inlet, Sandbox};
use super::process::{Input, Output, Process, Program};

/// What a runtime reads at once; Go's `io.Copy` has the same size.
const CHUNK: usize = 32 * 1024;

/// The streams of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Channel {
    Stdin,
    Stdout,
    Stderr,
    Error,
    Resize,
}

/// A command that was asked for.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) words: Vec<String>,
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) folder: PathBuf,
    pub(crate) mark: String,
    pub(crate) faults: ExecFaults,
}

/// A command's ends as its transport has them.
pub(crate) struct Ends {
    pub(crate) stdin: Inlet,
    /// JSON, cut anywhere.
    pub(crate) sizes: Inlet,
    pub(crate) to_client: mpsc::Sender<Command<Channel>>,
}

impl Remote {
    /// The streams that a client must open.
    pub(crate) fn channels(&self) -> Vec<Channel> {
        let wanted = [
            (true, Channel::Error),
            (self.stdin, Channel::Stdin),
            (self.stdout, Channel::Stdout),
            (self.stderr && !self.tty, Channel::Stderr),
            (self.tty, Channel::Resize),
        ];
        let wanted = wanted.into_iter().filter(|(wanted, _)| *wanted);
        wanted.map(|(_, channel)| channel).collect()
    }

    /// Runs it to its end, or to its pod's. A client that goes away changes nothing for the process.
    pub(crate) async fn run(self, ends: Ends) {
        let Ends {
            stdin,
            mut sizes,
            to_client,
        } = ends;
        let program = Program {
            words: &self.words,
            folder: &self.folder,
            hostname: &self.sandbox.name,
            mark: &self.mark,
            programs: self.faults.programs.as_deref(),
            stdin: self.stdin,
            tty: self.tty,
        };
        let status = match Process::start(&program) {
            Err(error) => not_started(&error),
            Ok(mut process) => {
                let input = process.input.take();
                let output = process.output.take();
                let errors = process.errors.take();
                let feeding = feed(input, stdin, &self.faults, self.tty);
                let terminal = process.terminal();
                let resizing = async {
                    let Some(terminal) = terminal else {
                        return std::future::pending().await;
                    };
                    let mut document = Vec::new();
                    while let Some(bytes) = sizes.next().await {
                        document.extend_from_slice(&bytes);
                        while let Some(end) = document.iter().position(|byte| *byte == b'\n') {
                            let line: Vec<u8> = document.drain(..=end).collect();
                            let size: Value = serde_json::from_slice(&line).unwrap_or_default();
                            let side = |name: &str| size[name].as_u64().unwrap_or_default() as u16;
                            terminal.resize(side("Width"), side("Height"));
                        }
                    }
                    std::future::pending::<()>().await;
                };
                tokio::pin!(feeding, resizing);
                let copying = async {
                    tokio::join!(
                        copy_output(output, &to_client, self.stdout),
                        copy_errors(errors, &to_client, self.stderr)
                    )
                };
                tokio::pin!(copying);
                let mut fed = false;
                loop {
                    tokio::select! {
                        biased; // a size goes before what was typed after it
                        () = &mut resizing => {}
                        _ = &mut copying => break,
                        detached = &mut feeding, if !fed => {
                            fed = true;
                            if detached {
                                break; // containerd ends a terminal's output with its input
                            }
                        }
                        () = self.sandbox.killed() => break,
                    }
                }
                let ended = tokio::select! {
                    ended = process.wait() => ended,
                    () = self.sandbox.killed() => Ok(ExitStatus::from_raw(9)),
                };
                match ended {
                    Ok(ended) => exited(ended),
                    Err(error) => not_started(&error.to_string()),
                }
            }
        };
        let mut commands = vec![];
        for channel in self.channels() {
            if matches!(channel, Channel::Stdout | Channel::Stderr) {
                commands.push(Command::Finish(channel));
            }
        }
        let pieces = self.faults.status.clone();
        for piece in pieces.unwrap_or_else(|| vec![status.to_string().into()]) {
            commands.push(Command::Data(Channel::Error, piece));
        }
        for command in commands {
            // whoever is gone doesn't want to know
            let _ = to_client.send(command).await;
        }
    }
}

/// Says whether the session is over with its input.
async fn feed(input: Option<Input>, mut from: Inlet, faults: &ExecFaults, tty: bool) -> bool {
    let Some(mut input) = input else {
        return false;
    };
    if faults.stdin_unread {
        std::future::pending::<()>().await;
    }
    let mut room = faults.stdin_lost_after.unwrap_or(usize::MAX);
    while let Some(mut bytes) = from.next().await {
        bytes.truncate(room);
        room -= bytes.len();
        if room == 0 {
            let _ = input.write_all(&bytes).await;
            drop(input);
            while from.next().await.is_some() {}
            return false;
        }
        if input.write_all(&bytes).await.is_err() {
            // the process reads no more; what still comes goes nowhere
            while from.next().await.is_some() {}
            return false;
        }
    }
    tty
}

async fn copy_output(
    output: Option<Output>,
    to_client: &mpsc::Sender<Command<Channel>>,
    wanted: bool,
) {
    let Some(mut output) = output else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = output.read(&mut buffer).await {
        send(to_client, Channel::Stdout, &buffer[..length], wanted).await;
    }
}

async fn copy_errors(
    errors: Option<ChildStderr>,
    to_client: &mpsc::Sender<Command<Channel>>,
    wanted: bool,
) {
    let Some(mut errors) = errors else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = errors.read(&mut buffer).await {
        send(to_client, Channel::Stderr, &buffer[..length], wanted).await;
    }
}

async fn send(
    to_client: &mpsc::Sender<Command<Channel>>,
    channel: Channel,
    bytes: &[u8],
    wanted: bool,
) {
    if wanted {
        let bytes = Bytes::copy_from_slice(bytes);
        // a client that is gone is no reason for the process to stop
        let _ = to_client.send(Command::Data(channel, bytes)).await;
    }
}

/// The streaming server's Status for a process that ran.
fn exited(ended: ExitStatus) -> Value {
    let code = match (ended.code(), ended.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or_default(),
    };
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

/// The same for one that could not be started, in containerd's words.
fn not_started(error: &str) -> Value {
    let message = format!(
        "error executing command in container: failed to exec in container: failed to start exec \
         \"{}\": OCI runtime exec failed: exec failed: unable to start container process: {error}: unknown",
        "5f".repeat(32)
    );
    internal_error(&message)
}

/// `apierrors.NewInternalError`.
pub(crate) fn internal_error(message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("Internal error occurred: {message}"),
        "reason": "InternalError",
        "details": { "causes": [{ "message": message }] },
        "code": 500,
    })
}
