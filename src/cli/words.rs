//! What clap can't say: which word is the command, which a target and which a port.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::cluster::target::Target;
use crate::cluster::target::ports::PortSpec;

/// What `forward` is to do.
///
/// The words are grouped by one rule: a target, then its ports; `@NAME` stands for both. The first word after a target
/// is always a port. A later word starts a new target if it has a slash in it or ends in `.kpf`, which no port does,
/// but for sockets; otherwise it is one more port. So a pod that isn't the first target is written `pod/NAME`.
#[derive(Debug, Eq, PartialEq)]
pub struct Forwards {
    /// In the order they were written. None only where there is a file: then all that is in it.
    pub wanted: Vec<Wanted>,
    /// `-f`: the forwards file, `-` for stdin.
    pub file: Option<PathBuf>,
    /// What is run while they live: a program and its arguments. Empty for nothing.
    pub command: Vec<OsString>,
}

/// Something to forward.
#[derive(Debug, Eq, PartialEq)]
pub enum Wanted {
    /// A target and its ports.
    Target(Forward),
    /// `@NAME`: a forward of the forwards file, or a group.
    Named(String),
}

/// A target and the ports to forward to it, at least one.
#[derive(Debug, Eq, PartialEq)]
pub struct Forward {
    /// Where the ports are.
    pub target: Target,
    /// In the order they were written.
    pub ports: Vec<PortSpec>,
}

impl Wanted {
    fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Vec<Self>, String> {
        let mut wanted: Vec<Self> = Vec::new();
        for word in words {
            if let (Some(Self::Target(forward)), false) = (wanted.last_mut(), starts_anew(word)) {
                let port = word.parse().map_err(|error| format!("{error}"))?;
                forward.ports.push(port);
                continue;
            }
            complete(wanted.last())?;
            wanted.push(match word.strip_prefix('@') {
                Some("") => return Err("`@` lacks the name of a forward or a group".to_owned()),
                Some(name) => Self::Named(name.to_owned()),
                None => Self::Target(Forward {
                    target: word.parse().map_err(|error| format!("{error}"))?,
                    ports: Vec::new(),
                }),
            });
        }
        complete(wanted.last())?;
        Ok(wanted)
    }
}

/// Whether a word after a target is none of its ports.
pub(super) fn starts_anew(word: &str) -> bool {
    let has_socket = word.starts_with("unix:") || word.contains(":unix:");
    word.starts_with('@') || !has_socket && (word.contains('/') || word.ends_with(".kpf"))
}

fn complete(last: Option<&Wanted>) -> Result<(), String> {
    match last {
        Some(Wanted::Target(Forward { target, ports })) if ports.is_empty() => {
            Err(format!("{LACKING}: no port follows `{target}`"))
        }
        _ => Ok(()),
    }
}

impl FromArgMatches for Forwards {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let wrong = |what: String| Error::raw(ErrorKind::ValueValidation, what);
        let words = matches.get_many::<String>(WORDS).into_iter().flatten();
        let wanted = Wanted::from_words(words.map(String::as_str)).map_err(wrong)?;
        let file = matches.get_one::<PathBuf>(FILE).cloned();
        let command = matches.get_many::<OsString>(COMMAND).into_iter().flatten();
        let command: Vec<_> = command.cloned().collect();
        // `--list` and `--stop` are about others.
        let is_needed = !matches.get_flag("list") && !matches.contains_id("stop");
        match wanted.is_empty() && file.is_none() && is_needed {
            true => Err(wrong(LACKING.to_owned())),
            false => Ok(Self {
                wanted,
                file,
                command,
            }),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Forwards {
    fn augment_args(command: Command) -> Command {
        command
            .arg(
                Arg::new(WORDS)
                    .value_name("TARGET PORTS")
                    .num_args(1..)
                    .help("A target and its ports, or @NAME; then maybe another target and its ports")
                    .long_help(WORDS_HELP),
            )
            .arg(
                Arg::new(FILE)
                    .short('f')
                    .long(FILE)
                    .value_name("FILE")
                    .value_parser(clap::value_parser!(PathBuf))
                    .help(
                        "File with the forwards that have names, - for stdin; all of it if no @NAME is given \
                         [default: ~/.config/kpf/forwards.yaml]",
                    ),
            )
            .arg(
                Arg::new(COMMAND)
                    .value_name("COMMAND")
                    .num_args(0..)
                    .last(true)
                    .value_parser(clap::value_parser!(OsString))
                    .help("Run this once all is ready, and end with it and its exit code"),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Whether a forward's line ends in a `--` that nothing follows.
pub(super) fn lacks_its_command(words: &[OsString]) -> bool {
    let is_forward = |word: &OsString| word == FORWARD || word == "port-forward";
    words.get(1).is_some_and(is_forward)
        && words.iter().position(|word| word == "--") == Some(words.len() - 1)
}

/// What `exec` is to run, and where.
pub struct ExecCommand {
    /// Where.
    pub target: ExecTarget,
    /// The program and its arguments; at least one word.
    pub words: Vec<OsString>,
}

/// Where `exec` is to run something.
pub enum ExecTarget {
    /// In a pod of this.
    Named(Target),
    /// In a pod of the one object in these files, folders or `-`.
    Manifests(Vec<String>),
}

impl FromArgMatches for ExecCommand {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let wrong = |what: &str| Error::raw(ErrorKind::ValueValidation, what);
        let mut before = matches.get_many::<String>(TARGET).into_iter().flatten();
        let words = matches.get_many::<OsString>(COMMAND).into_iter().flatten();
        let words: Vec<OsString> = words.cloned().collect();
        let files = matches.get_many::<String>(FILENAME).into_iter().flatten();
        let files: Vec<String> = files.filter(|file| !file.is_empty()).cloned().collect();
        // kubectl's words, and its order
        let target = before.next();
        if before.next().is_some() {
            return Err(wrong(
                "exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead",
            ));
        }
        if target.is_none() && files.is_empty() {
            return Err(wrong("pod, type/name or --filename must be specified"));
        }
        if words.is_empty() {
            return Err(wrong(
                "you must specify at least one command for the container",
            ));
        }
        let target = match target {
            Some(_) if !files.is_empty() => {
                return Err(wrong(
                    "resource/name arguments cannot be provided when a path is specified",
                ));
            }
            Some(target) => {
                let target = target.parse().map_err(|error| wrong(&format!("{error}")))?;
                ExecTarget::Named(target)
            }
            None => ExecTarget::Manifests(files),
        };
        Ok(Self { target, words })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for ExecCommand {
    fn augment_args(command: Command) -> Command {
        command
            .arg(
                Arg::new(TARGET)
                    .value_name("TARGET")
                    .num_args(0..)
                    .help("The pod, or what leads to one")
                    .long_help(
                        "The pod, or what leads to one: NAME, TYPE/NAME, NAMESPACE/NAME, NAMESPACE/TYPE/NAME or \
                         OBJECT.NAMESPACE[.CONTEXT].kpf",
                    ),
            )
            .arg(
                Arg::new(FILENAME)
                    .short('f')
                    .long("filename")
                    .value_name("FILE,...")
                    .action(ArgAction::Append)
                    .value_delimiter(',')
                    .help("Instead of TARGET, a manifest whose object leads to the pod: a file, a folder with one, or -"),
            )
            .arg(
                Arg::new(COMMAND)
                    .value_name("COMMAND")
                    .num_args(0..)
                    .last(true)
                    .value_parser(clap::value_parser!(OsString))
                    .help("The program to run and its arguments, after --"),
            )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Puts the command first: `kpf -n shop connect web 22` becomes `kpf connect -n shop web 22`, and what names no
/// command is for `forward`: `kpf -n shop svc/web 8080:80` becomes `kpf forward -n shop svc/web 8080:80`.
///
/// So all flags meet in one place, and one that is given both before and after the command behaves as one that is
/// given twice after it. A line that asks for help or the version before its first word stays as it is, as does
/// one without any word.
pub(super) fn command_first(root: &Command, mut words: Vec<OsString>) -> Vec<OsString> {
    let mut index = 1;
    while let Some(word) = words.get(index) {
        let word = word.to_string_lossy();
        if word == "--" {
            break;
        }
        let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) else {
            if is_command(root, &word) {
                let command = words.remove(index);
                words.insert(1, command);
                return words;
            }
            break;
        };
        match next_word(root, flag) {
            Some(step) => index += step,
            None => return words,
        }
    }
    if index < words.len() {
        words.insert(1, FORWARD.into());
    }
    words
}

/// How far it is from a flag (without its first dash) to the word after it and its value; none for help and version.
fn next_word(root: &Command, flag: &str) -> Option<usize> {
    if let Some(long) = flag.strip_prefix('-') {
        if matches!(long, "help" | "version") {
            return None;
        }
        return Some(
            match takes_a_word(root, |arg| arg.get_long() == Some(long)) {
                true => 2,
                false => 1, // a switch, --flag=value or unknown
            },
        );
    }
    for (at, short) in flag.char_indices() {
        if matches!(short, 'h' | 'V') {
            return None;
        }
        if takes_a_word(root, |arg| arg.get_short() == Some(short)) {
            let is_last = at + short.len_utf8() == flag.len();
            return Some(if is_last { 2 } else { 1 }); // -n shop, -nshop
        }
    }
    Some(1)
}

/// Whether the flag is one of everybody's or of `forward`'s and its value is the next word.
fn takes_a_word(root: &Command, is_it: impl Fn(&Arg) -> bool) -> bool {
    let of_forward = root
        .find_subcommand(FORWARD)
        .into_iter()
        .flat_map(Command::get_arguments);
    root.get_arguments()
        .chain(of_forward)
        .find(|arg| is_it(arg))
        .is_some_and(|arg| arg.get_action().takes_values() && !arg.is_require_equals_set())
}

fn is_command(root: &Command, word: &str) -> bool {
    word == "help" || root.find_subcommand(word).is_some()
}

const FORWARD: &str = "forward";
const WORDS: &str = "words";
const FILE: &str = "filename";
const TARGET: &str = "target";
const COMMAND: &str = "command";
const FILENAME: &str = "filename";

/// kubectl's words.
const LACKING: &str = "TYPE/NAME and list of ports are required for port-forward";

const WORDS_HELP: &str = "\
A target and its ports, then maybe another target and its ports.

TARGET is NAME (a pod), TYPE/NAME, NAMESPACE/NAME, NAMESPACE/TYPE/NAME or the host form OBJECT.NAMESPACE[.CONTEXT].kpf. \
TYPE is pod, service, deployment, replicaset, statefulset, daemonset, job or replicationcontroller, in any way kubectl \
spells it.

A port is a number or a name that the pod or service declares. LOCAL is the same number unless it is given; empty or 0 \
is any free port. ADDR is an IP address (IPv6 in brackets) or localhost. Instead of [ADDR:]LOCAL, unix:PATH is a unix \
socket, for its owner only; PATH has no colon. REMOTE may also be HOST:PORT or unix:/PATH, as a container sees it.

The word after a TARGET is a port. A later word with a slash in it, or that ends in .kpf, is the next TARGET; so write \
pod/NAME for a further pod.

@NAME is a forward or a group of the forwards file.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn group(line: &str) -> Result<Vec<(String, usize)>, String> {
        let wanted = Wanted::from_words(line.split_whitespace())?;
        Ok(wanted
            .iter()
            .map(|one| match one {
                Wanted::Target(one) => (one.target.to_string(), one.ports.len()),
                Wanted::Named(name) => (format!("@{name}"), 0),
            })
            .collect())
    }

    #[test]
    fn words_are_targets_and_ports() {
        for (line, expected) in [
            ("web 80", vec![("pod/web", 1)]),
            ("web 80 8443:https :9", vec![("pod/web", 3)]),
            ("web http metrics", vec![("pod/web", 2)]),
            (
                "svc/web 80 pod/db 5432 6",
                vec![("service/web", 1), ("pod/db", 2)],
            ),
            (
                "web 80 shop/db 1 db.shop.kpf 2",
                vec![("pod/web", 1), ("shop/pod/db", 1), ("shop/pod/db", 1)],
            ),
            (
                "web [::1]:80:80 shop/svc/db 1",
                vec![("pod/web", 1), ("shop/service/db", 1)],
            ),
            ("@db", vec![("@db", 0)]),
            (
                "web 80 @db @all web.shop.kpf 2 db/x 3",
                vec![
                    ("pod/web", 1),
                    ("@db", 0),
                    ("@all", 0),
                    ("shop/pod/web", 1),
                    ("db/pod/x", 1),
                ],
            ),
            (
                "web unix:/run/x.kpf:80 1:unix:/d.sock pod/y :unix:/z",
                vec![("pod/web", 2), ("pod/y", 1)],
            ),
        ] {
            let expected = expected
                .into_iter()
                .map(|(target, ports)| (target.to_owned(), ports));
            assert_eq!(group(line), Ok(expected.collect()), "{line}");
        }
        for (line, part) in [
            ("@", "`@` lacks the name"),
            ("pod/web @db", "no port follows `pod/web`"),
            ("@db 8080", "no port follows `pod/8080`"),
            ("web unix:/x", "write LOCAL:unix:/x"),
            (
                "pod/web",
                "are required for port-forward: no port follows `pod/web`",
            ),
            ("pod/web svc/db 80", "no port follows `pod/web`"),
            ("pod/web 80 svc/db", "no port follows `service/db`"),
            ("pod/web 80:80:80", "invalid port format"),
            ("pod/web 80 Db", "error parsing remote port 'Db'"),
            ("pod/web/x/y 80", "too many slashes"),
        ] {
            assert!(
                group(line).expect_err(line).contains(part),
                "{line}: {:?}",
                group(line)
            );
        }
    }

    #[test]
    fn the_command_comes_first() {
        let root = Cli::command();
        for (line, expected) in [
            ("kpf", "kpf"),
            ("kpf --help", "kpf --help"),
            (
                "kpf -n shop --version forward",
                "kpf -n shop --version forward",
            ),
            ("kpf help connect", "kpf help connect"),
            ("kpf connect web 22", "kpf connect web 22"),
            (
                "kpf -n shop connect web 22 -v6",
                "kpf connect -n shop web 22 -v6",
            ),
            (
                "kpf --context=prod port-forward web 80",
                "kpf port-forward --context=prod web 80",
            ),
            ("kpf pod/web 8080:80", "kpf forward pod/web 8080:80"),
            ("kpf -n connect web 80", "kpf forward -n connect web 80"),
            ("kpf -nshop web 80", "kpf forward -nshop web 80"),
            (
                "kpf -v 6 --token x web 80 --help",
                "kpf forward -v 6 --token x web 80 --help",
            ),
            (
                "kpf --insecure-skip-tls-verify web 80",
                "kpf forward --insecure-skip-tls-verify web 80",
            ),
            (
                "kpf --address 0.0.0.0 web 80",
                "kpf forward --address 0.0.0.0 web 80",
            ),
            ("kpf -- connect 80", "kpf forward -- connect 80"),
            ("kpf --unknown web 80", "kpf forward --unknown web 80"),
            ("kpf -n shop", "kpf -n shop"),
            ("kpf -n", "kpf -n"),
        ] {
            let words = line.split(' ').map(OsString::from).collect();
            let expected: Vec<OsString> = expected.split(' ').map(OsString::from).collect();
            assert_eq!(command_first(&root, words), expected, "{line}");
        }
    }
}
