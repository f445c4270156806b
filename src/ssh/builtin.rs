//! What the gateway itself answers, after a login that names no pod: `ls`, `whoami`, `explain`, and how to go on.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::access::Proof;
use super::kubernetes::{is_hidden, may};
use super::name::Destination;
use super::server::{Output, User};
use crate::cluster::RequestError;
use crate::cluster::target::is_label;
use crate::dial::Dialer;
use crate::untrusted::printable;

/// The exit status of a command that is none.
const USAGE: u32 = 2;
/// Pods that are listed: more than anybody reads.
const MAX_PODS: u32 = 5000;
/// Characters of one word of somebody else's.
const SHOWN: usize = 253;

const HELP: &str = "\
This is a gateway to pods. It has no shell of its own: name the pod.

  ssh POD.NAMESPACE@GATEWAY [COMMAND]   a shell or a command in a pod
  ssh +POD.NAMESPACE+CONTAINER@GATEWAY  the same in a certain container
  ssh deploy_NAME.NAMESPACE@GATEWAY     any pod of a deployment; also sts_, job_, ds_, rs_, svc_
  ssh -J GATEWAY LOGIN@POD.NAMESPACE    to the pod's own SSH server, which the gateway can't look into
  ssh -L 8080:localhost:80 POD.NAMESPACE@GATEWAY
                                        a port of the pod

  ssh GATEWAY ls [NAMESPACE]            the pods that you may see
  ssh GATEWAY whoami                    who you are here
  ssh GATEWAY explain POD.NAMESPACE     what a name leads to, and what you may do there
";

/// A pod to try the gateway on: one that runs, in the namespace of the context.
pub async fn example(dialer: &Dialer) -> Option<String> {
    let cluster = dialer.cluster();
    let namespace = cluster.namespace();
    let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let pods = pods.list(&ListParams::default().limit(100)).await.ok()?;
    let runs = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
        phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
    };
    let mut names = pods.items.iter().filter(runs);
    let name = names.find_map(|pod| pod.metadata.name.as_deref().filter(|it| is_label(it)))?;
    Some(format!("{name}.{namespace}"))
}

/// An answer, or a complaint and its exit status.
type Answer = Result<String, (u32, String)>;

/// Runs one of them, or says what there is; ends with its exit status.
pub(super) async fn run(
    user: &User,
    words: Result<Option<Vec<String>>, &'static str>,
    output: &Output,
    terminal: bool,
) -> u32 {
    let answer = match words {
        Ok(None) => Ok(HELP.to_owned()),
        Ok(Some(words)) => {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            answer(user, &words).await
        }
        Err(reason) => Err((USAGE, reason.to_owned())),
    };
    let written = match &answer {
        Ok(text) => write(output.stdout(), text, terminal).await,
        Err((_, reason)) => write(output.stderr(), &format!("kpf: {reason}\n"), terminal).await,
    };
    match (answer, written) {
        (Ok(_), Ok(())) => 0,
        (Err((status, _)), _) => status,
        // Nobody is left to tell.
        (Ok(_), Err(_)) => 1,
    }
}

async fn write(mut to: impl AsyncWrite + Unpin, text: &str, terminal: bool) -> std::io::Result<()> {
    let text = match terminal {
        true => text.replace('\n', "\r\n"),
        false => text.to_owned(),
    };
    match text.is_empty() {
        true => Ok(()),
        false => to.write_all(text.as_bytes()).await,
    }
}

async fn answer(user: &User, words: &[&str]) -> Answer {
    match words {
        ["ls"] => ls(user, None).await,
        ["ls", namespace] => ls(user, Some(namespace)).await,
        ["whoami"] => Ok(whoami(user)),
        ["explain", target] => explain(user, target).await,
        ["help" | "--help"] => Ok(HELP.to_owned()),
        ["explain", ..] => Err((USAGE, "usage: explain POD.NAMESPACE".to_owned())),
        _ => {
            let command = printable(&words.join(" "), SHOWN);
            let reason = format!(
                "`{command}` is no command of the gateway: it has ls, whoami, explain and help. For a command in a pod log in as POD.NAMESPACE"
            );
            Err((127, reason))
        }
    }
}

/// `NAMESPACE` or `NAMESPACE.CLUSTER`, as in the names of pods.
async fn ls(user: &User, wanted: Option<&str>) -> Answer {
    let default = user.clusters.default();
    let (namespace, alias) = match wanted {
        Some(wanted) => wanted.split_once('.').unwrap_or((wanted, default)),
        None => ("", default),
    };
    let Some(dialer) = user.reach.cluster(alias) else {
        let reason = format!("there is no cluster `{}`", printable(alias, SHOWN));
        return Err((1, reason));
    };
    let cluster = dialer.cluster();
    let namespace = match namespace {
        "" => cluster.namespace(),
        given if is_label(given) => given,
        given => {
            let reason = format!("`{}` is no namespace", printable(given, SHOWN));
            return Err((USAGE, reason));
        }
    };
    let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let list = pods.list(&ListParams::default().limit(MAX_PODS)).await;
    let list = list.map_err(|error| {
        let reason = match RequestError::from(error) {
            error if is_hidden(&error) => {
                format!("there is no namespace `{namespace}`, or you may not list its pods")
            }
            error => printable(&error.to_string(), SHOWN),
        };
        (1, reason)
    })?;
    let suffix = match alias == default {
        true => String::new(),
        false => format!(".{alias}"),
    };
    let rows: Vec<(String, String)> = list
        .items
        .iter()
        .map(|pod| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            // A name with dots is only understood with its cluster.
            let suffix = match name.contains('.') {
                true => format!(".{alias}"),
                false => suffix.clone(),
            };
            let name = format!("{}.{namespace}{suffix}", printable(name, SHOWN));
            (name, state(pod))
        })
        .collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, state) in rows {
        let _ = writeln!(text, "{name:width$}  {state}");
    }
    if list.metadata.continue_.is_some_and(|more| !more.is_empty()) {
        text += "...\n";
    }
    Ok(text)
}

/// `Running 1/2`, or what it does instead.
fn state(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let phase = match &pod.metadata.deletion_timestamp {
        Some(_) => "Terminating",
        None => phase.unwrap_or("Unknown"),
    };
    let containers = status.and_then(|status| status.container_statuses.as_deref());
    let containers = containers.unwrap_or_default();
    let ready = containers.iter().filter(|it| it.ready).count();
    let all = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    format!("{} {ready}/{all}", printable(phase, SHOWN))
}

fn whoami(user: &User) -> String {
    let identity = &user.login.identity;
    let mut text = format!("{}\n", printable(&identity.user, SHOWN));
    if !identity.groups.is_empty() {
        let groups = printable(&identity.groups.join(", "), 1000);
        let _ = writeln!(text, "groups: {groups}");
    }
    let _ = match &user.login.proof {
        Proof::Key { fingerprint } => writeln!(text, "key: {fingerprint}"),
        Proof::Certificate {
            fingerprint,
            authority,
            serial,
            key_id,
        } => writeln!(
            text,
            "certificate: {fingerprint}, number {serial} of {authority}, {}",
            printable(key_id, SHOWN)
        ),
    };
    for alias in user.clusters.iter() {
        let default = match alias == user.clusters.default() {
            true => " (default)",
            false => "",
        };
        let _ = writeln!(text, "cluster: {alias}{default}");
    }
    text
}

async fn explain(user: &User, target: &str) -> Answer {
    let place = match Destination::from_user(target, &user.clusters) {
        Ok(Destination::Place(place)) => place,
        Ok(Destination::BuiltIn) => {
            let target = printable(target, SHOWN);
            let reason = format!("`{target}` names no pod: write POD.NAMESPACE");
            return Err((USAGE, reason));
        }
        Err(error) => return Err((USAGE, error.to_string())),
    };
    let found = user.reach.container(&place).await;
    let found = found.map_err(|refusal| (1, refusal.to_string()))?;
    let mut text = format!(
        "{place}\npod: {} in namespace {} of cluster {}\nuid: {}\ncontainer: {}\n",
        found.pod.name,
        found.pod.namespace,
        place.cluster(),
        found.pod.uid.as_deref().unwrap_or("unknown"),
        found.container,
    );
    for (what, subresource) in [
        ("jump and forwarding", "portforward"),
        ("shell, commands and files", "exec"),
    ] {
        let may = may(
            &found.dialer,
            place.namespace(),
            &found.pod.name,
            subresource,
        );
        let may = may.await;
        let may = match may {
            Some(true) => "yes",
            Some(false) => "no, your role lacks it",
            None => "not known, the cluster does not tell",
        };
        let _ = writeln!(text, "{what} (pods/{subresource}): {may}");
    }
    let _ = writeln!(text, "policy: {}", user.explain(&place));
    Ok(text)
}
