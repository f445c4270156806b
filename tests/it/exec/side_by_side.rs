//! The real kubectl and kpf with the same arguments: the same stdout, exit code and, but for what is listed, stderr.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use super::{Ended, TRANSPORTS, Transport, exec, kpf, playground, run, try_run};
use crate::differences::{Difference, Tally, exec as purpose};
use crate::playground::Playground;
use crate::playground::faults::ExecFaults;
use crate::tools;

/// What follows `exec`, what is on stdin, and who asks.
pub(super) struct Row {
    pub(super) arguments: &'static [&'static str],
    stdin: Option<&'static [u8]>,
    pub(super) user: &'static str,
    /// Why the stderrs are not equal, and a part of both.
    differs: Option<(&'static Difference, &'static str)>,
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

    const fn differs(self, why: &'static Difference, part: &'static str) -> Self {
        Self {
            differs: Some((why, part)),
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
    row(&["nothing", "--", "true"]).differs(
        purpose::HINTS,
        "Error from server (NotFound): pods \"nothing\" not found",
    ),
    row(&["svc/external", "--", "true"]).differs(
        purpose::HINTS,
        "invalid service 'external': Service is defined without a selector",
    ),
    row(&["deploy/empty", "--pod-running-timeout=1s", "--", "true"])
        .differs(purpose::HINTS, "error: timed out waiting for the condition"),
    // roles
    row(&["web", "--", "true"]).by("cert"),
    row(&["web", "--", "true"]).by("plugin"),
    row(&["web", "--", "true"]).by("create-only"),
    row(&["web", "--", "true"]).by("viewer").differs(
        purpose::HINTS,
        "error: unable to upgrade connection: pods \"web\" is forbidden: User \"viewer\" cannot",
    ),
    row(&["web", "--", "true"]).by("get-only").differs(
        purpose::HINTS,
        "error: unable to upgrade connection: pods \"web\" is forbidden: User \"get-only\" cannot",
    ),
    row(&["web", "--", "true"]).by("wrong"),
    // manifests
    row(&["-f", "many.json", "--", "pwd"]),
    row(&["--filename=many.json", "-c", "sidecar", "--", "pwd"]),
    row(&["-f", "many.json", "-c", "nope", "--", "pwd"]),
    row(&["-f", "team-b.json", "--", "sh", "-c", "echo $HOSTNAME"]),
    row(&["-f", "team-b.json", "-n", "team-b", "--", "pwd"]),
    row(&["-f", "deploy.yaml", "--", "sh", "-c", "echo ${HOSTNAME%-*}"]),
    row(&["-f", "folder", "--", "pwd"]),
    row(&["-i", "-f", "many.json", "-q", "--", "cat"]).stdin(BINARY),
    row(&["-f", "done.json", "--", "true"]),
    row(&["-f", "both.yaml", "--", "true"]),
    row(&["-f", "folders", "--", "true"]),
    row(&["-f", "many.json", "-f", "deploy.yaml", "--", "true"]),
    row(&["-f", "many.json,deploy.yaml", "--", "true"]),
    row(&["-f", "list.yaml", "--", "true"]),
    row(&["-f", "nothing.yaml", "--", "true"]),
    row(&["-f", "missing.yaml", "--", "true"]),
    row(&["-f", "none", "--", "true"]),
    row(&["-f", "many.json", "web", "--", "true"]).differs(
        purpose::LINES,
        "error: resource/name arguments cannot be provided when a path is specified",
    ),
    row(&["-f", "", "--", "true"]).differs(
        purpose::LINES,
        "error: pod, type/name or --filename must be specified",
    ),
    row(&["-f", "many.json"]).differs(
        purpose::LINES,
        "error: you must specify at least one command for the container",
    ),
    row(&["-f", "many.json", "a", "b", "--", "true"]).differs(
        purpose::LINES,
        "error: exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead",
    ),
    row(&["-f", "team-b.json", "-n", "default", "--", "pwd"]).differs(purpose::HINTS, "team-b"),
    row(&["-f", "broken.yaml", "--", "true"])
        .differs(purpose::HINTS, "error: error parsing broken.yaml: "),
    row(&["-f", "kindless.yaml", "--", "true"]).differs(
        purpose::HINTS,
        "error: unable to decode \"kindless.yaml\": Object 'Kind' is missing",
    ),
    row(&["-f", "config.yaml", "--", "true"])
        .differs(purpose::HINTS, "kind \"ConfigMap\" in version \"v1\""),
    // usage
    row(&[]).differs(
        purpose::LINES,
        "error: pod, type/name or --filename must be specified",
    ),
    row(&["--", "true"]).differs(
        purpose::LINES,
        "error: pod, type/name or --filename must be specified",
    ),
    row(&["web"]).differs(
        purpose::LINES,
        "error: you must specify at least one command for the container",
    ),
    row(&["web", "--"]).differs(
        purpose::LINES,
        "error: you must specify at least one command for the container",
    ),
    row(&["web", "true"]).differs(
        purpose::LINES,
        "error: exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead",
    ),
    row(&["web", "true", "--", "true"]).differs(
        purpose::LINES,
        "error: exec [POD] [COMMAND] is not supported anymore. Use exec [POD] -- [COMMAND] instead",
    ),
    row(&["web", "--pod-running-timeout=0", "--", "true"]).differs(
        purpose::LINES,
        "--pod-running-timeout must be higher than zero",
    ),
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

fn pods(playground: &Playground) {
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
    let write = |name: &str, content: &str| {
        let file = playground.folder().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    };
    let object = |namespace: &str, name: &str| playground.pod(namespace, name).unwrap().to_string();
    write("many.json", &object("default", "many"));
    write("team-b.json", &object("team-b", "web"));
    write("done.json", &object("default", "done"));
    write(
        "both.yaml",
        &[object("default", "many"), object("default", "web")].join("\n---\n"),
    );
    write(
        "deploy.yaml",
        "---\n# ours\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n  selector: {matchLabels: {owner: web}}\n",
    );
    write(
        "bare.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n",
    );
    write("list.yaml", "apiVersion: v1\nkind: List\nitems: []\n");
    write(
        "config.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\n",
    );
    write("nothing.yaml", "");
    write("broken.yaml", "a: [\n");
    write("kindless.yaml", "a: b\n");
    write("folder/pod.yml", &object("default", "many"));
    write("folder/readme.txt", "no manifest");
    write("folders/a.json", &object("default", "many"));
    write("folders/b.json", &object("default", "web"));
    write("none/readme.txt", "no manifest");
}

/// Runs the rows in both transports by kubectl and by kpf, whose command lines `exec` makes. Each may be endless so
/// many times, for the runtime's sake.
pub(super) fn check<'r>(
    suite: &str,
    rows: impl Iterator<Item = &'r Row> + Clone + Send + Sync,
    kubectl: &Path,
    endless: usize,
    exec: impl Fn(&Path, &Row, Transport) -> Command + Sync,
) {
    let ended = |program: &Path, row: &Row, transport| {
        let mut tries = (0..=endless).map(|_| try_run(exec(program, row, transport), row.stdin));
        let ended = tries.find(|it| it.is_ok());
        let what = || format!("{:?} {transport:?} {}", row.arguments, program.display());
        ended
            .and_then(Result::ok)
            .unwrap_or_else(|| panic!("it does not end: {}", what()))
    };
    let rows = TRANSPORTS
        .into_iter()
        .flat_map(|transport| rows.clone().map(move |row| (transport, row)));
    let left = Mutex::new(rows.clone());
    let next = || left.lock().unwrap().next();
    thread::scope(|scope| {
        // a command is mostly waiting
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some((transport, row)) = next() {
                    let [theirs, ours] =
                        [kubectl, kpf()].map(|program| ended(program, row, transport));
                    compare(row, transport, &theirs, &ours);
                }
            });
        }
    });
    let tally = Tally::default();
    for (_, row) in rows {
        tally.count(row.differs.map(|(why, _)| why));
    }
    tally.print(suite);
}

fn compare(row: &Row, transport: Transport, theirs: &Ended, ours: &Ended) {
    let what = format!("{:?} by {}, {transport:?}", row.arguments, row.user);
    let said = format!("{}; kubectl: {}", ours.stderr, theirs.stderr);
    assert_eq!(ours.stdout(), theirs.stdout(), "{what}: {said}");
    assert_eq!(ours.code, theirs.code, "{what}: {said}");
    match row.differs {
        None => assert_eq!(stable(&ours.stderr), stable(&theirs.stderr), "{what}"),
        Some((_, part)) => {
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
    let Some(kubectl) = kubectl() else { return };
    let playground = playground();
    pods(&playground);
    check(
        "exec",
        ROWS.iter(),
        &kubectl,
        0,
        |program, row, transport| {
            let mut command = exec(program, &playground, row.user, transport, row.arguments);
            command.current_dir(playground.folder());
            command
        },
    );
}

/// The newest kubectl that kpf is held against, or a skip.
pub(super) fn kubectl() -> Option<PathBuf> {
    let found = tools::kubectls().into_iter().find(|it| is_new(it));
    if found.is_none() {
        tools::skip("no kubectl of 1.37 or later");
    }
    found
}

/// A difference shows: what kubectl does and what kpf does, as code and stdout.
#[test]
fn what_differs_is_meant_to() {
    let Some(kubectl) = kubectl() else { return };
    let playground = playground();
    pods(&playground);
    let tally = Tally::default();
    let differ = |why: &'static Difference,
                  transport: Transport,
                  arguments: &[&str],
                  stdio: &dyn Fn(&mut Command),
                  theirs: (i32, &str),
                  ours: (i32, &str)| {
        for (program, expected) in [(&*kubectl, theirs), (kpf(), ours)] {
            let mut command = exec(program, &playground, "admin", transport, arguments);
            command.current_dir(playground.folder());
            stdio(&mut command);
            let ended = run(command, None);
            assert_eq!(
                (ended.code, &*ended.stdout()),
                (Some(expected.0), expected.1),
                "{arguments:?}, {transport:?}, {}, {}: {}",
                program.display(),
                why.why,
                ended.stderr
            );
        }
        tally.count(Some(why));
    };
    let as_usual = |_: &mut Command| {};
    for transport in TRANSPORTS {
        let full = |command: &mut Command| {
            command.stdout(File::options().write(true).open("/dev/full").unwrap());
        };
        let hi = ["web", "--", "echo", "hi"];
        differ(purpose::LOCAL, transport, &hi, &full, (0, ""), (74, ""));
        let folder = |command: &mut Command| {
            command.stdin(File::open("/").unwrap());
        };
        let cat = ["-i", "web", "--", "cat"];
        differ(purpose::LOCAL, transport, &cat, &folder, (0, ""), (74, ""));
        // the container is in the cluster, not in the file
        let file = ["-f", "bare.yaml", "--", "echo", "hi"];
        differ(
            purpose::CLUSTER,
            transport,
            &file,
            &as_usual,
            (1, ""),
            (0, "hi\n"),
        );
        let manifest = |command: &mut Command| {
            command.stdin(File::open(playground.folder().join("many.json")).unwrap());
        };
        let stdin = ["-q", "-f", "-", "--", "echo", "hi"];
        differ(
            purpose::STDIN,
            transport,
            &stdin,
            &manifest,
            (1, ""),
            (0, "hi\n"),
        );
        let other = ["team-b/web", "--", "sh", "-c", "echo $HOSTNAME"];
        differ(
            purpose::TARGETS,
            transport,
            &other,
            &as_usual,
            (1, ""),
            (0, "web\n"),
        );
        let input = |command: &mut Command| {
            command.stdin(File::open(playground.folder().join("many.json")).unwrap());
        };
        let lost = ExecFaults {
            stdin_lost_after: Some(10),
            ..ExecFaults::default()
        };
        playground.behave(|behaviour| behaviour.exec = lost);
        let count = ["-i", "web", "--", "wc", "-c"];
        differ(
            purpose::VERIFY,
            transport,
            &count,
            &input,
            (0, "10\n"),
            (0, "10\n"),
        );
        let no_status = ExecFaults {
            status: Some(Vec::new()),
            ..ExecFaults::default()
        };
        playground.behave(|behaviour| behaviour.exec = no_status);
        let hi = ["web", "--", "sh", "-c", "echo hi; exit 3"];
        differ(
            purpose::NO_STATUS,
            transport,
            &hi,
            &as_usual,
            (0, "hi\n"),
            (74, "hi\n"),
        );
        playground.behave(|behaviour| behaviour.exec = ExecFaults::default());
    }
    tally.print("exec, differences");
}
