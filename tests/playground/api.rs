//! The API server: routes, discovery, and who may do what.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::access::{Action, Caller};
use super::answer::{Body, Query, Refusal, decode, document, text, text_with};
use super::faults::{self, Answer};
use super::read::read;
use super::review;
use super::server::{Server, Visitor};
use super::upgrade::{self, Upgrade};
use super::world::{GROUPS, RESOURCES};
use super::write;

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
        ["apis", group, "v1"] if GROUPS.contains(&group) => {
            Ok(document(StatusCode::OK, &resources(group)))
        }
        [
            "api",
            "v1",
            "namespaces",
            namespace,
            "pods",
            name,
            subresource @ ("portforward" | "exec"),
        ] => {
            let verb = match *request.method() {
                Method::GET => "get",
                Method::POST => "create",
                _ => return Err(Refusal::not_allowed()),
            };
            let resource = format!("pods/{subresource}");
            authorize(&caller, verb, "", &resource, namespace, name)?;
            let upgrade = upgrade(request);
            match subresource {
                "exec" => upgrade.exec_of_pod(server, &caller, namespace, name),
                _ => upgrade.of_pod(server, &caller, namespace, name),
            }
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
        [
            "api",
            "v1",
            "namespaces",
            namespace,
            "secrets",
            ref rest @ ..,
        ] if rest.len() < 2 && request.method() != Method::GET => {
            write::secret(server, &caller, request, namespace, rest.first().copied()).await
        }
        [
            "apis",
            "authorization.k8s.io",
            "v1",
            "selfsubjectaccessreviews",
        ] if request.method() == Method::POST => review::of_self(&caller, request).await,
        ["api", "v1", ref rest @ ..] => read(server, &caller, &request, "", rest),
        ["apis", group, "v1", ref rest @ ..] => read(server, &caller, &request, group, rest),
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

/// Passes, or the API server's 403.
pub(crate) fn authorize(
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

fn version(server: &Server) -> Value {
    json!({
        "major": "1",
        "minor": server.minor.to_string(),
        "gitVersion": format!("v1.{}.0+playground", server.minor),
        "platform": "linux/amd64",
    })
}

fn groups() -> Value {
    let groups: Vec<Value> = GROUPS
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
        for (name, kind) in [
            ("pods/portforward", "PodPortForwardOptions"),
            ("pods/exec", "PodExecOptions"),
        ] {
            resources.push(json!({
                "name": name, "singularName": "", "namespaced": true,
                "kind": kind, "verbs": ["create", "get"],
            }));
        }
    } else {
        version = format!("{group}/v1");
    }
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources,
    })
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
            resumed: self.resumed,
        }
    }
}
