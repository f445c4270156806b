//! `kpf gateway`: SSH into pods through one port.
//!
//! | file | what it is |
//! |---|---|
//! | `configured` | a gateway as its configuration says |
//! | `laptop` | one without any, for whoever runs it and for nobody else |
//! | `check` | what is wrong with a configuration |
//! | `manifests` | what a cluster needs to run it |
//! | `audit`, `replay` | what was written down |

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::reach::Reach;
use super::signal::{GatewaySignals, Told};
use crate::cli::GatewayArgs;
use crate::cluster::Environment;
use crate::forwards;
use crate::ssh::door::Door;
use crate::ssh::server::Gateway;
use crate::ui::Ui;

pub(super) mod audit;
pub(super) mod check;
mod configured;
mod laptop;
pub(super) mod manifests;
pub(super) mod replay;

/// Serves until it is told to end. Ends connections and commands with it.
pub(super) async fn run(args: &GatewayArgs, reach: Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
    let default = folder(reach.environment())?.join("gateway.yaml");
    match &args.config {
        Some(file) => configured::run(args, file, &reach, ui).await,
        None if default.exists() => configured::run(args, &default, &reach, ui).await,
        None => laptop::run(args, &reach, ui).await,
    }
}

/// Where kpf's own files are.
fn folder(environment: &Environment) -> anyhow::Result<PathBuf> {
    let file = forwards::default_path(environment)?;
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    Ok(folder.to_owned())
}

/// Where files are made that have no name.
fn temporary(environment: &Environment) -> PathBuf {
    let named = environment.get("TMPDIR").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from(if cfg!(windows) { "." } else { "/tmp" }))
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

/// Serves until a signal. The first one to end begins the drain, the second one ends it; `reload` is for SIGHUP.
async fn serve(
    gateway: &Gateway,
    door: Door,
    mut signals: GatewaySignals,
    mut reload: impl AsyncFnMut(),
) -> ExitCode {
    let serving = gateway.serve(door);
    tokio::pin!(serving);
    let mut code = None;
    loop {
        let told = tokio::select! {
            () = &mut serving => return code.unwrap_or(ExitCode::FAILURE),
            told = signals.wait() => told,
        };
        match told {
            Told::Reload => reload().await,
            Told::End(with) if code.is_none() => {
                code = Some(with);
                gateway.stop();
            }
            Told::End(_) => gateway.close(),
        }
    }
}
