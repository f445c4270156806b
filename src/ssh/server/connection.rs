//! One client's connection: its login, and the tasks that serve its channels.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::PublicKey;
use russh::server::Handle;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::channel::{Channel, Opening};
use crate::ssh::access::Login;
use crate::ssh::kubernetes::Reach;
use crate::ssh::name::{Clusters, Destination, NameError};
use crate::ssh::request::Request;
use crate::ssh::{jump, session};

/// How often a client that is logged in is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long it may take to answer: four of them, as sshd's and ssh's usual setting.
const ANSWER: Duration = Duration::from_secs(120);

/// One connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    /// Names it in the cluster's audit log and in ours.
    id: String,
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
    pub(super) fn new(shared: Arc<Shared>, id: String, gone: CancellationToken) -> Self {
        let tasks = shared.tasks.clone();
        Self {
            shared,
            id,
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
    pub(super) fn may_offer(&self, key: &PublicKey) -> bool {
        self.shared.keys.has(key)
    }

    /// Who has this key, and has proven it.
    pub(super) fn log_in_by_key(&self, user: &str, key: &PublicKey) -> Option<Arc<User>> {
        let login = self.shared.keys.login(key)?;
        let reach = self.shared.reach(&login.identity, &self.id);
        let reach = reach.inspect_err(|error| tracing::warn!(%error, "no login"));
        Some(Arc::new(User {
            login,
            destination: Destination::from_user(user, &self.shared.clusters),
            reach: reach.ok()?,
            clusters: self.shared.clusters.clone(),
            tasks: self.tasks.clone(),
        }))
    }

    pub(super) fn logged_in(self: &Arc<Self>, handle: Handle) {
        self.in_time.cancel();
        let connection = self.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = connection.gone.cancelled() => {}
                () = silence(&handle) => connection.gone.cancel(),
            }
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
