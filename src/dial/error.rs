//! Why there is no connection, and what to do about it.

use std::io;
use std::sync::Arc;

use super::{ON_STDIN, Subresource};
use crate::cluster::target::{Endpoint, PodRef, TargetError};
use crate::cluster::{Unreachable, UpgradeError};
use crate::exec::bridge::Address;
use crate::tunnel::{Failure, OpenError};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The one transport that was tried failed, or failed in a way that the other one would too.
    #[error("{}{error}{}", .what.failed(.error), hint(*.what, .pod, [.error]))]
    One {
        /// The answer, or the lack of one.
        error: UpgradeError,
        /// What was asked for.
        what: Subresource,
        /// Where to.
        pod: PodRef,
    },
    /// Both were refused.
    #[error("{}{}{}", .what.failed(.spdy), both(.websocket, .spdy), hint(*.what, .pod, [.websocket, .spdy]))]
    Both {
        /// The answer to the first try.
        websocket: UpgradeError,
        /// The answer to the second.
        spdy: UpgradeError,
        /// What was asked for.
        what: Subresource,
        /// Where to.
        pod: PodRef,
    },
    /// Neither port-forward nor a command in a container.
    #[error("{port_forward}; and with --via exec: {exec}")]
    Neither {
        /// Why not by port-forward.
        port_forward: Box<Self>,
        /// Why not by a command.
        exec: Box<Self>,
    },
    /// No tunnel could be dialled, for this connection and for others.
    #[error(transparent)]
    Shared(Arc<Self>),
    /// A second try, after the pod had refused the first one.
    #[error("{0}")]
    Again(String),
    /// The tunnel was up, and has ended.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no container to run a command in.
    #[error(transparent)]
    Container(#[from] TargetError),
    /// What a container has could not be found out.
    #[error("cannot look for a program that makes connections{}: {error}; there must be a shell, or name a program with --via-command", within(.container))]
    Probe {
        /// Where.
        container: Option<String>,
        /// The failure.
        error: io::Error,
    },
    /// There is nothing to mark a command with.
    #[error("cannot run a command: {0}")]
    Random(io::Error),
    /// A command whose connection is gone could not be ended.
    #[error(transparent)]
    Ending(io::Error),
    /// A container has no program for it.
    #[error(
        "no program{} can connect{}: kpf knows socat, nc, bash, python3, perl, php and node; name another one with --via-command, or another container with -c",
        within(.container),
        .address.as_ref().map_or_else(String::new, |address| format!(" to {address}"))
    )]
    NoProgram {
        /// Where.
        container: Option<String>,
        /// What is to be reached; none for anything.
        address: Option<Address>,
    },
    /// Port-forward leads to the pod's own ports only.
    #[error(
        "port-forward can't reach {0}, only ports of the pod itself: leave --via portforward out"
    )]
    Elsewhere(Endpoint),
}

impl Error {
    /// The answer that counts, where there is one: the last one.
    #[must_use]
    pub fn upgrade(&self) -> Option<&UpgradeError> {
        match self {
            Self::One { error, .. } | Self::Both { spdy: error, .. } => Some(error),
            Self::Neither { port_forward, .. } => port_forward.upgrade(),
            Self::Shared(error) => error.upgrade(),
            _ => None,
        }
    }

    /// Adds what to do where the length of the command line may be what is wrong.
    pub(super) fn of_long_query(mut self, length: usize) -> Self {
        let (Self::One { error, .. } | Self::Both { spdy: error, .. }) = &mut self else {
            return self;
        };
        let hint =
            format!(" (the command line is {length} bytes long with its escapes: {ON_STDIN})");
        match error {
            // for all that, a server says its 414 or 431, or closes the connection in the middle of the request
            UpgradeError::Status {
                code: 400 | 413 | 414 | 431 | 502,
                message,
                ..
            } => message.push_str(&hint),
            UpgradeError::Unreachable(Unreachable::Lost { reason }) => reason.push_str(&hint),
            _ => {}
        }
        self
    }

    /// Whether waiting won't change it: no right to it, or nothing to do it with.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match (self, self.upgrade()) {
            (_, Some(answer)) => answer.is_unauthorized() || is_by_role(answer),
            (Self::NoProgram { .. } | Self::Elsewhere(_), None) => true,
            _ => false,
        }
    }

    /// Whether a command in a container may do what port-forward can't: the role has no right to it, or the node
    /// doesn't know it.
    pub(super) fn allows_exec(&self) -> bool {
        match self.upgrade() {
            Some(error) if is_by_role(error) => true,
            Some(UpgradeError::Status {
                code: 405 | 501, ..
            }) => true,
            // A kubelet without the route; the API server's own 404 is about the pod.
            Some(UpgradeError::Status {
                code: 404,
                status_document: false,
                ..
            }) => true,
            Some(UpgradeError::Status { message, .. }) => {
                matches!(
                    Failure::from_text(message.as_bytes()),
                    Failure::Unsupported(_)
                )
            }
            _ => false,
        }
    }
}

fn within(container: &Option<String>) -> String {
    let container = container.as_ref();
    container.map_or_else(String::new, |name| format!(" in container {name}"))
}

impl Subresource {
    /// kubectl's words before the server's; what no server has said needs none.
    fn failed(self, error: &UpgradeError) -> &'static str {
        match self {
            Self::PortForward if !error.is_unreachable() => "error upgrading connection: ",
            _ => "",
        }
    }
}

/// Both answers, once where they are the same.
fn both(websocket: &UpgradeError, spdy: &UpgradeError) -> String {
    let (first, second) = (websocket.to_string(), spdy.to_string());
    if first == second {
        second
    } else {
        format!("{second} (SPDY; before that by WebSocket: {first})")
    }
}

/// What an answer leaves out: where it was looked for, or what to do about a refusal that RBAC gave.
fn hint<const N: usize>(what: Subresource, pod: &PodRef, errors: [&UpgradeError; N]) -> String {
    let namespace = &pod.namespace;
    // The last answer counts: before it an old kubelet may have refused the WebSocket in words of its own.
    if errors.last().is_some_and(|error| is_by_role(error)) {
        format!(
            "; the role needs the verb `create` on `pods/{}` in namespace `{namespace}`, and for WebSocket `get` too",
            what.name()
        )
    } else if errors.iter().all(|error| error.is_not_found()) {
        format!(" in namespace `{namespace}`")
    } else {
        String::new()
    }
}

/// Whether RBAC has refused. An old server says 403 with an empty body to a WebSocket that it doesn't know: only a
/// Status is RBAC's. And who may not impersonate anybody hasn't got as far as to the pod.
fn is_by_role(error: &UpgradeError) -> bool {
    matches!(
        error,
        UpgradeError::Status {
            code: 403,
            status_document: true,
            message,
            ..
        } if !message.contains("cannot impersonate")
    )
}
