//! What a client asks of a session channel. The SSH engine makes these, and a backend answers them in order.

/// A channel request, with what it carries as it was sent: nothing here is fit to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `pty-req`.
    Pty {
        /// `TERM`.
        term: String,
        /// Characters and pixels; zero where unknown.
        size: Size,
        /// Terminal modes by their opcodes (RFC 4254 §8).
        modes: Vec<(u8, u32)>,
    },
    /// `window-change`.
    Resize(Size),
    /// `env`.
    Env {
        /// The variable.
        name: String,
        /// Its value.
        value: String,
    },
    /// `shell`.
    Shell,
    /// `exec`, with a command of any bytes.
    Exec(Vec<u8>),
    /// `subsystem`.
    Subsystem(String),
    /// `signal`, by its name without `SIG`.
    Signal(String),
    /// `auth-agent-req@openssh.com`.
    Agent,
    /// `x11-req`.
    X11 {
        /// Whether only one connection is to be taken.
        single: bool,
        /// The authentication protocol.
        protocol: String,
        /// Its cookie: a secret.
        cookie: String,
        /// The screen's number.
        screen: u32,
    },
}

/// The size of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Characters across.
    pub columns: u32,
    /// Characters down.
    pub rows: u32,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}
