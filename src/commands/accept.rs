//! The connections of one local address.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::listen::{Connection, Listener};
use crate::cluster::target::Endpoint;
use crate::forward::Forwarder;
use crate::splice::{Broken, Ends, splice};
use crate::tunnel::Failure;
use crate::ui::Ui;

/// How long accepting rests when the process is out of file descriptors: connections that end give some back.
const PAUSE: Duration = Duration::from_millis(100);

/// Forwards the connections of one local address.
#[derive(Clone)]
pub(super) struct Accepting {
    pub(super) forwarder: Forwarder,
    pub(super) ends: Ends,
    /// What its connections are called.
    pub(super) local: Arc<str>,
    /// The index of the target's port.
    pub(super) port: usize,
    pub(super) remote: Endpoint,
    pub(super) ui: Ui,
}

impl Accepting {
    /// Takes connections for ever. Each one is a task of its own, and ends with this one.
    pub(super) async fn run(self, listener: Listener) -> anyhow::Error {
        let mut connections = JoinSet::new();
        let mut exhausted = false;
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(socket) => {
                        exhausted = false;
                        self.ui.handling(&self.local);
                        connections.spawn(self.clone().handle(socket));
                    }
                    Err(error) if is_of_connection(&error) => {}
                    Err(error) => {
                        // Once, until it goes well again.
                        if !std::mem::replace(&mut exhausted, true) {
                            self.ui.warning(format_args!(
                                "cannot accept connections for {}: {error}",
                                self.local
                            ));
                        }
                        sleep(PAUSE).await;
                    }
                },
                // A panic of one connection is that connection's.
                Some(ended) = connections.join_next() => if let Err(panic) = ended {
                    tracing::error!(%panic, "a connection's task failed");
                },
            }
        }
    }

    /// One connection, to its end.
    async fn handle(self, mut socket: Connection) {
        let connection = match self.forwarder.open(self.port).await {
            Ok(connection) => connection,
            Err(error) => return self.failed(&error),
        };
        let _counted = connection.guard;
        let (reader, writer) = socket.split();
        let ends = connection.stream.ends(self.ends);
        let spliced = splice(reader, writer, connection.stream, ends).await;
        tracing::debug!(
            pod = connection.pod,
            sent = spliced.sent,
            received = spliced.received,
            "connection ended"
        );
        match spliced.end {
            Ok(()) => socket.end_well(),
            // Whoever hung up knows it.
            Err(error @ Broken::Near(_)) => tracing::debug!(%error, "connection broke off"),
            Err(Broken::Far(error)) => {
                if let Some(failure) = Failure::of(&error) {
                    self.forwarder.report(failure);
                }
                self.failed(&error);
            }
        }
    }

    fn failed(&self, error: &dyn std::error::Error) {
        self.ui.error(format_args!(
            "forwarding {} -> {}: {error}",
            self.local, self.remote
        ));
    }
}

/// Whether accepting failed because of the connection that was to be accepted, which is gone.
fn is_of_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
