//! One client's connection: its login, and the tasks that serve its channels.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use russh::keys::{Algorithm, Certificate, PublicKey};
use russh::server::Handle;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::channel::{Channel, Opening};
use crate::ssh::access::{Identity, Login, Refusal};
use crate::ssh::audit::SessionId;
use crate::ssh::kubernetes::Reach;
use crate::ssh::name::{Clusters, Destination, NameError};
use crate::ssh::request::Request;
use crate::ssh::spool::{self, Reader, Writer};
use crate::ssh::{jump, session};

/// How often a client that is logged in is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long it may take to answer: four of them, as sshd's and ssh's usual setting.
const ANSWER: Duration = Duration::from_secs(120);

/// How often the clock is looked at for the end of a credential.
const CLOCK: Duration = Duration::from_secs(30);
/// How long a client is given to take the reason in.
const FAREWELL: Duration = Duration::from_secs(2);

/// One connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    /// Names it in the cluster's audit log and in ours.
    id: SessionId,
    source: SocketAddr,
    /// It has logged in.
    in_time: CancellationToken,
    /// It is closed, or has to be.
    pub(super) gone: CancellationToken,
    tasks: TaskTracker,
}

/// Somebody who has logged in, on one connection.
pub struct User {
    /// What it was let in by, and as whom.
    pub login: Login,
    /// Where it wants to go.
    pub destination: Result<Destination, NameError>,
    /// The clusters, as they are reached for it.
    pub reach: Reach,
    /// The clusters that it may name.
    pub clusters: Clusters,
    /// What is done for it, and outlives its channels.
    pub tasks: TaskTracker,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, source: SocketAddr, gone: CancellationToken) -> Self {
        let tasks = shared.tasks.clone();
        Self {
            shared,
            id: SessionId::random(),
            source,
            in_time: CancellationToken::new(),
            gone,
            tasks,
        }
    }

    /// Closes the connection unless it has logged in by then.
    pub(super) fn close_after(self: &Arc<Self>, grace: Duration) {
        let connection = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = connection.in_time.cancelled() => {}
                () = connection.gone.cancelled() => {}
                () = sleep(grace) => connection.gone.cancel(),
            }
        });
    }

    /// Whether it is worth a signature.
    pub(super) async fn may_offer(&self, key: &PublicKey, algorithm: &Algorithm) -> bool {
        let Shared { own, access, .. } = &*self.shared;
        // `ssh-rsa` as a signature is SHA-1.
        let is_sha1 = matches!(algorithm, Algorithm::Rsa { hash: None });
        !is_sha1 && own.has(key) || access.is_worth_a_signature(key, algorithm).await
    }

    /// Who has this key, which was proven.
    pub(super) async fn key(&self, key: &PublicKey) -> Result<Login, Refusal> {
        let Shared { own, access, .. } = &*self.shared;
        match own.login(key) {
            Some(login) => Ok(login),
            None => access.key(key, self.source.ip(), SystemTime::now()).await,
        }
    }

    /// Who has this certificate's key, which was proven.
    pub(super) fn certificate(&self, certificate: &Certificate) -> Result<Login, Refusal> {
        let access = &self.shared.access;
        access.certificate(certificate, self.source.ip(), SystemTime::now())
    }

    /// Makes somebody of a login. Whoever is refused is told nothing of why.
    pub(super) fn log_in(&self, user: &str, login: Result<Login, Refusal>) -> Option<Arc<User>> {
        let login = login
            .inspect_err(|refusal| tracing::info!(%refusal, source = %self.source, "no login"));
        let login = login.ok()?;
        let reach = self.shared.reach(&login.identity, &self.id.to_string());
        let reach = reach.inspect_err(|error| tracing::warn!(%error, "no login"));
        Some(Arc::new(User {
            login,
            destination: Destination::from_user(user, &self.shared.clusters),
            reach: reach.ok()?,
            clusters: self.shared.clusters.clone(),
            tasks: self.tasks.clone(),
        }))
    }

    /// A queue for what comes in on a channel.
    pub(super) fn queue(&self, user: &Identity) -> (Writer, Reader) {
        spool::queue(&self.shared.spool, &self.shared.quota(user))
    }

    /// Begins what lasts as long as the connection.
    pub(super) fn logged_in(self: &Arc<Self>, handle: Handle, login: &Login) {
        self.in_time.cancel();
        let expires = login.expires;
        let connection = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = connection.gone.cancelled() => return,
                () = silence(&handle) => {}
                () = expiry(expires) => {
                    let reason = russh::Disconnect::ByApplication;
                    let text = "your credential has expired: log in again".to_owned();
                    let telling = handle.disconnect(reason, text, String::new());
                    // russh closes the connection once it is sent, if the client still reads.
                    let _ = timeout(FAREWELL, telling).await;
                    sleep(FAREWELL).await;
                }
            }
            connection.gone.cancel();
        });
    }

    /// Serves a session channel.
    pub(super) fn session(
        &self,
        user: Arc<User>,
        channel: Channel,
        requests: mpsc::Receiver<Request>,
    ) {
        self.tasks.spawn(session::serve(user, channel, requests));
    }

    /// Serves a channel to a port of some host.
    pub(super) fn jump(&self, user: Arc<User>, opening: Opening, host: String, port: NonZeroU16) {
        self.tasks.spawn(async move {
            jump::serve(&user, opening, &host, port).await;
        });
    }
}

/// Ends when the client has not answered for too long. russh's own keepalive would begin before the login, where it ends
/// OpenSSH clients, and has no call to send one. So this is the cancellation of a forward that never was, which every
/// client refuses (RFC 4254 §7.1: only servers forward): any answer will do.
async fn silence(handle: &Handle) {
    loop {
        sleep(KEEPALIVE).await;
        let answer = handle.cancel_forward_tcpip(String::new(), 0);
        if timeout(ANSWER, answer).await.is_err() {
            return;
        }
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
