//! What people and scripts read: the only printer of the crate, next to `main`.
//!
//! stdout has kubectl's lines and nothing else, each written at once, because scripts wait for them. stderr has
//! everything else, one line per event. Neither can hold up or end a forward: a line that has no room (many
//! scripts read the first line of stdout and then no more) or no reader is dropped.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::untrusted::printable;

mod event;

pub use event::Event;

/// A handle to stdout and stderr; clones print to the same.
#[derive(Clone, Debug)]
pub struct Ui {
    stdout: Arc<Line>,
    stderr: Arc<Line>,
    style: Style,
    /// Whether stderr has more than errors.
    talks: bool,
}

/// What events look like.
#[derive(Clone, Debug)]
enum Style {
    /// kubectl's lines for those that kubectl tells.
    Kubectl,
    /// JSON, with the number of the next one.
    Json(Arc<AtomicU64>),
    /// They are not printed.
    Silent,
}

impl Ui {
    /// The process's own stdout and stderr.
    ///
    /// # Errors
    ///
    /// Where the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self::to(own_stdout()?, own_stderr()?))
    }

    /// Prints to other places than the process's own.
    pub fn to(stdout: File, stderr: File) -> Self {
        Self {
            stdout: Arc::new(Line::new(stdout)),
            stderr: Arc::new(Line::new(stderr)),
            style: Style::Kubectl,
            talks: true,
        }
    }

    /// The same with events as JSON lines on stdout.
    #[must_use]
    pub fn json(mut self) -> Self {
        self.style = Style::Json(Arc::default());
        self
    }

    /// The same with nothing on stdout.
    #[must_use]
    pub fn without_events(mut self) -> Self {
        self.style = Style::Silent;
        self
    }

    /// The same with nothing on stderr but errors.
    #[must_use]
    pub fn only_errors(mut self) -> Self {
        self.talks = false;
        self
    }

    /// Something that has happened. Text that comes from elsewhere must be [`printable`] already.
    pub fn event(&self, event: &Event<'_>) {
        match (&self.style, event) {
            (Style::Json(next), _) => {
                let seq = next.fetch_add(1, Ordering::Relaxed);
                self.stdout.print(&event::line(event, seq));
            }
            (Style::Silent, Event::State { message, .. })
            | (Style::Kubectl, Event::State { message, .. }) => self.notice(message),
            (
                Style::Kubectl,
                Event::Listening {
                    address, remote, ..
                },
            ) => {
                self.forwarding(address, remote);
            }
            (Style::Kubectl, Event::Opened { local, .. }) => self.handling(local),
            (Style::Kubectl | Style::Silent, _) => {}
        }
    }

    /// kubectl's line for a port that is bound: `Forwarding from 127.0.0.1:8080 -> 80`.
    fn forwarding(&self, local: impl Display, remote: impl Display) {
        self.stdout
            .print(&format!("Forwarding from {local} -> {remote}"));
    }

    /// kubectl's line for a local connection: `Handling connection for 8080`.
    fn handling(&self, local: impl Display) {
        self.stdout
            .print(&format!("Handling connection for {local}"));
    }

    /// Where a server listens: `Listening on 127.0.0.1:2222`.
    pub fn listening(&self, local: impl Display) {
        self.stdout.print(&format!("Listening on {local}"));
    }

    /// A whole document on stdout, such as a completion script; unlike a line it waits for its reader.
    ///
    /// # Errors
    ///
    /// Where it can't be written; a reader that has seen enough is no error.
    pub fn document(&self, document: &[u8]) -> io::Result<()> {
        let mut file = self.stdout.lock();
        match file.as_mut().map(|file| file.write_all(document)) {
            Some(Err(error)) if error.kind() != ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    /// A failure, with its causes if it is an `anyhow::Error`. As in kubectl, `error:` stands before it unless it
    /// begins as the line of a server or of a connection does.
    pub fn error(&self, error: impl Display) {
        let error = one_line(error);
        match BEGINNINGS
            .iter()
            .any(|beginning| error.starts_with(beginning))
        {
            true => self.stderr.print(&error),
            false => self.stderr.print(&format!("error: {error}")),
        }
    }

    /// Something that went another way than was asked for, but went on.
    pub fn warning(&self, warning: impl Display) {
        if self.talks {
            self.stderr
                .print(&format!("warning: {}", one_line(warning)));
        }
    }

    /// Something good to know while waiting.
    pub fn notice(&self, notice: impl Display) {
        if self.talks {
            self.stderr.print(&one_line(notice));
        }
    }
}

/// A place for lines.
#[derive(Debug)]
struct Line {
    /// None once nobody reads any more.
    file: Mutex<Option<File>>,
}

impl Line {
    fn new(file: File) -> Self {
        Self {
            file: Mutex::new(Some(file)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, text: &str) {
        let mut file = self.lock();
        let Some(open) = file.as_mut().filter(|file| has_room(file)) else {
            return;
        };
        // one write per line: nothing of another process gets into it, and a script sees it whole
        match open.write_all(format!("{text}\n").as_bytes()) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {} // somebody made the pipe non-blocking
            Err(_) => *file = None,
        }
    }
}

/// Whether a line can be written without waiting. A pipe that polls as writable takes a whole page.
#[cfg(unix)]
fn has_room(file: &File) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // an end without a reader is "ready" too: the write then tells
    !matches!(
        poll(&mut [PollFd::new(file, PollFlags::OUT)], Some(&now)),
        Ok(0)
    )
}

#[cfg(not(unix))]
fn has_room(_: &File) -> bool {
    true
}

#[cfg(unix)]
fn own_stdout() -> io::Result<File> {
    use std::os::fd::AsFd as _;

    Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
}

#[cfg(unix)]
fn own_stderr() -> io::Result<File> {
    use std::os::fd::AsFd as _;

    Ok(io::stderr().as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn own_stdout() -> io::Result<File> {
    use std::os::windows::io::AsHandle as _;

    Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn own_stderr() -> io::Result<File> {
    use std::os::windows::io::AsHandle as _;

    Ok(io::stderr().as_handle().try_clone_to_owned()?.into())
}

/// kubectl's lines for what a server says and for one that can't be reached.
const BEGINNINGS: [&str; 3] = [
    "Error from server",
    "The connection to the server",
    "Unable to connect to the server",
];

fn one_line(text: impl Display) -> String {
    printable(&format!("{text:#}"), LONGEST)
}

/// Characters of a line: far more than an error has, and less than a page even if each takes four bytes.
const LONGEST: usize = 1000;

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, Read, pipe};
    use std::os::fd::OwnedFd;

    use super::*;

    fn piped() -> (Ui, BufReader<PipeReader>, BufReader<PipeReader>) {
        let (stdout_reader, stdout) = pipe().unwrap();
        let (stderr_reader, stderr) = pipe().unwrap();
        let ui = Ui::to(OwnedFd::from(stdout).into(), OwnedFd::from(stderr).into());
        // what was printed is there at once, or reading fails
        for reader in [&stdout_reader, &stderr_reader] {
            rustix::fs::fcntl_setfl(reader, rustix::fs::OFlags::NONBLOCK).unwrap();
        }
        (
            ui,
            BufReader::new(stdout_reader),
            BufReader::new(stderr_reader),
        )
    }

    fn next(reader: &mut impl BufRead) -> String {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line
    }

    #[test]
    fn stdout_is_kubectls() {
        let (ui, mut stdout, _stderr) = piped();
        ui.document(b"a\nb\n").unwrap();
        assert_eq!(next(&mut stdout) + &next(&mut stdout), "a\nb\n");
        ui.forwarding("127.0.0.1:8080", 80);
        assert_eq!(next(&mut stdout), "Forwarding from 127.0.0.1:8080 -> 80\n");
        ui.forwarding("unix:/run/x.sock", "http");
        let line = next(&mut stdout);
        assert_eq!(line, "Forwarding from unix:/run/x.sock -> http\n");
        ui.handling(8080);
        assert_eq!(next(&mut stdout), "Handling connection for 8080\n");
        drop(ui);
        assert_eq!(next(&mut stdout), "");
    }

    #[test]
    fn stderr_has_one_harmless_line_per_event() {
        let (ui, stdout, mut stderr) = piped();
        ui.error(anyhow::anyhow!("refused\n\u{1b}[2J").context("forwarding to `web`"));
        assert_eq!(
            next(&mut stderr),
            "error: forwarding to `web`: refused \\u{1b}[2J\n"
        );
        ui.error("Error from server (NotFound): x");
        assert_eq!(next(&mut stderr), "Error from server (NotFound): x\n");
        ui.warning("a\r\nb");
        assert_eq!(next(&mut stderr), "warning: a b\n");
        ui.notice("\u{4e16}".repeat(5000));
        assert_eq!(next(&mut stderr).chars().count(), LONGEST + 1);
        drop(ui);
        assert_eq!(stdout.bytes().count(), 0);
    }

    #[test]
    fn nobody_has_to_read() {
        let (ui, stdout, mut stderr) = piped();
        drop(stdout);
        ui.handling(1);
        ui.handling(2);
        assert!(ui.stdout.file.lock().unwrap().is_none());
        ui.document(b"a script").unwrap();
        ui.error("still here");
        assert_eq!(next(&mut stderr), "error: still here\n");
    }

    #[test]
    fn a_full_pipe_drops_lines_instead_of_waiting() {
        let (ui, mut stdout, _stderr) = piped();
        ui.handling(1);
        for _ in 0..10_000 {
            ui.handling(2); // 260 kB, several times what a pipe holds
        }
        assert_eq!(next(&mut stdout), "Handling connection for 1\n");
        // once there is room, lines come again; what came before is whole
        for _ in 0..10_000 {
            ui.handling(3);
            match &next(&mut stdout)[..] {
                "Handling connection for 2\n" => {}
                "Handling connection for 3\n" => return,
                other => panic!("{other}"),
            }
        }
        panic!("all 10,000 lines were kept");
    }
}
