//! `kpf gateway check`.

use std::path::PathBuf;

use clap::Args;

/// `kpf gateway check`.
#[derive(Args)]
pub struct CheckArgs {
    /// The configuration, `-` for stdin [default: ~/.config/kpf/gateway.yaml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

pub(super) const HELP: &str = "\
Prints one line for each finding, `error: ...` or `warning: ...`: files that can't be read or that others can, keys that
are too weak, lines of keys that let nobody in, rules that allow everything, and whether the gateway may impersonate
people in each cluster. Changes nothing. A cluster that does not answer is a warning.

Exit codes: 0 where there is no error, else 1.";
