//! The playground in a process of its own, asked over its stdin and stdout.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command};
use std::time::Duration;

use anyhow::Context as _;

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

/// A running playground, seen from outside.
pub(crate) struct Ground {
    process: Process,
    stdin: Option<RefCell<ChildStdin>>,
    answers: Lines,
    kubeconfig: PathBuf,
    services: BTreeMap<u16, SocketAddr>,
}

impl Ground {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let myself = std::env::current_exe()?;
        let mut process = Process::start(Command::new(myself).arg(ARGUMENT))?;
        let stdin = process.stdin()?;
        let answers = Lines::of(process.stdout()?);
        let mut ground = Self {
            process,
            stdin: Some(RefCell::new(stdin)),
            answers,
            kubeconfig: PathBuf::new(),
            services: BTreeMap::new(),
        };
        ground.kubeconfig = PathBuf::from(ground.answer()?);
        for port in PORTS {
            let address = ground.answer()?.parse().context("where a port is")?;
            ground.services.insert(port, address);
        }
        Ok(ground)
    }

    pub(crate) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A folder that goes with the playground.
    pub(crate) fn home(&self) -> &Path {
        self.kubeconfig.parent().unwrap_or(&self.kubeconfig)
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
        self.answers
            .next()
            .with_context(|| format!("the playground is silent: {}", self.process.complaint()))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.stdin = None;
        self.process.wait_for_end(PATIENCE);
    }
}
