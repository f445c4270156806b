//! One pod, and the way to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::OnceCell;

use super::Options;
use crate::cluster::target::{Endpoint, PodRef};
use crate::dial::{Dialer, Error, PodStream, Route};

/// A pod that connections go to, or may go to.
pub(super) struct Backend {
    pub(super) pod: PodRef,
    /// For each port that is forwarded; an error says that this pod hasn't it.
    endpoints: Vec<Result<Endpoint, String>>,
    route: OnceCell<Route>,
    open: Arc<AtomicUsize>,
    /// New connections may go there.
    wanted: AtomicBool,
}

/// Counts a connection among those of its pod, until it is dropped.
pub struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Backend {
    pub(super) fn new(pod: PodRef, endpoints: Vec<Result<Endpoint, String>>) -> Self {
        Self {
            pod,
            endpoints,
            route: OnceCell::new(),
            open: Arc::default(),
            wanted: AtomicBool::new(true),
        }
    }

    /// Where the port with this index is, if connections may go there.
    pub(super) fn endpoint(&self, port: usize) -> Option<&Endpoint> {
        let endpoint = self.endpoints.get(port)?;
        endpoint.as_ref().ok().filter(|_| self.is_wanted())
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    pub(super) fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Relaxed);
    }

    /// Whether this is that pod; a name alone will do where a uid is not known.
    pub(super) fn is(&self, pod: &PodRef) -> bool {
        let same_uid = match (&self.pod.uid, &pod.uid) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        self.pod.name == pod.name && self.pod.namespace == pod.namespace && same_uid
    }

    /// The way to it, dialled once it is first asked for.
    pub(super) async fn route(&self, dialer: &Dialer, options: &Options) -> Result<&Route, Error> {
        let dial = || async {
            let endpoints = self.endpoints.iter().flatten().cloned();
            let endpoints: Vec<_> = endpoints.collect();
            let route = dialer.route(&self.pod, &endpoints, options.via, &options.exec);
            Ok(route.await?.pooled(dialer, &self.pod, options.limits))
        };
        self.route.get_or_try_init(dial).await
    }

    pub(super) async fn open(
        &self,
        dialer: &Dialer,
        options: &Options,
        endpoint: &Endpoint,
    ) -> Result<PodStream, Error> {
        self.route(dialer, options).await?.open(endpoint).await
    }

    /// The way to it, if it was dialled.
    pub(super) fn dialled(&self) -> Option<&Route> {
        self.route.get()
    }

    /// Its tunnels lead to what is no more.
    pub(super) fn distrust(&self) {
        if let Some(pool) = self.dialled().and_then(Route::pool) {
            pool.renew();
        }
    }

    pub(super) fn guard(&self) -> Guard {
        self.open.fetch_add(1, Ordering::Relaxed);
        Guard(self.open.clone())
    }

    /// Connections that are open.
    pub(super) fn load(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) async fn close(&self) {
        if let Some(route) = self.dialled() {
            route.clone().close().await;
        }
    }
}
