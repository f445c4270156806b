//! What russh calls for each message of a client. It runs on the connection's only task: nothing here waits for anybody.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;
use russh::keys::{Algorithm, Certificate};
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{ChannelId, ChannelOpenFailure, Pty, Sig};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::backlog::{Inlet, backlog};
use super::channel::{Channel, Opening, Output, Refused};
use super::connection::{Connection, User};
use crate::ssh::request::{Request, Size};
use crate::ssh::session::Gate;

/// Keys that a client may ask about before it has to log in: agents hold many, and asking costs a lookup.
const OFFERS: u32 = 30;
/// Channels of one connection. An editor opens some 20, a browser by `-D` far more.
const CHANNELS: usize = 128;
/// Those of them that are sessions, as sshd's MaxSessions.
const SESSIONS: usize = 10;
/// Bytes of one channel that may wait for its backend.
const BACKLOG: usize = 256 << 20;
/// Requests of a channel that may wait. A backend takes them at once; only a flood gets here.
const REQUESTS: usize = 128;
/// One client's.
pub(super) struct Client {
    connection: Arc<Connection>,
    /// Who it is, once it has logged in.
    user: Option<Arc<User>>,
    offers: u32,
    channels: HashMap<ChannelId, Inbound>,
}

/// What comes in on a channel.
struct Inbound {
    data: Inlet,
    /// Of a session.
    session: Option<(Gate, mpsc::Sender<Request>)>,
    gone: CancellationToken,
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl Client {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            user: None,
            offers: 0,
            channels: HashMap::new(),
        }
    }

    /// Makes a channel of what the client wants to open; `reply` is still to be given.
    fn open(
        &mut self,
        channel: russh::Channel<Msg>,
        session: Option<(Gate, mpsc::Sender<Request>)>,
        handle: russh::server::Handle,
    ) -> Channel {
        let id = channel.id();
        // Data comes by `data`: in order with the requests, and without a queue that could stop the connection.
        let (_, half) = channel.split();
        let (data, input) = backlog(BACKLOG);
        let gone = self.connection.gone.child_token();
        let inbound = Inbound {
            data,
            session,
            gone: gone.clone(),
        };
        self.channels.insert(id, inbound);
        Channel {
            input,
            output: Output::new(half, handle),
            gone,
        }
    }

    /// Who has logged in, unless it has too many channels.
    fn admit(&mut self, is_session: bool) -> Result<Arc<User>, ChannelOpenFailure> {
        let user = self.user.as_ref();
        let user = user.ok_or(ChannelOpenFailure::AdministrativelyProhibited)?;
        // russh says nothing of those that were closed from here.
        self.channels.retain(|_, inbound| inbound.data.is_read());
        let sessions = self.channels.values().filter(|it| it.session.is_some());
        if self.channels.len() >= CHANNELS || is_session && sessions.count() >= SESSIONS {
            return Err(Refused::Shortage.into());
        }
        Ok(user.clone())
    }

    /// Asks a session's gate, and hands on what it lets through.
    fn request(
        &mut self,
        id: ChannelId,
        request: Request,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let granted = self.take(id, request)?;
        match granted {
            true => session.channel_success(id),
            false => session.channel_failure(id),
        }
    }

    fn take(&mut self, id: ChannelId, request: Request) -> Result<bool, russh::Error> {
        let inbound = self.channels.get_mut(&id);
        let Some((gate, requests)) = inbound.and_then(|inbound| inbound.session.as_mut()) else {
            return Ok(false);
        };
        if !gate.admits(&request) {
            return Ok(false);
        }
        match requests.try_send(request) {
            Ok(()) => Ok(true),
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(false),
            Err(mpsc::error::TrySendError::Full(_)) => Err(russh::Error::Disconnect),
        }
    }
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        _user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        self.offers += 1;
        if self.offers > OFFERS {
            return Err(russh::Error::NoAuthMethod);
        }
        Ok(
            match may_sign(offer.algorithm) && self.connection.may_offer(offer.public_key) {
                true => Auth::Accept,
                false => Auth::reject(),
            },
        )
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        if !may_sign(key.algorithm) {
            return Ok(Auth::reject());
        }
        self.user = self.connection.log_in_by_key(user, key.public_key);
        Ok(self.verdict())
    }

    async fn auth_openssh_certificate(
        &mut self,
        _user: &str,
        _certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        Ok(Auth::reject())
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        self.connection.logged_in(session.handle());
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: russh::Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let user = match self.admit(true) {
            Ok(user) => user,
            Err(reason) => {
                reply.reject(reason).await;
                return Ok(());
            }
        };
        let (sender, requests) = mpsc::channel(REQUESTS);
        let gate = Gate::new(&user.login.caps);
        let channel = self.open(channel, Some((gate, sender)), session.handle());
        reply.accept().await;
        self.connection.session(user, channel, requests);
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: russh::Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let user = match self.admit(false) {
            Ok(user) => user,
            Err(reason) => {
                reply.reject(reason).await;
                return Ok(());
            }
        };
        let port = u16::try_from(port).ok().and_then(NonZeroU16::new);
        let Some(port) = port else {
            reply
                .reject(Refused::Failed("no such port".to_owned()).into())
                .await;
            return Ok(());
        };
        let channel = self.open(channel, None, session.handle());
        let opening = Opening::new(channel, reply);
        self.connection.jump(user, opening, host.to_owned(), port);
        Ok(())
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(inbound) = self.channels.get(&id) else {
            return Ok(());
        };
        if inbound.data.push(data).is_err() {
            // What has come so far can't be made whole any more: the channel ends, and no other.
            self.channels.remove(&id);
            let text = "kpf: more was sent than its receiver has taken in time; closing\r\n";
            session.extended_data(id, 1, Bytes::from_static(text.as_bytes()))?;
            session.close(id)?;
        }
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        if let Some(inbound) = self.channels.get(&id) {
            inbound.data.finish();
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.channels.remove(&id);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let modes = modes.iter().map(|(mode, value)| (*mode as u8, *value));
        let request = Request::Pty {
            term: term.to_owned(),
            size: Size {
                columns,
                rows,
                width,
                height,
            },
            modes: modes.collect(),
        };
        self.request(id, request, session)
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let request = Request::Env {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        self.request(id, request, session)
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.request(id, Request::Shell, session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.request(id, Request::Exec(command.to_owned()), session)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.request(id, Request::Subsystem(name.to_owned()), session)
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let size = Size {
            columns,
            rows,
            width,
            height,
        };
        self.request(id, Request::Resize(size), session)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        single: bool,
        protocol: &str,
        cookie: &str,
        screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let request = Request::X11 {
            single,
            protocol: protocol.to_owned(),
            cookie: cookie.to_owned(),
            screen,
        };
        self.request(id, request, session)
    }

    async fn agent_request(&mut self, id: ChannelId, _: &mut Session) -> Result<bool, Self::Error> {
        self.take(id, Request::Agent)
    }

    async fn signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        // It asks for no answer.
        self.take(id, Request::Signal(name_of(signal))).map(drop)
    }
}

impl Client {
    fn verdict(&self) -> Auth {
        match &self.user {
            Some(_) => Auth::Accept,
            None => Auth::reject(),
        }
    }
}

/// Whether a signature of this kind proves anything. SHA-1's are no more than a guess.
fn may_sign(algorithm: &Algorithm) -> bool {
    !matches!(algorithm, Algorithm::Rsa { hash: None } | Algorithm::Dsa)
}

/// Without `SIG`.
fn name_of(signal: Sig) -> String {
    let name = match signal {
        Sig::ABRT => "ABRT",
        Sig::ALRM => "ALRM",
        Sig::FPE => "FPE",
        Sig::HUP => "HUP",
        Sig::ILL => "ILL",
        Sig::INT => "INT",
        Sig::KILL => "KILL",
        Sig::PIPE => "PIPE",
        Sig::QUIT => "QUIT",
        Sig::SEGV => "SEGV",
        Sig::TERM => "TERM",
        Sig::USR1 => "USR1",
        Sig::Custom(name) => return name,
    };
    name.to_owned()
}
