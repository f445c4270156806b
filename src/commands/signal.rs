//! The signals that end a command, and the exit codes that they mean.

use std::io;
use std::process::ExitCode;

/// Signals that are caught from the moment this is made.
pub(super) struct Signals {
    #[cfg(unix)]
    unix: Vec<(tokio::signal::unix::Signal, u8)>,
}

impl Signals {
    /// For a forward. Ctrl-C is how it is meant to end, as in kubectl; SIGTERM and SIGHUP have the shell's 128 + number.
    pub(super) fn new() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::SignalKind;
            Self::catch(&[
                (SignalKind::interrupt(), 0),
                (SignalKind::terminate(), 128 + 15),
                (SignalKind::hangup(), 128 + 1),
            ])
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// For a command that is typed at: as in kubectl, each of them is a failure. Whoever isn't typed at catches none, and
    /// is ended by the signal itself.
    pub(super) fn at_a_terminal() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::SignalKind;
            Self::catch(&[
                (SignalKind::interrupt(), 1),
                (SignalKind::terminate(), 1),
                (SignalKind::hangup(), 1),
                (SignalKind::quit(), 1),
            ])
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// For a command that is not to outlive us: the shell's 128 + number for all that end a program.
    pub(super) fn deadly() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::SignalKind;
            Self::catch(&[
                (SignalKind::interrupt(), 128 + 2),
                (SignalKind::terminate(), 128 + 15),
                (SignalKind::hangup(), 128 + 1),
                (SignalKind::quit(), 128 + 3),
            ])
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    #[cfg(unix)]
    fn catch(kinds: &[(tokio::signal::unix::SignalKind, u8)]) -> io::Result<Self> {
        let unix = kinds
            .iter()
            .map(|&(kind, code)| Ok((tokio::signal::unix::signal(kind)?, code)));
        Ok(Self {
            unix: unix.collect::<io::Result<_>>()?,
        })
    }

    /// Waits for the first of them. Cancel-safe.
    pub(super) async fn wait(&mut self) -> ExitCode {
        ExitCode::from(self.code().await)
    }

    /// As [`Signals::wait`], and says the code as a number.
    pub(super) async fn code(&mut self) -> u8 {
        #[cfg(unix)]
        {
            use std::task::Poll;
            std::future::poll_fn(|cx| {
                for (signal, code) in &mut self.unix {
                    if signal.poll_recv(cx).is_ready() {
                        return Poll::Ready(*code);
                    }
                }
                Poll::Pending
            })
            .await
        }
        #[cfg(not(unix))]
        {
            // Without a console there is no Ctrl-C to wait for.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending().await
            }
            0
        }
    }
}
