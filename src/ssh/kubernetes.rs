//! The clusters behind a gateway, and how one SSH connection reaches them: as its user, on connections of its own.
//!
//! Impersonation fails open: a request that lacks the headers is the gateway's own. So nothing here asks a cluster
//! anything but [`Reach`], and that can't be had without an [`Identity`], or else by a name that says what it does.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::access::Identity;
use super::name::Place;
use crate::cluster::target::ports::RemotePort;
use crate::cluster::target::{Endpoint, Kind, PodRef, Target, TargetError};
use crate::cluster::{self, Cluster, Impersonation, RequestError};
use crate::dial::{self, Dialer, Exec, Route, Transport, Via};
use crate::tunnel::pool::Limits;
use crate::untrusted::printable;

/// The key of the connection's id in the cluster's audit log: `kpf.dev/session`.
const SESSION: &str = "kpf.dev/session";
/// Tunnels of one connection to one pod. One that nobody reads stands still, so there are several; a browser opens six.
const TUNNELS: Limits = Limits {
    tunnels: 8,
    idle: Duration::from_secs(30),
};
/// Characters of a server's words.
const SHOWN: usize = 300;

/// The clusters of a gateway by their aliases. It reaches none of them by itself.
#[derive(Clone)]
pub struct Kubernetes(Arc<Shared>);

struct Shared {
    clusters: BTreeMap<String, Cluster>,
    transport: Transport,
    dial: Duration,
}

impl Kubernetes {
    /// The clusters, with the gateway's own credentials for each. `dial` is how long a pod is waited for, its requests included,
    /// and how long it may take to reach it then: somebody is sitting there.
    #[must_use]
    pub fn new(
        clusters: impl IntoIterator<Item = (String, Cluster)>,
        transport: Transport,
        dial: Duration,
    ) -> Self {
        Self(Arc::new(Shared {
            clusters: clusters.into_iter().collect(),
            transport,
            dial,
        }))
    }

    /// As a user, for one SSH connection with this id.
    ///
    /// # Errors
    /// The name of the user or of a group can't stand in a request.
    pub fn as_user(&self, identity: &Identity, session: &str) -> Result<Reach, cluster::Error> {
        let who = Impersonation {
            user: &identity.user,
            groups: &identity.groups,
            extra: &[(SESSION, session)],
        };
        self.reach(|cluster| cluster.impersonating(&who))
    }

    /// As whoever the gateway itself is, for one SSH connection. Only for a gateway of one person on their own machine:
    /// whoever logs in has all rights of the kubeconfig.
    #[must_use]
    pub fn unimpersonated(&self) -> Reach {
        let reach = self.reach(|cluster| Ok::<_, std::convert::Infallible>(cluster.apart()));
        let Ok(reach) = reach;
        reach
    }

    fn reach<E>(&self, own: impl Fn(&Cluster) -> Result<Cluster, E>) -> Result<Reach, E> {
        let dialers = self.0.clusters.iter().map(|(alias, cluster)| {
            let dialer = Dialer::new(own(cluster)?, self.0.transport);
            Ok((alias.clone(), dialer))
        });
        Ok(Reach {
            dialers: dialers.collect::<Result<_, _>>()?,
            seen: Mutex::default(),
            routes: Mutex::default(),
            dial: self.0.dial,
        })
    }
}

/// The clusters as one SSH connection reaches them. A pod that it has reached stays the same one as long as this is.
pub struct Reach {
    dialers: BTreeMap<String, Dialer>,
    /// What places led to.
    seen: Mutex<HashMap<String, PodRef>>,
    routes: Mutex<Routes>,
    dial: Duration,
}

/// By the cluster's alias and the pod; each is dialled once, by the first who needs it.
type Routes = HashMap<(String, PodRef), Arc<OnceCell<Route>>>;

/// A container that was found.
#[derive(Clone)]
pub struct Found {
    /// What reaches it.
    pub dialer: Dialer,
    /// Its pod; the uid is known.
    pub pod: PodRef,
    /// Its name.
    pub container: String,
    /// The pod's annotations: its owner's words.
    pub annotations: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Why a place can't be reached; fit to print.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It isn't there, or isn't for this user: who may not look is not to learn which.
    #[error("{0}: there is no such pod, or you may not reach it")]
    NoPod(String),
    /// The name of it leads to another pod than before in the same connection.
    #[error("{0}: the pod was replaced since this connection first reached it; log in again")]
    Replaced(String),
    /// What was asked for makes no sense for it, or the cluster has another reason.
    #[error("{place}: {reason}")]
    Other {
        /// Where.
        place: String,
        /// Why, as [`printable`] text.
        reason: String,
    },
}

impl Refusal {
    fn other(place: &Place, reason: impl std::fmt::Display) -> Self {
        Self::Other {
            place: place.to_string(),
            reason: printable(&reason.to_string(), SHOWN),
        }
    }

    fn of_target(place: &Place, error: TargetError) -> Self {
        match error {
            TargetError::NotFound { .. } => Self::NoPod(place.to_string()),
            TargetError::Request(error) if error.is_forbidden() || error.is_not_found() => {
                Self::NoPod(place.to_string())
            }
            // Who may not list pods learns nothing of what runs.
            error => Self::other(place, error),
        }
    }
}

impl Reach {
    /// What reaches the cluster of a place.
    ///
    /// # Errors
    /// There is no such cluster; the parser of places lets none through.
    pub fn dialer(&self, place: &Place) -> Result<&Dialer, Refusal> {
        let dialer = self.dialers.get(place.cluster());
        dialer.ok_or_else(|| Refusal::other(place, "there is no such cluster"))
    }

    /// What reaches a cluster by its alias.
    #[must_use]
    pub fn cluster(&self, alias: &str) -> Option<&Dialer> {
        self.dialers.get(alias)
    }

    /// Finds the container that a place names, in one request for a pod. Cancel-safe.
    ///
    /// # Errors
    /// It can't be found, or is another one than before.
    pub async fn container(&self, place: &Place) -> Result<Found, Refusal> {
        let dialer = self.dialer(place)?.clone();
        let known = self.known(place);
        // A place that leads to many pods leads to the same one of them as long as this connection is.
        let target = match &known {
            Some(pod) => Target::in_namespace(Kind::Pod, &pod.namespace, &pod.name),
            None => Ok(place.target().clone()),
        };
        let found = async {
            let cluster = dialer.cluster();
            cluster
                .resolve_container(&target?, place.container(), self.dial)
                .await
        };
        let found = found.await;
        let found = found.map_err(|error| Refusal::of_target(place, error))?;
        self.pin(place, &found.pod)?;
        Ok(Found {
            dialer,
            pod: found.pod,
            container: found.name,
            annotations: found.annotations,
            labels: found.labels,
        })
    }

    /// Finds the pod that a place names, and a port of it. A service's port is the one behind it. Cancel-safe.
    ///
    /// # Errors
    /// It can't be found, or is another one than before.
    pub async fn port(
        &self,
        place: &Place,
        port: NonZeroU16,
    ) -> Result<(PodRef, Endpoint), Refusal> {
        let cluster = self.dialer(place)?.cluster();
        let ports = [RemotePort::Number(port)];
        let found = cluster.resolve(place.target(), &ports, self.dial).await;
        let found = found.map_err(|error| Refusal::of_target(place, error))?;
        // Each connection to a service may have another pod.
        if place.kind() == Kind::Pod {
            self.pin(place, &found.pod)?;
        }
        let endpoint = found.ports.into_iter().next();
        let endpoint = endpoint.map_or(Endpoint::Port(port), |port| port.endpoint);
        Ok((found.pod, endpoint))
    }

    /// Makes sure that what was just dialled by its name is the pod that was found before. Cancel-safe.
    ///
    /// # Errors
    /// It isn't, or nobody knows.
    pub async fn confirm(&self, place: &Place, pod: &PodRef) -> Result<(), Refusal> {
        let cluster = self.dialer(place)?.cluster();
        let pods: Api<Pod> = Api::namespaced(cluster.client(), &pod.namespace);
        let present = timeout(self.dial, pods.get(&pod.name)).await;
        let present =
            present.map_err(|_| Refusal::other(place, "the API server does not answer"))?;
        let present = present.map_err(|error| match RequestError::from(error) {
            error if is_hidden(&error) => Refusal::NoPod(place.to_string()),
            error => Refusal::other(place, error),
        })?;
        match present.metadata.uid == pod.uid {
            true => Ok(()),
            false => Err(Refusal::Replaced(place.to_string())),
        }
    }

    /// Streams to the ports of a pod; made once for each.
    ///
    /// # Errors
    /// The cluster refuses, or can't be reached.
    pub async fn route(&self, place: &Place, pod: &PodRef) -> Result<Route, Refusal> {
        let dialer = self.dialer(place)?;
        let key = (place.cluster().to_owned(), pod.clone());
        let cell = {
            let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
            routes.entry(key).or_default().clone()
        };
        let route = cell.get_or_try_init(async || {
            let exec = Exec::default();
            let route = dialer.route(pod, &[], Via::PortForward, &exec).await?;
            Ok(route.pooled(dialer, pod, TUNNELS))
        });
        self.in_time(place, route).await.cloned()
    }

    /// Waits for a pod that is being dialled, for as long as that may take.
    ///
    /// # Errors
    /// It could not be dialled, or it took too long.
    pub async fn in_time<T>(
        &self,
        place: &Place,
        dialling: impl Future<Output = Result<T, dial::Error>>,
    ) -> Result<T, Refusal> {
        let Ok(dialled) = timeout(self.dial, dialling).await else {
            let limit = jiff::SignedDuration::try_from(self.dial).unwrap_or_default();
            return Err(Refusal::other(
                place,
                format_args!("the pod was not reached within {limit:#}"),
            ));
        };
        dialled.map_err(|error| Self::undialled(place, &error))
    }

    /// Why a pod that was found could not be dialled.
    fn undialled(place: &Place, error: &dial::Error) -> Refusal {
        match error.upgrade() {
            Some(answer) if answer.is_not_found() => Refusal::NoPod(place.to_string()),
            _ => Refusal::other(place, error),
        }
    }

    /// Asks whether the user may still reach what was reached.
    ///
    /// # Errors
    /// Not. A cluster that doesn't answer says nothing.
    pub async fn recheck(&self) -> Result<(), String> {
        let seen: Vec<(String, PodRef)> = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let places = seen.iter().map(|(pin, pod)| {
                let alias = pin.split('\n').next().unwrap_or_default();
                (alias.to_owned(), pod.clone())
            });
            places.collect()
        };
        for (alias, pod) in seen {
            let Some(dialer) = self.dialers.get(&alias) else {
                continue;
            };
            let may = async |what| may(dialer, &pod.namespace, &pod.name, what).await;
            // Either is enough to have come in; what was opened by the other goes on.
            if may("exec").await == Some(false) && may("portforward").await == Some(false) {
                let PodRef {
                    namespace, name, ..
                } = pod;
                return Err(format!(
                    "{name}.{namespace}: the role has no right to it any more"
                ));
            }
        }
        Ok(())
    }

    /// Waits until the commands that ended with their clients have been ended, a moment at most.
    pub async fn settle(&self) {
        for dialer in self.dialers.values() {
            dialer.settle().await;
        }
    }

    fn known(&self, place: &Place) -> Option<PodRef> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&pin_of(place)).cloned()
    }

    /// Notes which pod a place has led to.
    fn pin(&self, place: &Place, pod: &PodRef) -> Result<(), Refusal> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.entry(pin_of(place)).or_insert_with(|| pod.clone());
        match known.uid == pod.uid {
            true => Ok(()),
            false => Err(Refusal::Replaced(place.to_string())),
        }
    }
}

/// Whether the user may create a subresource of a pod, as far as the cluster says.
pub(super) async fn may(
    dialer: &Dialer,
    namespace: &str,
    pod: &str,
    subresource: &str,
) -> Option<bool> {
    let attributes = ResourceAttributes {
        namespace: Some(namespace.to_owned()),
        name: Some(pod.to_owned()),
        resource: Some("pods".to_owned()),
        subresource: Some(subresource.to_owned()),
        verb: Some("create".to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(dialer.cluster().client());
    let answer = reviews.create(&PostParams::default(), &review).await;
    Some(answer.ok()?.status?.allowed)
}

/// Whatever the login and the container, it is the same pod.
fn pin_of(place: &Place) -> String {
    format!("{}\n{}", place.cluster(), place.target())
}

/// Whether who asked is not to learn more than that there is nothing for them.
pub(super) fn is_hidden(error: &RequestError) -> bool {
    error.is_forbidden() || error.is_not_found()
}
