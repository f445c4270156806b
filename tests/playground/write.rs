//! Writing objects: Secrets only, which a gateway keeps its key in.

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::access::Caller;
use super::answer::{Body, Refusal, document};
use super::api::authorize;
use super::server::Server;
use super::wire::lock;
use super::world::Resource;

/// Bytes of an object; etcd takes no more.
const LONGEST: usize = 1 << 20;

/// POST to the Secrets of a namespace, or PUT of one of them.
pub(crate) async fn secret(
    server: &Server,
    caller: &Caller,
    request: Request<Incoming>,
    namespace: &str,
    name: Option<&str>,
) -> Result<Response<Body>, Refusal> {
    let creates = match (request.method(), name) {
        (&Method::POST, None) => true,
        (&Method::PUT, Some(_)) => false,
        _ => return Err(Refusal::not_allowed()),
    };
    let verb = if creates { "create" } else { "update" };
    authorize(
        caller,
        verb,
        "",
        "secrets",
        namespace,
        name.unwrap_or_default(),
    )?;
    let body = Limited::new(request.into_body(), LONGEST).collect().await;
    let body = body
        .map_err(|_| Refusal::bad_request("no body"))?
        .to_bytes();
    let mut object: Value =
        serde_json::from_slice(&body).map_err(|_| Refusal::bad_request("no object"))?;
    let named = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if object["kind"] != "Secret" || named.is_empty() || name.is_some_and(|name| name != named) {
        return Err(Refusal::bad_request("no such Secret"));
    }
    object["metadata"]["namespace"] = json!(namespace);

    let resource = Resource::of_kind("Secret").expect("a kind of ours");
    let conflict = |reason, message: String| Refusal::new(StatusCode::CONFLICT, reason, message);
    let mut world = lock(&server.world);
    match world.get(resource, namespace, &named) {
        Some(_) if creates => {
            let message = format!("secrets \"{named}\" already exists");
            return Err(conflict("AlreadyExists", message));
        }
        None if !creates => return Err(Refusal::not_found("secrets", &named)),
        Some(present) => {
            let present = &present["metadata"];
            let version = &object["metadata"]["resourceVersion"];
            if !version.is_null() && *version != present["resourceVersion"] {
                let message = format!(
                    "Operation cannot be fulfilled on secrets \"{named}\": the object has been modified; \
                     please apply your changes to the latest version and try again"
                );
                return Err(conflict("Conflict", message));
            }
            object["metadata"]["uid"] = present["uid"].clone();
        }
        None => {}
    }
    world.apply(object);
    let stored = world.get(resource, namespace, &named);
    let code = if creates {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok(document(code, stored.expect("what was just stored")))
}
