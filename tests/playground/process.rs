//! The commands that run in containers: local processes in a folder of their own, some of them in a terminal.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use super::sshd;

/// What to run, and where.
pub(crate) struct Program<'a> {
    pub(crate) words: &'a [String],
    pub(crate) folder: &'a Path,
    pub(crate) hostname: &'a str,
    /// `NAME=VALUE`, by which [`end_marked`] finds it.
    pub(crate) mark: &'a str,
    /// Where the container's programs are, if it hasn't the machine's.
    pub(crate) programs: Option<&'a Path>,
    pub(crate) stdin: bool,
    pub(crate) tty: bool,
}

/// A running command. Its process group ends when this is dropped before the command has ended.
pub(crate) struct Process {
    child: Child,
    group: Option<Pid>,
    pub(crate) input: Option<Input>,
    pub(crate) output: Option<Output>,
    pub(crate) errors: Option<ChildStderr>,
    terminal: Option<Arc<AsyncFd<OwnedFd>>>,
}

pub(crate) enum Input {
    Pipe(ChildStdin),
    Terminal(Arc<AsyncFd<OwnedFd>>),
}

pub(crate) enum Output {
    Pipe(ChildStdout),
    Terminal(Arc<AsyncFd<OwnedFd>>),
}

impl Process {
    /// Starts it, or says why not in runc's words.
    pub(crate) fn start(program: &Program<'_>) -> Result<Self, String> {
        let path = find(program)?;
        let started = if program.tty {
            Self::in_terminal(program, &path)
        } else {
            Self::on_pipes(program, &path)
        };
        started.map_err(|error| format!("exec: {:?}: {error}", program.words[0]))
    }

    fn on_pipes(program: &Program<'_>, path: &Path) -> io::Result<Self> {
        let mut command = command(program, path);
        let stdin = if program.stdin {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let mut child = command
            .args(&program.words[1..])
            .process_group(0)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        Ok(Self {
            group: group(&child),
            input: child.stdin.take().map(Input::Pipe),
            output: child.stdout.take().map(Output::Pipe),
            errors: child.stderr.take(),
            child,
            terminal: None,
        })
    }

    fn in_terminal(program: &Program<'_>, path: &Path) -> io::Result<Self> {
        let (terminal, inner) = open_terminal()?;
        // Only a session's leader can have a terminal, and util-linux's setsid makes one without unsafe code of ours.
        let mut command = command(program, Path::new("setsid"));
        let child = command
            .env("TERM", "xterm")
            .arg("--ctty")
            .arg(path)
            .args(&program.words[1..])
            .stdin(inner.try_clone()?)
            .stdout(inner.try_clone()?)
            .stderr(inner)
            .spawn()?;
        drop(command); // it holds the inner end open
        fcntl_setfl(&terminal, OFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "what replaces it is `unsafe` and wants an fd that stays open: this one is owned"
        )]
        let terminal = Arc::new(AsyncFd::new(terminal)?);
        Ok(Self {
            group: group(&child),
            input: program.stdin.then(|| Input::Terminal(terminal.clone())),
            output: Some(Output::Terminal(terminal.clone())),
            errors: None,
            child,
            terminal: Some(terminal),
        })
    }

    /// Its terminal, if it has one.
    pub(crate) fn terminal(&self) -> Option<Terminal> {
        self.terminal.clone().map(Terminal)
    }

    /// What it has left behind when it ends stays, as in any container; see [`end_marked`].
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let ended = self.child.wait().await?;
        self.group = None;
        Ok(ended)
    }
}

/// A handle to the terminal of a process.
pub(crate) struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    /// Sets its size; the kernel tells the processes in it.
    pub(crate) fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // it may have just gone
        let _ = tcsetwinsize(&*self.0, size);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // a group that has ended needs nothing
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Input {
    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(bytes).await,
            Self::Terminal(terminal) => {
                while !bytes.is_empty() {
                    let mut ready = terminal.writable().await?;
                    let written = ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?));
                    if let Ok(written) = written {
                        bytes = &bytes[written?..];
                    }
                }
                Ok(())
            }
        }
    }
}

impl Output {
    /// 0 at the end.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.read(buffer).await,
            Self::Terminal(terminal) => loop {
                let mut ready = terminal.readable().await?;
                match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut *buffer)?)) {
                    // the last process in the terminal has ended
                    Ok(Err(error))
                        if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) =>
                    {
                        return Ok(0);
                    }
                    Ok(read) => return read,
                    Err(_would_block) => {}
                }
            },
        }
    }
}

/// A new terminal: our end and the processes' end.
pub(crate) fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&outer)?;
    unlockpt(&outer)?;
    let name = ptsname(&outer, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let inner = rustix::fs::open(name, flags, Mode::empty())?;
    Ok((outer, inner))
}

/// Ends all processes that have this in their environment, wherever their parents are.
pub(crate) fn end_marked(mark: &str) {
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok());
        let Some(pid) = pid.and_then(Pid::from_raw) else {
            continue;
        };
        // other people's processes, and those that have just ended, can't be read
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        if variables.any(|variable| variable == mark.as_bytes()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn command(program: &Program<'_>, path: &Path) -> Command {
    let mut command = Command::new(path);
    let (name, value) = program.mark.split_once('=').unwrap_or_default();
    command
        .current_dir(program.folder)
        .env_clear()
        .env("PATH", path_of(program))
        .env("HOME", program.folder)
        .env("HOSTNAME", program.hostname)
        .env(name, value)
        .kill_on_drop(true);
    command
}

fn path_of(program: &Program<'_>) -> OsString {
    match program.programs {
        Some(folder) => folder.into(),
        None => std::env::var_os("PATH").unwrap_or_default(),
    }
}

fn group(child: &Child) -> Option<Pid> {
    Pid::from_raw(child.id()?.cast_signed())
}

/// The program's file, or what runc says.
fn find(program: &Program<'_>) -> Result<PathBuf, String> {
    let name = &program.words[0];
    if !name.contains('/') {
        let found = match program.programs {
            Some(folder) => Some(folder.join(name)).filter(|file| file.is_file()),
            None => sshd::find(name),
        };
        return found.ok_or_else(|| format!("exec: {name:?}: executable file not found in $PATH"));
    }
    let path = program.folder.join(name);
    let Ok(metadata) = fs::metadata(&path) else {
        return Err(format!(
            "exec: {name:?}: stat {name}: no such file or directory"
        ));
    };
    if metadata.is_dir() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(format!("exec: {name:?}: permission denied"));
    }
    Ok(path)
}
