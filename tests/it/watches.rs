//! The playground's watches: what they show, how they begin, resume and end, and who may.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::playground::faults::Interruption;
use crate::playground::objects::service;
use crate::playground::{Options, Playground};
use crate::program::until;
use crate::upgrade::{self, Reply};

const PATH: &str = "/api/v1/namespaces/default/pods/echo/portforward";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn playground() -> Playground {
    Playground::start(Options::default()).expect("a playground")
}

async fn get(playground: &Playground, user: &str, path: &str) -> Reply {
    upgrade::request(playground, user, Method::GET, path, &[]).await
}

pub(crate) async fn json_of(playground: &Playground, path: &str) -> Value {
    let reply = get(playground, "admin", path).await;
    assert_eq!(reply.status(), StatusCode::OK, "{}", reply.body());
    serde_json::from_str(reply.body()).expect("JSON")
}

/// The types of the events that a watch gets while something happens; it is ended after that.
pub(crate) async fn watched(
    playground: &Playground,
    path: &str,
    happens: impl AsyncFnOnce(),
) -> Vec<(String, Value)> {
    let acting = async {
        until("a watch", || !playground.watches().is_empty()).await;
        happens().await;
        playground.interrupt_watches(Interruption::End);
    };
    let (events, ()) = tokio::join!(get(playground, "admin", path), acting);
    assert_eq!(events.status(), StatusCode::OK, "{}", events.body());
    let events = events.body().lines().map(|line| {
        let event: Value = serde_json::from_str(line).expect("an event");
        let change = event["type"].as_str().expect("a type").to_owned();
        (change, event["object"].clone())
    });
    events.collect()
}

pub(crate) fn types(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(change, _)| change.as_str()).collect()
}

pub(crate) async fn version(playground: &Playground) -> String {
    let list = json_of(playground, PODS).await;
    let version = list["metadata"]["resourceVersion"].as_str();
    version.expect("a version").to_owned()
}

#[tokio::test]
async fn a_watch_sees_what_comes_into_view_and_leaves_it() {
    let playground = playground();
    let since = version(&playground).await;
    let path = format!("{PODS}?watch=1&fieldSelector=metadata.name%3Dweb&resourceVersion={since}");
    let events = watched(&playground, &path, async || {
        assert_eq!(playground.watches()[0].to_string(), path);
        playground.set_ready("default", "echo", false);
        playground.set_ready("default", "web", false);
        playground.replace_pod("default", "web");
    })
    .await;
    assert_eq!(types(&events), ["MODIFIED", "MODIFIED", "DELETED", "ADDED"]);
    until("no watch", || playground.watches().is_empty()).await;

    // resumed in the middle
    let middle = events[1].1["metadata"]["resourceVersion"].as_str();
    let middle = middle.expect("a version");
    let path = format!("{PODS}?watch=1&fieldSelector=metadata.name%3Dweb&resourceVersion={middle}");
    let rest = watched(&playground, &path, async || {}).await;
    assert_eq!(types(&rest), ["DELETED", "ADDED"]);

    // a label that is taken away and given back
    let since = version(&playground).await;
    let path = format!("{PODS}?watch=1&labelSelector=app%3Decho&resourceVersion={since}");
    let events = watched(&playground, &path, async || {
        for app in ["other", "echo"] {
            playground.update_pod("default", "echo", |pod| {
                pod["metadata"]["labels"]["app"] = json!(app);
            });
        }
    })
    .await;
    assert_eq!(types(&events), ["DELETED", "ADDED"]);

    // one that is open is not bothered by a compaction, one that begins is
    let events = watched(&playground, &path, async || {
        playground.set_ready("default", "echo", false);
        playground.compact();
    });
    assert_eq!(types(&events.await), ["DELETED", "ADDED", "MODIFIED"]);
    let gone = get(&playground, "admin", &path).await;
    assert!(gone.body().contains("\"code\":410"), "{}", gone.body());
    let unknown = format!("{PODS}?fieldSelector=spec.foo%3Dbar");
    let unknown = get(&playground, "admin", &unknown).await;
    assert_eq!(unknown.message(), "field label not supported: spec.foo");
}

#[tokio::test]
async fn watches_have_bookmarks_initial_events_and_ends() {
    let playground = playground();
    let since = version(&playground).await;
    let path = format!("{PODS}?watch=1&timeoutSeconds=1&resourceVersion={since}");
    let begun = Instant::now();
    let plain = get(&playground, "admin", &path).await;
    assert_eq!(plain.body(), "");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    // right before the end; the version is that of all objects, not only of pods
    playground.apply(service("default", "late", None, json!([])));
    let marked = format!("{path}&allowWatchBookmarks=true");
    let marked = get(&playground, "admin", &marked).await;
    let bookmark: Value = serde_json::from_str(marked.body()).expect("one event");
    assert_eq!(
        (&bookmark["type"], &bookmark["object"]["kind"]),
        (&json!("BOOKMARK"), &json!("Pod"))
    );
    let at = version(&playground).await;
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], json!(at));

    playground.behave(|node| node.bookmarks = Duration::from_millis(20));
    let often = format!("{path}&allowWatchBookmarks=true");
    let often = get(&playground, "admin", &often).await;
    assert!(often.body().lines().count() > 5, "{}", often.body());

    playground.behave(|node| node.bookmarks = Duration::from_secs(60));
    let initial =
        "allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let path = format!("{PODS}?watch=1&fieldSelector=metadata.name%3Decho&{initial}");
    let events = watched(&playground, &path, async || {}).await;
    assert_eq!(types(&events), ["ADDED", "BOOKMARK"]);
    let annotations = &events[1].1["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");

    let error = Interruption::Error {
        code: StatusCode::INTERNAL_SERVER_ERROR,
        reason: "InternalError",
        message: "etcdserver: no leader".to_owned(),
    };
    let path = format!("{PODS}?watch=1&resourceVersion={at}");
    let failing = async {
        until("a watch", || !playground.watches().is_empty()).await;
        playground.interrupt_watches(error);
    };
    let (failed, ()) = tokio::join!(get(&playground, "admin", &path), failing);
    let failed: Value = serde_json::from_str(failed.body()).expect("one event");
    assert_eq!(failed["type"], "ERROR");
    assert_eq!(failed["object"]["message"], "etcdserver: no leader");
}

#[tokio::test]
async fn a_role_may_lack_watch() {
    let playground = playground();
    for path in [PODS, &format!("{PODS}/echo"), SLICES] {
        let reply = get(&playground, "no-watch", path).await;
        assert_eq!(reply.status(), StatusCode::OK, "{path}");
    }
    let one = format!("{PODS}?watch=true&fieldSelector=metadata.name%3Decho");
    let one = get(&playground, "no-watch", &one).await;
    assert_eq!(one.status(), StatusCode::FORBIDDEN);
    assert_eq!(
        one.message(),
        "pods \"echo\" is forbidden: User \"no-watch\" cannot watch resource \"pods\" \
         in API group \"\" in the namespace \"default\""
    );
    let forward = upgrade::websocket(&playground, "no-watch", PATH, TUNNEL).await;
    assert_eq!(forward.status(), StatusCode::SWITCHING_PROTOCOLS);
}
