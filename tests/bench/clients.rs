//! Who is measured, and how each is started.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::ground::{Ground, PORTS};
use crate::playground::ports::ECHO;
use crate::playground::sshd;
use crate::process::{DEADLINE, Lines, Process};

const KPF: &str = env!("CARGO_BIN_EXE_kpf");
/// Makes kubectl speak SPDY.
const NO_WEBSOCKET: [(&str, &str); 2] = [
    ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false"),
    ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"),
];

/// A way to the pod's ports.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Client {
    /// The pod's own sockets.
    Direct,
    Kpf(Transport),
    Kubectl(PathBuf, Transport),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Transport {
    /// What both choose by themselves.
    WebSocket,
    Spdy,
}

impl Client {
    /// All that this machine has, and the direct way if there is one.
    pub(crate) fn all(direct: bool) -> Vec<Self> {
        let transports = [Transport::WebSocket, Transport::Spdy];
        let kubectl = std::env::var_os("KPF_BENCH_KUBECTL").map(PathBuf::from);
        let kubectl = kubectl.or_else(|| sshd::find("kubectl"));
        let mut all: Vec<_> = direct.then_some(Self::Direct).into_iter().collect();
        all.extend(transports.map(Self::Kpf));
        all.extend(kubectl.iter().flat_map(|program| {
            transports.map(|transport| Self::Kubectl(program.clone(), transport))
        }));
        all
    }

    /// The program's file, for those that have one.
    pub(crate) fn program(&self) -> Option<&Path> {
        match self {
            Self::Direct => None,
            Self::Kpf(_) => Some(Path::new(KPF)),
            Self::Kubectl(program, _) => Some(program),
        }
    }

    /// What kubectl says of its version.
    pub(crate) fn kubectl_version(&self) -> Option<String> {
        let Self::Kubectl(program, _) = self else {
            return None;
        };
        let mut command = Command::new(program);
        command.args(["version", "--client"]);
        let mut process = Process::start(&mut command).ok()?;
        let line = Lines::of(process.stdout().ok()?).next().ok()?;
        Some(line.strip_prefix("Client Version: ")?.to_owned())
    }

    /// A command of the program, with nothing of the person who runs the benchmark.
    pub(crate) fn command(&self, ground: &Ground, words: &[&str]) -> Option<Command> {
        let mut command = Command::new(self.program()?);
        command
            .args(words)
            .env_clear()
            .envs(ground.path())
            .env("HOME", ground.home())
            .env("KUBECONFIG", ground.kubeconfig());
        match self {
            Self::Kpf(Transport::Spdy) => {
                command.args(["--transport", "spdy"]);
            }
            Self::Kubectl(_, Transport::Spdy) => {
                command.envs(NO_WEBSOCKET);
            }
            _ => {}
        }
        Some(command)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct => f.write_str("direct"),
            Self::Kpf(transport) => write!(f, "kpf, {transport}"),
            Self::Kubectl(_, transport) => write!(f, "kubectl, {transport}"),
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WebSocket => "WebSocket",
            Self::Spdy => "SPDY",
        })
    }
}

/// Local ports that lead to the pod's, for as long as this lives.
pub(crate) struct Forward {
    process: Option<Process>,
    ports: BTreeMap<u16, SocketAddr>,
    /// From the start of the process to its last `Forwarding from`.
    pub(crate) ready_after: Duration,
}

impl Forward {
    /// Starts the client and waits for its ports.
    pub(crate) fn start(client: &Client, ground: &Ground) -> anyhow::Result<Self> {
        Self::to(client, ground, ground.pod(), &PORTS)
    }

    /// To the echo port of the pod that may be killed, if there is one that this client can lose.
    pub(crate) fn to_victim(client: &Client, ground: &Ground) -> anyhow::Result<Option<Self>> {
        let victim = ground.victim().filter(|_| client.program().is_some());
        let forward = victim.map(|victim| Self::to(client, ground, victim, &[ECHO]));
        forward.transpose()
    }

    fn to(
        client: &Client,
        ground: &Ground,
        pod: [&str; 3],
        remotes: &[u16],
    ) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let forward = ["port-forward", "--address=127.0.0.1"];
        let Some(mut command) = client.command(ground, &forward) else {
            return Ok(Self {
                process: None,
                ports: ground.services().clone(),
                ready_after: Duration::ZERO,
            });
        };
        command
            .args(pod)
            .args(remotes.iter().map(|port| format!(":{port}")));
        let mut process = Process::start(&mut command)?;
        let lines = Lines::of(process.stdout()?);
        let mut ports = BTreeMap::new();
        while ports.len() < remotes.len() {
            let line = lines
                .next()
                .with_context(|| format!("{client} forwards no port: {}", process.complaint()))?;
            let (local, remote) = line
                .strip_prefix("Forwarding from ")
                .and_then(|ends| ends.split_once(" -> "))
                .with_context(|| format!("{client} says {line:?}"))?;
            ports.insert(remote.parse()?, local.parse()?);
        }
        Ok(Self {
            process: Some(process),
            ports,
            ready_after: begun.elapsed(),
        })
    }

    /// A connection to a port of the pod, without Nagle's delays and with a deadline on whatever is done with it.
    pub(crate) fn connect(&self, port: u16) -> anyhow::Result<TcpStream> {
        let address = self.ports.get(&port).context("a port that is forwarded")?;
        let tcp = TcpStream::connect_timeout(address, DEADLINE)?;
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(DEADLINE))?;
        tcp.set_write_timeout(Some(DEADLINE))?;
        Ok(tcp)
    }

    /// Whether nobody listens any more.
    pub(crate) fn has_ended(&self) -> bool {
        let mut places = self.ports.values();
        places.any(|place| TcpStream::connect_timeout(place, DEADLINE).is_err())
    }

    /// The client, if it is a process.
    pub(crate) fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }
}

/// What `kpf connect` needs to bring one byte to the pod and back, from the start of the process on; `None` for the
/// others, who have no such command.
pub(crate) fn connect_once(client: &Client, ground: &Ground) -> anyhow::Result<Option<Duration>> {
    let Client::Kpf(_) = client else {
        return Ok(None);
    };
    let begun = Instant::now();
    let command = client.command(ground, &["connect"]);
    let mut command = command.context("kpf is a program")?;
    command.args(ground.pod()).arg(ECHO.to_string());
    let mut process = Process::start(&mut command)?;
    let mut stdin = process.stdin()?;
    let mut stdout = process.stdout()?;
    stdin.write_all(b"x").context("writing to kpf connect")?;
    let (sender, echoed) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(stdout.read_exact(&mut [0])));
    echoed
        .recv_timeout(DEADLINE)?
        .with_context(|| format!("reading from kpf connect: {}", process.complaint()))?;
    Ok(Some(begun.elapsed()))
}
