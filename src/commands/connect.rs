//! `kpf connect`: stdin and stdout become one stream to a port of a pod.

use std::io;
use std::process::ExitCode;

use anyhow::Context as _;

use super::exit;
use super::reach::Reach;
use super::stdio;
use crate::cli::ConnectArgs;
use crate::splice::{Broken, Ends, splice};

/// Runs until the pod's side has ended and all it sent is written, or until stdout is gone.
///
/// A pod with a port's number costs one request: the upgrade.
pub(super) async fn run(args: &ConnectArgs, mut reach: Reach) -> anyhow::Result<ExitCode> {
    let ConnectArgs { target, port, .. } = args;
    let dialer = reach.dialer(target)?;
    let resolved = dialer
        .cluster()
        .locate(target, std::slice::from_ref(port), reach.wait)
        .await?;
    let port = resolved.ports.first().context("no port to connect to")?;

    let tunnel = dialer.port_forward(&resolved.pod).await?;
    let stream = tunnel.open(port.number.get())?;
    // Not before: a failure to dial takes nothing from stdin.
    let (stdin, stdout) = stdio::open().context("cannot use stdin and stdout")?;
    let gone = stdout.gone();
    let end = tokio::select! {
        // What the pod has sent is written before anything else is looked at.
        biased;
        spliced = splice(stdin, stdout, stream, Ends::STDIO) => spliced.end,
        () = gone => Err(Broken::Near(io::ErrorKind::BrokenPipe.into())),
    };
    tunnel.close().await;
    match end {
        // This is how ssh ends its ProxyCommand, and `| head` whatever it reads: nothing to say. But not success, for
        // what was read from stdin may not have arrived.
        Err(Broken::Near(error)) if has_gone(&error) => Ok(ExitCode::from(exit::NO_READER)),
        end => {
            end.with_context(|| format!("connection to {target} port {}", port.number))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Whether whoever is at the other end of stdin and stdout wants no more.
fn has_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}
