//! The command that lives as long as its forward: `kpf forward TARGET PORTS -- COMMAND`.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};

use tokio::process::{Child, Command};

use crate::cluster::target::ports::RemotePort;

/// A local address, for the command's environment.
pub(super) struct Reached {
    /// As it was written.
    pub(super) remote: RemotePort,
    pub(super) port: Option<u16>,
    pub(super) address: String,
}

/// It runs.
pub(super) struct Companion {
    child: Child,
    #[cfg(unix)]
    signals: signals::Passed,
}

/// Why it doesn't, and the code that a shell would have.
pub(super) struct NotRun {
    pub(super) code: u8,
    pub(super) error: anyhow::Error,
}

impl Companion {
    /// Starts it with our stdin, stdout and stderr.
    pub(super) fn start(words: &[OsString], reached: &[Reached]) -> Result<Self, NotRun> {
        let (program, arguments) = words
            .split_first()
            .map_or_else(|| (OsStr::new(""), words), |it| (it.0, it.1));
        let not_run = |error: io::Error| {
            // as in sh: 127 where there is none, 126 where there is one that can't be run
            let code = match error.kind() {
                ErrorKind::NotFound => 127,
                _ => 126,
            };
            let name = program.to_string_lossy();
            let error = anyhow::Error::new(error).context(format!("cannot run `{name}`"));
            NotRun { code, error }
        };
        #[cfg(unix)]
        let signals = signals::Passed::new().map_err(not_run)?;
        let mut command = Command::new(program);
        command.args(arguments).envs(variables(reached));
        // We are the service, not it.
        command.env_remove("NOTIFY_SOCKET");
        let child = command.spawn().map_err(not_run)?;
        Ok(Self {
            child,
            #[cfg(unix)]
            signals,
        })
    }

    /// Waits for its end, and passes signals on to it meanwhile. Cancel-safe.
    pub(super) async fn ended(&mut self) -> io::Result<u8> {
        loop {
            #[cfg(unix)]
            tokio::select! {
                status = self.child.wait() => return status.map(code),
                signal = self.signals.next() => signals::send(&self.child, signal),
            }
            #[cfg(not(unix))]
            return self.child.wait().await.map(code);
        }
    }

    /// Tells it to end: there is nothing any more that it could reach.
    pub(super) fn terminate(&mut self) {
        #[cfg(unix)]
        signals::send(&self.child, rustix::process::Signal::TERM);
        #[cfg(not(unix))]
        let _ = self.child.start_kill();
    }
}

fn code(status: std::process::ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(128 + signal).unwrap_or(u8::MAX);
    }
    let code = status.code().unwrap_or(1);
    u8::try_from(code & 0xff).unwrap_or(1)
}

/// `KPF_PORT_5432` and the like. Of two of the same name the first one counts.
fn variables(reached: &[Reached]) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut set = |name: String, value: &str| {
        if !variables.iter().any(|(known, _)| *known == name) {
            variables.push((name, value.to_owned()));
        }
    };
    for one in reached {
        let remote = one.remote.to_string();
        let suffix: String = remote
            .chars()
            .map(|c| match c.is_ascii_alphanumeric() {
                true => c.to_ascii_uppercase(),
                false => '_',
            })
            .collect();
        for suffix in [format!("_{suffix}"), String::new()] {
            if let Some(port) = one.port {
                set(format!("KPF_PORT{suffix}"), &port.to_string());
            }
            set(format!("KPF_ADDRESS{suffix}"), &one.address);
        }
    }
    variables
}

#[cfg(unix)]
mod signals {
    use std::io;
    use std::task::Poll;

    use rustix::process::{Pid, Signal, getpgrp, kill_process};
    use rustix::termios::tcgetpgrp;
    use tokio::process::Child;
    use tokio::signal::unix::{self, SignalKind};

    /// The signals that are for the command and not for us.
    pub(super) struct Passed(Vec<(unix::Signal, Signal)>);

    impl Passed {
        pub(super) fn new() -> io::Result<Self> {
            let all = [
                (SignalKind::interrupt(), Signal::INT),
                (SignalKind::quit(), Signal::QUIT),
                (SignalKind::terminate(), Signal::TERM),
                (SignalKind::hangup(), Signal::HUP),
                (SignalKind::user_defined1(), Signal::USR1),
                (SignalKind::user_defined2(), Signal::USR2),
            ];
            let all = all.map(|(kind, signal)| Ok((unix::signal(kind)?, signal)));
            Ok(Self(all.into_iter().collect::<io::Result<_>>()?))
        }

        pub(super) async fn next(&mut self) -> Signal {
            std::future::poll_fn(|cx| {
                for (caught, signal) in &mut self.0 {
                    while caught.poll_recv(cx).is_ready() {
                        // The command has had it from the terminal, as we have.
                        if matches!(*signal, Signal::INT | Signal::QUIT) && is_typed_at() {
                            continue;
                        }
                        return Poll::Ready(*signal);
                    }
                }
                Poll::Pending
            })
            .await
        }
    }

    /// Whether keys of the terminal become signals to our process group, the command's too.
    fn is_typed_at() -> bool {
        let group = |file: std::os::fd::BorrowedFd<'_>| tcgetpgrp(file).ok();
        let own = Some(getpgrp());
        group(rustix::stdio::stdin()) == own || group(rustix::stdio::stderr()) == own
    }

    pub(super) fn send(child: &Child, signal: Signal) {
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(id) = id {
            // it may have ended this very moment
            let _ = kill_process(id, signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_named_after_what_was_written() {
        let reached = |remote: &str, port, address: &str| Reached {
            remote: remote.parse().unwrap(),
            port,
            address: address.to_owned(),
        };
        let found = variables(&[
            reached("5432", Some(1), "127.0.0.1:1"),
            reached("https", Some(2), "127.0.0.1:2"),
            reached("5432", Some(3), "127.0.0.1:3"),
            reached("db.internal:80", None, "/run/x.sock"),
        ]);
        let find = |name: &str| {
            let mut found = found.iter().filter(|(known, _)| known == name);
            let value = found.next().map(|(_, value)| value.as_str());
            assert!(found.next().is_none(), "{name} twice");
            value
        };
        for (name, value) in [
            ("KPF_PORT", Some("1")),
            ("KPF_ADDRESS", Some("127.0.0.1:1")),
            ("KPF_PORT_5432", Some("1")),
            ("KPF_PORT_HTTPS", Some("2")),
            ("KPF_ADDRESS_HTTPS", Some("127.0.0.1:2")),
            ("KPF_ADDRESS_DB_INTERNAL_80", Some("/run/x.sock")),
            ("KPF_PORT_DB_INTERNAL_80", None),
        ] {
            assert_eq!(find(name), value, "{name}");
        }
    }
}
