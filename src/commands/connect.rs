//! `kpf connect`: stdin and stdout become one stream to a port of a pod.

use std::io;
use std::process::ExitCode;

use anyhow::Context as _;

use super::exit;
use super::reach::{Reach, tell_of_exec, via};
use super::signal::Signals;
use super::stdio;
use crate::cli::ConnectArgs;
use crate::cluster::target::PodRef;
use crate::cluster::{Cluster, Environment};
use crate::openssh::note::{Left, Note};
use crate::openssh::pins::Holder;
use crate::splice::{Broken, Ends, splice};
use crate::ui::Ui;

/// Runs until the pod's side has ended and all it sent is written, or until stdout is gone.
///
/// A pod with a port's number costs one request: the upgrade. For ssh another one at the same time asks for its uid.
pub(super) async fn run(args: &ConnectArgs, reach: Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
    let attached = attach(args, reach, ui);
    if !args.ssh {
        return attached.await;
    }
    // ssh ends its ProxyCommand by SIGHUP; the note is not to stay.
    let mut signals = Signals::deadly()?;
    tokio::select! {
        ended = attached => ended,
        code = signals.wait() => Ok(code),
    }
}

async fn attach(args: &ConnectArgs, mut reach: Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
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
    let route = dialer.route(&resolved.pod, endpoints, via, &exec);
    let (route, _note) = match args.ssh {
        // Both at once: whoever asks for the pod's uid waits no longer for its stream.
        true => {
            let noted = leave_note(dialer.cluster(), &resolved.pod, reach.environment());
            let (route, note) = tokio::try_join!(async { Ok(route.await?) }, noted)?;
            (route, Some(note))
        }
        false => (route.await?, None),
    };
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

/// Tells `kpf known-hosts` which pod this is.
async fn leave_note(
    cluster: &Cluster,
    pod: &PodRef,
    environment: &Environment,
) -> anyhow::Result<Left> {
    let PodRef {
        namespace, name, ..
    } = pod;
    let uid = cluster.uid(pod).await?;
    let server = cluster.server().to_string();
    let holder = Holder::new(namespace, name, uid.as_deref(), &server);
    let note = Note { holder };
    note.leave(environment)
        .context("cannot note for `kpf known-hosts` which pod this is")
}

/// Whether whoever is at the other end of stdin and stdout wants no more.
fn has_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionReset)
}
