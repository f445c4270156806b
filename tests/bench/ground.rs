//! Where it is measured: the playground in a process of its own, asked over its stdin and stdout, or any cluster.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead as _, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tempfile::TempDir;

use crate::clients::{Client, Transport};
use crate::playground::objects::Pod;
use crate::playground::ports::{CHARGEN, DISCARD, ECHO};
use crate::playground::{Options, Playground};
use crate::process::{DEADLINE, Lines, Process};

/// The first argument with which this program is the playground.
pub(crate) const ARGUMENT: &str = "__playground";

/// The playground's pod that all loads use, and its namespace.
const POD: &str = "echo";
const NAMESPACE: &str = "default";
/// The pod's ports that they use.
pub(crate) const PORTS: [u16; 3] = [ECHO, DISCARD, CHARGEN];

/// On a cluster, the port that answers a line with the number of bytes that its discard port has taken so far.
const COUNTER: u16 = 10;

/// The question for the number of bytes that the pod has discarded.
const DISCARDED: &str = "discarded";
/// The playground's pod that may be killed, and the order to kill it and to have another one of its name.
const VICTIM: &str = "victim";
const KILL: &str = "kill";
/// How long the playground may take to remove its files.
const PATIENCE: Duration = Duration::from_secs(5);

/// Is the playground until stdin ends: says where its kubeconfig and its pod's ports are, then answers questions.
pub(crate) fn serve() -> anyhow::Result<()> {
    let playground = Playground::start(Options::default())?;
    playground.apply(Pod::new(NAMESPACE, VICTIM, "echo").object());
    println!("{}", playground.kubeconfig().display());
    for port in PORTS {
        println!("{}", playground.service_address(NAMESPACE, POD, port)?);
    }
    let pod = playground.sandbox(NAMESPACE, POD);
    for question in std::io::stdin().lock().lines() {
        match &*question? {
            DISCARDED => println!("{}", pod.discarded()),
            KILL => {
                playground.replace_pod(NAMESPACE, VICTIM);
                println!();
            }
            other => anyhow::bail!("an unknown question: {other}"),
        }
    }
    Ok(())
}

/// A cluster with a pod in it.
pub(crate) struct Ground {
    kubeconfig: PathBuf,
    home: PathBuf,
    namespace: String,
    pod: String,
    services: BTreeMap<u16, SocketAddr>,
    /// Who knows how much has been discarded; on a cluster from the first question on.
    counter: RefCell<Option<Answering>>,
    /// How to kill the pod, where that is allowed and this is no playground.
    killer: Option<String>,
    /// The home, where this is no playground.
    folder: Option<TempDir>,
}

impl Ground {
    /// A playground.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let myself = std::env::current_exe()?;
        let playground = Answering::start(Command::new(myself).arg(ARGUMENT))?;
        let kubeconfig = PathBuf::from(playground.answer()?);
        let mut services = BTreeMap::new();
        for port in PORTS {
            let address = playground.answer()?.parse().context("where a port is")?;
            services.insert(port, address);
        }
        Ok(Self {
            home: kubeconfig.with_file_name(""),
            kubeconfig,
            namespace: NAMESPACE.to_owned(),
            pod: POD.to_owned(),
            services,
            counter: RefCell::new(Some(playground)),
            killer: None,
            folder: None,
        })
    }

    /// Another cluster, a `[NAMESPACE/]POD` of it, and where that pod is for this machine, if it is anywhere. Exec needs a
    /// shell, tee and sha256sum in the pod, all else the ports of [`PORTS`] and [`COUNTER`].
    pub(crate) fn cluster(
        kubeconfig: &Path,
        pod: &str,
        address: Option<IpAddr>,
        killer: Option<String>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (namespace, pod) = pod.split_once('/').unwrap_or((NAMESPACE, pod));
        let services = address.into_iter().flat_map(|address| {
            let at = move |port| (port, SocketAddr::new(address, port));
            PORTS.into_iter().map(at)
        });
        Ok(Self {
            kubeconfig: std::path::absolute(kubeconfig)?,
            home: folder.path().to_owned(),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            services: services.collect(),
            counter: RefCell::new(None),
            killer,
            folder: Some(folder),
        })
    }

    /// The pod, as both clients take it.
    pub(crate) fn pod(&self) -> [&str; 3] {
        ["-n", &self.namespace, &self.pod]
    }

    /// The pod that may be killed.
    pub(crate) fn victim(&self) -> Option<[&str; 3]> {
        match (&self.folder, &self.killer) {
            (None, _) => Some(["-n", NAMESPACE, VICTIM]),
            (Some(_), Some(_)) => Some(self.pod()),
            (Some(_), None) => None,
        }
    }

    /// Kills that pod. Another one follows it, sooner or later.
    pub(crate) fn kill(&self) -> anyhow::Result<Killing> {
        let mut counter = self.counter.borrow_mut();
        let Some(killer) = &self.killer else {
            let dead = Instant::now();
            counter.as_mut().context("a playground")?.ask(KILL)?;
            return Ok(Killing { dead, by: None });
        };
        // its count begins anew
        *counter = None;
        let service = self.services.get(&ECHO).context("--direct")?;
        let mut witness = TcpStream::connect_timeout(service, DEADLINE)?;
        witness.set_read_timeout(Some(DEADLINE))?;
        let mut shell = Command::new("sh");
        let by = Process::start(shell.args(["-c", killer]))?;
        // its end, or its failure; but for the deadline's
        if let Err(error) = witness.read(&mut [0])
            && error.kind() == ErrorKind::WouldBlock
        {
            anyhow::bail!("--kill: the pod lives on: {}", by.complaint());
        }
        Ok(Killing {
            dead: Instant::now(),
            by: Some(by),
        })
    }

    /// A cluster's credential plugin may have to be found.
    pub(crate) fn path(&self) -> Option<(&'static str, OsString)> {
        let path = std::env::var_os("PATH").filter(|_| self.folder.is_some());
        path.map(|path| ("PATH", path))
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A folder that goes with this.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Where the pod's ports are without any forward; empty if nobody knows.
    pub(crate) fn services(&self) -> &BTreeMap<u16, SocketAddr> {
        &self.services
    }

    /// Bytes that have arrived at the pod's discard port.
    pub(crate) fn discarded(&self) -> anyhow::Result<u64> {
        let mut counter = self.counter.borrow_mut();
        let counter = match &mut *counter {
            Some(counter) => counter,
            none => {
                let kpf = Client::Kpf(Transport::WebSocket);
                let mut connect = kpf.command(self, &["connect"]).context("it is a program")?;
                connect.args(self.pod()).arg(COUNTER.to_string());
                none.insert(Answering::start(&mut connect)?)
            }
        };
        counter.ask(DISCARDED)?.parse().context("a number of bytes")
    }
}

/// A pod that is dead, and whatever is to come after it.
pub(crate) struct Killing {
    /// Since when.
    pub(crate) dead: Instant,
    by: Option<Process>,
}

impl Killing {
    /// Waits until all is as before.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        let Some(mut process) = self.by else {
            return Ok(());
        };
        let ended = process.end(DEADLINE)?;
        anyhow::ensure!(ended.success(), "--kill: {ended}: {}", process.complaint());
        Ok(())
    }
}

/// A process that answers lines with lines until its stdin ends.
struct Answering {
    process: Process,
    stdin: Option<ChildStdin>,
    answers: Lines,
}

impl Answering {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut process = Process::start(command)?;
        Ok(Self {
            stdin: Some(process.stdin()?),
            answers: Lines::of(process.stdout()?),
            process,
        })
    }

    fn ask(&mut self, question: &str) -> anyhow::Result<String> {
        let stdin = self.stdin.as_mut().context("it lives until drop")?;
        writeln!(stdin, "{question}").context("asking for a number")?;
        self.answer()
    }

    fn answer(&self) -> anyhow::Result<String> {
        let complaint = || format!("no answer came: {}", self.process.complaint());
        self.answers.next().with_context(complaint)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.stdin = None;
        self.process.wait_for_end(PATIENCE);
    }
}
