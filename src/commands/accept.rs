//! The connections of one local address.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::listen::{Connection, Listener};
use crate::cluster::target::Endpoint;
use crate::forward::Forwarder;
use crate::splice::{Broken, Ends, splice};
use crate::tunnel::Failure;
use crate::ui::{Event, Ui};
use crate::untrusted::printable;

/// How long accepting rests when the process is out of file descriptors: connections that end give some back.
const PAUSE: Duration = Duration::from_millis(100);

/// Forwards the connections of one local address.
#[derive(Clone)]
pub(super) struct Accepting {
    pub(super) forwarder: Forwarder,
    pub(super) ends: Ends,
    /// Numbers of connections, for all targets.
    pub(super) numbers: Arc<AtomicU64>,
    /// What it leads to, as people write it.
    pub(super) target: Arc<str>,
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
                        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                        self.ui.event(&Event::Opened {
                            connection: number,
                            target: &self.target,
                            local: &self.local,
                            remote: &self.remote.to_string(),
                        });
                        connections.spawn(self.clone().handle(socket, number));
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
    async fn handle(self, mut socket: Connection, number: u64) {
        let mut closed = Closed {
            ui: &self.ui,
            number,
            pod: None,
            sent: 0,
            received: 0,
            error: None,
        };
        // Boxed: what opening needs, a dozen kilobytes, is given back before the connection's long life.
        let opening = Box::pin(self.forwarder.open(self.port));
        let connection = match opening.await {
            Ok(connection) => connection,
            Err(error) => {
                closed.error = Some(error.to_string());
                return self.failed(&error);
            }
        };
        closed.pod = Some(connection.pod.clone());
        let _counted = connection.guard;
        let (reader, writer) = socket.split();
        let ends = connection.stream.ends(self.ends);
        let spliced = splice(reader, writer, connection.stream, ends).await;
        (closed.sent, closed.received) = (spliced.sent, spliced.received);
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
                closed.error = Some(error.to_string());
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

/// Tells the end of a connection, whatever ends it.
struct Closed<'a> {
    ui: &'a Ui,
    number: u64,
    pod: Option<String>,
    sent: u64,
    received: u64,
    error: Option<String>,
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let error = self.error.as_ref().map(|error| printable(error, LONGEST));
        self.ui.event(&Event::Closed {
            connection: self.number,
            pod: self.pod.as_deref(),
            sent: self.sent,
            received: self.received,
            error: error.as_deref(),
        });
    }
}

/// Characters of an error.
const LONGEST: usize = 1000;

/// Whether accepting failed because of the connection that was to be accepted, which is gone.
fn is_of_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<R>(_: impl FnOnce(Accepting, Connection, u64) -> R) -> usize {
        size_of::<R>()
    }

    /// There are as many as connections. Opening one takes 12 KiB.
    #[test]
    fn the_task_of_a_connection_is_small() {
        let size = size_of_future(Accepting::handle);
        assert!(size <= 3072, "{size} bytes");
    }
}
