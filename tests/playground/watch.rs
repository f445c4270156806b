//! Watches: one JSON event per line, until the client's `timeoutSeconds`, an interruption, or the client's end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, Uri};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep_until};

use super::answer::{Body, Query, Refusal};
use super::faults::Interruption;
use super::server::Server;
use super::wire::lock;
use super::world::{Resource, Selector};

/// A watch that is open.
struct Watch {
    server: Arc<Server>,
    /// Among [`Server::watches`].
    number: u64,
    resource: &'static Resource,
    namespace: String,
    selector: Selector,
    /// What is not yet sent.
    lines: String,
    /// The version up to which everything is in `lines` or sent.
    position: u64,
    changes: watch::Receiver<u64>,
    interruptions: broadcast::Receiver<Interruption>,
    /// When the next one is due, if the client wants any.
    bookmark: Option<Instant>,
    deadline: Instant,
    over: bool,
}

/// Begins one.
pub(crate) fn start(
    server: &Arc<Server>,
    uri: &Uri,
    resource: &'static Resource,
    namespace: &str,
    selector: Selector,
) -> Result<Response<Body>, Refusal> {
    let query = Query::of(uri);
    let says = |key: &str| matches!(query.first(key), Some("true" | "1"));
    let limit = query
        .first("timeoutSeconds")
        .and_then(|text| text.parse().ok());
    let since = query.first("resourceVersion").unwrap_or_default();
    let since: u64 = match since {
        "" => 0,
        since => since
            .parse()
            .map_err(|_| Refusal::bad_request(format!("invalid resource version {since:?}")))?,
    };
    let now = Instant::now();
    let bookmarks = lock(&server.behaviour).bookmarks;
    let world = lock(&server.world);
    let mut watch = Watch {
        server: server.clone(),
        number: server.next_watch(uri),
        resource,
        namespace: namespace.to_owned(),
        selector,
        lines: String::new(),
        position: since,
        changes: world.changes(),
        interruptions: server.interruptions.subscribe(),
        bookmark: says("allowWatchBookmarks").then(|| now + bookmarks),
        deadline: now + Duration::from_secs(limit.unwrap_or(3600)),
        over: false,
    };
    // without a version a watch begins with everything there is
    if since == 0 || says("sendInitialEvents") {
        let present = world.list(resource, namespace, &watch.selector);
        watch.lines = present.map(|object| event("ADDED", object)).collect();
        watch.position = world.version();
        if says("sendInitialEvents") {
            let end = json!({ "k8s.io/initial-events-end": "true" });
            watch.lines += &watch.bookmark(&end);
        }
    } else if world.check(since).is_err() {
        watch.lines = event("ERROR", &Refusal::expired().document());
        watch.over = true;
    }
    drop(world);

    let events = futures_util::stream::unfold(watch, async |mut watch| {
        let lines = watch.next().await?;
        Some((Ok(Frame::data(Bytes::from(lines))), watch))
    });
    let mut response = Response::new(Body::stream(events));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

impl Watch {
    /// The next lines; none at the end.
    async fn next(&mut self) -> Option<String> {
        loop {
            if !self.over {
                self.catch_up();
            }
            if !self.lines.is_empty() {
                return Some(std::mem::take(&mut self.lines));
            }
            if self.over {
                return None;
            }
            let bookmark = self.bookmark.unwrap_or(self.deadline);
            tokio::select! {
                changed = self.changes.changed() => changed.ok()?,
                interruption = self.interruptions.recv() => {
                    // what happened before it comes before it
                    self.catch_up();
                    self.over = true;
                    if let Ok(Interruption::Error { code, reason, message }) = interruption {
                        let status = Refusal::new(code, reason, message).document();
                        self.lines += &event("ERROR", &status);
                    }
                }
                () = sleep_until(bookmark.min(self.deadline)) => {
                    // also right before the end, so that the client resumes from here
                    if self.bookmark.is_some() {
                        self.lines = self.bookmark(&Value::Null);
                        let period = lock(&self.server.behaviour).bookmarks;
                        self.bookmark = Some(Instant::now() + period);
                    }
                    self.over = Instant::now() >= self.deadline;
                }
            }
        }
    }

    fn catch_up(&mut self) {
        let world = lock(&self.server.world);
        let news = world.since(
            self.position,
            self.resource,
            &self.namespace,
            &self.selector,
        );
        match news {
            Ok(news) => {
                for new in news {
                    self.lines += &event(new.change, &new.object);
                }
                self.position = world.version();
            }
            Err(_) => {
                self.lines += &event("ERROR", &Refusal::expired().document());
                self.over = true;
            }
        }
    }

    /// An object of nothing but the version.
    fn bookmark(&self, annotations: &Value) -> String {
        let mut object = json!({
            "kind": self.resource.kind,
            "apiVersion": self.resource.api_version(),
            "metadata": { "resourceVersion": self.position.to_string() },
        });
        if !annotations.is_null() {
            object["metadata"]["annotations"] = annotations.clone();
        }
        event("BOOKMARK", &object)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.server.watches).remove(&self.number);
    }
}

fn event(change: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": change, "object": object }))
}
