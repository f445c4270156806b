//! A channel to the pod's sshd.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::client::{ChannelOpenHandle, Msg};
use russh::{ChannelOpenFailure, ChannelWriteHalf, Pty};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::client::{Mark, Shared};
use super::signal;
use crate::ssh::request::Request;
use crate::ssh::spool;

/// How long an sshd may take to answer a request. A slow machine starts a shell within it.
const ANSWER: Duration = Duration::from_secs(15);

/// An open channel. Dropping it closes it, and a process that runs in it gets SIGHUP as from any sshd.
#[derive(Debug)]
pub struct Far {
    pub(super) incoming: spool::Reader<Mark>,
    pub(super) outgoing: Outgoing,
}

/// The way to the pod.
#[derive(Clone, Debug)]
pub(super) struct Outgoing(Arc<Half>);

#[derive(Debug)]
struct Half {
    half: ChannelWriteHalf<Msg>,
    shared: Arc<Shared>,
    /// Held while a request is on its way: answers come in the order of the requests.
    asking: Mutex<()>,
}

impl Far {
    /// None if the connection has ended.
    pub(super) fn new(half: ChannelWriteHalf<Msg>, shared: &Arc<Shared>) -> Option<Self> {
        let incoming = shared.claim(half.id())?;
        let half = Half {
            half,
            shared: Arc::clone(shared),
            asking: Mutex::new(()),
        };
        Some(Self {
            incoming,
            outgoing: Outgoing(Arc::new(half)),
        })
    }

    /// What asks the pod's sshd for things on this channel.
    #[must_use]
    pub fn requests(&self) -> Requests {
        Requests(self.outgoing.clone())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.outgoing.0.shared.forget(self.outgoing.0.half.id());
        let outgoing = self.outgoing.clone();
        // Closing waits for a place in russh's queue, and for nothing else.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { outgoing.close().await });
        }
    }
}

/// The connection is over; the reader of the channel knows why.
#[derive(Debug)]
pub(super) struct Gone;

impl Outgoing {
    /// Waits for the channel's window.
    pub(super) async fn data(&self, data: Bytes) -> Result<(), Gone> {
        let sending = self.0.half.data_bytes(data);
        let sent = self.0.shared.valve.awaiting(sending).await;
        sent.map_err(|_| Gone)
    }

    pub(super) async fn eof(&self) -> Result<(), Gone> {
        self.0.half.eof().await.map_err(|_| Gone)
    }

    pub(super) async fn close(&self) {
        let _ = self.0.half.close().await; // fails where there is nothing left to close
    }
}

/// Asks the pod's sshd for things on a session channel. Clones ask in turn.
///
/// A server's engine calls [`ask`](Self::ask) for one request after the other, and answers its client as it was answered:
/// russh has one note per channel of whether an answer is wanted, so that the next request may not be read before.
#[derive(Clone, Debug)]
pub struct Requests(Outgoing);

impl Requests {
    /// Whether the pod's sshd grants it. What has no answer (a size, a signal) is passed on, and counts as granted.
    ///
    /// Returns within 15 s whatever the sshd does: without an answer it is not granted. Cancelled, the request may have
    /// been passed on.
    pub async fn ask(&self, request: Request) -> bool {
        let Half {
            half,
            shared,
            asking,
        } = self.0.0.as_ref();
        let turn = asking.lock().await;
        // Before it is asked: a channel for it may come as soon as the answer does.
        match request {
            Request::Agent => shared.grant_agent(),
            Request::X11 { .. } => shared.grant_display(),
            _ => {}
        }
        let sent = match request {
            Request::Resize(size) => {
                let sent = half.window_change(size.columns, size.rows, size.width, size.height);
                return sent.await.is_ok();
            }
            Request::Signal(name) => return half.signal(signal::of(&name)).await.is_ok(),
            request => match shared.expect(half.id()) {
                Some(answer) => send(half, request).await.map(|()| answer),
                None => return false,
            },
        };
        drop(turn);
        let Ok(answer) = sent else { return false };
        let answered = shared.valve.awaiting(timeout(ANSWER, answer)).await;
        matches!(answered, Ok(Ok(true)))
    }
}

async fn send(half: &ChannelWriteHalf<Msg>, request: Request) -> Result<(), russh::Error> {
    match request {
        Request::Pty { term, size, modes } => {
            let modes: Vec<(Pty, u32)> = modes
                .iter()
                .filter_map(|&(code, value)| Some((Pty::from_u8(code)?, value)))
                .collect();
            half.request_pty(
                true,
                &term,
                size.columns,
                size.rows,
                size.width,
                size.height,
                &modes,
            )
            .await
        }
        Request::Env { name, value } => half.set_env(true, name, value).await,
        Request::Shell => half.request_shell(true).await,
        Request::Exec(command) => half.exec(true, command).await,
        Request::Subsystem(name) => half.request_subsystem(true, name).await,
        Request::Agent => half.agent_forward(true).await,
        Request::X11 {
            single,
            protocol,
            cookie,
            screen,
        } => {
            half.request_x11(true, single, protocol, cookie, screen)
                .await
        }
        // They have no answer.
        Request::Resize(_) | Request::Signal(_) => Ok(()),
    }
}

/// Where a channel comes from that the pod has opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A connection to a port that the user's `-R` has the pod listen on.
    Port {
        /// The address, as it was asked for.
        address: String,
        /// The port.
        port: u32,
        /// Who has connected.
        originator: String,
        /// From which port.
        originator_port: u32,
    },
    /// The same to a Unix socket.
    Socket(String),
    /// Something in the pod asks for the user's agent.
    Agent,
    /// Something in the pod opens a window on the user's display.
    Display {
        /// Who has connected.
        originator: String,
        /// From which port.
        originator_port: u32,
    },
}

/// A channel that the pod wants to open. Dropping it refuses it.
#[derive(Debug)]
pub struct Arrival {
    /// What it is for; the pod was granted that.
    pub origin: Origin,
    far: Far,
    reply: Reply,
}

struct Reply(ChannelOpenHandle);

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

impl Arrival {
    pub(super) fn new(origin: Origin, far: Far, reply: ChannelOpenHandle) -> Self {
        Self {
            origin,
            far,
            reply: Reply(reply),
        }
    }

    /// Opens it, once the user's side is open.
    pub async fn accept(self) -> Far {
        self.reply.0.accept().await;
        self.far
    }

    /// Refuses it as the user's side was refused.
    pub async fn refuse(self, reason: ChannelOpenFailure) {
        self.reply.0.reject(reason).await;
    }
}
