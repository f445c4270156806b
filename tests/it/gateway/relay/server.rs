//! A gateway that has nothing but the relay, in front of a private sshd: who logs in is always let in, and is in its pod.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use kpf::ssh::access::Caps;
use kpf::ssh::relay::{
    Arrival, Authority, Carried, Credential, Far, Gone, Kind, Near, NearGone, News, OpenError,
    Origin, Pins, Requests, Settings, Subject, Target, Upstream, carry,
};
use kpf::ssh::request::{Request, Size};
use kpf::ssh::spool::{self, Limits, Quota, Valve};
use russh::keys::key::safe_rng;
use russh::keys::{Algorithm, PrivateKey};
use russh::server::{
    Auth, ChannelOpenHandle, Config, Handle, Handler, Msg, Session, VerifiedPublicKey, run_stream,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, ChannelWriteHalf, Pty, Sig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, mpsc};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

type Dialing = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// What the gateway of a test is made of.
pub(super) struct Setup {
    pub(super) dial: Box<dyn Fn() -> Dialing + Send + Sync>,
    pub(super) authority: Authority,
    pub(super) login: String,
    pub(super) caps: Caps,
    pub(super) limits: Limits,
    pub(super) quota: Quota,
    pub(super) pins: Pins,
}

/// A gateway; it ends when this is dropped.
pub(super) struct Gateway {
    pub(super) address: SocketAddr,
    pub(super) setup: Arc<Setup>,
    /// What channels have done, as they end.
    pub(super) carried: Arc<Mutex<Vec<Carried>>>,
    accepting: AbortHandle,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Gateway {
    pub(super) async fn start(setup: Setup) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let setup = Arc::new(setup);
        let carried = Arc::<Mutex<Vec<Carried>>>::default();
        let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
        let config = Arc::new(Config {
            keys: vec![key],
            auth_rejection_time: Duration::ZERO,
            auth_rejection_time_initial: Some(Duration::ZERO),
            window_size: 1 << 20,
            inactivity_timeout: Some(Duration::from_secs(150)),
            ..Config::default()
        });
        let (of_tasks, of_gateway) = (setup.clone(), carried.clone());
        let accepting = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let valve = Valve::default();
                let link = Arc::new(Link {
                    setup: of_tasks.clone(),
                    carried: of_gateway.clone(),
                    upstream: OnceCell::new(),
                    valve: valve.clone(),
                    channels: Mutex::default(),
                    gone: CancellationToken::new(),
                });
                let config = config.clone();
                tokio::spawn(async move {
                    let gone = link.gone.clone().drop_guard();
                    if let Ok(session) = run_stream(config, valve.wrap(socket), User(link)).await {
                        let _ = session.await;
                    }
                    drop(gone);
                });
            }
        });
        Self {
            address,
            setup,
            carried,
            accepting: accepting.abort_handle(),
        }
    }
}

/// One user's connection, and the one to the pod.
struct Link {
    setup: Arc<Setup>,
    carried: Arc<Mutex<Vec<Carried>>>,
    upstream: OnceCell<Result<Upstream, String>>,
    /// Of the user's stream.
    valve: Valve,
    channels: Mutex<HashMap<ChannelId, Inbound>>,
    gone: CancellationToken,
}

/// What comes in on a channel of the user's.
struct Inbound {
    input: Option<spool::Writer>,
    /// Until it is claimed, where the channel was opened from here.
    reader: Option<spool::Reader>,
    requests: Arc<OnceLock<Requests>>,
    gone: CancellationToken,
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

/// A channel's parts, for the one who serves it.
struct Served {
    reader: spool::Reader,
    requests: Arc<OnceLock<Requests>>,
    gone: CancellationToken,
}

impl Link {
    async fn upstream(self: &Arc<Self>, handle: Handle) -> Result<&Upstream, String> {
        let upstream = self.upstream.get_or_init(|| async {
            let setup = &self.setup;
            let stream = (setup.dial)().await.map_err(|error| error.to_string())?;
            let subject = Subject {
                login: &setup.login,
                user: "alice",
                session: "s1",
                caps: &setup.caps,
            };
            let credential: Credential = setup.authority.issue(subject, SystemTime::now()).unwrap();
            let target = Target {
                uid: "uid".to_owned(),
                port: 22,
                login: setup.login.clone(),
            };
            let settings = Settings {
                pins: setup.pins.clone(),
                limits: setup.limits.clone(),
                quota: setup.quota.clone(),
            };
            let connected = Upstream::connect(stream, target, credential, settings).await;
            let (upstream, arrivals) = connected.map_err(|error| error.to_string())?;
            tokio::spawn(receive(self.clone(), handle, arrivals));
            Ok(upstream)
        });
        upstream.await.as_ref().map_err(Clone::clone)
    }

    fn begin(&self, id: ChannelId) {
        self.inbound(&mut self.channels.lock().unwrap(), id);
    }

    /// russh confirms a channel twice, and in no order.
    fn inbound<'a>(
        &self,
        channels: &'a mut HashMap<ChannelId, Inbound>,
        id: ChannelId,
    ) -> &'a mut Inbound {
        let Setup { limits, quota, .. } = self.setup.as_ref();
        channels.entry(id).or_insert_with(|| {
            let (writer, reader) = spool::queue_behind(limits, quota, &self.valve);
            Inbound {
                input: Some(writer),
                reader: Some(reader),
                requests: Arc::default(),
                gone: CancellationToken::new(),
            }
        })
    }

    /// For a channel that was opened from here: one that the user has closed since then is not found again, and ends
    /// with its connection.
    fn claim(&self, id: ChannelId) -> Option<Served> {
        let mut channels = self.channels.lock().unwrap();
        let inbound = self.inbound(&mut channels, id);
        Some(Served {
            reader: inbound.reader.take()?,
            requests: inbound.requests.clone(),
            gone: inbound.gone.clone(),
        })
    }

    fn requests(&self, id: ChannelId) -> Option<Requests> {
        let channels = self.channels.lock().unwrap();
        channels.get(&id)?.requests.get().cloned()
    }

    async fn serve(&self, far: Far, kind: Kind, served: Served, near: UserEnd) {
        let gone = Gone {
            channel: served.gone,
            connection: self.gone.clone(),
        };
        let carried = carry(far, kind, served.reader, near, gone).await;
        self.carried.lock().unwrap().push(carried);
    }

    /// Opens a channel in the pod, then the user's; and carries it.
    fn open<F>(
        self: &Arc<Self>,
        channel: Channel<Msg>,
        kind: Kind,
        reply: ChannelOpenHandle,
        handle: Handle,
        open: F,
    ) where
        F: for<'a> FnOnce(&'a Upstream) -> Opening<'a> + Send + 'static,
    {
        let id = channel.id();
        self.begin(id);
        let (_, half) = channel.split();
        let link = self.clone();
        tokio::spawn(async move {
            let opened = match link.upstream(handle.clone()).await {
                Ok(upstream) => open(upstream).await.map_err(|error| match error {
                    OpenError::Refused(reason) => reason,
                    OpenError::Gone(reason) => ChannelOpenFailure::Other { code: 2, reason },
                }),
                Err(reason) => Err(ChannelOpenFailure::Other { code: 2, reason }),
            };
            let served = link.claim(id);
            match (opened, served) {
                (Ok(far), Some(served)) => {
                    served.requests.set(far.requests()).unwrap();
                    reply.accept().await;
                    let near = UserEnd {
                        half,
                        handle,
                        valve: link.valve.clone(),
                    };
                    link.serve(far, kind, served, near).await;
                }
                (Ok(_), None) => {}
                (Err(reason), _) => reply.reject(reason).await,
            }
            link.channels.lock().unwrap().remove(&id);
        });
    }

    async fn ask(&self, id: ChannelId, request: Request) -> bool {
        match self.requests(id) {
            Some(requests) => requests.ask(request).await,
            None => false,
        }
    }
}

type Opening<'a> = Pin<Box<dyn Future<Output = Result<Far, OpenError>> + Send + 'a>>;

/// Serves what the pod opens.
async fn receive(link: Arc<Link>, handle: Handle, mut arrivals: mpsc::Receiver<Arrival>) {
    let gone = link.gone.clone();
    while let Some(Some(arrival)) = gone.run_until_cancelled(arrivals.recv()).await {
        let (link, handle) = (link.clone(), handle.clone());
        tokio::spawn(async move {
            let opened = match arrival.origin.clone() {
                Origin::Port {
                    address,
                    port,
                    originator,
                    originator_port,
                } => {
                    handle
                        .channel_open_forwarded_tcpip(address, port, originator, originator_port)
                        .await
                }
                Origin::Socket(path) => handle.channel_open_forwarded_streamlocal(path).await,
                Origin::Agent => handle.channel_open_agent().await,
                Origin::Display {
                    originator,
                    originator_port,
                } => handle.channel_open_x11(originator, originator_port).await,
            };
            let (_, half) = match opened {
                Ok(channel) => channel.split(),
                Err(russh::Error::ChannelOpenFailure(reason)) => {
                    return arrival.refuse(reason).await;
                }
                Err(_) => return,
            };
            let id = half.id();
            let Some(served) = link.claim(id) else { return };
            let far = arrival.accept().await;
            let near = UserEnd {
                half,
                handle,
                valve: link.valve.clone(),
            };
            link.serve(far, Kind::Forward, served, near).await;
            link.channels.lock().unwrap().remove(&id);
        });
    }
}

struct UserEnd {
    half: ChannelWriteHalf<Msg>,
    handle: Handle,
    valve: Valve,
}

impl Near for UserEnd {
    async fn data(&self, stream: Option<u32>, data: Bytes) -> Result<(), NearGone> {
        let sending = async {
            match stream {
                None => self.half.data_bytes(data).await,
                Some(stream) => self.half.extended_data_bytes(stream, data).await,
            }
        };
        self.valve.awaiting(sending).await.map_err(|_| NearGone)
    }

    async fn tell(&self, news: News) -> Result<(), NearGone> {
        match news {
            News::Eof => self.half.eof().await.map_err(|_| NearGone),
            News::ExitStatus(status) => self.half.exit_status(status).await.map_err(|_| NearGone),
            News::ExitSignal(signal) => {
                let telling = self.handle.exit_signal_request(
                    self.half.id(),
                    Sig::Custom(signal.name),
                    signal.core,
                    signal.message,
                    signal.language,
                );
                telling.await.map_err(|()| NearGone)
            }
        }
    }

    async fn close(&self) {
        let _ = self.half.close().await;
    }
}

struct User(Arc<Link>);

impl User {
    async fn relayed(
        &self,
        id: ChannelId,
        request: Request,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        match self.0.ask(id, request).await {
            true => session.channel_success(id),
            false => session.channel_failure(id),
        }
    }
}

impl Handler for User {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _: &str,
        _: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let handle = session.handle();
        self.0
            .open(channel, Kind::Session, reply, handle, |upstream| {
                Box::pin(upstream.session())
            });
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        originator: &str,
        originator_port: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let handle = session.handle();
        let (host, originator) = (host.to_owned(), originator.to_owned());
        let port = u16::try_from(port).unwrap_or_default();
        self.0
            .open(channel, Kind::Forward, reply, handle, move |upstream| {
                Box::pin(upstream.direct_tcpip(host, port, originator, originator_port))
            });
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let handle = session.handle();
        let path = path.to_owned();
        self.0
            .open(channel, Kind::Forward, reply, handle, move |upstream| {
                Box::pin(upstream.direct_streamlocal(path))
            });
        Ok(())
    }

    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _: u32,
        _: u32,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.0.begin(id);
        Ok(())
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let mut channels = self.0.channels.lock().unwrap();
        let input = channels.get(&id).and_then(|it| it.input.as_ref());
        let pushed = input.map(|input| input.push(Bytes::copy_from_slice(data)));
        if let Some(Err(error)) = pushed
            && !matches!(error, spool::Error::Unread)
        {
            channels.remove(&id);
            session.close(id)?;
        }
        Ok(())
    }

    async fn channel_eof(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        let mut channels = self.0.channels.lock().unwrap();
        if let Some(input) = channels.get_mut(&id).and_then(|it| it.input.take()) {
            input.finish();
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.0.channels.lock().unwrap().remove(&id);
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
        let request = Request::Pty {
            term: term.to_owned(),
            size: Size {
                columns,
                rows,
                width,
                height,
            },
            modes: modes
                .iter()
                .map(|&(mode, value)| (mode as u8, value))
                .collect(),
        };
        self.relayed(id, request, session).await
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
        self.relayed(id, request, session).await
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.relayed(id, Request::Shell, session).await
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let request = Request::Exec(command.to_owned());
        self.relayed(id, request, session).await
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let request = Request::Subsystem(name.to_owned());
        self.relayed(id, request, session).await
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
        let request = Request::Resize(Size {
            columns,
            rows,
            width,
            height,
        });
        self.relayed(id, request, session).await
    }

    async fn signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let name = match signal {
            Sig::INT => "INT".to_owned(),
            Sig::TERM => "TERM".to_owned(),
            Sig::Custom(name) => name,
            other => format!("{other:?}"),
        };
        self.0.ask(id, Request::Signal(name)).await;
        Ok(())
    }

    async fn agent_request(&mut self, id: ChannelId, _: &mut Session) -> Result<bool, Self::Error> {
        Ok(self.0.ask(id, Request::Agent).await)
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
        self.relayed(id, request, session).await
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let Ok(upstream) = self.0.upstream(session.handle()).await else {
            return Ok(false);
        };
        let wanted = u16::try_from(*port).unwrap_or_default();
        let bound = upstream.tcpip_forward(address, wanted).await;
        if let Some(bound) = bound {
            *port = u32::from(bound);
        }
        Ok(bound.is_some())
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let Ok(upstream) = self.0.upstream(session.handle()).await else {
            return Ok(false);
        };
        let port = u16::try_from(port).unwrap_or_default();
        Ok(upstream.cancel_tcpip_forward(address, port).await)
    }

    async fn streamlocal_forward(
        &mut self,
        path: &str,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let Ok(upstream) = self.0.upstream(session.handle()).await else {
            return Ok(false);
        };
        Ok(upstream.streamlocal_forward(path).await)
    }
}
