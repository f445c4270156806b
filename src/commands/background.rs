//! Forwards that go on when their command line has returned: started, listed and ended.
//!
//! Each is a process of its own, with a file that says what it forwards and that it holds a lock on. So a file whose lock can
//! be had is a dead one's, whoever may have its process id by now.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::cli::{ForwardArgs, Output, Stop};
use crate::cluster::Environment;
use crate::ui::{Event, Ui};
use crate::untrusted::printable;

/// How long a forward that was told to end may take: its tunnels and commands have 3 s.
const ENDING: Duration = Duration::from_secs(10);

/// What a forward in the background says of itself.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Record {
    /// Its process.
    number: u32,
    /// RFC 3339.
    since: String,
    forwards: Vec<Listed>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Listed {
    target: String,
    address: String,
    remote: String,
}

/// It is listed as long as this is.
pub(super) struct Entered {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl Record {
    pub(super) fn push(&mut self, target: &str, address: &str, remote: &str) {
        self.forwards.push(Listed {
            target: target.to_owned(),
            address: address.to_owned(),
            remote: remote.to_owned(),
        });
    }

    /// Lists this process.
    pub(super) fn enter(mut self, environment: &Environment) -> anyhow::Result<Entered> {
        self.number = std::process::id();
        self.since = jiff::Timestamp::now().to_string();
        let path = file_of(&folder(environment)?, self.number);
        let write = || {
            let mut file = private().open(&path)?;
            file.lock()?;
            serde_json::to_writer(&mut file, &self)?;
            file.flush()?;
            std::io::Result::Ok(file)
        };
        let file = write().with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(Entered { path, _file: file })
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // what stays is found to be dead by the next --list
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(self.path.with_extension("log"));
    }
}

/// Leaves the terminal and its session: neither Ctrl-C nor a hang-up is for this process.
pub(super) fn detach() -> anyhow::Result<()> {
    #[cfg(unix)]
    rustix::process::setsid().context("cannot leave the terminal")?;
    Ok(())
}

/// Starts this command line again as a process of its own, and returns once it is ready.
pub(super) fn start(
    args: &ForwardArgs,
    environment: &Environment,
    ui: &Ui,
) -> anyhow::Result<ExitCode> {
    if cfg!(not(unix)) {
        bail!("--background needs a Unix system");
    }
    let folder = folder(environment)?;
    let log = folder.join(format!("starting-{}.log", std::process::id()));
    let _removed = Removed(&log);
    let stderr = private()
        .open(&log)
        .with_context(|| format!("cannot write `{}`", log.display()))?;
    let reads_stdin = args.forwards.file.as_deref() == Some(Path::new("-"));
    let program = std::env::current_exe().context("cannot find out where kpf is")?;
    let mut child = Command::new(program)
        .args(words(std::env::args_os().skip(1)))
        .stdin(if reads_stdin {
            Stdio::inherit()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .context("cannot start a process for the background")?;
    let stdout = child.stdout.take().context("no pipe")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read what the process in the background says")?;
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let text = |field: &str| event[field].as_str().unwrap_or_default();
        match text("type") {
            "listening" => ui.event(&Event::Listening {
                target: text("target"),
                pod: text("pod"),
                address: text("address"),
                port: event["port"].as_u64().and_then(|port| port.try_into().ok()),
                remote: text("remote"),
            }),
            "ready" => {
                ui.event(&Event::Ready);
                let kept = file_of(&folder, child.id()).with_extension("log");
                // without it, what it says later is nowhere to be read
                fs::rename(&log, kept).context("cannot keep its log")?;
                ui.notice(format_args!(
                    "forwarding in the background; to end it: kpf forward --stop {}",
                    child.id()
                ));
                return Ok(ExitCode::SUCCESS);
            }
            _ => {}
        }
    }
    // It is over, and has said why.
    let status = child.wait().context("cannot wait for the process")?;
    for line in fs::read_to_string(&log).unwrap_or_default().lines() {
        ui.error(line.strip_prefix("error: ").unwrap_or(line));
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(super::exit::OTHER).max(1)))
}

/// The words of the process in the background.
fn words(own: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut is_flag = true;
    own.map(|word| {
        is_flag &= word != "--";
        match is_flag && word == "--background" {
            true => "--in-background".into(),
            false => word,
        }
    })
    .collect()
}

/// Prints those that live, and removes what dead ones have left.
pub(super) fn list(
    environment: &Environment,
    output: Option<Output>,
    ui: &Ui,
) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    for record in living(&folder(environment)?)? {
        match output {
            Some(Output::Json) => text += &(serde_json::to_string(&record)? + "\n"),
            None => {
                for Listed {
                    target,
                    address,
                    remote,
                } in &record.forwards
                {
                    let line = format!("{}\t{address} -> {remote}\t{target}", record.number);
                    // the tabs stay
                    let columns = line.split('\t').map(|column| printable(column, 300));
                    text += &(columns.collect::<Vec<_>>().join("\t") + "\n");
                }
            }
        }
    }
    ui.document(text.as_bytes())
        .context("cannot write to stdout")?;
    Ok(ExitCode::SUCCESS)
}

/// Ends one or all of them, and waits until they have ended.
pub(super) fn stop(environment: &Environment, which: Stop, ui: &Ui) -> anyhow::Result<ExitCode> {
    let folder = folder(environment)?;
    let living = living(&folder)?;
    let wanted: Vec<u32> = match which {
        Stop::All => living.iter().map(|record| record.number).collect(),
        Stop::One(number) => {
            if !living.iter().any(|record| record.number == number) {
                bail!(
                    "no forward in the background has the number {number}: see `kpf forward --list`"
                );
            }
            vec![number]
        }
    };
    for &number in &wanted {
        terminate(number)?;
    }
    let deadline = Instant::now() + ENDING;
    for number in wanted {
        while is_locked(&file_of(&folder, number)) {
            if Instant::now() > deadline {
                bail!(
                    "the forward {number} was told to end and has not: `kill -9 {number}` ends it"
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        ui.notice(format_args!("stopped {number}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn terminate(number: u32) -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        use rustix::process::{Pid, Signal, kill_process};
        let id = Pid::from_raw(number.cast_signed()).context("no process")?;
        match kill_process(id, Signal::TERM) {
            Err(error) if error != rustix::io::Errno::SRCH => {
                Err(error).with_context(|| format!("cannot end the process {number}"))
            }
            _ => Ok(()),
        }
    }
    #[cfg(not(unix))]
    bail!("the process {number} can't be ended: --background needs a Unix system")
}

fn living(folder: &Path) -> anyhow::Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        if !is_locked(&path) {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(path.with_extension("log"));
            continue;
        }
        let record = fs::read(&path).ok();
        let record = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        // one that is being written now, or that another version has written, isn't ours to judge
        records.extend(record);
    }
    records.sort_by_key(|record| record.number);
    Ok(records)
}

/// Whether its process lives.
fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_err())
}

fn folder(environment: &Environment) -> anyhow::Result<PathBuf> {
    let folder = environment.state_folder();
    let folder = folder
        .context("there is no home directory: set HOME")?
        .join("forwards");
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        builder.mode(0o700);
    }
    builder
        .create(&folder)
        .with_context(|| format!("cannot make `{}`", folder.display()))?;
    Ok(folder)
}

fn file_of(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number}.json"))
}

/// For files that are nobody else's.
fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    options
}

/// A file that is gone with this.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        // it may have got another name
        let _ = fs::remove_file(self.0);
    }
}
