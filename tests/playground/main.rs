//! `cargo run --example playground`: a Kubernetes to try kpf on, until Ctrl-C.
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a command line")]

#[path = "mod.rs"]
mod playground;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::timeout;

use playground::{Options, Playground, kubeconfig};

/// The first argument with which the playground is its own credential plugin.
const PLUGIN: &str = "__plugin";
/// The first argument with which it is kpf: the command line after `--` runs as a process of its own.
const KPF: &str = "__kpf";
/// How long a command may take to end by itself after Ctrl-C, which the terminal sends to it too...
const COURTESY: Duration = Duration::from_secs(1);
/// ... and how long once it was told to.
const PATIENCE: Duration = Duration::from_secs(5);

/// A Kubernetes in one process: try kpf (or kubectl) on it.
#[derive(Parser)]
#[command(name = "playground", max_term_width = 100)]
struct Arguments {
    /// Write the kubeconfig to this file (only you can read it), and serve until Ctrl-C
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Act as this version of Kubernetes: tunnelling from 1.31, a second access check from 1.35
    #[arg(long, value_name = "1.N", default_value = "1.36")]
    server_version: String,
    /// Pass half-closes on to the pods; no real node does
    #[arg(long)]
    half_close: bool,
    /// Where the API server listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Whose context is the current one: admin, cert, plugin, basic, viewer, stream-only, exec-only, get-only, create-only,
    /// no-watch or wrong
    #[arg(long, value_name = "USER", default_value = "admin")]
    context_user: String,
    /// Run this kpf command against the playground, and end with it
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    match words.next() {
        Some(first) if first == PLUGIN => {
            let token = std::env::var("KPF_PLAYGROUND_TOKEN").unwrap_or_default();
            print!("{}", kubeconfig::exec_credential(&token));
            return ExitCode::SUCCESS;
        }
        Some(first) if first == KPF => {
            return kpf::commands::main(std::iter::once("kpf".into()).chain(words));
        }
        _ => {}
    }
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("playground: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let myself = std::env::current_exe()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // before there is anything that a signal could leave behind
    let mut signals = {
        let _entered = runtime.enter();
        Signals::new()?
    };
    let playground = Playground::start(Options {
        listen: arguments.listen,
        server_version: arguments.server_version,
        half_close: arguments.half_close,
        user: arguments.context_user,
        plugin: vec![myself.display().to_string(), PLUGIN.to_owned()],
        ..Options::default()
    })?;
    let mut file = playground.kubeconfig();
    if let Some(wanted) = arguments.kubeconfig {
        let content = std::fs::read_to_string(&file)?;
        kubeconfig::write_private(&wanted, &content)
            .with_context(|| format!("writing {}", wanted.display()))?;
        file = std::path::absolute(wanted)?;
    }
    runtime.block_on(async {
        if arguments.command.is_empty() {
            introduce(&playground, &file);
            signals.next().await;
            return Ok(ExitCode::SUCCESS);
        }
        let mut command = Command::new(&myself);
        command
            .arg(KPF)
            .args(arguments.command)
            .env("KUBECONFIG", &file)
            .kill_on_drop(true);
        let mut child = command.spawn().context("starting the command")?;
        tokio::select! {
            ended = child.wait() => Ok(code(ended?)),
            ending = signals.next() => finish(&mut child, ending).await,
        }
    })
}

/// What to do with it, in a few lines.
fn introduce(playground: &Playground, file: &Path) {
    println!("export KUBECONFIG={}", quoted(file));
    println!();
    println!(
        "A Kubernetes is served at {} until Ctrl-C. Try, in another shell:",
        playground.url()
    );
    println!("  kpf forward pod/web 8080:80         then open http://localhost:8080");
    println!("  kpf forward svc/web 8080:http");
    println!("  kpf connect echo 7                  type, and it comes back; Ctrl-D ends it");
    println!("  kpf connect team-b/web 13");
    println!(
        "  kpf exec -it web -- sh              a shell, in a folder of its own on this machine"
    );
    if let Some(ssh) = playground.ssh() {
        println!(
            "  ssh -o ProxyCommand='kpf connect sshd 22' -i {} -o UserKnownHostsFile={} {}@sshd",
            quoted(&ssh.key),
            quoted(&ssh.known_hosts),
            ssh.user
        );
    } else {
        println!("  (no sshd on this machine: pod sshd refuses port 22)");
    }
    println!("  kubectl get pods,services -A");
    println!(
        "Other users: --context playground-{{cert,plugin,basic,viewer,stream-only,exec-only,get-only,create-only,no-watch,wrong}}"
    );
}

/// A path for a shell.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if path.chars().all(plain) {
        return path;
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}

#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Interrupt,
    Terminate,
}

/// The signals that end the playground; from now on they kill nobody.
struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Ending {
        tokio::select! {
            _ = self.interrupt.recv() => Ending::Interrupt,
            _ = self.terminate.recv() => Ending::Terminate,
        }
    }
}

/// Lets the command end by itself, and sees to it that it does.
async fn finish(child: &mut Child, ending: Ending) -> anyhow::Result<ExitCode> {
    if ending == Ending::Interrupt
        && let Ok(ended) = timeout(COURTESY, child.wait()).await
    {
        return Ok(code(ended?));
    }
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
        // it may have ended this very moment
        let _ = kill_process(pid, Signal::TERM);
    }
    if let Ok(ended) = timeout(PATIENCE, child.wait()).await {
        return Ok(code(ended?));
    }
    child.kill().await?;
    Ok(ExitCode::FAILURE)
}

fn code(ended: std::process::ExitStatus) -> ExitCode {
    match ended.code() {
        Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        None => ExitCode::FAILURE,
    }
}
