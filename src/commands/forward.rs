//! `kpf forward`: local ports whose connections become streams to a pod.

use std::num::NonZeroU16;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{anyhow, bail};
use futures_util::future::{join_all, try_join_all};
use tokio::sync::Barrier;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use super::accept::Accepting;
use super::listen::{Listener, listen, wanted};
use super::plan::{Plan, Planned};
use super::reach::{Reach, tell_of_exec};
use super::signal::Signals;
use crate::cli::{self, ForwardArgs};
use crate::cluster::target::ports::{Address, LocalPort, PortSpec};
use crate::cluster::target::{Endpoint, PodPort};
use crate::dial::Dialer;
use crate::forward::{Balance, Event, Forwarder, Options};
use crate::splice::Ends;
use crate::tunnel::pool::Limits;
use crate::ui::Ui;

/// Runs until a signal, or until a target is given up.
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
    let forwarders: Vec<_> = opened.iter().map(|it| it.forwarder.clone()).collect();
    let mut tasks = JoinSet::new();
    for Opened {
        forwarder,
        mut events,
        mappings,
    } in opened
    {
        let (watched, told) = (forwarder.clone(), ui.clone());
        tasks.spawn(async move { anyhow::Error::new(watched.ended().await) });
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                told.notice(event);
            }
        });
        for Mapping {
            listener,
            port,
            remote,
        } in mappings
        {
            ui.forwarding(listener.place(), &remote);
            let accepting = Accepting {
                forwarder: forwarder.clone(),
                ends: Ends {
                    half_close_grace: args.survive.half_close_grace,
                    ..Ends::SOCKET
                },
                local: listener.name().into(),
                port,
                remote,
                ui: ui.clone(),
            };
            tasks.spawn(accepting.run(listener));
        }
    }
    let outcome = tokio::select! {
        Some(lost) = tasks.join_next() => Err(lost?),
        code = signals.wait() => Ok(code),
    };
    // The listeners are theirs, and so are the files of sockets: they are gone before kpf is.
    tasks.shutdown().await;
    join_all(forwarders.into_iter().map(Forwarder::close)).await;
    reach.settle().await;
    outcome
}

fn options(args: &ForwardArgs, planned: &Planned) -> Options {
    let survive = &args.survive;
    Options {
        via: planned.via,
        exec: planned.exec.clone(),
        limits: Limits {
            tunnels: survive.max_tunnels.get(),
            ..Limits::default()
        },
        balance: match survive.balance {
            None => Balance::Sticky,
            Some(cli::Balance::RoundRobin) => Balance::RoundRobin,
            Some(cli::Balance::Least) => Balance::Least,
        },
        hold: survive.hold,
        reconnect: !survive.no_reconnect,
        give_up_after: Some(survive.retry_max_elapsed).filter(|after| !after.is_zero()),
    }
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
    forwarder: Forwarder,
    events: UnboundedReceiver<Event>,
    mappings: Vec<Mapping>,
}

/// A local address that leads to a port of the pod.
struct Mapping {
    listener: Listener,
    /// Its index among the target's ports.
    port: usize,
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
    for (index, (spec, port)) in specs.iter().zip(&resolved.ports).enumerate() {
        let listeners = bind(args, spec, port, &planned.addresses, ui)?;
        mappings.extend(listeners.into_iter().map(|listener| Mapping {
            listener,
            port: index,
            remote: port.endpoint.clone(),
        }));
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
    step.wait().await;
    tell_of_exec(&dialer, ui);
    let options = options(args, planned);
    let (forwarder, events) =
        Forwarder::start(dialer, &planned.target, &remotes, &resolved, options).await?;
    Ok(Opened {
        forwarder,
        events,
        mappings,
    })
}

fn bind(
    args: &ForwardArgs,
    spec: &PortSpec,
    port: &PodPort,
    addresses: &[Address],
    ui: &Ui,
) -> anyhow::Result<Vec<Listener>> {
    match listen(spec, port, addresses, args.allow_partial) {
        Ok(listeners) => Ok(listeners),
        Err(error) if args.allow_partial => {
            match &spec.local {
                LocalPort::Socket(_) => ui.warning(error),
                // kubectl's words, roughly: its list of causes is Go's.
                _ => ui.notice(format_args!(
                    "Unable to listen on port {}: Listeners failed to create with the following errors: [{error}]",
                    wanted(spec, port).map_or(0, NonZeroU16::get)
                )),
            }
            Ok(Vec::new())
        }
        Err(error) => Err(anyhow!("{error}; {}", error.advice(&spec.remote))),
    }
}
