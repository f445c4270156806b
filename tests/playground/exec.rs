//! Remote commands up to the 101: what the API server, the kubelet and the container runtime check, and how each of them
//! says no.

use std::sync::Arc;

use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::{Method, Response, StatusCode};
use serde_json::Value;

use super::access::{Action, Caller};
use super::answer::{Body, Query, Refusal, empty, text};
use super::channels;
use super::legacy::Encoding;
use super::remote_spdy;
use super::runtime::{Remote, internal_error};
use super::server::Server;
use super::transport;
use super::tunnel::Tunnel;
use super::upgrade::Upgrade;
use super::wire::lock;
use super::world::Resource;

/// Over SPDY; later ones are never chosen by a runtime.
const SPDY: [&str; 4] = [
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
];
/// Over WebSocket, where the API server translates.
const V5: &str = "v5.channel.k8s.io";

impl Upgrade {
    /// `pods/exec` of the API server.
    pub(crate) fn exec_of_pod(
        self,
        server: &Arc<Server>,
        caller: &Caller,
        namespace: &str,
        name: &str,
    ) -> Result<Response<Body>, Refusal> {
        let create = Action {
            verb: "create",
            group: "",
            resource: "pods/exec",
            namespace,
            name,
        };
        // since 1.35; the ordinary check for `get` came before
        if server.minor >= 35 && self.request.method() == Method::GET && !caller.may(&create) {
            let message = format!("pods \"{name}\" is forbidden: ");
            return Err(Refusal::forbidden("pods", name, message));
        }
        let pods = Resource::find("", "pods").expect("pods are known");
        let pod = lock(&server.world).get(pods, namespace, name).cloned();
        let pod = pod.ok_or_else(|| Refusal::not_found("pods", name))?;
        let query = Query::of_request(&self.request);
        let container = container(&pod, name, query.first("container").unwrap_or_default())?;
        if pod["spec"]["nodeName"].is_null() {
            let message = format!("pod {name} does not have a host assigned");
            return Err(Refusal::bad_request(message));
        }
        if !self.asks_for_upgrade() {
            return Err(Refusal::bad_request("Upgrade request required"));
        }
        if !server.node.is_up() {
            return Err(Refusal::no_kubelet());
        }
        let flag = |name: &str| {
            let value = query.first(name);
            value.is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
        };
        let words = query.all("command").into_iter().map(str::to_owned);
        let words: Vec<String> = words.collect();
        if !flag("stdin") && !flag("stdout") && !flag("stderr") {
            let message = "you must specify at least 1 of stdin, stdout, stderr\n";
            return Ok(text(StatusCode::BAD_REQUEST, message));
        }
        let not_found = format!("container not found ({container:?})");
        let sandbox = server.node.sandbox(namespace, name);
        let sandbox = sandbox.filter(|it| it.is_running() && runs(&pod, &container));
        let translated = server.minor >= 30 && self.subprotocols().iter().any(|it| it == V5);
        let Some(sandbox) = sandbox else {
            // before 1.36 the API server had said 101 before it heard of this
            if self.is_websocket() && translated && server.minor < 36 {
                let status = internal_error(&format!("unable to upgrade connection: {not_found}"));
                return Ok(self.websocket_of(server, (namespace, name), V5, move |io| {
                    channels::refuse(io, status)
                }));
            }
            return Ok(text(StatusCode::INTERNAL_SERVER_ERROR, not_found + "\n"));
        };
        let folder = server.folder.join("pods").join(namespace).join(name);
        let folder = folder.join(container);
        std::fs::create_dir_all(&folder).expect("the playground's folder is its own");
        let remote = Remote {
            words,
            stdin: flag("stdin"),
            stdout: flag("stdout"),
            stderr: flag("stderr"),
            tty: flag("tty"),
            sandbox,
            folder,
            mark: server.mark(),
            faults: lock(&server.behaviour).exec.clone(),
        };
        Ok(if self.is_websocket() {
            self.exec_websocket(server, namespace, name, translated, remote)
        } else {
            self.exec_spdy(server, namespace, name, remote)
        })
    }

    fn exec_websocket(
        self,
        server: &Arc<Server>,
        namespace: &str,
        name: &str,
        translated: bool,
        remote: Remote,
    ) -> Response<Body> {
        if let Some(refusal) = self.check_websocket() {
            return refusal;
        }
        let offered = self.subprotocols();
        let legacy = |protocol: &&String| {
            matches!(
                protocol.as_str(),
                "channel.k8s.io"
                    | "base64.channel.k8s.io"
                    | "v4.channel.k8s.io"
                    | "v4.base64.channel.k8s.io"
            )
        };
        let chosen = match offered.iter().find(legacy) {
            _ if translated => V5.to_owned(),
            Some(chosen) => chosen.clone(),
            None if offered.is_empty() => String::new(),
            // x/net's WebSocket server in an old kubelet
            None => return self.refused_by_websocket(),
        };
        let encoding = match chosen.contains("base64") {
            true => Encoding::Base64,
            false => Encoding::Binary,
        };
        let version = channels::Version::of(&chosen);
        self.websocket_of(server, (namespace, name), &chosen, move |io| {
            channels::serve(io, encoding, version, remote)
        })
    }

    fn websocket_of<R>(
        self,
        server: &Arc<Server>,
        pod: (&str, &str),
        protocol: &str,
        serve: impl FnOnce(Box<dyn super::faults::Io>) -> R + Send + 'static,
    ) -> Response<Body>
    where
        R: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let mut response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "Upgrade")
            .header(SEC_WEBSOCKET_ACCEPT, self.accept_key());
        if !protocol.is_empty() {
            response = response.header(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        self.switch_as(server, pod, "websocket", serve);
        response.body(empty()).expect("well-formed headers")
    }

    fn exec_spdy(
        self,
        server: &Arc<Server>,
        namespace: &str,
        name: &str,
        remote: Remote,
    ) -> Response<Body> {
        let protocol = match self.negotiate(&SPDY) {
            Ok(protocol) => protocol,
            Err(refusal) => return *refusal,
        };
        let response = super::upgrade::switching_to_spdy(&protocol);
        self.switch_as(server, (namespace, name), "spdy", move |io| {
            let (source, sink) = transport::raw(io);
            remote_spdy::serve(source, sink, remote)
        });
        response
    }

    /// Hands the connection over, and shows it among the tunnels as long as it lasts.
    fn switch_as<R>(
        self,
        server: &Arc<Server>,
        pod: (&str, &str),
        transport: &'static str,
        serve: impl FnOnce(Box<dyn super::faults::Io>) -> R + Send + 'static,
    ) where
        R: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let server = server.clone();
        let number = server.next_tunnel();
        let wire = self.visitor.wire.clone();
        let (tunnel, _) = Tunnel::new(number, pod, transport, wire);
        lock(&server.tunnels).insert(number, tunnel);
        self.switch(async move |io| {
            let ended = serve(io).await;
            lock(&server.tunnels).remove(&number);
            ended
        });
    }
}

/// The container that was asked for; the API server knows no default but the only one.
fn container(pod: &Value, name: &str, wanted: &str) -> Result<String, Refusal> {
    let names = |kind: &str| -> Vec<String> {
        let containers = pod["spec"][kind].as_array().into_iter().flatten();
        let names = containers.map(|it| it["name"].as_str().unwrap_or_default().to_owned());
        names.collect()
    };
    let main = names("containers");
    if wanted.is_empty() {
        return match &main[..] {
            [only] => Ok(only.clone()),
            _ => Err(Refusal::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                main.join(" ")
            ))),
        };
    }
    let all = [main, names("initContainers"), names("ephemeralContainers")].concat();
    if all.iter().any(|it| it == wanted) {
        return Ok(wanted.to_owned());
    }
    let message = format!("container {wanted} is not valid for pod {name}");
    Err(Refusal::bad_request(message))
}

/// Init containers of a running pod have ended.
fn runs(pod: &Value, container: &str) -> bool {
    let mut init = pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten();
    !init.any(|it| it["name"] == container)
}
