//! The real kubectl and kpf with the same arguments: the same stdout, exit code and, but for what is listed, stderr.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use super::{Ended, TRANSPORTS, Transport, exec, kpf, playground, run};
use crate::tools;

/// What follows `exec`, what is on stdin, and who asks.
pub(super) struct Row {
    pub(super) arguments: &'static [&'static str],
    stdin: Option<&'static [u8]>,
    pub(super) user: &'static str,
    /// A part of both stderrs where kpf says more than kubectl; nothing where they are equal.
    differs: Option<&'static str>,
}

const fn row(arguments: &'static [&'static str]) -> Row {
    Row {
        arguments,
        stdin: None,
        user: "admin",
        differs: None,
    }
}

impl Row {
    const fn stdin(self, stdin: &'static [u8]) -> Self {
        Self {
            stdin: Some(stdin),
            ..self
        }
    }

    const fn by(self, user: &'static str) -> Self {
        Self { user, ..self }
    }

    const fn differs(self, part: &'static str) -> Self {
        Self {
            differs: Some(part),
            ..self
        }
    }
}

const BINARY: &[u8] = b"a\0b\r\n\x04\x1a\xff\xfe\x80 no line end";

pub(super) const ROWS: &[Row] = &[
    // what it says, and how it ends
    row(&["web", "--", "echo", "hi"]),
    row(&["web", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]),
    row(&["web", "--", "sh", "-c", "exit 255"]),
    row(&["web", "--", "sh", "-c", "kill -9 $$"]),
    row(&["web", "--", "true"]),
    row(&["web", "--", "false"]),
    row(&["web", "--", "no-such-program"]),
    row(&["web", "--", "/no/such/program"]),
    row(&["web", "--", "/etc/passwd"]),
    // arguments arrive as they are
    row(&[
        "web",
        "--",
        "printf",
        "[%s]",
        "a&b+c d",
        "",
        "ü%41",
        "two\nlines",
        "-i",
        "--",
        "\"'\\",
        "#?=;/",
    ]),
    row(&["web", "--", "sh", "-c", "echo $# $0 $1", "a", "b"]),
    // stdin
    row(&["-i", "web", "--", "cat"]).stdin(BINARY),
    row(&["-i", "web", "--", "cat"]),
    row(&["-i", "web", "--", "cat"]).stdin(b""),
    row(&["-i", "web", "--", "true"]).stdin(b"nobody reads this"),
    row(&["-i", "web", "--", "head", "-c", "3"]).stdin(BINARY),
    row(&["-i", "web", "--", "sh", "-c", "cat >&2; exit 4"]).stdin(b"to stderr\n"),
    row(&["web", "--", "cat"]).stdin(b"without -i this is not read"),
    row(&["--stdin=true", "--tty=false", "web", "--", "wc", "-c"]).stdin(BINARY),
    // no terminal
    row(&["-it", "web", "--", "echo", "hi"]).stdin(b""),
    row(&["-ti", "-q", "web", "--", "echo", "hi"]).stdin(b""),
    row(&["-t", "web", "--", "echo", "hi"]),
    // containers
    row(&["many", "--", "pwd"]),
    row(&["-q", "many", "--", "pwd"]),
    row(&["many", "--quiet", "--", "pwd"]),
    row(&["many", "-c", "app", "--", "pwd"]),
    row(&["many", "--container=sidecar", "--", "pwd"]),
    row(&["many", "-c", "", "--", "pwd"]),
    row(&["many", "-c", "nope", "--", "pwd"]),
    row(&["many", "-c", "setup", "--", "pwd"]),
    row(&["annotated", "--", "pwd"]),
    row(&["annotated", "-c", "first", "--", "pwd"]),
    row(&["misannotated", "--", "pwd"]),
    row(&["debugged", "-c", "debugger", "--", "pwd"]),
    row(&["debugged", "--", "pwd"]),
    // pods
    row(&["pod/web", "--", "sh", "-c", "echo $HOSTNAME"]),
    row(&["pods/web", "-n", "team-b", "--", "pwd"]),
    row(&["sts/db", "--", "sh", "-c", "echo ${HOSTNAME%-*}"]),
    row(&["deploy/web", "--", "sh", "-c", "echo ${HOSTNAME%-*}"]),
    row(&["replicaset/web", "--", "sh", "-c", "echo ${HOSTNAME%-*}"]),
    row(&["ds/agent", "--", "sh", "-c", "echo $HOSTNAME"]),
    row(&["job/task", "--", "sh", "-c", "echo $HOSTNAME"]),
    row(&["rc/old", "--", "sh", "-c", "echo $HOSTNAME"]),
    row(&["svc/web", "--", "sh", "-c", "echo $HOSTNAME"]),
    row(&["done", "--", "true"]),
    row(&["pending", "--", "true"]),
    row(&["nothing", "--", "true"])
        .differs("Error from server (NotFound): pods \"nothing\" not found"),
    row(&["svc/external", "--", "true"])
        .differs("invalid service 'external': Service is defined without a selector"),
    row(&["deploy/empty", "--pod-running-timeout=1s", "--", "true"])
        .differs("error: timed out waiting for the condition"),
    // roles
    row(&["web", "--", "true"]).by("cert"),
    row(&["web", "--", "true"]).by("plugin"),
    row(&["web", "--", "true"]).by("create-only"),
    row(&["web", "--", "true"]).by("viewer").differs(
        "error: unable to upgrade connection: pods \"web\" is forbidden: User \"viewer\" cannot",
    ),
    row(&["web", "--", "true"]).by("get-only").differs(
        "error: unable to upgrade connection: pods \"web\" is forbidden: User \"get-only\" cannot",
    ),
    row(&["web", "--", "true"]).by("wrong"),
    // usage
    row(&[]).differs("error: pod, type/name or --filename must be specified"),
    row(&["--", "true"]).differs("error: pod, type/name or --filename must be specified"),
    row(&["web"]).differs("error: you must specify at least one command for the container"),
    row(&["web", "--"]).differs("error: you must specify at least one command for the container"),
    row(&["web", "true"]).differs(
        "error: exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead",
    ),
    row(&["web", "true", "--", "true"]).differs(
        "error: exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead",
    ),
    row(&["web", "--pod-running-timeout=0", "--", "true"])
        .differs("--pod-running-timeout must be higher than zero"),
];

/// kubectls before 1.36 neither name the containers nor mind words before `--`.
fn is_new(kubectl: &Path) -> bool {
    let version = Command::new(kubectl).args(["version", "--client"]).output();
    let text = String::from_utf8_lossy(&version.expect("it runs").stdout).into_owned();
    let minor = text
        .split_once("v1.")
        .and_then(|(_, rest)| rest.split('.').next());
    minor.and_then(|minor| minor.parse::<u32>().ok()) >= Some(37)
}

fn pods(playground: &crate::playground::Playground) {
    use crate::playground::objects::{Pod, container};
    use serde_json::json;

    let pod = |name: &'static str, annotation: Option<&str>| {
        let mut pod = Pod::new("default", name, name);
        pod.containers = vec![container("first", &[]), container("second", &[])];
        let mut object = pod.object();
        if let Some(container) = annotation {
            let key = "kubectl.kubernetes.io/default-container";
            object["metadata"]["annotations"] = json!({ key: container });
        }
        object
    };
    playground.apply(pod("annotated", Some("second")));
    playground.apply(pod("misannotated", Some("gone")));
    let mut debugged = pod("debugged", None);
    debugged["spec"]["ephemeralContainers"] = json!([{ "name": "debugger", "image": "x" }]);
    playground.apply(debugged);
}

/// A kubectl that does what kpf does, or a skip.
pub(super) fn new_kubectl() -> Option<PathBuf> {
    let found = tools::kubectls().into_iter().find(|it| is_new(it));
    if found.is_none() {
        tools::skip("no kubectl of 1.37 or later");
    }
    found
}

/// Runs the rows in both transports by kubectl and by kpf, whose command lines `exec` makes.
pub(super) fn check<'r>(
    rows: impl Iterator<Item = &'r Row> + Clone + Send + Sync,
    kubectl: &Path,
    exec: impl Fn(&Path, &Row, Transport) -> Command + Sync,
) {
    let rows = TRANSPORTS
        .into_iter()
        .flat_map(|transport| rows.clone().map(move |row| (transport, row)));
    let rows = Mutex::new(rows);
    let next = || rows.lock().unwrap().next();
    thread::scope(|scope| {
        // a command is mostly waiting
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((transport, row)) = next() {
                    let [theirs, ours] = [kubectl, kpf()]
                        .map(|program| run(exec(program, row, transport), row.stdin));
                    compare(row, transport, &theirs, &ours);
                }
            });
        }
    });
}

fn compare(row: &Row, transport: Transport, theirs: &Ended, ours: &Ended) {
    let what = format!("{:?} by {}, {transport:?}", row.arguments, row.user);
    let said = format!("{}; kubectl: {}", ours.stderr, theirs.stderr);
    assert_eq!(ours.stdout(), theirs.stdout(), "{what}: {said}");
    assert_eq!(ours.code, theirs.code, "{what}: {said}");
    match row.differs {
        None => assert_eq!(stable(&ours.stderr), stable(&theirs.stderr), "{what}"),
        Some(part) => {
            for stderr in [&ours.stderr, &theirs.stderr] {
                assert!(stderr.contains(part), "{what}: {stderr}");
            }
        }
    }
}

/// Without the ids that a runtime gives to every command.
fn stable(stderr: &str) -> String {
    let is_id = |word: &&str| word.len() == 64 && word.bytes().all(|it| it.is_ascii_hexdigit());
    let words = stderr.split_inclusive('"');
    words
        .map(|word| match word.strip_suffix('"').filter(is_id) {
            Some(_) => "ID\"",
            None => word,
        })
        .collect()
}

#[test]
fn kubectl_and_kpf_do_the_same() {
    let Some(kubectl) = new_kubectl() else {
        return;
    };
    let playground = playground();
    pods(&playground);
    check(ROWS.iter(), &kubectl, |program, row, transport| {
        exec(program, &playground, row.user, transport, row.arguments)
    });
}
