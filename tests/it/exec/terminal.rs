//! A command that is typed at.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

use super::{TRANSPORTS, Transport, exec, kpf, playground, until, wait};
use crate::playground::Playground;
use crate::playground::process::open_terminal;

/// `kpf exec` in a terminal of its own.
pub(super) struct Typed {
    child: Child,
    outer: File,
    inner: OwnedFd,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Typed {
    pub(super) fn start(
        playground: &Playground,
        transport: Transport,
        size: (u16, u16),
        typed: &[u8],
        arguments: &[&str],
    ) -> Self {
        Self::at(kpf(), playground, transport, size, typed, arguments)
    }

    /// Another program in kpf's place.
    pub(super) fn at(
        program: &Path,
        playground: &Playground,
        transport: Transport,
        size: (u16, u16),
        typed: &[u8],
        arguments: &[&str],
    ) -> Self {
        let command = exec(program, playground, "admin", transport, arguments);
        Self::run(command, size, typed)
    }

    /// The command in a terminal of this size, in which this was typed before.
    pub(super) fn run(mut command: Command, size: (u16, u16), typed: &[u8]) -> Self {
        let (outer, inner) = open_terminal().expect("a terminal");
        let mut outer = File::from(outer);
        set_size(&outer, size);
        outer.write_all(typed).expect("room");
        let end = || Stdio::from(inner.try_clone().expect("a descriptor"));
        command.stdin(end()).stdout(end()).stderr(end());
        let child = command.spawn().expect("it starts");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, sink) = (outer.try_clone().expect("a descriptor"), seen.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
                sink.extend_from_slice(&buffer[..length]);
            }
        });
        Self {
            child,
            outer,
            inner,
            seen,
        }
    }

    pub(super) fn seen(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&seen).into_owned()
    }

    pub(super) fn sees(&self, text: &str) {
        until(&format!("{text:?} is seen"), || self.seen().contains(text));
    }

    pub(super) fn types(&mut self, bytes: &[u8]) {
        self.outer.write_all(bytes).expect("room");
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a pid");
        kill_process(pid, signal).expect("it runs");
    }

    /// What a window does whose size changes.
    pub(super) fn resizes(&self, size: (u16, u16)) {
        set_size(&self.outer, size);
        self.signal(Signal::WINCH);
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.inner).expect("a terminal").local_modes;
        !modes.contains(LocalModes::ICANON)
    }

    /// Its exit code, and that the terminal is as it was.
    pub(super) fn end(self) -> Option<i32> {
        self.end_with_screen().0
    }

    /// And all that was to be seen.
    pub(super) fn end_with_screen(mut self) -> (Option<i32>, String) {
        const LAST: &str = "\0the last of it";
        let ended = wait(&mut self.child);
        let modes = tcgetattr(&self.inner).expect("a terminal").local_modes;
        let usual = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        assert!(modes.contains(usual), "{modes:?}: {}", self.seen());
        rustix::io::write(&self.inner, LAST.as_bytes()).expect("room");
        self.sees(LAST);
        (ended.code(), self.seen().replace(LAST, ""))
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn set_size(terminal: &File, (columns, rows): (u16, u16)) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).expect("a terminal");
}

/// Item 107: the first size before the first byte, then each new one, and never nothing.
#[test]
fn the_command_knows_the_terminals_size() {
    let playground = playground();
    for transport in TRANSPORTS {
        let script = "while read line; do stty size; done; exit 7";
        let arguments = ["-it", "web", "--", "sh", "-c", script];
        let mut typed = Typed::start(&playground, transport, (100, 40), b"\n", &arguments);
        typed.sees("40 100");
        typed.resizes((120, 50));
        until("the new size arrives", || {
            typed.types(b"\n");
            thread::sleep(std::time::Duration::from_millis(20));
            typed.seen().contains("50 120")
        });
        typed.resizes((0, 0));
        typed.types(b"\n");
        typed.resizes((90, 30));
        until("the last size arrives", || {
            typed.types(b"\n");
            thread::sleep(std::time::Duration::from_millis(20));
            typed.seen().contains("30 90")
        });
        let seen = typed.seen();
        assert!(!seen.contains("0 0\r"), "{transport:?}: {seen}");
        // the end of input is typed, as everything is
        typed.types(b"\x04");
        assert_eq!(typed.end(), Some(7), "{transport:?}");
    }
}

#[test]
fn keys_go_to_the_command_untouched() {
    let playground = playground();
    for transport in TRANSPORTS {
        let script = "stty raw -echo; echo ready; head -c 5 | od -An -tx1; exit 3";
        let arguments = ["-ti", "web", "--", "sh", "-c", script];
        let mut typed = Typed::start(&playground, transport, (80, 24), b"", &arguments);
        typed.sees("ready");
        assert!(typed.is_raw());
        typed.types(b"\x03\x04\x1a\r\x11");
        typed.sees("03 04 1a 0d 11");
        assert_eq!(typed.end(), Some(3), "{transport:?}");
    }
}

#[test]
fn ctrl_c_is_the_commands() {
    let playground = playground();
    for transport in TRANSPORTS {
        let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done";
        let arguments = ["-it", "web", "--", "sh", "-c", script];
        let mut typed = Typed::start(&playground, transport, (80, 24), b"", &arguments);
        typed.sees("ready");
        typed.types(b"\x03");
        typed.sees("caught");
        typed.sees("command terminated with exit code 9");
        assert_eq!(typed.end(), Some(9), "{transport:?}");
    }
}

/// Item 110: the terminal is given back on every way out.
#[test]
fn signals_end_it_as_in_kubectl() {
    let playground = playground();
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let arguments = ["-it", "web", "--", "sh", "-c", "echo ready; sleep 1000"];
        let transport = Transport::WebSocket;
        let typed = Typed::start(&playground, transport, (80, 24), b"", &arguments);
        typed.sees("ready");
        assert!(typed.is_raw());
        typed.signal(signal);
        assert_eq!(typed.end(), Some(1), "{signal:?}");
    }
}

#[test]
fn a_lost_connection_gives_the_terminal_back() {
    let playground = playground();
    for transport in TRANSPORTS {
        let arguments = ["-it", "web", "--", "sh", "-c", "echo ready; sleep 1000"];
        let typed = Typed::start(&playground, transport, (80, 24), b"", &arguments);
        typed.sees("ready");
        playground.cut_all();
        typed.sees("error: lost the command, its exit status is unknown");
        assert_eq!(typed.end(), Some(74), "{transport:?}");
    }
}

#[test]
fn a_failure_to_start_leaves_the_terminal_alone() {
    let playground = playground();
    let arguments = ["-it", "web", "--", "no-such-program"];
    let transport = Transport::WebSocket;
    let typed = Typed::start(&playground, transport, (80, 24), b"", &arguments);
    typed.sees("executable file not found");
    assert_eq!(typed.end(), Some(1));
    let arguments = ["-it", "done", "--", "true"];
    let typed = Typed::start(&playground, transport, (80, 24), b"", &arguments);
    typed.sees("current phase is Succeeded");
    assert_eq!(typed.end(), Some(1));
}

/// Without -t a terminal is an ordinary stdin, and its keys are the terminal's.
#[test]
fn without_a_tty_ctrl_d_is_the_end_and_a_signal_a_failure() {
    let playground = playground();
    for transport in TRANSPORTS {
        let arguments = ["-i", "web", "--", "sh", "-c", "wc -c; exit 5"];
        let mut typed = Typed::start(&playground, transport, (80, 24), b"", &arguments);
        typed.types(b"12345\n\x04");
        typed.sees("\r\n6\r\n");
        assert!(!typed.is_raw());
        assert_eq!(typed.end(), Some(5), "{transport:?}");
    }
    let arguments = ["-i", "web", "--", "sh", "-c", "echo ready; cat"];
    let typed = Typed::start(&playground, Transport::Spdy, (80, 24), b"", &arguments);
    typed.sees("ready");
    typed.signal(Signal::INT);
    assert_eq!(typed.end(), Some(1));
}

/// A terminal whose other end is gone: no stdin that has ended, and so no command whose output is cut off.
#[test]
fn a_terminal_that_hangs_up_ends_the_session() {
    let playground = playground();
    let arguments = ["-it", "web", "--", "sh", "-c", "echo ready; sleep 1000"];
    let (outer, inner) = open_terminal().expect("a terminal");
    let mut command = exec(
        kpf(),
        &playground,
        "admin",
        Transport::WebSocket,
        &arguments,
    );
    command.stdin(inner);
    let mut child = command.spawn().expect("it starts");
    drop(command);
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut ready = [0; 5];
    stdout.read_exact(&mut ready).expect("a line");
    drop(outer);
    let ended = wait(&mut child);
    let mut stderr = String::new();
    let mut errors = child.stderr.take().expect("a pipe");
    errors.read_to_string(&mut stderr).expect("text");
    assert!(
        stderr.contains("error: the terminal has hung up"),
        "{stderr}"
    );
    assert!(stderr.contains("stdout is no terminal"), "{stderr}");
    assert_eq!(ended.code(), Some(1));
}
