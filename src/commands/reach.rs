//! From the flags and a target to the cluster that has it.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;

use crate::cli::{self, GlobalArgs, ReachArgs, Streaming, ViaArgs};
use crate::cluster::target::Target;
use crate::cluster::{self, Alias, Cluster, Environment, Options, Stdin};
use crate::dial::{Dialer, Exec, Transport, Via};
use crate::ui::Ui;

/// How clusters are reached in this run. Targets of one context share a cluster.
pub(super) struct Reach {
    options: Options,
    transport: Transport,
    /// For a pod to be ready.
    pub(super) wait: Duration,
    dialers: HashMap<Option<String>, Dialer>,
}

impl Reach {
    pub(super) fn new(
        global: &GlobalArgs,
        args: &ReachArgs,
        streaming: Streaming,
        stdin: Stdin,
    ) -> Self {
        let environment = Environment::capture();
        let transport = match args.transport(streaming, &environment) {
            cli::Transport::Auto => Transport::Auto,
            cli::Transport::Websocket => Transport::WebSocket,
            cli::Transport::Spdy => Transport::Spdy,
        };
        Self {
            options: global.to_options(environment, stdin),
            transport,
            wait: args.pod_running_timeout,
            dialers: HashMap::new(),
        }
    }

    /// The same, with these names for contexts.
    pub(super) fn with_aliases(mut self, aliases: &[Alias]) -> Self {
        self.options.aliases = aliases.to_vec();
        self
    }

    /// The process's environment.
    pub(super) fn environment(&self) -> &Environment {
        &self.options.environment
    }

    /// The cluster of a target. Asks nobody.
    pub(super) fn dialer(&mut self, target: &Target) -> anyhow::Result<Dialer> {
        let mut options = self.options.clone();
        target.choose_context(&mut options)?;
        if let Some(dialer) = self.dialers.get(&options.context) {
            return Ok(dialer.clone());
        }
        let dialer = Dialer::new(Cluster::load(&options)?, self.transport);
        self.dialers.insert(options.context, dialer.clone());
        Ok(dialer)
    }

    /// The cluster that the flags say, whatever the target.
    pub(super) fn current(&self) -> anyhow::Result<Dialer> {
        Ok(Dialer::new(Cluster::load(&self.options)?, self.transport))
    }

    /// The cluster of this kubeconfig and context, each where it is named, and otherwise as the flags say.
    pub(super) fn cluster(
        &self,
        kubeconfig: Option<&Path>,
        context: Option<&str>,
    ) -> anyhow::Result<Cluster> {
        let mut options = self.options.clone();
        if let Some(kubeconfig) = kubeconfig {
            options.kubeconfig = Some(kubeconfig.to_owned());
        }
        if let Some(context) = context {
            options.context = Some(context.to_owned());
        }
        Ok(Cluster::load(&options)?)
    }

    /// The transports to try.
    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    /// The name of its context, where it has one.
    pub(super) fn context(&self) -> anyhow::Result<Option<String>> {
        Ok(cluster::current_context(&self.options)?)
    }

    /// Waits until commands that made streams have been ended, 2 s at most.
    pub(super) async fn settle(&self) {
        join_all(self.dialers.values().map(Dialer::settle)).await;
    }
}

/// The way to make streams that was asked for.
pub(super) fn via(args: &ViaArgs) -> (Via, Exec) {
    let via = match args.via() {
        cli::Via::Auto => Via::Auto,
        cli::Via::Portforward => Via::PortForward,
        cli::Via::Exec => Via::Exec,
    };
    let exec = Exec {
        container: args.container().map(str::to_owned),
        command: args.command().map(Into::into),
    };
    (via, exec)
}

/// Says so should commands have to take port-forward's place.
pub(super) fn tell_of_exec(dialer: &Dialer, ui: &Ui) {
    let ui = ui.clone();
    dialer.on_exec(move |why| {
        ui.warning(format_args!(
            "no port-forward, a program in the container makes the connections instead (--via exec): {why}"
        ));
    });
}
