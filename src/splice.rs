//! What happens on a connection: bytes are copied both ways until both have ended.
//!
//! The *near* side is the user's: a socket, or stdin and stdout. The *far* side is the stream to the pod.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

/// Bytes read from the near side at a time: what fills two frames of a tunnel, heads aside.
const READ: usize = 2 * (32 * 1024 - 16);
/// Graces for which the near side's end is held back at most.
const MAX_GRACES: u32 = 10;
/// When the far side is looked at for the first time, then after twice as long each time; about a round trip.
const FIRST_LOOK: Duration = Duration::from_millis(4);
/// The longest time between two looks once the end was passed on.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// Times that it is looked at during a grace, at least.
const LOOKS: u32 = 4;
/// Slices handed to one vectored write; the kernel takes 1024.
const SLICES: usize = 32;

/// The far side: a byte stream whose received bytes come in the pieces they arrived in, so that they can be written
/// without having been joined.
pub trait Far: Unpin {
    /// What has been received and not consumed; empty at a clean end. Cancel-safe.
    ///
    /// # Errors
    /// Why the stream failed, after the last byte.
    fn poll_chunks(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&VecDeque<Bytes>>>;

    /// Drops the first `length` bytes of what `poll_chunks` gave.
    fn consume(&mut self, length: usize);

    /// Takes bytes from the front of `data`, at least one. Cancel-safe.
    ///
    /// # Errors
    /// The stream takes no more.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>>;

    /// Whether nothing is under way that may hold up what the other end has to say. Until then its silence means nothing.
    /// Asked now and then while the near side's end is held back.
    fn is_quiet(&mut self) -> bool {
        true
    }

    /// The near side has sent all, all has arrived, and the other end will be told once it has been silent for a while.
    fn set_waiting(&mut self) {}

    /// Tells the other end that nothing more comes. Ready once no more can be known about its arrival; to be polled
    /// until then, beside `poll_chunks`. Cancel-safe.
    ///
    /// # Errors
    /// What was sent before may not have arrived, and `poll_chunks` doesn't tell.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// How ends are passed on.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Container runtimes cut the answer off one second after they saw our end. So the near side's end is passed on
    /// only when the far side has been silent for this long; zero passes it on at once, as kubectl does.
    pub half_close_grace: Duration,
    /// How long the near side may go on sending once the far side has ended; with `far_half_closes` from its last
    /// byte.
    pub after_far_end: Duration,
    /// Whether the far side still takes bytes when it has ended its own.
    pub far_half_closes: bool,
    /// How long, after that, what it still sends is read and dropped: to close a socket with bytes unread would
    /// destroy those of ours that are still on their way.
    pub linger: Duration,
}

impl Ends {
    /// For a socket.
    pub const SOCKET: Self = Self {
        half_close_grace: Duration::from_secs(3),
        // Runtimes end a forward one second after either direction ends (containerd 1.5 to 2.4).
        after_far_end: Duration::from_secs(1),
        far_half_closes: false,
        linger: Duration::from_secs(5),
    };

    /// For stdin and stdout, which nobody resets.
    pub const STDIO: Self = Self {
        half_close_grace: Duration::from_secs(3),
        after_far_end: Duration::ZERO,
        far_half_closes: false,
        linger: Duration::ZERO,
    };
}

/// What a finished splice has done.
#[derive(Debug)]
pub struct Spliced {
    /// Bytes from near to far.
    pub sent: u64,
    /// Bytes from far to near.
    pub received: u64,
    /// How it ended. Everything received before an error has been written to the near side.
    pub end: Result<(), Broken>,
}

/// The side that failed.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Reading or writing the near side.
    #[error("local connection: {0}")]
    Near(io::Error),
    /// The far side.
    #[error(transparent)]
    Far(io::Error),
}

/// Copies until the far side has ended and all it sent is flushed, or a side fails. Cancelling drops what is in
/// flight.
///
/// A failure of the far side is taken from its reading half, which has the reason.
pub async fn splice<R, W, F>(near_read: R, near_write: W, far: F, ends: Ends) -> Spliced
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    F: Far,
{
    let mut splice = Splice::new(near_read, near_write, far, ends);
    let end = poll_fn(|cx| splice.poll(cx)).await;
    Spliced {
        sent: splice.sent,
        received: splice.received,
        end,
    }
}

/// Near to far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outbound {
    Copying,
    /// The near side has ended; the far side isn't told yet.
    Held,
    /// The far side is being told.
    Finishing,
    /// The far side has ended; what the near side sends is dropped.
    Lingering,
    Done,
}

/// Far to near.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inbound {
    Copying,
    /// The far side has ended; the near side's flush and end are under way.
    Ending,
    Done {
        at: Instant,
    },
}

struct Splice<R, W, F> {
    near_read: R,
    near_write: W,
    far: F,
    ends: Ends,
    outbound: Outbound,
    inbound: Inbound,
    /// Read from the near side into. Without a block while there is nothing to read: idle connections cost nothing.
    buffer: BytesMut,
    /// Read, and not yet taken by the far side.
    outgoing: Bytes,
    timer: Pin<Box<Sleep>>,
    /// When the far side last sent something.
    heard: Instant,
    /// When the near side's end was held back.
    held_at: Instant,
    looked_at: Instant,
    /// Until the next look.
    pause: Duration,
    /// The far side knows that all has arrived.
    waiting: bool,
    /// When it last took something.
    told: Instant,
    sent: u64,
    received: u64,
}

impl<R, W, F> Splice<R, W, F>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    F: Far,
{
    fn new(near_read: R, near_write: W, far: F, ends: Ends) -> Self {
        Self {
            near_read,
            near_write,
            far,
            ends,
            outbound: Outbound::Copying,
            inbound: Inbound::Copying,
            buffer: BytesMut::new(),
            outgoing: Bytes::new(),
            timer: Box::pin(sleep_until(Instant::now())),
            heard: Instant::now(),
            told: Instant::now(),
            held_at: Instant::now(),
            looked_at: Instant::now(),
            pause: FIRST_LOOK,
            waiting: false,
            sent: 0,
            received: 0,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            let _ = self.poll_inbound(cx)?;
            let _ = self.poll_outbound(cx)?;
            let deadline = match (self.inbound, self.outbound) {
                (Inbound::Done { .. }, Outbound::Done) => return Poll::Ready(Ok(())),
                (Inbound::Done { .. }, Outbound::Held) if !self.ends.far_half_closes => {
                    return Poll::Ready(Ok(()));
                }
                (Inbound::Done { .. }, Outbound::Held) => self.heard,
                (Inbound::Done { .. }, Outbound::Copying)
                    if self.ends.far_half_closes && !self.outgoing.is_empty() =>
                {
                    return Poll::Pending;
                }
                (Inbound::Done { at }, Outbound::Copying) if self.ends.far_half_closes => {
                    at.max(self.told) + self.ends.after_far_end
                }
                (Inbound::Done { at }, Outbound::Copying) => at + self.ends.after_far_end,
                (Inbound::Done { at }, Outbound::Lingering) => {
                    at + self.ends.after_far_end + self.ends.linger
                }
                (_, Outbound::Held) => {
                    let grace = self.ends.half_close_grace;
                    (self.heard + grace).min(self.looked_at + self.pause)
                }
                (Inbound::Copying, Outbound::Done) if !self.waiting => self.looked_at + self.pause,
                _ => return Poll::Pending,
            };
            ready!(self.poll_timer(cx, deadline));
            match self.outbound {
                Outbound::Copying => self.outbound = Outbound::Lingering,
                Outbound::Held => self.look(),
                Outbound::Done if self.inbound == Inbound::Copying => {
                    self.looked_at = Instant::now();
                    self.pause = (2 * self.pause).clamp(FIRST_LOOK, LAST_LOOK);
                    self.wait_if_quiet();
                }
                Outbound::Lingering | Outbound::Finishing | Outbound::Done => {
                    self.outbound = Outbound::Done;
                }
            }
        }
    }

    /// Passes the near side's end on once the far side's silence has lasted, and meant something.
    fn look(&mut self) {
        let grace = self.ends.half_close_grace;
        let now = Instant::now();
        self.looked_at = now;
        self.pause = (2 * self.pause).min(grace / LOOKS);
        // What is always busy is not to keep the end back for ever.
        let too_long = now - self.held_at >= MAX_GRACES * grace;
        let is_quiet = self.wait_if_quiet();
        if !grace.is_zero() && !too_long && !is_quiet {
            self.heard = now;
        } else if now >= self.heard + grace {
            self.outbound = Outbound::Finishing;
        }
    }

    fn wait_if_quiet(&mut self) -> bool {
        let is_quiet = self.far.is_quiet();
        if is_quiet && !std::mem::replace(&mut self.waiting, true) {
            self.far.set_waiting();
        }
        is_quiet
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        if deadline <= Instant::now() {
            return Poll::Ready(());
        }
        if self.timer.deadline() != deadline {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx)
    }

    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            match self.inbound {
                Inbound::Copying => {
                    let Poll::Ready(chunks) = self.far.poll_chunks(cx) else {
                        ready!(self.poll_flush(cx))?;
                        return Poll::Pending;
                    };
                    let chunks = match chunks {
                        Ok(chunks) => chunks,
                        Err(error) => {
                            // What came before the failure is the near side's.
                            ready!(self.poll_flush(cx))?;
                            return Poll::Ready(Err(Broken::Far(error)));
                        }
                    };
                    if chunks.is_empty() {
                        self.inbound = Inbound::Ending;
                        continue;
                    }
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    for (slice, chunk) in slices.iter_mut().zip(chunks) {
                        *slice = IoSlice::new(chunk);
                    }
                    let count = chunks.len().min(SLICES);
                    let near = Pin::new(&mut self.near_write);
                    let written = ready!(near.poll_write_vectored(cx, &slices[..count]));
                    let length = written.map_err(Broken::Near)?;
                    if length == 0 {
                        let error = io::ErrorKind::WriteZero.into();
                        return Poll::Ready(Err(Broken::Near(error)));
                    }
                    self.far.consume(length);
                    self.received += length as u64;
                    self.heard = Instant::now();
                }
                Inbound::Ending => {
                    ready!(self.poll_flush(cx))?;
                    let ended = ready!(Pin::new(&mut self.near_write).poll_shutdown(cx));
                    // A near side that has gone already, after all was written, is no failure.
                    if let Err(error) = ended
                        && error.kind() != io::ErrorKind::NotConnected
                    {
                        return Poll::Ready(Err(Broken::Near(error)));
                    }
                    self.inbound = Inbound::Done { at: Instant::now() };
                }
                Inbound::Done { .. } => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Pin::new(&mut self.near_write)
            .poll_flush(cx)
            .map_err(Broken::Near)
    }

    fn poll_outbound(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while matches!(self.outbound, Outbound::Copying | Outbound::Lingering) {
            if self.outgoing.is_empty() {
                self.buffer.reserve(READ);
                let mut space = (&mut self.buffer).limit(READ);
                let read = poll_read_buf(Pin::new(&mut self.near_read), cx, &mut space);
                let Poll::Ready(read) = read else {
                    self.buffer = BytesMut::new();
                    return Poll::Pending;
                };
                if read.map_err(Broken::Near)? == 0 {
                    // A held end may last.
                    self.buffer = BytesMut::new();
                    self.outbound = match self.outbound {
                        Outbound::Copying => {
                            self.held_at = Instant::now();
                            self.looked_at = self.held_at;
                            self.pause = FIRST_LOOK;
                            Outbound::Held
                        }
                        _ => Outbound::Done,
                    };
                    break;
                }
                self.outgoing = self.buffer.split().freeze();
            }
            if self.outbound == Outbound::Lingering {
                self.outgoing.clear();
                continue;
            }
            let before = self.outgoing.len();
            match ready!(self.far.poll_send(cx, &mut self.outgoing)) {
                Ok(()) => {
                    self.sent += (before - self.outgoing.len()) as u64;
                    if self.outgoing.is_empty() {
                        // Or it would hold on to its block, as long as the connection is idle.
                        self.outgoing = Bytes::new();
                    }
                    if self.ends.far_half_closes {
                        self.told = Instant::now();
                    }
                }
                // Nobody takes this any more. Whether that is a failure, the reading half knows.
                Err(_) => self.outbound = Outbound::Lingering,
            }
        }
        if self.outbound == Outbound::Finishing {
            ready!(self.far.poll_finish(cx)).map_err(Broken::Far)?;
            self.outbound = Outbound::Done;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Buf;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
    use tokio::task::JoinHandle;

    use super::*;

    /// Few enough to meet every partial read and write.
    const PIPE: usize = 8;

    /// A splice between two pipes: the user's end and the pod's end of them, and its outcome.
    struct Wired {
        user: DuplexStream,
        pod: DuplexStream,
        outcome: JoinHandle<Spliced>,
    }

    /// A pipe as the far side.
    struct Pipe {
        io: DuplexStream,
        chunks: VecDeque<Bytes>,
    }

    impl Far for Pipe {
        fn poll_chunks(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&VecDeque<Bytes>>> {
            if self.chunks.is_empty() {
                let mut chunk = BytesMut::with_capacity(PIPE);
                if ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut chunk))? > 0 {
                    // In two pieces, to have something to join.
                    let rest = chunk.split_off(chunk.len() / 2);
                    self.chunks = [chunk, rest].map(BytesMut::freeze).into();
                    self.chunks.retain(|chunk| !chunk.is_empty());
                }
            }
            Poll::Ready(Ok(&self.chunks))
        }

        fn consume(&mut self, length: usize) {
            let mut left = length;
            while left > 0 {
                let chunk = self.chunks.front_mut().expect("no more than there is");
                let part = left.min(chunk.len());
                chunk.advance(part);
                left -= part;
                if chunk.is_empty() {
                    self.chunks.pop_front();
                }
            }
        }

        fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
            let length = ready!(Pin::new(&mut self.io).poll_write(cx, data))?;
            data.advance(length);
            Poll::Ready(Ok(()))
        }

        fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    fn wire(ends: Ends) -> Wired {
        let (user, near) = duplex(PIPE);
        let (pod, io) = duplex(PIPE);
        let far = Pipe {
            io,
            chunks: VecDeque::new(),
        };
        let (read, write) = split(near);
        let outcome = tokio::spawn(async move { splice(read, write, far, ends).await });
        Wired { user, pod, outcome }
    }

    async fn read_all(from: &mut DuplexStream) -> Vec<u8> {
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_go_both_ways_and_are_counted() {
        let Wired {
            mut user,
            mut pod,
            outcome,
        } = wire(Ends::SOCKET);
        let (up, down) = (vec![1; 10_000], vec![2; 20_000]);
        let (for_pod, for_user) = (up.clone(), down.clone());
        let pod = tokio::spawn(async move {
            let mut got = vec![0; 10_000];
            pod.read_exact(&mut got).await.unwrap();
            pod.write_all(&for_user).await.unwrap();
            got
        });
        user.write_all(&for_pod).await.unwrap();
        assert_eq!(read_all(&mut user).await, down);
        drop(user);
        assert_eq!(pod.await.unwrap(), up);
        let spliced = outcome.await.unwrap();
        spliced.end.unwrap();
        assert_eq!((spliced.sent, spliced.received), (10_000, 20_000));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_to_read_needs_no_block() {
        let (mut user, near) = duplex(PIPE);
        let (_pod, io) = duplex(PIPE);
        let far = Pipe {
            io,
            chunks: VecDeque::new(),
        };
        let (read, write) = split(near);
        let mut splice = Splice::new(read, write, far, Ends::SOCKET);
        let mut poll = async || {
            let polled = poll_fn(|cx| Poll::Ready(splice.poll(cx))).await;
            assert!(polled.is_pending());
            (splice.outbound, splice.buffer.capacity())
        };
        assert_eq!(poll().await, (Outbound::Copying, 0));
        user.write_all(b"bytes").await.unwrap();
        assert_eq!(poll().await, (Outbound::Copying, 0));
        // an end that is held back may be so for long
        user.shutdown().await.unwrap();
        assert_eq!(poll().await, (Outbound::Held, 0));
    }

    /// Runtimes cut the answer off a second after our end: so it waits as long as there is an answer.
    #[tokio::test(start_paused = true)]
    async fn the_users_end_is_held_back_while_the_pod_sends() {
        let Wired { mut user, pod, .. } = wire(Ends::SOCKET);
        user.shutdown().await.unwrap();
        let started = Instant::now();
        let mut ended = Box::pin(async {
            let (mut reader, mut writer) = split(pod);
            for _ in 0..10 {
                writer.write_all(b"still here").await.unwrap();
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            assert_eq!(reader.read(&mut [0]).await.unwrap(), 0);
            started.elapsed()
        });
        let mut answer = [0; 100];
        let (elapsed, read) = tokio::join!(&mut ended, user.read_exact(&mut answer));
        read.unwrap();
        // The last bytes came at 18 s, and the end 3 s after them.
        assert_eq!(elapsed, Duration::from_secs(21));
    }

    #[tokio::test(start_paused = true)]
    async fn without_grace_the_end_is_passed_on_at_once() {
        let ends = Ends {
            half_close_grace: Duration::ZERO,
            ..Ends::SOCKET
        };
        let Wired {
            mut user,
            mut pod,
            outcome,
        } = wire(ends);
        let started = Instant::now();
        user.write_all(b"question").await.unwrap();
        user.shutdown().await.unwrap();
        assert_eq!(read_all(&mut pod).await, b"question");
        pod.write_all(b"answer").await.unwrap();
        drop(pod);
        assert_eq!(read_all(&mut user).await, b"answer");
        outcome.await.unwrap().end.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    /// Closing a socket with unread bytes destroys those of ours that are on their way.
    #[tokio::test(start_paused = true)]
    async fn a_user_who_goes_on_sending_is_read_for_a_while_after_the_pods_end() {
        let Wired {
            mut user,
            pod,
            outcome,
        } = wire(Ends::SOCKET);
        drop(pod);
        let started = Instant::now();
        while user.write_all(&[0; 100]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (elapsed, bound) = (started.elapsed(), Duration::from_secs(6));
        assert!(elapsed >= bound && elapsed < bound * 2, "{elapsed:?}");
        outcome.await.unwrap().end.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn stdio_ends_with_the_pod() {
        let Wired {
            mut user,
            mut pod,
            outcome,
        } = wire(Ends::STDIO);
        let started = Instant::now();
        pod.write_all(b"bye").await.unwrap();
        drop(pod);
        assert_eq!(read_all(&mut user).await, b"bye");
        outcome.await.unwrap().end.unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_who_hangs_up_is_told_from_a_pod_that_fails() {
        let Wired {
            user,
            mut pod,
            outcome,
        } = wire(Ends::SOCKET);
        drop(user);
        // The pipe refuses what a user who is gone can't read.
        while !outcome.is_finished() {
            let _ = pod.write_all(b"into the void").await;
            tokio::task::yield_now().await;
        }
        assert!(matches!(outcome.await.unwrap().end, Err(Broken::Near(_))));
    }

    /// The far side's reason is the one that its reading half gives, after all it had sent.
    #[tokio::test(start_paused = true)]
    async fn what_came_before_a_failure_is_delivered() {
        struct Failing(VecDeque<Bytes>);
        impl Far for Failing {
            fn poll_chunks(&mut self, _: &mut Context<'_>) -> Poll<io::Result<&VecDeque<Bytes>>> {
                Poll::Ready(if self.0.is_empty() {
                    Err(io::Error::other("the reason"))
                } else {
                    Ok(&self.0)
                })
            }
            fn consume(&mut self, length: usize) {
                let chunk = self.0.front_mut().expect("no more than there is");
                chunk.advance(length);
                if chunk.is_empty() {
                    self.0.pop_front();
                }
            }
            fn poll_send(&mut self, _: &mut Context<'_>, _: &mut Bytes) -> Poll<io::Result<()>> {
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
            fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        let (mut user, near) = duplex(PIPE);
        let (read, write) = split(near);
        let far = Failing([Bytes::from_static(b"twenty bytes or so..")].into());
        user.write_all(b"upload").await.unwrap();
        let outcome = tokio::spawn(async move { splice(read, write, far, Ends::SOCKET).await });
        let mut got = [0; 20];
        user.read_exact(&mut got).await.unwrap();
        let spliced = outcome.await.unwrap();
        assert_eq!(spliced.received, 20);
        match spliced.end {
            Err(Broken::Far(error)) => assert_eq!(error.to_string(), "the reason"),
            other => panic!("{other:?}"),
        }
    }
}
