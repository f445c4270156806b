//! From a cluster and a pod to a tunnel: WebSocket first, SPDY where that is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cluster::target::PodRef;
use crate::cluster::{Cluster, Protocol, UpgradeError, UpgradeRequest, Upgraded};
use crate::tunnel::{Framing, Tunnel};

/// The stream protocol of port-forward; there is only this one.
const PORT_FORWARD: &str = "portforward.k8s.io";
/// The same, as SPDY in a WebSocket. The `v2.portforward.k8s.io` of KEP-4006 was never used.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";

/// Which transports to try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// WebSocket, then SPDY where the server refuses the upgrade.
    #[default]
    Auto,
    /// SPDY in a WebSocket (Kubernetes 1.30 and later), by GET.
    WebSocket,
    /// SPDY on the upgraded connection, by POST.
    Spdy,
}

/// Makes tunnels to the pods of one cluster. Clones share what they have learned.
#[derive(Clone, Debug)]
pub struct Dialer {
    cluster: Cluster,
    transport: Transport,
    /// A WebSocket was refused where SPDY worked: an old server, a proxy, or a role that has only `create`.
    spdy_only: Arc<AtomicBool>,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The one transport that was tried failed, or failed in a way that the other one would too.
    #[error("error upgrading connection: {error}{}", hint(.pod, [.error]))]
    One {
        /// The answer, or the lack of one.
        error: UpgradeError,
        /// Where to.
        pod: PodRef,
    },
    /// Both were refused.
    #[error("error upgrading connection: {}{}", both(.websocket, .spdy), hint(.pod, [.websocket, .spdy]))]
    Both {
        /// The answer to the first try.
        websocket: UpgradeError,
        /// The answer to the second.
        spdy: UpgradeError,
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
}

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

    /// Connects to a pod, in one request, or two where the first is refused. Cancel-safe; must be called in a tokio
    /// runtime.
    ///
    /// # Errors
    /// The cluster can't be reached, or refuses.
    pub async fn port_forward(&self, pod: &PodRef) -> Result<Tunnel, Error> {
        let one = |error| Error::One {
            error,
            pod: pod.clone(),
        };
        match self.transport {
            Transport::WebSocket => self.websocket(pod).await.map_err(one),
            Transport::Spdy => self.spdy(pod).await.map_err(one),
            Transport::Auto if self.spdy_only.load(Ordering::Relaxed) => {
                self.spdy(pod).await.map_err(one)
            }
            Transport::Auto => match self.websocket(pod).await {
                Ok(tunnel) => Ok(tunnel),
                Err(websocket) if websocket.allows_fallback() => {
                    tracing::debug!(error = %websocket, "no WebSocket, trying SPDY");
                    let tunnel = self.spdy(pod).await.map_err(|spdy| Error::Both {
                        websocket,
                        spdy,
                        pod: pod.clone(),
                    })?;
                    self.spdy_only.store(true, Ordering::Relaxed);
                    Ok(tunnel)
                }
                Err(error) => Err(one(error)),
            },
        }
    }

    async fn websocket(&self, pod: &PodRef) -> Result<Tunnel, UpgradeError> {
        let protocol = Protocol::WebSocket {
            subprotocols: vec![TUNNELLED.to_owned()],
        };
        let upgraded = self.upgrade(pod, protocol).await?;
        Ok(start(upgraded, Framing::WebSocket))
    }

    async fn spdy(&self, pod: &PodRef) -> Result<Tunnel, UpgradeError> {
        let protocol = Protocol::Spdy {
            protocols: vec![PORT_FORWARD.to_owned()],
        };
        let upgraded = self.upgrade(pod, protocol).await?;
        if upgraded.protocol != PORT_FORWARD {
            // client-go's words
            return Err(UpgradeError::Handshake(format!(
                "unable to negotiate protocol: client supports {PORT_FORWARD:?}, server returned {:?}",
                upgraded.protocol
            )));
        }
        Ok(start(upgraded, Framing::Raw))
    }

    async fn upgrade(&self, pod: &PodRef, protocol: Protocol) -> Result<Upgraded, UpgradeError> {
        let PodRef {
            namespace, name, ..
        } = pod;
        let request = UpgradeRequest {
            path_and_query: format!("/api/v1/namespaces/{namespace}/pods/{name}/portforward"),
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
fn hint<const N: usize>(pod: &PodRef, errors: [&UpgradeError; N]) -> String {
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
    if errors.iter().all(by_role) {
        format!(
            "; the role needs the verb `create` on `pods/portforward` in namespace `{namespace}`, and for WebSocket `get` too"
        )
    } else if errors.iter().all(|error| error.is_not_found()) {
        format!(" in namespace `{namespace}`")
    } else {
        String::new()
    }
}
