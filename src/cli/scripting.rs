//! What scripts need of `forward`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// How `forward` tells scripts what it does, and where it runs.
#[derive(Args, Clone, Debug)]
pub struct ScriptArgs {
    /// What stdout is: json for one event per line
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "command")]
    pub output: Option<Output>,

    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,

    /// Write the local ports to this file once all are ready, one per line in the order of the command line; it is
    /// removed at the end
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,

    /// Make this file once all is ready; it is removed at the end
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,

    /// Return once all is ready, and go on forwarding; ended by --stop
    #[arg(long, conflicts_with = "command")]
    pub background: bool,

    /// List the forwards that run in the background
    #[arg(long, conflicts_with_all = ["words", "filename", "background", "stop"])]
    pub list: bool,

    /// End the forward in the background that has this number, or all
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["words", "filename", "background"])]
    pub stop: Option<Stop>,

    /// This is the process in the background.
    #[arg(long, hide = true)]
    pub in_background: bool,
}

/// What stdout is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Output {
    /// JSON, one value per line.
    Json,
}

/// Which forwards to end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// The one whose process has this id.
    One(u32),
    /// Each of them.
    All,
}

impl std::str::FromStr for Stop {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word.parse() {
            _ if word == "all" => Ok(Self::All),
            Ok(number) => Ok(Self::One(number)),
            Err(_) => Err("write a number of `kpf forward --list`, or all"),
        }
    }
}
