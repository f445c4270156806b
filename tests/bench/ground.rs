//! Where it is measured: the playground in a process of its own, asked over its stdin and stdout, or any cluster.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::clients::{Client, Transport};
use crate::playground::ports::{CHARGEN, DISCARD, ECHO};
use crate::playground::{Options, Playground};
use crate::process::{Lines, Process};

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
/// How long the playground may take to remove its files.
const PATIENCE: Duration = Duration::from_secs(5);

/// Is the playground until stdin ends: says where its kubeconfig and its pod's ports are, then answers questions.
pub(crate) fn serve() -> anyhow::Result<()> {
    let playground = Playground::start(Options::default())?;
    println!("{}", playground.kubeconfig().display());
    for port in PORTS {
        println!("{}", playground.service_address(NAMESPACE, POD, port)?);
    }
    let pod = playground.sandbox(NAMESPACE, POD);
    for question in std::io::stdin().lock().lines() {
        anyhow::ensure!(question? == DISCARDED, "an unknown question");
        println!("{}", pod.discarded());
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
            folder: None,
        })
    }

    /// Another cluster, a `[NAMESPACE/]POD` of it, and where that pod is for this machine, if it is anywhere. Exec needs a
    /// shell, tee and sha256sum in the pod, all else the ports of [`PORTS`] and [`COUNTER`].
    pub(crate) fn cluster(
        kubeconfig: &Path,
        pod: &str,
        address: Option<IpAddr>,
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
            folder: Some(folder),
        })
    }

    /// The pod, as both clients take it.
    pub(crate) fn pod(&self) -> [&str; 3] {
        ["-n", &self.namespace, &self.pod]
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
