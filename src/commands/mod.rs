//! What each command does.
//!
//! [`main`] is the whole program: `src/main.rs` calls it, and so does the playground.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use anyhow::Context as _;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::cli::{
    self, Cli, Command, CompleteArgs, ForwardArgs, GatewayCommand, ScriptArgs, Streaming,
};
use crate::cluster::{Environment, Stdin};
use crate::complete::{self, Completions};
use crate::ui::Ui;
use crate::untrusted::printable;
use reach::Reach;

mod accept;
mod background;
mod claims;
mod companion;
mod connect;
mod doctor;
mod exec;
mod exec_lines;
mod exit;
mod forward;
mod gateway;
mod known_hosts;
mod listen;
mod manifest;
mod plan;
mod proxy;
mod reach;
mod ready;
mod signal;
mod ssh_config;
mod stdio;
mod terminal;

/// Runs one command line, its first word being the program's name, to its end. Prints its error, if it has one.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    // Cloning the descriptors of stdout and stderr is all that can fail.
    let Ok(ui) = Ui::new() else {
        return ExitCode::from(exit::OTHER);
    };
    let cli = match Cli::parse_words(words) {
        Ok(cli) => cli,
        Err(error) => {
            match cli::complaint(&error) {
                Some(complaint) => ui.error(complaint),
                // Help that nobody reads to its end is no failure.
                None => drop(error.print()),
            }
            return ExitCode::from(cli::exit_code(&error));
        }
    };
    log_to_stderr(cli.global.v);
    let Cli { global, command } = cli;
    let (outcome, code): (_, fn(&anyhow::Error) -> u8) = match command {
        Command::Forward(args) => {
            let reach = Reach::new(&global, &args.reach, Streaming::PortForward, Stdin::Free);
            // kubectl knows only this one code.
            (forward(&args, reach, &ui), |_| exit::OTHER)
        }
        Command::Connect(args) => {
            let reach = Reach::new(&global, &args.reach, Streaming::PortForward, Stdin::Taken);
            let reach = reach.with_aliases(&args.alias);
            (on_runtime(connect::run(&args, reach, &ui)), exit::code)
        }
        Command::Exec(args) => {
            let stdin = if args.stdin {
                Stdin::Taken
            } else {
                Stdin::Free
            };
            let reach = Reach::new(&global, &args.reach, Streaming::Exec, stdin);
            (on_runtime(exec::run(&args, reach, &ui)), exit::exec_code)
        }
        Command::Gateway(args) => {
            let outcome = match &args.command {
                None => {
                    let reach = Reach::new(&global, &args.reach, Streaming::Exec, Stdin::Free);
                    on_threads(gateway::run(&args, reach, &ui))
                }
                Some(GatewayCommand::Check(args)) => {
                    on_runtime(gateway::check::run(args, &global, &ui))
                }
                Some(GatewayCommand::Manifests(args)) => gateway::manifests::run(args, &ui),
                Some(GatewayCommand::Audit(args)) => gateway::audit::run(args, &ui),
                Some(GatewayCommand::Replay(args)) => on_runtime(gateway::replay::run(args, &ui)),
            };
            (outcome, |_| exit::OTHER)
        }
        Command::Proxy(args) => {
            let reach = Reach::new(&global, &args.reach, Streaming::PortForward, Stdin::Free);
            (on_runtime(proxy::run(&args, reach, &ui)), |_| exit::OTHER)
        }
        Command::Doctor(args) => (on_runtime(doctor::run(&args, &global, &ui)), |_| {
            exit::OTHER
        }),
        Command::SshConfig(args) => (ssh_config::run(&args, &global, &ui), |_| exit::OTHER),
        Command::KnownHosts(args) => (known_hosts::run(&args, &ui), |_| exit::OTHER),
        Command::Complete(args) => (complete(&args, &ui), |_| exit::OTHER),
        Command::Completions { shell } => (completions(shell, &ui), |_| exit::OTHER),
    };
    outcome.unwrap_or_else(|error| {
        ui.error(with_causes(&error));
        ExitCode::from(code(&error))
    })
}

fn forward(args: &ForwardArgs, reach: Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
    let ScriptArgs {
        output,
        quiet,
        list,
        ..
    } = args.script;
    let mut ui = ui.clone();
    if quiet {
        ui = ui.without_events().only_errors();
    }
    if output == Some(cli::Output::Json) {
        ui = ui.json();
    }
    match &args.script {
        _ if list => background::list(reach.environment(), output, &ui),
        ScriptArgs {
            stop: Some(stop), ..
        } => background::stop(reach.environment(), *stop, &ui),
        ScriptArgs {
            background: true, ..
        } => background::start(args, reach.environment(), &ui),
        ScriptArgs {
            in_background: true,
            ..
        } => {
            background::detach()?;
            on_runtime(forward::run(args, reach, &ui.json()))
        }
        // stdout is the command's
        _ if !args.forwards.command.is_empty() => {
            on_runtime(forward::run(args, reach, &ui.without_events()))
        }
        _ => on_runtime(forward::run(args, reach, &ui)),
    }
}

/// The error and its causes, without those that it has in its own words already.
fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Nothing that goes wrong here is worth a word: a person is typing.
fn complete(args: &CompleteArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let words = &args.words;
    let found = on_runtime(async { Ok(complete::complete(words, Environment::capture()).await) })?;
    let with_help = args.shell != clap_complete::Shell::Bash;
    let mut lines = String::new();
    match found {
        Completions::Files => lines += "//files\n",
        Completions::Words(words) => {
            for (word, help) in words {
                lines += &printable(&word, LONGEST_WORD);
                if with_help && !help.is_empty() {
                    lines += &format!("\t{}", printable(&help, LONGEST_HELP));
                }
                lines.push('\n');
            }
        }
    }
    ui.document(lines.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Characters of a candidate: more than any name has.
const LONGEST_WORD: usize = 1000;
/// Characters of what explains it, for a line of a terminal.
const LONGEST_HELP: usize = 100;

fn completions(shell: clap_complete::Shell, ui: &Ui) -> anyhow::Result<ExitCode> {
    ui.document(&cli::completion_script(shell))
        .context("cannot write the completion script")?;
    Ok(ExitCode::SUCCESS)
}

/// Lets the heap keep what is freed. glibc gives the top of the heap back to the system at every free of more than
/// 128 KiB, and takes it again, page by page, for the next buffer; it raises that bound to twice the largest mapped
/// block that was ever freed. No page of this one is touched. Other allocators just see a block come and go.
fn keep_heap() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(2 << 20)));
}

/// For whoever serves many: one connection's encryption is not to hold up another's.
fn on_threads<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    keep_heap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start: out of file descriptors or threads")?;
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    outcome
}

/// One thread is enough: what a gigabyte costs is encryption and system calls, and threads would only add wake-ups.
fn on_runtime<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    keep_heap();
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
    // Nobody can write these by hand: they need no regular expressions, which `EnvFilter` brings along.
    let filter: Targets = filter.parse().expect("a list of targets and levels");
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    let subscriber = tracing_subscriber::registry().with(lines.with_filter(filter));
    // Whoever embeds the program may have a subscriber of its own.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
