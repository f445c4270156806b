//! `kpf gateway check`: what is wrong with a configuration, one finding a line.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use futures_util::future::join_all;

use crate::cli::{CheckArgs, GlobalArgs};
use crate::cluster::{Cluster, Environment, Options, Stdin};
use crate::forwards;
use crate::ssh::check::{self, Finding};
use crate::ssh::config::{ClusterSettings, Config};
use crate::ui::Ui;

/// What the file is called, beside the forwards file, unless it is named.
const FILE: &str = "gateway.yaml";

/// Reads everything, asks clusters that answer, and serves nobody.
pub(in super::super) async fn run(
    args: &CheckArgs,
    global: &GlobalArgs,
    ui: &Ui,
) -> anyhow::Result<ExitCode> {
    let environment = Environment::capture();
    let path = match &args.config {
        Some(path) => path.clone(),
        None => forwards::default_path(&environment)
            .context("name the configuration by --config")?
            .with_file_name(FILE),
    };
    let stdin = match path == Path::new("-") {
        true => Stdin::Taken,
        false => Stdin::Free,
    };
    let options = global.to_options(environment, stdin);
    let found = match Config::read(&path) {
        Ok(config) => findings(&config, &options).await,
        Err(error) => vec![Finding::Error(error.to_string())],
    };
    let lines: String = found.iter().map(|finding| format!("{finding}\n")).collect();
    ui.document(lines.as_bytes())
        .context("cannot write to stdout")?;
    if found.is_empty() {
        ui.notice(format_args!("`{}`: nothing is wrong", path.display()));
    }
    Ok(match found.iter().any(Finding::is_error) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

async fn findings(config: &Config, options: &Options) -> Vec<Finding> {
    let mut found = check::files(config, SystemTime::now()).await;
    let clusters = config.clusters.iter().map(async |(alias, settings)| {
        match Cluster::load(&with(options, settings)) {
            Ok(cluster) => check::cluster(alias, &cluster, config).await,
            Err(error) => vec![Finding::Error(format!("cluster `{alias}`: {error}"))],
        }
    });
    found.extend(join_all(clusters).await.into_iter().flatten());
    found
}

/// The flags, but for what the configuration says.
fn with(options: &Options, settings: &ClusterSettings) -> Options {
    let ClusterSettings {
        kubeconfig,
        context,
    } = settings.clone();
    Options {
        kubeconfig: kubeconfig.or_else(|| options.kubeconfig.clone()),
        context: context.or_else(|| options.context.clone()),
        ..options.clone()
    }
}
