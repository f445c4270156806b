//! From a cluster and a pod to a tunnel, or to a running command: WebSocket first, SPDY where that is refused. And from
//! there to a byte stream that ends where somebody listens: [`Route`].
//!
//! | file | what it is |
//! |---|---|
//! | `route` | streams to a pod by port-forward, or by a command in a container where that can't be had |
//! | `bridge` | the streams that commands make |
//! | `stream` | such a stream, and how it makes up for a first way that turns out to lead nowhere |
//! | `error` | why there is no connection, and what to do about it |

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::cluster::target::PodRef;
use crate::cluster::{Cluster, Connection, Protocol, UpgradeError, UpgradeRequest, Upgraded};
use crate::exec::{self, Command, Session};
use crate::tunnel::{Framing, Tunnel};

mod bridge;
mod error;
mod route;
mod stream;

pub use error::Error;
pub use route::{Exec, Route, Via};
pub use stream::{PodStream, Turning};

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
    fallback: Arc<Fallback>,
    /// What is there until the commands of all streams have ended or been ended.
    endings: TaskTracker,
}

/// What has become of port-forward where either way is allowed.
#[derive(Default)]
struct Fallback {
    /// It can't be had: commands are taken from the start.
    taken: AtomicBool,
    /// Who is told, once.
    tell: OnceLock<Tell>,
}

type Tell = Box<dyn Fn(&str) + Send + Sync>;

impl fmt::Debug for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.taken.fmt(f)
    }
}

impl Fallback {
    fn take(&self, why: &dyn fmt::Display) {
        if !self.taken.swap(true, Ordering::Relaxed)
            && let Some(tell) = self.tell.get()
        {
            tell(&why.to_string());
        }
    }
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
}

/// How long the end of a program waits for commands in containers to be ended.
const SETTLING: Duration = Duration::from_secs(2);

const ON_STDIN: &str = "pass data on stdin, or a script to `sh -s`";

impl Dialer {
    /// Dials through `cluster`.
    #[must_use]
    pub fn new(cluster: Cluster, transport: Transport) -> Self {
        Self {
            cluster,
            transport,
            spdy_only: Arc::default(),
            fallback: Arc::default(),
            endings: TaskTracker::new(),
        }
    }

    /// Has `tell` told why commands in a container make the connections, should port-forward be refused or be
    /// impossible. It is called once at most; only the first one given counts.
    pub fn on_exec(&self, tell: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.fallback.tell.set(Box::new(tell));
    }

    /// The cluster that is dialled.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The transports that are tried.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Waits until the commands of streams that were dropped have been ended, for 2 s at most; for the end of a
    /// program. Without such streams it takes no time.
    pub async fn settle(&self) {
        self.endings.close();
        let settled = timeout(SETTLING, self.endings.wait()).await;
        if settled.is_err() {
            tracing::debug!("commands may have been left in the pod");
        }
        self.endings.reopen();
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
