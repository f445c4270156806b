//! What is kept of an object. There may be thousands of pods, so it is little, and all that is asked of a pod is
//! answered when it is read.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ReplicationController, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::Resource as _;
use kube::core::Selector;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Candidate;
use crate::cluster::target::ports::RemotePort;
use crate::cluster::target::{
    Kind, PodRef, Rank, Target, TargetError, is_deleting, is_over, is_ready, is_running,
    label_selector, port_of_pod, port_of_service, service_port, without_selector,
};

/// What is asked about.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) namespace: String,
    pub(super) target: Target,
    pub(super) ports: Vec<RemotePort>,
}

/// An object as the API server writes it.
pub(super) trait Written: DeserializeOwned + Clone + Send + 'static {
    fn metadata(&self) -> &ObjectMeta;
}

/// What is kept of one.
pub(super) trait Kept {
    fn name(&self) -> &str;
    fn uid(&self) -> &str;
}

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PodFacts {
    /// By the pod's own word.
    pub(super) candidate: Arc<Candidate>,
    pub(super) rank: Rank,
}

/// What is kept of the object that was named, unless that is a pod.
#[derive(Clone, Debug)]
pub(super) struct ObjectFacts {
    name: String,
    uid: String,
    /// None where it leads to no pods by itself.
    pub(super) pods: Option<PodsOf>,
    pub(super) service: Option<Arc<Service>>,
    /// Why it leads nowhere.
    pub(super) wrong: Option<Arc<TargetError>>,
}

/// Which pods belong to an object, and what its ports mean for them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PodsOf {
    pub(super) labels: String,
    pub(super) service: Option<Arc<Service>>,
}

/// What is kept of an EndpointSlice.
#[derive(Clone, Debug)]
pub(super) struct SliceFacts {
    name: String,
    uid: String,
    pub(super) endpoints: Vec<EndpointFacts>,
    /// Names and numbers.
    pub(super) ports: Vec<(String, i32)>,
}

/// What a slice says about a pod.
#[derive(Clone, Debug)]
pub(super) struct EndpointFacts {
    pub(super) pod: String,
    /// Empty where it isn't told.
    pub(super) uid: String,
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
}

/// Of a workload no more is read than this.
#[derive(Clone, Deserialize)]
pub(super) struct Workload {
    metadata: ObjectMeta,
    spec: Option<WorkloadSpec>,
}

#[derive(Clone, Deserialize)]
struct WorkloadSpec {
    selector: Option<LabelSelector>,
}

impl PodFacts {
    /// None for what makes no sense.
    pub(super) fn read(question: &Question, service: Option<&Service>, pod: &Pod) -> Option<Self> {
        let (name, uid) = identity(&pod.metadata)?;
        let translate = |port| match service {
            Some(service) => port_of_service(service, pod, port),
            None => port_of_pod(pod, port),
        };
        let ports = question.ports.iter().map(translate);
        let over = is_over(pod);
        let terminating = is_deleting(pod) || over;
        let candidate = Candidate {
            pod: PodRef {
                namespace: question.namespace.clone(),
                name,
                uid: Some(uid),
            },
            ready: is_ready(pod) && !terminating,
            running: is_running(pod),
            terminating,
            ports: ports
                .map(|port| port.map_err(|error| error.to_string()))
                .collect(),
        };
        Some(Self {
            candidate: Arc::new(candidate),
            rank: Rank::of(pod),
        })
    }
}

impl ObjectFacts {
    pub(super) fn of_workload(question: &Question, workload: Workload) -> Option<Self> {
        let (name, uid) = identity(&workload.metadata)?;
        let selector = workload.spec.and_then(|spec| spec.selector);
        let selector = selector.map(|selector| label_selector(&question.target, selector));
        Some(Self::selecting(question, (name, uid), selector.transpose()))
    }

    pub(super) fn of_controller(
        question: &Question,
        controller: ReplicationController,
    ) -> Option<Self> {
        let (name, uid) = identity(&controller.metadata)?;
        let selector = controller.spec.and_then(|spec| spec.selector);
        let selector = selector.map(Selector::from_iter);
        Some(Self::selecting(question, (name, uid), Ok(selector)))
    }

    fn selecting(
        question: &Question,
        (name, uid): (String, String),
        selector: Result<Option<Selector>, TargetError>,
    ) -> Self {
        let labels = selector.and_then(|selector| match selector.and_then(labels) {
            Some(labels) => Ok(labels),
            None => Err(without_selector(&question.target)),
        });
        let (labels, wrong) = match labels {
            Ok(labels) => (Some(labels), None),
            Err(wrong) => (None, Some(Arc::new(wrong))),
        };
        Self {
            name,
            uid,
            pods: labels.map(|labels| PodsOf {
                labels,
                service: None,
            }),
            service: None,
            wrong,
        }
    }

    pub(super) fn of_service(question: &Question, service: Service) -> Option<Self> {
        let (name, uid) = identity(&service.metadata)?;
        let spec = service.spec.unwrap_or_default();
        let is_alias = spec.type_.as_deref() == Some("ExternalName");
        // without what changes but doesn't count
        let service = Arc::new(Service {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(ServiceSpec {
                cluster_ip: spec.cluster_ip,
                ports: spec.ports,
                ..ServiceSpec::default()
            }),
            status: None,
        });
        let own = question.ports.iter().filter(|port| port.is_own());
        let wrong = match is_alias {
            true => Some(TargetError::NoPods(format!(
                "service '{name}' is an alias for a name outside of the cluster (ExternalName), so it leads to no pods: name a pod"
            ))),
            false => own
                .map(|port| service_port(&service, port))
                .find_map(Result::err),
        };
        let selector = spec.selector.map(Selector::from_iter);
        let labels = selector.and_then(labels).filter(|_| !is_alias);
        Some(Self {
            name,
            uid,
            pods: labels.map(|labels| PodsOf {
                labels,
                service: Some(service.clone()),
            }),
            service: Some(service),
            wrong: wrong.map(Arc::new),
        })
    }
}

impl SliceFacts {
    pub(super) fn read(question: &Question, slice: EndpointSlice) -> Option<Self> {
        let (name, uid) = identity(&slice.metadata)?;
        let endpoints = slice.endpoints.into_iter();
        let ports = slice.ports.into_iter().flatten();
        Some(Self {
            name,
            uid,
            endpoints: endpoints
                .filter_map(|it| EndpointFacts::read(question, it))
                .collect(),
            ports: ports
                .filter_map(|port| Some((port.name.unwrap_or_default(), port.port?)))
                .collect(),
        })
    }
}

impl EndpointFacts {
    /// None for an endpoint that is no pod.
    fn read(question: &Question, endpoint: Endpoint) -> Option<Self> {
        let reference = endpoint.target_ref?;
        let elsewhere = |namespace: String| namespace != question.namespace;
        if reference.kind.as_deref() != Some("Pod") || reference.namespace.is_some_and(elsewhere) {
            return None;
        }
        let conditions = endpoint.conditions.unwrap_or_default();
        // what isn't told is good: discovery/v1 `EndpointConditions`
        let ready = conditions.ready.unwrap_or(true);
        Some(Self {
            pod: reference.name.filter(|name| is_name(name))?,
            uid: reference.uid.unwrap_or_default(),
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
        })
    }
}

/// The path of the objects of a kind.
pub(super) fn path(kind: Kind, namespace: &str) -> String {
    let namespace = Some(namespace);
    match kind {
        Kind::Pod => Pod::url_path(&(), namespace),
        Kind::Service => Service::url_path(&(), namespace),
        Kind::Deployment => Deployment::url_path(&(), namespace),
        Kind::ReplicaSet => ReplicaSet::url_path(&(), namespace),
        Kind::StatefulSet => StatefulSet::url_path(&(), namespace),
        Kind::DaemonSet => DaemonSet::url_path(&(), namespace),
        Kind::Job => Job::url_path(&(), namespace),
        Kind::ReplicationController => ReplicationController::url_path(&(), namespace),
    }
}

/// Name and uid, where they make sense.
fn identity(metadata: &ObjectMeta) -> Option<(String, String)> {
    let name = metadata.name.clone().filter(|name| is_name(name))?;
    Some((name, metadata.uid.clone()?))
}

/// As far as a path and a terminal are concerned.
fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    (1..=253).contains(&name.len()) && name.chars().all(fits) && !name.starts_with('.')
}

/// The query; an empty selector would select every pod of the namespace.
fn labels(selector: Selector) -> Option<String> {
    (!selector.selects_all()).then(|| selector.to_string())
}

impl Written for Pod {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Written for Service {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Written for ReplicationController {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Written for EndpointSlice {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Written for Workload {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Kept for PodFacts {
    fn name(&self) -> &str {
        &self.candidate.pod.name
    }

    fn uid(&self) -> &str {
        self.candidate.pod.uid.as_deref().unwrap_or_default()
    }
}

impl Kept for ObjectFacts {
    fn name(&self) -> &str {
        &self.name
    }

    fn uid(&self) -> &str {
        &self.uid
    }
}

impl Kept for SliceFacts {
    fn name(&self) -> &str {
        &self.name
    }

    fn uid(&self) -> &str {
        &self.uid
    }
}
