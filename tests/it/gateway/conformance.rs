//! What OpenSSH does with an sshd, and what it does by the gateway, side by side.
//!
//! Each case is one command line for a host, run against an sshd directly and by each way through the gateway: stdout,
//! stderr and exit code are the same, unless the case says what a way can't do.

use tokio::task::JoinSet;

use super::{Backend, Gateway};
use crate::program::{Ended, feed};

/// One case.
struct Case {
    /// Its number in the list of behaviours, for the figures.
    row: u8,
    /// Options of ssh.
    options: &'static [&'static str],
    /// The remote command.
    command: &'static str,
    stdin: &'static [u8],
    /// What is expected where it isn't what sshd does.
    exec: Expected,
}

/// What a way through the gateway does.
enum Expected {
    /// What sshd does.
    Same,
    /// This exit code, and the rest as sshd.
    Code(i32),
}

use Expected::{Code, Same};

const fn case(row: u8, command: &'static str) -> Case {
    Case {
        row,
        options: &[],
        command,
        stdin: b"",
        exec: Same,
    }
}

impl Case {
    const fn stdin(mut self, stdin: &'static [u8]) -> Self {
        self.stdin = stdin;
        self
    }

    const fn options(mut self, options: &'static [&'static str]) -> Self {
        self.options = options;
        self
    }

    const fn exec(mut self, exec: Expected) -> Self {
        self.exec = exec;
        self
    }
}

const CASES: &[Case] = &[
    case(1, "echo hi"),
    case(2, "exit 0"),
    case(2, "exit 1"),
    case(2, "exit 2"),
    case(2, "exit 126"),
    case(2, "exit 127"),
    case(2, "exit 128"),
    case(2, "exit 200"),
    case(2, "exit 254"),
    case(2, "exit 255"),
    case(2, "no-such-command 2>/dev/null"),
    case(3, "kill -TERM $$").exec(Code(143)),
    case(3, "kill -KILL $$").exec(Code(137)),
    case(4, "exit 7").options(&["-n"]),
    case(4, "exec 0<&-; exit 8"),
    case(5, "echo out; echo err >&2"),
    case(5, "for i in 1 2 3; do echo $i; echo $i >&2; done"),
    case(6, "exec 1>&-; sleep 0.1; echo late >&2; exit 3"),
    case(7, "wc -c").stdin(b"a"),
    case(7, "cat").stdin(b"one\ntwo\n"),
    case(8, "cat"),
    case(8, "true"),
    case(13, "sleep 1; cat").stdin(&[b'x'; 100_000]),
    case(18, "od -An -tx1").stdin(&ALL_BYTES),
    case(18, "cat").stdin(&ALL_BYTES),
    case(20, "tty"),
    case(
        27,
        "printf '%s|' \"$LANG\" \"$LC_TEST\" \"${KPF_TEST-unset}\"",
    )
    .options(&["-oSetEnv=LANG=C LC_TEST=x KPF_TEST=secret"]),
    case(28, "printf '%s|' \"$LC_A\" \"$LC_B\" \"$LC_C\"")
        .options(&["-oSetEnv=LC_A=\"a b\" LC_B=$(id) LC_C=`id`'\\\"*"]),
    case(
        30,
        "printf '%s' 'it'\"'\"'s \"quoted\" \\ $HOME' \"a\nb\" ; echo; # done\nexit 4",
    ),
    case(30, "echo 'ü ☃ \u{1f600}' | od -c"),
    case(60, "seq 1 100000"),
    case(60, "seq 1 100000 >&2; exit 9"),
    case(60, "head -c 3000000 /dev/zero | tr '\\0' x; exit 5"),
];

static ALL_BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut at = 0;
    while at < 256 {
        bytes[at] = at as u8;
        at += 1;
    }
    bytes
};

/// Rows 1 to 8, 13, 18, 20, 27, 28, 30 and 60.
#[tokio::test]
async fn a_command_by_the_gateway_is_a_command() {
    let Some(gateway) = Gateway::relaying("").await else {
        return;
    };
    let mut failures = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        let run = |host| {
            let mut words = case.options.to_vec();
            words.extend([host, case.command]);
            feed(gateway.ssh(&words), case.stdin)
        };
        let mut running = JoinSet::new();
        let direct = run("direct");
        let ways = Backend::ALL.map(|backend| {
            let ended = run(backend.host());
            async move { (backend, ended.await) }
        });
        let direct = running.spawn(direct);
        let mut ended = JoinSet::new();
        for way in ways {
            ended.spawn(way);
        }
        drop(direct);
        let direct = running.join_next().await.expect("one").expect("no panic");
        for (backend, ended) in ended.join_all().await {
            let code = match (backend, &case.exec) {
                (Backend::Exec, Code(code)) => *code,
                _ => direct.code,
            };
            if !is_same(&direct, &ended, code) {
                failures.push(format!(
                    "row {} (case {number}) by {backend:?}: {}\n  sshd: {}\n  here: {}",
                    case.row,
                    case.command,
                    shown(&direct),
                    shown(&ended),
                ));
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn is_same(direct: &Ended, here: &Ended, code: i32) -> bool {
    direct.stdout == here.stdout && direct.stderr == here.stderr && code == here.code
}

fn shown(ended: &Ended) -> String {
    let head = |bytes: &[u8]| {
        let head = &bytes[..bytes.len().min(200)];
        format!("{:?} ({})", String::from_utf8_lossy(head), bytes.len())
    };
    format!(
        "{} {} {}",
        ended.code,
        head(&ended.stdout),
        head(ended.stderr.as_bytes())
    )
}
