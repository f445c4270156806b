//! Tunnels to one pod, so many that its connections don't feel one another.
//!
//! The protocol has no flow control: on one tunnel a stream that nobody reads stops all others, at either end. So each
//! connection gets a tunnel of its own while there are few of them. One tunnel is dialled in advance, which makes a
//! new connection as cheap as on a shared one; idle tunnels are used again, and let go after a while. Past the bound
//! connections share the least loaded tunnel that is not stalled.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::{OpenError, Stream, Tunnel};

/// How long a tunnel may stand still before nobody new is put on it. A busy one pauses for moments.
const STALLED: Duration = Duration::from_millis(500);
/// How often those who wait for a stalled tunnel look again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How many tunnels, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tunnels at the same time, the one in advance included; at least 1.
    pub tunnels: usize,
    /// How long a tunnel may be idle beside another idle one.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // As many as a browser's and a database pool's connections together, and few for an API server.
            tunnels: 32,
            idle: Duration::from_secs(30),
        }
    }
}

/// Why a tunnel can't be dialled.
pub trait Failing: Send + Sync + 'static {}

impl<E: Send + Sync + 'static> Failing for E {}

type Dial<E> =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Result<Tunnel, E>> + Send>> + Send + Sync>;

/// The tunnels to one pod. Clones share them; they close with the last clone and the last lease.
pub struct Pool<E: Failing> {
    shared: Arc<Shared<E>>,
}

struct Shared<E: Failing> {
    state: Mutex<State<E>>,
    dial: Dial<E>,
    limits: Limits,
    /// Counts tunnels that have come and gone.
    changed: watch::Sender<Changes>,
}

/// What has become of a pool's tunnels so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Tunnels that are up.
    pub up: usize,
    /// Tunnels that were lost, not let go.
    pub lost: u64,
    /// Why the last one was lost.
    pub why: Option<String>,
}

struct State<E: Failing> {
    tunnels: Vec<Member>,
    next_id: u64,
    dialling: usize,
    waiting: VecDeque<oneshot::Sender<Result<Lease<E>, Arc<E>>>>,
    /// A task looks after idle tunnels.
    trimming: bool,
    /// A task looks after those who wait for stalled tunnels.
    looking: bool,
}

struct Member {
    id: u64,
    tunnel: Tunnel,
    leases: usize,
    idle_since: Instant,
}

impl Member {
    fn is_idle(&self) -> bool {
        self.leases == 0 && self.tunnel.is_clean()
    }

    fn is_stalled(&self, now: Instant) -> bool {
        self.stands_still(now, STALLED)
    }

    fn stands_still(&self, now: Instant, long: Duration) -> bool {
        let since = self.tunnel.standing_still_since();
        since.is_some_and(|since| now.saturating_duration_since(since) >= long)
    }
}

/// The right to open a stream on a tunnel of a pool. The tunnel counts as busy until it is dropped.
pub struct Lease<E: Failing> {
    pool: Weak<Shared<E>>,
    id: u64,
    tunnel: Tunnel,
}

impl<E: Failing> Lease<E> {
    /// Opens a stream to a port of the pod, as [`Tunnel::open`] does.
    ///
    /// # Errors
    /// The tunnel has ended meanwhile.
    pub fn open(&self, port: u16) -> Result<Stream, OpenError> {
        self.tunnel.open(port)
    }
}

impl<E: Failing> fmt::Debug for Lease<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).finish()
    }
}

impl<E: Failing> Drop for Lease<E> {
    fn drop(&mut self) {
        // Without a pool nobody else uses the tunnel.
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        let mut state = pool.lock();
        if let Some(at) = state.tunnels.iter().position(|it| it.id == self.id) {
            let member = &mut state.tunnels[at];
            member.leases -= 1;
            member.idle_since = Instant::now();
            if member.leases == 0 && !member.tunnel.is_clean() {
                state.tunnels.swap_remove(at);
                pool.tell(&state, None);
            }
        }
        pool.clone().serve(&mut state);
        pool.clone().trim_later(&mut state);
    }
}

impl<E: Failing> Clone for Pool<E> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<E: Failing> Pool<E> {
    /// A pool that begins with this tunnel and gets more by `dial`. Must be called in a tokio runtime.
    pub fn new<F, R>(first: Tunnel, dial: F, limits: Limits) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<Tunnel, E>> + Send + 'static,
    {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                tunnels: Vec::new(),
                next_id: 0,
                dialling: 0,
                waiting: VecDeque::new(),
                trimming: false,
                looking: false,
            }),
            dial: Box::new(move || Box::pin(dial())),
            limits,
            changed: watch::channel(Changes::default()).0,
        });
        let mut state = shared.lock();
        shared.admit(&mut state, first);
        drop(state);
        Self { shared }
    }

    /// A tunnel for one connection: an idle one, or a new one, or past the bound a shared one. Where all tunnels
    /// are stalled this waits. Cancel-safe.
    ///
    /// # Errors
    /// There is no tunnel, and none can be dialled: the reason, which all who wait share.
    pub async fn lease(&self) -> Result<Lease<E>, Arc<E>> {
        let leased = {
            let shared = &self.shared;
            let mut state = shared.lock();
            let (sender, leased) = oneshot::channel();
            state.waiting.push_back(sender);
            shared.serve(&mut state);
            leased
        };
        // A sender is dropped only with its pool, which `self` holds.
        leased.await.expect("the pool answers everybody")
    }

    /// What becomes of the tunnels.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Changes> {
        self.shared.changed.subscribe()
    }

    /// Lets go of all idle tunnels, and dials one anew where then none is left. For when they are not to be trusted.
    pub fn renew(&self) {
        let shared = &self.shared;
        let mut state = shared.lock();
        state.tunnels.retain(|member| member.leases > 0);
        shared.tell(&state, None);
        shared.dial_in_advance(&mut state);
    }

    /// Whether a tunnel has stood still for so long.
    #[must_use]
    pub fn stands_still(&self, long: Duration) -> bool {
        let now = Instant::now();
        let state = self.shared.lock();
        state.tunnels.iter().any(|it| it.stands_still(now, long))
    }

    /// Ends the tunnels that have stood still for so long, and their connections.
    pub fn abandon(&self, long: Duration) {
        let now = Instant::now();
        let still: Vec<_> = {
            let state = self.shared.lock();
            let still = state.tunnels.iter().filter(|it| it.stands_still(now, long));
            still.map(|it| it.tunnel.clone()).collect()
        };
        for tunnel in still {
            tokio::spawn(tunnel.close());
        }
    }

    /// Closes all tunnels. Takes a second at most.
    pub async fn close(&self) {
        let tunnels = std::mem::take(&mut self.shared.lock().tunnels);
        let closing = tunnels.into_iter().map(|member| member.tunnel.close());
        futures_util::future::join_all(closing).await;
    }
}

impl<E: Failing> Shared<E> {
    fn lock(&self) -> MutexGuard<'_, State<E>> {
        // Nothing in here is left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &State<E>, lost: Option<String>) {
        self.changed.send_if_modified(|changes| {
            let up = state.tunnels.len();
            let modified = changes.up != up || lost.is_some();
            changes.up = up;
            if lost.is_some() {
                changes.lost += 1;
                changes.why = lost;
            }
            modified
        });
    }

    /// Gives tunnels to those who wait, as far as there are any, and dials more where that is allowed.
    fn serve(self: &Arc<Self>, state: &mut State<E>) {
        let now = Instant::now();
        state.waiting.retain(|waiting| !waiting.is_closed());
        while !state.waiting.is_empty() {
            let Some(at) = self.choose(state, now) else {
                break;
            };
            let member = &mut state.tunnels[at];
            let lease = Lease {
                pool: Arc::downgrade(self),
                id: member.id,
                tunnel: member.tunnel.clone(),
            };
            member.leases += 1;
            let Some(waiting) = state.waiting.pop_front() else {
                break;
            };
            if let Err(Ok(mut unwanted)) = waiting.send(Ok(lease)) {
                member.leases -= 1;
                // Its drop is not to take the lock again.
                unwanted.pool = Weak::new();
            }
        }
        while state.dialling < state.waiting.len() && self.may_dial(state) {
            self.dial(state);
        }
        self.dial_in_advance(state);
        self.look_later(state);
    }

    /// The tunnel for the next connection; none where it is better to wait for one.
    fn choose(&self, state: &State<E>, now: Instant) -> Option<usize> {
        let members = || state.tunnels.iter().enumerate();
        // The one that was used last: the others may be let go the sooner.
        let idle = members()
            .filter(|(_, it)| it.is_idle())
            .max_by_key(|(_, it)| it.idle_since);
        if let Some((at, _)) = idle {
            return Some(at);
        }
        if state.dialling > 0 || self.may_dial(state) {
            return None;
        }
        members()
            .filter(|(_, it)| it.tunnel.is_clean() && !it.is_stalled(now))
            .min_by_key(|(_, it)| it.leases)
            .map(|(at, _)| at)
    }

    fn may_dial(&self, state: &State<E>) -> bool {
        state.tunnels.len() + state.dialling < self.limits.tunnels.max(1)
    }

    fn dial_in_advance(self: &Arc<Self>, state: &mut State<E>) {
        let none_idle = !state.tunnels.iter().any(Member::is_idle);
        if none_idle && state.dialling == 0 && self.may_dial(state) {
            self.dial(state);
        }
    }

    fn dial(self: &Arc<Self>, state: &mut State<E>) {
        state.dialling += 1;
        let dialled = (self.dial)();
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            let dialled = dialled.await;
            if let Some(pool) = pool.upgrade() {
                pool.dialled(dialled);
            }
        });
    }

    fn dialled(self: &Arc<Self>, dialled: Result<Tunnel, E>) {
        let mut state = self.lock();
        state.dialling -= 1;
        match dialled {
            Ok(tunnel) => self.admit(&mut state, tunnel),
            Err(error) if state.tunnels.is_empty() && state.dialling == 0 => {
                let error = Arc::new(error);
                for waiting in state.waiting.drain(..) {
                    let _ = waiting.send(Err(error.clone()));
                }
                return;
            }
            // Those who wait share what there is.
            Err(_) => {}
        }
        self.serve(&mut state);
    }

    fn admit(self: &Arc<Self>, state: &mut State<E>, tunnel: Tunnel) {
        let id = state.next_id;
        state.next_id += 1;
        let ended = tunnel.end();
        state.tunnels.push(Member {
            id,
            tunnel,
            leases: 0,
            idle_since: Instant::now(),
        });
        self.tell(state, None);
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            let lost = ended.await;
            if let Some(pool) = pool.upgrade() {
                pool.lost(id, &lost.to_string());
            }
        });
    }

    fn lost(self: &Arc<Self>, id: u64, why: &str) {
        let mut state = self.lock();
        let before = state.tunnels.len();
        state.tunnels.retain(|member| member.id != id);
        // One that was let go is no loss.
        if state.tunnels.len() < before {
            self.tell(&state, Some(why.to_owned()));
            // Whether to dial when nobody waits, the pool's owner decides.
            if !state.waiting.is_empty() {
                self.serve(&mut state);
            }
        }
    }

    fn trim(&self, state: &mut State<E>) -> Option<Instant> {
        let now = Instant::now();
        loop {
            let idle = || {
                state
                    .tunnels
                    .iter()
                    .enumerate()
                    .filter(|(_, it)| it.is_idle())
            };
            let (at, oldest) = idle().min_by_key(|(_, it)| it.idle_since)?;
            if idle().count() < 2 {
                return None;
            }
            let due = oldest.idle_since + self.limits.idle;
            if due > now {
                return Some(due);
            }
            state.tunnels.swap_remove(at);
            self.tell(state, None);
        }
    }

    fn trim_later(self: Arc<Self>, state: &mut State<E>) {
        if state.trimming {
            return;
        }
        let Some(mut due) = self.trim(state) else {
            return;
        };
        state.trimming = true;
        let pool = Arc::downgrade(&self);
        tokio::spawn(async move {
            loop {
                sleep_until(due).await;
                let Some(pool) = pool.upgrade() else {
                    return;
                };
                let mut state = pool.lock();
                match pool.trim(&mut state) {
                    Some(next) => due = next,
                    None => {
                        state.trimming = false;
                        return;
                    }
                }
            }
        });
    }

    /// Nobody tells when a tunnel moves again.
    fn look_later(self: &Arc<Self>, state: &mut State<E>) {
        if state.looking || state.waiting.is_empty() || state.dialling > 0 {
            return;
        }
        state.looking = true;
        let pool = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(LOOK_AGAIN).await;
            if let Some(pool) = pool.upgrade() {
                let mut state = pool.lock();
                state.looking = false;
                pool.serve(&mut state);
            }
        });
    }
}
