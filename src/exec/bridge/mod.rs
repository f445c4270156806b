//! A command in a container that makes a connection there: what `--via exec` runs where port-forward can't be had.
//!
//! [`probe`] finds out which programs a container has; it needs a shell. [`Program::command`] then connects the
//! command's stdin and stdout to a port or a socket. Hosts, ports and paths are arguments of fixed scripts: nothing
//! that a user or a cluster has written becomes code.
//!
//! Programs that can close half of a connection pass the end of stdin on, and print a mark of random bytes when the
//! pod's side has ended; they go on reading stdin then. With the others the command's end is the connection's.

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use super::Command;
use super::pipe::{EndMark, Witness};

/// Where a connection leads, seen from the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host's name or IP address, and a port.
    Tcp(String, NonZeroU16),
    /// The path of a unix socket.
    Unix(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// A program that can make a connection, the better ones first: those that pass both ends on and tell a reset from an
/// end. bash can't tell the pod of the end of stdin alone. The two kinds of nc take a reset for an end, and
/// OpenBSD's doesn't tell of the pod's end while stdin is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// socat, with cat.
    Socat,
    /// Python 3.
    Python,
    /// Perl, with its core module `IO::Socket::IP` (5.20 and later).
    Perl,
    /// PHP on the command line.
    Php,
    /// Node.js.
    Node,
    /// bash's `/dev/tcp`, with cat.
    Bash,
    /// The nc of busybox.
    NcBusybox,
    /// OpenBSD's nc, which Debian calls netcat-openbsd.
    NcOpenBsd,
}

/// Each with what the probe calls it.
const PROGRAMS: [(Program, &str); 8] = [
    (Program::Socat, "socat"),
    (Program::Python, "python3"),
    (Program::Perl, "perl"),
    (Program::Php, "php"),
    (Program::Node, "node"),
    (Program::Bash, "bash"),
    (Program::NcBusybox, "nc-busybox"),
    (Program::NcOpenBsd, "nc-openbsd"),
];

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = PROGRAMS.iter().find(|(program, _)| program == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Program {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        let program = PROGRAMS.iter().find(|(_, name)| *name == word);
        program.map(|(program, _)| *program).ok_or(())
    }
}

/// Bytes that the probe prints at most, and a few of other shells' own.
pub const MAX_PROBE: usize = 4096;

/// Finds out which programs a container has; [`found`] reads its stdout.
#[must_use]
pub fn probe(container: Option<String>) -> Command {
    command(container, false, ["sh", "-c", PROBE])
}

/// The programs that the probe has found, the best one first.
#[must_use]
pub fn found(stdout: &[u8]) -> Vec<Program> {
    let lines = String::from_utf8_lossy(stdout);
    let mut programs: Vec<Program> = lines
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect();
    programs.sort_unstable();
    programs.dedup();
    programs
}

impl Program {
    /// Whether it can connect to this.
    #[must_use]
    pub fn reaches(self, address: &Address) -> bool {
        match address {
            Address::Tcp(..) => true,
            Address::Unix(_) => !matches!(self, Self::NcBusybox | Self::Bash),
        }
    }

    /// Whether the pod is told of the end of stdin while it can still answer.
    #[must_use]
    pub fn half_closes(self) -> bool {
        self != Self::Bash
    }

    /// What connects to `address`, and the mark that its output ends with, if it has one.
    #[must_use]
    pub fn command(
        self,
        container: Option<String>,
        address: &Address,
    ) -> (Command, Option<EndMark>) {
        let mark = EndMark::random();
        let (host, port) = match address {
            Address::Tcp(host, port) => (host.as_str(), port.to_string()),
            Address::Unix(path) => ("unix", path.clone()),
        };
        let marked = mark.text().to_owned();
        let with = |program: &str, flag: &str, code: &str| {
            let words = [program, flag, code, host, &port, &marked];
            command(container.clone(), true, words)
        };
        match self {
            Self::Socat => {
                let to = socat_address(address);
                let words = ["sh", "-c", SOCAT, "kpf", &to, &marked];
                let mark = mark.with(SOCATS_WORDS);
                (command(container, true, words), Some(mark))
            }
            Self::Python => (with("python3", "-c", PYTHON), Some(mark)),
            Self::Perl => (with("perl", "-e", PERL), Some(mark)),
            Self::Node => (with("node", "-e", NODE), Some(mark)),
            Self::Php => {
                // The dashes keep PHP from reading arguments as its own.
                let words = ["php", "-r", PHP, "--", host, &port, &marked];
                (command(container, true, words), Some(mark))
            }
            Self::Bash => {
                let words = ["bash", "-c", BASH, "kpf", host, &port];
                (command(container, true, words), None)
            }
            Self::NcBusybox => (command(container, true, ["nc", host, &port]), None),
            Self::NcOpenBsd => {
                let words: &[&str] = match address {
                    Address::Tcp(..) => &["nc", "-v", "-N", host, &port],
                    Address::Unix(_) => &["nc", "-v", "-N", "-U", &port],
                };
                (command(container, true, words.iter().copied()), None)
            }
        }
    }
}

fn command<'a>(
    container: Option<String>,
    stdin: bool,
    words: impl IntoIterator<Item = &'a str>,
) -> Command {
    Command {
        words: words.into_iter().map(OsString::from).collect(),
        container,
        stdin,
        tty: false,
    }
}

/// An address as socat reads it, whose own syntax has many a special character.
fn socat_address(address: &Address) -> String {
    let (kind, text) = match address {
        Address::Tcp(host, port) if host.contains(':') => return format!("TCP6:[{host}]:{port}"),
        Address::Tcp(host, port) => return format!("TCP:{host}:{port}"),
        Address::Unix(path) => ("UNIX-CONNECT:", path),
    };
    let mut escaped = kind.to_owned();
    for character in text.chars() {
        if !character.is_alphanumeric() && !"/._-".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// socat takes a reset for an end, and says so only in its notices (1.7 and 1.8); socket 2 is the pod's.
const SOCATS_WORDS: Witness = Witness {
    clean: "socket 2 (fd ",
    broken: "socket 2 to socket 1 is in error",
};

const PROBE: &str = include_str!("probe.sh");
const SOCAT: &str = include_str!("socat.sh");
const BASH: &str = include_str!("bash.sh");
const PYTHON: &str = include_str!("connect.py");
const PERL: &str = include_str!("connect.pl");
const PHP: &str = include_str!("connect.php");
const NODE: &str = include_str!("connect.js");

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.to_owned(), NonZeroU16::new(port).unwrap())
    }

    #[test]
    fn the_best_program_comes_first() {
        let programs = found(b"cat\nnc-openbsd\nperl\npython3\r\nsomething\nsocat\nperl\n\xff\n");
        use Program::{NcOpenBsd, Perl, Python, Socat};
        assert_eq!(programs, [Socat, Python, Perl, NcOpenBsd]);
        assert_eq!(found(b""), []);
        for (program, name) in PROGRAMS {
            assert_eq!(name.parse(), Ok(program));
            assert_eq!(program.to_string(), name);
        }
    }

    /// A request's URI carries the script: proxies in front of API servers take 8 KiB.
    #[test]
    fn every_command_fits_a_request() {
        let path = Address::Unix(format!("/{}", "x".repeat(100)));
        for address in [tcp("db.example.com", 65535), path] {
            for (program, _) in PROGRAMS {
                let (command, _) = program.command(Some("c".repeat(63)), &address);
                let length = command.query().len();
                assert!(length < 7000, "{program}: {length}");
            }
        }
        assert!(probe(None).query().len() < 7000);
    }

    /// What a user writes is an argument of its own, whatever it looks like.
    #[test]
    fn nothing_is_put_into_a_script() {
        let path = Address::Unix("/a;$(id) `id`'\"".to_owned());
        for (program, _) in PROGRAMS.into_iter().filter(|(it, _)| it.reaches(&path)) {
            let (command, _) = program.command(None, &path);
            let with: Vec<_> = command
                .words
                .iter()
                .filter(|word| word.to_string_lossy().contains("id"))
                .filter(|word| word.to_string_lossy().contains("/a"))
                .collect();
            assert_eq!(with.len(), 1, "{program}");
            let word = with[0].to_string_lossy();
            assert!(word.len() < 60, "{program}: {word}");
        }
        assert_eq!(
            socat_address(&Address::Unix("/run/a,exec=b:c!d e".to_owned())),
            r"UNIX-CONNECT:/run/a\,exec\=b\:c\!d\ e"
        );
        assert_eq!(socat_address(&tcp("::1", 80)), "TCP6:[::1]:80");
        assert_eq!(socat_address(&tcp("db", 80)), "TCP:db:80");
    }
}
