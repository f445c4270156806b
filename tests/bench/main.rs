//! `cargo bench --bench forward`: kpf and kubectl side by side on the playground, or on any cluster.
//!
//! The playground runs in a process of its own, so that a client's CPU is the client's. Every load runs with one
//! client after the other, round by round, so that a machine that is busy for a while is busy for all of them; read
//! the ratios rather than the figures. kubectl is the one that `KPF_BENCH_KUBECTL` names or the one on PATH; without
//! one kpf is measured alone.
//!
//! `-- exec` measures only `exec`. `--kubeconfig` and `--pod` name another cluster and a pod of it. For `exec` any pod will do
//! that has a shell, tee and sha256sum; the rest needs one that echoes on port 7, discards on 9, generates bytes on 19, and
//! answers each line on port 10 with the number of bytes that it has discarded so far, as `tests/cluster/podsvc.c` does.
//!
//! Without cargo's `--bench`, as in `cargo test --bench forward`, it is a smoke test: as `--quick`.
//!
//! | module | what it is |
//! |---|---|
//! | [`ground`] | the playground, in a process of its own |
//! | [`clients`] | direct, kpf and kubectl, and how they are started |
//! | [`process`] | a child, what it said and what it used |
//! | [`load`], [`flow`], [`exec`] | what is done with a client |
//! | [`figure`], [`table`] | what comes out, and what it should be |
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a command line")]

mod clients;
mod exec;
mod figure;
mod flow;
mod ground;
mod load;
#[path = "../playground/mod.rs"]
mod playground;
mod process;
mod table;

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

use clients::Client;
use ground::Ground;
use load::{Load, Size};
use table::Table;

/// Measures kpf against kubectl on the playground or another cluster.
#[derive(Parser)]
#[command(name = "forward", max_term_width = 100)]
struct Arguments {
    /// How often everything is measured [default: 3, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Everything small: shows that it works, in seconds
    #[arg(long)]
    quick: bool,
    /// Bytes through one command of exec [default: 1000000000, with --quick 4000000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    bytes: Option<u64>,
    /// Write all samples to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure on this cluster instead of the playground
    #[arg(long, value_name = "FILE", requires = "pod")]
    kubeconfig: Option<PathBuf>,
    /// With this pod of it: echo on port 7, discard on 9, chargen on 19, on 10 the number of bytes discarded; for exec,
    /// sh, tee and sha256sum
    #[arg(long, value_name = "[NAMESPACE/]POD", requires = "kubeconfig")]
    pod: Option<String>,
    /// The pod's IP address, if this machine can reach it without any client
    #[arg(long, value_name = "ADDRESS", requires = "pod")]
    direct: Option<IpAddr>,
    /// A shell command that kills the pod's container, and ends once another one serves at the same address
    #[arg(long, value_name = "COMMAND", requires = "direct")]
    kill: Option<String>,
    /// Only loads whose name contains this
    #[arg(value_name = "LOAD", default_value = "")]
    only: String,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let is_ground = std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == ground::ARGUMENT);
    let ended = match is_ground {
        true => ground::serve().map(|()| ExitCode::SUCCESS),
        false => run(&Arguments::parse()),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("bench: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let quick = arguments.quick || !arguments.bench;
    let mut size = if quick { Size::QUICK } else { Size::FULL };
    size.bytes = arguments.bytes.unwrap_or(size.bytes);
    let rounds = arguments.rounds.unwrap_or(if quick { 1 } else { 3 });
    let ground = match arguments.kubeconfig.as_ref().zip(arguments.pod.as_ref()) {
        Some((kubeconfig, pod)) => {
            Ground::cluster(kubeconfig, pod, arguments.direct, arguments.kill.clone())?
        }
        None => Ground::start()?,
    };
    let clients = Client::all(!ground.services().is_empty());
    let mut table = Table::new(&clients);
    for round in 1..=rounds {
        for load in Load::ALL {
            let name = load.to_string();
            if !name.contains(&arguments.only) {
                continue;
            }
            for (column, client) in clients.iter().enumerate() {
                eprintln!("round {round} of {rounds}: {name}, {client}");
                match load.run(client, &ground, &size) {
                    Ok(samples) => table.add(column, samples),
                    Err(error) => table.fail(column, format!("{name}: {error:#}")),
                }
            }
        }
    }
    if quick {
        println!("A quick run: {size}. Its figures say little.\n");
    }
    print!("{}", table.markdown(rounds));
    if let Some(file) = &arguments.json {
        let json = serde_json::to_string_pretty(&table.json(rounds))?;
        std::fs::write(file, json + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(match table.kpf_failed() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}
