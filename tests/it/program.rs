//! Programs as child processes: with nothing of the person who runs the tests, under a deadline, and never left behind.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process_group};
use tempfile::TempDir;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::playground::{Options, Playground};

/// For whatever must happen: long, because machines are busy; no test waits for it in vain.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// What the tests move where a transfer is to be long.
pub(crate) const BULK: usize = 100 << 20;

/// A playground, and a home for those who use it.
pub(crate) struct TestEnv {
    pub(crate) playground: Playground,
    home: TempDir,
}

impl TestEnv {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        Self {
            playground: Playground::start(options).expect("a playground"),
            home: tempfile::tempdir().expect("a home"),
        }
    }

    /// The home of all that is run here.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The program that was built with these tests.
    pub(crate) fn kpf<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_kpf"));
        command.args(words);
        command
    }

    /// Any program that is to see the playground as the only cluster.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        command(
            program.as_ref(),
            self.home.path(),
            &self.playground.kubeconfig(),
        )
    }
}

/// A program that has this home, knows only these clusters, and nothing of the person who runs the tests.
pub(crate) fn command(program: &OsStr, home: &Path, kubeconfig: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("KUBECONFIG", kubeconfig)
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    command
}

/// A child and its children, which are ended when it is dropped.
pub(crate) struct Process {
    child: Child,
    group: Pid,
    ended: bool,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<BufReader<ChildStdout>>,
    stderr: Option<JoinHandle<()>>,
    /// What it has written to stderr so far.
    said: Arc<Mutex<Vec<u8>>>,
}

/// How a program ended, and what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; 128 and the signal where one ended it, as a shell has it.
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let id = child.id().expect("it has not been waited for");
        let said = Arc::<Mutex<Vec<u8>>>::default();
        let heard = said.clone();
        let stderr = child.stderr.take().map(|mut pipe| {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                // until its writers are gone
                while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
                    heard.lock().unwrap().extend_from_slice(&buffer[..length]);
                }
            })
        });
        Self {
            group: Pid::from_raw(id.try_into().expect("a pid")).expect("a pid"),
            ended: false,
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map(BufReader::new),
            stderr,
            said,
            child,
        }
    }

    /// The next line of stdout, with its end; empty where there is no more.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().expect("a pipe");
        in_time(stdout.read_line(&mut line)).await.expect("text");
        line
    }

    /// What it has written to stderr so far.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    pub(crate) fn id(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.group, signal).expect("it is alive");
    }

    /// Waits for its end; what remains of its output comes with it. stdin stays as it is.
    pub(crate) async fn end(&mut self) -> Ended {
        let mut stdout = Vec::new();
        if let Some(pipe) = self.stdout.as_mut() {
            in_time(pipe.read_to_end(&mut stdout))
                .await
                .expect("output");
        }
        let code = self.code().await;
        if let Some(task) = self.stderr.take() {
            in_time(task).await.expect("a task that ends");
        }
        let stderr = self.said.lock().unwrap().clone();
        let stderr = String::from_utf8(stderr).expect("text on stderr");
        Ended {
            code,
            stdout,
            stderr,
        }
    }

    /// Waits for its end, whatever it writes.
    pub(crate) async fn code(&mut self) -> i32 {
        let status: ExitStatus = in_time(self.child.wait()).await.expect("a status");
        self.ended = true;
        let by_signal = status.signal().map(|signal| 128 + signal);
        status.code().or(by_signal).expect("a code or a signal")
    }

    /// Waits until none of its children is left.
    pub(crate) async fn nobody_left(&self) {
        until("nobody is left", || {
            test_kill_process_group(self.group) == Err(Errno::SRCH)
        })
        .await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            // it may have ended without our knowing
            let _ = kill_process_group(self.group, Signal::KILL);
        }
        if std::thread::panicking() {
            show(&self.said);
        }
    }
}

/// A test fails: what the program has said may tell why.
#[expect(clippy::print_stderr, reason = "the test runner shows it")]
fn show(said: &Mutex<Vec<u8>>) {
    if let Ok(said) = said.lock() {
        eprintln!("stderr was:\n{}", String::from_utf8_lossy(&said));
    }
}

/// Runs a program to its end.
pub(crate) async fn run(command: Command) -> Ended {
    Process::start(command).end().await
}

/// Runs a program that gets these bytes on stdin, and then its end.
pub(crate) async fn feed(mut command: Command, bytes: &[u8]) -> Ended {
    let mut process = Process::start({
        command.stdin(Stdio::piped());
        command
    });
    let mut stdin = process.stdin.take().expect("a pipe");
    let writing = async move {
        // a program that doesn't want all of it may say so
        let _ = stdin.write_all(bytes).await;
    };
    tokio::join!(process.end(), writing).0
}

pub(crate) async fn in_time<T>(happening: impl Future<Output = T>) -> T {
    timeout(DEADLINE, happening)
        .await
        .expect("it happens in time")
}

/// Waits for something that nobody tells.
pub(crate) async fn until(what: &str, happened: impl Fn() -> bool) {
    let waiting = async {
        while !happened() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(DEADLINE, waiting)
        .await
        .unwrap_or_else(|_| panic!("{what} in time"));
}

/// Bytes of which no two stretches are alike, so that a lost, doubled or swapped block shows.
pub(crate) struct Noise {
    block: Vec<u8>,
    left: usize,
    digest: Context,
}

impl Noise {
    pub(crate) fn new(length: usize) -> Self {
        Self {
            // a linear congruential generator's upper bits (Knuth's MMIX constants)
            block: (0..1u64 << 13)
                .scan(length as u64, |state, _| {
                    *state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    Some(*state)
                })
                .flat_map(u64::to_be_bytes)
                .collect(),
            left: length,
            digest: Context::new(&SHA256),
        }
    }

    /// The next stretch, none at the end.
    fn next(&mut self) -> Option<&[u8]> {
        let length = self.left.min(self.block.len());
        self.block[..8].copy_from_slice(&self.left.to_be_bytes());
        self.left -= length;
        let stretch = &self.block[..length];
        self.digest.update(stretch);
        (length > 0).then_some(stretch)
    }

    /// Writes all of it, and says its digest.
    pub(crate) async fn write_to(mut self, mut to: impl AsyncWrite + Unpin) -> io::Result<String> {
        while let Some(stretch) = self.next() {
            to.write_all(stretch).await?;
        }
        to.flush().await?;
        Ok(hex(self.digest))
    }

    /// Makes a file of it, and says its digest.
    pub(crate) fn save(mut self, path: &Path) -> String {
        let mut file = File::create(path).expect("a new file");
        while let Some(stretch) = self.next() {
            file.write_all(stretch).expect("a file takes it");
        }
        hex(self.digest)
    }

    pub(crate) fn digest(mut self) -> String {
        while self.next().is_some() {}
        hex(self.digest)
    }
}

/// The digest of so many bytes, or of what there is up to the end.
pub(crate) async fn digest_of(
    mut from: impl AsyncRead + Unpin,
    length: usize,
) -> io::Result<String> {
    let mut digest = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 16];
    let mut left = length;
    while left > 0 {
        let wanted = left.min(buffer.len());
        let n = from.read(&mut buffer[..wanted]).await?;
        if n == 0 {
            break;
        }
        digest.update(&buffer[..n]);
        left -= n;
    }
    Ok(hex(digest))
}

/// The digest of a file.
pub(crate) fn digest_of_file(path: &Path) -> String {
    let mut file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut digest = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).expect("a file that can be read") {
            0 => return hex(digest),
            n => digest.update(&buffer[..n]),
        }
    }
}

fn hex(digest: Context) -> String {
    let digest = digest.finish();
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
