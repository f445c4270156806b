//! The relay: the gateway ends the user's SSH connection, has one of its own to the pod's sshd, and carries channels and
//! requests between them, in order, and with nobody's answer but the pod's.
//!
//! [`Upstream::connect`] logs in over any stream that leads to an sshd. It offers a fresh key with a certificate of the
//! gateway's own [`Authority`], for which the pod's `sshd_config` has one line (`TrustedUserCAKeys`), or a configured key;
//! the user's credential stays with the user. [`Pins`] hold a pod to the host key that it has shown first.
//!
//! For each channel of the user there is a [`Far`] in the pod: [`Upstream::session`] and its like open it *before* the
//! user's is confirmed, so that nothing is granted which the pod refuses. Requests go through [`Requests::ask`], which gives
//! the pod's answer. [`carry()`] then moves everything else, by the user's [`Near`] end and what the user has sent
//! ([`spool`](super::spool)). What the pod opens (connections to `-R`, the agent) comes as [`Arrival`]s, and only after it
//! was granted to it.
//!
//! Nothing here makes a connection's task wait, neither the user's nor the pod's: see [`spool`](super::spool).
//!
//! | file | what it is |
//! |---|---|
//! | `credential` | what a login in a pod is done with |
//! | `pins` | the host keys of pods |
//! | `client` | russh's callbacks |
//! | `far` | a channel to the pod, and its requests |
//! | `carry` | a channel, both ways, to its end |
//! | `duplex` | a stream to a pod as russh wants it |

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{AuthResult, Config, Handle, connect_stream};
use russh::keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg};
use russh::{ChannelOpenFailure, Preferred, SshId, compression};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::spool::{Limits, Quota};
use crate::untrusted::printable;
use client::{Client, HostKey, Pinned, SHOWN, Shared};

mod carry;
mod client;
mod credential;
mod duplex;
mod far;
mod pins;
mod signal;
#[cfg(test)]
mod tests;

pub use carry::{Carried, End, Gone, Kind, Near, NearGone, News, carry};
pub use client::ExitSignal;
pub use credential::{Authority, Credential, NotIssued, Subject};
pub use duplex::Duplex;
pub use far::{Arrival, Far, Origin, Requests};
pub use pins::{Changed, Pins};

/// Without a version, as the server's.
const IDENT: &str = "SSH-2.0-kpf";
/// From the first byte to a login. An sshd that asks the network who is calling takes some seconds.
const LOGIN: Duration = Duration::from_secs(30);
/// How long the pod may take to say whether it forwards.
const ANSWER: Duration = Duration::from_secs(15);
/// Channels that the pod has opened and nobody has looked at.
const ARRIVALS: usize = 16;
/// How long a connection that is not needed any more may take to say so.
const FAREWELL: Duration = Duration::from_secs(2);
/// Bytes that the pod may send on a channel before they are granted anew.
const WINDOW: u32 = 1 << 20;
/// As OpenSSH has it.
const PACKET: u32 = 32 * 1024;

/// Why there is no login in a pod. The texts are for users: fit to print.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers as SSH servers do.
    #[error(
        "nothing speaks SSH on port {port} of the pod ({reason}); is an sshd running there? Without one, log in without a login name before the +"
    )]
    NoServer {
        /// The pod's port.
        port: u16,
        /// What came instead.
        reason: String,
    },
    /// It isn't the one it was.
    #[error(
        "the pod's sshd shows another host key than before ({} instead of {}), though the pod is the same: something else may have taken its port. Nothing was sent to it. A new pod may have a new key: delete this one",
        .0.shown, .0.pinned
    )]
    HostKeyChanged(Changed),
    /// The gateway's certificate means nothing to it.
    #[error(
        "the pod's sshd does not let {login} in with the gateway's certificate. Its sshd_config needs the line \"TrustedUserCAKeys /etc/ssh/kpf.pub\", that file the line \"{authority}\", and the pod an account {login} that may log in"
    )]
    NotTrusted {
        /// The account.
        login: String,
        /// What its `TrustedUserCAKeys` needs.
        authority: String,
    },
    /// Nor does the configured key.
    #[error("the pod's sshd does not let {login} in with the key from the gateway's configuration")]
    KeyRefused {
        /// The account.
        login: String,
    },
    /// It speaks SSH, but not so that we get on with it.
    #[error("cannot log in to the pod's sshd: {0}")]
    Failed(String),
    /// It takes too long.
    #[error("the pod's sshd has not finished the login within {} s", LOGIN.as_secs())]
    TooSlow,
}

/// Why the pod does not open a channel.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The pod's sshd refuses it, with this reason; the user's client is to get the same.
    #[error("the pod's sshd refuses it: {0:?}")]
    Refused(ChannelOpenFailure),
    /// The connection to the pod is over.
    #[error("{0}")]
    Gone(String),
}

/// Whose sshd it is, for its host key.
#[derive(Clone, Debug)]
pub struct Target {
    /// The pod's uid: another pod of the same name has another key.
    pub uid: String,
    /// The port that the stream leads to.
    pub port: u16,
    /// The account to log in to.
    pub login: String,
}

/// What an [`Upstream`] needs besides a stream.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The host keys of pods.
    pub pins: Pins,
    /// Bounds for each channel.
    pub limits: Limits,
    /// The user's.
    pub quota: Quota,
}

/// A connection to a pod's sshd, logged in. Dropping it closes it and all of its channels.
pub struct Upstream {
    handle: Arc<Handle<Client>>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").finish_non_exhaustive()
    }
}

impl Upstream {
    /// Logs in over `stream`, within 30 s. What the pod opens comes out of the receiver, which is to be read; channels of
    /// its own are refused while it is full or gone. Cancelled, nothing is left.
    ///
    /// # Errors
    /// No sshd, another one than before, or one that doesn't let us in.
    pub async fn connect<S>(
        stream: S,
        target: Target,
        credential: Credential,
        settings: Settings,
    ) -> Result<(Self, mpsc::Receiver<Arrival>), Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Target { uid, port, login } = target;
        let Settings {
            pins,
            limits,
            quota,
        } = settings;
        let shared = Arc::new(Shared::new(limits, quota, Pinned { pins, uid, port }));
        let mut severed = Severed(Some(Arc::clone(&shared)));
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let client = Client {
            shared: Arc::clone(&shared),
            arrivals,
        };
        let stream = shared.valve.wrap(stream);
        let logging_in = async {
            let connected = connect_stream(Arc::new(config()), stream, client).await;
            let mut handle = connected.map_err(|error| refused(&shared, port, &error))?;
            log_in(&mut handle, &login, credential).await?;
            Ok(handle)
        };
        let handle = timeout(LOGIN, logging_in)
            .await
            .map_err(|_| match shared.host_key() {
                HostKey::Unseen => Error::NoServer {
                    port,
                    reason: format!("no key exchange within {} s", LOGIN.as_secs()),
                },
                _ => Error::TooSlow,
            })??;
        severed.0 = None;
        let upstream = Self {
            handle: Arc::new(handle),
            shared,
        };
        Ok((upstream, arrived))
    }

    /// Waits until the connection is over, and says why.
    pub async fn ended(&self) -> String {
        let mut ended = self.shared.ended();
        let ended = ended.wait_for(Option::is_some).await;
        if let Some(reason) = ended.ok().and_then(|reason| reason.clone()) {
            return reason;
        }
        std::future::pending().await // not while this is here
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.ended().borrow().is_some()
    }

    /// Opens a session.
    ///
    /// # Errors
    /// The pod refuses it, or is gone.
    pub async fn session(&self) -> Result<Far, OpenError> {
        let handle = Arc::clone(&self.handle);
        self.open(async move { handle.channel_open_session().await })
            .await
    }

    /// Has the pod connect to a port, of its own or elsewhere.
    ///
    /// # Errors
    /// The pod refuses it, can't connect, or is gone.
    pub async fn direct_tcpip(
        &self,
        host: String,
        port: u16,
        originator: String,
        originator_port: u32,
    ) -> Result<Far, OpenError> {
        let handle = Arc::clone(&self.handle);
        self.open(async move {
            handle
                .channel_open_direct_tcpip(host, u32::from(port), originator, originator_port)
                .await
        })
        .await
    }

    /// Has the pod connect to a Unix socket of its own.
    ///
    /// # Errors
    /// The pod refuses it, can't connect, or is gone.
    pub async fn direct_streamlocal(&self, path: String) -> Result<Far, OpenError> {
        let handle = Arc::clone(&self.handle);
        self.open(async move { handle.channel_open_direct_streamlocal(path).await })
            .await
    }

    /// Has the pod listen on a port, for `-R`; with port 0 on one that it chooses. The port, if it does.
    pub async fn tcpip_forward(&self, address: &str, port: u16) -> Option<u16> {
        let shared = &self.shared;
        // Before it is asked: connections may come as soon as the answer does.
        match port {
            0 => shared.grant_any_port(true),
            _ => shared.grant_port(u32::from(port), true),
        }
        let asking = self.handle.tcpip_forward(address, u32::from(port));
        let answer = shared.valve.awaiting(timeout(ANSWER, asking)).await;
        let bound = match answer {
            Ok(Ok(chosen)) if port == 0 => u16::try_from(chosen).ok().filter(|&it| it != 0),
            Ok(Ok(_)) => Some(port),
            _ => None,
        };
        match (port, bound) {
            (0, Some(bound)) => {
                shared.grant_port(u32::from(bound), true);
                shared.grant_any_port(false);
            }
            (0, None) => shared.grant_any_port(false),
            (port, None) => shared.grant_port(u32::from(port), false),
            (_, Some(_)) => {}
        }
        bound
    }

    /// Ends what [`tcpip_forward`](Self::tcpip_forward) began. Whether the pod says so.
    pub async fn cancel_tcpip_forward(&self, address: &str, port: u16) -> bool {
        let asking = self.handle.cancel_tcpip_forward(address, u32::from(port));
        let answer = self.shared.valve.awaiting(timeout(ANSWER, asking)).await;
        let ended = matches!(answer, Ok(Ok(())));
        if ended {
            self.shared.grant_port(u32::from(port), false);
        }
        ended
    }

    /// Has the pod listen on a Unix socket of its own. Whether it does.
    pub async fn streamlocal_forward(&self, path: &str) -> bool {
        self.shared.grant_socket(path, true);
        let asking = self.handle.streamlocal_forward(path);
        let answer = self.shared.valve.awaiting(timeout(ANSWER, asking)).await;
        let bound = matches!(answer, Ok(Ok(())));
        if !bound {
            self.shared.grant_socket(path, false);
        }
        bound
    }

    /// Ends what [`streamlocal_forward`](Self::streamlocal_forward) began. Whether the pod says so.
    pub async fn cancel_streamlocal_forward(&self, path: &str) -> bool {
        let asking = self.handle.cancel_streamlocal_forward(path);
        let answer = self.shared.valve.awaiting(timeout(ANSWER, asking)).await;
        let ended = matches!(answer, Ok(Ok(())));
        if ended {
            self.shared.grant_socket(path, false);
        }
        ended
    }

    /// Opens a channel. Given up meanwhile, it is closed as soon as it is open.
    async fn open(
        &self,
        opening: impl Future<Output = Result<Opened, russh::Error>> + Send + 'static,
    ) -> Result<Far, OpenError> {
        let (sender, receiver) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let opened = opening.await;
            let far = opened.map(|channel| Far::new(channel.split().1, &shared));
            let _ = sender.send(far); // dropped where nobody wants it any more
        });
        let opened = self.shared.valve.awaiting(receiver).await;
        match opened {
            Ok(Ok(Some(far))) => Ok(far),
            Ok(Err(russh::Error::ChannelOpenFailure(reason))) => Err(OpenError::Refused(reason)),
            _ => Err(OpenError::Gone(self.ended().await)),
        }
    }
}

type Opened = russh::Channel<russh::client::Msg>;

impl Drop for Upstream {
    fn drop(&mut self) {
        let severed = Severed(Some(Arc::clone(&self.shared)));
        let mut ended = self.shared.ended();
        let handle = Arc::clone(&self.handle);
        // Says goodbye if the pod takes it, and is gone in any case.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let farewell = async {
                    let reason = russh::Disconnect::ByApplication;
                    let _ = handle.disconnect(reason, "", "").await;
                    let _ = ended.wait_for(Option::is_some).await;
                };
                let _ = timeout(FAREWELL, farewell).await;
                drop(severed);
            });
        }
    }
}

/// Breaks a connection's stream off, and with it russh's task.
struct Severed(Option<Arc<Shared>>);

impl Drop for Severed {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.valve.sever();
        }
    }
}

fn config() -> Config {
    let keys = Preferred::DEFAULT.key.iter();
    // SHA-1 proves nothing.
    let keys = keys.filter(|it| !matches!(it, Algorithm::Rsa { hash: None }));
    Config {
        client_id: SshId::Standard(Cow::Borrowed(IDENT)),
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        // The tunnel beneath notices what is dead; and here an answer may lie unread, see `spool::Valve`.
        keepalive_interval: None,
        inactivity_timeout: None,
        preferred: Preferred {
            key: Cow::Owned(keys.cloned().collect()),
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        ..Config::default()
    }
}

async fn log_in(
    handle: &mut Handle<Client>,
    login: &str,
    credential: Credential,
) -> Result<(), Error> {
    let failed = |error: russh::Error| Error::Failed(printable(&error.to_string(), SHOWN));
    let login = login.to_owned();
    let (answer, refused) = match credential {
        Credential::Certificate {
            key,
            certificate,
            authority,
        } => (
            handle
                .authenticate_openssh_cert(login.clone(), key, *certificate)
                .await,
            Error::NotTrusted { login, authority },
        ),
        Credential::Key(key) => {
            // RSA signs with what the sshd takes; SHA-1 it never is.
            let hash = match key.algorithm().is_rsa() {
                false => None,
                true => match handle.best_supported_rsa_hash().await.map_err(failed)? {
                    Some(Some(hash)) => Some(hash),
                    _ => Some(HashAlg::Sha512),
                },
            };
            let key = PrivateKeyWithHashAlg::new(key, hash);
            (
                handle.authenticate_publickey(login.clone(), key).await,
                Error::KeyRefused { login },
            )
        }
    };
    match answer {
        Ok(AuthResult::Success) => Ok(()),
        // Also an sshd that knows no other way in, and closes the connection at once.
        Ok(AuthResult::Failure { .. }) | Err(russh::Error::NoAuthMethod) => Err(refused),
        Err(error) => Err(failed(error)),
    }
}

/// What it means that there is no key exchange.
fn refused(shared: &Shared, port: u16, error: &russh::Error) -> Error {
    let shown = || printable(&error.to_string(), SHOWN);
    match (shared.host_key(), error) {
        (HostKey::Changed(changed), _) => Error::HostKeyChanged(changed),
        (HostKey::Unseen, russh::Error::Version) => Error::NoServer {
            port,
            reason: "something else answers".to_owned(),
        },
        (HostKey::Unseen, russh::Error::Disconnect | russh::Error::HUP) => closed(port),
        (HostKey::Unseen, russh::Error::IO(error)) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => closed(port),
            // The container runtimes' words for it fill a page.
            io::ErrorKind::ConnectionRefused => Error::NoServer {
                port,
                reason: "connection refused".to_owned(),
            },
            _ => Error::NoServer {
                port,
                reason: shown(),
            },
        },
        _ => Error::Failed(shown()),
    }
}

fn closed(port: u16) -> Error {
    Error::NoServer {
        port,
        reason: "the connection was closed at once".to_owned(),
    }
}
