//! What could stand where the cursor is, as far as the words before it tell. Asks nobody.

use std::ffi::OsString;

use clap::{Arg, Command, CommandFactory as _, FromArgMatches as _};

use super::words::{command_first, starts_anew};
use super::{Cli, GlobalArgs};
use crate::cluster::target::Target;

/// What may be written next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Next {
    /// One of these, each maybe with an explanation.
    OneOf(Vec<(String, String)>),
    /// A file's name.
    File,
    /// A context's name.
    Context,
    /// A namespace's name.
    Namespace,
    /// A container of this target.
    Container(Target),
    /// A target; where a command may stand as well, these are the commands.
    Target(Vec<(String, String)>),
    /// A port of this target; for `connect` without a local one. Or another target, where ports have been named.
    Port(Target),
    /// Nothing that anybody knows.
    Nothing,
}

/// The word at the cursor and what it may become.
pub struct Question {
    /// What is written of it; what the answer's candidates begin with.
    pub begun: String,
    /// What stands before it in the same shell word: `--context=`.
    pub before: String,
    /// What may be written.
    pub next: Next,
    /// Which cluster, and as whom.
    pub global: Option<GlobalArgs>,
}

/// Understands a line up to the cursor; `words` begins with the program's name, and its last word, which may be empty,
/// is the one that is being written.
pub fn question(words: &[OsString]) -> Question {
    let root = Cli::command();
    let text = |word: &OsString| word.to_string_lossy().into_owned();
    let current = words.last().map(text).unwrap_or_default();
    let known = &words[..words.len().saturating_sub(1).max(1).min(words.len())];
    let line = Line::read(&root, known.iter().skip(1).map(text));
    let (before, begun) = match current.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") => (format!("{flag}="), value.to_owned()),
        _ => (String::new(), current.clone()),
    };
    let next = match (&line.awaited, before.trim_end_matches('=')) {
        _ if line.is_over => Next::File,
        (Some(flag), _) => line.value_of(flag),
        (None, flag) if !flag.is_empty() => match line.flag(flag) {
            Some(flag) => line.value_of(flag),
            None => Next::Nothing,
        },
        _ if current.starts_with('-') && current.len() > 1 || current == "-" => line.flags(),
        _ => line.positional(&root, &current),
    };
    Question {
        begun,
        before,
        next,
        global: global(known),
    }
}

/// The global flags of a line that isn't finished.
fn global(words: &[OsString]) -> Option<GlobalArgs> {
    let root = Cli::command();
    let words = command_first(&root, words.to_vec());
    let matches = root.ignore_errors(true).try_get_matches_from(words).ok()?;
    GlobalArgs::from_arg_matches(&matches).ok()
}

/// What the words before the cursor are.
struct Line<'a> {
    root: &'a Command,
    command: Option<&'a Command>,
    /// Words that are neither the command nor flags nor their values.
    positional: Vec<String>,
    /// The flag whose value comes next.
    awaited: Option<&'a Arg>,
    /// After `--`.
    is_over: bool,
}

impl<'a> Line<'a> {
    fn read(root: &'a Command, words: impl Iterator<Item = String>) -> Self {
        let mut line = Self {
            root,
            command: None,
            positional: Vec::new(),
            awaited: None,
            is_over: false,
        };
        for word in words {
            if line.is_over || line.awaited.take().is_some() {
                continue;
            }
            match word.strip_prefix('-') {
                Some("-") => line.is_over = true,
                Some(flag) if !flag.is_empty() => line.awaited = line.awaiting(&word),
                _ if line.command.is_none() && line.positional.is_empty() => {
                    line.command = root.find_subcommand(&word);
                    if line.command.is_none() {
                        line.positional.push(word);
                    }
                }
                _ => line.positional.push(word),
            }
        }
        line
    }

    /// What a first word that is no command begins.
    fn command(&self) -> Option<&'a Command> {
        match (self.command, self.positional.is_empty()) {
            (None, false) => self.root.find_subcommand("forward"),
            (command, _) => command,
        }
    }

    fn args(&self) -> impl Iterator<Item = &'a Arg> {
        let own = self.command();
        let own = own.or_else(|| self.root.find_subcommand("forward"));
        own.into_iter()
            .flat_map(Command::get_arguments)
            .chain(self.root.get_arguments())
    }

    /// The flag that a word names: `--name` or `-n`.
    fn flag(&self, word: &str) -> Option<&'a Arg> {
        match word.strip_prefix("--") {
            Some(long) => self.args().find(|arg| arg.get_long() == Some(long)),
            None => {
                let short = word.chars().last();
                self.args()
                    .find(|arg| short.is_some() && arg.get_short() == short)
            }
        }
    }

    /// The flag of a word, if the next word is its value.
    fn awaiting(&self, word: &str) -> Option<&'a Arg> {
        let takes = |arg: &&Arg| arg.get_action().takes_values() && !arg.is_require_equals_set();
        if word.starts_with("--") {
            return self.flag(word).filter(takes);
        }
        // Of `-it` only the last can have a value in the next word; one before it has the rest as its value.
        let shorts: Vec<char> = word.chars().skip(1).collect();
        let (last, others) = shorts.split_last()?;
        let named = |short: &char| self.flag(&format!("-{short}"));
        match others.iter().filter_map(named).any(|arg| takes(&arg)) {
            true => None,
            false => named(last).filter(takes),
        }
    }

    fn value_of(&self, flag: &Arg) -> Next {
        let values = flag.get_possible_values();
        if !values.is_empty() {
            let values = values.iter().filter(|value| !value.is_hide_set());
            return Next::OneOf(
                values
                    .map(|value| {
                        let help = value.get_help().map(ToString::to_string);
                        (value.get_name().to_owned(), help.unwrap_or_default())
                    })
                    .collect(),
            );
        }
        match flag.get_long().unwrap_or_default() {
            "namespace" => Next::Namespace,
            "context" => Next::Context,
            "container" => self.target().map_or(Next::Nothing, Next::Container),
            "kubeconfig"
            | "certificate-authority"
            | "client-certificate"
            | "client-key"
            | "filename"
            | "port-file"
            | "ready-file"
            | "file" => Next::File,
            _ => Next::Nothing,
        }
    }

    fn flags(&self) -> Next {
        let flags = self.args().filter(|arg| !arg.is_hide_set());
        let explained = flags.filter_map(|arg| {
            let help = arg.get_help().map(ToString::to_string);
            Some((format!("--{}", arg.get_long()?), help.unwrap_or_default()))
        });
        let mut flags: Vec<_> = explained.collect();
        flags.push(("--help".to_owned(), "Print help".to_owned()));
        Next::OneOf(flags)
    }

    fn positional(&self, root: &Command, current: &str) -> Next {
        let name = self.command().map(Command::get_name);
        match (name, self.positional.len()) {
            (None, _) => Next::Target(commands(root)),
            (Some("forward"), _) => match self.target_of_ports() {
                // a port, unless it is seen to be a target
                Some(target) if !starts_anew(current) => Next::Port(target),
                _ => Next::Target(Vec::new()),
            },
            (Some("connect" | "exec" | "doctor"), 0) => Next::Target(Vec::new()),
            (Some("connect" | "doctor"), 1) => self.target().map_or(Next::Nothing, Next::Port),
            (Some("completions"), 0) => {
                let shell = self.args().find(|arg| arg.get_id() == "shell");
                shell.map_or(Next::Nothing, |shell| self.value_of(shell))
            }
            (Some("help"), 0) => Next::OneOf(commands(root)),
            _ => Next::Nothing,
        }
    }

    /// The target of `connect` and `exec`, and the last one of `forward`.
    fn target(&self) -> Option<Target> {
        match self.command().map(Command::get_name) {
            Some("forward") => self.target_of_ports(),
            _ => self.positional.first()?.parse().ok(),
        }
    }

    /// The target that a port would belong to.
    fn target_of_ports(&self) -> Option<Target> {
        let mut target = None;
        for word in &self.positional {
            if word.starts_with('@') {
                target = None;
            } else if target.is_none() || starts_anew(word) {
                target = Some(word);
            }
        }
        target?.parse().ok()
    }
}

fn commands(root: &Command) -> Vec<(String, String)> {
    let commands = root.get_subcommands().filter(|it| !it.is_hide_set());
    commands
        .map(|it| {
            let about = it.get_about().map(ToString::to_string);
            (it.get_name().to_owned(), about.unwrap_or_default())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Question {
        let words: Vec<_> = line.split(' ').map(OsString::from).collect();
        question(&words)
    }

    fn target(word: &str) -> Target {
        word.parse().unwrap()
    }

    #[test]
    fn a_place_tells_what_may_stand_there() {
        for (line, next) in [
            ("kpf forward ", Next::Target(Vec::new())),
            ("kpf -n shop forward sv", Next::Target(Vec::new())),
            ("kpf forward svc/web ", Next::Port(target("svc/web"))),
            ("kpf svc/web 80", Next::Port(target("svc/web"))),
            ("kpf forward svc/web 80 pod/", Next::Target(Vec::new())),
            (
                "kpf forward svc/web 80 pod/db ",
                Next::Port(target("pod/db")),
            ),
            (
                "kpf forward -n shop --hold 3s web 8080:",
                Next::Port(target("web")),
            ),
            ("kpf forward @db ", Next::Target(Vec::new())),
            ("kpf connect ", Next::Target(Vec::new())),
            ("kpf connect web ", Next::Port(target("web"))),
            ("kpf connect web 22 ", Next::Nothing),
            (
                "kpf exec -it deploy/api -c ",
                Next::Container(target("deploy/api")),
            ),
            ("kpf exec -itc app deploy/api ", Next::Nothing),
            ("kpf exec web -- l", Next::File),
            ("kpf exec -n ", Next::Namespace),
            ("kpf exec --namespace=sh", Next::Namespace),
            ("kpf --context ", Next::Context),
            ("kpf forward -f ", Next::File),
            ("kpf forward --token ", Next::Nothing),
            ("kpf connect --via=x", ask("kpf connect --via ").next),
        ] {
            assert_eq!(ask(line).next, next, "{line}");
        }
        let Next::OneOf(values) = ask("kpf connect --via ").next else {
            panic!()
        };
        assert_eq!(values.len(), 3);
        let Next::Target(commands) = ask("kpf ").next else {
            panic!()
        };
        let names: Vec<_> = commands.iter().map(|it| &it.0[..]).collect();
        assert!(
            names.contains(&"forward") && !names.contains(&"known-hosts"),
            "{names:?}"
        );
        let Next::OneOf(flags) = ask("kpf exec --").next else {
            panic!()
        };
        let names: Vec<_> = flags.iter().map(|it| &it.0[..]).collect();
        for flag in ["--verify", "--namespace", "--help"] {
            assert!(names.contains(&flag), "{names:?}");
        }
        assert!(!names.contains(&"--kuberc"), "hidden");
    }

    #[test]
    fn a_value_that_is_written_with_its_flag_is_its_own() {
        let Question { begun, before, .. } = ask("kpf forward --context=pr");
        assert_eq!((&begun[..], &before[..]), ("pr", "--context="));
        let question = ask("kpf forward -n shop web ");
        let options = question
            .global
            .unwrap()
            .to_options(Default::default(), Default::default());
        assert_eq!(options.namespace.as_deref(), Some("shop"));
    }

    #[test]
    fn nonsense_is_no_panic() {
        for line in [
            "",
            "kpf",
            "kpf --",
            "kpf -",
            "kpf --=",
            "kpf =",
            "kpf forward @",
            "kpf connect a/b/c/d ",
            "kpf -n",
        ] {
            ask(line);
        }
        question(&[]);
    }
}
