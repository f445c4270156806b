//! `kpf forward`: local ports whose connections become streams to a pod.

use std::ffi::OsString;
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{anyhow, bail};
use futures_util::future::{join_all, try_join_all};
use tokio::sync::Barrier;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinError, JoinSet};

use super::accept::Accepting;
use super::background::Record;
use super::companion::{Companion, NotRun, Reached};
use super::exit;
use super::listen::{Listener, listen, wanted};
use super::plan::{Plan, Planned};
use super::reach::{Reach, tell_of_exec};
use super::ready::{ReadyFiles, notify_manager};
use super::signal::Signals;
use crate::cli::{self, ForwardArgs};
use crate::cluster::Environment;
use crate::cluster::target::ports::{Address, LocalPort, PortSpec, RemotePort};
use crate::cluster::target::{Endpoint, PodPort};
use crate::dial::Dialer;
use crate::forward::{Balance, Event, Forwarder, Options};
use crate::splice::Ends;
use crate::tunnel::pool::Limits;
use crate::ui::{self, Ui};
use crate::untrusted::printable;

/// Runs until a signal, until a target is given up, or as long as the command.
pub(super) async fn run(args: &ForwardArgs, reach: Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
    let environment = reach.environment().clone();
    let ended = run_to_its_end(args, reach, &environment, ui).await;
    notify_manager(&environment, "STOPPING=1");
    let error = ended.as_ref().err().map(|error| {
        let error = super::with_causes(error);
        printable(&error, LONGEST)
    });
    ui.event(&ui::Event::Ended {
        code: *ended.as_ref().unwrap_or(&exit::OTHER),
        error: error.as_deref(),
    });
    Ok(ExitCode::from(ended?))
}

/// Says the exit code.
async fn run_to_its_end(
    args: &ForwardArgs,
    mut reach: Reach,
    environment: &Environment,
    ui: &Ui,
) -> anyhow::Result<u8> {
    raise_descriptor_limit();
    // Until it is read, a signal ends the process as usual.
    let plan = Plan::new(args, environment)?;
    let script = &args.script;
    let files = ReadyFiles::new(script.port_file.as_deref(), script.ready_file.as_deref())?;
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
        code = signals.code() => return Ok(code),
    };

    // All is there: now, and not before, come the lines that scripts wait for.
    let forwarders: Vec<_> = opened.iter().map(|it| it.forwarder.clone()).collect();
    let mut tasks = JoinSet::new();
    let numbers = Arc::<AtomicU64>::default();
    let mut ports: Vec<(usize, usize, String)> = Vec::new();
    let mut reached = Vec::new();
    let mut record = Record::default();
    for (index, opened) in opened.into_iter().enumerate() {
        let Opened {
            target,
            pod,
            forwarder,
            mut events,
            mappings,
        } = opened;
        let watched = forwarder.clone();
        tasks.spawn(async move { anyhow::Error::new(watched.ended().await) });
        let (label, told) = (target.clone(), ui.clone());
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                tell(&label, &event, &told);
            }
        });
        for Mapping {
            listener,
            port,
            written,
            remote,
        } in mappings
        {
            let (place, name) = (listener.place(), remote.to_string());
            ui.event(&ui::Event::Listening {
                target: &target,
                pod: &pod,
                address: &place,
                port: listener.port(),
                remote: &name,
            });
            // localhost is two addresses and one port
            if !ports.iter().any(|it| it.0 == index && it.1 == port) {
                ports.push((index, port, listener.name()));
            }
            reached.push(Reached {
                remote: written,
                port: listener.port(),
                address: listener.reached_at(),
            });
            record.push(&target, &place, &name);
            let accepting = Accepting {
                forwarder: forwarder.clone(),
                ends: Ends {
                    half_close_grace: args.survive.half_close_grace,
                    ..Ends::SOCKET
                },
                numbers: numbers.clone(),
                target: target.clone(),
                local: listener.name().into(),
                port,
                remote,
                ui: ui.clone(),
            };
            tasks.spawn(accepting.run(listener));
        }
    }
    let ports: Vec<String> = ports.into_iter().map(|it| it.2).collect();
    let outcome = async {
        files.tell(&ports)?;
        let _listed = match script.in_background {
            true => Some(record.enter(environment)?),
            false => None,
        };
        notify_manager(environment, "READY=1");
        ui.event(&ui::Event::Ready);
        until_the_end(
            &args.forwards.command,
            &reached,
            tasks.join_next(),
            &mut signals,
            ui,
        )
        .await
    };
    let outcome = outcome.await;
    // The listeners are theirs, and so are the files of sockets: they are gone before kpf is.
    tasks.shutdown().await;
    join_all(forwarders.into_iter().map(Forwarder::close)).await;
    reach.settle().await;
    outcome
}

/// Waits for a signal, for the loss of a target, or for the end of the command.
async fn until_the_end(
    command: &[OsString],
    reached: &[Reached],
    lost: impl Future<Output = Option<Result<anyhow::Error, JoinError>>>,
    signals: &mut Signals,
    ui: &Ui,
) -> anyhow::Result<u8> {
    let lost = async {
        match lost.await {
            Some(Ok(error)) => error,
            Some(Err(panic)) => panic.into(),
            None => std::future::pending().await, // there is at least one target
        }
    };
    if command.is_empty() {
        return tokio::select! {
            error = lost => Err(error),
            code = signals.code() => Ok(code),
        };
    }
    let mut companion = match Companion::start(command, reached) {
        Ok(companion) => companion,
        Err(NotRun { code, error }) => {
            ui.error(super::with_causes(&error));
            return Ok(code);
        }
    };
    tokio::select! {
        code = companion.ended() => Ok(code?),
        error = lost => {
            companion.terminate();
            ui.error(super::with_causes(&error));
            companion.ended().await?;
            Ok(exit::OTHER)
        }
    }
}

/// Characters of an error.
const LONGEST: usize = 1000;

/// Tells what has become of the way to a target.
fn tell(target: &str, event: &Event, ui: &Ui) {
    let (state, pod) = match event {
        Event::Lost { pod, .. } => ("lost", Some(pod)),
        Event::Gone { pod } => ("gone", Some(pod)),
        Event::Connected { pod, .. } => ("connected", Some(pod)),
        Event::Moved { to, .. } => ("moved", Some(to)),
        Event::Waiting { .. } => ("waiting", None),
        Event::Resumed { .. } => ("resumed", None),
    };
    let message = printable(&event.to_string(), LONGEST);
    ui.event(&ui::Event::State {
        target,
        state,
        pod: pod.map(String::as_str),
        message: &message,
    });
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
    /// As people write it.
    target: Arc<str>,
    pod: String,
    forwarder: Forwarder,
    events: UnboundedReceiver<Event>,
    mappings: Vec<Mapping>,
}

/// A local address that leads to a port of the pod.
struct Mapping {
    listener: Listener,
    /// Its index among the target's ports.
    port: usize,
    /// How that was written.
    written: RemotePort,
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
            written: spec.remote.clone(),
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
        target: planned.target.to_string().into(),
        pod: resolved.pod.name,
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
