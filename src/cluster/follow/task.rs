//! Runs the watches that a target needs, and publishes a view whenever something has changed.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{Pod, ReplicationController, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Client, Resource as _};
use tokio::sync::watch;

use super::View;
use super::facts::{self, ObjectFacts, PodFacts, PodsOf, Question, SliceFacts, Workload};
use super::picture::{News, Picture};
use super::watching::{Event, Events, Which, events};
use crate::cluster::target::Kind;

/// The label of a slice that says whose it is (`discoveryv1.LabelServiceName`).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// So much news at most becomes one view, so that there is one in a flood too.
const NEWS_AT_ONCE: usize = 1000;

/// Follows until it is dropped.
pub(super) async fn run(
    client: Client,
    question: Question,
    refreshes: watch::Receiver<u64>,
    views: watch::Sender<Arc<View>>,
) {
    let question = Arc::new(question);
    let mut picture = Picture::new(question.clone());
    let mut watches = Watches::new(client, question, refreshes);
    loop {
        picture.take_in(watches.next().await);
        for _ in 1..NEWS_AT_ONCE {
            let Some(news) = watches.next().now_or_never() else {
                break;
            };
            picture.take_in(news);
        }
        watches.follow_pods(picture.pods_of());
        if !picture.wants_slices() {
            watches.slices = None;
        }
        let mut view = picture.view();
        views.send_if_modified(|last| {
            if last.says_the_same(&view) {
                return false;
            }
            view.generation = last.generation + 1;
            *last = Arc::new(std::mem::take(&mut view));
            true
        });
    }
}

/// One watch for each kind of object that a target needs.
struct Watches {
    client: Client,
    question: Arc<Question>,
    refreshes: watch::Receiver<u64>,
    /// Whose pods `pods` are.
    pods_of: Option<PodsOf>,
    object: Option<Events<ObjectFacts>>,
    pods: Option<Events<PodFacts>>,
    slices: Option<Events<SliceFacts>>,
}

impl Watches {
    fn new(client: Client, question: Arc<Question>, refreshes: watch::Receiver<u64>) -> Self {
        let mut watches = Self {
            client,
            question,
            refreshes,
            pods_of: None,
            object: None,
            pods: None,
            slices: None,
        };
        match watches.question.target.kind() {
            Kind::Pod => watches.pods = Some(watches.pods(None)),
            Kind::Service => {
                watches.object = Some(watches.object());
                watches.slices = Some(watches.slices());
            }
            _ => watches.object = Some(watches.object()),
        }
        watches
    }

    /// Follows other pods from now on, if they are others. What is known of the former ones stands until then.
    fn follow_pods(&mut self, pods_of: Option<&PodsOf>) {
        if self.pods_of.as_ref() != pods_of {
            self.pods = pods_of.map(|of| self.pods(Some(of)));
            self.pods_of = pods_of.cloned();
        }
    }

    /// The named pod, or those of an object.
    fn pods(&self, of: Option<&PodsOf>) -> Events<PodFacts> {
        let which = Which {
            labels: of.map(|of| of.labels.clone()),
            name: of.is_none().then(|| self.name()),
            path: self.path(Kind::Pod),
        };
        let (question, service) = (self.question.clone(), of.and_then(|of| of.service.clone()));
        self.events(which, move |pod: Pod| {
            PodFacts::read(&question, service.as_deref(), &pod)
        })
    }

    fn object(&self) -> Events<ObjectFacts> {
        let kind = self.question.target.kind();
        let which = Which {
            path: self.path(kind),
            name: Some(self.name()),
            labels: None,
        };
        let question = self.question.clone();
        match kind {
            Kind::Service => self.events(which, move |service: Service| {
                ObjectFacts::of_service(&question, service)
            }),
            Kind::ReplicationController => {
                self.events(which, move |controller: ReplicationController| {
                    ObjectFacts::of_controller(&question, controller)
                })
            }
            _ => self.events(which, move |workload: Workload| {
                ObjectFacts::of_workload(&question, workload)
            }),
        }
    }

    fn slices(&self) -> Events<SliceFacts> {
        let which = Which {
            path: EndpointSlice::url_path(&(), Some(&self.question.namespace)),
            name: None,
            labels: Some(format!("{SERVICE_NAME}={}", self.name())),
        };
        let question = self.question.clone();
        self.events(which, move |slice: EndpointSlice| {
            SliceFacts::read(&question, slice)
        })
    }

    fn events<K, T>(
        &self,
        which: Which,
        read: impl Fn(K) -> Option<T> + Send + 'static,
    ) -> Events<T>
    where
        K: facts::Written,
        T: facts::Kept + Send + 'static,
    {
        events(self.client.clone(), which, self.refreshes.clone(), read)
    }

    fn path(&self, kind: Kind) -> String {
        facts::path(kind, &self.question.namespace)
    }

    fn name(&self) -> String {
        self.question.target.name().to_owned()
    }

    /// The next news of any of them. Cancel safe.
    async fn next(&mut self) -> News {
        poll_fn(|cx| {
            let object = poll(&mut self.object, cx).map(News::Object);
            let news = object.or_else(|| poll(&mut self.pods, cx).map(News::Pods));
            let news = news.or_else(|| poll(&mut self.slices, cx).map(News::Slices));
            news.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

fn poll<T>(events: &mut Option<Events<T>>, cx: &mut Context<'_>) -> Option<Event<T>> {
    match events.as_mut()?.poll_next_unpin(cx) {
        Poll::Ready(event) => event,
        Poll::Pending => None,
    }
}
