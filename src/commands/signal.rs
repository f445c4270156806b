//! The signals that end a command, and the exit codes that they mean.

use std::io;
use std::process::ExitCode;

/// SIGINT, SIGTERM and SIGHUP, caught from the moment this is made.
pub(super) struct Signals {
    #[cfg(unix)]
    unix: [(tokio::signal::unix::Signal, u8); 3],
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            // Ctrl-C is how a forward is meant to end, as in kubectl; the others get the shell's 128 + number.
            Ok(Self {
                unix: [
                    (signal(SignalKind::interrupt())?, 0),
                    (signal(SignalKind::terminate())?, 128 + 15),
                    (signal(SignalKind::hangup())?, 128 + 1),
                ],
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the first of them. Cancel-safe.
    pub(super) async fn wait(&mut self) -> ExitCode {
        #[cfg(unix)]
        {
            use std::task::Poll;
            std::future::poll_fn(|cx| {
                for (signal, code) in &mut self.unix {
                    if signal.poll_recv(cx).is_ready() {
                        return Poll::Ready(ExitCode::from(*code));
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
            ExitCode::SUCCESS
        }
    }
}
