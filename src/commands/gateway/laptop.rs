//! The gateway that nobody has configured: for whoever runs it, and for nobody else.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use tokio::time::timeout;

use super::super::reach::Reach;
use super::super::signal::GatewaySignals;
use super::{folder, listen, serve, temporary};
use crate::cli::GatewayArgs;
use crate::cluster::Environment;
use crate::ssh::access::{Access, KeyFiles, Settings};
use crate::ssh::config::Limits;
use crate::ssh::door::{self, Door};
use crate::ssh::host_key::{NAME, Store};
use crate::ssh::kubernetes::Kubernetes;
use crate::ssh::laptop::{self, Keys};
use crate::ssh::metrics::Metrics;
use crate::ssh::name::Clusters;
use crate::ssh::policy::Policy;
use crate::ssh::server::{Acting, Gateway, Rules, Setup};
use crate::ssh::{builtin, spool};
use crate::ui::Ui;

/// Where it listens unless a flag says so.
const LISTEN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 2222);
/// How long a pod is looked for to make an example of.
const EXAMPLE: Duration = Duration::from_secs(5);

pub(super) async fn run(args: &GatewayArgs, reach: &Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
    let signals = GatewaySignals::new()?;
    let address = args.listen.unwrap_or_else(|| SocketAddr::from(LISTEN));
    if !address.ip().is_loopback() {
        bail!(
            "without a configuration the gateway listens on this machine only, and {address} is open to others: whoever logs in has all your rights"
        );
    }
    let dialer = reach.current()?;
    let context = reach.context()?;
    let clusters = clusters(context.as_deref())?;
    let kubernetes = Kubernetes::new(
        [(clusters.default().to_owned(), dialer.cluster().clone())],
        dialer.transport(),
        limits().dial,
    );
    let folder = folder(reach.environment())?.join("gateway");
    make(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let store = Store::File(folder.join(NAME));
    let host_keys = store.load_or_make(SystemTime::now()).await?;
    let (own, access, once) = keys(reach.environment(), &folder, ui)?;
    let listener = listen(address)
        .await
        .context("choose another port with --listen")?;
    let address = listener.local_addr()?;
    let gateway = Gateway::new(Setup {
        host_keys: host_keys.keys().to_vec(),
        host_certificates: host_keys.certificates().to_vec(),
        own,
        rules: Rules {
            access,
            policy: Policy { rules: None },
        },
        clusters,
        kubernetes,
        acting: Acting::AsTheKubeconfigSays,
        spool: spool::Limits::within(temporary(reach.environment())),
        spool_per_user: spool::Quota::DISK,
        relay: None,
        limits: limits(),
        recordings: None,
        metrics: Metrics::new(),
        audit: None,
        drain: Duration::ZERO,
    });
    ui.listening(address);
    let whose = context.as_deref().map_or_else(
        || "this cluster".to_owned(),
        |context| format!("context {context}"),
    );
    ui.warning(format_args!(
        "no configuration: who logs in acts with your own rights in {whose}. Only this machine can connect, with {}",
        match &once {
            Some(_) => "a key that was made for this once".to_owned(),
            None => "the keys in your ~/.ssh".to_owned(),
        }
    ));
    let door = door::Config {
        // Whoever is on this machine is not to be locked out by a wrong key.
        penalties: door::penalties::Table {
            auth_fail: Duration::ZERO,
            no_auth: Duration::ZERO,
            grace: Duration::ZERO,
            ..door::penalties::Table::default()
        },
        startups: door::startups::Limits {
            per_source: 100,
            ..door::startups::Limits::default()
        },
        ..door::Config::default()
    };
    let serving = serve(
        &gateway,
        Door::new(vec![listener], door),
        signals,
        async || {},
    );
    // It may take a while, and a connection is not to wait for it.
    let example = async {
        let pod = timeout(EXAMPLE, builtin::example(&dialer)).await;
        let pod = pod.ok().flatten();
        let pod = pod.unwrap_or_else(|| "POD.NAMESPACE".to_owned());
        let identity = once
            .as_ref()
            .map_or_else(String::new, |once| format!("-i {} ", once.0.display()));
        ui.notice(format_args!(
            "try: ssh {identity}-p {} {pod}@{}",
            address.port(),
            address.ip(),
        ));
        std::future::pending().await
    };
    tokio::select! {
        code = serving => Ok(code),
        () = example => Ok(ExitCode::FAILURE),
    }
}

/// One person's own machine needs no clock, and a browser opens more channels than an editor.
fn limits() -> Limits {
    Limits {
        channels: 128,
        session: None,
        unused: None,
        ..Limits::default()
    }
}

/// The one cluster that there is, by its context's name where that can be part of a name.
fn clusters(context: Option<&str>) -> anyhow::Result<Clusters> {
    let named = context.and_then(|context| Clusters::new(context, []).ok());
    Ok(match named {
        Some(clusters) => clusters,
        None => Clusters::new("current", [])?,
    })
}

/// A folder that only its owner can look into.
fn make(folder: &Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// The person's own keys, and whom else they let in; or a key that is made now and lasts as long as what comes with it.
fn keys(
    environment: &Environment,
    folder: &Path,
    ui: &Ui,
) -> anyhow::Result<(Keys, Access, Option<Once>)> {
    let user = environment.text(&["USER", "LOGNAME"]).unwrap_or("you");
    let mut own = match environment.home() {
        Some(home) => Keys::of_home(user, home),
        None => Keys::new(user),
    };
    let file = environment
        .home()
        .map(|home| home.join(".ssh/authorized_keys"));
    let settings = Settings {
        keys: file.filter(|file| file.exists()).map(|file| KeyFiles::Of {
            user: user.to_owned(),
            file,
        }),
        ..Settings::default()
    };
    let is_listed = settings.keys.is_some();
    let (access, disabled) = Access::read(&settings)?;
    for line in disabled {
        ui.warning(format_args!("{line}; nobody is let in by it"));
    }
    if !own.is_empty() || is_listed {
        return Ok((own, access, None));
    }
    let path = folder.join("one_time_key");
    let key = laptop::one_time_key(&path)
        .with_context(|| format!("cannot write a key to {}", path.display()))?;
    own.add(key);
    Ok((own, access, Some(Once(path))))
}

/// A key's file, which is removed with this.
struct Once(PathBuf);

impl Drop for Once {
    fn drop(&mut self) {
        // It is of no use to anybody by then.
        let _ = std::fs::remove_file(&self.0);
    }
}
