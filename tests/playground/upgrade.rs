//! Port-forward up to the 101: what the API server, the kubelet and the container runtime check, in that order,
//! and how each of them says no.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::access::{Action, Caller};
use super::answer::{Body, Query, Refusal, empty, text};
use super::faults::{Answer, Io};
use super::legacy::{self, Encoding};
use super::node::Sandbox;
use super::portforward;
use super::server::{Server, Visitor};
use super::transport;
use super::tunnel::Tunnel;
use super::wire::lock;
use super::world::Resource;

/// The protocol that all streams of a forward speak.
const PROTOCOL: &str = "portforward.k8s.io";
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";

/// What a request wants to become.
pub(crate) struct Upgrade {
    pub(crate) request: Request<Incoming>,
    pub(crate) visitor: Arc<Visitor>,
    /// A fault that waits for the 101.
    pub(crate) fault: Option<Answer>,
}

impl Upgrade {
    /// `pods/portforward` of the API server.
    pub(crate) fn of_pod(
        self,
        server: &Arc<Server>,
        caller: &Caller,
        namespace: &str,
        name: &str,
    ) -> Result<Response<Body>, Refusal> {
        let query = Query::of(self.request.uri());
        let ports = query.all("ports");
        for value in ports.iter().flat_map(|value| value.split(',')) {
            convert_port(value)?;
        }
        if query.all("dryRun").iter().any(|value| !value.is_empty()) {
            return Err(Refusal::bad_request("dryRun is not supported"));
        }
        let create = Action {
            verb: "create",
            group: "",
            resource: "pods/portforward",
            namespace,
            name,
        };
        // since 1.35; the ordinary check for `get` came before
        if server.minor >= 35 && self.request.method() == Method::GET && !caller.may(&create) {
            return Err(Refusal::forbidden(
                "pods",
                name,
                format!("pods \"{name}\" is forbidden: "),
            ));
        }
        let pods = Resource::find("", "pods").expect("pods are known");
        let pod = lock(&server.world).get(pods, namespace, name).cloned();
        let Some(pod) = pod else {
            return Err(Refusal::not_found("pods", name));
        };
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
        if server.minor >= 31 && self.is_websocket() && !self.tunnel_protocols().is_empty() {
            return Ok(self.tunnel(server, namespace, name));
        }
        let ports = ports.join(",");
        let port = (!ports.is_empty()).then_some(ports);
        Ok(self.of_kubelet(server, namespace, name, None, port.as_deref()))
    }

    /// The kubelet's `/portForward/NAMESPACE/POD[/UID]?port=80,443`.
    pub(crate) fn of_kubelet(
        self,
        server: &Arc<Server>,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        port: Option<&str>,
    ) -> Response<Body> {
        let mut ports = Vec::new();
        if self.is_websocket() {
            let Some(port) = port else {
                return text(
                    StatusCode::BAD_REQUEST,
                    "query parameter \"port\" is required\n",
                );
            };
            for value in port.split(',') {
                match convert_port(value) {
                    Ok(0) => {
                        let message = format!("port {value:?} must be > 0\n");
                        return text(StatusCode::BAD_REQUEST, message);
                    }
                    Ok(port) => ports.push(port),
                    Err(_) => {
                        let message = format!(
                            "unable to parse {value:?} as a port: {}\n",
                            go_parse_error(value)
                        );
                        return text(StatusCode::BAD_REQUEST, message);
                    }
                }
            }
        }
        let pods = Resource::find("", "pods").expect("pods are known");
        let Some(pod) = lock(&server.world).get(pods, namespace, name).cloned() else {
            return text(StatusCode::NOT_FOUND, "pod does not exist\n");
        };
        if uid.is_some_and(|uid| pod["metadata"]["uid"] != uid) {
            return text(StatusCode::NOT_FOUND, "pod not found\n");
        }
        let Some(sandbox) = server.node.sandbox(namespace, name) else {
            let message = format!("pod not found (\"{name}_{namespace}\")\n");
            return text(StatusCode::INTERNAL_SERVER_ERROR, message);
        };
        if self.is_websocket() {
            self.legacy(server, ports, sandbox)
        } else {
            self.spdy(server, namespace, sandbox)
        }
    }

    /// SPDY inside a WebSocket, from 1.31 on. The backend decides before the WebSocket's handshake does.
    fn tunnel(self, server: &Arc<Server>, namespace: &str, name: &str) -> Response<Body> {
        let Some(sandbox) = server.node.sandbox(namespace, name) else {
            let message = format!("pod not found (\"{name}_{namespace}\")\n");
            return text(StatusCode::INTERNAL_SERVER_ERROR, message);
        };
        let offered: Vec<_> = self
            .tunnel_protocols()
            .into_iter()
            .map(|protocol| protocol.trim_start_matches("SPDY/3.1+").to_owned())
            .collect();
        if !offered.iter().any(|protocol| protocol == PROTOCOL) {
            return cannot_negotiate(&offered, &[PROTOCOL]);
        }
        if let Some(refusal) = self.check_websocket() {
            return refusal;
        }
        let accept = self.accept_key();
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "Upgrade")
            .header(SEC_WEBSOCKET_ACCEPT, accept)
            .header(SEC_WEBSOCKET_PROTOCOL, format!("SPDY/3.1+{PROTOCOL}"));
        self.switch_to_spdy(server, "websocket", namespace, sandbox);
        response.body(empty()).expect("well-formed headers")
    }

    /// Raw SPDY/3.1: the container runtime's own answer.
    fn spdy(self, server: &Arc<Server>, namespace: &str, sandbox: Arc<Sandbox>) -> Response<Body> {
        match self.negotiate(&[PROTOCOL]) {
            Ok(protocol) => {
                self.switch_to_spdy(server, "spdy", namespace, sandbox);
                switching_to_spdy(&protocol)
            }
            Err(refusal) => *refusal,
        }
    }

    /// The first of the client's stream protocols that is among `accepted`, or how a runtime refuses.
    pub(super) fn negotiate(&self, accepted: &[&str]) -> Result<String, Box<Response<Body>>> {
        let headers = self.request.headers();
        if !has_token(headers, UPGRADE.as_str(), "spdy/3.1") {
            let message = format!(
                "unable to upgrade: missing upgrade headers in request: {:?}\n",
                header_names(headers)
            );
            return Err(text(StatusCode::BAD_REQUEST, message).into());
        }
        let lines: Vec<_> = headers.get_all(STREAM_PROTOCOL).iter().collect();
        if lines.is_empty() {
            let message = format!(
                "unable to upgrade: header X-Stream-Protocol-Version does not exist in request with {} headers\n",
                headers.keys_len()
            );
            return Err(text(StatusCode::BAD_REQUEST, message).into());
        }
        let offered = tokens(headers, STREAM_PROTOCOL);
        if offered.is_empty() {
            let message = format!(
                "unable to upgrade: header X-Stream-Protocol-Version contains {lines:?}, but no valid protocols\n"
            );
            return Err(text(StatusCode::BAD_REQUEST, message).into());
        }
        let chosen = offered.iter().find(|it| accepted.contains(&it.as_str()));
        chosen
            .cloned()
            .ok_or_else(|| cannot_negotiate(&offered, accepted).into())
    }

    /// The legacy WebSocket, which every version has.
    fn legacy(
        self,
        server: &Arc<Server>,
        ports: Vec<u16>,
        sandbox: Arc<Sandbox>,
    ) -> Response<Body> {
        if let Some(refusal) = self.check_websocket() {
            return refusal;
        }
        let offered = self.subprotocols();
        let known = |protocol: &&String| {
            matches!(
                protocol.as_str(),
                "v4.channel.k8s.io" | "v4.base64.channel.k8s.io"
            )
        };
        let chosen = offered.iter().find(known).cloned();
        if chosen.is_none() && !offered.is_empty() {
            return self.refused_by_websocket();
        }
        let encoding = match chosen.as_deref() {
            Some("v4.base64.channel.k8s.io") => Encoding::Base64,
            _ => Encoding::Binary,
        };
        let mut response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "Upgrade")
            .header(SEC_WEBSOCKET_ACCEPT, self.accept_key());
        if let Some(chosen) = chosen {
            response = response.header(SEC_WEBSOCKET_PROTOCOL, chosen);
        }
        let behaviour = lock(&server.behaviour).clone();
        self.switch(move |io| legacy::serve(io, encoding, ports, sandbox, behaviour));
        response.body(empty()).expect("well-formed headers")
    }

    fn switch_to_spdy(
        self,
        server: &Arc<Server>,
        transport: &'static str,
        namespace: &str,
        sandbox: Arc<Sandbox>,
    ) {
        let server = server.clone();
        let number = server.next_tunnel();
        let at = (namespace, sandbox.name.as_str());
        let wire = self.visitor.wire.clone();
        let (tunnel, orders) = Tunnel::new(number, at, transport, wire);
        sandbox.count_tunnel();
        lock(&server.tunnels).insert(number, tunnel);
        self.switch(async move |io| {
            let messages = lock(&server.behaviour).messages;
            let (source, sink) = match transport {
                "websocket" => transport::websocket(io, messages).await,
                _ => transport::raw(io),
            };
            let behaviour = server.behaviour.clone();
            let ended = portforward::serve(source, sink, sandbox, behaviour, orders).await;
            lock(&server.tunnels).remove(&number);
            ended
        });
    }

    /// x/net's WebSocket server where it knows none of the subprotocols: a status line and nothing else.
    pub(super) fn refused_by_websocket(&self) -> Response<Body> {
        self.visitor
            .line
            .answer_instead(b"HTTP/1.1 403 Forbidden\r\n\r\n");
        closing(StatusCode::FORBIDDEN)
    }

    /// Hands the connection over once the 101 is out.
    pub(super) fn switch<R>(mut self, serve: impl FnOnce(Box<dyn Io>) -> R + Send + 'static)
    where
        R: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let upgrading = hyper::upgrade::on(&mut self.request);
        if matches!(self.fault, Some(Answer::Early(_))) {
            self.visitor.line.hold();
        }
        tokio::spawn(async move {
            // the client may be gone before it has read the 101
            let Ok(upgraded) = upgrading.await else {
                return;
            };
            let mut io: Box<dyn Io> = Box::new(TokioIo::new(upgraded));
            let _ = match self.fault {
                Some(Answer::Script(script)) => script.serve(io).await,
                Some(Answer::Early(bytes)) => {
                    let written = io.write_all(&bytes).await;
                    self.visitor.line.release();
                    match written.and(io.flush().await) {
                        Ok(()) => serve(io).await,
                        Err(error) => Err(error),
                    }
                }
                _ => serve(io).await,
            };
        });
    }

    pub(super) fn asks_for_upgrade(&self) -> bool {
        has_token(self.request.headers(), CONNECTION.as_str(), "upgrade")
    }

    pub(super) fn is_websocket(&self) -> bool {
        let headers = self.request.headers();
        has_token(headers, CONNECTION.as_str(), "upgrade")
            && headers
                .get(UPGRADE)
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    }

    pub(super) fn subprotocols(&self) -> Vec<String> {
        tokens(self.request.headers(), SEC_WEBSOCKET_PROTOCOL.as_str())
    }

    /// Offers of a tunnel; the API server looks only at the first header line.
    fn tunnel_protocols(&self) -> Vec<String> {
        let line = self.request.headers().get(SEC_WEBSOCKET_PROTOCOL);
        let line = line.and_then(|line| line.to_str().ok()).unwrap_or_default();
        line.split(',')
            .map(str::trim)
            .filter(|protocol| protocol.starts_with("SPDY/3.1+") && protocol.ends_with(".k8s.io"))
            .map(str::to_owned)
            .collect()
    }

    /// The three things that a WebSocket server finds fault with.
    pub(super) fn check_websocket(&self) -> Option<Response<Body>> {
        let headers = self.request.headers();
        if self.request.method() != Method::GET {
            return Some(text(StatusCode::METHOD_NOT_ALLOWED, "bad method"));
        }
        if headers
            .get(SEC_WEBSOCKET_VERSION)
            .is_none_or(|version| version != "13")
        {
            return Some(text(StatusCode::BAD_REQUEST, "bad protocol version"));
        }
        if !headers.contains_key(SEC_WEBSOCKET_KEY) {
            return Some(text(StatusCode::BAD_REQUEST, "mismatch challenge/response"));
        }
        None
    }

    pub(super) fn accept_key(&self) -> String {
        let key = self.request.headers().get(SEC_WEBSOCKET_KEY);
        derive_accept_key(key.map_or(b"", |key| key.as_bytes()))
    }
}

/// Go's ParseUint with 16 bits, and the API server's words when it fails.
fn convert_port(value: &str) -> Result<u16, Refusal> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if digits && let Ok(port) = value.parse() {
        return Ok(port);
    }
    let message = format!("cannot convert to []int32: {}", go_parse_error(value));
    Err(Refusal::bad_request(message))
}

fn go_parse_error(value: &str) -> String {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let why = if digits {
        "value out of range"
    } else {
        "invalid syntax"
    };
    format!("strconv.ParseUint: parsing {value:?}: {why}")
}

/// The runtime's 101.
pub(super) fn switching_to_spdy(protocol: &str) -> Response<Body> {
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "SPDY/3.1")
        .header(STREAM_PROTOCOL, protocol)
        .body(empty())
        .expect("well-formed headers")
}

fn cannot_negotiate(offered: &[String], accepted: &[&str]) -> Response<Body> {
    let message = format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]\n",
        offered.join(" "),
        accepted.join(" ")
    );
    let mut response = text(StatusCode::FORBIDDEN, message);
    for protocol in accepted {
        let protocol = hyper::header::HeaderValue::from_str(protocol).expect("a plain word");
        let headers = response.headers_mut();
        headers.append("x-accepted-stream-protocol-versions", protocol);
    }
    response
}

fn closing(code: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = code;
    let close = hyper::header::HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    tokens(headers, name)
        .iter()
        .any(|found| found.eq_ignore_ascii_case(token))
}

/// All values of a header that may be repeated and may hold lists.
fn tokens(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
        .map(str::to_owned)
        .collect()
}

fn header_names(headers: &HeaderMap) -> Vec<&str> {
    headers
        .keys()
        .map(hyper::header::HeaderName::as_str)
        .collect()
}

/// Bytes that a raw answer ends up as.
pub(crate) fn raw(visitor: &Visitor, bytes: &Bytes) -> Response<Body> {
    visitor.line.answer_instead(bytes);
    closing(StatusCode::OK)
}
