//! What a target leads to, as it changes: for a forward that runs for days.
//!
//! [`Cluster::follow`] lists what the target leads to once and watches it from then on; every [`View`] says all that
//! is known at a moment. `watching` keeps one watch going; `picture` makes views of what the watches bring, without
//! network or clock; `facts` is what is kept of an object; `backoff` says when to ask again after a failure.

use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::target::ports::RemotePort;
use super::target::{PodPort, PodRef, Target, TargetError};
use super::{Cluster, RequestError};

pub(crate) mod backoff;

/// A pod that a target leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Candidate {
    /// The pod. Its `uid` is known, unless a service's endpoints left it out.
    pub pod: PodRef,
    /// Whether it is ready for new connections: by the service's endpoints where there are any, else by its own word.
    /// Such a pod runs and does not terminate.
    pub ready: bool,
    /// Whether its phase is `Running`, also while it terminates.
    pub running: bool,
    /// Whether it is being deleted or has run to its end: what is open may go on, nothing new should begin.
    pub terminating: bool,
    /// For each port that was asked for, in the same order; an error, fit to show, is a port that this pod does not
    /// have.
    pub ports: Vec<Result<PodPort, String>>,
}

/// What is known at a moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Those that are ready first, those that terminate last, otherwise as kubectl prefers them; the order is stable.
    pub candidates: Vec<Arc<Candidate>>,
    /// Grows with every change.
    pub generation: u64,
    /// Why `candidates` may be wrong; none while all is well.
    pub trouble: Option<Trouble>,
    /// Whether the first answer is in: `candidates` is what the cluster has said, or `trouble` is
    /// [final](Trouble::is_final).
    pub settled: bool,
}

/// Why a [`View`] may be wrong. Shown as one line.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Trouble {
    /// The target leads nowhere and waiting won't change it: nothing of that name, no right to read it, no such port
    /// of a service. Should it come right nevertheless, a later view says so.
    #[error(transparent)]
    Target(Arc<TargetError>),
    /// What was followed has been deleted; if it is made again, it is followed again.
    #[error("{0} is deleted")]
    Deleted(String),
    /// The cluster can't be asked, or refuses; it is asked again, so this passes. What was known is kept.
    #[error(transparent)]
    Failing(Arc<RequestError>),
    /// There is no right to watch; the cluster is asked every 30 s and at [`Follower::refresh`].
    #[error("{0}; asking every 30 s instead of watching")]
    Unwatched(Arc<RequestError>),
}

impl Trouble {
    /// Whether a command that has just started should give up for it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Target(_))
    }
}

/// Follows a target until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Follower {
    views: watch::Receiver<Arc<View>>,
    /// Counts the calls of [`Follower::refresh`].
    refreshes: Arc<watch::Sender<u64>>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl Cluster {
    /// Begins to follow `target`: which pods it leads to, and the pods' `ports`. Sends nothing itself; must be called
    /// within a tokio runtime.
    ///
    /// # Errors
    ///
    /// Only [`TargetError::Usage`]; everything else is told by the views.
    pub fn follow(&self, target: &Target, ports: &[RemotePort]) -> Result<Follower, TargetError> {
        let namespace = target.namespace(self.namespace_flag(), self.namespace())?;
        Ok(Follower::start(self.client(), namespace, target, ports))
    }
}

impl Follower {
    fn start(client: Client, namespace: &str, target: &Target, ports: &[RemotePort]) -> Self {
        let (publish, views) = watch::channel(Arc::<View>::default());
        let (refreshes, asked) = watch::channel(0);
        let _ = (client, namespace, target, ports, asked);
        let task = tokio::spawn(async move { publish.closed().await });
        Self {
            views,
            refreshes: Arc::new(refreshes),
            _task: Arc::new(AbortOnDropHandle::new(task)),
        }
    }

    /// What is known now.
    pub fn view(&self) -> Arc<View> {
        self.views.borrow().clone()
    }

    /// The next view that this clone has not yet got from here; several changes may have become one. A new clone
    /// continues where its original was. Cancel safe.
    pub async fn changed(&mut self) -> Arc<View> {
        if self.views.changed().await.is_err() {
            // the task ends only with the last clone
            std::future::pending::<()>().await;
        }
        self.views.borrow_and_update().clone()
    }

    /// Says that the view looks wrong, or that the connections to the cluster may be dead: the cluster is asked again
    /// now, but no more than once a second.
    pub fn refresh(&self) {
        self.refreshes.send_modify(|count| *count += 1);
    }
}
