//! The API server: routes, `metav1.Status` answers, discovery, and reading objects.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use super::access::{Action, Caller};
use super::faults::{self, Answer};
use super::server::{Server, Visitor};
use super::upgrade::{self, Upgrade};
use super::wire::lock;
use super::world::{RESOURCES, Resource, Selector};

/// What all answers have as body.
pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// A refusal in the API server's form.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Value>,
}

impl Refusal {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn forbidden(resource: &str, name: &str, message: String) -> Self {
        let details = json!({ "name": name, "kind": resource });
        Self {
            details: Some(details),
            ..Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
        }
    }

    pub(crate) fn not_found(resource: &str, name: &str) -> Self {
        let details = json!({ "name": name, "kind": resource });
        let message = format!("{resource} \"{name}\" not found");
        Self {
            details: Some(details),
            ..Self::new(StatusCode::NOT_FOUND, "NotFound", message)
        }
    }

    fn no_route() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    fn not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    fn expired() -> Self {
        let message = "too old resource version";
        Self::new(StatusCode::GONE, "Expired", message)
    }

    fn document(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

impl From<Refusal> for Response<Body> {
    fn from(refusal: Refusal) -> Self {
        document(refusal.code, &refusal.document())
    }
}

/// The query of a request, decoded.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn of(uri: &Uri) -> Self {
        let pairs = uri.query().unwrap_or_default().split('&');
        let pairs = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    pub(crate) fn all(&self, key: &str) -> Vec<&str> {
        let matching = self.0.iter().filter(|(name, _)| name == key);
        matching.map(|(_, value)| value.as_str()).collect()
    }

    fn first(&self, key: &str) -> Option<&str> {
        self.all(key).first().copied()
    }
}

/// `application/x-www-form-urlencoded`.
fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next(), bytes.next()].map(Option::unwrap_or_default);
                let digits = std::str::from_utf8(&digits).unwrap_or_default();
                u8::from_str_radix(digits, 16).unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Answers one request.
pub(crate) async fn respond(
    server: Arc<Server>,
    visitor: Arc<Visitor>,
    request: Request<Incoming>,
) -> Response<Body> {
    let seen = visitor.seen(&request);
    let answer = server.fault_for(&seen);
    server.record(seen);
    let mut fault = None;
    match answer {
        None => {}
        Some(Answer::Late(delay)) => sleep(delay).await,
        Some(Answer::Never) => std::future::pending().await,
        Some(Answer::Reset) => {
            visitor.wire.cut();
            std::future::pending().await
        }
        Some(Answer::Raw(bytes)) => return upgrade::raw(&visitor, &bytes),
        Some(Answer::Status {
            code,
            reason,
            message,
        }) => return Refusal::new(code, reason, message).into(),
        Some(Answer::Text {
            code,
            headers,
            body,
        }) => return text_with(code, headers, body),
        Some(later @ (Answer::Early(_) | Answer::Script(_))) => fault = Some(later),
    }
    let answered = route(&server, visitor, request, fault).await;
    answered.unwrap_or_else(Response::from)
}

async fn route(
    server: &Arc<Server>,
    visitor: Arc<Visitor>,
    request: Request<Incoming>,
    fault: Option<Answer>,
) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path().to_owned();
    let path = path
        .strip_prefix(server.options.path_prefix.as_str())
        .ok_or_else(Refusal::no_route)?;
    let path: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    if let ["healthz" | "livez" | "readyz", ..] = path[..] {
        return Ok(text(StatusCode::OK, "ok"));
    }
    if path == ["version"] {
        return Ok(document(StatusCode::OK, &version(server)));
    }
    let caller = server
        .users
        .authenticate(request.headers(), visitor.certificate.as_ref())
        .ok_or_else(Refusal::unauthorized)?;
    let caller = impersonated(server, caller, &request)?;

    let upgrade = |request| Upgrade {
        request,
        visitor,
        fault,
    };
    match path[..] {
        ["api"] => Ok(document(
            StatusCode::OK,
            &json!({ "kind": "APIVersions", "versions": ["v1"] }),
        )),
        ["apis"] => Ok(document(StatusCode::OK, &groups())),
        ["api", "v1"] => Ok(document(StatusCode::OK, &resources(""))),
        ["apis", group, "v1"] if ["apps", "batch"].contains(&group) => {
            Ok(document(StatusCode::OK, &resources(group)))
        }
        [
            "api",
            "v1",
            "namespaces",
            namespace,
            "pods",
            name,
            "portforward",
        ] => {
            let verb = match *request.method() {
                Method::GET => "get",
                Method::POST => "create",
                _ => return Err(Refusal::not_allowed()),
            };
            authorize(&caller, verb, "", "pods/portforward", namespace, name)?;
            upgrade(request).of_pod(server, &caller, namespace, name)
        }
        [
            "api",
            "v1",
            "nodes",
            _,
            "proxy",
            "portForward",
            namespace,
            name,
            ref rest @ ..,
        ] => {
            authorize(&caller, "create", "", "nodes/proxy", "", name)?;
            let query = Query::of(request.uri());
            let uid = rest.first().copied();
            let port = query.first("port");
            Ok(upgrade(request).of_kubelet(server, namespace, name, uid, port))
        }
        ["api", "v1", ref rest @ ..] => read(server, &caller, &request, "", rest).await,
        ["apis", group, "v1", ref rest @ ..] => read(server, &caller, &request, group, rest).await,
        _ => Err(Refusal::no_route()),
    }
}

fn impersonated(
    server: &Server,
    caller: Caller,
    request: &Request<Incoming>,
) -> Result<Caller, Refusal> {
    let name = caller.name.clone();
    server
        .users
        .impersonate(caller, request.headers())
        .ok_or_else(|| {
            let wanted = request.headers().get("impersonate-user");
            let wanted = wanted.and_then(|name| name.to_str().ok()).unwrap_or_default();
            let message = format!(
                "users \"{wanted}\" is forbidden: User \"{name}\" cannot impersonate resource \"users\" \
                 in API group \"\" at the cluster scope"
            );
            Refusal::forbidden("users", wanted, message)
        })
}

fn authorize(
    caller: &Caller,
    verb: &str,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), Refusal> {
    let action = Action {
        verb,
        group,
        resource,
        namespace,
        name,
    };
    if caller.may(&action) {
        return Ok(());
    }
    let kind = resource.split('/').next().unwrap_or_default();
    Err(Refusal::forbidden(kind, name, caller.forbidden(&action)))
}

/// GET, LIST and WATCH below `/api/v1` or `/apis/GROUP/v1`.
async fn read(
    server: &Arc<Server>,
    caller: &Caller,
    request: &Request<Incoming>,
    group: &str,
    path: &[&str],
) -> Result<Response<Body>, Refusal> {
    let (namespace, plural, name) = match *path {
        ["namespaces", namespace, plural] => (namespace, plural, ""),
        ["namespaces", namespace, plural, name] => (namespace, plural, name),
        [plural] => ("", plural, ""),
        [plural, name] => ("", plural, name),
        _ => return Err(Refusal::no_route()),
    };
    let resource = Resource::find(group, plural).ok_or_else(Refusal::no_route)?;
    let query = Query::of(request.uri());
    let watching = matches!(query.first("watch"), Some("true" | "1"));
    let verb = match *request.method() {
        Method::GET if !name.is_empty() => "get",
        Method::GET if watching => "watch",
        Method::GET => "list",
        _ => return Err(Refusal::not_allowed()),
    };
    authorize(caller, verb, group, plural, namespace, name)?;
    let accept = request.headers().get(ACCEPT);
    let table = plural == "pods"
        && accept
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.contains("as=Table"));
    let selector = Selector::parse(
        query.first("labelSelector").unwrap_or_default(),
        query.first("fieldSelector").unwrap_or_default(),
    );
    if verb == "watch" {
        return watch(server.clone(), resource, namespace, selector, &query);
    }
    let world = lock(&server.world);
    if verb == "get" {
        let object = world
            .get(resource, namespace, name)
            .ok_or_else(|| match resource.group {
                "" => Refusal::not_found(plural, name),
                group => Refusal::not_found(&format!("{plural}.{group}"), name),
            })?;
        let answer = match table {
            true => pod_table(&[object], ""),
            false => object.clone(),
        };
        return Ok(document(StatusCode::OK, &answer));
    }
    let items: Vec<&Value> = world.list(resource, namespace, &selector).collect();
    let version = world.version().to_string();
    let answer = match table {
        true => pod_table(&items, &version),
        false => json!({
            "kind": format!("{}List", resource.kind),
            "apiVersion": resource.api_version(),
            "metadata": { "resourceVersion": version },
            "items": items,
        }),
    };
    Ok(document(StatusCode::OK, &answer))
}

/// One JSON event per line, until the client's `timeoutSeconds` or its end.
fn watch(
    server: Arc<Server>,
    resource: &'static Resource,
    namespace: &str,
    selector: Selector,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let limit = query
        .first("timeoutSeconds")
        .and_then(|text| text.parse().ok());
    let deadline = Instant::now() + Duration::from_secs(limit.unwrap_or(3600));
    let since = query.first("resourceVersion").unwrap_or_default();
    let since: u64 = match since {
        "" => 0,
        since => since
            .parse()
            .map_err(|_| Refusal::bad_request(format!("invalid resource version {since:?}")))?,
    };

    let world = lock(&server.world);
    let changes = world.changes();
    let namespace = namespace.to_owned();
    // without a version the watch begins with everything there is
    let (first, position) = if since == 0 {
        let present = world.list(resource, &namespace, &selector);
        let first = present.map(|object| event("ADDED", object)).collect();
        (first, world.version())
    } else if world.since(since, resource, &namespace, &selector).is_err() {
        (event("ERROR", &Refusal::expired().document()), u64::MAX)
    } else {
        (String::new(), since)
    };
    drop(world);

    let state = (Some(first), position, changes);
    let events = futures_util::stream::unfold(state, move |(first, position, mut changes)| {
        let server = server.clone();
        let namespace = namespace.clone();
        let new = {
            let world = lock(&server.world);
            match first {
                Some(first) => Ok((first, position)),
                None if position == u64::MAX => Err(false),
                None => match world.since(position, resource, &namespace, &selector) {
                    Err(_) => Ok((event("ERROR", &Refusal::expired().document()), u64::MAX)),
                    Ok(events) if events.is_empty() => Err(true),
                    Ok(events) => {
                        let last = events.last().map_or(position, |event| event.version);
                        let lines = events.iter().map(|new| event(new.change, &new.object));
                        Ok((lines.collect(), last))
                    }
                },
            }
        };
        async move {
            match new {
                Ok((lines, position)) => {
                    let frame = Ok(Frame::data(Bytes::from(lines)));
                    Some((frame, (None, position, changes)))
                }
                Err(false) => None,
                Err(true) => {
                    timeout_at(deadline, changes.changed()).await.ok()?.ok()?;
                    let nothing = Ok(Frame::data(Bytes::new()));
                    Some((nothing, (None, position, changes)))
                }
            }
        }
    });
    let mut response = Response::new(BoxBody::new(StreamBody::new(events)));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

fn event(change: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": change, "object": object }))
}

fn version(server: &Server) -> Value {
    json!({
        "major": "1",
        "minor": server.minor.to_string(),
        "gitVersion": format!("v1.{}.0+playground", server.minor),
        "platform": "linux/amd64",
    })
}

fn groups() -> Value {
    let groups: Vec<Value> = ["apps", "batch"]
        .iter()
        .map(|group| {
            let version = json!({ "groupVersion": format!("{group}/v1"), "version": "v1" });
            json!({ "name": group, "versions": [version], "preferredVersion": version })
        })
        .collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

fn resources(group: &str) -> Value {
    let mut resources: Vec<Value> = RESOURCES
        .iter()
        .filter(|resource| resource.group == group)
        .map(|resource| {
            json!({
                "name": resource.plural, "singularName": resource.singular,
                "namespaced": resource.namespaced, "kind": resource.kind,
                "shortNames": resource.short, "verbs": ["get", "list", "watch"],
            })
        })
        .collect();
    let mut version = "v1".to_owned();
    if group.is_empty() {
        resources.push(json!({
            "name": "pods/portforward", "singularName": "", "namespaced": true,
            "kind": "PodPortForwardOptions", "verbs": ["create", "get"],
        }));
    } else {
        version = format!("{group}/v1");
    }
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources,
    })
}

/// What `kubectl get pods` asks for.
fn pod_table(pods: &[&Value], version: &str) -> Value {
    let column = |name: &str| json!({ "name": name, "type": "string", "format": "", "description": "", "priority": 0 });
    let rows: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let empty = Vec::new();
            let containers = pod["spec"]["containers"].as_array().unwrap_or(&empty);
            let statuses = pod["status"]["containerStatuses"].as_array().unwrap_or(&empty);
            let ready = statuses.iter().filter(|status| status["ready"] == true).count();
            let status = match pod["status"]["phase"].as_str() {
                _ if !pod["metadata"]["deletionTimestamp"].is_null() => "Terminating",
                Some("Succeeded") => "Completed",
                Some(phase) => phase,
                None => "Unknown",
            };
            json!({
                "cells": [
                    pod["metadata"]["name"], format!("{ready}/{}", containers.len()), status, "0", "1d",
                ],
                "object": {
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                    "metadata": pod["metadata"],
                },
            })
        })
        .collect();
    let columns = ["Name", "Ready", "Status", "Restarts", "Age"].map(column);
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": { "resourceVersion": version },
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn document(code: StatusCode, value: &Value) -> Response<Body> {
    let mut response = text(code, value.to_string());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// An empty body.
pub(crate) fn empty() -> Body {
    Full::default().boxed()
}

/// Plain text, as kubelets and runtimes answer.
pub(crate) fn text(code: StatusCode, body: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Full::from(body.into()).boxed());
    *response.status_mut() = code;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn text_with(
    code: StatusCode,
    headers: Vec<(&'static str, String)>,
    body: String,
) -> Response<Body> {
    let mut response = text(code, body);
    for (name, value) in headers {
        let value = HeaderValue::from_str(&value).expect("a test's header is well-formed");
        response
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
    response
}

impl Visitor {
    fn seen(&self, request: &Request<Incoming>) -> faults::Request {
        faults::Request {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: faults::without_secrets(request.headers()),
            connection: self.number,
            alpn: self.alpn.clone(),
            server_name: self.server_name.clone(),
        }
    }
}
