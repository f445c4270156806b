//! News in, views out.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::cluster::follow::facts::Workload;
use crate::cluster::target::pod;

fn question(target: &str, ports: &str) -> Arc<Question> {
    let ports = ports.split_whitespace();
    Arc::new(Question {
        namespace: "shop".to_owned(),
        target: target.parse().unwrap(),
        ports: ports.map(|port| port.parse().unwrap()).collect(),
    })
}

fn read(object: Value) -> PodFacts {
    let question = question("pod/any", "");
    PodFacts::read(&question, None, &serde_json::from_value(object).unwrap()).unwrap()
}

fn facts(name: &str, patch: Value) -> PodFacts {
    read(json!(pod(name, patch)))
}

fn unready(name: &str) -> PodFacts {
    facts(
        name,
        json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }),
    )
}

fn deployment(question: &Question) -> ObjectFacts {
    let workload = json!({
        "metadata": { "name": "api", "uid": "1" },
        "spec": { "selector": { "matchLabels": { "app": "api" } } },
    });
    let workload: Workload = serde_json::from_value(workload).unwrap();
    ObjectFacts::of_workload(question, workload).unwrap()
}

fn service(question: &Question, spec: Value) -> ObjectFacts {
    let service = json!({ "metadata": { "name": "web", "uid": "1" }, "spec": spec });
    let service: Service = serde_json::from_value(service).unwrap();
    ObjectFacts::of_service(question, service).unwrap()
}

fn slice(name: &str, endpoints: Value) -> SliceFacts {
    let slice = json!({
        "metadata": { "name": name, "uid": name }, "addressType": "IPv4",
        "ports": [{ "name": "http", "port": 8080 }], "endpoints": endpoints,
    });
    let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
    SliceFacts::read(&question("svc/web", ""), slice).unwrap()
}

fn endpoint(pod: &str, uid: &str, conditions: Value) -> Value {
    json!({
        "addresses": ["10.0.0.1"], "conditions": conditions,
        "targetRef": { "kind": "Pod", "name": pod, "uid": uid },
    })
}

fn refusal(code: u16) -> RequestError {
    RequestError::Status {
        code,
        reason: String::new(),
        message: format!("status {code}"),
    }
}

/// Name, and `r`eady, `u`p, or `t`erminating, in order.
fn shown(view: &View) -> String {
    let pods = view.candidates.iter().map(|pod| {
        let mut word = pod.pod.name.clone() + ":";
        for (is, letter) in [(pod.ready, 'r'), (pod.running, 'u'), (pod.terminating, 't')] {
            word.extend(is.then_some(letter));
        }
        word
    });
    pods.collect::<Vec<_>>().join(" ")
}

fn trouble(view: &View) -> String {
    view.trouble
        .as_ref()
        .map_or_else(String::new, ToString::to_string)
}

#[test]
fn the_ready_come_first_and_those_that_go_last() {
    let question = question("deploy/api", "80");
    let mut picture = Picture::new(question.clone());
    assert!(!picture.view().settled && picture.pods_of().is_none());
    picture.take_in(News::Object(Event::Listed(vec![deployment(&question)])));
    assert_eq!(picture.pods_of().unwrap().labels, "app=api");
    assert!(!picture.view().settled);
    let ready = json!({ "metadata": { "deletionTimestamp": "2026-01-01T13:00:00Z" } });
    picture.take_in(News::Pods(Event::Listed(vec![
        facts("going", ready),
        facts("done", json!({ "status": { "phase": "Succeeded" } })),
        facts("pending", json!({ "spec": { "nodeName": "" }, "status": { "phase": "Pending", "conditions": null } })),
        unready("starting"),
        facts("b", json!({ "metadata": { "creationTimestamp": "2026-01-01T10:00:00Z" } })),
        facts("a", json!({})),
    ])));
    let view = picture.view();
    assert!(view.settled && view.trouble.is_none());
    assert_eq!(
        shown(&view),
        "b:ru a:ru starting:u pending: going:ut done:t"
    );
    // it is that of the old one that is told too late
    let uid = |uid: &str| uid.to_owned();
    picture.take_in(News::Pods(Event::Removed {
        name: uid("b"),
        uid: uid("another"),
    }));
    picture.take_in(News::Pods(Event::Removed {
        name: uid("a"),
        uid: uid("uid-a"),
    }));
    picture.take_in(News::Pods(Event::Removed {
        name: uid("pending"),
        uid: uid(""),
    }));
    assert_eq!(shown(&picture.view()), "b:ru starting:u going:ut done:t");
}

#[test]
fn endpoints_decide_who_is_ready() {
    let question = question("svc/web", "80");
    let mut picture = Picture::new(question.clone());
    let spec = json!({ "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80 }] });
    picture.take_in(News::Object(Event::Listed(vec![service(&question, spec)])));
    let all = ["ready", "told", "unready", "going", "old", "unlisted"];
    let mut pods: Vec<_> = all.iter().map(|name| facts(name, json!({}))).collect();
    pods.push(facts("failed", json!({ "status": { "phase": "Failed" } })));
    pods.push(unready("published"));
    picture.take_in(News::Pods(Event::Listed(pods)));
    assert!(!picture.view().settled);
    picture.take_in(News::Slices(Event::Listed(vec![
        slice("one", json!([
            endpoint("ready", "uid-ready", json!({ "ready": true })),
            endpoint("told", "", json!({})),
            endpoint("unready", "uid-unready", json!({ "ready": false })),
            endpoint("going", "uid-going", json!({ "ready": false, "serving": true, "terminating": true })),
            endpoint("old", "uid-of-its-predecessor", json!({ "ready": true })),
            endpoint("failed", "uid-failed", json!({ "ready": true })),
            endpoint("published", "uid-published", json!({ "ready": true })),
            { "addresses": ["10.0.0.2"] },
            { "addresses": ["10.0.0.2"], "targetRef": { "kind": "Node", "name": "unlisted" } },
            { "addresses": ["10.0.0.2"], "targetRef": { "kind": "Pod", "namespace": "other", "name": "unlisted" } },
        ])),
        // the second address of a pod
        slice("two", json!([endpoint("unready", "uid-unready", json!({ "ready": false }))])),
    ])));
    let view = picture.view();
    assert!(view.settled && view.trouble.is_none());
    assert_eq!(
        shown(&view),
        "ready:ru told:ru published:ru old:u unlisted:u unready:u going:ut failed:t"
    );
    // nobody makes slices here
    picture.take_in(News::Slices(Event::Listed(Vec::new())));
    assert!(shown(&picture.view()).starts_with("going:ru old:ru ready:ru"));
    // nobody may see them
    picture.take_in(News::Slices(Event::Failed(refusal(403))));
    let view = picture.view();
    assert!(view.trouble.is_none() && shown(&view).starts_with("going:ru"));
    // what is known stands while the server fails
    let unready = slice(
        "one",
        json!([endpoint("ready", "uid-ready", json!({ "ready": false }))]),
    );
    picture.take_in(News::Slices(Event::Changed(unready)));
    picture.take_in(News::Slices(Event::Failed(refusal(500))));
    let view = picture.view();
    assert!(matches!(view.trouble, Some(Trouble::Failing(_))));
    assert!(view.candidates.iter().all(|pod| !pod.ready));
}

#[test]
fn a_service_without_a_selector_is_its_endpoints() {
    let question = question("svc/web", "http 81 lost");
    let ports = json!([
        { "name": "http", "port": 80, "targetPort": "web" },
        { "name": "number", "port": 81, "targetPort": 9090 },
        { "name": "lost", "port": 82, "targetPort": "nothing" },
    ]);
    let mut picture = Picture::new(question.clone());
    let object = service(&question, json!({ "ports": ports }));
    picture.take_in(News::Object(Event::Listed(vec![object])));
    assert!(picture.pods_of().is_none());
    picture.take_in(News::Slices(Event::Listed(vec![slice(
        "one",
        json!([
            endpoint("a", "uid-a", json!({ "ready": true })),
            endpoint(
                "b",
                "",
                json!({ "ready": false, "serving": true, "terminating": true })
            ),
            endpoint("c", "uid-c", json!({ "ready": false })),
        ]),
    )])));
    let view = picture.view();
    assert!(view.settled && view.trouble.is_none(), "{view:?}");
    assert_eq!(shown(&view), "a:ru c: b:ut");
    let ports: Vec<_> = view.candidates[0]
        .ports
        .iter()
        .map(|port| match port {
            Ok(port) => (port.endpoint.to_string(), port.local.unwrap().get()),
            Err(error) => (error.clone(), 0),
        })
        .collect();
    assert_eq!(
        ports[..2],
        [("8080".to_owned(), 80), ("9090".to_owned(), 81)]
    );
    assert!(
        ports[2]
            .0
            .starts_with("Pod 'a' does not have a named port 'nothing'")
    );
    assert_eq!(view.candidates[2].pod.uid, None);

    picture.take_in(News::Slices(Event::Listed(vec![slice(
        "one",
        json!([{ "addresses": ["10.0.0.1"] }]),
    )])));
    let view = picture.view();
    assert!(view.trouble.as_ref().unwrap().is_final());
    assert!(trouble(&view).starts_with("invalid service 'web': Service is defined without"));
}

#[test]
fn a_service_may_change_what_it_selects() {
    let question = question("svc/web", "80");
    let mut picture = Picture::new(question.clone());
    let mut change = |spec: Value| {
        let object = service(&question, spec);
        picture.take_in(News::Object(Event::Changed(object)));
        picture.pods_of().cloned()
    };
    let ports = json!([{ "port": 80, "targetPort": 8080 }]);
    let blue =
        change(json!({ "selector": { "app": "blue" }, "ports": ports, "type": "ClusterIP" }));
    // what doesn't count for us
    let same = change(json!({ "selector": { "app": "blue" }, "ports": ports, "type": "NodePort" }));
    assert!(blue.is_some() && blue == same);
    let green = change(json!({ "selector": { "app": "green" }, "ports": ports }));
    assert_eq!(green.as_ref().unwrap().labels, "app=green");
    let moved = change(json!({ "selector": { "app": "green" }, "ports": [{ "port": 80 }] }));
    assert_ne!(green, moved);
    assert_eq!(change(json!({ "ports": [{ "port": 80 }] })), None);
    change(json!({ "selector": { "app": "green" }, "ports": [{ "port": 81 }] }));
    let view = picture.view();
    assert!(trouble(&view).starts_with("Service web does not have a service port 80; it has 81"));
}

#[test]
fn a_refusal_is_final_only_as_the_first_answer() {
    let question = question("web", "80");
    for code in [401, 403, 404] {
        let mut picture = Picture::new(question.clone());
        picture.take_in(News::Pods(Event::Failed(refusal(code))));
        let view = picture.view();
        assert!(view.settled && view.trouble.unwrap().is_final(), "{code}");
    }
    let mut picture = Picture::new(question);
    picture.take_in(News::Pods(Event::Failed(refusal(500))));
    let view = picture.view();
    assert!(!view.settled && !view.trouble.unwrap().is_final());
    picture.take_in(News::Pods(Event::Listed(vec![facts("web", json!({}))])));
    assert!(picture.view().trouble.is_none());
    picture.take_in(News::Pods(Event::Unwatched(refusal(403))));
    picture.take_in(News::Pods(Event::Failed(refusal(403))));
    let view = picture.view();
    assert_eq!(trouble(&view), "Error from server: status 403");
    assert!(!view.trouble.as_ref().unwrap().is_final() && shown(&view) == "web:ru");
    picture.take_in(News::Pods(Event::Listed(vec![facts("web", json!({}))])));
    assert!(trouble(&picture.view()).ends_with("asking every 30 s instead of watching"));
    picture.take_in(News::Pods(Event::Watching));
    assert!(picture.view().trouble.is_none());
    let (name, uid) = ("web".to_owned(), "uid-web".to_owned());
    picture.take_in(News::Pods(Event::Removed { name, uid }));
    let view = picture.view();
    assert_eq!(trouble(&view), "pod `web` is deleted");
    assert!(view.settled && view.candidates.is_empty());
}

#[test]
fn a_name_without_an_object_is_not_found() {
    for (target, words) in [
        (
            "nope",
            "Error from server (NotFound): pods \"nope\" not found in namespace `shop`",
        ),
        (
            "sts/nope",
            "Error from server (NotFound): statefulsets.apps \"nope\" not found in namespace `shop`",
        ),
        (
            "job/nope",
            "Error from server (NotFound): jobs.batch \"nope\" not found in namespace `shop`",
        ),
        (
            "rc/nope",
            "Error from server (NotFound): replicationcontrollers \"nope\" not found in namespace `shop`",
        ),
    ] {
        let mut picture = Picture::new(question(target, "80"));
        picture.take_in(News::Object(Event::Listed(Vec::new())));
        picture.take_in(News::Pods(Event::Listed(Vec::new())));
        let view = picture.view();
        assert!(view.settled && view.trouble.as_ref().unwrap().is_final());
        assert_eq!(trouble(&view), words);
    }
}

/// A pod of one of these states, under one of a few names.
fn any_pod() -> impl Strategy<Value = PodFacts> {
    let patches = [
        json!({}),
        json!({ "metadata": { "uid": "another" } }),
        json!({ "metadata": { "deletionTimestamp": "2026-01-01T13:00:00Z" } }),
        json!({ "status": { "phase": "Pending" } }),
        json!({ "status": { "phase": "Failed" } }),
        json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }),
        json!({ "status": null, "spec": null }),
    ];
    let names = proptest::sample::select(vec!["a", "b", "c", "d"]);
    (names, proptest::sample::select(patches.to_vec())).prop_map(|(name, patch)| facts(name, patch))
}

fn any_event() -> impl Strategy<Value = Event<PodFacts>> {
    prop_oneof![
        1 => prop::collection::vec(any_pod(), 0..4).prop_map(Event::Listed),
        6 => any_pod().prop_map(Event::Changed),
        3 => any_pod().prop_map(|pod| Event::Removed {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
        }),
        1 => Just(()).prop_map(|()| Event::Watching),
        1 => Just(()).prop_map(|()| Event::Failed(refusal(500))),
        1 => Just(()).prop_map(|()| Event::Unwatched(refusal(403))),
    ]
}

proptest! {
    /// Whatever the way was, the view is that of somebody who sees it all for the first time.
    #[test]
    fn a_view_depends_on_what_there_is_and_not_on_the_way(
        events in prop::collection::vec(any_event(), 0..40),
    ) {
        let question = question("deploy/api", "80");
        let object = || News::Object(Event::Listed(vec![deployment(&question)]));
        let mut picture = Picture::new(question.clone());
        picture.take_in(object());
        let mut there = BTreeMap::new();
        for event in events {
            match &event {
                Event::Listed(pods) => {
                    there = pods.iter().map(|pod| (pod.name().to_owned(), pod.clone())).collect();
                }
                Event::Changed(pod) => {
                    there.insert(pod.name().to_owned(), pod.clone());
                }
                Event::Removed { name, uid }
                    if there.get(name).is_some_and(|pod| pod.uid() == uid) =>
                {
                    there.remove(name);
                }
                _ => {}
            }
            picture.take_in(News::Pods(event));
            let view = picture.view();
            let mut fresh = Picture::new(question.clone());
            fresh.take_in(object());
            // in another order
            fresh.take_in(News::Pods(Event::Listed(there.values().rev().cloned().collect())));
            prop_assert_eq!(&view.candidates, &fresh.view().candidates);
            for pod in &view.candidates {
                prop_assert!(!pod.ready || pod.running && !pod.terminating);
            }
            let classes = view.candidates.iter().map(|pod| (pod.terminating, !pod.ready));
            prop_assert!(classes.is_sorted());
        }
    }
}
