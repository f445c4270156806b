//! One channel, both ways, to its end.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::client::{ExitSignal, Mark};
use super::far::{Far, Outgoing};
use crate::ssh::spool::{self, Item};

/// Extended data of this type is stderr (RFC 4254 §5.2).
const STDERR: u32 = 1;
/// How long a user who doesn't read may take to read why the session ends.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long a pod may take nothing of what a user has sent who has closed the channel.
const STALL: Duration = Duration::from_secs(30);
/// How long a session's EOF waits for the exit status, which an sshd sends right after it. A client that has sent its own
/// closes the channel when it has both, and russh 0.65 forgets a channel that is closed: the status would be lost.
const STATUS: Duration = Duration::from_secs(5);
/// The exit status of a session that was cut off, as ssh has it.
const CUT_OFF: u32 = 255;

/// The user's end of a channel. The SSH server's engine has it; nothing of the engine is seen here.
///
/// Each call waits for the channel's own window or for a place in the engine's queue, and may be cancelled when the channel
/// is given up.
pub trait Near: Send + Sync {
    /// Sends data: plain, or extended data of this type.
    ///
    /// # Errors
    /// The channel or its connection is gone.
    fn data(
        &self,
        stream: Option<u32>,
        data: Bytes,
    ) -> impl Future<Output = Result<(), NearGone>> + Send;

    /// Passes on how the process in the pod has ended, or that the pod sends no more.
    ///
    /// # Errors
    /// The channel or its connection is gone.
    fn tell(&self, news: News) -> impl Future<Output = Result<(), NearGone>> + Send;

    /// Closes the channel, as the last of all.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// The user has gone, or has closed the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearGone;

/// What the pod says of a channel besides data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It sends no more. What it reports of the process's end may still come.
    Eof,
    /// The process's exit status.
    ExitStatus(u32),
    /// The signal that has ended it.
    ExitSignal(ExitSignal),
}

/// What is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A session: it is told on stderr why it is cut off, and ends with status 255.
    Session,
    /// A forwarded connection, which can only be closed.
    Forward,
}

/// What a channel has done.
#[derive(Clone, Debug)]
pub struct Carried {
    /// Bytes from the user to the pod.
    pub sent: u64,
    /// Bytes from the pod to the user, on all streams.
    pub received: u64,
    /// What the process has ended with, if it was told.
    pub status: Option<u32>,
    /// What it was ended by.
    pub signal: Option<String>,
    /// How the channel ended.
    pub end: End,
}

/// How a channel ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The pod has closed it.
    Closed,
    /// The user has, or is gone.
    Left,
    /// It was cut off, for this reason, which is fit to print.
    CutOff(String),
}

/// When the user's side is over.
#[derive(Clone, Debug)]
pub struct Gone {
    /// The user has closed the channel. What was sent before goes to the pod all the same.
    pub channel: CancellationToken,
    /// The user's connection is over.
    pub connection: CancellationToken,
}

/// Carries a channel to its end: until the pod closes it, the user does, or one of them takes too little for too long.
/// Both ends are closed then; cancelled, it closes the pod's.
///
/// `input` is what the user sends, as the server's engine got it. With its end the pod gets an EOF; output goes on.
pub async fn carry<N: Near>(
    mut far: Far,
    kind: Kind,
    input: spool::Reader,
    near: N,
    gone: Gone,
) -> Carried {
    let sent = AtomicU64::new(0);
    let mut back = Back {
        near: &near,
        received: 0,
        status: None,
        signal: None,
    };
    let mut failing = far.incoming.watch();
    let outgoing = far.outgoing.clone();
    let mut forth = pin!(forth(input, &outgoing, &sent));
    let mut delivered = false;
    let end = {
        let mut back = pin!(back.carry(kind, &mut far.incoming));
        loop {
            tokio::select! {
                biased;
                () = gone.connection.cancelled() => { delivered = true; break End::Left }
                () = gone.channel.cancelled() => break End::Left,
                end = &mut back => { delivered = true; break end }
                result = &mut forth, if !delivered => {
                    delivered = true;
                    if let Err(cut_off) = result { break cut_off }
                }
                error = failing.failed() => { delivered = true; break End::CutOff(error.to_string()) }
            }
        }
    };
    if !delivered {
        tokio::select! {
            () = gone.connection.cancelled() => {}
            () = deliver(forth, &sent) => {}
            () = discard(&mut far.incoming) => {}
        }
    }
    outgoing.close().await;
    let carried = Carried {
        sent: sent.load(Ordering::Relaxed),
        received: back.received,
        status: back.status,
        signal: back.signal,
        end,
    };
    drop(far);
    match &carried.end {
        End::Left => {}
        End::Closed => near.close().await,
        End::CutOff(reason) => {
            // A user whose window is full gets no word of it any more.
            let farewell = async {
                if kind == Kind::Session {
                    let line = Bytes::from(format!("kpf: {reason}\r\n"));
                    let _ = timeout(FAREWELL, near.data(Some(STDERR), line)).await;
                    if carried.status.is_none() && carried.signal.is_none() {
                        let _ = near.tell(News::ExitStatus(CUT_OFF)).await;
                    }
                }
                near.close().await;
            };
            tokio::select! {
                () = farewell => {}
                () = gone.channel.cancelled() => {}
                () = gone.connection.cancelled() => {}
            }
        }
    }
    carried
}

/// From the user to the pod, to the user's end.
async fn forth(mut input: spool::Reader, outgoing: &Outgoing, sent: &AtomicU64) -> Result<(), End> {
    loop {
        match input.next().await {
            Ok(Some(Item::Data(data))) => {
                let length = data.len() as u64;
                if outgoing.data(data).await.is_err() {
                    return Ok(()); // the other direction tells why, after what has arrived
                }
                sent.fetch_add(length, Ordering::Relaxed);
            }
            Ok(Some(Item::Mark(never))) => match never {},
            Ok(None) => {
                let _ = outgoing.eof().await; // as above
                return Ok(());
            }
            Err(error) => return Err(End::CutOff(error.to_string())),
        }
    }
}

/// Gives the pod what a user has sent who has closed the channel since, for as long as the pod takes any of it.
async fn deliver(mut forth: Pin<&mut impl Future<Output = Result<(), End>>>, sent: &AtomicU64) {
    loop {
        let before = sent.load(Ordering::Relaxed);
        let delivered = timeout(STALL, &mut forth).await.is_ok();
        if delivered || sent.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

/// Takes what nobody wants any more, so that the pod goes on reading, until it closes the channel.
async fn discard(incoming: &mut spool::Reader<Mark>) {
    while let Ok(Some(item)) = incoming.next().await {
        if item == Item::Mark(Mark::Close) {
            return;
        }
    }
}

/// From the pod to the user.
struct Back<'a, N> {
    near: &'a N,
    received: u64,
    status: Option<u32>,
    signal: Option<String>,
}

impl<N: Near> Back<'_, N> {
    async fn carry(&mut self, kind: Kind, incoming: &mut spool::Reader<Mark>) -> End {
        let mut stream = None;
        // Until when an EOF is held back.
        let mut held = None;
        loop {
            let next = match held {
                None => incoming.next().await,
                Some(until) => match timeout_at(until, incoming.next()).await {
                    Ok(next) => next,
                    Err(_) => Ok(Some(Item::Mark(Mark::Eof))),
                },
            };
            let passed = match next {
                Ok(Some(Item::Data(data))) => {
                    let length = data.len() as u64;
                    let passed = self.near.data(stream, data).await;
                    self.received += length;
                    passed
                }
                Ok(Some(Item::Mark(Mark::Stream(new)))) => {
                    stream = new;
                    Ok(())
                }
                Ok(Some(Item::Mark(Mark::Eof))) => {
                    let has_ended = self.status.is_some() || self.signal.is_some();
                    if kind == Kind::Session && !has_ended && held.is_none() {
                        held = Some(Instant::now() + STATUS);
                        Ok(())
                    } else {
                        held = None;
                        self.near.tell(News::Eof).await
                    }
                }
                Ok(Some(Item::Mark(Mark::ExitStatus(status)))) => {
                    self.status = Some(status);
                    let told = self.near.tell(News::ExitStatus(status)).await;
                    told.and(self.tell_held(&mut held).await)
                }
                Ok(Some(Item::Mark(Mark::ExitSignal(signal)))) => {
                    self.signal = Some(crate::untrusted::printable(&signal.name, 32));
                    let told = self.near.tell(News::ExitSignal(signal)).await;
                    told.and(self.tell_held(&mut held).await)
                }
                Ok(Some(Item::Mark(Mark::Close)) | None) => {
                    // a close says as much to who is gone
                    let _ = self.tell_held(&mut held).await;
                    return End::Closed;
                }
                Err(error) => return End::CutOff(error.to_string()),
            };
            if passed.is_err() {
                return End::Left;
            }
        }
    }

    async fn tell_held(&self, held: &mut Option<Instant>) -> Result<(), NearGone> {
        match held.take() {
            Some(_) => self.near.tell(News::Eof).await,
            None => Ok(()),
        }
    }
}
