//! The SSH engine, behind a seam: nothing outside of this folder knows russh's server.
//!
//! russh runs one task for each connection, and calls `handler` on it. That task must never wait for a backend, or all
//! channels of the connection do: data goes into a queue per channel, requests into another, and each channel has a
//! task of its own that serves it.
//!
//! | file | what it is |
//! |---|---|
//! | `config` | what is offered to clients, and why |
//! | `handler` | russh's callbacks |
//! | `connection` | a login, what serves its channels, and when it ends |
//! | `channel` | a channel as backends see it |
//! | `journal` | what is written down about them |

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use russh::keys::{Certificate, PrivateKey};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{Access, Identity};
use super::audit::recording::Recordings;
use super::audit::{Audit, Kind};
use super::config::Limits;
use super::door::{Admitted, Door};
use super::kubernetes::{Kubernetes, Reach};
use super::laptop::Keys;
use super::metrics::Metrics;
use super::name::Clusters;
use super::policy::Policy;
use super::spool;
use super::way::Logins;
use connection::Connection;

mod channel;
mod config;
mod connection;
mod handler;
mod journal;

pub use channel::{Channel, Opening, Output, Refused, Relayed};
pub use connection::User;
pub use journal::{Journal, Meter};

/// How long connections may take to end once they were told to.
const FAREWELL: Duration = Duration::from_secs(2);
/// For commands to be ended that were left behind, after that.
const SETTLING: Duration = Duration::from_secs(3);

/// Whose rights are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acting {
    /// Each user's own, by impersonation.
    AsUsers,
    /// The kubeconfig's, whoever logs in: for one person's own machine.
    AsTheKubeconfigSays,
}

/// What a gateway is made of.
pub struct Setup {
    /// Its own keys, at least one.
    pub host_keys: Vec<PrivateKey>,
    /// Certificates of these.
    pub host_certificates: Vec<Certificate>,
    /// Keys of the person whose machine this is; none on any other.
    pub own: Keys,
    /// Who may log in, and do what.
    pub rules: Rules,
    /// What its clusters are called.
    pub clusters: Clusters,
    /// What reaches them.
    pub kubernetes: Kubernetes,
    /// Whose rights are used.
    pub acting: Acting,
    /// What holds back what clients send faster than pods take it.
    pub spool: spool::Limits,
    /// Bytes of all files of that for one user.
    pub spool_per_user: u64,
    /// What it logs in to the SSH servers of pods with; none where it can't.
    pub relay: Option<Logins>,
    /// How much of everything.
    pub limits: Limits,
    /// Where events go.
    pub audit: Option<Audit>,
    /// Where terminals are recorded.
    pub recordings: Option<Recordings>,
    /// What is counted.
    pub metrics: Metrics,
    /// How long sessions may go on once the gateway was told to end.
    pub drain: Duration,
}

/// Who may log in, and what they may do then: what can be read anew while a gateway runs.
pub struct Rules {
    /// Who may log in.
    pub access: Access,
    /// What they may do.
    pub policy: Policy,
}

/// A gateway. Clones are the same one.
#[derive(Clone)]
pub struct Gateway {
    config: Arc<russh::server::Config>,
    shared: Arc<Shared>,
    drain: Duration,
}

struct Shared {
    own: Keys,
    rules: RwLock<Arc<Rules>>,
    spool: spool::Limits,
    spool_per_user: u64,
    /// By user, over all of their connections.
    quotas: Mutex<HashMap<String, spool::Quota>>,
    clusters: Clusters,
    kubernetes: Kubernetes,
    acting: Acting,
    relay: Option<Arc<Logins>>,
    limits: Limits,
    audit: Option<Audit>,
    recordings: Option<Recordings>,
    metrics: Metrics,
    /// Of the next connection.
    number: AtomicU64,
    /// Nothing new is begun.
    stop: CancellationToken,
    /// What is there ends.
    close: CancellationToken,
    /// Everything that is done for connections.
    tasks: TaskTracker,
}

impl Shared {
    fn rules(&self) -> Arc<Rules> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        rules.clone()
    }

    fn reach(&self, identity: &Identity, id: &str) -> Result<Reach, crate::cluster::Error> {
        match self.acting {
            Acting::AsUsers => self.kubernetes.as_user(identity, id),
            Acting::AsTheKubeconfigSays => Ok(self.kubernetes.unimpersonated()),
        }
    }

    fn quota(&self, user: &Identity) -> spool::Quota {
        let mut quotas = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        let quota = quotas.entry(user.user.clone());
        quota
            .or_insert_with(|| spool::Quota::new(self.spool_per_user, spool::Quota::MEMORY))
            .clone()
    }
}

impl Gateway {
    /// Asks nobody, and listens nowhere.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let config = config::config(setup.host_keys, setup.host_certificates, &setup.limits);
        Self {
            config: Arc::new(config),
            drain: setup.drain,
            shared: Arc::new(Shared {
                own: setup.own,
                rules: RwLock::new(Arc::new(setup.rules)),
                spool: setup.spool,
                spool_per_user: setup.spool_per_user,
                quotas: Mutex::default(),
                clusters: setup.clusters,
                kubernetes: setup.kubernetes,
                acting: setup.acting,
                relay: setup.relay.map(Arc::new),
                limits: setup.limits,
                audit: setup.audit,
                recordings: setup.recordings,
                metrics: setup.metrics,
                number: AtomicU64::new(1),
                stop: CancellationToken::new(),
                close: CancellationToken::new(),
                tasks: TaskTracker::new(),
            }),
        }
    }

    /// From now on these count: at once for who logs in, and for others when they are checked the next time.
    pub fn replace_rules(&self, rules: Rules) {
        let mut present = self.shared.rules.write();
        let present = present.as_deref_mut();
        if let Ok(present) = present {
            *present = Arc::new(rules);
        }
    }

    /// Accepts nobody any more. Connections end as soon as nothing runs on them, and all after the drain's time.
    pub fn stop(&self) {
        self.shared.stop.cancel();
        let (close, drain) = (self.shared.close.clone(), self.drain);
        self.shared.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(drain) => close.cancel(),
                () = close.cancelled() => {}
            }
        });
    }

    /// Whether new connections are taken; why not, in words that may be shown.
    ///
    /// # Errors
    /// The gateway ends.
    pub fn ready(&self) -> Result<(), String> {
        match self.shared.stop.is_cancelled() {
            true => Err("the gateway is being stopped".to_owned()),
            false => Ok(()),
        }
    }

    /// Ends all connections now.
    pub fn close(&self) {
        self.shared.stop.cancel();
        self.shared.close.cancel();
    }

    /// Serves all who come in by the door until [`stop`](Self::stop), and then waits until they are gone and what they have
    /// left running is ended.
    pub async fn serve(&self, mut door: Door) {
        let connections = TaskTracker::new();
        loop {
            let admitted = tokio::select! {
                admitted = door.accept() => admitted,
                () = self.shared.stop.cancelled() => break,
            };
            let gateway = self.clone();
            connections.spawn(async move { gateway.attend(admitted).await });
        }
        drop(door);
        connections.close();
        connections.wait().await;
        self.shared.close.cancel();
        self.shared.tasks.close();
        let _ = timeout(SETTLING, self.shared.tasks.wait()).await;
    }

    /// Serves one connection to its end.
    async fn attend(&self, admitted: Admitted) {
        let begun = Instant::now();
        let gone = CancellationToken::new();
        let _closed = gone.clone().drop_guard();
        let connection = Connection::new(self.shared.clone(), &admitted, gone);
        let connection = Arc::new(connection);
        let Admitted {
            stream,
            proxy,
            permit,
            ..
        } = admitted;
        connection.journal.note(Kind::ConnOpen { proxy });
        let reason = self.speak(&connection, stream, &permit).await;
        let (bytes_in, bytes_out) = permit.switch().bytes();
        connection.journal.note(Kind::ConnClose {
            reason,
            bytes_in,
            bytes_out,
            duration: begun.elapsed(),
        });
    }

    /// Returns why it has ended.
    async fn speak(
        &self,
        connection: &Arc<Connection>,
        stream: super::door::Guarded<tokio::net::TcpStream>,
        permit: &super::door::Permit,
    ) -> String {
        let client = handler::Client::new(connection.clone());
        let session =
            russh::server::run_stream(self.config.clone(), connection.valve.wrap(stream), client);
        let session = tokio::select! {
            session = session => session,
            farewell = connection.end() => {
                permit.forgive();
                return farewell;
            }
        };
        let mut session = match session {
            Ok(session) => session,
            Err(error) => return error.to_string(),
        };
        let handle = session.handle();
        let farewell = tokio::select! {
            ended = &mut session => return match ended {
                Ok(()) => "closed by the client".to_owned(),
                Err(error) => error.to_string(),
            },
            farewell = connection.end() => farewell,
        };
        permit.forgive();
        let reason = russh::Disconnect::ByApplication;
        let telling = async {
            let _ = handle
                .disconnect(reason, farewell.clone(), String::new())
                .await;
            (&mut session).await
        };
        if timeout(FAREWELL, telling).await.is_err() {
            permit.switch().kill();
            connection.valve.sever();
            let _ = timeout(FAREWELL, session).await;
        }
        farewell
    }
}
