//! How a pod stream is made.

use std::ffi::OsString;

use clap::{Args, ValueEnum};

/// By port-forward or by a command.
#[derive(Args)]
pub struct ViaArgs {
    /// How streams are made: portforward, or exec, by a program in a container; auto takes exec where port-forward is
    /// forbidden or impossible
    ///
    /// exec finds socat, nc, bash, python3, perl, php or node in the container; there must be a shell. It reaches
    /// HOST:PORT and unix:/PATH, too, as REMOTE.
    #[arg(
        long,
        value_name = "WAY",
        default_value = "auto",
        hide_possible_values = true
    )]
    via: Via,

    /// Command whose stdin and stdout are the stream, run in the container; implies --via exec
    ///
    /// Its words are split as a shell would, but no shell reads them; {host}, {port} and {path} stand for where REMOTE
    /// leads.
    #[arg(long, value_name = "COMMAND", value_parser = words)]
    via_command: Option<Words>,

    /// Container that exec makes streams in [default: as `kpf exec` chooses it]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
}

/// The way that was chosen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Via {
    /// Port-forward where it can be had.
    #[default]
    Auto,
    /// The API's own way.
    Portforward,
    /// A command.
    Exec,
}

/// A command's words, at least one.
#[derive(Clone, Debug)]
struct Words(Vec<OsString>);

impl ViaArgs {
    /// The way; a command of one's own is exec.
    pub fn via(&self) -> Via {
        match (self.via, &self.via_command) {
            (Via::Auto, Some(_)) => Via::Exec,
            (via, _) => via,
        }
    }

    /// The words of `--via-command`.
    pub fn command(&self) -> Option<&[OsString]> {
        self.via_command.as_ref().map(|words| words.0.as_slice())
    }

    /// The container that was asked for.
    pub fn container(&self) -> Option<&str> {
        self.container.as_deref().filter(|name| !name.is_empty())
    }
}

fn words(command: &str) -> Result<Words, String> {
    match shlex::split(command) {
        None => Err("a quote is not closed".to_owned()),
        Some(words) if words.first().is_none_or(String::is_empty) => {
            Err("there is no command".to_owned())
        }
        Some(words) => Ok(Words(words.into_iter().map(Into::into).collect())),
    }
}
