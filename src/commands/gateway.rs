//! `kpf gateway`: SSH into pods through one port. Without configuration, for whoever runs it and for nobody else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::reach::Reach;
use super::signal::Signals;
use crate::cli::GatewayArgs;
use crate::cluster::Environment;
use crate::forwards;
use crate::ssh::access::{Access, KeyFiles, Settings};
use crate::ssh::builtin;
use crate::ssh::kubernetes::Kubernetes;
use crate::ssh::laptop::{self, Keys};
use crate::ssh::name::Clusters;
use crate::ssh::server::{Acting, Gateway, Setup};
use crate::ssh::spool;
use crate::ui::Ui;

pub(super) mod check;
pub(super) mod manifests;

/// Serves until it is told to end. Ends connections and commands with it.
pub(super) async fn run(args: &GatewayArgs, reach: Reach, ui: &Ui) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let listen = args.listen;
    if !listen.ip().is_loopback() {
        bail!(
            "without a configuration the gateway listens on this machine only, and {listen} is open to others: whoever logs in has all your rights"
        );
    }
    let dialer = reach.current()?;
    let context = reach.context()?;
    let clusters = clusters(context.as_deref())?;
    let kubernetes = Kubernetes::new(
        [(clusters.default().to_owned(), dialer.cluster().clone())],
        dialer.transport(),
    );
    let folder = folder(reach.environment())?;
    let host_key = laptop::host_key(&folder)
        .with_context(|| format!("cannot keep a host key in {}", folder.display()))?;
    let (own, access, once) = keys(reach.environment(), &folder, ui)?;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}: choose another port with --listen"))?;
    let address = listener.local_addr()?;
    let gateway = Gateway::new(Setup {
        host_keys: vec![host_key],
        own,
        access,
        spool: spool::Limits::within(temporary(reach.environment())),
        clusters,
        kubernetes,
        acting: Acting::AsTheKubeconfigSays,
    });
    let stop = CancellationToken::new();
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
    let serving = gateway.serve(listener, &stop);
    tokio::pin!(serving);
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
    let code = tokio::select! {
        () = &mut serving => ExitCode::FAILURE,
        () = example => ExitCode::FAILURE,
        code = signals.wait() => code,
    };
    stop.cancel();
    tokio::select! {
        () = serving => {}
        // who asks twice doesn't want to wait
        _ = signals.wait() => {}
    }
    Ok(code)
}

/// How long a pod is looked for to make an example of.
const EXAMPLE: Duration = Duration::from_secs(5);

/// The one cluster that there is, by its context's name where that can be part of a name.
fn clusters(context: Option<&str>) -> anyhow::Result<Clusters> {
    let named = context.and_then(|context| Clusters::new(context, []).ok());
    Ok(match named {
        Some(clusters) => clusters,
        None => Clusters::new("current", [])?,
    })
}

/// Where the gateway keeps its keys.
fn folder(environment: &Environment) -> anyhow::Result<PathBuf> {
    let file = forwards::default_path(environment)?;
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    Ok(folder.join("gateway"))
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

/// Where files are made that have no name.
fn temporary(environment: &Environment) -> PathBuf {
    let named = environment.get("TMPDIR").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from(if cfg!(windows) { "." } else { "/tmp" }))
}

/// A key's file, which is removed with this.
struct Once(PathBuf);

impl Drop for Once {
    fn drop(&mut self) {
        // It is of no use to anybody by then.
        let _ = std::fs::remove_file(&self.0);
    }
}
