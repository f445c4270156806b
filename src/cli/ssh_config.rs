//! What ssh is set up with, and what it asks.

use std::path::PathBuf;

use clap::Args;

use crate::cluster::Alias;

/// `kpf ssh-config`.
#[derive(Args)]
pub struct SshConfigArgs {
    /// Put it into ssh's configuration, or bring it up to date there; the file's last state is kept beside it
    #[arg(long, conflicts_with = "remove")]
    pub write: bool,

    /// Take it out of ssh's configuration
    #[arg(long)]
    pub remove: bool,

    /// Only show the file as --write or --remove would leave it
    #[arg(long)]
    pub dry_run: bool,

    /// ssh's configuration [default: ~/.ssh/config]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// A name for a context, to be used in OBJECT.NAMESPACE.ALIAS.kpf; may be given more than once
    #[arg(long, value_name = "ALIAS=CONTEXT")]
    pub alias: Vec<Alias>,

    /// Reach pods through this gateway instead of by kpf itself
    #[arg(long, value_name = "[USER@]HOST[:PORT]", conflicts_with = "alias")]
    pub gateway: Option<String>,
}

/// `kpf known-hosts`, with what ssh's tokens stand for.
#[derive(Args)]
pub struct KnownHostsArgs {
    /// %I: why ssh asks
    pub reason: String,

    /// %H: the host as known_hosts names it
    pub host: String,

    /// %t: the kind of the key that the host offers
    pub kind: String,

    /// %K: the key
    pub key: String,
}
