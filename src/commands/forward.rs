//! `kpf forward`: local ports whose connections become streams to a pod.

use std::num::NonZeroU16;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use futures_util::future::{join_all, try_join_all};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::listen::{Connection, Listener, listen, wanted};
use super::plan::{Plan, Planned};
use super::reach::{Reach, tell_of_exec};
use super::signal::Signals;
use crate::cli::ForwardArgs;
use crate::cluster::target::ports::{Address, LocalPort, PortSpec};
use crate::cluster::target::{Endpoint, PodPort};
use crate::dial::{Dialer, Route};
use crate::splice::{Broken, Ends, splice};
use crate::tunnel::Failure;
use crate::ui::Ui;

/// How long accepting rests when the process is out of file descriptors: connections that end give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Runs until a signal, or until a pod is lost.
pub(super) async fn run(args: &ForwardArgs, mut reach: Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
    raise_descriptor_limit();
    // Until it is read, a signal ends the process as usual.
    let plan = Plan::new(args, reach.environment())?;
    // Before anything is waited for: Ctrl-C ends the wait for a pod as well.
    let mut signals = Signals::new()?;
    let step = Barrier::new(plan.targets.len());
    let mut opening = Vec::new();
    for target in &plan.targets {
        let dialer = reach.dialer(&target.target)?;
        let wait = reach.wait;
        opening.push(open(args, &plan, target, dialer, wait, &step, ui));
    }
    let opened = tokio::select! {
        opened = try_join_all(opening) => opened?,
        code = signals.wait() => return Ok(code),
    };

    // All is there: now, and not before, come the lines that scripts wait for.
    let routes: Vec<Route> = opened.iter().map(|opened| opened.route.clone()).collect();
    let mut tasks = JoinSet::new();
    for Opened { route, mappings } in opened {
        if let Some(tunnel) = route.tunnel().cloned() {
            tasks.spawn(async move { anyhow::Error::new(tunnel.ended().await) });
        }
        for Mapping { listener, remote } in mappings {
            ui.forwarding(listener.place(), &remote);
            let forward = Forwarder {
                route: route.clone(),
                local: listener.name().into(),
                remote,
                ui: ui.clone(),
            };
            tasks.spawn(forward.accept(listener));
        }
    }
    let outcome = tokio::select! {
        Some(lost) = tasks.join_next() => Err(lost?.context("lost connection to pod")),
        code = signals.wait() => Ok(code),
    };
    // The listeners are theirs, and so are the files of sockets: they are gone before kpf is.
    tasks.shutdown().await;
    join_all(routes.into_iter().map(Route::close)).await;
    outcome
}

/// Each connection is a file, and many a shell's soft limit is 1024: takes all that may be had, as Go's runtime does.
fn raise_descriptor_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // Without it there are just fewer connections at once.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: maximum,
                maximum,
            },
        );
    }
}

/// A target whose pod is connected and whose local ports are bound.
struct Opened {
    route: Route,
    mappings: Vec<Mapping>,
}

/// A local address that leads to a port of the pod.
struct Mapping {
    listener: Listener,
    remote: Endpoint,
}

/// Opens one of several targets. `step` holds them together: nothing is bound before all are known, and nobody is dialled
/// before all is bound. So whatever can't be had, nothing is half done.
async fn open(
    args: &ForwardArgs,
    plan: &Plan,
    planned: &Planned,
    dialer: Dialer,
    wait: Duration,
    step: &Barrier,
    ui: &Ui,
) -> anyhow::Result<Opened> {
    let specs = &planned.ports;
    let remotes: Vec<_> = specs.iter().map(|spec| spec.remote.clone()).collect();
    let cluster = dialer.cluster();
    let resolved = cluster.resolve(&planned.target, &remotes, wait).await?;
    if !resolved.ready {
        ui.warning(format_args!(
            "pod {} is not ready: forwarding to it all the same",
            resolved.pod.name
        ));
    }
    for (spec, port) in specs.iter().zip(&resolved.ports) {
        plan.settle(planned, spec, port)?;
    }
    step.wait().await;
    let mut mappings = Vec::new();
    for (spec, port) in specs.iter().zip(&resolved.ports) {
        bind(args, spec, port, &planned.addresses, ui, &mut mappings)?;
    }
    if mappings.is_empty() {
        let pairs = specs.iter().zip(&resolved.ports);
        let pairs: Vec<_> = pairs
            .map(|(spec, port)| {
                format!(
                    "{{{} {}}}",
                    wanted(spec, port).map_or(0, NonZeroU16::get),
                    port.endpoint
                )
            })
            .collect();
        bail!(
            "unable to listen on any of the requested ports: [{}]",
            pairs.join(" ")
        );
    }
    let endpoints = resolved.ports.into_iter().map(|port| port.endpoint);
    let endpoints: Vec<_> = endpoints.collect();
    step.wait().await;
    tell_of_exec(&dialer, ui);
    let route = dialer
        .route(&resolved.pod, &endpoints, planned.via, &planned.exec)
        .await?;
    Ok(Opened { route, mappings })
}

fn bind(
    args: &ForwardArgs,
    spec: &PortSpec,
    port: &PodPort,
    addresses: &[Address],
    ui: &Ui,
    mappings: &mut Vec<Mapping>,
) -> anyhow::Result<()> {
    match listen(spec, port, addresses, args.allow_partial) {
        Ok(listeners) => {
            mappings.extend(listeners.into_iter().map(|listener| Mapping {
                listener,
                remote: port.endpoint.clone(),
            }));
            Ok(())
        }
        Err(error) if args.allow_partial => {
            match &spec.local {
                LocalPort::Socket(_) => ui.warning(error),
                // kubectl's words, roughly: its list of causes is Go's.
                _ => ui.notice(format_args!(
                    "Unable to listen on port {}: Listeners failed to create with the following errors: [{error}]",
                    wanted(spec, port).map_or(0, NonZeroU16::get)
                )),
            }
            Ok(())
        }
        Err(error) => Err(anyhow!("{error}; {}", error.advice(&spec.remote))),
    }
}

/// Forwards the connections of one local address.
#[derive(Clone)]
struct Forwarder {
    route: Route,
    /// What its connections are called.
    local: Arc<str>,
    remote: Endpoint,
    ui: Ui,
}

impl Forwarder {
    /// Takes connections until the pod is found to be gone. Each one is a task of its own, and ends with this one.
    async fn accept(self, listener: Listener) -> anyhow::Error {
        let mut connections = JoinSet::new();
        let mut exhausted = false;
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(socket) => {
                        exhausted = false;
                        self.ui.handling(&self.local);
                        connections.spawn(self.clone().handle(socket));
                    }
                    Err(error) if is_of_connection(&error) => {}
                    Err(error) => {
                        // Once, until it goes well again.
                        if !std::mem::replace(&mut exhausted, true) {
                            self.ui.warning(format_args!(
                                "cannot accept connections for {}: {error}",
                                self.local
                            ));
                        }
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next() => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(gone)) => return gone.into(),
                    // A panic of one connection is that connection's.
                    Err(panic) => tracing::error!(%panic, "a connection's task failed"),
                },
            }
        }
    }

    /// One connection, to its end. An error only where no other connection can work either.
    async fn handle(self, mut socket: Connection) -> Result<(), Failure> {
        let stream = match self.route.open(&self.remote).await {
            Ok(stream) => stream,
            Err(error) => {
                self.failed(socket, &error);
                return Ok(());
            }
        };
        let (reader, writer) = socket.split();
        let ends = stream.ends(Ends::SOCKET);
        let spliced = splice(reader, writer, stream, ends).await;
        tracing::debug!(
            sent = spliced.sent,
            received = spliced.received,
            "connection ended"
        );
        match spliced.end {
            Ok(()) => Ok(()),
            // Whoever hung up knows it.
            Err(error @ Broken::Near(_)) => {
                tracing::debug!(%error, "connection broke off");
                Ok(())
            }
            Err(Broken::Far(error)) => {
                self.failed(socket, &error);
                match Failure::of(&error) {
                    Some(gone @ Failure::PodGone(_)) => Err(gone.clone()),
                    _ => Ok(()),
                }
            }
        }
    }

    /// The local peer sees a reset: a clean end would pass for an answer.
    fn failed(&self, socket: Connection, error: &dyn std::error::Error) {
        self.ui.error(format_args!(
            "forwarding {} -> {}: {error}",
            self.local, self.remote
        ));
        socket.reset();
    }
}

/// Whether accepting failed because of the connection that was to be accepted, which is gone.
fn is_of_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
