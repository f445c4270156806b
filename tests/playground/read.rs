//! Reading objects: get, list and watch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::access::Caller;
use super::answer::{Body, Query, Refusal, document};
use super::api::authorize;
use super::server::Server;
use super::wire::lock;
use super::world::{Resource, Selector};

/// GET, LIST and WATCH below `/api/v1` or `/apis/GROUP/v1`.
pub(crate) fn read(
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
    let mut response = Response::new(Body::stream(events));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

fn event(change: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": change, "object": object }))
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
