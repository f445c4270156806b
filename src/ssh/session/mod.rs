//! A session channel: what a client asks of it, and what then runs.
//!
//! | file | what it is |
//! |---|---|
//! | `gate` | which requests are granted, at once and without asking anybody |
//! | `exec` | a command in a container, by pods/exec |
//! | `script` | the shell script that it runs under |
//! | `tape` | what a terminal shows is recorded, where the policy says so |

use std::sync::Arc;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::audit::Kind;
use super::builtin;
use super::config::Limits;
use super::name::Destination;
use super::relayed;
use super::request::{Request, Size};
use super::server::{Channel, Opening, Output, User};
use super::way::{self, Denied, Way};
use crate::untrusted::printable;

mod exec;
mod gate;
mod script;
mod tape;

pub(super) use gate::{Gate, RelayGate};

/// The exit status where there is none of a command, as ssh itself has it.
const NO_STATUS: u32 = 255;
/// Characters of a complaint.
const SHOWN: usize = 500;

/// What is to be run, and what was asked for before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Start {
    program: Program,
    /// `TERM` and the size; none without a terminal.
    pty: Option<(String, Size)>,
    /// Names and values, as the gate has let them through.
    env: Vec<(String, String)>,
}

/// What a session can run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Program {
    Shell,
    Command(Vec<u8>),
    Sftp,
}

impl Start {
    /// Whether somebody types what it is to do, where no event tells of it.
    fn is_shell(&self) -> bool {
        self.program == Program::Shell
    }
}

/// Serves one session to its end.
pub(super) async fn serve(
    user: Arc<User>,
    opening: Opening,
    mut requests: mpsc::Receiver<Request>,
    limits: &Limits,
) {
    let gone = opening.gone().clone();
    let mut denied = None;
    if let Ok(Destination::Place(place)) = &user.destination {
        let chosen = tokio::select! {
            chosen = way::choose(&user, place) => chosen,
            () = gone.cancelled() => return,
        };
        match chosen {
            Ok(Way::Relay(link)) => return relayed::session(&user, &link, opening, limits).await,
            Ok(Way::Exec) => {}
            Err(reason) => denied = Some(reason),
        }
    }
    let channel = opening.accept().await;
    let start = tokio::select! {
        start = begin(&user, &mut requests) => start,
        () = gone.cancelled() => None,
    };
    let Some(start) = start else { return };
    if let Some(Denied {
        place,
        reason,
        told,
    }) = denied
    {
        let journal = channel.output.meter().journal();
        let journal = journal.about(|about| about.place = place);
        journal.note(Kind::TargetDeny {
            name: user.name.clone(),
            reason,
        });
        return fail(&channel.output, &told).await;
    }
    match &user.destination {
        Ok(Destination::Place(place)) => {
            exec::run(&user, place, start, channel, requests).await;
        }
        Ok(Destination::BuiltIn) => {
            let Channel { output, gone, .. } = channel;
            let terminal = start.pty.is_some();
            tokio::select! {
                status = builtin::run(&user, start.program.words(), &output, terminal) => {
                    output.exit(status).await;
                }
                () = gone.cancelled() => {}
            }
            output.close().await;
        }
        Err(error) => fail(&channel.output, &error.to_string()).await,
    }
}

impl Program {
    /// A command's, where it is text.
    fn words(&self) -> Result<Option<Vec<String>>, &'static str> {
        match self {
            Self::Shell => Ok(None),
            Self::Command(command) => {
                let text = std::str::from_utf8(command).ok();
                let words = text.and_then(shlex::split);
                words.map(Some).ok_or("the command can't be read")
            }
            Self::Sftp => Err("there are no files here: log in as OBJECT.NAMESPACE"),
        }
    }
}

/// Collects what is asked for until there is something to run.
async fn begin(user: &User, requests: &mut mpsc::Receiver<Request>) -> Option<Start> {
    let mut pty = None;
    let mut env = Vec::new();
    loop {
        let program = match requests.recv().await? {
            Request::Pty { term, size, .. } => {
                pty = Some((term, size));
                continue;
            }
            Request::Resize(size) => {
                if let Some((_, present)) = &mut pty {
                    *present = size;
                }
                continue;
            }
            Request::Env { name, value } => {
                env.push((name, value));
                continue;
            }
            Request::Shell => Program::Shell,
            Request::Exec(command) => Program::Command(command),
            Request::Subsystem(_) => Program::Sftp,
            Request::Signal(_) | Request::Agent | Request::X11 { .. } => continue,
        };
        let program = match &user.login.caps.force_command {
            Some(forced) => {
                let wanted = match program {
                    Program::Shell => Vec::new(),
                    Program::Command(command) => command,
                    Program::Sftp => b"sftp".to_vec(),
                };
                if let Ok(wanted) = String::from_utf8(wanted) {
                    env.push(("SSH_ORIGINAL_COMMAND".to_owned(), wanted));
                }
                Program::Command(forced.clone().into_bytes())
            }
            None => program,
        };
        return Some(Start { program, pty, env });
    }
}

/// Says why there is nothing to run, and ends the session.
async fn fail(output: &Output, reason: &str) {
    complain(output, reason).await;
    output.exit(NO_STATUS).await;
}

/// One line on stderr, fit for a terminal that may be raw.
async fn complain(output: &Output, reason: &str) {
    say(&mut output.stderr(), reason).await;
}

async fn say(to: &mut (impl AsyncWrite + Unpin), reason: &str) {
    let line = format!("kpf: {}\r\n", printable(reason, SHOWN));
    // Fails only where nobody is left to read it.
    let _ = to.write_all(line.as_bytes()).await;
}
