//! `kpf gateway`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ReachArgs;

mod audit;
mod check;
mod manifests;

pub use self::audit::{AuditArgs, AuditCommand, ReplayArgs, VerifyArgs};
pub use self::check::CheckArgs;
pub use self::manifests::{ManifestsArgs, ServiceType};

/// `kpf gateway`.
#[derive(Args)]
pub struct GatewayArgs {
    /// The configuration, `-` for stdin [default: ~/.config/kpf/gateway.yaml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Address and port to listen on, whatever the configuration says; port 0 takes a free one [default: 127.0.0.1:2222]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,

    /// How to reach pods.
    #[command(flatten)]
    pub reach: ReachArgs,

    /// Something else than to run it.
    #[command(subcommand)]
    pub command: Option<GatewayCommand>,
}

/// What there is to do with a gateway, besides running it.
#[derive(Subcommand)]
pub enum GatewayCommand {
    /// Say what is wrong with a gateway's configuration, and with all that it names
    #[command(after_long_help = check::HELP)]
    Check(CheckArgs),
    /// Print what a cluster needs to run a gateway, for `kubectl apply -f -`
    #[command(after_long_help = manifests::HELP)]
    Manifests(ManifestsArgs),
    /// Look at audit logs
    Audit(AuditArgs),
    /// Play a recording of a session
    #[command(after_long_help = audit::REPLAY_HELP)]
    Replay(ReplayArgs),
}

pub(super) const HELP: &str = "\
Examples:
  kpf gateway                                 for yourself, on 127.0.0.1:2222
  ssh -p 2222 web.shop@localhost              a shell in the pod web of the namespace shop
  ssh -p 2222 deploy_api.shop@localhost env   a command in a pod of the deployment api
  ssh -J localhost:2222 root@db-0.shop        the pod's own SSH server, end to end
  ssh -p 2222 localhost ls                    the pods of your namespace
  kpf gateway --config gateway.yaml           for a team, each with their own rights

Without any configuration it listens on this machine only, lets in whoever has a key of yours (~/.ssh/authorized_keys and
~/.ssh/id_*.pub, or else one that it makes and shows), and acts with the rights of the kubeconfig.

Ctrl-C and SIGTERM end it: with a configuration, once sessions have ended or its drain is over; a second one at once. SIGHUP has it read
anew who may log in and do what.

Exit codes: 0 ended by Ctrl-C, 143 by SIGTERM, 1 any failure.";
