//! A child process: what it said, what it used, and its end.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Nothing here takes as long on a machine that is merely busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// So much of stderr is kept for an error message.
const COMPLAINT: usize = 4096;

/// What `USER_HZ` is on every Linux that Rust runs on: times in `/proc` are given in these.
const TICKS_PER_SECOND: u64 = 100;

/// A child that is killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    complaint: Arc<Mutex<String>>,
}

impl Process {
    /// Starts a command with a pipe at each of its three ends.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))?;
        let stderr = child.stderr.take().context("stderr is no pipe")?;
        let complaint = Arc::default();
        keep(stderr, Arc::clone(&complaint));
        Ok(Self { child, complaint })
    }

    pub(crate) fn stdin(&mut self) -> anyhow::Result<std::process::ChildStdin> {
        self.child.stdin.take().context("stdin was taken before")
    }

    pub(crate) fn stdout(&mut self) -> anyhow::Result<std::process::ChildStdout> {
        self.child.stdout.take().context("stdout was taken before")
    }

    /// The beginning of what it said on stderr.
    pub(crate) fn complaint(&self) -> String {
        let complaint = self.complaint.lock();
        let complaint = complaint.unwrap_or_else(PoisonError::into_inner);
        complaint.trim().to_owned()
    }

    /// CPU time so far, user and system, of all its threads; counted in steps of 10 ms.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        // utime and stime
        cpu_times(&self.child.id().to_string(), 11)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        self.memory("VmRSS:")
    }

    /// The most resident memory that it has had, in bytes.
    pub(crate) fn peak(&self) -> anyhow::Result<u64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_suffix("kB"))
            .with_context(|| format!("no {field} in /proc"))?;
        Ok(kib.trim().parse::<u64>()? * 1024)
    }

    /// Waits for its end; afterwards it is killed like any other.
    pub(crate) fn wait_for_end(&mut self, patience: Duration) {
        // whoever doesn't end is killed
        let _ = self.end(patience);
    }

    /// Waits for its end, and says how it was.
    pub(crate) fn end(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(ended) = self.child.try_wait()? {
                return Ok(ended);
            }
            anyhow::ensure!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU time of all children that have ended; counted in steps of 10 ms, rounded once and not for each child.
pub(crate) fn cpu_of_ended_children() -> anyhow::Result<Duration> {
    // cutime and cstime
    cpu_times("self", 13)
}

/// The sum of two neighbouring times in `/proc/PID/stat`, counted from the field after the program's name.
fn cpu_times(pid: &str, first: usize) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // the name stands in parentheses and may hold some itself
    let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
    let times = fields.split_whitespace().skip(first).take(2);
    let ticks: u64 = times.map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// A child's lines, read to the end even if nobody wants them any more.
pub(crate) struct Lines(mpsc::Receiver<String>);

impl Lines {
    pub(crate) fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self(lines)
    }

    /// The next line; an error at the end or after [`DEADLINE`].
    pub(crate) fn next(&self) -> Result<String, mpsc::RecvTimeoutError> {
        self.0.recv_timeout(DEADLINE)
    }
}

fn keep(stderr: ChildStderr, complaint: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut room = COMPLAINT;
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if room >= line.len() {
                room -= line.len();
                let mut complaint = complaint.lock().unwrap_or_else(PoisonError::into_inner);
                complaint.push_str(&line);
                complaint.push('\n');
            }
        }
    });
}
