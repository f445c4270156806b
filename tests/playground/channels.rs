//! Remote commands over WebSocket: `v5.channel.k8s.io` as API servers translate it, and the older ones of the runtimes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::faults::{ExecEnd, Io};
use super::legacy::Encoding;
use super::node::{Command, Inlet};
use super::runtime::{Channel, Ends, Remote};
use super::transport;

/// By which number each channel goes.
const CHANNELS: [Channel; 5] = [
    Channel::Stdin,
    Channel::Stdout,
    Channel::Stderr,
    Channel::Error,
    Channel::Resize,
];
const ERROR: u8 = 3;
/// v5: the client has no more to say on the channel in the second byte.
const CLOSE: u8 = 255;

/// How long a client may still send after the server's goodbye.
pub(crate) const LINGER: Duration = Duration::from_secs(1);

/// What the protocol's version changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// Text on the error channel instead of a Status.
    V1,
    V4,
    /// stdin can end.
    V5,
}

impl Version {
    pub(crate) fn of(protocol: &str) -> Self {
        match protocol.split('.').next() {
            Some("v5") => Self::V5,
            Some("v4") => Self::V4,
            _ => Self::V1,
        }
    }
}

/// Serves one command.
pub(crate) async fn serve(
    io: Box<dyn Io>,
    encoding: Encoding,
    version: Version,
    remote: Remote,
) -> io::Result<()> {
    let (mut sink, mut stream) = transport::accept(io).await.split();
    let faults = remote.faults.clone();
    sleep(faults.late).await;
    let wanted = remote.channels();
    // "established", on the first channel that there is of stdout, stderr and error
    let first = (1..=ERROR).find(|channel| wanted.contains(&CHANNELS[usize::from(*channel)]));
    sink.send(encoding.message(first.unwrap_or(ERROR), b""))
        .await
        .map_err(io::Error::other)?;

    let (stdin, from_client) = mpsc::channel(1);
    let (sizes, new_sizes) = mpsc::channel(1);
    let (to_client, mut commands) = mpsc::channel(4);
    let ends = Ends {
        stdin: Inlet::new(from_client, Arc::new(Notify::new())),
        sizes: Inlet::new(new_sizes, Arc::new(Notify::new())),
        to_client,
    };
    // not of this connection: it outlives its client
    tokio::spawn(remote.run(ends));

    let read = async {
        let mut stdin = Some(stdin);
        while let Some(Ok(message)) = stream.next().await {
            let Some((channel, bytes)) = encoding.parse(&message) else {
                continue;
            };
            match channel {
                // a process that doesn't read holds up the connection, pings included, as in the real server
                0 if !bytes.is_empty() => {
                    if let Some(stdin) = &stdin {
                        let _ = stdin.send(bytes).await;
                    }
                }
                4 => {
                    let _ = sizes.send(bytes).await;
                }
                CLOSE if version == Version::V5 => match bytes[..] {
                    [0] => stdin = None,
                    [1..=4] => {}
                    _ => return,
                },
                _ => {}
            }
        }
    };
    let write = async {
        while let Some(command) = commands.recv().await {
            // before the connection ends there is no way to say that a channel has
            if let Command::Data(channel, bytes) = command {
                let number = CHANNELS.iter().position(|it| *it == channel);
                let number = number.expect("all are there") as u8;
                let bytes = match version {
                    Version::V1 if number == ERROR => plain(&bytes),
                    _ => bytes,
                };
                sink.send(encoding.message(number, &bytes)).await?;
            }
        }
        end(&mut sink, faults.end).await
    };
    tokio::select! {
        () = read => return Ok(()),
        written = write => written.map_err(io::Error::other)?,
    }
    if faults.end == ExecEnd::Eof {
        return Ok(());
    }
    // closing a connection with unread bytes destroys those that are on their way
    let rest = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = timeout(LINGER, rest).await;
    Ok(())
}

/// Answers with a Status alone.
pub(crate) async fn refuse(io: Box<dyn Io>, status: Value) -> io::Result<()> {
    let mut socket = transport::accept(io).await;
    for bytes in [b"".as_slice(), status.to_string().as_bytes()] {
        let message = Encoding::Binary.message(ERROR, bytes);
        socket.send(message).await.map_err(io::Error::other)?;
    }
    end(&mut socket, ExecEnd::Usual)
        .await
        .map_err(io::Error::other)
}

async fn end<S>(sink: &mut S, end: ExecEnd) -> Result<(), S::Error>
where
    S: futures_util::Sink<Message> + Unpin,
{
    let code = match end {
        ExecEnd::Eof => return sink.flush().await,
        ExecEnd::Stay => return std::future::pending().await,
        ExecEnd::Close(code) => CloseCode::from(code),
        ExecEnd::Usual | ExecEnd::GoAway => CloseCode::Normal,
    };
    let frame = CloseFrame {
        code,
        reason: "".into(),
    };
    sink.send(Message::Close(Some(frame))).await
}

/// What v1 says of a Status.
fn plain(status: &Bytes) -> Bytes {
    let status: Value = serde_json::from_slice(status).unwrap_or_default();
    match status["status"].as_str() {
        Some("Success") => Bytes::new(),
        _ => status["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
            .into(),
    }
}
