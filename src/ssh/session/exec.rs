//! A session in a container without an SSH server: a command by pods/exec, with all that ssh passes on to one.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::script;
use super::{NO_STATUS, Start, complain, fail};
use crate::exec::hang_up::HangUp;
use crate::exec::{Command, Local, Size};
use crate::ssh::kubernetes::{Found, Reach};
use crate::ssh::name::Place;
use crate::ssh::request::{self, Request};
use crate::ssh::server::{Channel, Output, User};

/// For a second command that does no more than send a signal.
const SIGNAL: Duration = Duration::from_secs(10);
/// Sizes that may wait; only the last one counts.
const SIZES: usize = 8;

/// Runs it to its end, or until its client is gone: then it gets SIGHUP.
pub(super) async fn run(
    user: &User,
    place: &Place,
    start: Start,
    channel: Channel,
    requests: mpsc::Receiver<Request>,
) {
    let Channel {
        input,
        output,
        gone,
    } = channel;
    let hang_up = match HangUp::new() {
        Ok(hang_up) => hang_up,
        Err(error) => return fail(&output, &error.to_string()).await,
    };
    let found = tokio::select! {
        found = user.reach.container(place) => found,
        () = gone.cancelled() => return,
    };
    let found = match found {
        Ok(found) => found,
        Err(refusal) => return fail(&output, &refusal.to_string()).await,
    };
    let tty = start.pty.is_some();
    let command = Command {
        words: hang_up.wrap(script::words(&start)),
        container: Some(found.container.clone()),
        stdin: true,
        tty,
    };
    let running = async {
        let session = found.dialer.exec(&found.pod, &command).await;
        let session = session.map_err(|error| Reach::undialled(place, &error).to_string())?;
        let (sizes, resized) = mpsc::channel(SIZES);
        let mut stdout = HangUp::output(tty.then_some(&hang_up), output.stdout());
        let mut stderr = HangUp::output((!tty).then_some(&hang_up), output.stderr());
        let local = Local {
            stdin: Some(Typed { input, tty }),
            stdout: &mut stdout,
            stderr: &mut stderr,
            sizes: tty.then_some(Sizes(resized)),
        };
        if let Some((_, size)) = &start.pty {
            let _ = sizes.try_send(*size);
        }
        let status = tokio::select! {
            status = session.run(local) => status,
            () = obey(requests, sizes, &hang_up, &found) => unreachable!("it never ends"),
        };
        // What was held back and was no mark.
        for outcome in [stdout.finish().await, stderr.finish().await] {
            outcome.map_err(|error| error.to_string())?;
        }
        status.map_err(|error| error.to_string())
    };
    let status = tokio::select! {
        status = running => status,
        () = gone.cancelled() => return send(&hang_up, &found, "HUP").await,
    };
    let ending = async {
        match &status {
            Ok(code) => output.exit(u32::from(*code)).await,
            Err(reason) => {
                // The connection to it may be lost while it still runs.
                end(&output, reason).await;
            }
        }
    };
    tokio::select! {
        () = ending => {}
        () = gone.cancelled() => {}
    }
    if status.is_err() {
        send(&hang_up, &found, "HUP").await;
    }
}

async fn end(output: &Output, reason: &str) {
    complain(output, reason).await;
    output.exit(NO_STATUS).await;
}

/// Passes sizes and signals on, for as long as it is polled.
async fn obey(
    mut requests: mpsc::Receiver<Request>,
    sizes: mpsc::Sender<request::Size>,
    hang_up: &HangUp,
    found: &Found,
) {
    while let Some(request) = requests.recv().await {
        match request {
            // A terminal that takes no sizes has bigger problems than this one.
            Request::Resize(size) => drop(sizes.try_send(size)),
            Request::Signal(name) => send(hang_up, found, &name).await,
            _ => {}
        }
    }
    std::future::pending().await
}

/// Sends a signal to the command's process group, by a command of its own.
async fn send(hang_up: &HangUp, found: &Found, signal: &str) {
    let Some(command) = hang_up.signal(signal, Some(found.container.clone())) else {
        return;
    };
    let sending = async {
        let session = found.dialer.exec(&found.pod, &command).await;
        let session = session.map_err(|error| error.to_string())?;
        let nothing = Local {
            stdin: None::<tokio::io::Empty>,
            stdout: tokio::io::sink(),
            stderr: tokio::io::sink(),
            sizes: None::<Sizes>,
        };
        session
            .run(nothing)
            .await
            .map_err(|error| error.to_string())
    };
    match timeout(SIGNAL, sending).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, signal, "a command may not have got its signal"),
        Err(_) => tracing::warn!(signal, "a command may not have got its signal in time"),
    }
}

/// What the client types.
struct Typed<R> {
    input: R,
    tty: bool,
}

impl<R: AsyncRead + Unpin> AsyncRead for Typed<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = std::task::ready!(Pin::new(&mut self.input).poll_read(cx, buf));
        // Runtimes take the end of a terminal's input for the end of the session. sshd's goes on.
        if self.tty && read.is_ok() && buf.filled().len() == before {
            return Poll::Pending;
        }
        Poll::Ready(read)
    }
}

/// The sizes of a terminal that has one.
struct Sizes(mpsc::Receiver<request::Size>);

impl Stream for Sizes {
    type Item = Size;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Size>> {
        loop {
            let Some(size) = std::task::ready!(self.0.poll_recv(cx)) else {
                return Poll::Ready(None);
            };
            let [columns, rows] =
                [size.columns, size.rows].map(|it| u16::try_from(it).unwrap_or(u16::MAX));
            if let Some(size) = Size::new(columns, rows) {
                return Poll::Ready(Some(size));
            }
        }
    }
}
