//! Where it is measured: the playground in a process of its own, asked over its stdin and stdout, or any cluster.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use crate::playground::ports::{CHARGEN, DISCARD, ECHO};
use crate::playground::{Options, Playground};
use crate::process::{Lines, Process};

/// The first argument with which this program is the playground.
pub(crate) const ARGUMENT: &str = "__playground";

/// The pod that all loads use, and its namespace.
pub(crate) const POD: &str = "echo";
pub(crate) const NAMESPACE: &str = "default";
/// Its ports that they use.
pub(crate) const PORTS: [u16; 3] = [ECHO, DISCARD, CHARGEN];

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
    process: Option<Process>,
    stdin: Option<RefCell<ChildStdin>>,
    answers: Option<Lines>,
    /// The home, where it isn't the playground's.
    _folder: Option<TempDir>,
}

impl Ground {
    /// A playground.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let myself = std::env::current_exe()?;
        let mut process = Process::start(Command::new(myself).arg(ARGUMENT))?;
        let mut ground = Self {
            kubeconfig: PathBuf::new(),
            home: PathBuf::new(),
            namespace: NAMESPACE.to_owned(),
            pod: POD.to_owned(),
            services: BTreeMap::new(),
            stdin: Some(RefCell::new(process.stdin()?)),
            answers: Some(Lines::of(process.stdout()?)),
            process: Some(process),
            _folder: None,
        };
        ground.kubeconfig = PathBuf::from(ground.answer()?);
        ground.home = ground.kubeconfig.with_file_name("");
        for port in PORTS {
            let address = ground.answer()?.parse().context("where a port is")?;
            ground.services.insert(port, address);
        }
        Ok(ground)
    }

    /// Another cluster, and a `[NAMESPACE/]POD` of it that has a shell, tee and sha256sum.
    pub(crate) fn cluster(kubeconfig: &Path, pod: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (namespace, pod) = pod.split_once('/').unwrap_or((NAMESPACE, pod));
        Ok(Self {
            kubeconfig: std::path::absolute(kubeconfig)?,
            home: folder.path().to_owned(),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            services: BTreeMap::new(),
            process: None,
            stdin: None,
            answers: None,
            _folder: Some(folder),
        })
    }

    /// The pod, as both clients take it.
    pub(crate) fn pod(&self) -> [&str; 3] {
        ["-n", &self.namespace, &self.pod]
    }

    /// A cluster's credential plugin may have to be found.
    pub(crate) fn path(&self) -> Option<(&'static str, OsString)> {
        let path = std::env::var_os("PATH").filter(|_| self.process.is_none());
        path.map(|path| ("PATH", path))
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A folder that goes with this.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Where the pod's ports are without any forward.
    pub(crate) fn services(&self) -> &BTreeMap<u16, SocketAddr> {
        &self.services
    }

    /// Bytes that have arrived at the pod's discard port.
    pub(crate) fn discarded(&self) -> anyhow::Result<u64> {
        let stdin = self.stdin.as_ref().context("it lives until drop")?;
        writeln!(stdin.borrow_mut(), "{DISCARDED}").context("asking the playground")?;
        self.answer()?.parse().context("a number of bytes")
    }

    fn answer(&self) -> anyhow::Result<String> {
        let asked = self.answers.as_ref().zip(self.process.as_ref());
        let (answers, process) = asked.context("this is no playground")?;
        answers
            .next()
            .with_context(|| format!("the playground is silent: {}", process.complaint()))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.stdin = None;
        if let Some(process) = &mut self.process {
            process.wait_for_end(PATIENCE);
        }
    }
}
