//! `kpf gateway manifests`: what a cluster needs to run the gateway.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::{ManifestsArgs, ServiceType};
use crate::ssh::config::Config;
use crate::ssh::manifests::{Options, Service};
use crate::ui::Ui;
use crate::yaml;

/// Prints them. A configuration that is given must be one.
pub(in super::super) fn run(args: &ManifestsArgs, ui: &Ui) -> anyhow::Result<ExitCode> {
    let config = match &args.config {
        None => None,
        Some(path) => {
            let bytes = yaml::bytes(path);
            let bytes = bytes.with_context(|| format!("cannot read `{}`", path.display()))?;
            let drain = Config::parse(path, &bytes)?.drain;
            Some((String::from_utf8(bytes)?, drain))
        }
    };
    let (config, drain) = config.unzip();
    let options = Options {
        name: args.name.clone(),
        namespace: args.namespace.clone(),
        image: args.image.clone(),
        replicas: args.replicas,
        service: match args.service {
            ServiceType::LoadBalancer => Service::LoadBalancer,
            ServiceType::NodePort => Service::NodePort,
            ServiceType::ClusterIp => Service::ClusterIp,
        },
        port: args.port,
        users: args.users.clone(),
        groups: args.groups.clone(),
        constrained: args.constrained,
        config,
        drain: drain.unwrap_or(Config::DRAIN),
    };
    ui.document(options.manifests()?.as_bytes())
        .context("cannot write the manifests")?;
    Ok(ExitCode::SUCCESS)
}
