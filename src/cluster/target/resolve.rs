//! Asking the cluster which pod a target is.
//!
//! A pod that is named with port numbers needs no question ([`Target::without_asking`]). Otherwise the object is
//! read once, its pods are listed once, and only if none of them is ready are they watched until one is.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ReplicationController, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Selector;
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};

use super::ports::RemotePort;
use super::preference::{is_deleting, phase, preferred_first, ready_condition};
use super::translate::{port_of_pod, port_of_service, service_port};
use super::{Kind, PodPort, Target, TargetError};
use crate::untrusted::printable;

/// Where a pod is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Tells it from its successors of the same name; unknown where the cluster was not asked.
    pub uid: Option<String>,
}

/// A pod and the ports of it that were asked for, in the same order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resolved {
    /// The pod.
    pub pod: PodRef,
    /// Its ports.
    pub ports: Vec<PodPort>,
    /// Whether it was seen to be ready; if not, it runs but none became ready in time, or nobody asked.
    pub ready: bool,
}

impl Target {
    /// The pod and its ports where the target alone says them: a pod's name and numbers. Whether the pod is there,
    /// the upgrade will tell.
    pub fn without_asking(&self, namespace: &str, ports: &[RemotePort]) -> Option<Resolved> {
        if self.kind != Kind::Pod {
            return None;
        }
        let number = |port: &RemotePort| match port {
            RemotePort::Number(number) => Some(PodPort {
                number: *number,
                local: *number,
            }),
            RemotePort::Name(_) => None,
        };
        let ports = ports.iter().map(number).collect::<Option<_>>()?;
        let pod = PodRef {
            namespace: namespace.to_owned(),
            name: self.name.clone(),
            uid: None,
        };
        Some(Resolved {
            pod,
            ports,
            ready: false,
        })
    }
}

/// Finds the pod that `target` leads to in `namespace`, and its ports.
///
/// A pod that was named is taken as soon as it runs, as kubectl takes it. Of the pods of anything else, the best
/// one that is ready is taken; there kubectl would take one that is not. If there is none, this waits for one until
/// `wait` has passed since the call, and then takes one that at least runs. `wait` also bounds every request.
///
/// Holds nothing: dropping the future at any point loses nothing.
///
/// # Errors
///
/// Wrong names, missing rights and undeclared ports are told at once, without waiting.
pub async fn resolve(
    client: &Client,
    namespace: &str,
    target: &Target,
    ports: &[RemotePort],
    wait: Duration,
) -> Result<Resolved, TargetError> {
    let mut search = Search {
        client,
        namespace,
        target,
        service: None,
        pods: None,
    };
    let pod = match timeout(wait, search.run(ports)).await {
        Ok(found) => found?,
        Err(_) => search.best_after(wait)?,
    };
    let translate = |port| match &search.service {
        Some(service) => port_of_service(service, &pod, port),
        None => port_of_pod(&pod, port),
    };
    Ok(Resolved {
        ports: ports.iter().map(translate).collect::<Result<_, _>>()?,
        ready: is_ready(&pod),
        pod: PodRef {
            namespace: namespace.to_owned(),
            name: pod.metadata.name.unwrap_or_default(),
            uid: pod.metadata.uid,
        },
    })
}

/// What is known so far; it outlives the wait.
struct Search<'a> {
    client: &'a Client,
    namespace: &'a str,
    target: &'a Target,
    service: Option<Service>,
    /// By name; none until the cluster has answered.
    pods: Option<BTreeMap<String, Pod>>,
}

impl Search<'_> {
    /// Goes on until there is a pod to take.
    async fn run(&mut self, ports: &[RemotePort]) -> Result<Pod, TargetError> {
        let selector = match self.target.kind {
            Kind::Pod => return self.named_pod(ports).await,
            Kind::Service => {
                let service = self.get::<Service>().await?;
                for port in ports {
                    service_port(&service, port)?;
                }
                let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone());
                self.service = Some(service);
                selector.map(Selector::from_iter)
            }
            Kind::ReplicationController => {
                let selector = self
                    .get::<ReplicationController>()
                    .await?
                    .spec
                    .and_then(|spec| spec.selector);
                selector.map(Selector::from_iter)
            }
            Kind::Deployment => self.selector(
                self.get::<Deployment>()
                    .await?
                    .spec
                    .map(|spec| spec.selector),
            )?,
            Kind::ReplicaSet => self.selector(
                self.get::<ReplicaSet>()
                    .await?
                    .spec
                    .map(|spec| spec.selector),
            )?,
            Kind::StatefulSet => self.selector(
                self.get::<StatefulSet>()
                    .await?
                    .spec
                    .map(|spec| spec.selector),
            )?,
            Kind::DaemonSet => self.selector(
                self.get::<DaemonSet>()
                    .await?
                    .spec
                    .map(|spec| spec.selector),
            )?,
            Kind::Job => {
                self.selector(self.get::<Job>().await?.spec.and_then(|spec| spec.selector))?
            }
        };
        // an empty selector would select every pod of the namespace
        match selector.filter(|selector| !selector.selects_all()) {
            Some(selector) => {
                self.follow(&ListParams::default().labels_from(&selector))
                    .await
            }
            None => Err(self.without_selector()),
        }
    }

    async fn named_pod(&mut self, ports: &[RemotePort]) -> Result<Pod, TargetError> {
        let pod = self.get::<Pod>().await?;
        for port in ports {
            port_of_pod(&pod, port)?;
        }
        if phase(&pod) == "Running" {
            return Ok(pod);
        }
        if is_over(&pod) {
            return Err(not_running(&pod));
        }
        self.pods = Some(BTreeMap::from([(self.target.name.clone(), pod.clone())]));
        let itself = ListParams::default().fields(&format!("metadata.name={}", self.target.name));
        match self.follow(&itself).await {
            // a role may well be allowed to get pods but not to list or watch them
            Err(TargetError::Forbidden(_)) => Err(not_running(&pod)),
            found => found,
        }
    }

    /// Lists and then watches pods until one of them is ready.
    async fn follow(&mut self, which: &ListParams) -> Result<Pod, TargetError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace);
        let watch = WatchParams {
            label_selector: which.label_selector.clone(),
            field_selector: which.field_selector.clone(),
            ..WatchParams::default()
        };
        loop {
            let list = api.list(which).await.map_err(|error| self.failed(error))?;
            let version = list.metadata.resource_version.unwrap_or_default();
            self.pods = Some(
                list.items
                    .into_iter()
                    .map(|pod| (name_of(&pod), pod))
                    .collect(),
            );
            if let Some(pod) = self.ready_pod()? {
                return Ok(pod);
            }
            tracing::info!(target = %self.target, namespace = self.namespace, "waiting for a pod that is ready");
            match api.watch(&watch, &version).await {
                Ok(events) => {
                    let mut events = pin!(events);
                    // an error event or a broken connection: the next list tells what is wrong
                    while let Some(Ok(event)) = events.next().await {
                        if !self.apply(event) {
                            break;
                        }
                        if let Some(pod) = self.ready_pod()? {
                            return Ok(pod);
                        }
                    }
                }
                Err(kube::Error::Api(status)) if status.code == GONE => {}
                Err(error) => return Err(self.failed(error)),
            }
            sleep(BEFORE_THE_NEXT_LIST).await;
        }
    }

    /// Takes an event in; false where the watch is of no more use.
    fn apply(&mut self, event: WatchEvent<Pod>) -> bool {
        let pods = self.pods.get_or_insert_default();
        match event {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                pods.insert(name_of(&pod), pod);
            }
            WatchEvent::Deleted(pod) => {
                pods.remove(&name_of(&pod));
            }
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(_) => return false,
        }
        true
    }

    /// The best of the pods that are ready, if any is.
    fn ready_pod(&self) -> Result<Option<Pod>, TargetError> {
        if let (Kind::Pod, Some(pod)) = (self.target.kind, self.pods().next())
            && is_over(pod)
        {
            return Err(not_running(pod));
        }
        Ok(self
            .pods()
            .filter(|pod| is_ready(pod))
            .min_by(|a, b| preferred_first(a, b))
            .cloned())
    }

    /// What is left when the wait is over: a pod that at least runs, as kubectl would take it.
    fn best_after(&self, wait: Duration) -> Result<Pod, TargetError> {
        match self.pods().min_by(|a, b| preferred_first(a, b)) {
            Some(pod) if phase(pod) == "Running" => Ok(pod.clone()),
            Some(pod) => Err(not_running(pod)),
            None => Err(TargetError::TimedOut {
                waited_for: match self.pods {
                    Some(_) => format!(
                        "no pod of `{}` came up in namespace `{}`",
                        self.target, self.namespace
                    ),
                    None => format!("the API server did not answer about `{}`", self.target),
                },
                timeout: wait,
            }),
        }
    }

    fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().flat_map(BTreeMap::values)
    }

    async fn get<K>(&self) -> Result<K, TargetError>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        api.get(&self.target.name)
            .await
            .map_err(|error| self.failed(error))
    }

    fn selector(&self, selector: Option<LabelSelector>) -> Result<Option<Selector>, TargetError> {
        selector
            .map(Selector::try_from)
            .transpose()
            .map_err(|error| TargetError::Failed {
                what: self.target.to_string(),
                message: printable(&error.to_string(), SERVER_TEXT),
            })
    }

    fn without_selector(&self) -> TargetError {
        let name = &self.target.name;
        TargetError::NoPods(match self.target.kind {
            Kind::Service => format!(
                "invalid service '{name}': Service is defined without a selector, so it leads to no pods: name a pod"
            ),
            kind => format!(
                "{kind} '{name}' is defined without a selector, so it leads to no pods: name a pod"
            ),
        })
    }

    fn failed(&self, error: kube::Error) -> TargetError {
        let what = self.target.to_string();
        match error {
            kube::Error::Api(status) => {
                let message = printable(&status.message, SERVER_TEXT);
                match status.code {
                    401 => TargetError::Unauthorized(message),
                    403 => TargetError::Forbidden(message),
                    404 => TargetError::NotFound {
                        message,
                        namespace: self.namespace.to_owned(),
                    },
                    _ => TargetError::Failed { what, message },
                }
            }
            kube::Error::SerdeError(error) => TargetError::Failed {
                what,
                message: printable(&error.to_string(), SERVER_TEXT),
            },
            error => TargetError::Unreachable {
                what,
                source: Box::new(error),
            },
        }
    }
}

fn name_of(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// A kubelet always tells whether a pod is ready; where no one tells, running has to do.
fn is_ready(pod: &Pod) -> bool {
    phase(pod) == "Running"
        && !is_deleting(pod)
        && ready_condition(pod).is_none_or(|condition| condition.status == "True")
}

/// Such a pod never runs again.
fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// kubectl's words, and what the containers wait for if they say so.
fn not_running(pod: &Pod) -> TargetError {
    let status = pod.status.iter();
    let containers = status.flat_map(|status| {
        status
            .init_container_statuses
            .iter()
            .chain(&status.container_statuses)
            .flatten()
    });
    let reason = containers
        .filter_map(|container| {
            container
                .state
                .as_ref()?
                .waiting
                .as_ref()?
                .reason
                .as_deref()
        })
        .find(|reason| !matches!(*reason, "ContainerCreating" | "PodInitializing"));
    let status = match reason {
        Some(reason) => format!("{}, {reason}", phase(pod)),
        None => phase(pod).to_owned(),
    };
    TargetError::NotRunning {
        pod: name_of(pod),
        status: printable(&status, 100),
    }
}

/// "The resource version is too old": list again.
const GONE: u16 = 410;

/// A server that ends every watch at once is not to be asked in a tight loop.
const BEFORE_THE_NEXT_LIST: Duration = Duration::from_secs(1);

/// As much of a server's words as fits a few lines of a terminal.
const SERVER_TEXT: usize = 500;

#[cfg(test)]
mod tests {
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
        let body =
            json!({ "kind": "Status", "status": "Failure", "code": status, "message": message });
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
                resolved
                    .ports
                    .iter()
                    .map(|port| port.number.get())
                    .collect::<Vec<_>>(),
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
        assert_eq!(known.ports[0].number.get(), 22);
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
                resolved.ports[0].number.get(),
                resolved.ports[0].local.get()
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
                "services \"web\" not found in namespace `shop`",
            ),
            (
                "svc/web",
                "80",
                refuses(get, 401, "Unauthorized"),
                "you must be logged in to the server: Unauthorized",
            ),
            (
                "svc/web",
                "80",
                refuses(get, 403, "services \"web\" is\nforbidden\u{1b}"),
                "services \"web\" is forbidden\\u{1b}",
            ),
            (
                "svc/web",
                "80",
                refuses(get, 500, "boom"),
                "the cluster failed to give service/web: boom",
            ),
            (
                "svc/web",
                "80",
                answers(get, json!([])),
                "the cluster failed to give service/web: ",
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
}
