//! What russh calls for each message of the pod's sshd, on the connection's only task: nothing here waits for anybody.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use russh::client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session};
use russh::keys::{PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelId, ChannelOpenFailure, Sig};
use tokio::sync::{mpsc, oneshot, watch};

use super::far::{Arrival, Far, Origin};
use super::pins::{Changed, Pins};
use crate::ssh::spool::{self, Limits, Quota, Valve};
use crate::untrusted::printable;

/// Channels that a pod may have open at a time without having been asked for each: connections to its `-R`, its agent and
/// its display.
const ARRIVED: usize = 64;
/// Characters of what an sshd says.
pub(super) const SHOWN: usize = 300;

/// What stands among a channel's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// What follows is extended data of this type, or plain.
    Stream(Option<u32>),
    Eof,
    ExitStatus(u32),
    ExitSignal(ExitSignal),
    /// The channel is closed; the last of all.
    Close,
}

/// What a process was ended by (RFC 4254 §6.10). Nothing here is fit to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitSignal {
    /// Without `SIG`.
    pub name: String,
    /// Whether it left a core.
    pub core: bool,
    /// What the sshd says about it.
    pub message: String,
    /// The language of that.
    pub language: String,
}

/// What came of the host key.
#[derive(Clone, Debug, Default)]
pub(super) enum HostKey {
    #[default]
    Unseen,
    Known,
    Changed(Changed),
}

/// The pod whose key is looked at.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) pins: Pins,
    pub(super) uid: String,
    pub(super) port: u16,
}

/// Shared by russh's task and those who have a channel.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) quota: Quota,
    pub(super) valve: Valve,
    pinned: Pinned,
    state: Mutex<State>,
    /// Why the connection is over, once it is.
    ended: watch::Sender<Option<String>>,
}

#[derive(Debug, Default)]
struct State {
    host_key: HostKey,
    channels: HashMap<ChannelId, Incoming>,
    granted: Granted,
    /// Of the channels those that the pod has opened.
    arrived: HashSet<ChannelId>,
}

/// What the pod may open channels for.
#[derive(Debug, Default)]
struct Granted {
    ports: HashSet<u32>,
    /// Requests under way for a port that the pod chooses: a connection may come before the answer is known here.
    any_port: usize,
    sockets: HashSet<String>,
    agent: bool,
    display: bool,
}

/// One channel, as the pod fills it.
#[derive(Debug)]
struct Incoming {
    /// None once the pod has closed it.
    data: Option<spool::Writer<Mark>>,
    stream: Option<u32>,
    /// Who waits for the answer to a request, in the order in which they were asked.
    answers: VecDeque<oneshot::Sender<bool>>,
    /// Until somebody has it.
    reader: Option<spool::Reader<Mark>>,
}

impl Shared {
    pub(super) fn new(limits: Limits, quota: Quota, pinned: Pinned) -> Self {
        Self {
            limits,
            quota,
            valve: Valve::default(),
            pinned,
            state: Mutex::default(),
            ended: watch::Sender::new(None),
        }
    }

    pub(super) fn host_key(&self) -> HostKey {
        self.lock().host_key.clone()
    }

    pub(super) fn ended(&self) -> watch::Receiver<Option<String>> {
        self.ended.subscribe()
    }

    /// What comes in on a channel that was confirmed. russh tells of that twice, and in no order.
    pub(super) fn claim(&self, id: ChannelId) -> Option<spool::Reader<Mark>> {
        let mut state = self.lock();
        if self.ended.borrow().is_some() {
            return None;
        }
        let incoming = self.incoming(&mut state, id);
        let reader = incoming.reader.take();
        if incoming.data.is_none() {
            state.channels.remove(&id); // nothing more can come
        }
        reader
    }

    fn incoming<'a>(&self, state: &'a mut State, id: ChannelId) -> &'a mut Incoming {
        state.channels.entry(id).or_insert_with(|| {
            let (data, reader) = spool::queue_behind(&self.limits, &self.quota, &self.valve);
            Incoming {
                data: Some(data),
                stream: None,
                answers: VecDeque::new(),
                reader: Some(reader),
            }
        })
    }

    /// Nobody wants to hear of it any more.
    pub(super) fn forget(&self, id: ChannelId) {
        let mut state = self.lock();
        state.arrived.remove(&id);
        let gone = state.channels.remove(&id);
        drop(state);
        drop(gone);
    }

    /// A request is about to be sent on a channel: its answer will come here.
    pub(super) fn expect(&self, id: ChannelId) -> Option<oneshot::Receiver<bool>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        state.channels.get_mut(&id)?.answers.push_back(sender);
        Some(receiver)
    }

    pub(super) fn grant_agent(&self) {
        self.lock().granted.agent = true;
    }

    pub(super) fn grant_display(&self) {
        self.lock().granted.display = true;
    }

    pub(super) fn grant_port(&self, port: u32, granted: bool) {
        let ports = &mut self.lock().granted.ports;
        match granted {
            true => ports.insert(port),
            false => ports.remove(&port),
        };
    }

    pub(super) fn grant_any_port(&self, granted: bool) {
        let any = &mut self.lock().granted.any_port;
        match granted {
            true => *any += 1,
            false => *any -= 1,
        }
    }

    pub(super) fn grant_socket(&self, path: &str, granted: bool) {
        let sockets = &mut self.lock().granted.sockets;
        match granted {
            true => sockets.insert(path.to_owned()),
            false => sockets.remove(path),
        };
    }

    /// The connection is over: every channel learns it, after what has arrived.
    pub(super) fn end(&self, reason: &str) {
        let mut state = self.lock();
        let channels = std::mem::take(&mut state.channels);
        self.ended.send_if_modified(|ended| {
            let news = ended.is_none();
            ended.get_or_insert_with(|| reason.to_owned());
            news
        });
        drop(state);
        for data in channels.into_values().filter_map(|it| it.data) {
            data.fail(reason);
        }
    }

    fn begin(&self, id: ChannelId) {
        self.incoming(&mut self.lock(), id);
    }

    /// A channel that nobody has, or whose reader has given up, takes nothing.
    fn mark(&self, id: ChannelId, mark: Mark) {
        let state = self.lock();
        let incoming = state.channels.get(&id);
        if let Some(data) = incoming.and_then(|it| it.data.as_ref()) {
            let _ = data.mark(mark); // its reader has the error
        }
    }

    fn data(&self, id: ChannelId, stream: Option<u32>, data: &[u8]) {
        let mut state = self.lock();
        let Some(incoming) = state.channels.get_mut(&id) else {
            return;
        };
        let Some(writer) = &incoming.data else { return };
        if incoming.stream != stream && !data.is_empty() {
            incoming.stream = stream;
            if writer.mark(Mark::Stream(stream)).is_err() {
                return;
            }
        }
        // Its reader has the error, and closes the channel.
        let _ = writer.push(Bytes::copy_from_slice(data));
    }

    fn answer(&self, id: ChannelId, granted: bool) {
        let mut state = self.lock();
        let incoming = state.channels.get_mut(&id);
        let asked = incoming.and_then(|it| it.answers.pop_front());
        if let Some(asked) = asked {
            let _ = asked.send(granted); // who has stopped waiting needs no answer
        }
    }

    fn close(&self, id: ChannelId) {
        let mut state = self.lock();
        state.arrived.remove(&id);
        let Some(incoming) = state.channels.get_mut(&id) else {
            return;
        };
        let data = incoming.data.take();
        incoming.answers.clear();
        if incoming.reader.is_none() {
            state.channels.remove(&id);
        }
        drop(state);
        if let Some(data) = data {
            let _ = data.mark(Mark::Close);
            data.finish();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's.
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) arrivals: mpsc::Sender<Arrival>,
}

impl Client {
    fn check(&self, key: &PublicKey) -> bool {
        let Pinned { pins, uid, port } = &self.shared.pinned;
        let checked = pins.check(uid, *port, key);
        let known = checked.is_ok();
        self.shared.lock().host_key = match checked {
            Ok(()) => HostKey::Known,
            Err(changed) => HostKey::Changed(changed),
        };
        known
    }

    /// Hands on what the pod has opened; without anybody who takes it, it is refused.
    fn arrive(&self, channel: Channel<Msg>, origin: Option<Origin>, reply: ChannelOpenHandle) {
        let Some(origin) = origin else {
            tracing::warn!("a pod's sshd opens a channel that nobody has asked for: refused");
            return; // dropping the reply refuses
        };
        let id = channel.id();
        if self.shared.lock().arrived.len() >= ARRIVED {
            tracing::warn!("a pod's sshd opens too many channels: refused");
            return;
        }
        self.shared.begin(id);
        self.shared.lock().arrived.insert(id);
        let (_, half) = channel.split();
        if let Some(far) = Far::new(half, &self.shared) {
            // Full: it is dropped, which refuses it.
            let _ = self.arrivals.try_send(Arrival::new(origin, far, reply));
        }
    }
}

impl Handler for Client {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        Ok(match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.check(key),
            // None was asked for.
            PublicKeyOrCertificate::Certificate(_) => false,
        })
    }

    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.shared.begin(id);
        Ok(())
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.shared.data(id, None, data);
        Ok(())
    }

    async fn extended_data(
        &mut self,
        id: ChannelId,
        stream: u32,
        data: &[u8],
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.shared.data(id, Some(stream), data);
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.shared.mark(id, Mark::Eof);
        Ok(())
    }

    async fn exit_status(
        &mut self,
        id: ChannelId,
        status: u32,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.shared.mark(id, Mark::ExitStatus(status));
        Ok(())
    }

    async fn exit_signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        core: bool,
        message: &str,
        language: &str,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let signal = ExitSignal {
            name: super::signal::name(&signal).to_owned(),
            core,
            message: message.to_owned(),
            language: language.to_owned(),
        };
        self.shared.mark(id, Mark::ExitSignal(signal));
        Ok(())
    }

    async fn channel_success(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.shared.answer(id, true);
        Ok(())
    }

    async fn channel_failure(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.shared.answer(id, false);
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.shared.close(id);
        Ok(())
    }

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        channel: Channel<Msg>,
        address: &str,
        port: u32,
        originator: &str,
        originator_port: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let granted = {
            let granted = &self.shared.lock().granted;
            granted.any_port > 0 || granted.ports.contains(&port)
        };
        let origin = granted.then(|| Origin::Port {
            address: address.to_owned(),
            port,
            originator: originator.to_owned(),
            originator_port,
        });
        self.arrive(channel, origin, reply);
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let granted = self.shared.lock().granted.sockets.contains(path);
        let origin = granted.then(|| Origin::Socket(path.to_owned()));
        self.arrive(channel, origin, reply);
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let granted = self.shared.lock().granted.agent;
        self.arrive(channel, granted.then_some(Origin::Agent), reply);
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        channel: Channel<Msg>,
        originator: &str,
        originator_port: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let granted = self.shared.lock().granted.display;
        let origin = granted.then(|| Origin::Display {
            originator: originator.to_owned(),
            originator_port,
        });
        self.arrive(channel, origin, reply);
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        refuse(reply).await
    }

    /// The pod's keys are not the gateway's: clients would file them under its name.
    async fn openssh_ext_host_keys_announced(
        &mut self,
        _: Vec<PublicKey>,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(())
    }

    async fn disconnected(
        &mut self,
        reason: DisconnectReason<Self::Error>,
    ) -> Result<(), Self::Error> {
        let text = match &reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                let said = printable(&info.message, SHOWN);
                format!("the pod's sshd has closed the connection: {said}")
            }
            DisconnectReason::Error(error) => lost(error),
        };
        self.shared.end(&text);
        Ok(())
    }
}

/// What became of a connection that nobody has ended by saying so.
fn lost(error: &russh::Error) -> String {
    match error {
        russh::Error::HUP | russh::Error::Disconnect => {
            "the connection to the pod has ended: the pod or its sshd is gone".to_owned()
        }
        russh::Error::IO(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the connection to the pod has ended: the pod or its sshd is gone".to_owned()
        }
        error => format!(
            "the connection to the pod is broken: {}",
            printable(&error.to_string(), SHOWN)
        ),
    }
}

/// A server opens none of these.
async fn refuse(reply: ChannelOpenHandle) -> Result<(), russh::Error> {
    tracing::warn!("a pod's sshd opens a channel that no server opens: refused");
    reply
        .reject(ChannelOpenFailure::AdministrativelyProhibited)
        .await;
    Ok(())
}

impl Drop for Client {
    /// However russh's task has ended.
    fn drop(&mut self) {
        self.shared
            .end("the connection to the pod has ended: the pod or its sshd is gone");
    }
}
