//! What clap can't say: which word is the command, which a target and which a port.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::cluster::target::Target;
use crate::cluster::target::ports::PortSpec;

/// What `forward` is to do: one entry per target, in the order they were written.
///
/// The words are grouped by one rule: a target, then its ports. The first word after a target is always a port. A
/// later word starts a new target if it has a slash in it or ends in `.kpf`, which no port does; otherwise it is
/// one more port. So a pod that isn't the first target is written `pod/NAME`.
pub struct Forwards(pub Vec<Forward>);

/// A target and the ports to forward to it, at least one.
#[derive(Debug, Eq, PartialEq)]
pub struct Forward {
    /// Where the ports are.
    pub target: Target,
    /// In the order they were written.
    pub ports: Vec<PortSpec>,
}

impl Forwards {
    fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut forwards: Vec<Forward> = Vec::new();
        for word in words {
            let starts_a_target = word.contains('/') || word.ends_with(".kpf");
            match forwards.last_mut() {
                Some(Forward { target, ports }) if ports.is_empty() && starts_a_target => {
                    return Err(format!("{LACKING}: no port follows `{target}`"));
                }
                Some(Forward { ports, .. }) if !starts_a_target => {
                    ports.push(word.parse().map_err(|error| format!("{error}"))?);
                }
                _ => forwards.push(Forward {
                    target: word.parse().map_err(|error| format!("{error}"))?,
                    ports: Vec::new(),
                }),
            }
        }
        match forwards.last() {
            None => Err(LACKING.to_owned()),
            Some(Forward { target, ports }) if ports.is_empty() => {
                Err(format!("{LACKING}: no port follows `{target}`"))
            }
            Some(_) => Ok(Self(forwards)),
        }
    }
}

impl FromArgMatches for Forwards {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let words = matches.get_many::<String>(WORDS).into_iter().flatten();
        Self::from_words(words.map(String::as_str))
            .map_err(|error| Error::raw(ErrorKind::ValueValidation, error))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Forwards {
    fn augment_args(command: Command) -> Command {
        command.arg(
            Arg::new(WORDS)
                .value_name("TARGET PORTS")
                .num_args(1..)
                .help("A target and its ports, then maybe another target and its ports")
                .long_help(WORDS_HELP),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
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
is any free port. ADDR is an IP address (IPv6 in brackets) or localhost.

The word after a TARGET is a port. A later word with a slash in it, or that ends in .kpf, is the next TARGET; so write \
pod/NAME for a further pod.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn group(line: &str) -> Result<Vec<(String, usize)>, String> {
        let forwards = Forwards::from_words(line.split_whitespace())?;
        Ok(forwards
            .0
            .iter()
            .map(|one| (one.target.to_string(), one.ports.len()))
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
        ] {
            let expected = expected
                .into_iter()
                .map(|(target, ports)| (target.to_owned(), ports));
            assert_eq!(group(line), Ok(expected.collect()), "{line}");
        }
        for (line, part) in [
            (
                "",
                "TYPE/NAME and list of ports are required for port-forward",
            ),
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
