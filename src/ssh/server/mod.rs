//! The SSH engine, behind a seam: nothing outside of this folder knows russh's server.
//!
//! russh runs one task for each connection, and calls [`handler`] on it. That task must never wait for a backend, or all
//! channels of the connection do: data goes into a queue per channel, requests into another, and each channel has a
//! task of its own that serves it.
//!
//! | file | what it is |
//! |---|---|
//! | `config` | what is offered to clients, and why |
//! | `handler` | russh's callbacks |
//! | `connection` | a login, and what serves its channels |
//! | `channel` | a channel as backends see it |
//! | `severable` | a socket that can be closed from outside |

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use russh::keys::PrivateKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::{Access, Identity};
use super::kubernetes::{Kubernetes, Reach};
use super::laptop::Keys;
use super::name::Clusters;
use super::spool;
use connection::Connection;
use severable::Severable;

mod channel;
mod config;
mod connection;
mod handler;
mod severable;

pub use channel::{Channel, Opening, Output, Refused};
pub use connection::User;

/// From the connection to the login; a key with a touch takes a while.
const GRACE: Duration = Duration::from_secs(30);
/// Before another try to accept, where that failed: the process is out of file descriptors, and others may close some.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long connections may take to end once they were told to.
const FAREWELL: Duration = Duration::from_secs(3);

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
    /// Keys of the person whose machine this is; none on any other.
    pub own: Keys,
    /// Who else may log in.
    pub access: Access,
    /// What holds back what clients send faster than pods take it.
    pub spool: spool::Limits,
    /// What its clusters are called.
    pub clusters: Clusters,
    /// What reaches them.
    pub kubernetes: Kubernetes,
    /// Whose rights are used.
    pub acting: Acting,
}

/// A gateway. Clones are the same one.
#[derive(Clone)]
pub struct Gateway {
    config: Arc<russh::server::Config>,
    shared: Arc<Shared>,
}

struct Shared {
    own: Keys,
    access: Access,
    spool: spool::Limits,
    /// By user, over all of their connections.
    quotas: Mutex<HashMap<String, spool::Quota>>,
    clusters: Clusters,
    kubernetes: Kubernetes,
    acting: Acting,
    /// Everything that is done for connections.
    tasks: TaskTracker,
}

impl Shared {
    fn reach(&self, identity: &Identity, id: &str) -> Result<Reach, crate::cluster::Error> {
        match self.acting {
            Acting::AsUsers => self.kubernetes.as_user(identity, id),
            Acting::AsTheKubeconfigSays => Ok(self.kubernetes.unimpersonated()),
        }
    }
}

impl Shared {
    fn quota(&self, user: &Identity) -> spool::Quota {
        let mut quotas = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
        quotas.entry(user.user.clone()).or_default().clone()
    }
}

impl Gateway {
    /// Asks nobody, and listens nowhere.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self {
            config: Arc::new(config::config(setup.host_keys)),
            shared: Arc::new(Shared {
                own: setup.own,
                access: setup.access,
                spool: setup.spool,
                quotas: Mutex::default(),
                clusters: setup.clusters,
                kubernetes: setup.kubernetes,
                acting: setup.acting,
                tasks: TaskTracker::new(),
            }),
        }
    }

    /// Serves all who connect until `stop` is cancelled; then closes all connections, each with a word of why, and ends
    /// what they have left running, within some seconds.
    pub async fn serve(&self, listener: TcpListener, stop: &CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((socket, peer)) => {
                    // A socket that is gone already will tell when it is read.
                    let _ = socket.set_nodelay(true);
                    let (gateway, stop) = (self.clone(), stop.clone());
                    self.shared.tasks.spawn(async move {
                        gateway.attend(socket, peer, &stop).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        drop(listener);
        self.shared.tasks.close();
        let _ = timeout(FAREWELL, self.shared.tasks.wait()).await;
    }

    /// Serves one connection to its end, or until `stop` is cancelled.
    pub async fn attend<IO>(&self, io: IO, peer: SocketAddr, stop: &CancellationToken)
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let gone = CancellationToken::new();
        let _closed = gone.clone().drop_guard();
        let connection = Connection::new(self.shared.clone(), peer, gone.clone());
        let connection = Arc::new(connection);
        connection.close_after(GRACE);
        let io = Severable::new(io, gone.clone());
        let client = handler::Client::new(connection);
        let session = russh::server::run_stream(self.config.clone(), io, client);
        let session = tokio::select! {
            session = session => session,
            () = stop.cancelled() => return,
        };
        let mut session = match session {
            Ok(session) => session,
            Err(error) => {
                tracing::debug!(%peer, %error, "no SSH");
                return;
            }
        };
        let handle = session.handle();
        let ended = tokio::select! {
            ended = &mut session => ended,
            () = stop.cancelled() => {
                let reason = russh::Disconnect::ByApplication;
                let text = "the gateway is being stopped".to_owned();
                let farewell = async {
                    let _ = handle.disconnect(reason, text, String::new()).await;
                    (&mut session).await
                };
                timeout(FAREWELL / 2, farewell).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a connection has ended");
        }
    }
}
