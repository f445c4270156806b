//! A channel as a backend has it: what the client has sent, and ways to answer. Nothing of russh is in its interface.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{ChannelOpenFailure, ChannelWriteHalf, Sig};
use tokio::io::AsyncWrite;
use tokio_util::sync::CancellationToken;

use super::journal::{Meter, Metered};
use crate::ssh::audit::Direction;
use crate::ssh::relay::{Near, NearGone, News, Requests};
use crate::ssh::session::RelayGate;
use crate::ssh::spool::{Awaited, Reader, Valve};

/// russh's way to write to a channel.
pub(super) type Half = ChannelWriteHalf<Msg>;

/// Extended data of this type is stderr (RFC 4254 §5.2).
const STDERR: u32 = 1;

/// An open channel. Its client has no part in it any more once `gone`; whoever serves it then stops.
pub struct Channel {
    /// What the client sends, in order, to its EOF. All of it has been taken from the connection.
    pub input: Reader,
    /// What the client gets.
    pub output: Output,
    /// The channel or its connection is closed.
    pub gone: CancellationToken,
    /// The whole connection is.
    pub connection: CancellationToken,
    /// Keeps the connection's stream read. Only who writes through [`Near`] may drop it: others would wait for a window
    /// that nobody reads of.
    pub reading: Awaited,
}

/// What answers a session's requests in the place of the gateway.
#[derive(Clone)]
pub struct Relayed {
    /// What is passed on.
    pub gate: Arc<RelayGate>,
    /// Who is asked.
    pub requests: Requests,
}

/// The way to the client of a channel. Writing waits for the channel's own window, and for nobody else's.
#[derive(Clone)]
pub struct Output {
    half: Arc<Half>,
    handle: Handle,
    meter: Arc<Meter>,
    valve: Valve,
}

impl Output {
    pub(super) fn new(half: Arc<Half>, handle: Handle, meter: Arc<Meter>, valve: Valve) -> Self {
        Self {
            half,
            handle,
            meter,
            valve,
        }
    }

    /// What has gone through the channel, and its events.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Plain data: stdout, or a forwarded connection. Its shutdown is the channel's EOF. A write waits for ever once the
    /// channel is gone.
    pub fn stdout(&self) -> Pin<Box<dyn AsyncWrite + Send>> {
        Box::pin(Metered {
            inner: Box::pin(self.half.make_writer()),
            meter: self.meter.clone(),
            direction: Direction::Out,
        })
    }

    /// The same for stderr; not to be shut down.
    pub fn stderr(&self) -> Pin<Box<dyn AsyncWrite + Send>> {
        Box::pin(Metered {
            inner: Box::pin(self.half.make_writer_ext(Some(STDERR))),
            meter: self.meter.clone(),
            direction: Direction::Error,
        })
    }

    /// Answers the channel's last request, where the answer was put off.
    pub async fn answer(&self, granted: bool) {
        let id = self.half.id();
        // A connection that is gone needs no answer.
        let _ = match granted {
            true => self.handle.channel_success(id).await,
            false => self.handle.channel_failure(id).await,
        };
    }

    /// The end of a session that ran something.
    pub async fn exit(&self, status: u32) {
        // Each of these fails only where the connection is gone.
        let _ = self.half.exit_status(status).await;
        let _ = self.half.eof().await;
        self.close().await;
    }

    /// Ends the channel. Nothing may be written after it.
    pub async fn close(&self) {
        let _ = self.half.close().await;
    }
}

impl Near for Output {
    async fn data(&self, stream: Option<u32>, data: Bytes) -> Result<(), NearGone> {
        let direction = match stream {
            None => Direction::Out,
            Some(_) => Direction::Error,
        };
        let sending = async {
            match stream {
                None => self.half.data_bytes(data.clone()).await,
                Some(stream) => self.half.extended_data_bytes(stream, data.clone()).await,
            }
        };
        let sent = self.valve.awaiting(sending).await;
        sent.map_err(|_| NearGone)?;
        self.meter.sent(direction, &data);
        Ok(())
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
        Self::close(self).await;
    }
}

/// A channel that a client wants to open, and that was neither granted nor refused yet. Dropping it refuses it.
pub struct Opening {
    channel: Channel,
    reply: ChannelOpenHandle,
    relayed: Arc<OnceLock<Relayed>>,
}

/// Why a channel is not opened. The texts are shown by clients: fit to print.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody could have it.
    #[error("{0}")]
    Prohibited(String),
    /// It was tried.
    #[error("{0}")]
    Failed(String),
    /// The connection has enough of them.
    #[error("too many channels on this connection")]
    Shortage,
}

impl From<Refused> for ChannelOpenFailure {
    fn from(refused: Refused) -> Self {
        // RFC 4254 §5.1
        let code = match refused {
            Refused::Prohibited(_) => 1,
            Refused::Failed(_) => 2,
            Refused::Shortage => 4,
        };
        Self::Other {
            code,
            reason: refused.to_string(),
        }
    }
}

impl Opening {
    pub(super) fn new(
        channel: Channel,
        reply: ChannelOpenHandle,
        relayed: Arc<OnceLock<Relayed>>,
    ) -> Self {
        Self {
            channel,
            reply,
            relayed,
        }
    }

    /// The events of the channel.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        self.channel.output.meter()
    }

    /// Once the client has closed its connection.
    #[must_use]
    pub fn gone(&self) -> &CancellationToken {
        &self.channel.gone
    }

    /// Opens it.
    pub async fn accept(self) -> Channel {
        self.reply.accept().await;
        self.channel
    }

    /// Opens a session whose requests somebody else answers.
    pub async fn relay(self, relayed: Relayed) -> Channel {
        // Before a request can come.
        let _ = self.relayed.set(relayed);
        self.accept().await
    }

    /// Refuses it as somebody else has.
    pub async fn refuse_as(self, reason: ChannelOpenFailure) {
        self.reply.reject(reason).await;
    }

    /// Refuses it.
    pub async fn refuse(self, refused: Refused) {
        self.reply.reject(refused.into()).await;
    }
}
