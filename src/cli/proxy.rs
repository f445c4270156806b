//! `kpf proxy`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::{ReachArgs, values};
use crate::cluster::target::Target;

/// `kpf proxy`.
#[derive(Args)]
pub struct ProxyArgs {
    /// Where to listen; port 0 is any free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:1080")]
    pub listen: SocketAddr,

    /// Reach everything that is no name of the cluster through a container of this target, as it sees it; without this, it
    /// is refused
    #[arg(long, value_name = "TARGET")]
    pub via: Option<Target>,

    /// How long the pod must be silent before it is told that the local side has sent all; 0 tells it at once
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = values::duration)]
    pub half_close_grace: Duration,

    /// How to reach pods.
    #[command(flatten)]
    pub reach: ReachArgs,
}

pub(super) const HELP: &str = "\
Examples:
  kpf proxy                                   SOCKS5 and HTTP CONNECT on 127.0.0.1:1080
  curl -x socks5h://127.0.0.1:1080 http://web.shop/
  curl -px http://127.0.0.1:1080 http://web.shop.svc.cluster.local/
  ssh -o ProxyCommand='nc -X 5 -x 127.0.0.1:1080 %h %p' db-0.shop.kpf
  kpf proxy --via shop/deploy/api             what the deployment's pods reach, too

Names: SERVICE.NAMESPACE, with .svc or .svc.cluster.local or without, and OBJECT.NAMESPACE[.CONTEXT].kpf. The proxy resolves \
them: a client must not (socks5h in curl, `Proxy DNS when using SOCKS v5` in Firefox). Everything else is refused unless \
--via is given.

Exit codes: 0 ended by Ctrl-C, 1 any failure, 129 and 143 ended by SIGHUP and SIGTERM.";
