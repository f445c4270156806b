//! From a cluster and a pod to a tunnel, or to a running command: WebSocket first, SPDY where that is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cluster::target::PodRef;
use crate::cluster::{
    Cluster, Connection, Protocol, Unreachable, UpgradeError, UpgradeRequest, Upgraded,
};
use crate::exec::{self, Command, Session};
use crate::tunnel::{Framing, Tunnel};

/// The stream protocol of port-forward; there is only this one.
const PORT_FORWARD: &str = "portforward.k8s.io";
/// The same, as SPDY in a WebSocket. The `v2.portforward.k8s.io` of KEP-4006 was never used.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";

/// Bytes of a command line with its escapes: Go's servers take so much before the end of the headers, and the API server
/// and the kubelet are such.
const MAX_QUERY: usize = 1 << 20;
/// The shortest request line that a proxy on the way may find too long, nginx's default.
const LONG_QUERY: usize = 8 << 10;

/// Which transports to try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// WebSocket, then SPDY where the server refuses the upgrade.
    #[default]
    Auto,
    /// SPDY in a WebSocket (Kubernetes 1.30 and later), or a command's channels (1.29 and later), by GET.
    WebSocket,
    /// SPDY on the upgraded connection, by POST.
    Spdy,
}

/// Makes connections to the pods of one cluster. Clones share what they have learned.
#[derive(Clone, Debug)]
pub struct Dialer {
    cluster: Cluster,
    transport: Transport,
    /// Where a WebSocket was refused and SPDY worked: an old server, a proxy, or a role that has only `create`.
    spdy_only: Arc<SpdyOnly>,
}

/// Servers have learned the two at different times, and roles may differ, too.
#[derive(Debug, Default)]
struct SpdyOnly {
    port_forward: AtomicBool,
    exec: AtomicBool,
}

/// What is asked of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `pods/portforward`.
    PortForward,
    /// `pods/exec`.
    Exec,
}

impl Subresource {
    fn name(self) -> &'static str {
        match self {
            Self::PortForward => "portforward",
            Self::Exec => "exec",
        }
    }

    /// kubectl's words before the server's; what no server has said needs none.
    fn failed(self, error: &UpgradeError) -> &'static str {
        match self {
            Self::PortForward if !error.is_unreachable() => "error upgrading connection: ",
            _ => "",
        }
    }
}

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
}

impl Error {
    /// The answer that counts: the last one.
    #[must_use]
    pub fn upgrade(&self) -> &UpgradeError {
        match self {
            Self::One { error, .. } | Self::Both { spdy: error, .. } => error,
        }
    }

    /// Adds what to do where the length of the command line may be what is wrong.
    fn of_long_query(mut self, length: usize) -> Self {
        let error = match &mut self {
            Self::One { error, .. } | Self::Both { spdy: error, .. } => error,
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
}

const ON_STDIN: &str = "pass data on stdin, or a script to `sh -s`";

impl Dialer {
    /// Dials through `cluster`.
    #[must_use]
    pub fn new(cluster: Cluster, transport: Transport) -> Self {
        Self {
            cluster,
            transport,
            spdy_only: Arc::default(),
        }
    }

    /// The cluster that is dialled.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Connects to a pod's ports, in one request, or two where the first is refused. Cancel-safe; must be called in a
    /// tokio runtime.
    ///
    /// # Errors
    /// The cluster can't be reached, or refuses.
    pub async fn port_forward(&self, pod: &PodRef) -> Result<Tunnel, Error> {
        let what = Subresource::PortForward;
        let websocket = async {
            let upgraded = self.websocket(pod, what, "", TUNNELLED).await?;
            Ok(start(upgraded, Framing::WebSocket))
        };
        let spdy = async {
            let upgraded = self.spdy(pod, what, "", PORT_FORWARD).await?;
            Ok(start(upgraded, Framing::Raw))
        };
        self.either(pod, what, websocket, spdy).await
    }

    /// Starts a command in a pod, in one request, or two where the first is refused. Dropping the future may leave it
    /// running; must be called in a tokio runtime.
    ///
    /// # Errors
    /// The cluster can't be reached, or refuses.
    pub async fn exec(
        &self,
        pod: &PodRef,
        command: &Command,
    ) -> Result<Session<Connection>, Error> {
        let what = Subresource::Exec;
        let query = format!("?{}", command.query());
        if query.len() > MAX_QUERY {
            return Err(Error::One {
                error: UpgradeError::Request(format!(
                    "the command line is {} bytes long with its escapes, and an API server takes {MAX_QUERY}: {ON_STDIN}",
                    query.len()
                )),
                what,
                pod: pod.clone(),
            });
        }
        let websocket = async {
            let protocol = exec::WEBSOCKET_PROTOCOL;
            let upgraded = self.websocket(pod, what, &query, protocol).await?;
            Ok(Session::websocket(upgraded.io, upgraded.read_buf, command).await)
        };
        let spdy = async {
            let protocol = exec::SPDY_PROTOCOL;
            let upgraded = self.spdy(pod, what, &query, protocol).await?;
            Session::spdy(upgraded.io, upgraded.read_buf, command)
                .map_err(|error| UpgradeError::Handshake(error.to_string()))
        };
        let outcome = self.either(pod, what, websocket, spdy).await;
        outcome.map_err(|error| match query.len() {
            ..LONG_QUERY => error,
            length => error.of_long_query(length),
        })
    }

    /// The one that is to be used, or the second where the first is refused.
    async fn either<T>(
        &self,
        pod: &PodRef,
        what: Subresource,
        websocket: impl Future<Output = Result<T, UpgradeError>>,
        spdy: impl Future<Output = Result<T, UpgradeError>>,
    ) -> Result<T, Error> {
        let pod = || pod.clone();
        let one = |error| Error::One {
            error,
            what,
            pod: pod(),
        };
        let spdy_only = match what {
            Subresource::PortForward => &self.spdy_only.port_forward,
            Subresource::Exec => &self.spdy_only.exec,
        };
        match self.transport {
            Transport::WebSocket => websocket.await.map_err(one),
            Transport::Spdy => spdy.await.map_err(one),
            Transport::Auto if spdy_only.load(Ordering::Relaxed) => spdy.await.map_err(one),
            Transport::Auto => match websocket.await {
                Ok(connected) => Ok(connected),
                Err(websocket) if websocket.allows_fallback() => {
                    tracing::debug!(error = %websocket, "no WebSocket, trying SPDY");
                    let connected = spdy.await.map_err(|spdy| Error::Both {
                        websocket,
                        spdy,
                        what,
                        pod: pod(),
                    })?;
                    spdy_only.store(true, Ordering::Relaxed);
                    Ok(connected)
                }
                Err(error) => Err(one(error)),
            },
        }
    }

    async fn websocket(
        &self,
        pod: &PodRef,
        what: Subresource,
        query: &str,
        protocol: &str,
    ) -> Result<Upgraded, UpgradeError> {
        let subprotocols = vec![protocol.to_owned()];
        self.upgrade(pod, what, query, Protocol::WebSocket { subprotocols })
            .await
    }

    async fn spdy(
        &self,
        pod: &PodRef,
        what: Subresource,
        query: &str,
        protocol: &str,
    ) -> Result<Upgraded, UpgradeError> {
        let protocols = vec![protocol.to_owned()];
        let upgraded = self
            .upgrade(pod, what, query, Protocol::Spdy { protocols })
            .await?;
        if upgraded.protocol != protocol {
            // client-go's words
            return Err(UpgradeError::Handshake(format!(
                "unable to negotiate protocol: client supports {protocol:?}, server returned {:?}",
                upgraded.protocol
            )));
        }
        Ok(upgraded)
    }

    async fn upgrade(
        &self,
        pod: &PodRef,
        what: Subresource,
        query: &str,
        protocol: Protocol,
    ) -> Result<Upgraded, UpgradeError> {
        let PodRef {
            namespace, name, ..
        } = pod;
        let subresource = what.name();
        let request = UpgradeRequest {
            path_and_query: format!(
                "/api/v1/namespaces/{namespace}/pods/{name}/{subresource}{query}"
            ),
            protocol,
        };
        self.cluster.upgrade(request).await
    }
}

fn start(upgraded: Upgraded, framing: Framing) -> Tunnel {
    tracing::debug!(?framing, "tunnel is up");
    Tunnel::start(upgraded.io, upgraded.read_buf, framing)
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
    // An old server says 403 with an empty body to a WebSocket that it doesn't know: only a Status is RBAC's.
    // And who may not impersonate anybody hasn't got as far as to the pod.
    let by_role = |error: &&UpgradeError| {
        matches!(
            error,
            UpgradeError::Status {
                code: 403,
                status_document: true,
                message,
                ..
            } if !message.contains("cannot impersonate")
        )
    };
    let namespace = &pod.namespace;
    // The last answer counts: before it an old kubelet may have refused the WebSocket in words of its own.
    if errors.last().is_some_and(by_role) {
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
