//! `kpf connect`: stdin and stdout become one stream to a port of a pod.

use std::process::ExitCode;

use anyhow::Context as _;

use super::reach::Reach;
use super::stdio;
use crate::cli::ConnectArgs;
use crate::splice::{Ends, splice};

/// Runs until the pod's side has ended and all it sent is written, or until stdout is gone.
///
/// A pod with a port's number costs one request: the upgrade.
pub(super) async fn run(args: &ConnectArgs, reach: &Reach) -> anyhow::Result<ExitCode> {
    let ConnectArgs { target, port, .. } = args;
    let reached = reach.target(target)?;
    let ports = std::slice::from_ref(port);
    let resolved = match target.without_asking(&reached.namespace, ports) {
        Some(resolved) => resolved,
        None => reach.resolve(&reached, target, ports).await?,
    };
    let port = resolved.ports.first().context("no port to connect to")?;
    let what = || format!("cannot connect to {target} port {}", port.number);

    let tunnel = reached
        .dialer
        .port_forward(&resolved.pod)
        .await
        .with_context(what)?;
    let stream = tunnel.open(port.number.get()).with_context(what)?;
    // Not before: a failure to connect takes nothing from stdin.
    let (stdin, stdout) = stdio::open().context("cannot use stdin and stdout")?;
    let gone = stdout.gone();
    let spliced = tokio::select! {
        spliced = splice(stdin, stdout, stream, Ends::STDIO) => spliced.end,
        () = gone => Err(crate::splice::Broken::Near(std::io::ErrorKind::BrokenPipe.into())),
    };
    tunnel.close().await;
    spliced.with_context(what)?;
    Ok(ExitCode::SUCCESS)
}
