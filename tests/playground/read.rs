//! Reading objects: get and list, and the way to a watch.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::ACCEPT;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::access::Caller;
use super::answer::{Body, Query, Refusal, document};
use super::api::authorize;
use super::server::Server;
use super::watch;
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
    let selector = Selector::parse(
        query.first("labelSelector").unwrap_or_default(),
        query.first("fieldSelector").unwrap_or_default(),
    );
    let named = selector.name().unwrap_or(name);
    authorize(caller, verb, group, plural, namespace, named)?;
    if let Some(field) = selector.unknown_field(resource) {
        let message = format!("field label not supported: {field}");
        return Err(Refusal::bad_request(message));
    }
    let accept = request.headers().get(ACCEPT);
    let table = plural == "pods"
        && accept
            .and_then(|accept| accept.to_str().ok())
            .is_some_and(|accept| accept.contains("as=Table"));
    if verb == "watch" {
        return watch::start(server, request.uri(), resource, namespace, selector);
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
