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

use super::container::{self, ContainerRef};
use super::ports::RemotePort;
use super::preference::{is_deleting, phase, preferred_first, ready_condition};
use super::translate::{port_of_pod, port_of_service, service_port};
use super::{Kind, PodPort, Target, TargetError};
use crate::cluster::{Cluster, RequestError};
use crate::untrusted::printable;

/// Where a pod is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
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
        let ports = ports.iter().map(PodPort::without_asking);
        let ports = ports.collect::<Option<_>>()?;
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

impl Cluster {
    /// Finds the pod that `target` leads to, and its ports.
    ///
    /// A pod that was named is taken as soon as it runs, as kubectl takes it. Of the pods of anything else, the best
    /// one that is ready is taken; there kubectl would take one that is not. If there is none, this waits for one
    /// until `wait` has passed since the call, and then takes one that at least runs. `wait` also bounds every
    /// request.
    ///
    /// Cancel safe: it holds nothing.
    ///
    /// # Errors
    ///
    /// Wrong names, missing rights and undeclared ports are told at once, without waiting.
    pub async fn resolve(
        &self,
        target: &Target,
        ports: &[RemotePort],
        wait: Duration,
    ) -> Result<Resolved, TargetError> {
        let namespace = target.namespace(self.namespace_flag(), self.namespace())?;
        resolve(&self.client(), namespace, target, ports, wait).await
    }

    /// Finds the container that a command for `target` runs in: `wanted`, or the pod's default.
    ///
    /// A pod that was named is taken as it is, as kubectl takes it: an init container runs while its pod is pending. Of
    /// the pods of anything else the best one that runs is taken, ready or not; if there is none, this waits for one
    /// until `wait` has passed since the call, and then takes what there is. `wait` also bounds every request.
    ///
    /// Cancel safe: it holds nothing.
    ///
    /// # Errors
    ///
    /// Wrong names and missing rights are told at once, without waiting.
    pub async fn resolve_container(
        &self,
        target: &Target,
        wanted: Option<&str>,
        wait: Duration,
    ) -> Result<ContainerRef, TargetError> {
        let namespace = target.namespace(self.namespace_flag(), self.namespace())?;
        let client = self.client();
        let mut search = Search {
            enough: is_running,
            ..Search::new(&client, namespace, target)
        };
        let found = timeout(wait, async {
            match target.kind {
                Kind::Pod => search.get::<Pod>().await,
                _ => search.run(&[]).await,
            }
        });
        let pod = match found.await {
            Ok(found) => found?,
            Err(_) => search.best().ok_or_else(|| search.nothing_after(wait))?,
        };
        container::choose(namespace, pod, wanted)
    }

    /// The container of a pod that a command runs in where none is named. Cancel safe.
    ///
    /// # Errors
    ///
    /// The pod is not there or can't be read, or has completed.
    pub async fn default_container(&self, pod: &PodRef) -> Result<String, TargetError> {
        let client = self.client();
        let target = Target::pod(&pod.name);
        let search = Search::new(&client, &pod.namespace, &target);
        let found = search.get::<Pod>().await?;
        container::choose(&pod.namespace, found, None).map(|container| container.name)
    }

    /// The uid of a pod; none where the role may not look at pods. Cancel safe.
    ///
    /// # Errors
    ///
    /// The pod is not there, or the cluster could not be asked.
    pub async fn uid(&self, pod: &PodRef) -> Result<Option<String>, TargetError> {
        if pod.uid.is_some() {
            return Ok(pod.uid.clone());
        }
        let client = self.client();
        let target = Target::pod(&pod.name);
        let search = Search::new(&client, &pod.namespace, &target);
        match search.get::<Pod>().await {
            Ok(found) => Ok(found.metadata.uid),
            Err(TargetError::Request(error)) if error.is_forbidden() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Cluster::resolve`], but without any request where the target says it all ([`Target::without_asking`]).
    pub async fn locate(
        &self,
        target: &Target,
        ports: &[RemotePort],
        wait: Duration,
    ) -> Result<Resolved, TargetError> {
        let namespace = target.namespace(self.namespace_flag(), self.namespace())?;
        match target.without_asking(namespace, ports) {
            Some(known) => Ok(known),
            None => resolve(&self.client(), namespace, target, ports, wait).await,
        }
    }
}

async fn resolve(
    client: &Client,
    namespace: &str,
    target: &Target,
    ports: &[RemotePort],
    wait: Duration,
) -> Result<Resolved, TargetError> {
    let mut search = Search::new(client, namespace, target);
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
    /// Whether a pod needs no more waiting.
    enough: fn(&Pod) -> bool,
}

impl<'a> Search<'a> {
    fn new(client: &'a Client, namespace: &'a str, target: &'a Target) -> Self {
        Self {
            client,
            namespace,
            target,
            service: None,
            pods: None,
            enough: is_ready,
        }
    }

    /// Goes on until there is a pod to take.
    async fn run(&mut self, ports: &[RemotePort]) -> Result<Pod, TargetError> {
        let selector = match self.target.kind {
            Kind::Pod => return self.named_pod(ports).await,
            Kind::Service => {
                let service = self.get::<Service>().await?;
                for port in ports.iter().filter(|port| port.is_own()) {
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
            None => Err(without_selector(self.target)),
        }
    }

    async fn named_pod(&mut self, ports: &[RemotePort]) -> Result<Pod, TargetError> {
        let pod = self.get::<Pod>().await?;
        for port in ports {
            port_of_pod(&pod, port)?;
        }
        if is_running(&pod) {
            return Ok(pod);
        }
        if is_over(&pod) {
            return Err(not_running(&pod));
        }
        self.pods = Some(BTreeMap::from([(self.target.name.clone(), pod.clone())]));
        let itself = ListParams::default().fields(&format!("metadata.name={}", self.target.name));
        match self.follow(&itself).await {
            // a role may well be allowed to get pods but not to list or watch them
            Err(TargetError::Request(error)) if error.is_forbidden() => Err(not_running(&pod)),
            found => found,
        }
    }

    /// Lists and then watches pods until there is enough of one of them.
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
            if let Some(pod) = self.good_pod()? {
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
                        if let Some(pod) = self.good_pod()? {
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

    /// The best of the pods that need no more waiting, if any does.
    fn good_pod(&self) -> Result<Option<Pod>, TargetError> {
        if let (Kind::Pod, Some(pod)) = (self.target.kind, self.pods().next())
            && is_over(pod)
        {
            return Err(not_running(pod));
        }
        Ok(self
            .pods()
            .filter(|pod| (self.enough)(pod))
            .min_by(|a, b| preferred_first(a, b))
            .cloned())
    }

    /// What is left when the wait is over: a pod that at least runs, as kubectl would take it.
    fn best_after(&self, wait: Duration) -> Result<Pod, TargetError> {
        match self.best() {
            Some(pod) if is_running(&pod) => Ok(pod),
            Some(pod) => Err(not_running(&pod)),
            None => Err(self.nothing_after(wait)),
        }
    }

    fn best(&self) -> Option<Pod> {
        self.pods().min_by(|a, b| preferred_first(a, b)).cloned()
    }

    fn nothing_after(&self, wait: Duration) -> TargetError {
        match self.pods {
            Some(_) => TargetError::NoPodInTime {
                target: self.target.to_string(),
                namespace: self.namespace.to_owned(),
                wait,
            },
            None => TargetError::NoAnswer {
                target: self.target.to_string(),
                wait,
            },
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
            .map(|selector| label_selector(self.target, selector))
            .transpose()
    }

    fn failed(&self, error: kube::Error) -> TargetError {
        match RequestError::from(error) {
            source if source.is_not_found() => TargetError::NotFound {
                namespace: self.namespace.to_owned(),
                source,
            },
            source => TargetError::Request(source),
        }
    }
}

/// A selector as a query has it.
pub(in crate::cluster) fn label_selector(
    target: &Target,
    selector: LabelSelector,
) -> Result<Selector, TargetError> {
    Selector::try_from(selector).map_err(|error| {
        let reason = format!("the selector of {target}: {error}");
        TargetError::Request(RequestError::Invalid(printable(&reason, 300)))
    })
}

pub(in crate::cluster) fn without_selector(target: &Target) -> TargetError {
    let name = &target.name;
    TargetError::NoPods(match target.kind {
        Kind::Service => format!(
            "invalid service '{name}': Service is defined without a selector, so it leads to no pods: name a pod"
        ),
        kind => format!(
            "{kind} '{name}' is defined without a selector, so it leads to no pods: name a pod"
        ),
    })
}

fn name_of(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

/// A kubelet always tells whether a pod is ready; where no one tells, running has to do.
pub(in crate::cluster) fn is_ready(pod: &Pod) -> bool {
    phase(pod) == "Running"
        && !is_deleting(pod)
        && ready_condition(pod).is_none_or(|condition| condition.status == "True")
}

pub(in crate::cluster) fn is_running(pod: &Pod) -> bool {
    phase(pod) == "Running"
}

/// Such a pod never runs again.
pub(in crate::cluster) fn is_over(pod: &Pod) -> bool {
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

#[cfg(test)]
mod tests;
