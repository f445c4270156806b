//! What russh calls for each message of a client. It runs on the connection's only task: nothing here waits for anybody,
//! but for a pod's sshd that is asked for something, and for that not long.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use russh::keys::{Algorithm, Certificate, HashAlg};
use russh::server::{
    Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{ChannelId, ChannelOpenFailure, Pty, Sig};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::channel::{Channel, Half, Opening, Output, Refused, Relayed};
use super::connection::{Connection, User};
use super::journal::Meter;
use crate::ssh::access::Refusal;
use crate::ssh::audit::{Kind, Requested};
use crate::ssh::door::Limit;
use crate::ssh::metrics::InUse;
use crate::ssh::request::{Request, Size};
use crate::ssh::session::Gate;
use crate::ssh::spool::{self, Writer};
use crate::untrusted::printable;

/// Requests of a channel that may wait. A backend takes them at once; only a flood gets here.
const REQUESTS: usize = 128;
/// Characters of a complaint.
const SHOWN: usize = 300;
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
    /// Until the client's EOF.
    data: Option<Writer>,
    /// Gone once nobody serves the channel any more.
    half: Weak<Half>,
    meter: Arc<Meter>,
    /// Of a session.
    session: Option<(Gate, mpsc::Sender<Request>)>,
    /// Where its requests are relayed.
    relayed: Arc<OnceLock<Relayed>>,
    gone: CancellationToken,
    /// Counted for as long as it is open.
    _open: InUse,
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.gone.cancel();
        let close = self.meter.channel_close("closed");
        self.meter.journal().note(close);
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
        user: &User,
        channel: russh::Channel<Msg>,
        session: Option<(Gate, mpsc::Sender<Request>)>,
        reply: ChannelOpenHandle,
        handle: russh::server::Handle,
    ) -> Opening {
        let id = channel.id();
        // Data comes by `data`: in order with the requests, and without a queue that could stop the connection.
        let (_, half) = channel.split();
        let half = Arc::new(half);
        let (data, input) = self.connection.queue(&user.login.identity);
        let gone = self.connection.gone.child_token();
        let meter = Arc::new(self.connection.meter(user, id.number(), gone.clone()));
        let kind = match session {
            Some(_) => "session",
            None => "direct-tcpip",
        };
        let inbound = Inbound {
            data: Some(data),
            half: Arc::downgrade(&half),
            meter: meter.clone(),
            session,
            relayed: Arc::default(),
            gone: gone.clone(),
            _open: user.metrics.channel(kind),
        };
        let relayed = inbound.relayed.clone();
        self.channels.insert(id, inbound);
        let valve = &self.connection.valve;
        let channel = Channel {
            input,
            output: Output::new(half, handle, meter, valve.clone()),
            gone,
            connection: self.connection.gone.clone(),
            reading: valve.awaited(),
        };
        Opening::new(channel, reply, relayed)
    }

    /// Who has logged in, unless it has too many channels.
    fn admit(&mut self, is_session: bool) -> Result<Arc<User>, ChannelOpenFailure> {
        let user = self.user.as_ref();
        let user = user.ok_or(ChannelOpenFailure::AdministrativelyProhibited)?;
        // russh says nothing of those that were closed from here.
        self.channels
            .retain(|_, inbound| inbound.half.strong_count() > 0);
        let sessions = self.channels.values().filter(|it| it.session.is_some());
        let limits = &self.connection.limits();
        let is_full = self.channels.len() >= limits.channels as usize;
        if is_full || is_session && sessions.count() >= limits.sessions as usize {
            let limit = match is_full {
                true => Limit::Channels,
                false => Limit::Sessions,
            };
            user.metrics.limit_hit(limit);
            user.journal.note(Kind::LimitHit {
                limit: limit.name(),
                count: 1,
            });
            return Err(Refused::Shortage.into());
        }
        Ok(user.clone())
    }

    /// Asks a session's gate, and hands on what it lets through.
    async fn request(
        &mut self,
        id: ChannelId,
        request: Request,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        let granted = self.take(id, request).await?;
        match granted {
            true => session.channel_success(id),
            false => session.channel_failure(id),
        }
    }

    async fn take(&mut self, id: ChannelId, request: Request) -> Result<bool, russh::Error> {
        let Some(inbound) = self.channels.get_mut(&id) else {
            return Ok(false);
        };
        if let Some(relayed) = inbound.relayed.get() {
            let is_size = matches!(request, Request::Resize(_));
            let what = Requested::from(&request);
            // Returns within 15 s, whatever the pod does.
            let granted = match relayed.gate.admits(request) {
                Some(request) => relayed.requests.ask(request).await,
                None => false,
            };
            if !is_size {
                let journal = inbound.meter.journal();
                journal.note(Kind::Request { what, ok: granted });
            }
            return Ok(granted);
        }
        let Some((gate, requests)) = &mut inbound.session else {
            return Ok(false);
        };
        let granted = gate.admits(&request);
        if !matches!(request, Request::Resize(_)) {
            let what = Requested::from(&request);
            let journal = inbound.meter.journal();
            journal.note(Kind::Request { what, ok: granted });
        }
        if !granted {
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
        if self.offers > self.connection.limits().offered_keys {
            return Err(russh::Error::NoAuthMethod);
        }
        Ok(
            match self
                .connection
                .may_offer(offer.public_key, offer.algorithm)
                .await
            {
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
        let login = match may_sign(key.algorithm) {
            true => self.connection.key(key.public_key).await,
            false => Err(Refusal::KeyAlgorithm),
        };
        let fingerprint = key.public_key.fingerprint(HashAlg::Sha256);
        self.user = self
            .connection
            .log_in(user, &fingerprint.to_string(), login);
        Ok(self.verdict())
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        let login = self.connection.certificate(certificate);
        let fingerprint = certificate.public_key().fingerprint(HashAlg::Sha256);
        self.user = self
            .connection
            .log_in(user, &fingerprint.to_string(), login);
        Ok(self.verdict())
    }

    async fn auth_succeeded(&mut self, session: &mut Session) -> Result<(), Self::Error> {
        if let Some(user) = &self.user {
            self.connection.logged_in(session.handle(), user.clone());
        }
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
        let gate = Gate::new(&user.login.caps, self.connection.limits());
        let session = (Some((gate, sender)), session.handle());
        let opening = self.open(&user, channel, session.0, reply, session.1);
        opening.meter().journal().note(Kind::ChannelOpen {
            ctype: "session".to_owned(),
            dest: None,
        });
        self.connection.session(user, opening, requests);
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: russh::Channel<Msg>,
        host: &str,
        port: u32,
        originator: &str,
        originator_port: u32,
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
        let opening = self.open(&user, channel, None, reply, session.handle());
        let from = (originator.to_owned(), originator_port);
        self.connection
            .jump(user, opening, host.to_owned(), port, from);
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: russh::Channel<Msg>,
        path: &str,
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
        let opening = self.open(&user, channel, None, reply, session.handle());
        self.connection.socket(user, opening, path.to_owned());
        Ok(())
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let inbound = self.channels.get(&id);
        let Some(writer) = inbound.and_then(|inbound| inbound.data.as_ref()) else {
            return Ok(());
        };
        if let Some(inbound) = inbound {
            inbound.meter.received(data);
        }
        match writer.push(Bytes::copy_from_slice(data)) {
            // Its backend has enough, and will close it.
            Ok(()) | Err(spool::Error::Unread) => Ok(()),
            Err(error) => {
                // What has come can't be made whole any more: this channel ends, and no other.
                self.channels.remove(&id);
                let text = format!("kpf: {}\r\n", printable(&error.to_string(), SHOWN));
                session.extended_data(id, 1, Bytes::from(text))?;
                session.close(id)
            }
        }
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        let inbound = self.channels.get_mut(&id);
        if let Some(writer) = inbound.and_then(|inbound| inbound.data.take()) {
            writer.finish();
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
        self.request(id, request, session).await
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
        self.request(id, request, session).await
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.request(id, Request::Shell, session).await
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.request(id, Request::Exec(command.to_owned()), session)
            .await
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.request(id, Request::Subsystem(name.to_owned()), session)
            .await
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
        self.request(id, Request::Resize(size), session).await
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
        self.request(id, request, session).await
    }

    async fn agent_request(&mut self, id: ChannelId, _: &mut Session) -> Result<bool, Self::Error> {
        self.take(id, Request::Agent).await
    }

    async fn signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        // It asks for no answer.
        let request = Request::Signal(name_of(signal));
        self.take(id, request).await.map(drop)
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
