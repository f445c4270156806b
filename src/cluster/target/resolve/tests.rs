//! Resolving against a scripted API server: which requests are made, and what comes of the answers.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;
use serde_json::{Value, json};

use super::*;
use crate::cluster::target::Endpoint;
use crate::cluster::target::tests::pod;

const WAIT: Duration = Duration::from_secs(60);

/// One request that is expected and its answer.
struct Exchange {
    path: &'static str,
    status: u16,
    lines: Vec<Value>,
    /// Whether the answer ends after its lines; a watch goes on.
    ends: bool,
}

fn answers(path: &'static str, body: Value) -> Exchange {
    Exchange {
        path,
        status: 200,
        lines: vec![body],
        ends: true,
    }
}

fn watches(path: &'static str, events: Vec<Value>) -> Exchange {
    Exchange {
        path,
        status: 200,
        lines: events,
        ends: false,
    }
}

fn refuses(path: &'static str, status: u16, message: &str) -> Exchange {
    let body = json!({ "kind": "Status", "status": "Failure", "code": status, "message": message });
    Exchange {
        path,
        status,
        lines: vec![body],
        ends: true,
    }
}

/// Resolves against an API server that expects these requests in this order and all of them.
async fn resolved(
    target: &str,
    ports: &str,
    exchanges: Vec<Exchange>,
) -> Result<Resolved, TargetError> {
    let script = Arc::new(Mutex::new(VecDeque::from(exchanges)));
    let expected = Arc::clone(&script);
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let exchange = script.lock().unwrap().pop_front();
        async move {
            let asked = request.uri().to_string();
            let exchange = exchange.unwrap_or_else(|| panic!("unexpected request: {asked}"));
            assert!(
                asked.contains(exchange.path),
                "{asked} instead of {}",
                exchange.path
            );
            let lines = exchange
                .lines
                .into_iter()
                .map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n")))));
            let lines = stream::iter(lines.collect::<Vec<Result<_, Infallible>>>());
            let body = match exchange.ends {
                true => UnsyncBoxBody::new(StreamBody::new(lines)),
                false => StreamBody::new(lines.chain(stream::pending())).boxed_unsync(),
            };
            Ok::<_, Infallible>(
                http::Response::builder()
                    .status(exchange.status)
                    .body(body)
                    .unwrap(),
            )
        }
    });
    let client = Client::new(service, "default");
    let ports: Vec<RemotePort> = ports
        .split_whitespace()
        .map(|port| port.parse().unwrap())
        .collect();
    let resolved = resolve(&client, "shop", &target.parse().unwrap(), &ports, WAIT).await;
    assert_eq!(
        expected.lock().unwrap().len(),
        0,
        "requests that were expected but not made"
    );
    resolved
}

fn number_of(port: &PodPort) -> u16 {
    match port.endpoint {
        Endpoint::Port(number) => number.get(),
        _ => panic!("{port:?}"),
    }
}

fn list(pods: Vec<Pod>) -> Value {
    json!({ "metadata": { "resourceVersion": "7" }, "items": pods })
}

fn event(kind: &str, pod: Pod) -> Value {
    let mut object = json!(pod);
    object["apiVersion"] = json!("v1");
    object["kind"] = json!("Pod");
    json!({ "type": kind, "object": object })
}

fn pending(name: &str) -> Pod {
    pod(
        name,
        json!({ "status": { "phase": "Pending", "conditions": [{ "type": "Ready", "status": "False" }] } }),
    )
}

fn unready(name: &str) -> Pod {
    pod(
        name,
        json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }),
    )
}

fn service() -> Value {
    json!({ "metadata": { "name": "web" }, "spec": {
        "selector": { "app": "web", "tier": "front" },
        "ports": [{ "port": 80, "targetPort": 8080 }],
    } })
}

fn deployment() -> Value {
    json!({ "metadata": { "name": "api" }, "spec": {
        "template": {},
        "selector": {
            "matchLabels": { "app": "api" },
            "matchExpressions": [{ "key": "track", "operator": "NotIn", "values": ["canary"] }],
        },
    } })
}

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/api";
const OF_DEPLOYMENT: &str =
    "/namespaces/shop/pods?&labelSelector=app%3Dapi%2Ctrack+notin+%28canary%29";
const WATCH: &str = "/namespaces/shop/pods?&watch=true";

#[tokio::test(start_paused = true)]
async fn a_named_pod_that_runs_is_taken_after_one_get() {
    for running in [pod("web", json!({})), unready("web")] {
        let ready = is_ready(&running);
        let get = answers("/api/v1/namespaces/shop/pods/web", json!(running));
        let resolved = resolved("web", "80 443", vec![get]).await.unwrap();
        let expected = PodRef {
            namespace: "shop".into(),
            name: "web".into(),
            uid: Some("uid-web".into()),
        };
        assert_eq!(resolved.pod, expected);
        assert_eq!(
            resolved.ports.iter().map(number_of).collect::<Vec<_>>(),
            [80, 443]
        );
        assert_eq!(resolved.ready, ready);
    }
}

#[test]
fn a_pods_number_needs_no_question() {
    let direct = |target: &str, port: &str| {
        target
            .parse::<Target>()
            .unwrap()
            .without_asking("shop", &[port.parse().unwrap()])
    };
    let known = direct("shop/web", "22").unwrap();
    assert_eq!(
        known.pod,
        PodRef {
            namespace: "shop".into(),
            name: "web".into(),
            uid: None
        }
    );
    assert_eq!(number_of(&known.ports[0]), 22);
    assert_eq!(direct("web", "ssh"), None);
    assert_eq!(direct("svc/web", "22"), None);
}

#[tokio::test(start_paused = true)]
async fn a_service_leads_to_its_best_ready_pod() {
    let pods = vec![
        unready("a"),
        pod("b", json!({})),
        pod(
            "c",
            json!({ "metadata": { "deletionTimestamp": "2026-01-01T11:00:00Z" } }),
        ),
    ];
    let resolved = resolved(
        "svc/web",
        "80",
        vec![
            answers("/api/v1/namespaces/shop/services/web", service()),
            answers(
                "/api/v1/namespaces/shop/pods?&labelSelector=app%3Dweb%2Ctier%3Dfront",
                list(pods),
            ),
        ],
    )
    .await
    .unwrap();
    assert_eq!(resolved.pod.name, "b");
    assert_eq!(
        (
            number_of(&resolved.ports[0]),
            resolved.ports[0].local.unwrap().get()
        ),
        (8080, 80)
    );
    assert!(resolved.ready);
}

#[tokio::test(start_paused = true)]
async fn every_kind_is_asked_for_where_it_lives() {
    let selector = json!({ "matchLabels": { "app": "x" } });
    for (target, path, spec) in [
        (
            "rs/x",
            "/apis/apps/v1/namespaces/shop/replicasets/x",
            json!({ "selector": selector }),
        ),
        (
            "sts/x",
            "/apis/apps/v1/namespaces/shop/statefulsets/x",
            json!({ "selector": selector, "template": {}, "serviceName": "x" }),
        ),
        (
            "ds/x",
            "/apis/apps/v1/namespaces/shop/daemonsets/x",
            json!({ "selector": selector, "template": {} }),
        ),
        (
            "job/x",
            "/apis/batch/v1/namespaces/shop/jobs/x",
            json!({ "selector": selector, "template": {} }),
        ),
        (
            "rc/x",
            "/api/v1/namespaces/shop/replicationcontrollers/x",
            json!({ "selector": { "app": "x" } }),
        ),
    ] {
        let object = json!({ "metadata": { "name": "x" }, "spec": spec });
        let pods = list(vec![pod("x-1", json!({}))]);
        let exchanges = vec![
            answers(path, object),
            answers("labelSelector=app%3Dx", pods),
        ];
        assert_eq!(
            resolved(target, "80", exchanges).await.unwrap().pod.name,
            "x-1",
            "{target}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_a_pod_to_appear_and_to_be_ready() {
    let resolved = resolved(
        "deploy/api",
        "80",
        vec![
            answers(DEPLOYMENT, deployment()),
            answers(OF_DEPLOYMENT, list(vec![])),
            watches(
                WATCH,
                vec![
                    event("ADDED", pending("api-1")),
                    event("MODIFIED", unready("api-1")),
                    event("DELETED", unready("api-1")),
                    event("ADDED", pending("api-2")),
                    event("MODIFIED", pod("api-2", json!({}))),
                ],
            ),
        ],
    )
    .await
    .unwrap();
    assert_eq!(resolved.pod.name, "api-2");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_is_begun_anew() {
    let gone = json!({ "type": "ERROR", "object": { "kind": "Status", "code": 410, "message": "too old" } });
    let resolved = resolved(
        "deploy/api",
        "80",
        vec![
            answers(DEPLOYMENT, deployment()),
            answers(OF_DEPLOYMENT, list(vec![])),
            watches(WATCH, vec![gone]),
            answers(OF_DEPLOYMENT, list(vec![pending("api-1")])),
            refuses(WATCH, 410, "too old"),
            answers(OF_DEPLOYMENT, list(vec![pending("api-1")])),
            Exchange {
                ends: true,
                ..watches(WATCH, vec![event("MODIFIED", pending("api-1"))])
            },
            answers(OF_DEPLOYMENT, list(vec![pod("api-1", json!({}))])),
        ],
    )
    .await
    .unwrap();
    assert_eq!(resolved.pod.name, "api-1");
}

#[tokio::test(start_paused = true)]
async fn after_the_wait_one_that_runs_has_to_do() {
    let resolved = resolved(
        "deploy/api",
        "80",
        vec![
            answers(DEPLOYMENT, deployment()),
            answers(
                OF_DEPLOYMENT,
                list(vec![pending("api-1"), unready("api-2")]),
            ),
            watches(WATCH, vec![]),
        ],
    )
    .await
    .unwrap();
    assert_eq!(resolved.pod.name, "api-2");
    assert!(!resolved.ready);
}

#[tokio::test(start_paused = true)]
async fn after_the_wait_it_says_what_was_missing() {
    let begin = tokio::time::Instant::now();
    let nothing = vec![
        answers(DEPLOYMENT, deployment()),
        answers(OF_DEPLOYMENT, list(vec![])),
        watches(WATCH, vec![]),
    ];
    let error = resolved("deploy/api", "80", nothing).await.unwrap_err();
    assert_eq!(begin.elapsed(), WAIT);
    assert_eq!(
        error.to_string(),
        "timed out waiting for the condition: no pod of `deployment/api` came up in namespace `shop` within 60s"
    );

    let error = resolved("web", "80", vec![watches("/pods/web", vec![])])
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the API server did not answer about `pod/web`"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_named_pod_is_waited_for_until_it_is_ready() {
    let get = |pod| answers("/pods/web", json!(pod));
    let same = "/namespaces/shop/pods?&fieldSelector=metadata.name%3Dweb";
    let resolved_in_time = resolved(
        "web",
        "80",
        vec![
            get(pending("web")),
            answers(same, list(vec![pending("web")])),
            watches(
                WATCH,
                vec![
                    event("MODIFIED", unready("web")),
                    event("MODIFIED", pod("web", json!({}))),
                ],
            ),
        ],
    );
    assert!(resolved_in_time.await.unwrap().ready);

    let stuck = pod(
        "web",
        json!({ "status": { "phase": "Pending", "containerStatuses": [{
        "name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "waiting": { "reason": "ImagePullBackOff" } },
    }] } }),
    );
    let never = resolved(
        "web",
        "80",
        vec![
            get(pending("web")),
            answers(same, list(vec![stuck])),
            watches(WATCH, vec![]),
        ],
    );
    assert_eq!(
        never.await.unwrap_err().to_string(),
        "unable to forward port because pod is not running. Current status=Pending, ImagePullBackOff (pod `web`)"
    );

    let over = pod("web", json!({ "status": { "phase": "Succeeded" } }));
    let error = resolved("web", "80", vec![get(over.clone())])
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("Current status=Succeeded (pod `web`)"),
        "{error}"
    );
    let dies = resolved(
        "web",
        "80",
        vec![
            get(pending("web")),
            answers(same, list(vec![pending("web")])),
            watches(WATCH, vec![event("MODIFIED", over)]),
        ],
    );
    assert!(matches!(dies.await, Err(TargetError::NotRunning { .. })));

    let may_only_get = resolved(
        "web",
        "80",
        vec![get(pending("web")), refuses(same, 403, "no")],
    );
    assert!(matches!(
        may_only_get.await,
        Err(TargetError::NotRunning { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn what_can_never_work_is_told_at_once() {
    let get = "/namespaces/shop/services/web";
    let mut without = service();
    without["spec"]["selector"] = json!({});
    for (target, port, exchange, expected) in [
        (
            "svc/web",
            "80",
            refuses(get, 404, "services \"web\" not found"),
            "Error from server: services \"web\" not found in namespace `shop`",
        ),
        (
            "svc/web",
            "80",
            refuses(get, 401, "Unauthorized"),
            "You must be logged in to the server (Unauthorized)",
        ),
        (
            "svc/web",
            "80",
            refuses(get, 403, "services \"web\" is\nforbidden\u{1b}"),
            "Error from server: services \"web\" is forbidden\\u{1b}",
        ),
        (
            "svc/web",
            "80",
            refuses(get, 500, "boom"),
            "Error from server: boom",
        ),
        (
            "svc/web",
            "80",
            answers(get, json!([])),
            "the server's answer cannot be understood: ",
        ),
        (
            "svc/web",
            "80",
            answers(get, without),
            "invalid service 'web': Service is defined without a selector",
        ),
        (
            "svc/web",
            "81",
            answers(get, service()),
            "Service web does not have a service port 81",
        ),
        (
            "web",
            "http",
            answers("/pods/web", json!(pending("web"))),
            "Pod 'web' does not have a named port 'http'",
        ),
    ] {
        let error = resolved(target, port, vec![exchange])
            .await
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}
