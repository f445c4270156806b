//! Connections to one target that outlive its pods.
//!
//! A [`Forwarder`] opens streams to the ports of a target: to a pod that is ready, on a tunnel that works. What becomes of
//! the pods it learns from [`crate::cluster::follow`], what becomes of the tunnels from their pools; a task of its own,
//! the supervisor, keeps one tunnel up to the pod that comes next. While there is none, new connections are held.
//!
//! | file | what it is |
//! |---|---|
//! | `backend` | one pod, and the way to it |
//! | `balance` | which pod is next, a pure function |
//! | `supervisor` | what happens when pods and tunnels come and go |
//! | `clock` | whether the machine was asleep |

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::follow::{Follower, View};
use crate::cluster::target::ports::RemotePort;
use crate::cluster::target::{Endpoint, PodRef, Resolved, Target};
use crate::dial::{self, Dialer, Exec, PodStream, Turning, Via};
use crate::tunnel::Failure;
use crate::tunnel::pool::Limits;
use backend::{Backend, Guard};

mod backend;
mod balance;
mod clock;
mod supervisor;

pub use balance::Balance;

/// How long a connection rests before it tries pods again that have just failed.
const BEFORE_TRYING_AGAIN: Duration = Duration::from_millis(250);

/// How a target is forwarded to.
#[derive(Clone, Debug)]
pub struct Options {
    /// How streams are made.
    pub via: Via,
    /// With which commands, where commands make them.
    pub exec: Exec,
    /// The tunnels to each pod.
    pub limits: Limits,
    /// How connections are spread over pods.
    pub balance: Balance,
    /// How long a connection waits for a pod and a tunnel to it.
    pub hold: Duration,
    /// Whether to go on when the pod or the connection is lost.
    pub reconnect: bool,
    /// How long to try to get a lost connection back; without end if none.
    pub give_up_after: Option<Duration>,
}

/// A change of state. Shown as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// There is no tunnel any more to the pod that connections go to.
    Lost {
        /// The pod.
        pod: String,
        /// Why.
        why: String,
    },
    /// The pod that connections went to is deleted, or not ready any more.
    Gone {
        /// The pod.
        pod: String,
    },
    /// Connections go somewhere again.
    Connected {
        /// To this pod.
        pod: String,
        /// After so long without any.
        after: Duration,
    },
    /// New connections go to another pod from now on; the old one is still there for the old ones.
    Moved {
        /// From this pod.
        from: String,
        /// To this pod.
        to: String,
    },
    /// It can't be got back yet; said once for each reason.
    Waiting {
        /// Why.
        why: String,
    },
    /// The machine was asleep.
    Resumed {
        /// For about so long.
        asleep: Duration,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { pod, why } => {
                write!(f, "lost connection to pod {pod} ({why}): reconnecting")
            }
            Self::Gone { pod } => write!(f, "pod {pod} is gone: waiting for another one"),
            Self::Connected { pod, after } => {
                write!(
                    f,
                    "connected to pod {pod} after {:.1} s",
                    after.as_secs_f64()
                )
            }
            Self::Moved { from, to } if from == to => {
                write!(
                    f,
                    "pod {to} was replaced: new connections go to its successor"
                )
            }
            Self::Moved { from, to } => {
                write!(f, "new connections go to pod {to}, no longer to {from}")
            }
            Self::Waiting { why } => write!(f, "still waiting: {why}"),
            Self::Resumed { asleep } => {
                write!(
                    f,
                    "the machine was asleep for {} s: checking connections",
                    asleep.as_secs()
                )
            }
        }
    }
}

/// Why there is no stream.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Dialling failed in a way that waiting won't change.
    #[error(transparent)]
    Dial(#[from] Arc<dial::Error>),
    /// No pod and no tunnel in time.
    #[error("no connection within {} s: {why}", .after.as_secs_f32())]
    Held {
        /// How long the connection was held.
        after: Duration,
        /// What is missing.
        why: String,
    },
    /// Reconnecting is not wanted.
    #[error("lost connection to pod: {0}")]
    Lost(String),
    /// Reconnecting took too long.
    #[error("gave up after {} s without a connection: {why}", .after.as_secs())]
    GaveUp {
        /// How long it was tried.
        after: Duration,
        /// The last failure.
        why: String,
    },
}

/// Opens streams to the ports of one target. Clones share everything; the last one closes it.
#[derive(Clone)]
pub struct Forwarder {
    shared: Arc<Shared>,
    supervisor: Arc<AbortOnDropHandle<()>>,
}

/// A stream, and the pod it leads to.
pub struct Connection {
    /// The far side of a splice.
    pub stream: PodStream,
    /// The pod's name.
    pub pod: String,
    /// Counts it among the pod's connections.
    pub guard: Guard,
}

struct Shared {
    dialer: Dialer,
    options: Options,
    /// Any pod will do, as long as it is ready.
    is_many: bool,
    follower: Follower,
    state: Mutex<State>,
    /// Something has changed for those who wait.
    changed: watch::Sender<()>,
    /// A stream has found its pod gone.
    doubts: Notify,
    events: mpsc::UnboundedSender<Event>,
    ended: watch::Sender<Option<Error>>,
}

struct State {
    view: Arc<View>,
    /// One for each pod that was dialled or is to be.
    backends: Vec<Arc<Backend>>,
    /// Where connections go, unless they are spread.
    current: Option<Arc<Backend>>,
    /// Connections so far, for taking turns.
    turn: usize,
    /// Why there may be nowhere to go.
    why: String,
}

impl Forwarder {
    /// Dials the pod that was found, and looks after the target from then on. Must be called in a tokio runtime. Dropping
    /// the future dials no more.
    ///
    /// # Errors
    /// There is no way to the pod. From then on failures are [`Event`]s, or the [end](Self::ended).
    pub async fn start(
        dialer: Dialer,
        target: &Target,
        remotes: &[RemotePort],
        resolved: &Resolved,
        options: Options,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Event>), dial::Error> {
        let endpoints = resolved.ports.iter().map(|port| Ok(port.endpoint.clone()));
        let backend = Backend::new(resolved.pod.clone(), endpoints.collect());
        backend.route(&dialer, &options).await?;
        let backend = Arc::new(backend);
        let follower = dialer.cluster().follow(target, remotes);
        let follower = follower.map_err(dial::Error::Container)?;
        let (events, received) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            dialer,
            options,
            is_many: target.leads_to_many(),
            follower: follower.clone(),
            state: Mutex::new(State {
                view: Arc::default(),
                backends: vec![backend.clone()],
                current: Some(backend),
                turn: 0,
                why: "there is no pod".to_owned(),
            }),
            changed: watch::channel(()).0,
            doubts: Notify::new(),
            events,
            ended: watch::channel(None).0,
        });
        let supervisor = tokio::spawn(supervisor::run(shared.clone(), follower));
        let forwarder = Self {
            shared,
            supervisor: Arc::new(AbortOnDropHandle::new(supervisor)),
        };
        Ok((forwarder, received))
    }

    /// Opens a stream to the port with this index. Waits for a pod and a tunnel, as long as connections may be held.
    /// Cancel-safe.
    ///
    /// # Errors
    /// None came in time, or none can come.
    pub async fn open(&self, port: usize) -> Result<Connection, Error> {
        let hold = self.shared.options.hold;
        let deadline = Instant::now() + hold;
        let mut failed = Vec::new();
        loop {
            let mut changed = self.shared.changed.subscribe();
            changed.mark_unchanged();
            if let Some(error) = self.shared.ended.borrow().clone() {
                return Err(error);
            }
            if let Some((backend, endpoint)) = self.shared.next(port, &failed) {
                let opened = backend.open(&self.shared.dialer, &self.shared.options, &endpoint);
                match timeout_at(deadline, opened).await {
                    Ok(Ok(stream)) => return Ok(self.connection(stream, &backend, port)),
                    Ok(Err(error)) => {
                        let is_final = !self.shared.options.reconnect || error.is_final();
                        self.shared.failed(&error);
                        if is_final {
                            return Err(Error::Dial(Arc::new(error)));
                        }
                        failed.push(backend);
                        continue;
                    }
                    Err(_) => {}
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = sleep(BEFORE_TRYING_AGAIN), if !failed.is_empty() => {}
                () = sleep_until(deadline) => {
                    let why = self.shared.lock().why.clone();
                    return Err(Error::Held { after: hold, why });
                }
            }
            failed.clear();
        }
    }

    fn connection(&self, stream: PodStream, backend: &Arc<Backend>, port: usize) -> Connection {
        let again = self.clone();
        let tried = backend.clone();
        // None of these has reached the container, or nothing was there to reach it: nothing is done twice.
        let stream = stream.or_else(move |failure, sent| match failure {
            Failure::Lost(_) | Failure::Cut(_) if !sent => {
                again.shared.options.reconnect.then(|| again.turning(port))
            }
            Failure::PodGone(_) => {
                again.shared.doubt(&tried);
                again.shared.options.reconnect.then(|| again.turning(port))
            }
            Failure::Refused(_) if again.shared.has_another(&tried) => {
                again.shared.avoid(&tried);
                Some(again.turning(port))
            }
            _ => None,
        });
        Connection {
            stream,
            pod: backend.pod.name.clone(),
            guard: backend.guard(),
        }
    }

    fn turning(self, port: usize) -> Turning {
        Box::pin(async move {
            match self.open(port).await {
                Ok(connection) => Ok(connection.stream),
                Err(error) => Err(dial::Error::Again(error.to_string())),
            }
        })
    }

    /// Says that a stream has failed in this way, which may tell something about its pod.
    pub fn report(&self, failure: &Failure) {
        if let Failure::PodGone(_) = failure {
            self.shared.doubts.notify_one();
        }
    }

    /// Waits until it can't go on, and tells why. Cancel-safe.
    pub async fn ended(&self) -> Error {
        let mut ended = self.shared.ended.subscribe();
        let error = ended.wait_for(Option::is_some).await;
        // The sender is ours.
        error
            .ok()
            .and_then(|error| error.clone())
            .unwrap_or_else(|| Error::Lost("it was closed".to_owned()))
    }

    /// Closes all tunnels. Takes a second at most.
    pub async fn close(self) {
        self.supervisor.abort();
        let backends = std::mem::take(&mut self.shared.lock().backends);
        let closing = backends.iter().map(|backend| backend.close());
        futures_util::future::join_all(closing).await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: Event) {
        tracing::info!(%event, "state changed");
        // Who doesn't listen doesn't mind.
        let _ = self.events.send(event);
    }

    /// The pod for a new connection, none where there is none that hasn't just failed it.
    fn next(&self, port: usize, failed: &[Arc<Backend>]) -> Option<(Arc<Backend>, Endpoint)> {
        let mut state = self.lock();
        let is_usable = |backend: &&Arc<Backend>| {
            backend.endpoint(port).is_some() && !failed.iter().any(|it| Arc::ptr_eq(it, backend))
        };
        let usable: Vec<_> = match (self.options.balance, &state.current) {
            (Balance::Sticky, Some(current)) if is_usable(&current) => vec![current.clone()],
            _ => state.backends.iter().filter(is_usable).cloned().collect(),
        };
        let loads: Vec<_> = usable.iter().map(|it| it.load()).collect();
        let at = balance::choose(self.options.balance, &loads, state.turn)?;
        state.turn = state.turn.wrapping_add(1);
        let backend = usable.into_iter().nth(at)?;
        let endpoint = backend.endpoint(port)?.clone();
        Some((backend, endpoint))
    }

    fn failed(&self, error: &dial::Error) {
        self.lock().why = error.to_string();
        // The supervisor sees from the pool what to do; the view may be old.
        if error
            .upgrade()
            .is_some_and(|answer| !answer.is_unreachable())
        {
            self.follower.refresh();
        }
    }

    /// A pod's runtime doesn't know it any more.
    fn doubt(&self, backend: &Arc<Backend>) {
        backend.distrust();
        self.doubts.notify_one();
    }

    fn has_another(&self, backend: &Arc<Backend>) -> bool {
        self.is_many
            && self
                .lock()
                .backends
                .iter()
                .any(|it| !Arc::ptr_eq(it, backend) && it.is_wanted())
    }

    /// The next connection goes to another pod.
    fn avoid(&self, backend: &Arc<Backend>) {
        let mut state = self.lock();
        let others = |it: &&Arc<Backend>| !Arc::ptr_eq(it, backend) && it.is_wanted();
        if state
            .current
            .as_ref()
            .is_some_and(|it| Arc::ptr_eq(it, backend))
        {
            let next = state.backends.iter().find(others).cloned();
            state.current = next.or_else(|| state.current.take());
        }
    }
}

/// The name that people know a pod by.
fn name(pod: &PodRef) -> String {
    pod.name.clone()
}
