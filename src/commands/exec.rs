//! `kpf exec`: a command in a container, with this process's stdin, stdout and stderr.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::exit;
use super::reach::Reach;
use super::signal::Signals;
use super::stdio::{Input, Output};
use super::terminal::{Raw, Sizes};
use crate::cli::ExecArgs;
use crate::cluster::Connection;
use crate::exec::verify::Verify;
use crate::exec::{self, Command, Local, Session};
use crate::ui::Ui;

/// Runs until the command has ended and all it wrote is delivered. Ends with the command's exit code.
pub(super) async fn run(args: &ExecArgs, mut reach: Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
    let ExecArgs { command, .. } = args;
    if args.verify && (!args.stdin || args.tty) {
        bail!("--verify is for a stdin that is no terminal: give -i, and not -t");
    }
    let dialer = reach.dialer(&command.target)?;
    let container = dialer
        .cluster()
        .resolve_container(&command.target, args.container(), reach.wait)
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
    let verify = args.verify.then(Verify::new).transpose()?;
    let words = command.words.clone();
    let command = Command {
        words: match &verify {
            Some(verify) => verify.wrap(words),
            None => words,
        },
        container: Some(container.name),
        stdin: args.stdin,
        tty,
    };
    let running = async {
        let session = dialer.exec(&container.pod, &command).await?;
        // Not before: a failure to dial takes nothing from stdin, and is told on a terminal as it was.
        let _raw = tty
            .then(Raw::enter)
            .transpose()
            .context("cannot make the terminal raw")?;
        let stdin = args.stdin.then(Input::open).transpose();
        let stdin = stdin.context("cannot use stdin")?;
        let stdout = Output::stdout().context("cannot use stdout")?;
        let stderr = Output::stderr().context("cannot use stderr")?;
        let sizes = tty.then(Sizes::new).transpose()?;
        let code = match (verify, stdin) {
            (Some(verify), Some(stdin)) => {
                run_verified(session, &verify, stdin, stdout, stderr).await?
            }
            (_, stdin) => {
                let local = Local {
                    stdin,
                    stdout,
                    stderr,
                    sizes,
                };
                session.run(local).await?
            }
        };
        anyhow::Ok(code)
    };
    let ended = if typed_at {
        let mut signals = Signals::at_a_terminal()?;
        tokio::select! {
            ended = running => ended,
            code = signals.wait() => return Ok(code),
        }
    } else {
        running.await
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

/// A command that has failed needs no check: its own code says more.
async fn run_verified(
    session: Session<Connection>,
    verify: &Verify,
    stdin: Input,
    stdout: Output,
    stderr: Output,
) -> anyhow::Result<u8> {
    let mut stdin = verify.stdin(stdin);
    let mut stderr = verify.stderr(stderr);
    let local = Local {
        stdin: Some(&mut stdin),
        stdout,
        stderr: &mut stderr,
        sizes: None::<Sizes>,
    };
    let code = session.run(local).await;
    let finished = stderr.finish().await;
    let code = code?;
    finished.map_err(|error| exec::Error::Unwritable {
        stream: "stderr",
        error,
    })?;
    if code == 0 {
        stdin.compare(&stderr)?;
    }
    Ok(code)
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
