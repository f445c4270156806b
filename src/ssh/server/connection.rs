//! One client's connection: its login, the tasks that serve its channels, and when it has to end.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use russh::keys::{Algorithm, Certificate, PublicKey};
use russh::server::Handle;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::channel::Opening;
use super::journal::{Journal, Meter};
use super::{Rules, Shared};
use crate::ssh::access::{Identity, Login, Refusal};
use crate::ssh::audit::recording::Recordings;
use crate::ssh::audit::{About, Kind, SessionId};
use crate::ssh::config::Limits;
use crate::ssh::door::{Admitted, Limit, Permit};
use crate::ssh::kubernetes::Reach;
use crate::ssh::metrics::Metrics;
use crate::ssh::name::{Clusters, Destination, NameError, Place};
use crate::ssh::policy::Grant;
use crate::ssh::request::Request;
use crate::ssh::spool::{self, Reader, Valve, Writer};
use crate::ssh::way::Ways;
use crate::ssh::{jump, relayed, session};
/// How often the clock is looked at for the end of a credential.
const CLOCK: Duration = Duration::from_secs(30);
/// Before the end of a connection terminals are told so.
const WARNINGS: [Duration; 2] = [Duration::from_secs(600), Duration::from_secs(60)];
/// How long is between being told that nothing is allowed any more, and the end.
const NOTICE: Duration = Duration::from_secs(60);

/// How long a client may take to leave once its last channel is closed.
const LEAVING: Duration = Duration::from_secs(1);

/// One connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    /// Names it in the cluster's audit log and in ours.
    id: SessionId,
    source: SocketAddr,
    permit: Permit,
    pub(super) journal: Journal,
    user: OnceLock<Arc<User>>,
    /// The connection is closed.
    pub(super) gone: CancellationToken,
    /// Somebody has logged in.
    in_time: CancellationToken,
    /// An auditor or the log wants its end.
    condemned: CancellationToken,
    /// Channels that are served.
    channels: watch::Sender<usize>,
    /// Bytes of all channels.
    total: Arc<AtomicU64>,
    failures: AtomicUsize,
    begun: Instant,
    /// Of its stream.
    pub(super) valve: Valve,
}

/// Somebody who has logged in, on one connection.
pub struct User {
    /// What it was let in by, and as whom.
    pub login: Login,
    /// Where it wants to go, as it was sent.
    pub name: String,
    /// The same, understood.
    pub destination: Result<Destination, NameError>,
    /// The clusters, as they are reached for it.
    pub reach: Reach,
    /// The clusters that it may name.
    pub clusters: Clusters,
    /// What is said to all of its terminals.
    pub notices: broadcast::Sender<String>,
    /// The connection's events.
    pub journal: Journal,
    /// Where its terminals are recorded.
    pub recordings: Option<Recordings>,
    /// What is counted.
    pub metrics: Metrics,
    /// How its sessions get into their pod.
    pub ways: Ways,
    rules: Arc<Rules>,
}

impl User {
    /// What it may do at a place; none for nothing.
    #[must_use]
    pub fn grant(&self, place: &Place) -> Option<Grant> {
        let verdict = self.rules.policy.decide(&self.login.identity, place);
        verdict.grant.map(std::borrow::Cow::into_owned)
    }

    /// The same in words, for itself.
    #[must_use]
    pub fn explain(&self, place: &Place) -> String {
        let verdict = self.rules.policy.decide(&self.login.identity, place);
        verdict.to_string()
    }
}

/// Why a connection ends, as its client is told.
pub(super) type Farewell = String;

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, admitted: &Admitted, gone: CancellationToken) -> Self {
        let id = SessionId::random();
        let about = About {
            session: Some(id),
            connection: Some(shared.number.fetch_add(1, Ordering::Relaxed)),
            source: Some(admitted.source),
            ..About::default()
        };
        let condemned = CancellationToken::new();
        Self {
            journal: Journal::new(shared.audit.clone(), about, condemned.clone()),
            id,
            source: admitted.source,
            permit: admitted.permit.clone(),
            user: OnceLock::new(),
            gone,
            in_time: CancellationToken::new(),
            condemned,
            channels: watch::Sender::new(0),
            total: Arc::default(),
            failures: AtomicUsize::new(0),
            begun: Instant::now(),
            valve: Valve::default(),
            shared,
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Whether it is worth a signature.
    pub(super) async fn may_offer(&self, key: &PublicKey, algorithm: &Algorithm) -> bool {
        let rules = self.shared.rules();
        // `ssh-rsa` as a signature is SHA-1.
        let is_sha1 = matches!(algorithm, Algorithm::Rsa { hash: None });
        !is_sha1 && self.shared.own.has(key)
            || rules.access.is_worth_a_signature(key, algorithm).await
    }

    /// Who has this key, which was proven.
    pub(super) async fn key(&self, key: &PublicKey) -> Result<Login, Refusal> {
        match self.shared.own.login(key) {
            Some(login) => Ok(login),
            None => {
                let rules = self.shared.rules();
                let (source, now) = (self.source.ip(), SystemTime::now());
                rules.access.key(key, source, now).await
            }
        }
    }

    /// Who has this certificate's key, which was proven.
    pub(super) fn certificate(&self, certificate: &Certificate) -> Result<Login, Refusal> {
        let (source, now) = (self.source.ip(), SystemTime::now());
        self.shared
            .rules()
            .access
            .certificate(certificate, source, now)
    }

    /// Makes somebody of a login. Whoever is refused is told nothing of why.
    pub(super) fn log_in(
        &self,
        name: &str,
        fingerprint: &str,
        login: Result<Login, Refusal>,
    ) -> Option<Arc<User>> {
        let refused = |reason: String| {
            self.permit.auth_failed();
            self.failures.fetch_add(1, Ordering::Relaxed);
            self.shared.metrics.auth("publickey", "fail");
            self.journal.note(Kind::AuthFail {
                method: "publickey".to_owned(),
                fp: Some(fingerprint.to_owned()),
                name: name.to_owned(),
                reason,
            });
        };
        let login = login.map_err(|refusal| refused(refusal.to_string())).ok()?;
        let reach = self.shared.reach(&login.identity, &self.id.to_string());
        let reach = reach.map_err(|error| refused(error.to_string())).ok()?;
        let journal = self.journal.about(|about| {
            about.login = Some(Arc::new(login.clone()));
        });
        let quota = self.shared.quota(&login.identity);
        Some(Arc::new(User {
            destination: Destination::from_user(name, &self.shared.clusters),
            name: name.to_owned(),
            login,
            reach,
            clusters: self.shared.clusters.clone(),
            notices: broadcast::Sender::new(4),
            journal,
            recordings: self.shared.recordings.clone(),
            metrics: self.shared.metrics.clone(),
            ways: Ways::new(
                self.shared.relay.clone(),
                self.shared.spool.clone(),
                quota,
                self.id.to_string(),
            ),
            rules: self.shared.rules(),
        }))
    }

    /// The login has succeeded: the connection's time is no longer short.
    pub(super) fn logged_in(self: &Arc<Self>, handle: Handle, user: Arc<User>) {
        self.shared.metrics.auth("publickey", "ok");
        self.shared.metrics.logged_in(self.begun.elapsed());
        user.journal.note(Kind::AuthOk {
            name: user.name.clone(),
        });
        let admitted = self.permit.authenticated(&user.login.identity.user);
        if let Err(limit) = admitted {
            user.journal.note(Kind::LimitHit {
                limit: limit.name(),
                count: 1,
            });
            self.shared.metrics.limit_hit(limit);
            if limit == Limit::PerUser {
                self.condemned.cancel();
            }
        }
        let _ = self.user.set(user);
        self.in_time.cancel();
        let connection = self.clone();
        self.shared.tasks.spawn(async move {
            let Limits {
                keepalive,
                keepalive_misses,
                ..
            } = connection.limits();
            tokio::select! {
                () = connection.gone.cancelled() => {}
                () = connection.silence(&handle, *keepalive, *keepalive * *keepalive_misses) => {
                    connection.permit.switch().kill();
                    connection.valve.sever();
                }
            }
        });
    }

    /// Waits until the connection has to end, for whatever reason but its own.
    pub(super) async fn end(&self) -> Farewell {
        let stopped = async {
            self.shared.stop.cancelled().await;
            // What runs may go on for a while.
            tokio::select! {
                // Who leaves by itself has read its exit code; a DISCONNECT behind it would hide that.
                () = self.without_channels() => sleep(LEAVING).await,
                () = self.shared.close.cancelled() => {}
            }
        };
        tokio::select! {
            () = stopped => "the gateway is being stopped".to_owned(),
            () = self.condemned.cancelled() => "this connection was ended by the gateway".to_owned(),
            () = self.journal.failed() => "the gateway can't write its log, so no session may go on".to_owned(),
            farewell = self.end_of_user() => farewell,
        }
    }

    async fn end_of_user(&self) -> Farewell {
        self.in_time.cancelled().await;
        let Some(user) = self.user.get() else {
            return std::future::pending().await;
        };
        let Limits {
            session,
            idle,
            unused,
            ..
        } = self.limits();
        tokio::select! {
            () = expiry(user.login.expires) => "your credential has expired: log in again".to_owned(),
            limit = wall_clock(*session, &user.notices) => format!("session limit ({limit}) reached"),
            () = self.unused(*unused) => "nothing was open on this connection".to_owned(),
            () = self.idle(*idle) => "nothing has happened on this connection for too long".to_owned(),
            reason = self.recheck(user) => reason,
        }
    }

    /// Asks now and then whether the login would still be let in.
    async fn recheck(&self, user: &User) -> Farewell {
        loop {
            sleep(self.limits().recheck).await;
            let now = SystemTime::now();
            let verdict = match self.shared.own.is_empty() {
                true => self.shared.rules().access.recheck(&user.login, now),
                false => Ok(()),
            };
            let refused = match verdict {
                Ok(()) => user.reach.recheck().await,
                Err(refusal) => Err(refusal.to_string()),
            };
            self.shared.metrics.recheck(match &refused {
                Ok(()) => "ok",
                Err(_) => "fail",
            });
            user.journal.note(Kind::AuthzRecheck {
                allowed: refused.is_ok(),
                reason: refused.as_ref().err().cloned(),
            });
            if refused.is_err() {
                let text = "you may not be here any more: this session ends in a minute";
                let _ = user.notices.send(text.to_owned());
                sleep(NOTICE).await;
                return "you may not be here any more".to_owned();
            }
        }
    }

    async fn without_channels(&self) {
        let mut channels = self.channels.subscribe();
        // The sender is in self.
        let _ = channels.wait_for(|count| *count == 0).await;
    }

    async fn unused(&self, limit: Option<Duration>) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        let mut channels = self.channels.subscribe();
        loop {
            let _ = channels.wait_for(|count| *count == 0).await;
            if timeout(limit, channels.wait_for(|count| *count > 0))
                .await
                .is_err()
            {
                return;
            }
        }
    }

    async fn idle(&self, limit: Option<Duration>) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        let (mut seen, mut since) = (0, Instant::now());
        loop {
            sleep(limit / 10).await;
            let total = self.total.load(Ordering::Relaxed);
            if total != seen {
                (seen, since) = (total, Instant::now());
            } else if since.elapsed() >= limit {
                return;
            }
        }
    }

    /// A queue for what comes in on a channel.
    pub(super) fn queue(&self, user: &Identity) -> (Writer, Reader) {
        spool::queue_behind(&self.shared.spool, &self.shared.quota(user), &self.valve)
    }

    /// Counts what goes through a channel.
    pub(super) fn meter(&self, user: &User, number: u32, gone: CancellationToken) -> Meter {
        let journal = user.journal.of_channel(number, gone);
        Meter::new(journal, self.total.clone())
    }

    /// Serves a session channel.
    pub(super) fn session(
        self: &Arc<Self>,
        user: Arc<User>,
        opening: Opening,
        requests: mpsc::Receiver<Request>,
    ) {
        let limits = self.limits().clone();
        self.serve(async move { session::serve(user, opening, requests, &limits).await });
    }

    /// Serves a channel to a port of some host.
    pub(super) fn jump(
        self: &Arc<Self>,
        user: Arc<User>,
        opening: Opening,
        host: String,
        port: NonZeroU16,
        from: (String, u32),
    ) {
        self.serve(async move { jump::serve(&user, opening, &host, port, from).await });
    }

    /// Serves a channel to a socket of the pod.
    pub(super) fn socket(self: &Arc<Self>, user: Arc<User>, opening: Opening, path: String) {
        self.serve(async move { relayed::socket(&user, opening, path).await });
    }

    /// Ends when the client has not answered for too long. russh's own keepalive would begin before the login, where it ends
    /// OpenSSH clients, and has no call to send one. So this is the cancellation of a forward that never was, which every
    /// client refuses (RFC 4254 §7.1: only servers forward): any answer will do.
    async fn silence(&self, handle: &Handle, interval: Duration, limit: Duration) {
        loop {
            sleep(interval).await;
            let answer = handle.cancel_forward_tcpip(String::new(), 0);
            let answer = self.valve.awaiting(timeout(limit, answer)).await;
            if answer.is_err() {
                return;
            }
        }
    }

    fn serve(self: &Arc<Self>, serving: impl Future<Output = ()> + Send + 'static) {
        self.channels.send_modify(|count| *count += 1);
        let connection = self.clone();
        self.shared.tasks.spawn(async move {
            serving.await;
            connection.channels.send_modify(|count| *count -= 1);
        });
    }
}

async fn expiry(at: Option<SystemTime>) {
    let Some(at) = at else {
        return std::future::pending().await;
    };
    // The clock may be set meanwhile: it is looked at now and then.
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        sleep(left.min(CLOCK)).await;
    }
}

/// Ends after so long, having told terminals before; returns the limit in words.
async fn wall_clock(limit: Option<Duration>, notices: &broadcast::Sender<String>) -> String {
    let Some(limit) = limit else {
        return std::future::pending().await;
    };
    let end = Instant::now() + limit;
    for warning in WARNINGS.into_iter().filter(|warning| *warning < limit) {
        sleep_until(end - warning).await;
        let minutes = warning.as_secs() / 60;
        let _ = notices.send(format!(
            "this session ends in {minutes} min: it has a limit"
        ));
    }
    sleep_until(end).await;
    let limit = jiff::SignedDuration::try_from(limit).unwrap_or_default();
    format!("{limit:#}")
}
