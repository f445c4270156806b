//! What is known of a target, and the views of it. No network and no clock: what has become known comes in, a
//! [`View`] comes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod, PodSpec, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::facts::{Kept, ObjectFacts, PodFacts, PodsOf, Question, SliceFacts};
use super::watching::Event;
use super::{Candidate, Trouble, View};
use crate::cluster::RequestError;
use crate::cluster::target::{Kind, PodRef, Rank, TargetError, port_of_service, without_selector};

/// What has become known, and of what.
#[derive(Debug)]
pub(super) enum News {
    Object(Event<ObjectFacts>),
    Pods(Event<PodFacts>),
    Slices(Event<SliceFacts>),
}

/// All that is known.
#[derive(Debug)]
pub(super) struct Picture {
    question: Arc<Question>,
    /// The service or workload; nothing for a pod.
    object: Known<ObjectFacts>,
    pods: Known<PodFacts>,
    slices: Known<SliceFacts>,
    without_slices: bool,
    /// What the object has said last; it outlives it.
    pods_of: Option<PodsOf>,
    settled: bool,
}

/// What is known of one kind of objects.
#[derive(Debug)]
struct Known<T> {
    /// By name; none until there is an answer.
    items: Option<BTreeMap<String, T>>,
    /// Whether there ever were any.
    seen: bool,
    failing: Option<Trouble>,
    unwatched: Option<Trouble>,
}

impl Picture {
    pub(super) fn new(question: Arc<Question>) -> Self {
        Self {
            question,
            object: Known::default(),
            pods: Known::default(),
            slices: Known::default(),
            without_slices: false,
            pods_of: None,
            settled: false,
        }
    }

    /// Takes in what has become known.
    pub(super) fn take_in(&mut self, news: News) {
        match news {
            News::Object(event) => {
                self.object.take_in(event);
                if let Some(object) = self.object() {
                    self.pods_of = object.pods.clone();
                }
            }
            News::Pods(event) => self.pods.take_in(event),
            // By their own word the pods are just as ready, most of the time. An API server before 1.21 has no slices.
            News::Slices(Event::Failed(error)) if error.is_forbidden() || error.is_not_found() => {
                self.without_slices |= self.slices.items.is_none();
                self.slices.take_in(Event::Listed(Vec::new()));
            }
            News::Slices(event) => self.slices.take_in(event),
        }
    }

    /// Whose pods are to be followed; nobody's as long as the object hasn't told. It stays when the object is deleted.
    pub(super) fn pods_of(&self) -> Option<&PodsOf> {
        self.pods_of.as_ref()
    }

    /// Whether EndpointSlices are of use: not if the first answer was a refusal.
    pub(super) fn wants_slices(&self) -> bool {
        !self.without_slices
    }

    /// What is known by now. Its generation is zero.
    pub(super) fn view(&mut self) -> View {
        let trouble = self.trouble();
        let is_final = trouble.as_ref().is_some_and(Trouble::is_final);
        self.settled |= is_final || self.is_complete();
        View {
            candidates: self.candidates(),
            generation: 0,
            trouble,
            settled: self.settled,
        }
    }

    fn object(&self) -> Option<&ObjectFacts> {
        self.object.items.as_ref()?.values().next()
    }

    /// Whether there is an answer to everything that was asked.
    fn is_complete(&self) -> bool {
        match self.question.target.kind() {
            Kind::Pod => self.pods.items.is_some(),
            kind => match self.object() {
                None => self.object.items.is_some(),
                Some(object) => {
                    (object.pods.is_none() || self.pods.items.is_some())
                        && (kind != Kind::Service || self.slices.items.is_some())
                }
            },
        }
    }

    /// What is wrong, the worst first.
    fn trouble(&self) -> Option<Trouble> {
        let named_is_gone = match self.question.target.kind() {
            Kind::Pod => self.pods.is_empty().then_some(self.pods.seen),
            _ => self.object.is_empty().then_some(self.object.seen),
        };
        let failing = self.object.failing.iter();
        let failing = failing
            .chain(&self.pods.failing)
            .chain(&self.slices.failing);
        if let Some(hopeless) = failing.clone().find(|trouble| trouble.is_final()) {
            return Some(hopeless.clone());
        }
        match named_is_gone {
            Some(true) => return Some(Trouble::Deleted(self.words())),
            Some(false) => return Some(Trouble::Target(Arc::new(self.not_found()))),
            None => {}
        }
        if let Some(wrong) = self.object().and_then(|object| object.wrong.clone()) {
            return Some(Trouble::Target(wrong));
        }
        if self.leads_to_no_pod() {
            let wrong = without_selector(&self.question.target);
            return Some(Trouble::Target(Arc::new(wrong)));
        }
        // that nobody watches the object itself matters little while its pods are watched
        let unwatched = self.pods.unwatched.iter().chain(&self.slices.unwatched);
        failing.chain(unwatched).next().cloned()
    }

    /// A service without a selector, whose endpoints are no pods.
    fn leads_to_no_pod(&self) -> bool {
        let without_selector = |object: &ObjectFacts| object.pods.is_none();
        self.object().is_some_and(without_selector)
            && self
                .slices
                .items
                .as_ref()
                .is_some_and(|slices| slices.values().all(|slice| slice.endpoints.is_empty()))
    }

    fn words(&self) -> String {
        let target = &self.question.target;
        format!("{} `{}`", target.kind(), target.name())
    }

    /// The API server's words for an object that isn't there; it has only sent an empty list.
    fn not_found(&self) -> TargetError {
        let target = &self.question.target;
        let message = format!(
            "{} \"{}\" not found",
            target.kind().resource(),
            target.name()
        );
        TargetError::NotFound {
            namespace: self.question.namespace.clone(),
            source: RequestError::Status {
                code: 404,
                reason: "NotFound".to_owned(),
                message,
            },
        }
    }

    /// The pods in their order.
    fn candidates(&self) -> Vec<Arc<Candidate>> {
        let pods = self.pods.items.iter().flat_map(BTreeMap::values);
        let slices = self.slices.items.as_ref();
        // a service has at least one slice if there is anybody who makes them
        let slices = slices.filter(|slices| !slices.is_empty());
        let Some(slices) = slices.filter(|_| self.question.target.kind() == Kind::Service) else {
            let pods = pods.map(|pod| (pod.candidate.clone(), Some(&pod.rank)));
            return in_order(pods.collect());
        };
        let endpoints = by_pod(slices);
        if self.pods_of.is_none() {
            let service = self.object().and_then(|object| object.service.as_deref());
            let alone = endpoints.iter().filter_map(|((name, uid), endpoint)| {
                let candidate = self.of_endpoint(service?, (name, uid), endpoint);
                Some((Arc::new(candidate), None))
            });
            return in_order(alone.collect());
        }
        let pods = pods.map(|pod| {
            let own = &pod.candidate;
            let name = pod.name();
            let endpoint = endpoints.get(&(name, pod.uid()));
            let endpoint = endpoint.or_else(|| endpoints.get(&(name, "")));
            let terminating =
                own.terminating || endpoint.is_some_and(|endpoint| endpoint.terminating);
            let ready =
                own.running && !terminating && endpoint.is_some_and(|endpoint| endpoint.ready);
            let candidate = match (ready, terminating) == (own.ready, own.terminating) {
                true => own.clone(),
                false => Arc::new(Candidate {
                    ready,
                    terminating,
                    ..(**own).clone()
                }),
            };
            (candidate, Some(&pod.rank))
        });
        in_order(pods.collect())
    }

    /// A pod of which only an endpoint is known, because its service has no selector.
    fn of_endpoint(
        &self,
        service: &Service,
        (name, uid): (&str, &str),
        endpoint: &PodEndpoint<'_>,
    ) -> Candidate {
        let pod = endpoint.as_pod(service, name);
        let port = |port| port_of_service(service, &pod, port).map_err(|error| error.to_string());
        Candidate {
            pod: PodRef {
                namespace: self.question.namespace.clone(),
                name: name.to_owned(),
                uid: (!uid.is_empty()).then(|| uid.to_owned()),
            },
            ready: endpoint.ready && !endpoint.terminating,
            running: endpoint.ready || endpoint.serving,
            terminating: endpoint.terminating,
            ports: self.question.ports.iter().map(port).collect(),
        }
    }
}

/// A pod, in all slices together.
#[derive(Default)]
struct PodEndpoint<'a> {
    ready: bool,
    serving: bool,
    terminating: bool,
    /// Names of the service's ports, and their numbers in the pod.
    ports: Vec<&'a (String, i32)>,
}

impl PodEndpoint<'_> {
    /// A pod that declares what the service's ports are called in it: the slices know the numbers.
    fn as_pod(&self, service: &Service, name: &str) -> Pod {
        let declared = service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten());
        let ports = declared.filter_map(|declared| {
            let Some(IntOrString::String(called)) = &declared.target_port else {
                return None;
            };
            let own = declared.name.as_deref().unwrap_or_default();
            let (_, number) = self.ports.iter().find(|(name, _)| name == own)?;
            Some(ContainerPort {
                name: Some(called.clone()),
                container_port: *number,
                ..ContainerPort::default()
            })
        });
        Pod {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                containers: vec![Container {
                    ports: Some(ports.collect()),
                    ..Container::default()
                }],
                ..PodSpec::default()
            }),
            status: None,
        }
    }
}

/// The endpoints of each pod, by its name and uid: a dual-stack service has two, and one that is replaced may have one
/// of its predecessor.
fn by_pod(slices: &BTreeMap<String, SliceFacts>) -> BTreeMap<(&str, &str), PodEndpoint<'_>> {
    let mut pods = BTreeMap::<_, PodEndpoint<'_>>::new();
    for slice in slices.values() {
        for endpoint in &slice.endpoints {
            let pod = pods.entry((&*endpoint.pod, &*endpoint.uid)).or_default();
            pod.ready |= endpoint.ready;
            pod.serving |= endpoint.serving;
            pod.terminating |= endpoint.terminating;
            pod.ports.extend(&slice.ports);
        }
    }
    pods
}

fn in_order(mut pods: Vec<(Arc<Candidate>, Option<&Rank>)>) -> Vec<Arc<Candidate>> {
    pods.sort_by(|(a, a_rank), (b, b_rank)| {
        let class = |pod: &Candidate| (pod.terminating, !pod.ready);
        class(a)
            .cmp(&class(b))
            .then_with(|| a_rank.cmp(b_rank))
            .then_with(|| a.pod.name.cmp(&b.pod.name))
    });
    pods.into_iter().map(|(pod, _)| pod).collect()
}

impl<T: Kept> Known<T> {
    fn take_in(&mut self, event: Event<T>) {
        match event {
            Event::Listed(items) => {
                let items = items.into_iter().map(|item| (item.name().to_owned(), item));
                self.items = Some(items.collect());
                self.failing = None;
            }
            Event::Changed(item) => {
                let items = self.items.get_or_insert_default();
                items.insert(item.name().to_owned(), item);
            }
            Event::Removed { name, uid } => {
                let items = self.items.get_or_insert_default();
                let is_it = |item: &T| uid.is_empty() || item.uid() == uid;
                if items.get(&name).is_some_and(is_it) {
                    items.remove(&name);
                }
            }
            Event::Watching => {
                self.failing = None;
                self.unwatched = None;
            }
            Event::Unwatched(error) => {
                self.failing = None;
                self.unwatched = Some(Trouble::Unwatched(Arc::new(error)));
            }
            Event::Failed(error) => self.failing = Some(self.failure(error)),
        }
        self.seen |= self.items.as_ref().is_some_and(|items| !items.is_empty());
    }

    /// A refusal of the first question is the answer to it; later ones may pass.
    fn failure(&self, error: RequestError) -> Trouble {
        let refused = error.is_unauthorized() || error.is_forbidden() || error.is_not_found();
        match refused && self.items.is_none() {
            true => Trouble::Target(Arc::new(TargetError::Request(error))),
            false => Trouble::Failing(Arc::new(error)),
        }
    }

    /// Whether there is an answer, and it is that there are none.
    fn is_empty(&self) -> bool {
        self.items.as_ref().is_some_and(BTreeMap::is_empty)
    }
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self {
            items: None,
            seen: false,
            failing: None,
            unwatched: None,
        }
    }
}

#[cfg(test)]
mod tests;
