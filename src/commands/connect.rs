//! `kpf connect`: stdin and stdout become one stream to a port of a pod.

use std::io;
use std::process::ExitCode;

use anyhow::Context as _;

use super::exit;
use super::reach::{Reach, tell_of_exec, via};
use super::stdio;
use crate::cli::ConnectArgs;
use crate::splice::{Broken, Ends, splice};
use crate::ui::Ui;

/// Runs until the pod's side has ended and all it sent is written, or until stdout is gone.
///
/// A pod with a port's number costs one request: the upgrade.
pub(super) async fn run(args: &ConnectArgs, mut reach: Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
    let ConnectArgs { target, port, .. } = args;
    let dialer = reach.dialer(target)?;
    tell_of_exec(&dialer, ui);
    let (via, exec) = via(&args.via);
    let resolved = dialer
        .cluster()
        .locate(target, std::slice::from_ref(port), reach.wait)
        .await?;
    let port = resolved.ports.first().context("no port to connect to")?;
    let endpoint = &port.endpoint;

    let endpoints = std::slice::from_ref(endpoint);
    let route = dialer.route(&resolved.pod, endpoints, via, &exec).await?;
    let stream = route.open(endpoint).await?;
    let ends = stream.ends(Ends::STDIO);
    // Not before: a failure to dial takes nothing from stdin.
    let (stdin, stdout) = stdio::open().context("cannot use stdin and stdout")?;
    let gone = stdout.gone();
    let end = tokio::select! {
        // What the pod has sent is written before anything else is looked at.
        biased;
        spliced = splice(stdin, stdout, stream, ends) => spliced.end,
        () = gone => Err(Broken::Near(io::ErrorKind::BrokenPipe.into())),
    };
    route.close().await;
    dialer.settle().await;
    match end {
        // This is how ssh ends its ProxyCommand, and `| head` whatever it reads: nothing to say. But not success, for
        // what was read from stdin may not have arrived.
        Err(Broken::Near(error)) if has_gone(&error) => Ok(ExitCode::from(exit::NO_READER)),
        end => {
            end.with_context(|| format!("connection to {target} port {endpoint}"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Whether whoever is at the other end of stdin and stdout wants no more.
fn has_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}
