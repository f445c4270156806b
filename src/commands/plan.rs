//! What a forward is to open: the words and the forwards file as one list, checked as a whole before anything is bound or
//! anybody is asked.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::claims::{Claims, Collision, is_open};
use super::reach::via;
use crate::cli::{Forward, ForwardArgs, Wanted};
use crate::cluster::Environment;
use crate::cluster::target::ports::{Address, PortSpec};
use crate::cluster::target::{PodPort, Target};
use crate::dial::{Exec, Via};
use crate::forwards::{self, Entry, File};

/// All of it.
pub(super) struct Plan {
    pub(super) targets: Vec<Planned>,
    claims: Mutex<Claims>,
    /// Where a port that can't be had is no error.
    lenient: bool,
}

/// One target, and what is to be forwarded to it.
pub(super) struct Planned {
    /// As a user calls it: `@db`, `pod/web`.
    label: String,
    pub(super) target: Target,
    /// At least one.
    pub(super) ports: Vec<PortSpec>,
    /// Where ports without an address are listened on.
    pub(super) addresses: Vec<Address>,
    pub(super) via: Via,
    pub(super) exec: Exec,
}

impl Plan {
    /// Reads the forwards file, if one is needed. Blocks.
    ///
    /// # Errors
    /// The file is wrong, doesn't know a name, or two mappings want the same local port or socket.
    pub(super) fn new(args: &ForwardArgs, environment: &Environment) -> anyhow::Result<Self> {
        let plan = Self {
            targets: targets(args, environment)?,
            claims: Mutex::default(),
            lenient: args.allow_partial,
        };
        for target in &plan.targets {
            for spec in &target.ports {
                plan.claim(target, spec, None)?;
            }
        }
        Ok(plan)
    }

    /// Claims a local port that only the pod could tell; nothing for others, which are claimed already.
    ///
    /// # Errors
    /// Another mapping has it.
    pub(super) fn settle(
        &self,
        target: &Planned,
        spec: &PortSpec,
        port: &PodPort,
    ) -> Result<(), Collision> {
        match is_open(spec) {
            true => self.claim(target, spec, Some(port)),
            false => Ok(()),
        }
    }

    fn claim(
        &self,
        target: &Planned,
        spec: &PortSpec,
        port: Option<&PodPort>,
    ) -> Result<(), Collision> {
        if self.lenient {
            return Ok(());
        }
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let same = port.and_then(|port| port.local);
        claims.claim(&target.label, spec, &target.addresses, same)
    }
}

fn targets(args: &ForwardArgs, environment: &Environment) -> anyhow::Result<Vec<Planned>> {
    let wanted = &args.forwards.wanted;
    let is_named = |wanted: &Wanted| matches!(wanted, Wanted::Named(_));
    let by_name = wanted.iter().any(is_named);
    let file = match &args.forwards.file {
        Some(path) => Some(File::read(path)?),
        None if by_name => Some(File::read(&forwards::default_path(environment)?)?),
        None => None,
    };
    let mut planned = Vec::new();
    // A forward that is asked for twice, by its name and by its group's, is still one.
    let mut seen = HashSet::new();
    for one in wanted {
        match (one, &file) {
            (Wanted::Target(forward), _) => planned.push(of_words(args, forward)),
            (Wanted::Named(name), Some(file)) => {
                let entries = file.named(name)?;
                let new = entries.into_iter().filter(|entry| seen.insert(&entry.name));
                planned.extend(new.map(|entry| of_file(args, entry)));
            }
            (Wanted::Named(_), None) => {}
        }
    }
    if let (Some(file), false) = (&file, by_name) {
        planned.extend(file.all()?.iter().map(|entry| of_file(args, entry)));
    }
    Ok(planned)
}

fn of_words(args: &ForwardArgs, Forward { target, ports }: &Forward) -> Planned {
    let (via, exec) = via(&args.via);
    Planned {
        label: target.to_string(),
        target: target.clone(),
        ports: ports.clone(),
        addresses: args.address.clone(),
        via,
        exec,
    }
}

/// What an entry says counts more than a flag: it is about one target, the flag about all.
fn of_file(args: &ForwardArgs, entry: &Entry) -> Planned {
    let (mut via, mut exec) = via(&args.via);
    if let Some(own) = entry.via {
        via = match own {
            forwards::Via::Auto => Via::Auto,
            forwards::Via::Portforward => Via::PortForward,
            forwards::Via::Exec => Via::Exec,
        };
    }
    if let Some(own) = &entry.container {
        exec.container = Some(own.clone());
    }
    let addresses = entry.addresses.as_ref().unwrap_or(&args.address);
    Planned {
        label: format!("@{}", entry.name),
        target: entry.target.clone(),
        ports: entry.ports.clone(),
        addresses: addresses.clone(),
        via,
        exec,
    }
}
