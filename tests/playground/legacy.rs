//! The legacy WebSocket port-forward, `v4.channel.k8s.io`: channels instead of streams, one connection per port.

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::faults::{Behaviour, Io};
use super::node::{self, Command, Sandbox};
use super::transport;

/// The two forms of a message: binary `[channel][bytes]`, or text `channel + '0'` and base64.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Binary,
    Base64,
}

/// Serves one WebSocket. Port `i` of `ports` has the data channel `2i` and the error channel `2i + 1`.
pub(crate) async fn serve(
    io: Box<dyn Io>,
    encoding: Encoding,
    ports: Vec<u16>,
    sandbox: Arc<Sandbox>,
    behaviour: Behaviour,
) -> io::Result<()> {
    let (mut sink, mut stream) = transport::accept(io).await.split();
    let (sender, mut commands) = mpsc::channel::<Command<u8>>(8);
    let mut inlets = Vec::new();
    let mut forwards = JoinSet::new();
    for (index, port) in ports.into_iter().enumerate() {
        let channel = 2 * index as u8;
        for channel in [channel, channel + 1] {
            let announcement = encoding.message(channel, &port.to_le_bytes());
            sink.send(announcement).await.map_err(io::Error::other)?;
        }
        let (chunks, from_client) = mpsc::channel(1);
        inlets.push(chunks);
        let sandbox = sandbox.clone();
        let behaviour = behaviour.clone();
        let to_client = sender.clone();
        forwards.spawn(async move {
            let inlet = node::Inlet::new(from_client, Arc::new(Notify::new()));
            let ended = node::forward(&sandbox, port, &behaviour, inlet, &to_client, channel).await;
            if let Err(failure) = ended {
                let text = Bytes::from(failure.text);
                // a client that is gone reads no errors
                let _ = to_client.send(Command::Data(channel + 1, text)).await;
            }
        });
    }
    drop(sender);

    let read = async {
        while let Some(Ok(message)) = stream.next().await {
            let Some((channel, bytes)) = encoding.parse(&message) else {
                continue;
            };
            // an error channel, or one that doesn't exist, takes nothing
            if channel % 2 == 0
                && let Some(inlet) = inlets.get(usize::from(channel / 2))
            {
                // one port that is not read holds up all of them, as in the real server
                let _ = inlet.send(bytes).await;
            }
        }
        inlets.clear();
        // the forwards see their end and finish; what they still send goes nowhere
        std::future::pending::<()>().await;
    };
    let write = async {
        while let Some(command) = commands.recv().await {
            // there is no way to say that a direction has ended
            if let Command::Data(channel, bytes) = command
                && !bytes.is_empty()
                && sink.send(encoding.message(channel, &bytes)).await.is_err()
            {
                commands.close();
            }
        }
        let _ = sink.close().await;
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
    Ok(())
}

impl Encoding {
    pub(crate) fn message(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut message = BytesMut::with_capacity(1 + bytes.len());
                message.put_u8(channel);
                message.put_slice(bytes);
                Message::Binary(message.freeze())
            }
            Self::Base64 => {
                let channel = char::from(b'0' + channel);
                Message::text(format!("{channel}{}", STANDARD.encode(bytes)))
            }
        }
    }

    pub(crate) fn parse(self, message: &Message) -> Option<(u8, Bytes)> {
        match (self, message) {
            (Self::Binary, Message::Binary(bytes)) => Some((*bytes.first()?, bytes.slice(1..))),
            (Self::Base64, Message::Text(text)) => {
                let (channel, encoded) = text.as_bytes().split_first()?;
                let bytes = STANDARD.decode(encoded).ok()?;
                Some((channel.checked_sub(b'0')?, bytes.into()))
            }
            _ => None,
        }
    }
}
