//! `kpf forward`: local ports whose connections become streams to a pod.

use std::num::NonZeroU16;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{anyhow, bail};
use futures_util::future::{join_all, try_join_all};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::listen::listen;
use super::reach::{Reach, tell_of_exec, via};
use super::signal::Signals;
use crate::cli::{self, Forward, ForwardArgs};
use crate::cluster::target::ports::{LocalPort, PortSpec};
use crate::cluster::target::{Endpoint, PodPort, Target};
use crate::dial::Dialer;
use crate::forward::{Balance, Event, Forwarder, Options};
use crate::splice::{Broken, Ends, splice};
use crate::tunnel::Failure;
use crate::tunnel::pool::Limits;
use crate::ui::Ui;

/// How long accepting rests when the process is out of file descriptors: connections that end give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Runs until a signal, or until a target is given up.
pub(super) async fn run(args: &ForwardArgs, mut reach: Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
    raise_descriptor_limit();
    // Before anything is waited for: Ctrl-C ends the wait for a pod as well.
    let mut signals = Signals::new()?;
    let mut opening = Vec::new();
    for Forward { target, ports } in &args.forwards.0 {
        let dialer = reach.dialer(target)?;
        let wait = reach.wait;
        opening.push(open(args, target, ports, dialer, wait, ui));
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
            local,
            port,
            remote,
        } in mappings
        {
            ui.forwarding(listener.local_addr()?, &remote);
            let accepting = Accepting {
                forwarder: forwarder.clone(),
                ends: Ends {
                    half_close_grace: args.survive.half_close_grace,
                    ..Ends::SOCKET
                },
                local,
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
    tasks.abort_all();
    join_all(forwarders.into_iter().map(Forwarder::close)).await;
    reach.settle().await;
    outcome
}

fn options(args: &ForwardArgs) -> Options {
    let survive = &args.survive;
    let (via, exec) = via(&args.via);
    Options {
        via,
        exec,
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
    listener: TcpListener,
    local: u16,
    /// Its index among the target's ports.
    port: usize,
    remote: Endpoint,
}

async fn open(
    args: &ForwardArgs,
    target: &Target,
    specs: &[PortSpec],
    dialer: Dialer,
    wait: Duration,
    ui: &Ui,
) -> anyhow::Result<Opened> {
    let remotes: Vec<_> = specs.iter().map(|spec| spec.remote.clone()).collect();
    let resolved = dialer.cluster().resolve(target, &remotes, wait).await?;
    if !resolved.ready {
        ui.warning(format_args!(
            "pod {} is not ready: forwarding to it all the same",
            resolved.pod.name
        ));
    }
    // The ports are bound before the dial: one that can't be had costs nobody a request.
    let mut mappings = Vec::new();
    for (index, (spec, port)) in specs.iter().zip(&resolved.ports).enumerate() {
        bind(args, spec, index, port, ui, &mut mappings)?;
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
    tell_of_exec(&dialer, ui);
    let (forwarder, events) =
        Forwarder::start(dialer, target, &remotes, &resolved, options(args)).await?;
    Ok(Opened {
        forwarder,
        events,
        mappings,
    })
}

fn bind(
    args: &ForwardArgs,
    spec: &PortSpec,
    index: usize,
    port: &PodPort,
    ui: &Ui,
    mappings: &mut Vec<Mapping>,
) -> anyhow::Result<()> {
    let own = spec.address.map(|address| vec![address]);
    let addresses = own.as_ref().unwrap_or(&args.address);
    let wanted = wanted(spec, port);
    match listen(addresses, wanted, args.allow_partial) {
        Ok(listeners) => {
            for listener in listeners {
                mappings.push(Mapping {
                    local: listener.local_addr()?.port(),
                    port: index,
                    remote: port.endpoint.clone(),
                    listener,
                });
            }
            Ok(())
        }
        Err(error) if args.allow_partial => {
            // kubectl's words, roughly: its list of causes is Go's.
            ui.notice(format_args!(
                "Unable to listen on port {}: Listeners failed to create with the following errors: [{error}]",
                wanted.map_or(0, NonZeroU16::get)
            ));
            Ok(())
        }
        Err(error) if error.is_absent() => Err(anyhow!(
            "{error}; choose an address of this machine, such as localhost, with --address"
        )),
        Err(error) => Err(anyhow!(
            "{error}; choose another local port, `:{}` for any free one, or go on without it by --allow-partial",
            spec.remote
        )),
    }
}

/// The local port that was asked for; none for any.
fn wanted(spec: &PortSpec, port: &PodPort) -> Option<NonZeroU16> {
    match spec.local {
        LocalPort::Same => port.local,
        LocalPort::Random => None,
        LocalPort::Number(number) => Some(number),
    }
}

/// Forwards the connections of one local address.
#[derive(Clone)]
struct Accepting {
    forwarder: Forwarder,
    ends: Ends,
    local: u16,
    port: usize,
    remote: Endpoint,
    ui: Ui,
}

impl Accepting {
    /// Takes connections for ever. Each one is a task of its own, and ends with this one.
    async fn run(self, listener: TcpListener) -> anyhow::Error {
        let mut connections = JoinSet::new();
        let mut exhausted = false;
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((socket, _)) => {
                        exhausted = false;
                        self.ui.handling(self.local);
                        connections.spawn(self.clone().handle(socket));
                    }
                    Err(error) if is_of_connection(&error) => {}
                    Err(error) => {
                        // Once, until it goes well again.
                        if !std::mem::replace(&mut exhausted, true) {
                            self.ui.warning(format_args!(
                                "port {}: cannot accept connections: {error}",
                                self.local
                            ));
                        }
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                // A panic of one connection is that connection's.
                Some(Err(panic)) = connections.join_next() => {
                    tracing::error!(%panic, "a connection's task failed");
                }
            }
        }
    }

    /// One connection, to its end.
    async fn handle(self, mut socket: TcpStream) {
        // What is small is often what is waited for.
        let _ = socket.set_nodelay(true);
        let connection = match self.forwarder.open(self.port).await {
            Ok(connection) => connection,
            Err(error) => return self.failed(socket, &error),
        };
        let _counted = connection.guard;
        let (reader, writer) = socket.split();
        let ends = connection.stream.ends(self.ends);
        let spliced = splice(reader, writer, connection.stream, ends).await;
        tracing::debug!(
            pod = connection.pod,
            sent = spliced.sent,
            received = spliced.received,
            "connection ended"
        );
        match spliced.end {
            Ok(()) => {}
            // Whoever hung up knows it.
            Err(error @ Broken::Near(_)) => tracing::debug!(%error, "connection broke off"),
            Err(Broken::Far(error)) => {
                if let Some(failure) = Failure::of(&error) {
                    self.forwarder.report(failure);
                }
                self.failed(socket, &error);
            }
        }
    }

    /// The local peer sees a reset: a clean end would pass for an answer.
    fn failed(&self, socket: TcpStream, error: &dyn std::error::Error) {
        self.ui.error(format_args!(
            "forwarding {} -> {}: {error}",
            self.local, self.remote
        ));
        let _ = socket.set_zero_linger();
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
