//! Streams to one pod, by the way that is allowed and possible.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bridge::{Bridge, Destination};
use super::stream::PodStream;
use super::{Dialer, Error};
use crate::cluster::target::{Endpoint, PodRef};
use crate::tunnel::Tunnel;
use crate::tunnel::pool::{Limits, Pool};

/// How streams to a pod are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// By port-forward, and by a command where the role forbids that or the node can't do it.
    #[default]
    Auto,
    /// By port-forward only.
    PortForward,
    /// By a command in a container.
    Exec,
}

/// The commands that make streams.
#[derive(Clone, Debug, Default)]
pub struct Exec {
    /// Where they run; none for the pod's default container.
    pub container: Option<String>,
    /// What is run instead of what kpf finds in the container: words, with `{host}`, `{port}` and `{path}`. Its stdin
    /// and stdout are the stream, its end is the stream's.
    pub command: Option<Arc<[OsString]>>,
}

/// Makes streams to one pod. Clones share all connections.
#[derive(Clone)]
pub struct Route {
    tunnels: Option<Tunnels>,
    /// Where commands are allowed.
    bridge: Option<Bridge>,
}

/// How port-forwards are made.
#[derive(Clone)]
enum Tunnels {
    One(Tunnel),
    Pool(Pool<Error>),
}

impl Dialer {
    /// Makes a way to a pod that leads to these endpoints: dials its tunnel, or finds out what makes connections in its
    /// container. Cancel-safe; must be called in a tokio runtime.
    ///
    /// # Errors
    /// There is no way that is allowed.
    pub async fn route(
        &self,
        pod: &PodRef,
        endpoints: &[Endpoint],
        via: Via,
        exec: &Exec,
    ) -> Result<Route, Error> {
        let Exec { container, command } = exec.clone();
        let bridge = Bridge::new(self.clone(), pod.clone(), container, command);
        let mut route = Route {
            tunnels: None,
            bridge: Some(bridge.clone()),
        };
        let is_own = |endpoint: &&Endpoint| matches!(endpoint, Endpoint::Port(_));
        let elsewhere = endpoints.iter().find(|endpoint| !is_own(endpoint));
        let refused = self.fallback.taken.load(Ordering::Relaxed);
        match via {
            Via::PortForward => {
                if let Some(elsewhere) = elsewhere {
                    return Err(Error::Elsewhere(elsewhere.clone()));
                }
                route.bridge = None;
                route.tunnels = Some(Tunnels::One(self.port_forward(pod).await?));
            }
            Via::Auto if !refused && endpoints.iter().any(|it| is_own(&it)) => {
                match self.port_forward(pod).await {
                    Ok(tunnel) => route.tunnels = Some(Tunnels::One(tunnel)),
                    Err(error) if error.allows_exec() => {
                        if let Err(exec) = bridge.prepare().await {
                            return Err(Error::Neither {
                                port_forward: Box::new(error),
                                exec: Box::new(exec),
                            });
                        }
                        self.fallback.take(&error);
                    }
                    Err(error) => return Err(error),
                }
                if elsewhere.is_some() {
                    bridge.prepare().await?;
                }
            }
            Via::Exec | Via::Auto => bridge.prepare().await?,
        }
        Ok(route)
    }
}

impl Route {
    /// From now on connections have tunnels of their own, as far as there are enough; see [`Pool`]. `dialer` and `pod`
    /// are those that the route was made with.
    #[must_use]
    pub fn pooled(mut self, dialer: &Dialer, pod: &PodRef, limits: Limits) -> Self {
        if let Some(Tunnels::One(first)) = self.tunnels {
            let (dialer, pod) = (dialer.clone(), pod.clone());
            let dial = move || {
                let (dialer, pod) = (dialer.clone(), pod.clone());
                async move { dialer.port_forward(&pod).await }
            };
            self.tunnels = Some(Tunnels::Pool(Pool::new(first, dial, limits)));
        }
        self
    }

    /// Opens a stream. On a tunnel nothing is waited for: whether the port answers shows when the stream is read.
    /// Cancel-safe.
    ///
    /// # Errors
    /// The tunnel has ended, none can be dialled, or the command can't be started.
    pub async fn open(&self, endpoint: &Endpoint) -> Result<PodStream, Error> {
        let destination = Destination::of(endpoint);
        match (&self.tunnels, &self.bridge, endpoint) {
            (Some(Tunnels::One(tunnel)), bridge, Endpoint::Port(port)) => {
                let stream = tunnel.open(port.get())?;
                let next = bridge.clone().map(|bridge| (bridge, destination));
                Ok(PodStream::forwarded(stream, None, next))
            }
            (Some(Tunnels::Pool(pool)), bridge, Endpoint::Port(port)) => {
                let lease = pool.lease().await.map_err(Error::Shared)?;
                let stream = lease.open(port.get())?;
                let next = bridge.clone().map(|bridge| (bridge, destination));
                Ok(PodStream::forwarded(stream, Some(lease), next))
            }
            (_, Some(bridge), _) => {
                let bridged = bridge.open(&destination.address).await?;
                Ok(PodStream::bridged(bridged, bridge.clone(), destination))
            }
            (_, None, _) => Err(Error::Elsewhere(endpoint.clone())),
        }
    }

    /// The tunnels, where there is a pool of them.
    #[must_use]
    pub fn pool(&self) -> Option<&Pool<Error>> {
        match &self.tunnels {
            Some(Tunnels::Pool(pool)) => Some(pool),
            _ => None,
        }
    }

    /// Closes the tunnels. Takes a second at most.
    pub async fn close(self) {
        match self.tunnels {
            Some(Tunnels::One(tunnel)) => tunnel.close().await,
            Some(Tunnels::Pool(pool)) => pool.close().await,
            None => {}
        }
    }
}
