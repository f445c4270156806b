//! What each command does.
//!
//! [`main`] is the whole program: `src/main.rs` calls it, and so does the playground.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::cli::{self, Cli, Command, GlobalArgs};
use crate::cluster::Stdin;
use crate::ui::Ui;
use reach::Reach;

mod connect;
mod exit;
mod forward;
mod listen;
mod reach;
mod stdio;

/// Runs one command line, its first word being the program's name, to its end. Prints its error, if it has one.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::parse_words(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help that nobody reads to its end is no failure.
            let _ = error.print();
            return ExitCode::from(cli::exit_code(&error));
        }
    };
    log_to_stderr(cli.global.v);
    // The handle's clones of stdout and stderr are the only reason to fail.
    let Ok(ui) = Ui::new() else {
        return ExitCode::FAILURE;
    };
    match run(cli, &ui) {
        Ok(code) => code,
        Err(error) => {
            ui.error(&error);
            ExitCode::from(exit::code(&error))
        }
    }
}

fn run(cli: Cli, ui: &Ui) -> anyhow::Result<ExitCode> {
    let Cli { global, command } = cli;
    match command {
        Command::Forward(args) => on_runtime(async {
            let reach = reach(global, Stdin::Free, &args.reach);
            forward::run(args, reach, ui).await
        }),
        Command::Connect(args) => on_runtime(async {
            let reach = reach(global, Stdin::Taken, &args.reach);
            connect::run(&args, &reach).await
        }),
        Command::Completions { shell } => {
            ui.document(&cli::completion_script(shell))
                .context("cannot write the completion script")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn reach(global: GlobalArgs, stdin: Stdin, args: &cli::ReachArgs) -> Reach {
    let environment = crate::cluster::Environment::capture();
    Reach::new(
        global.into_options(environment, stdin),
        args.transport(),
        args.pod_running_timeout,
    )
}

/// One thread is enough: what a gigabyte costs is encryption and system calls, and threads would only add wake-ups.
fn on_runtime<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start: out of file descriptors or threads")?;
    let outcome = runtime.block_on(command);
    // A read of stdin that will never return must not hold up the exit.
    runtime.shutdown_background();
    outcome
}

/// `-v` as kubectl grades it: from 4 on what kpf does, from 6 on requests, from 8 on everything.
fn log_to_stderr(level: u32) {
    let filter = match level {
        0..=1 => "off",
        2..=3 => "kpf=info",
        4..=5 => "kpf=debug",
        6..=7 => "kpf=trace",
        _ => "kpf=trace,hyper_util=debug,rustls=debug,kube=debug",
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .finish();
    // Whoever embeds the program may have a subscriber of its own.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
