//! Which requests of a session are granted.
//!
//! russh keeps one note per channel of whether a reply is wanted: a reply must be given before the next request is read, so
//! this asks nobody.

use crate::ssh::access::Caps;
use crate::ssh::config::Limits;
use crate::ssh::request::Request;

/// Bytes of the name of a terminal.
const TERM: usize = 128;

/// The requests of one session so far, and what the credential allows.
#[derive(Debug)]
pub(in crate::ssh) struct Gate {
    pty: bool,
    started: bool,
    variables: u32,
    most_variables: u32,
    longest_value: u64,
    longest_command: u64,
}

impl Gate {
    /// For a new session.
    #[must_use]
    pub(in crate::ssh) fn new(caps: &Caps, limits: &Limits) -> Self {
        Self {
            pty: caps.pty,
            started: false,
            variables: 0,
            most_variables: limits.variables,
            longest_value: limits.variable,
            longest_command: limits.command,
        }
    }

    /// Whether this one is granted. Those are to be served in this order.
    pub(in crate::ssh) fn admits(&mut self, request: &Request) -> bool {
        match request {
            Request::Pty { term, .. } => self.pty && !self.started && term.len() <= TERM,
            Request::Env { name, value } => {
                let fits = value.len() as u64 <= self.longest_value && !value.contains('\0');
                let may = !self.started && self.variables < self.most_variables;
                let granted = may && fits && is_allowed(name);
                self.variables += u32::from(granted);
                granted
            }
            Request::Shell => self.start(),
            Request::Exec(command) => {
                command.len() as u64 <= self.longest_command
                    && !command.contains(&0)
                    && self.start()
            }
            Request::Subsystem(name) => name == "sftp" && self.start(),
            Request::Resize(_) => true,
            Request::Signal(_) => self.started,
            // Neither an agent nor a display can be reached from a container.
            Request::Agent | Request::X11 { .. } => false,
        }
    }

    /// A session runs one thing.
    fn start(&mut self) -> bool {
        !std::mem::replace(&mut self.started, true)
    }
}

/// What the gateway itself holds a relayed session to: whatever the pod's sshd would grant, the credential and the policy
/// may not.
#[derive(Clone, Debug)]
pub struct RelayGate {
    /// Terminals.
    pub pty: bool,
    /// Run in the place of whatever is asked for, where the pod's sshd isn't told so.
    pub forced: Option<String>,
    /// Bytes of a command.
    pub longest_command: u64,
    /// Bytes of a variable.
    pub longest_value: u64,
}

impl RelayGate {
    /// What the pod's sshd is asked for, if it is.
    #[must_use]
    pub fn admits(&self, request: Request) -> Option<Request> {
        let admitted = match &request {
            Request::Pty { term, .. } => self.pty && term.len() <= TERM,
            Request::Env { name, value } => (name.len() + value.len()) as u64 <= self.longest_value,
            Request::Exec(command) => command.len() as u64 <= self.longest_command,
            Request::Shell | Request::Subsystem(_) | Request::Resize(_) | Request::Signal(_) => {
                true
            }
            Request::Agent | Request::X11 { .. } => false,
        };
        let runs = matches!(
            request,
            Request::Shell | Request::Exec(_) | Request::Subsystem(_)
        );
        match (&self.forced, runs) {
            (Some(forced), true) => Some(Request::Exec(forced.clone().into_bytes())),
            _ => admitted.then_some(request),
        }
    }
}

/// What sshd takes by default on Debian, and what terminals go by. Names are of a kind that a shell can have.
fn is_allowed(name: &str) -> bool {
    let is_word = |rest: &str| {
        let may = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        (1..=32).contains(&rest.len()) && rest.bytes().all(may)
    };
    matches!(name, "LANG" | "TERM" | "COLORTERM" | "TZ")
        || name.strip_prefix("LC_").is_some_and(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(caps: &Caps) -> Gate {
        Gate::new(caps, &Limits::default())
    }

    fn env(name: &str, value: &str) -> Request {
        Request::Env {
            name: name.to_owned(),
            value: value.to_owned(),
        }
    }

    fn pty(term: &str) -> Request {
        Request::Pty {
            term: term.to_owned(),
            size: crate::ssh::request::Size::default(),
            modes: Vec::new(),
        }
    }

    #[test]
    fn only_harmless_variables_get_in() {
        let mut gate = gate(&Caps::all());
        for name in ["LANG", "LC_ALL", "LC_X1", "TERM", "COLORTERM", "TZ"] {
            assert!(gate.admits(&env(name, "$(id)\n'\"")), "{name}");
        }
        for name in [
            "PATH",
            "LD_PRELOAD",
            "LANGUAGE",
            "LC_",
            "LC_a",
            "LC_A=B",
            "LC_A;id",
            "lang",
            "",
            "ENV",
            "BASH_ENV",
            "IFS",
            "HOME",
            "SHELL",
        ] {
            assert!(!gate.admits(&env(name, "x")), "{name}");
        }
        assert!(!gate.admits(&env("LANG", &"x".repeat(4097))));
        assert!(!gate.admits(&env("LANG", "a\0b")));
    }

    #[test]
    fn a_session_runs_one_thing_and_takes_no_more_variables_then() {
        let mut gate = gate(&Caps::all());
        assert!(!gate.admits(&Request::Signal("TERM".to_owned())));
        assert!(gate.admits(&pty("xterm")));
        assert!(gate.admits(&Request::Shell));
        for request in [
            Request::Shell,
            Request::Exec(b"id".to_vec()),
            Request::Subsystem("sftp".to_owned()),
            env("LANG", "C"),
            pty("xterm"),
            Request::Agent,
        ] {
            assert!(!gate.admits(&request), "{request:?}");
        }
        assert!(gate.admits(&Request::Signal("TERM".to_owned())));
        assert!(gate.admits(&Request::Resize(crate::ssh::request::Size::default())));
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let mut gate = gate(&Caps::all());
        assert!(!gate.admits(&Request::Exec(vec![b'x'; 65_537])));
        assert!(!gate.admits(&Request::Exec(b"a\0b".to_vec())));
        assert!(!gate.admits(&Request::Subsystem("netconf".to_owned())));
        assert!(!gate.admits(&pty(&"x".repeat(TERM + 1))));
        for number in 0..74 {
            let granted = gate.admits(&env("LANG", "C"));
            assert_eq!(granted, number < 64);
        }
        assert!(gate.admits(&Request::Exec(vec![b'x'; 65_536])));
    }

    #[test]
    fn a_relayed_session_is_held_to_the_credential() {
        let gate = RelayGate {
            pty: false,
            forced: Some("true".to_owned()),
            longest_command: 10,
            longest_value: 10,
        };
        assert_eq!(gate.admits(pty("xterm")), None);
        assert_eq!(gate.admits(Request::Agent), None);
        let forced = Some(Request::Exec(b"true".to_vec()));
        for request in [
            Request::Shell,
            Request::Exec(vec![b'x'; 20]),
            Request::Subsystem("sftp".to_owned()),
        ] {
            assert_eq!(gate.admits(request), forced);
        }
        let gate = RelayGate {
            pty: true,
            forced: None,
            ..gate
        };
        assert_eq!(gate.admits(pty("xterm")), Some(pty("xterm")));
        assert_eq!(gate.admits(Request::Exec(vec![b'x'; 11])), None);
        assert_eq!(gate.admits(env("LANG", "xxxxxxx")), None);
        assert_eq!(gate.admits(env("ANY", "x")), Some(env("ANY", "x")));
    }

    #[test]
    fn a_credential_without_a_terminal_gets_none() {
        let caps = Caps {
            pty: false,
            ..Caps::all()
        };
        assert!(!gate(&caps).admits(&pty("xterm")));
    }
}
