//! Ending a command whose client goes away, as a terminal or ssh would: by SIGHUP.
//!
//! No runtime does it: a command lives on when its connection ends, and the protocol has no word for a signal. So a shell
//! says its process id before it becomes the command, and a second command sends the signal to that group.

use std::ffi::OsString;
use std::io;

use tokio::io::AsyncWrite;

use super::Command;
use super::mark::{Mark, Marked};

/// The shell's id is the command's. Runtimes make it the leader of a session, and so of a process group.
const START: &str = r#"mark=$1
shift
printf '%s%s\n' "$mark" "$$" >&2
exec "$@""#;

/// As every `kill` takes it: busybox's knows no `--`. A group that is gone needs nothing.
const END: &str = r#"kill -HUP "-$1" 2>/dev/null || kill -HUP "$1" 2>/dev/null || :"#;

/// The same with another signal. That of a shell's job control has to reach the group, so a lone process gets it only where
/// there is none.
const SIGNAL: &str =
    r#"kill -s "$2" -- "-$1" 2>/dev/null || kill "-$2" "-$1" 2>/dev/null || kill "-$2" "$1""#;

/// The signals that RFC 4254 §6.10 names, and those that OpenSSH passes on beside them.
const SIGNALS: [&str; 17] = [
    "ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1",
    "USR2", "CONT", "STOP", "TSTP", "WINCH",
];

/// What it takes to end one command.
#[derive(Debug)]
pub struct HangUp {
    mark: Mark,
}

impl HangUp {
    /// # Errors
    /// This machine has no random numbers.
    pub fn new() -> io::Result<Self> {
        let mark = Mark::new("pid")?;
        Ok(Self { mark })
    }

    /// The command that becomes `words` once it has said who it is. It needs `sh` in the container.
    #[must_use]
    pub fn wrap(&self, words: Vec<OsString>) -> Vec<OsString> {
        let shell = ["sh", "-c", START, "sh", self.mark.text()].map(OsString::from);
        shell.into_iter().chain(words).collect()
    }

    /// `inner` as the local stderr, or, of a command in a terminal, as the local stdout. Without anything to hang up on it
    /// is left as it is.
    pub fn output<W: AsyncWrite + Unpin>(hang_up: Option<&Self>, inner: W) -> Marked<W> {
        Marked::new(inner, hang_up.map(|hang_up| &hang_up.mark))
    }

    /// The command that ends the first one, in the same container; `None` if that one has never begun.
    #[must_use]
    pub fn command(&self, container: Option<String>) -> Option<Command> {
        let process = self.mark.number()?.to_string();
        Some(Command {
            words: ["sh", "-c", END, "sh", &process].map(OsString::from).into(),
            container,
            stdin: false,
            tty: false,
        })
    }
}

impl HangUp {
    /// The command that sends a signal, named without `SIG`, to the first one's process group; `None` if that one has never
    /// begun, or there is no such signal.
    #[must_use]
    pub fn signal(&self, name: &str, container: Option<String>) -> Option<Command> {
        let process = self.mark.number()?.to_string();
        let name = SIGNALS.into_iter().find(|signal| *signal == name)?;
        Some(Command {
            words: ["sh", "-c", SIGNAL, "sh", &process, name]
                .map(OsString::from)
                .into(),
            container,
            stdin: false,
            tty: false,
        })
    }
}

/// Ends a command that is still running when this is dropped.
pub(super) struct Leash {
    pub(super) hang_up: HangUp,
    /// Where the command is.
    pub(super) container: Option<String>,
    /// Runs what ends it; none once it has ended by itself.
    pub(super) end: Option<End>,
}

/// Runs a command whose outcome nobody waits for.
pub(super) type End = Box<dyn FnOnce(Command) + Send + Sync>;

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(end) = self.end.take()
            && let Some(command) = self.hang_up.command(self.container.take())
        {
            end(command);
        }
    }
}
