//! A gateway as its configuration says: for a team, with each user's own rights.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail};

use super::super::reach::Reach;
use super::super::signal::GatewaySignals;
use super::{listen, serve, temporary};
use crate::cli::GatewayArgs;
use crate::cluster::Cluster;
use crate::ssh::access::Access;
use crate::ssh::audit::recording::{self, Format, Recordings};
use crate::ssh::audit::{About, Audit, Kind, Redact, SinkConfig, SinkKind};
use crate::ssh::config::{self, CastVersion, Config, HostKey};
use crate::ssh::door::Door;
use crate::ssh::host_key::{Secret, Store};
use crate::ssh::kubernetes::Kubernetes;
use crate::ssh::laptop::Keys;
use crate::ssh::metrics::{self, Metrics, Status};
use crate::ssh::relay::Authority;
use crate::ssh::server::{Acting, Gateway, Rules, Setup};
use crate::ssh::spool;
use crate::ssh::way::{Logins, Source};
use crate::ui::Ui;

/// How long the last events may take to be written.
const LAST_EVENTS: Duration = Duration::from_secs(5);

pub(super) async fn run(
    args: &GatewayArgs,
    file: &Path,
    reach: &Reach,
    ui: &Ui,
) -> anyhow::Result<ExitCode> {
    let signals = GatewaySignals::new()?;
    let config = Config::read(file)?;
    let clusters = clusters(&config, reach)?;
    let rules = rules(&config, ui)?;
    let recordings = recordings(&config)?;
    let audit = audit(&config, reach)?;
    let host_keys = store(&config, &clusters)?
        .load_or_make(SystemTime::now())
        .await?;
    let relay = relay(&config.relay).await?;
    let addresses = args
        .listen
        .map_or_else(|| config.listen.clone(), |one| vec![one]);
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(listen(address).await?);
    }
    let metrics_at = match config.metrics {
        Some(address) => Some(listen(address).await?),
        None => None,
    };
    let listening = listeners.iter().map(tokio::net::TcpListener::local_addr);
    let listening: Vec<_> = listening.collect::<Result<_, _>>()?;
    let begun = Kind::GatewayStart {
        version: env!("CARGO_PKG_VERSION"),
        listen: listening.clone(),
    };
    // Nobody watches a gateway that hasn't begun: an auditor's verdict is about sessions.
    let _ = audit.write(About::default(), begun)?;
    let door = Door::new(listeners, config.limits.door(&config.proxies)).on_refusal({
        let audit = audit.clone();
        Arc::new(move |source, limit, count| {
            let about = About {
                source,
                ..About::default()
            };
            // If the log fails where it must not, connections end by themselves.
            let _ = audit.write(
                about,
                Kind::LimitHit {
                    limit: limit.name(),
                    count,
                },
            );
        })
    });
    let metrics = Metrics::new();
    let gateway = Gateway::new(Setup {
        host_keys: host_keys.keys().to_vec(),
        host_certificates: host_keys.certificates().to_vec(),
        own: Keys::default(),
        rules,
        clusters: config.names.clone(),
        kubernetes: Kubernetes::new(clusters, reach.transport(), config.limits.dial),
        acting: Acting::AsUsers,
        spool: spool_limits(&config, reach)?,
        spool_per_user: config.spool.per_user,
        relay,
        limits: config.limits.clone(),
        audit: Some(audit.clone()),
        recordings,
        metrics: metrics.clone(),
        drain: config.drain,
    });
    let telling = metrics_at.map(|listener| {
        if let Ok(address) = listener.local_addr() {
            ui.notice(format_args!("Metrics and health at {address}"));
        }
        let asked = gateway.clone();
        let status = Status {
            metrics,
            door: Some(door.watch()),
            audit: Some(audit.clone()),
            ready: Box::new(move || asked.ready()),
        };
        tokio::spawn(metrics::serve(listener, Arc::new(status)))
    });
    let is_stdout = |sink: &SinkConfig| sink.kind == SinkKind::Stdout;
    for address in listening {
        match config.audit.sinks.iter().any(is_stdout) {
            true => ui.notice(format_args!("Listening on {address}")),
            false => ui.listening(address),
        }
    }
    let code = serve(&gateway, door, signals, async || {
        let read = Config::read(file).map_err(anyhow::Error::from);
        let read = read.and_then(|config| self::rules(&config, ui));
        let reason = read.as_ref().err().map(|error| format!("{error:#}"));
        match (read, &reason) {
            (Ok(rules), _) => gateway.replace_rules(rules),
            (Err(_), Some(reason)) => {
                ui.error(format_args!("the configuration stays as it was: {reason}"))
            }
            (Err(_), None) => {}
        }
        let event = Kind::GatewayConfig {
            ok: reason.is_none(),
            reason,
        };
        let _ = audit.write(About::default(), event);
    })
    .await;
    if let Some(telling) = telling {
        telling.abort();
    }
    let reason = "told to".to_owned();
    let _ = audit.write(About::default(), Kind::GatewayStop { reason });
    audit.close(LAST_EVENTS).await?;
    Ok(code)
}

fn clusters(config: &Config, reach: &Reach) -> anyhow::Result<Vec<(String, Cluster)>> {
    let clusters = config.clusters.iter().map(|(alias, settings)| {
        let cluster = reach.cluster(settings.kubeconfig.as_deref(), settings.context.as_deref());
        let cluster = cluster.with_context(|| format!("cluster `{alias}`"))?;
        Ok((alias.clone(), cluster))
    });
    clusters.collect()
}

/// Who may log in, and do what.
fn rules(config: &Config, ui: &Ui) -> anyhow::Result<Rules> {
    let (access, disabled) = Access::read(&config.access)?;
    for line in disabled {
        ui.warning(format_args!("{line}; nobody is let in by it"));
    }
    Ok(Rules {
        access,
        policy: config.policy.clone(),
    })
}

fn audit(config: &Config, reach: &Reach) -> anyhow::Result<Audit> {
    let redact = Redact::new(config.audit.redact.iter().map(String::as_str));
    let redact =
        redact.map_err(|(pattern, error)| anyhow!("audit: cannot redact `{pattern}`: {error}"))?;
    // In a pod it is the pod's name.
    let name = reach.environment().text(&["HOSTNAME"]);
    let config::Audit {
        sinks, on_failure, ..
    } = &config.audit;
    let name = name.unwrap_or("gateway");
    Ok(Audit::open(name, sinks, *on_failure, redact)?)
}

/// Where terminals are recorded. The folder has to be there: on a volume that isn't mounted recordings would be lost.
fn recordings(config: &Config) -> anyhow::Result<Option<Recordings>> {
    let Some(settings) = &config.recordings else {
        return Ok(None);
    };
    let how = recording::Config {
        format: match settings.format {
            CastVersion::V2 => Format::V2,
            CastVersion::V3 => Format::V3,
        },
        max_bytes: settings.max_size,
        min_free: settings.min_free,
        input: settings.input,
    };
    let opened = Recordings::open(&settings.folder, how).with_context(|| {
        let folder = settings.folder.display();
        format!("recordings: cannot open the folder `{folder}`: make it, or mount it")
    });
    opened.map(Some)
}

/// What pods are logged in to with, if they are.
async fn relay(settings: &config::Relay) -> anyhow::Result<Option<Logins>> {
    let mut credentials = Vec::new();
    if let Some(path) = &settings.authority {
        let store = Store::File(path.clone());
        let made = store.load_or_make(SystemTime::now()).await;
        let made = made.context("the authority for pods")?;
        let key = made.keys().first().context("the authority has no key")?;
        credentials.push(Source::Authority(Authority::new(Arc::new(key.clone()))));
    }
    if let Some(path) = &settings.key {
        let wrong = || format!("the key for pods `{}`", path.display());
        let key = russh::keys::load_secret_key(path, None).with_context(wrong)?;
        credentials.push(Source::Key(Arc::new(key)));
    }
    Ok((!credentials.is_empty()).then(|| Logins::new(credentials)))
}

/// Where the gateway's own keys are kept.
fn store(config: &Config, clusters: &[(String, Cluster)]) -> anyhow::Result<Store> {
    match &config.host_key {
        HostKey::File(path) => Ok(Store::File(path.clone())),
        HostKey::Secret {
            cluster,
            namespace,
            name,
        } => {
            let found = clusters.iter().find(|(alias, _)| alias == cluster);
            let Some((_, cluster)) = found else {
                bail!("the host key is in cluster `{cluster}`, and there is none");
            };
            Ok(Store::Secret(Secret::new(
                cluster.client(),
                namespace,
                name,
            )))
        }
    }
}

fn spool_limits(config: &Config, reach: &Reach) -> anyhow::Result<spool::Limits> {
    let spool = &config.spool;
    let directory = match &spool.folder {
        Some(folder) => folder.clone(),
        None => temporary(reach.environment()),
    };
    Ok(spool::Limits {
        memory: usize::try_from(spool.memory).context("spool: memory")?,
        channel: spool.per_channel,
        directory,
    })
}
