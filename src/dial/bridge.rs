//! The streams that commands in a container make.

use std::ffi::OsString;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::{Dialer, Error};
use crate::cluster::Connection;
use crate::cluster::target::{Endpoint, PodRef, TargetError};
use crate::exec::bridge::{self, Address, Program};
use crate::exec::hang_up::HangUp;
use crate::exec::{Command, EndMark, Pipe};
use crate::untrusted::printable;

/// The pod's own address. Runtimes forward to IPv4 first, then to IPv6, and so do we.
const LOCALHOST: &str = "127.0.0.1";

/// How long it may take to end a command whose connection is gone.
const ENDING: Duration = Duration::from_secs(5);

/// Characters of a command's name in errors.
const MAX_NAME: usize = 60;

/// A container, and what makes connections in it. Clones share what is known of it.
#[derive(Clone)]
pub(super) struct Bridge {
    dialer: Dialer,
    pod: PodRef,
    container: Option<String>,
    /// Instead of the programs that we know.
    command: Option<Arc<[OsString]>>,
    known: Arc<Known>,
}

#[derive(Default)]
struct Known {
    container: OnceCell<Option<String>>,
    programs: OnceCell<Vec<Program>>,
}

/// A stream that a command has made.
pub(super) struct Bridged {
    pub(super) pipe: Pipe<Connection>,
    /// Whether the pod is told of the end of what is sent while it can still answer.
    pub(super) half_closes: bool,
    /// Whether the pod's end leaves the other direction open.
    pub(super) far_half_closes: bool,
}

/// Where a stream is to lead, and where if that refuses.
#[derive(Clone)]
pub(super) struct Destination {
    pub(super) address: Address,
    pub(super) otherwise: Option<Address>,
}

impl Destination {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        match endpoint {
            Endpoint::Port(port) => Self {
                address: Address::Tcp(LOCALHOST.to_owned(), *port),
                otherwise: Some(Address::Tcp(Ipv6Addr::LOCALHOST.to_string(), *port)),
            },
            Endpoint::Host(host, port) => Self {
                address: Address::Tcp(host.clone(), *port),
                otherwise: None,
            },
            Endpoint::Socket(path) => Self {
                address: Address::Unix(path.clone()),
                otherwise: None,
            },
        }
    }
}

impl Bridge {
    pub(super) fn new(
        dialer: Dialer,
        pod: PodRef,
        container: Option<String>,
        command: Option<Arc<[OsString]>>,
    ) -> Self {
        Self {
            dialer,
            pod,
            container,
            command,
            known: Arc::default(),
        }
    }

    /// Connects to `address`: one request, or more the first time, to learn what the container has.
    pub(super) async fn open(&self, address: &Address) -> Result<Bridged, Error> {
        let container = self.container().await?;
        let (name, command, mark, half_closes) = match &self.command {
            Some(words) => (name(words), own(words, container, address), None, true),
            None => {
                let program = self.program(address).await?;
                let (command, mark) = program.command(container, address);
                (program.to_string(), command, mark, program.half_closes())
            }
        };
        let far_half_closes = mark.is_some();
        let pipe = match self.command {
            // it need not have a shell
            Some(_) => self.run(name, &command, mark).await?,
            None => self.run_on_leash(name, command, mark).await?,
        };
        Ok(Bridged {
            pipe,
            half_closes,
            far_half_closes,
        })
    }

    /// Finds out whether there is anything to make connections with.
    pub(super) async fn prepare(&self) -> Result<(), Error> {
        match self.command {
            Some(_) => self.container().await.map(drop),
            None => self.programs().await.map(drop),
        }
    }

    /// Tells that port-forward can't be had.
    pub(super) fn falls_back(&self, why: &dyn std::fmt::Display) {
        self.dialer.fallback.take(why);
    }

    async fn run(
        &self,
        name: String,
        command: &Command,
        mark: Option<EndMark>,
    ) -> Result<Pipe<Connection>, Error> {
        let session = self.dialer.exec(&self.pod, command).await?;
        Ok(Pipe::new(session, name, mark))
    }

    /// A command that is ended with its stream, even if its peer in the pod doesn't end.
    async fn run_on_leash(
        &self,
        name: String,
        mut command: Command,
        mark: Option<EndMark>,
    ) -> Result<Pipe<Connection>, Error> {
        let hang_up = HangUp::new().map_err(Error::Random)?;
        command.words = hang_up.wrap(command.words);
        let pipe = self.run(name, &command, mark).await?;
        let (dialer, pod) = (self.dialer.clone(), self.pod.clone());
        // Lives as long as the stream and what ends its command: `settle` waits for that.
        let token = dialer.endings.token();
        let end = move |command: Command| {
            // Where the runtime is gone, so is the program.
            let Ok(runtime) = Handle::try_current() else {
                return;
            };
            runtime.spawn(async move {
                let ending = async {
                    let session = dialer.exec(&pod, &command).await?;
                    let pipe = Pipe::new(session, "kill".to_owned(), None);
                    pipe.output(bridge::MAX_PROBE).await.map_err(Error::Ending)
                };
                match timeout(ENDING, ending).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "a command may have been left"),
                    Err(_) => tracing::debug!("a command may have been left: out of time"),
                }
                drop(token);
            });
        };
        Ok(pipe.on_leash(hang_up, command.container, end))
    }

    /// The container that was asked for, or the pod's default one. None, which leaves the choice to the server, where
    /// a role that may exec may not read pods.
    async fn container(&self) -> Result<Option<String>, Error> {
        if self.container.is_some() {
            return Ok(self.container.clone());
        }
        let cluster = self.dialer.cluster();
        let ask = || async {
            match cluster.default_container(&self.pod).await {
                Ok(name) => Ok(Some(name)),
                Err(TargetError::Request(error)) if error.is_forbidden() => Ok(None),
                Err(error) => Err(Error::Container(error)),
            }
        };
        self.known.container.get_or_try_init(ask).await.cloned()
    }

    /// The container's programs, the best one first; at least one.
    async fn programs(&self) -> Result<&[Program], Error> {
        let ask = || async {
            let container = self.container().await?;
            let probe = bridge::probe(container.clone());
            let pipe = self.run("sh".to_owned(), &probe, None).await?;
            let output = pipe.output(bridge::MAX_PROBE).await;
            let output = output.map_err(|error| Error::Probe {
                container: container.clone(),
                error,
            })?;
            let programs = bridge::found(&output);
            tracing::debug!(?programs, "what the container has");
            match programs.is_empty() {
                true => Err(Error::NoProgram {
                    container,
                    address: None,
                }),
                false => Ok(programs),
            }
        };
        let programs = self.known.programs.get_or_try_init(ask).await?;
        Ok(programs)
    }

    /// The best one that can connect to `address`.
    async fn program(&self, address: &Address) -> Result<Program, Error> {
        let mut programs = self.programs().await?.iter();
        match programs.find(|program| program.reaches(address)) {
            Some(program) => Ok(*program),
            None => Err(Error::NoProgram {
                container: self.container().await?,
                address: Some(address.clone()),
            }),
        }
    }
}

/// A user's own command. It is no script, and no shell reads it: `{host}`, `{port}` and `{path}` become what they say.
fn own(words: &[OsString], container: Option<String>, address: &Address) -> Command {
    let (host, port, path) = match address {
        Address::Tcp(host, port) => (host.clone(), port.to_string(), String::new()),
        Address::Unix(path) => (String::new(), String::new(), path.clone()),
    };
    let fill = |word: &OsString| match word.to_str() {
        Some(word) => word
            .replace("{host}", &host)
            .replace("{port}", &port)
            .replace("{path}", &path)
            .into(),
        None => word.clone(),
    };
    Command {
        words: words.iter().map(fill).collect(),
        container,
        stdin: true,
        tty: false,
    }
}

fn name(words: &[OsString]) -> String {
    let name = words.first().map(|word| word.to_string_lossy());
    printable(&name.unwrap_or_default(), MAX_NAME)
}
