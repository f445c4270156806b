//! What `connect` and `forward` do first: from the words of a target to a pod that can be dialled.

use std::time::Duration;

use anyhow::Context as _;

use crate::cli;
use crate::cluster::target::ports::RemotePort;
use crate::cluster::target::{Resolved, Target, resolve};
use crate::cluster::{self, Cluster, Options};
use crate::dial::{Dialer, Transport};

/// How clusters are reached in this run.
pub(super) struct Reach {
    options: Options,
    transport: Transport,
    wait: Duration,
}

/// A target with its cluster.
pub(super) struct Reached {
    pub(super) dialer: Dialer,
    pub(super) namespace: String,
}

impl Reach {
    pub(super) fn new(options: Options, transport: cli::Transport, wait: Duration) -> Self {
        Self {
            options,
            transport: match transport {
                cli::Transport::Auto => Transport::Auto,
                cli::Transport::Websocket => Transport::WebSocket,
                cli::Transport::Spdy => Transport::Spdy,
            },
            wait,
        }
    }

    /// The cluster and the namespace of a target. Asks nobody.
    pub(super) fn target(&self, target: &Target) -> anyhow::Result<Reached> {
        let contexts = if target.names_a_context() {
            cluster::contexts(&self.options)?
        } else {
            Vec::new()
        };
        let cluster = match target.context(&contexts)? {
            Some(context) => Cluster::load(&Options {
                context: Some(context.to_owned()),
                ..self.options.clone()
            })?,
            None => Cluster::load(&self.options)?,
        };
        let namespace = target
            .namespace(cluster.namespace_flag(), cluster.namespace())?
            .to_owned();
        Ok(Reached {
            dialer: Dialer::new(cluster, self.transport),
            namespace,
        })
    }

    /// The pod and its ports, looked up. Waits for a pod that is ready.
    pub(super) async fn resolve(
        &self,
        reached: &Reached,
        target: &Target,
        ports: &[RemotePort],
    ) -> anyhow::Result<Resolved> {
        let client = reached.dialer.cluster().client();
        let namespace = &reached.namespace;
        let resolved = resolve(&client, namespace, target, ports, self.wait).await;
        resolved.with_context(|| format!("cannot reach {target}"))
    }
}
