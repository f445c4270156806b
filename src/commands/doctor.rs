//! `kpf doctor`: the whole way to a pod, one step after the other, each with its time and a verdict.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use serde::Serialize;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::exit;
use crate::cli::{DoctorArgs, GlobalArgs, Output};
use crate::cluster::target::{Endpoint, Resolved, Target};
use crate::cluster::{Action, Cluster, Environment, Options, Stdin, origin};
use crate::dial::{Dialer, Transport};
use crate::tunnel::Failure;
use crate::ui::Ui;
use crate::untrusted::printable;

/// How long a port is listened to: one that refuses says so within a round trip.
const LISTENING: Duration = Duration::from_millis(1500);
/// Requests whose median is the round trip.
const ROUND_TRIPS: usize = 5;
/// A credential that is over so soon is worth a word.
const SOON: Duration = Duration::from_secs(10 * 60);

/// What the commands need, and which of them.
const RIGHTS: [(Action<'static>, &str); 7] = [
    (action("get", "pods", ""), "to find pods"),
    (
        action("list", "pods", ""),
        "to find pods of services and workloads",
    ),
    (action("watch", "pods", ""), "to follow pods"),
    (
        action("create", "pods", "portforward"),
        "for forward and connect",
    ),
    (
        action("get", "pods", "portforward"),
        "for forward and connect by WebSocket",
    ),
    (action("create", "pods", "exec"), "for exec"),
    (action("get", "pods", "exec"), "for exec by WebSocket"),
];

const fn action(
    verb: &'static str,
    resource: &'static str,
    subresource: &'static str,
) -> Action<'static> {
    Action {
        verb,
        resource,
        subresource,
    }
}

/// Tries it all. Its code is a failure where a step is.
pub(super) async fn run(
    args: &DoctorArgs,
    global: &GlobalArgs,
    ui: &Ui,
) -> anyhow::Result<ExitCode> {
    let mut options = global.to_options(Environment::capture(), Stdin::Free);
    let mut report = Report {
        ui: (args.output.is_none()).then(|| ui.clone()),
        steps: Vec::new(),
    };
    // Whatever ends the way early has said so.
    let _ = examine(args, &mut options, &mut report).await;
    let healthy = report.is_healthy();
    if args.output == Some(Output::Json) {
        let document = Document {
            version: 1,
            healthy,
            steps: &report.steps,
        };
        let text = serde_json::to_string_pretty(&document)? + "\n";
        ui.document(text.as_bytes())
            .context("cannot write to stdout")?;
    }
    Ok(ExitCode::from(match healthy {
        true => 0,
        false => exit::OTHER,
    }))
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    healthy: bool,
    steps: &'a [Step],
}

#[derive(Serialize)]
struct Step {
    name: &'static str,
    verdict: Verdict,
    what: String,
    milliseconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

#[derive(Clone, Copy, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Failed,
    Skipped,
}

/// What a step has found.
struct Finding {
    verdict: Verdict,
    what: String,
    advice: Option<String>,
}

fn ok(what: impl Display) -> Finding {
    finding(Verdict::Ok, what, None)
}

fn warning(what: impl Display, advice: impl Into<String>) -> Finding {
    finding(Verdict::Warning, what, Some(advice.into()))
}

fn failed(what: impl Display, advice: impl Into<String>) -> Finding {
    finding(Verdict::Failed, what, Some(advice.into()))
}

fn finding(verdict: Verdict, what: impl Display, advice: Option<String>) -> Finding {
    Finding {
        verdict,
        what: printable(&what.to_string(), LONGEST),
        advice: advice.map(|advice| printable(&advice, LONGEST)),
    }
}

/// Characters of a finding.
const LONGEST: usize = 600;

/// All steps so far; shown as they are made, unless they are kept for the end.
struct Report {
    ui: Option<Ui>,
    steps: Vec<Step>,
}

/// There is no way on.
struct Stop;

impl Report {
    /// Takes a step that the next ones need.
    async fn needed<T>(
        &mut self,
        name: &'static str,
        step: impl Future<Output = (Finding, Option<T>)>,
    ) -> Result<T, Stop> {
        let began = Instant::now();
        let (finding, result) = step.await;
        self.add(name, finding, began.elapsed());
        result.ok_or(Stop)
    }

    async fn step(&mut self, name: &'static str, step: impl Future<Output = Finding>) -> Verdict {
        let began = Instant::now();
        let finding = step.await;
        let verdict = finding.verdict;
        self.add(name, finding, began.elapsed());
        verdict
    }

    fn add(&mut self, name: &'static str, finding: Finding, took: Duration) {
        let Finding {
            verdict,
            what,
            advice,
        } = finding;
        // microseconds are enough
        let milliseconds = (took.as_secs_f64() * 1e6).round() / 1e3;
        if let Some(ui) = &self.ui {
            let word = match verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Failed => "FAILED",
                Verdict::Skipped => "skipped",
            };
            let mut text = format!("{word:8} {name:12} {milliseconds:9.1} ms  {what}\n");
            if let Some(advice) = &advice {
                text += &format!("{:37}-> {advice}\n", "");
            }
            // whoever reads no further has seen enough
            let _ = ui.document(text.as_bytes());
        }
        self.steps.push(Step {
            name,
            verdict,
            what,
            milliseconds,
            advice,
        });
    }

    fn is_healthy(&self) -> bool {
        self.steps
            .iter()
            .all(|step| step.verdict != Verdict::Failed)
    }
}

async fn examine(
    args: &DoctorArgs,
    options: &mut Options,
    report: &mut Report,
) -> Result<(), Stop> {
    let cluster = report
        .needed("kubeconfig", async { kubeconfig(args, options) })
        .await?;
    report.needed("credential", credential(&cluster)).await?;
    way(&cluster, report).await?;
    report.needed("api server", api_server(&cluster)).await?;
    report.step("round trip", round_trip(&cluster)).await;
    let namespace = match &args.target {
        Some(target) => target
            .namespace(cluster.namespace_flag(), cluster.namespace())
            .unwrap_or_else(|_| cluster.namespace())
            .to_owned(),
        None => cluster.namespace().to_owned(),
    };
    report.step("rights", rights(&cluster, &namespace)).await;
    let Some(target) = &args.target else {
        return Ok(());
    };
    let resolved = report.needed("pod", pod(&cluster, target, args)).await?;
    report.step("ports", ports(&cluster, target)).await;
    transports(&cluster, &resolved, report).await
}

fn kubeconfig(args: &DoctorArgs, options: &mut Options) -> (Finding, Option<Cluster>) {
    if let Some(target) = &args.target
        && let Err(error) = target.choose_context(options)
    {
        return (
            failed(error, "name a context of the kubeconfig, or leave it out"),
            None,
        );
    }
    let origin = match origin(options) {
        Ok(origin) => origin,
        Err(error) => {
            return (
                failed(error, "mend the file, or name another one by --kubeconfig"),
                None,
            );
        }
    };
    let files = origin.files.iter().map(|(file, there)| {
        let missing = if *there { "" } else { " (missing)" };
        format!("{}{missing}", file.display())
    });
    let files: Vec<_> = files.collect();
    match Cluster::load(options) {
        Ok(cluster) => {
            let what = format!(
                "{}; context {}; namespace {}; server {}",
                match files.is_empty() {
                    true => "no file".to_owned(),
                    false => files.join(", "),
                },
                origin.context.as_deref().unwrap_or("none"),
                cluster.namespace(),
                cluster.server()
            );
            (ok(what), Some(cluster))
        }
        Err(error) => {
            let advice = "`kubectl config get-contexts` lists what there is; get a kubeconfig from whoever runs the cluster";
            (failed(error, advice), None)
        }
    }
}

async fn credential(cluster: &Cluster) -> (Finding, Option<()>) {
    let kind = cluster.credential_kind();
    match cluster.credential_expiry().await {
        Err(error) => {
            let advice = "log in again, as your provider says, or run the plugin by hand";
            (failed(format_args!("{kind}: {error}"), advice), None)
        }
        Ok(None) => (
            ok(format_args!("{kind}; nothing says when it expires")),
            Some(()),
        ),
        Ok(Some(at)) => {
            let left = Duration::try_from(at.duration_since(Timestamp::now())).ok();
            let finding = match left {
                None => failed(format_args!("{kind}, expired at {at}"), "log in again"),
                Some(left) if left < SOON => {
                    warning(format_args!("{kind}, expires at {at}"), "log in again soon")
                }
                Some(_) => ok(format_args!("{kind}, expires at {at}")),
            };
            (finding, Some(()))
        }
    }
}

/// Name, TCP and TLS, through the proxy if there is one.
async fn way(cluster: &Cluster, report: &mut Report) -> Result<(), Stop> {
    let proxy = cluster.proxy();
    let hop = if proxy.is_some() {
        "the proxy"
    } else {
        "the server"
    };
    report
        .step("proxy", async {
            match &proxy {
                Some(proxy) => ok(proxy),
                None => ok("none"),
            }
        })
        .await;
    let found = async {
        match cluster.look_up().await {
            Ok(found) => {
                let found: Vec<_> = found.iter().map(|it| it.ip().to_string()).collect();
                (ok(found.join(", ")), Some(()))
            }
            Err(error) => {
                let advice =
                    format!("check the name of {hop}, the network, the VPN and /etc/resolv.conf");
                (failed(error, advice), None)
            }
        }
    };
    report.needed("name", found).await?;
    let dialled = async {
        match cluster.dial().await {
            Ok(()) => (ok(format_args!("{hop} answers")), Some(())),
            Err(error) => {
                let advice = format!("is {hop} up, and are the VPN and the firewalls right?");
                (failed(error, advice), None)
            }
        }
    };
    report.needed("tcp", dialled).await?;
    let agreed = async {
        match cluster.handshake().await {
            Ok(Some(tls)) => {
                let exchange = tls.key_exchange.unwrap_or_else(|| "no group".to_owned());
                let what = format!(
                    "{}, {}, {exchange}, {} certificates",
                    tls.version, tls.cipher_suite, tls.certificates
                );
                (ok(what), Some(()))
            }
            Ok(None) => {
                let advice =
                    "credentials and data go through the network for all to read: use https";
                (warning("none: the server's URL is http", advice), Some(()))
            }
            Err(error) => {
                let advice = "check certificate-authority and tls-server-name in the kubeconfig, and what the proxy does";
                (failed(error, advice), None)
            }
        }
    };
    report.needed("tls", agreed).await
}

async fn api_server(cluster: &Cluster) -> (Finding, Option<()>) {
    match cluster.version().await {
        Ok(version) => (ok(version), Some(())),
        Err(error) if error.is_unauthorized() => (
            failed(
                error,
                "log in again: the server doesn't take this credential",
            ),
            None,
        ),
        Err(error) => (
            failed(error, "is this the address of a Kubernetes API server?"),
            None,
        ),
    }
}

async fn round_trip(cluster: &Cluster) -> Finding {
    let mut times = Vec::new();
    for _ in 0..ROUND_TRIPS {
        let began = Instant::now();
        if let Err(error) = cluster.version().await {
            return failed(
                error,
                "the server answers some requests and not others: ask who runs it",
            );
        }
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    ok(format_args!(
        "median {:.1} ms of {ROUND_TRIPS} requests, {:.1} ms at most",
        milliseconds(times[ROUND_TRIPS / 2]),
        milliseconds(times[ROUND_TRIPS - 1])
    ))
}

async fn rights(cluster: &Cluster, namespace: &str) -> Finding {
    let asked = RIGHTS.map(|(action, _)| cluster.may(action, namespace));
    let mut lacking = Vec::new();
    for ((action, purpose), answer) in RIGHTS
        .iter()
        .zip(futures_util::future::join_all(asked).await)
    {
        match answer {
            Ok(true) => {}
            Ok(false) => {
                let slash = if action.subresource.is_empty() {
                    ""
                } else {
                    "/"
                };
                let Action {
                    verb,
                    resource,
                    subresource,
                } = action;
                lacking.push(format!("{verb} {resource}{slash}{subresource} ({purpose})"));
            }
            Err(error) if error.is_unauthorized() => {
                return failed(
                    error,
                    "log in again: the server doesn't take this credential",
                );
            }
            Err(error) => return warning(error, "ask who runs the cluster what your role allows"),
        }
    }
    match lacking.is_empty() {
        true => ok(format_args!(
            "all that forward, connect and exec need in namespace {namespace}"
        )),
        false => warning(
            format_args!("lacking in namespace {namespace}: {}", lacking.join(", ")),
            "ask who runs the cluster for a role with these, as far as you need them",
        ),
    }
}

async fn pod(cluster: &Cluster, target: &Target, args: &DoctorArgs) -> (Finding, Option<Resolved>) {
    let port = args.port.as_slice();
    match cluster
        .resolve(target, port, args.pod_running_timeout)
        .await
    {
        Ok(resolved) if resolved.ready => {
            let what = format!(
                "{} in namespace {} is ready",
                resolved.pod.name, resolved.pod.namespace
            );
            (ok(what), Some(resolved))
        }
        Ok(resolved) => {
            let what = format!("{} runs and is not ready", resolved.pod.name);
            let advice = format!(
                "kubectl -n {} describe pod {}",
                resolved.pod.namespace, resolved.pod.name
            );
            (warning(what, advice), Some(resolved))
        }
        Err(error) => {
            // A role that may only stream can't look, and may still connect.
            let namespace = target.namespace(cluster.namespace_flag(), cluster.namespace());
            let known = namespace
                .ok()
                .and_then(|it| target.without_asking(it, port));
            match known {
                Some(resolved) if is_forbidden(&error) => {
                    (warning(error, "it is tried all the same"), Some(resolved))
                }
                _ => {
                    let advice =
                        "check the name and the namespace; `kubectl get pods` shows what there is";
                    (failed(error, advice), None)
                }
            }
        }
    }
}

fn is_forbidden(error: &crate::cluster::target::TargetError) -> bool {
    use crate::cluster::target::TargetError;
    matches!(error, TargetError::Request(error) if error.is_forbidden())
}

async fn ports(cluster: &Cluster, target: &Target) -> Finding {
    match cluster.declared(target).await {
        Ok(declared) => {
            let ports = declared.ports.into_iter().map(|port| match port.name {
                Some(name) => format!("{} ({name})", port.number),
                None => port.number.to_string(),
            });
            let ports: Vec<_> = ports.collect();
            match ports.is_empty() {
                true => ok("none declared, which says nothing of what listens"),
                false => ok(format_args!("declared: {}", ports.join(", "))),
            }
        }
        Err(error) => finding(Verdict::Skipped, error, None),
    }
}

/// Both ways to the pod, and its port by the first that works.
async fn transports(
    cluster: &Cluster,
    resolved: &Resolved,
    report: &mut Report,
) -> Result<(), Stop> {
    let mut working = None;
    for (name, transport) in [
        ("websocket", Transport::WebSocket),
        ("spdy", Transport::Spdy),
    ] {
        let dialer = Dialer::new(cluster.clone(), transport);
        let began = Instant::now();
        let finding = match dialer.port_forward(&resolved.pod).await {
            Ok(tunnel) => {
                match working {
                    None => working = Some(tunnel),
                    Some(_) => tunnel.close().await,
                }
                ok("port-forward works")
            }
            Err(error) => finding(Verdict::Warning, error, None),
        };
        report.add(name, finding, began.elapsed());
    }
    let Some(tunnel) = working else {
        let what = "neither transport works";
        let advice =
            "see what each of them says; `--via exec` may do where the role allows pods/exec";
        report.add("port-forward", failed(what, advice), Duration::ZERO);
        return Err(Stop);
    };
    if let Some(port) = resolved.ports.first() {
        let endpoint = port.endpoint.clone();
        report
            .step("port", async {
                match endpoint {
                    Endpoint::Port(port) => listen(&tunnel, port.get()).await,
                    other => finding(
                        Verdict::Skipped,
                        format_args!("{other} is reached by exec alone"),
                        None,
                    ),
                }
            })
            .await;
    }
    tunnel.close().await;
    Ok(())
}

/// Whether a port takes connections.
async fn listen(tunnel: &crate::tunnel::Tunnel, port: u16) -> Finding {
    let mut stream = match tunnel.open(port) {
        Ok(stream) => stream,
        Err(error) => return failed(error, "try again: the connection was lost"),
    };
    let mut first = [0];
    match timeout(LISTENING, stream.read(&mut first)).await {
        Err(_) => ok(format_args!(
            "{port} takes connections, and waits for the client to speak"
        )),
        Ok(Ok(1..)) => ok(format_args!("{port} takes connections, and speaks first")),
        Ok(Ok(_)) => warning(
            format_args!("{port} takes connections, and ends them at once"),
            "look at the logs of the pod",
        ),
        Ok(Err(error)) => match Failure::of(&error) {
            Some(Failure::Refused(_)) => failed(
                error,
                "nothing listens there on the pod's localhost: check the port, and the address that the program binds",
            ),
            _ => failed(
                error,
                "look at the logs of the pod and of its node's kubelet",
            ),
        },
    }
}
