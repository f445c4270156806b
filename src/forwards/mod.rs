//! The forwards file: what `kpf forward @NAME` stands for, `~/.config/kpf/forwards.yaml`.
//!
//! ```yaml
//! version: 1
//! forwards:
//!   db:
//!     context: prod
//!     namespace: shop
//!     target: svc/postgres
//!     ports: [5432, "unix:/run/user/1000/pg.sock:5432"]
//!   web:
//!     target: deploy/web
//!     ports: [8080:http]
//!     address: [localhost, 10.0.0.5]
//!     via: exec
//!     container: app
//! groups:
//!   shop: [db, web]
//! ```
//!
//! Everything in it is checked when it is read, whatever is asked for: so a [`File`] has no errors, but for names that
//! it doesn't know. Every error is one line with the place. The file runs nothing: it has no hooks.
//!
//! `document` reads the YAML and knows where each value stands; this file knows what the values mean together.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use self::document::{Document, Forward};
use crate::cluster::Environment;
use crate::cluster::target::ports::{Address, PortSpec};
use crate::cluster::target::{Target, TargetError};
use crate::untrusted::printable;
use crate::yaml::{self, Fault, Place, meant};

pub use self::document::Via;

mod document;

/// A forwards file without errors.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    /// In the order of the file.
    entries: Vec<Entry>,
    /// Members by the group's name; all of them are names of entries or groups, and no group reaches itself.
    groups: HashMap<String, Vec<String>>,
}

/// One forward of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// What it is called.
    pub name: String,
    /// Where the ports are, with the context and the namespace of the entry.
    pub target: Target,
    /// At least one.
    pub ports: Vec<PortSpec>,
    /// Where to listen, at least one; none for `--address`.
    pub addresses: Option<Vec<Address>>,
    /// The container that commands run in; none for `--container`.
    pub container: Option<String>,
    /// How streams are made; none for `--via`.
    pub via: Option<Via>,
}

/// What is wrong with a forwards file, or with what was asked of it.
#[derive(Debug, Error)]
pub enum Error {
    /// There is no place for the default file.
    #[error("there is no home directory, so no forwards file: set HOME, or name a file by -f")]
    Nowhere,
    /// It cannot be read.
    #[error("cannot read the forwards file `{}`: {source}; write it, or name another one by -f", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        source: io::Error,
    },
    /// What it says makes no sense.
    #[error("forwards file `{}`, line {line}, column {column}: {reason}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong there, and what is allowed; one line.
        reason: String,
    },
    /// There is nothing of this name in it.
    #[error("`@{name}` is no forward and no group of the forwards file `{}`: {known}", path.display())]
    Unknown {
        /// What was asked for.
        name: String,
        /// The file.
        path: PathBuf,
        /// What may have been meant.
        known: String,
    },
    /// All was asked for, and there is nothing.
    #[error("the forwards file `{}` has no forwards: write some under `forwards:`", .0.display())]
    Empty(PathBuf),
}

/// Where the file is unless it is named: `kpf/forwards.yaml` in `XDG_CONFIG_HOME`, else in `~/.config`.
///
/// # Errors
/// There is no home directory.
pub fn default_path(environment: &Environment) -> Result<PathBuf, Error> {
    // By the XDG specification a relative path counts as none.
    let configured = environment.get("XDG_CONFIG_HOME").map(PathBuf::from);
    let folder = configured
        .filter(|path| path.is_absolute())
        .or_else(|| Some(environment.home()?.join(".config")))
        .ok_or(Error::Nowhere)?;
    Ok(folder.join("kpf").join("forwards.yaml"))
}

impl File {
    /// Reads a file, `-` being stdin, and checks all of it. Blocks.
    ///
    /// # Errors
    /// It can't be read, or something in it is wrong.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = yaml::bytes(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &bytes)
    }

    /// Reads a file's content; `path` is for errors.
    ///
    /// # Errors
    /// [`Error::Wrong`] for the first thing that is.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let checked = yaml::text(bytes, "write `version: 1` and `forwards:`").and_then(|text| {
            let document = Document::read(text)?;
            check_names(&document, text)?;
            check_cycles(&document, text)?;
            let forwards = document.forwards.into_iter();
            let entries: Result<_, _> = forwards
                .map(|(name, forward)| entry(name, forward, text))
                .collect();
            Ok((entries?, document.groups.into_iter().collect()))
        });
        let (entries, groups) = checked.map_err(|fault| Error::Wrong {
            path: path.to_owned(),
            line: fault.line,
            column: fault.column,
            reason: printable(&fault.reason, 400),
        })?;
        Ok(Self {
            path: path.to_owned(),
            entries,
            groups,
        })
    }

    /// All forwards, in the order of the file.
    ///
    /// # Errors
    /// There are none.
    pub fn all(&self) -> Result<&[Entry], Error> {
        match self.entries.is_empty() {
            true => Err(Error::Empty(self.path.clone())),
            false => Ok(&self.entries),
        }
    }

    /// The names of all forwards and groups, in no order.
    pub fn names(&self) -> Vec<String> {
        let entries = self.entries.iter().map(|entry| &entry.name);
        entries.chain(self.groups.keys()).cloned().collect()
    }

    /// The forward of this name, or those of the group, in the order of its members; each of them once.
    ///
    /// # Errors
    /// There is nothing of this name.
    pub fn named(&self, name: &str) -> Result<Vec<&Entry>, Error> {
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        let mut left = vec![name];
        while let Some(next) = left.pop() {
            if !seen.insert(next) {
                continue;
            }
            if let Some(members) = self.groups.get(next) {
                left.extend(members.iter().rev().map(String::as_str));
            } else if let Some(entry) = self.entries.iter().find(|entry| entry.name == next) {
                found.push(entry);
            } else {
                let names = self.entries.iter().map(|entry| &entry.name);
                let names = names.chain(self.groups.keys()).map(String::as_str);
                return Err(Error::Unknown {
                    name: printable(next, 80),
                    path: self.path.clone(),
                    known: meant(next, names, "@"),
                });
            }
        }
        Ok(found)
    }
}

/// A name means one thing, and groups hold names that mean something.
fn check_names(document: &Document, text: &str) -> Result<(), Fault> {
    let forwards: HashSet<&str> = document
        .forwards
        .iter()
        .map(|(name, _)| &name[..])
        .collect();
    let groups: HashSet<&str> = document.groups.iter().map(|(name, _)| &name[..]).collect();
    for (group, members) in &document.groups {
        if forwards.contains(&group[..]) {
            let reason = format!("`{group}` is a forward already: give the group another name");
            return Err(Place::key(&["groups", group]).fault(text, reason));
        }
        let known = |name: &&String| forwards.contains(&name[..]) || groups.contains(&name[..]);
        if let Some(at) = members.iter().position(|name| !known(&name)) {
            let unknown = &members[at];
            let reason = format!(
                "`{unknown}` is no forward and no group: {}",
                meant(unknown, forwards.union(&groups).copied(), "")
            );
            return Err(Place::item(&["groups", group], at).fault(text, reason));
        }
    }
    Ok(())
}

/// No group reaches itself. Doesn't recurse: a file may be a long chain of groups.
fn check_cycles(document: &Document, text: &str) -> Result<(), Fault> {
    let groups: HashMap<&str, &[String]> = document
        .groups
        .iter()
        .map(|(name, members)| (&name[..], &members[..]))
        .collect();
    let mut seen = HashSet::new();
    for (start, _) in &document.groups {
        // The groups from `start` to where we are, and which member of each comes next.
        let mut path: Vec<(&str, usize)> = Vec::new();
        let mut on_path = HashSet::new();
        if seen.insert(&start[..]) {
            path.push((start, 0));
            on_path.insert(&start[..]);
        }
        while let Some((group, next)) = path.last_mut() {
            let (group, at) = (*group, *next);
            *next += 1;
            let Some(member) = groups[group].get(at).map(String::as_str) else {
                on_path.remove(group);
                path.pop();
                continue;
            };
            if on_path.contains(member) {
                let names = path.iter().map(|(name, _)| *name);
                let cycle: Vec<&str> = names.skip_while(|name| *name != member).collect();
                let reason = format!(
                    "the group `{member}` holds itself: {} > {member}; take one of them out",
                    cycle.join(" > ")
                );
                return Err(Place::item(&["groups", group], at).fault(text, reason));
            }
            if groups.contains_key(member) && seen.insert(member) {
                path.push((member, 0));
                on_path.insert(member);
            }
        }
    }
    Ok(())
}

fn entry(name: String, forward: Forward, text: &str) -> Result<Entry, Fault> {
    let (context, namespace) = (forward.context.as_deref(), forward.namespace.as_deref());
    let fault = |key, error: TargetError| {
        Place::value(&["forwards", &name, key]).fault(text, error.to_string())
    };
    let target = forward.target;
    let target = target
        .within(None, namespace)
        .map_err(|error| fault("namespace", error))?;
    let target = target
        .within(context, None)
        .map_err(|error| fault("context", error))?;
    Ok(Entry {
        name,
        target,
        ports: forward.ports,
        addresses: forward.address,
        container: forward.container,
        via: forward.via,
    })
}

#[cfg(test)]
mod tests;
