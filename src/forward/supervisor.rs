//! What happens when pods and tunnels come and go.
//!
//! The cluster's view decides which pods connections may go to. The pod that comes next always has a tunnel up; when that
//! is lost it is dialled again, with growing, jittered pauses, until it is up or the view says that the pod is gone.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, interval, sleep, sleep_until, timeout};

use super::backend::Backend;
use super::clock::Clock;
use super::{Error, Event, Shared, name};
use crate::cluster::follow::backoff::{Backoff, Random};
use crate::cluster::follow::{Candidate, Follower, View};
use crate::dial;

/// How often the clocks are compared, and tunnels that stand still are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long a tunnel may stand still before the network is asked whether it is still there. Being held back by a
/// container is no sign of death, so the tunnel itself can't be asked.
const STANDING_STILL: Duration = Duration::from_secs(8);
/// How long the API server may take to answer that.
const ANSWER: Duration = Duration::from_secs(8);

/// Runs until the forwarder can't go on.
pub(super) async fn run(shared: Arc<Shared>, follower: Follower) {
    let supervisor = Supervisor {
        outage: None,
        backoff: Backoff::new(Random::new()),
        clock: Clock::new(SystemTime::now(), Instant::now()),
        shared,
        follower,
    };
    let error = supervisor.run().await;
    let shared = error.1;
    shared.ended.send_replace(Some(error.0));
    shared.changed.send_replace(());
}

struct Supervisor {
    shared: Arc<Shared>,
    follower: Follower,
    outage: Option<Outage>,
    backoff: Backoff,
    clock: Clock,
}

/// The time since there was a tunnel to the pod that comes next.
struct Outage {
    since: Instant,
    /// When to dial again.
    retry_at: Instant,
    /// What was said last.
    said: Option<String>,
}

impl Supervisor {
    async fn run(mut self) -> (Error, Arc<Shared>) {
        let mut look = interval(LOOK);
        let shared = self.shared.clone();
        loop {
            let current = shared.lock().current.clone();
            let give_up = self.give_up_at();
            let step = tokio::select! {
                view = self.follower.changed() => self.take_in(&view),
                why = lost(current.as_deref()), if self.outage.is_none() => self.lost(current, &why),
                () = dial_at(self.outage.as_ref()) => self.dial(current).await,
                () = shared.doubts.notified() => {
                    self.follower.refresh();
                    Ok(())
                }
                _ = look.tick() => {
                    self.look().await;
                    Ok(())
                }
                () = sleep_until_some(give_up) => self.give_up(),
            };
            if let Err(error) = step {
                return (error, shared);
            }
        }
    }

    /// What the cluster says decides where new connections go.
    fn take_in(&mut self, view: &Arc<View>) -> Result<(), Error> {
        let mut state = self.shared.lock();
        state.view = view.clone();
        if let Some(trouble) = &view.trouble {
            state.why = trouble.to_string();
            tracing::info!(%trouble, "the view of the pods may be old");
        }
        if !view.settled || view.trouble.as_ref().is_some_and(|it| it.is_final()) {
            // What was resolved at the start is all that is known.
            return Ok(());
        }
        let before = state.current.clone();
        let is_many = self.shared.is_many;
        // A pod that was asked for by name need not be ready; of others, one that isn't is kept rather than none.
        let ready = |it: &&Arc<Candidate>| it.ready || !is_many && it.running && !it.terminating;
        let mut wanted: Vec<_> = view.candidates.iter().filter(ready).collect();
        if wanted.is_empty()
            && let Some(current) = &before
        {
            let kept = |it: &&Arc<Candidate>| current.is(&it.pod) && it.running && !it.terminating;
            wanted.extend(view.candidates.iter().find(kept));
        }
        let backends: Vec<_> = wanted
            .iter()
            .map(|candidate| {
                let known = state.backends.iter().find(|it| it.is(&candidate.pod));
                known.cloned().unwrap_or_else(|| Arc::new(of(candidate)))
            })
            .collect();
        for backend in &state.backends {
            backend.want(backends.iter().any(|it| Arc::ptr_eq(it, backend)));
        }
        let stays = before
            .as_ref()
            .is_some_and(|before| backends.iter().any(|it| Arc::ptr_eq(it, before)));
        if !stays {
            state.current = backends.first().cloned();
        }
        if state.current.is_none() {
            state.why = match (&view.trouble, view.candidates.is_empty()) {
                (Some(trouble), _) => trouble.to_string(),
                (None, true) => "there is no pod".to_owned(),
                (None, false) => "no pod is ready".to_owned(),
            };
        }
        let after = state.current.clone();
        state.backends = backends;
        drop(state);
        self.shared.changed.send_replace(());
        match (before, after) {
            (Some(before), Some(after)) if !Arc::ptr_eq(&before, &after) => {
                self.shared.tell(Event::Moved {
                    from: name(&before.pod),
                    to: name(&after.pod),
                });
                self.reconnects("its pod is gone")?;
                self.outage(Instant::now());
            }
            (Some(before), None) => {
                self.shared.tell(Event::Gone {
                    pod: name(&before.pod),
                });
                self.reconnects("its pod is gone")?;
                self.outage(Instant::now());
            }
            (None, Some(_)) => {
                self.backoff.reset();
                let now = Instant::now();
                self.outage(now).retry_at = now;
            }
            _ => {}
        }
        Ok(())
    }

    fn reconnects(&self, why: &str) -> Result<(), Error> {
        match self.shared.options.reconnect {
            true => Ok(()),
            false => Err(Error::Lost(why.to_owned())),
        }
    }

    fn outage(&mut self, retry_at: Instant) -> &mut Outage {
        self.outage.get_or_insert_with(|| Outage {
            since: Instant::now(),
            retry_at,
            said: None,
        })
    }

    fn lost(&mut self, current: Option<Arc<Backend>>, why: &str) -> Result<(), Error> {
        let Some(current) = current else {
            return Ok(());
        };
        self.reconnects(why)?;
        self.shared.tell(Event::Lost {
            pod: name(&current.pod),
            why: why.to_owned(),
        });
        self.shared.lock().why = why.to_owned();
        self.follower.refresh();
        self.outage(Instant::now());
        Ok(())
    }

    /// Tries to get a tunnel to the pod that comes next.
    async fn dial(&mut self, current: Option<Arc<Backend>>) -> Result<(), Error> {
        let now = Instant::now();
        let Some(current) = current else {
            // The view brings a pod.
            self.outage(now).retry_at = now + Duration::from_secs(3600);
            return Ok(());
        };
        let (dialer, options) = (&self.shared.dialer, &self.shared.options);
        let dialled = async {
            let route = current.route(dialer, options).await?;
            match route.pool() {
                Some(pool) => pool.lease().await.map(drop).map_err(dial::Error::Shared),
                None => Ok(()),
            }
        };
        let dialled = tokio::select! {
            dialled = dialled => dialled,
            // Another pod may be the better one meanwhile.
            view = self.follower.changed() => return self.take_in(&view),
        };
        match dialled {
            Ok(()) => {
                self.backoff.reset();
                if let Some(outage) = self.outage.take() {
                    self.shared.tell(Event::Connected {
                        pod: name(&current.pod),
                        after: outage.since.elapsed(),
                    });
                }
                self.shared.changed.send_replace(());
            }
            Err(error) => {
                let why = error.to_string();
                self.shared.failed(&error);
                let pause = self.backoff.after_failure();
                let outage = self.outage(now);
                outage.retry_at = Instant::now() + pause;
                if outage.said.as_ref() != Some(&why) {
                    outage.said = Some(why.clone());
                    self.shared.tell(Event::Waiting { why });
                }
            }
        }
        Ok(())
    }

    /// Whether the machine was asleep, and whether a network is still there that takes nothing.
    async fn look(&mut self) {
        if let Some(asleep) = self.clock.look(SystemTime::now(), Instant::now()) {
            self.shared.tell(Event::Resumed { asleep });
            self.follower.refresh();
            let backends = self.shared.lock().backends.clone();
            for backend in backends {
                backend.distrust();
            }
        }
        let still: Vec<_> = self.shared.lock().backends.clone();
        let pools = still.iter().filter_map(|it| it.dialled()?.pool());
        let pools: Vec<_> = pools.filter(|it| it.stands_still(STANDING_STILL)).collect();
        if pools.is_empty() {
            return;
        }
        let client = self.shared.dialer.cluster().client();
        let answers = timeout(ANSWER, client.apiserver_version()).await;
        // Whatever it says, it is there.
        let silent = match answers {
            Err(_) => true,
            Ok(Ok(_) | Err(kube::Error::Api(_))) => false,
            Ok(Err(_)) => true,
        };
        if silent {
            for pool in pools {
                pool.abandon(STANDING_STILL);
            }
        }
    }

    fn give_up_at(&self) -> Option<Instant> {
        let after = self.shared.options.give_up_after?;
        Some(self.outage.as_ref()?.since + after)
    }

    fn give_up(&self) -> Result<(), Error> {
        Err(Error::GaveUp {
            after: self.shared.options.give_up_after.unwrap_or_default(),
            why: self.shared.lock().why.clone(),
        })
    }
}

fn of(candidate: &Candidate) -> Backend {
    let endpoints = candidate.ports.iter().map(|port| match port {
        Ok(port) => Ok(port.endpoint.clone()),
        Err(error) => Err(error.clone()),
    });
    Backend::new(candidate.pod.clone(), endpoints.collect())
}

/// Ready when a pod's last tunnel is lost.
async fn lost(current: Option<&Backend>) -> String {
    let Some(pool) = current.and_then(|it| it.dialled()?.pool()) else {
        return pending().await;
    };
    let mut changes = pool.changes();
    let why = changes.wait_for(|it| it.up == 0).await;
    let why = why.map(|changes| changes.why.clone());
    match why {
        Ok(why) => why.unwrap_or_else(|| "it was closed".to_owned()),
        // The pool is held.
        Err(_) => pending().await,
    }
}

async fn dial_at(outage: Option<&Outage>) {
    match outage {
        Some(outage) => sleep_until(outage.retry_at).await,
        None => pending().await,
    }
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep(at.saturating_duration_since(Instant::now())).await,
        None => pending().await,
    }
}
