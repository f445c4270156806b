//! `kpf exec`: a command in a container, with this process's stdin, stdout and stderr.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;
use tokio::time::timeout;

use super::exec_lines::{Lines, Written};
use super::exit;
use super::manifest;
use super::reach::Reach;
use super::signal::Signals;
use super::stdio::{Input, Output};
use super::terminal::{Raw, Sizes};
use crate::cli::{self, ExecArgs, ExecTarget};
use crate::cluster::Connection;
use crate::cluster::target::PodRef;
use crate::dial::Dialer;
use crate::exec::hang_up::HangUp;
use crate::exec::verify::{Counted, Verify};
use crate::exec::{self, Command, Local, Session};
use crate::ui::Ui;

/// Runs until the command has ended and all it wrote is delivered. Ends with the command's exit code.
pub(super) async fn run(args: &ExecArgs, mut reach: Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
    let ExecArgs { command, .. } = args;
    let extras = Extras::new(args)?;
    let target = match &command.target {
        ExecTarget::Named(target) => target.clone(),
        ExecTarget::Manifests(names) => manifest::target(names, args.stdin)?,
    };
    let dialer = reach.dialer(&target)?;
    let container = dialer
        .cluster()
        .resolve_container(&target, args.container(), reach.wait)
        .await?;
    if let Some(all) = container.chosen_from.as_ref().filter(|_| !args.quiet) {
        // kubectl's words
        ui.notice(format_args!(
            "Defaulted container {:?} out of: {all}",
            container.name
        ));
    }
    let typed_at = args.stdin && io::stdin().is_terminal();
    let tty = args.tty && typed_at && Raw::is_possible();
    if args.stdin && args.tty && !args.quiet {
        tell_about_terminal(tty, ui);
    }
    let command = Command {
        words: extras.wrap(command.words.clone()),
        container: Some(container.name),
        stdin: args.stdin,
        tty,
    };
    let running = async {
        let session = dialer.exec(&container.pod, &command).await?;
        extras.begun.set(true);
        // Not before: a failure to dial takes nothing from stdin, and is told on a terminal as it was.
        let _raw = tty
            .then(Raw::enter)
            .transpose()
            .context("cannot make the terminal raw")?;
        let stdin = args.stdin.then(Input::open).transpose();
        let stdin = stdin.context("cannot use stdin")?;
        let stdout = Output::stdout().context("cannot use stdout")?;
        let stderr = Output::stderr().context("cannot use stderr")?;
        let (stdout, stderr, lines) = match args.output {
            Some(cli::Output::Json) => {
                let lines = Lines::new(stdout);
                (lines.stream("stdout"), lines.stream("stderr"), Some(lines))
            }
            None => (Written::Plain(stdout), Written::Plain(stderr), None),
        };
        if let Some(lines) = &lines {
            let PodRef {
                namespace, name, ..
            } = &container.pod;
            let place =
                json!({ "namespace": namespace, "pod": name, "container": command.container });
            let told = lines.tell("started", place).await;
            told.map_err(unwritable("stdout"))?;
        }
        let sizes = tty.then(Sizes::new).transpose()?;
        let local = Local {
            stdin,
            stdout,
            stderr,
            sizes,
        };
        let code = extras.run(session, local, tty).await?;
        if let Some(lines) = &lines {
            let told = lines.tell("exited", json!({ "code": code })).await;
            told.map_err(unwritable("stdout"))?;
        }
        Ok(code)
    };
    let mut signals = match (typed_at, args.hang_up) {
        (true, _) => Some(Signals::at_a_terminal()?),
        (false, true) => Some(Signals::deadly()?),
        (false, false) => None,
    };
    let outcome = tokio::select! {
        ended = running => Ok(ended),
        code = caught(&mut signals) => Err(code),
    };
    let may_run = match &outcome {
        Ok(ended) => ended.as_ref().is_err_and(leaves_it_running),
        Err(_signal) => true,
    };
    if may_run {
        tokio::select! {
            () = extras.hang_up(&dialer, &container.pod, command.container, ui) => {}
            _again = caught(&mut signals) => {}
        }
    }
    let ended = match outcome {
        Ok(ended) => ended,
        Err(code) => return Ok(ExitCode::from(code)),
    };
    let code = match ended {
        // As with `connect`, and as any Unix program ends whose reader wants no more: not a success, but no news.
        Err(error) if has_no_reader(&error) => return Ok(ExitCode::from(exit::NO_READER)),
        ended => ended?,
    };
    if code != 0 {
        // kubectl's words
        ui.notice(format_args!("command terminated with exit code {code}"));
    }
    Ok(ExitCode::from(code))
}

async fn caught(signals: &mut Option<Signals>) -> u8 {
    match signals {
        Some(signals) => signals.code().await,
        None => std::future::pending().await,
    }
}

/// What kubectl's exec doesn't do.
struct Extras {
    verify: Option<Verify>,
    hang_up: Option<HangUp>,
    /// The cluster has agreed to run the command.
    begun: Cell<bool>,
}

impl Extras {
    fn new(args: &ExecArgs) -> anyhow::Result<Self> {
        if args.verify && (!args.stdin || args.tty) {
            bail!("--verify is for a stdin that is no terminal: give -i, and not -t");
        }
        Ok(Self {
            verify: args.verify.then(Verify::new).transpose()?,
            hang_up: args.hang_up.then(HangUp::new).transpose()?,
            begun: Cell::new(false),
        })
    }

    fn wrap(&self, words: Vec<OsString>) -> Vec<OsString> {
        let words = match &self.verify {
            Some(verify) => verify.wrap(words),
            None => words,
        };
        match &self.hang_up {
            Some(hang_up) => hang_up.wrap(words),
            None => words,
        }
    }

    async fn run(
        &self,
        session: Session<Connection>,
        local: Local<Input, Written, Written, Sizes>,
        tty: bool,
    ) -> anyhow::Result<u8> {
        let (on_stdout, on_stderr) = match &self.hang_up {
            hang_up if tty => (hang_up.as_ref(), None),
            hang_up => (None, hang_up.as_ref()),
        };
        let mut stdin = local.stdin.map(Counted::new);
        let mut stdout = HangUp::output(on_stdout, local.stdout);
        let stderr = HangUp::output(on_stderr, local.stderr);
        let mut stderr = Verify::stderr(self.verify.as_ref(), stderr);
        let code = session
            .run(Local {
                stdin: stdin.as_mut(),
                stdout: &mut stdout,
                stderr: &mut stderr,
                sizes: local.sizes,
            })
            .await;
        let finishing = async {
            stdout.finish().await.map_err(unwritable("stdout"))?;
            stderr.finish().await.map_err(unwritable("stderr"))
        };
        let code = match code {
            Ok(code) => {
                finishing.await?;
                code
            }
            Err(error) => {
                // The last of it is worth a moment, even where nobody may be reading.
                let _ = timeout(LAST, finishing).await;
                return Err(error.into());
            }
        };
        // A command that has failed needs no check: its own code says more.
        if let (0, Some(verify), Some(stdin)) = (code, &self.verify, &stdin) {
            verify.compare(stdin)?;
        }
        Ok(code)
    }

    /// Ends the command, if that was asked for and it has begun.
    async fn hang_up(&self, dialer: &Dialer, pod: &PodRef, container: Option<String>, ui: &Ui) {
        let Some(hang_up) = self.hang_up.as_ref().filter(|_| self.begun.get()) else {
            return;
        };
        let ending = async {
            let command = hang_up.command(container);
            let command = command.context("it has not said which process it is")?;
            let session = dialer.exec(pod, &command).await?;
            let nothing = Local {
                stdin: None::<tokio::io::Empty>,
                stdout: tokio::io::sink(),
                stderr: tokio::io::sink(),
                sizes: None::<Sizes>,
            };
            anyhow::Ok(session.run(nothing).await?)
        };
        let failure = match timeout(HANG_UP, ending).await {
            Ok(Ok(0)) => return,
            Ok(Ok(code)) => format!("sh has ended with code {code}"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer after {} s", HANG_UP.as_secs()),
        };
        ui.warning(format_args!(
            "the command may still run in the container: {failure}"
        ));
    }
}

/// For the few bytes that were held back, after a failure.
const LAST: Duration = Duration::from_millis(500);

/// For a request and a shell; whoever has ended kpf doesn't want to wait for it.
const HANG_UP: Duration = Duration::from_secs(5);

/// Whether the command may have outlived what went wrong.
fn leaves_it_running(error: &anyhow::Error) -> bool {
    match error.downcast_ref() {
        Some(exec::Error::Remote(_) | exec::Error::Protocol(_)) | None => false,
        Some(_) => true,
    }
}

fn unwritable(stream: &'static str) -> impl FnOnce(io::Error) -> exec::Error {
    move |error| exec::Error::Unwritable { stream, error }
}

fn has_no_reader(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(exec::Error::Unwritable { error, .. }) if error.kind() == io::ErrorKind::BrokenPipe
    )
}

fn tell_about_terminal(tty: bool, ui: &Ui) {
    if !tty {
        // kubectl's words
        ui.notice("Unable to use a TTY - input is not a terminal or the right kind of file");
    } else if !io::stdout().is_terminal() {
        ui.warning(
            "stdout is no terminal, but the pod writes as to one, lines end in CR LF: leave out -t for exact bytes",
        );
    }
}
