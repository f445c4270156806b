//! A command over SPDY: a stream for each of its channels, and one for its Status.

use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Command, Event, Fd, Lost, Size, StdinClosed};
use crate::spdy::{OpenError, ReadError};
use crate::tunnel::{Channel, Framing, Multiplexed};

pub(super) struct Streams {
    connection: Multiplexed,
    error: Inbound,
    stdout: Inbound,
    /// None in a terminal.
    stderr: Option<Inbound>,
    stdin: Option<Channel>,
    resize: Option<Channel>,
    /// What is left of a size that was begun to be sent.
    size: Bytes,
    replied: bool,
}

/// A stream that only the server writes to, until its end.
struct Inbound {
    channel: Channel,
    end: Option<Result<(), ReadError>>,
}

impl Streams {
    /// Opens all streams at once: a server waits for exactly these.
    pub(super) fn open<IO>(io: IO, early: Bytes, command: &Command) -> Result<Self, OpenError>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let connection = Multiplexed::start(io, early, Framing::Raw);
        let open = |kind| connection.open(&[("streamtype", kind)]);
        let open_if = |wanted: bool, kind| wanted.then(|| open(kind)).transpose();
        let error = open("error")?;
        let stdin = open_if(command.stdin, "stdin")?;
        let stdout = open("stdout")?;
        let stderr = open_if(!command.tty, "stderr")?;
        let resize = open_if(command.tty, "resize")?;
        Ok(Self {
            error: Inbound::new(error),
            stdout: Inbound::new(stdout),
            stderr: stderr.map(Inbound::new),
            stdin,
            resize,
            size: Bytes::new(),
            replied: false,
            connection,
        })
    }

    pub(super) fn is_ready(&self) -> bool {
        self.replied
    }

    /// Whether the Status has come, if it was to come at all.
    pub(super) fn has_reported(&self) -> bool {
        self.error.end.is_some()
    }

    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if !self.replied {
            match self.poll_replied(cx) {
                Poll::Ready(true) => self.replied = true,
                Poll::Ready(false) => return Poll::Ready(Event::End(Lost::NotStarted)),
                Poll::Pending => {}
            }
        }
        // The output first: all of it that was sent before the Status has arrived before it.
        if let Some(bytes) = self.stdout.poll(cx) {
            return Poll::Ready(Event::Output(Fd::Stdout, bytes));
        }
        if let Some(bytes) = self.stderr.as_mut().and_then(|stderr| stderr.poll(cx)) {
            return Poll::Ready(Event::Output(Fd::Stderr, bytes));
        }
        if let Some(piece) = self.error.poll(cx) {
            return Poll::Ready(Event::Status(piece));
        }
        let outputs = [Some(&self.stdout), self.stderr.as_ref()];
        let over = outputs.into_iter().flatten().all(|out| out.end.is_some());
        match &self.error.end {
            Some(end) if over => Poll::Ready(Event::End(match end {
                // The runtime resets the streams that are not finished, so a reset is a proper end.
                Ok(()) | Err(ReadError::Reset(_)) => Lost::Closed,
                Err(ReadError::NoReply) => Lost::NotStarted,
                Err(error) => Lost::Cut(error.to_string()),
            })),
            _ => Poll::Pending,
        }
    }

    /// Ready when every stream is accepted, or will never be; false where a server has left one unanswered.
    fn poll_replied(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let inbound = [
            Some(&mut self.error),
            Some(&mut self.stdout),
            self.stderr.as_mut(),
        ];
        let inbound = inbound
            .into_iter()
            .flatten()
            .map(|inbound| &mut inbound.channel);
        let outbound = [self.stdin.as_mut(), self.resize.as_mut()];
        let mut all = true;
        for channel in inbound.chain(outbound.into_iter().flatten()) {
            match channel.poll_replied(cx) {
                Poll::Ready(Err(ReadError::NoReply)) => return Poll::Ready(false),
                // What a reset or lost stream means shows when it is used.
                Poll::Ready(_) => {}
                Poll::Pending => all = false,
            }
        }
        if all {
            Poll::Ready(true)
        } else {
            Poll::Pending
        }
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
    ) -> Poll<Result<(), StdinClosed>> {
        match &mut self.stdin {
            Some(stdin) => write(stdin, cx, data),
            None => Poll::Ready(Err(StdinClosed)),
        }
    }

    pub(super) fn finish(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            stdin.finish();
        }
    }

    pub(super) fn poll_resize(
        &mut self,
        cx: &mut Context<'_>,
        size: Size,
    ) -> Poll<Result<(), StdinClosed>> {
        let Some(resize) = &mut self.resize else {
            return Poll::Ready(Err(StdinClosed));
        };
        if self.size.is_empty() {
            self.size = size.document().into();
        }
        while !self.size.is_empty() {
            std::task::ready!(write(resize, cx, &mut self.size))?;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) async fn close(self) {
        let Self { connection, .. } = self;
        connection.close().await;
    }
}

impl Inbound {
    fn new(channel: Channel) -> Self {
        Self { channel, end: None }
    }

    /// Bytes, if there are any now.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        if self.end.is_some() {
            return None;
        }
        match self.channel.poll_read(cx) {
            Poll::Ready(Ok(Some(bytes))) => return Some(bytes),
            Poll::Ready(Ok(None)) => self.end = Some(Ok(())),
            Poll::Ready(Err(error)) => self.end = Some(Err(error)),
            Poll::Pending => {}
        }
        None
    }
}

fn write(
    channel: &mut Channel,
    cx: &mut Context<'_>,
    data: &mut Bytes,
) -> Poll<Result<(), StdinClosed>> {
    channel
        .poll_write(cx, data)
        .map(|written| written.map(drop).map_err(|_| StdinClosed))
}
