//! kpf against a Kubernetes that nobody here wrote: `tests/cluster/cluster.sh up`, and its kubeconfig in
//! `KPF_TEST_CLUSTER_KUBECONFIG`. Without that variable these tests say so and do nothing.
//!
//! It is an old one, 1.20, which refuses WebSockets: what works here works by the fallback to SPDY.

mod isolation;
mod side_by_side;
mod survival;
mod via;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::forward::Forward;
use crate::program::{
    self, BULK, Ended, Noise, Process, digest_of, digest_of_file, feed, in_time, run,
};
use crate::tools;

/// Ports of the pods `echo`, as in `tests/cluster/podsvc.c`.
const ECHO: &str = "7";
const ZEROS: &str = "19";
const COUNT: &str = "1010";
const TAKE: &str = "1011";
const LINE: &str = "1013";
const RESET: &str = "1015";
const NEVER_READ: &str = "1020";
const LOOPBACK_ECHO: &str = "1021";
const NOBODY: &str = "4444";

/// Held for writing by those who break something that the others use.
static CLUSTER: RwLock<()> = RwLock::const_new(());

/// The cluster, and a home for those who use it.
pub(crate) struct Real<Guard> {
    pub(crate) kubeconfig: PathBuf,
    pub(crate) home: TempDir,
    _guard: Guard,
}

impl Real<RwLockReadGuard<'static, ()>> {
    pub(crate) async fn shared() -> Option<Self> {
        Self::new(kubeconfig()?, CLUSTER.read().await)
    }
}

impl Real<RwLockWriteGuard<'static, ()>> {
    pub(crate) async fn alone() -> Option<Self> {
        Self::new(kubeconfig()?, CLUSTER.write().await)
    }
}

#[expect(clippy::print_stderr, reason = "whoever runs the tests should know")]
fn kubeconfig() -> Option<PathBuf> {
    let path = std::env::var_os("KPF_TEST_CLUSTER_KUBECONFIG").map(PathBuf::from);
    if path.is_none() {
        eprintln!("not run: KPF_TEST_CLUSTER_KUBECONFIG names no cluster");
    }
    path
}

impl<Guard> Real<Guard> {
    fn new(kubeconfig: PathBuf, guard: Guard) -> Option<Self> {
        Some(Self {
            kubeconfig,
            home: tempfile::tempdir().expect("a home"),
            _guard: guard,
        })
    }

    fn command(&self, program: &Path) -> Command {
        program::command(program.as_os_str(), self.home.path(), &self.kubeconfig)
    }

    fn kpf(&self, words: &[&str]) -> Command {
        let mut command = self.command(Path::new(env!("CARGO_BIN_EXE_kpf")));
        command.args(words);
        command
    }

    fn connect(&self, port: &str) -> Command {
        self.kpf(&["connect", "default/echo", port])
    }

    /// `cluster.sh`, which puts right and breaks.
    pub(crate) async fn cluster(&self, words: &[&str]) -> Ended {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/cluster.sh");
        let mut command = Command::new(script);
        command
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let ended = run(command).await;
        assert_eq!(ended.code, 0, "{words:?}: {}", ended.stderr);
        ended
    }

    /// A connection through `kpf connect` that has proved itself.
    async fn open(&self) -> Process {
        let mut process = Process::start({
            let mut command = self.connect(ECHO);
            command.stdin(Stdio::piped());
            command
        });
        let stdin = process.stdin.as_mut().unwrap();
        stdin.write_all(b"before\n").await.unwrap();
        assert_eq!(process.line().await, "before\n");
        process
    }
}

#[track_caller]
fn assert_says(ended: &Ended, code: i32, part: &str) {
    assert_eq!(ended.code, code, "{}", ended.stderr);
    assert!(ended.stderr.contains(part), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[tokio::test]
async fn every_port_behaves_as_it_does() {
    let Some(real) = Real::shared().await else {
        return;
    };
    for port in [ECHO, LOOPBACK_ECHO] {
        let ended = feed(real.connect(port), b"hello\n").await;
        assert_eq!((ended.code, &ended.stderr[..]), (0, ""), "{port}");
        assert_eq!(ended.stdout, b"hello\n", "{port}");
    }
    let ended = run(real.connect(LINE)).await;
    assert_eq!((ended.code, &ended.stderr[..]), (0, ""));
    assert_eq!(ended.stdout, b"one line\n");
    assert_says(&run(real.connect(RESET)).await, 74, "reset by the pod");
    assert_says(&run(real.connect(NOBODY)).await, 111, "connection refused");
}

/// The API server closes a connection behind a refused WebSocket; the fallback must never meet that.
#[tokio::test]
async fn a_refused_websocket_never_costs_the_connection() {
    let Some(real) = Real::shared().await else {
        return;
    };
    for _ in 0..5 {
        // ten at once, as each takes the second in which a node ends a forward
        let many = join_all((0..10).map(|_| run(real.connect(LINE)))).await;
        for ended in many {
            assert_eq!((ended.code, &ended.stderr[..]), (0, ""));
        }
    }
    let ended = run(real.kpf(&["connect", "--transport=websocket", "default/echo", ECHO])).await;
    assert_says(&ended, 1, "query parameter \"port\" is required");
}

#[tokio::test]
async fn services_and_names_lead_to_their_port() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let connect = |words: &str| {
        let words: Vec<_> = ["connect"].into_iter().chain(words.split(' ')).collect();
        real.kpf(&words)
    };
    let connect = &connect;
    let mut hear = Vec::new();
    for words in [
        "echo echo",
        "team-b/echo 7",
        "echo.team-b.kpf 7",
        "echo.default.cert.kpf 7",
        "svc/echo named",
        "svc/echo 8007",
        "svc/headless echo",
        "svc_echo.default.kpf 7",
    ] {
        hear.push(async move {
            let ended = feed(connect(words), b"hello").await;
            assert_eq!((ended.code, &ended.stderr[..]), (0, ""), "{words}");
            assert_eq!(ended.stdout, b"hello", "{words}");
        });
    }
    join_all(hear).await; // all at once, as each takes a second to end
    for (words, code, part) in [
        ("default/nothing 7", 68, "pods \"nothing\" not found"),
        ("svc/nothing 7", 68, "services \"nothing\" not found"),
        ("svc/headless named", 111, "localhost:8007"),
        ("svc/echo 9999", 1, "does not have a service port 9999"),
        ("--token=wrong echo 7", 77, "Unauthorized"),
    ] {
        assert_says(&run(connect(words)).await, code, part);
    }
}

#[tokio::test]
async fn create_is_enough_and_get_is_not() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let as_user = |user| real.kpf(&["connect", "--context", user, "default/echo", LINE]);
    let ended = run(as_user("create-only")).await;
    assert_eq!((ended.code, &ended.stdout[..]), (0, &b"one line\n"[..]));
    // portforward's WebSocket is refused for its age, SPDY by the role
    assert_says(
        &run(as_user("get-only")).await,
        77,
        "cannot create resource \"pods/portforward\"",
    );
}

#[tokio::test]
async fn a_hundred_megabytes_both_ways_through_connect() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let mut process = Process::start({
        let mut command = real.connect(ECHO);
        command.stdin(Stdio::piped());
        command
    });
    let (stdin, stdout) = (process.stdin.take().unwrap(), process.stdout.take());
    let (sent, heard) = tokio::join!(
        in_time(Noise::new(BULK).write_to(stdin)),
        in_time(digest_of(stdout.unwrap(), usize::MAX)),
    );
    assert_eq!(heard.unwrap(), sent.unwrap());
    assert_eq!(process.code().await, 0);
}

#[tokio::test]
async fn a_hundred_megabytes_both_ways_through_forward() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let forward = Forward::start(real.kpf(&["forward", "svc/echo", ":7"]), 2).await;
    for index in 0..2 {
        let (reader, writer) = forward.connect(index).await.into_split();
        let (sent, heard) = tokio::join!(
            in_time(Noise::new(BULK).write_to(writer)),
            in_time(digest_of(reader, BULK)),
        );
        assert_eq!(heard.unwrap(), sent.unwrap());
    }
    forward.interrupt().await;
}

/// What kubectl ends for.
#[tokio::test]
async fn a_refused_and_a_reset_connection_leave_the_others_alone() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let ports = [ECHO, NOBODY, RESET, TAKE].map(|port| format!(":{port}"));
    let words: Vec<_> = ["forward", "pod/echo", "--address=127.0.0.1"]
        .into_iter()
        .chain(ports.iter().map(String::as_str))
        .collect();
    let forward = Forward::start(real.kpf(&words), ports.len()).await;
    let mut kept = forward.connect(0).await;
    for index in [1, 2] {
        let mut byte = [0];
        let end = in_time(forward.connect(index).await.read(&mut byte)).await;
        let kind = end.unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::ConnectionReset, "{}", ports[index]);
    }
    exchange(&mut kept, "kept", "kept").await;
    exchange(&mut forward.connect(0).await, "new", "new").await;
    exchange(&mut forward.connect(3).await, "4\ndata", "4\n").await;
    drop(kept);
    forward.interrupt().await;
}

async fn exchange(tcp: &mut TcpStream, asked: &str, answer: &str) {
    in_time(tcp.write_all(asked.as_bytes())).await.unwrap();
    let mut heard = vec![0; answer.len()];
    in_time(tcp.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, answer.as_bytes());
}

/// An ssh_config that leads into the cluster and nowhere else.
async fn ssh_config<Guard>(real: &Real<Guard>) -> PathBuf {
    let key = real.cluster(&["key"]).await.stdout;
    let key = PathBuf::from(String::from_utf8(key).unwrap().trim());
    let host = fs::read_to_string(key.with_file_name("id_host.pub")).unwrap();
    let known_hosts = real.home.path().join("known_hosts");
    fs::write(&known_hosts, format!("sshd {host}")).unwrap();
    let config = real.home.path().join("ssh_config");
    let text = format!(
        "Host *.kpf\n\
         ProxyCommand '{kpf}' connect %h %p\n\
         HostKeyAlias sshd\n\
         User root\n\
         IdentityFile {key}\n\
         IdentitiesOnly yes\n\
         IdentityAgent none\n\
         UserKnownHostsFile {known_hosts}\n\
         StrictHostKeyChecking yes\n\
         BatchMode yes\n\
         LogLevel ERROR\n",
        kpf = env!("CARGO_BIN_EXE_kpf"),
        key = key.display(),
        known_hosts = known_hosts.display(),
    );
    fs::write(&config, text).unwrap();
    config
}

#[tokio::test]
async fn ssh_and_sftp_reach_a_pod() {
    let (Some(ssh), Some(sftp)) = (tools::find("ssh"), tools::find("sftp")) else {
        return;
    };
    let Some(real) = Real::shared().await else {
        return;
    };
    let config = ssh_config(&real).await;
    let client = |program: &Path, words: &[&str]| {
        let mut command = real.command(program);
        command.arg("-F").arg(&config).args(words);
        command
    };
    for host in ["sshd.default.kpf", "sshd.default.create-only.kpf"] {
        let words = [host, "tr a-z A-Z; echo to stderr >&2; exit 7"];
        let ended = feed(client(&ssh, &words), b"hello\n").await;
        assert_eq!((ended.code, &ended.stderr[..]), (7, "to stderr\n"));
        assert_eq!(ended.stdout, b"HELLO\n");
    }
    let [up, down] = ["up", "down"].map(|name| real.home.path().join(name));
    let digest = Noise::new(BULK).save(&up);
    let batch = "put up /tmp/real\nget /tmp/real down\nrm /tmp/real\n";
    let words = ["-q", "-b", "-", "sshd.default.kpf"];
    let ended = feed(client(&sftp, &words), batch.as_bytes()).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(digest_of_file(&down), digest);
}
