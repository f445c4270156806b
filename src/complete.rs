//! Completion of what only a cluster or a file knows: contexts, namespaces, targets, containers and ports.
//!
//! It is asked at every press of a key, so it has two seconds, and whatever goes wrong is no candidate and no word.

use std::ffi::OsString;
use std::time::Duration;

use tokio::time::timeout;

use crate::cli::completion::{Next, Question, question};
use crate::cluster::target::{Kind, Target};
use crate::cluster::{Cluster, Environment, Options, Stdin, contexts};
use crate::forwards;

/// How long a person is kept waiting, the process's start included.
const PATIENCE: Duration = Duration::from_millis(1800);

/// The kinds that a target may be of, as people write them.
const KINDS: [(Kind, &str); 8] = [
    (Kind::Pod, "pod"),
    (Kind::Service, "svc"),
    (Kind::Deployment, "deploy"),
    (Kind::StatefulSet, "sts"),
    (Kind::DaemonSet, "ds"),
    (Kind::ReplicaSet, "rs"),
    (Kind::Job, "job"),
    (Kind::ReplicationController, "rc"),
];

/// What a line may go on with.
#[derive(Debug, Eq, PartialEq)]
pub enum Completions {
    /// Whole words, each maybe with an explanation. One that ends in `/` or `:` isn't finished.
    Words(Vec<(String, String)>),
    /// The shell knows files better.
    Files,
}

/// Completes the last of these words, the first being the program's name. Must be called in a tokio runtime.
pub async fn complete(words: &[OsString], environment: Environment) -> Completions {
    let Question {
        begun,
        before,
        next,
        global,
    } = question(words);
    if next == Next::File {
        return Completions::Files;
    }
    // A credential plugin must not ask: nobody would see the question.
    let options = global.map(|global| global.to_options(environment, Stdin::Taken));
    let options = options.unwrap_or_default();
    let found = timeout(PATIENCE, candidates(&begun, next, &options)).await;
    let found = found.unwrap_or_default().into_iter();
    let fitting = found.filter(|(word, _)| word.starts_with(&begun));
    Completions::Words(
        fitting
            .map(|(word, help)| (format!("{before}{word}"), help))
            .collect(),
    )
}

async fn candidates(begun: &str, next: Next, options: &Options) -> Vec<(String, String)> {
    match next {
        Next::OneOf(words) => words,
        Next::Context => bare(contexts(options).unwrap_or_default()),
        Next::Namespace => match Cluster::load(options) {
            Ok(cluster) => bare(cluster.namespaces().await.unwrap_or_default()),
            Err(_) => Vec::new(),
        },
        Next::Container(target) => {
            let declared = declared(&target, options).await;
            bare(declared.map(|it| it.containers).unwrap_or_default())
        }
        Next::Port(target) => ports(begun, &target, options).await,
        Next::Target(commands) => targets(begun, commands, options).await,
        Next::File | Next::Nothing => Vec::new(),
    }
}

/// Numbers and names of ports, after a local port if there is one.
async fn ports(begun: &str, target: &Target, options: &Options) -> Vec<(String, String)> {
    let local = begun.rsplit_once(':').map_or("", |(local, _)| local);
    let local = &begun[..local.len() + usize::from(begun.contains(':'))];
    let declared = declared(target, options).await.unwrap_or_default();
    let ports = declared.ports.into_iter().flat_map(|port| {
        let name = port.name.clone().unwrap_or_default();
        let number = port.number.to_string();
        let by_name = port.name.map(|name| (name, number.clone()));
        by_name.into_iter().chain([(number, name)])
    });
    ports
        .map(|(port, other)| (format!("{local}{port}"), other))
        .collect()
}

async fn declared(target: &Target, options: &Options) -> Option<crate::cluster::names::Declared> {
    let mut options = options.clone();
    target.choose_context(&mut options).ok()?;
    let cluster = Cluster::load(&options).ok()?;
    cluster.declared(target).await.ok()
}

async fn targets(
    begun: &str,
    commands: Vec<(String, String)>,
    options: &Options,
) -> Vec<(String, String)> {
    if begun.starts_with('@') {
        let path = forwards::default_path(&options.environment).ok();
        let file = path.and_then(|path| forwards::File::read(&path).ok());
        let names = file.map(|file| file.names()).unwrap_or_default();
        return bare(names.into_iter().map(|name| format!("@{name}")));
    }
    let mut found = commands;
    let Ok(cluster) = Cluster::load(options) else {
        return found;
    };
    let own = cluster.namespace();
    let words: Vec<&str> = begun.split('/').collect();
    let (prefix, kind, namespace) = match words[..] {
        [_] => {
            let kinds = KINDS.map(|(kind, word)| (format!("{word}/"), format!("a {kind}")));
            found.extend(kinds);
            (String::new(), Kind::Pod, own)
        }
        [first, _] => match Kind::from_word(first) {
            Some(kind) => (format!("{first}/"), kind, own),
            None => {
                let kinds =
                    KINDS.map(|(kind, word)| (format!("{first}/{word}/"), format!("a {kind}")));
                found.extend(kinds);
                (format!("{first}/"), Kind::Pod, first)
            }
        },
        [namespace, kind, _] => match Kind::from_word(kind) {
            Some(known) => (format!("{namespace}/{kind}/"), known, namespace),
            None => return found,
        },
        _ => return found,
    };
    let names = cluster.names(kind, namespace).await.unwrap_or_default();
    found.extend(bare(
        names.into_iter().map(|name| format!("{prefix}{name}")),
    ));
    found
}

fn bare(words: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    words
        .into_iter()
        .map(|word| (word, String::new()))
        .collect()
}
