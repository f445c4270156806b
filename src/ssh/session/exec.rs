//! A session in a container without an SSH server: a command by pods/exec, with all that ssh passes on to one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::script;
use super::tape::Tape;
use super::{NO_STATUS, Start, complain, fail, say};
use crate::exec::hang_up::HangUp;
use crate::exec::{Command, Local, Size};
use crate::ssh::audit::{self, Exit, Kind};
use crate::ssh::kubernetes::{Found, Refusal};
use crate::ssh::name::Place;
use crate::ssh::policy::{Backend, OnDisconnect};
use crate::ssh::request::{self, Request};
use crate::ssh::server::{Channel, Output, User};
use crate::ssh::spool::Reader;
use crate::ssh::way;

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
        reading: _reading,
        ..
    } = channel;
    let journal = output.meter().journal().clone();
    let deny = async |reason: &str, told: &str| {
        user.metrics.target_error("denied");
        journal.note(Kind::TargetDeny {
            name: user.name.clone(),
            reason: reason.to_owned(),
        });
        fail(&output, told).await;
    };
    let grant = match user.grant(place) {
        Some(grant) if grant.allows(Backend::Exec) => grant,
        Some(_) => {
            let told =
                format!("{place}: the gateway's policy allows no session in a container there");
            return deny("the policy allows no exec there", &told).await;
        }
        None => {
            let told = Refusal::NoPod(place.to_string()).to_string();
            return deny("no policy allows anything there", &told).await;
        }
    };
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
        Err(refusal) => {
            let told = refusal.to_string();
            return deny(&told, &told).await;
        }
    };
    if let Some(reason) = way::closed(place, &found) {
        return deny(&reason, &reason).await;
    }
    let journal = journal.about(|about| {
        about.place = Some(Arc::new(audit::Place {
            cluster: place.cluster().to_owned(),
            namespace: found.pod.namespace.clone(),
            pod: found.pod.name.clone(),
            uid: found.pod.uid.clone(),
            container: Some(found.container.clone()),
            backend: Some("exec"),
            login: None,
        }));
    });
    journal.note(Kind::TargetResolve {
        name: user.name.clone(),
    });
    let tape = match Tape::begin(user, &grant, &start, &journal).await {
        Ok(tape) => tape,
        Err(reason) => return deny(&reason, &reason).await,
    };
    if let Err(error) = journal.commit(Kind::SessionStart {}).await {
        tape.finish(Exit::Unknown).await;
        return fail(&output, &error.to_string()).await;
    }
    let begun = Instant::now();
    let open = user.metrics.session("exec", place.cluster());
    output.meter().count_for(&user.metrics, "exec");
    let exec = Exec {
        user,
        place,
        found: &found,
        hang_up: &hang_up,
        output: &output,
        tape: &tape,
    };
    let leave = grant.on_disconnect == OnDisconnect::Leave;
    let status = tokio::select! {
        status = exec.run(start, input, requests) => Some(status),
        () = gone.cancelled() => None,
    };
    drop(open);
    user.metrics.session_lasted(begun.elapsed());
    if let Some(Err(reason)) = &status {
        let mut screen = tape.writer(output.stderr());
        tokio::select! {
            () = say(&mut screen, reason) => {}
            reason = tape.failed() => complain(&output, &reason).await,
            () = gone.cancelled() => {}
        }
    }
    tape.finish(match &status {
        Some(Ok(code)) => Exit::Code(u32::from(*code)),
        _ => Exit::Unknown,
    })
    .await;
    match &status {
        Some(Ok(code)) => {
            let code = u32::from(*code);
            journal.note(output.meter().session_end("ended", Exit::Code(code)));
            tokio::select! {
                () = output.exit(code) => {}
                () = gone.cancelled() => {}
            }
        }
        Some(Err(reason)) => {
            journal.note(output.meter().session_end(reason, Exit::Unknown));
            tokio::select! {
                () = output.exit(NO_STATUS) => {}
                () = gone.cancelled() => {}
            }
        }
        None => {
            let ended = output
                .meter()
                .session_end("closed by the client", Exit::Unknown);
            journal.note(ended);
        }
    }
    // The way to it may be lost while it still runs.
    if !leave && !matches!(status, Some(Ok(_))) {
        send(&hang_up, &found, "HUP").await;
    }
    output.close().await;
}

/// A command that is to run, and for whom.
struct Exec<'a> {
    user: &'a User,
    place: &'a Place,
    found: &'a Found,
    hang_up: &'a HangUp,
    output: &'a Output,
    tape: &'a Tape,
}

impl Exec<'_> {
    /// Runs it to its end, and returns its exit code or why there is none.
    async fn run(
        &self,
        start: Start,
        input: Reader,
        requests: mpsc::Receiver<Request>,
    ) -> Result<u8, String> {
        let Self {
            found,
            hang_up,
            output,
            tape,
            ..
        } = self;
        let tty = start.pty.is_some();
        let command = Command {
            words: hang_up.wrap(script::words(&start)),
            container: Some(found.container.clone()),
            stdin: true,
            tty,
        };
        let dialling = found.dialer.exec(&found.pod, &command);
        let session = self.user.reach.in_time(self.place, dialling).await;
        let session = session.map_err(|refusal| refusal.to_string())?;
        // The name could have become another pod's between the two requests.
        let confirmed = self.user.reach.confirm(self.place, &found.pod);
        let confirmed = async move { confirmed.await.map_err(|refusal| refusal.to_string()) };
        let (sizes, resized) = mpsc::channel(SIZES);
        let mut stdout = HangUp::output(tty.then_some(*hang_up), tape.writer(output.stdout()));
        let mut stderr = HangUp::output((!tty).then_some(*hang_up), output.stderr());
        let local = Local {
            stdin: Some(tape.reader(Typed { input, tty })),
            stdout: &mut stdout,
            stderr: &mut stderr,
            sizes: tty.then_some(Sizes(resized)),
        };
        if let Some((_, size)) = &start.pty {
            let _ = sizes.try_send(*size);
        }
        let status = tokio::select! {
            status = session.run(local) => status,
            refused = never_if_ok(confirmed) => return Err(refused),
            failed = tape.failed() => return Err(failed),
            () = obey(requests, sizes, hang_up, found, tape) => unreachable!("it never ends"),
            () = self.tell(tty) => unreachable!("it never ends"),
        };
        // What was held back and was no mark.
        for outcome in [stdout.finish().await, stderr.finish().await] {
            outcome.map_err(|error| error.to_string())?;
        }
        status.map_err(|error| error.to_string())
    }

    /// Shows a terminal what all terminals of the connection are told.
    async fn tell(&self, tty: bool) {
        let mut notices = self.user.notices.subscribe();
        while tty && let Ok(notice) = notices.recv().await {
            say(&mut self.tape.writer(self.output.stderr()), &notice).await;
        }
        std::future::pending().await
    }
}

async fn never_if_ok(checking: impl Future<Output = Result<(), String>>) -> String {
    match checking.await {
        Ok(()) => std::future::pending().await,
        Err(refused) => refused,
    }
}

/// Passes sizes and signals on, for as long as it is polled.
async fn obey(
    mut requests: mpsc::Receiver<Request>,
    sizes: mpsc::Sender<request::Size>,
    hang_up: &HangUp,
    found: &Found,
    tape: &Tape,
) {
    while let Some(request) = requests.recv().await {
        match request {
            // A terminal that takes no sizes has bigger problems than this one.
            Request::Resize(size) => {
                tape.resize(size).await;
                let _ = sizes.try_send(size);
            }
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
