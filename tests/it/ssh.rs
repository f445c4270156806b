//! OpenSSH through `kpf connect` as its ProxyCommand.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::playground::Options;
use crate::program::{
    BULK, Ended, Noise, Process, TestEnv, digest_of, digest_of_file, feed, in_time, run, until,
};
use crate::tools;

/// A host of the playground: the pod `sshd` of a namespace.
const HOST: &str = "sshd.default.kpf";

/// A playground, and an ssh_config that leads into it and nowhere else.
struct Ssh {
    env: TestEnv,
    config: PathBuf,
    ssh: PathBuf,
}

impl Ssh {
    /// None where the machine lacks OpenSSH.
    fn start(options: Options) -> Option<Self> {
        let ssh = tools::find("ssh")?;
        tools::find("sshd")?;
        let env = TestEnv::with(options);
        let login = env.playground.ssh().expect("the machine has an sshd");
        let config = env.playground.folder().join("ssh_config");
        let text = format!(
            "Host *.kpf\n\
             ProxyCommand '{kpf}' connect %h %p\n\
             User {user}\n\
             IdentityFile {key}\n\
             IdentitiesOnly yes\n\
             IdentityAgent none\n\
             UserKnownHostsFile {known_hosts}\n\
             GlobalKnownHostsFile /dev/null\n\
             StrictHostKeyChecking yes\n\
             BatchMode yes\n\
             LogLevel ERROR\n",
            kpf = env!("CARGO_BIN_EXE_kpf"),
            user = login.user,
            key = login.key.display(),
            known_hosts = login.known_hosts.display(),
        );
        fs::write(&config, text).expect("a file");
        Some(Self { env, config, ssh })
    }

    /// ssh, or one of those that run it, with the playground's configuration.
    fn client(&self, program: impl AsRef<Path>, words: &[&str]) -> Command {
        let mut command = self.env.command(program.as_ref());
        command.arg("-F").arg(&self.config).args(words);
        command
    }

    fn ssh(&self, words: &[&str]) -> Command {
        self.client(&self.ssh, words)
    }

    /// A folder for both sides, which are the same machine.
    fn folder(&self) -> &Path {
        self.env.playground.folder()
    }

    /// A long file, and its digest.
    fn long_file(&self) -> (PathBuf, String) {
        let path = self.folder().join("long");
        let digest = Noise::new(BULK).save(&path);
        (path, digest)
    }
}

/// kpf has nothing to say. The remote shell may: it reads the start-up files of whoever runs the tests.
#[track_caller]
fn assert_quiet(ended: &Ended, what: &str) {
    let of_kpf = |line: &&str| line.starts_with("error: ") || line.starts_with("warning: ");
    let said = ended.stderr.lines().find(of_kpf);
    assert_eq!(said, None, "{what}");
}

#[tokio::test]
async fn commands_have_their_input_output_and_code() {
    let Some(ssh) = Ssh::start(Options::default()) else {
        return;
    };
    for transport in ["true", "false"] {
        let mut command = ssh.ssh(&[HOST, "tr a-z A-Z; echo to stderr >&2; exit 7"]);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", transport);
        let ended = feed(command, b"hello\n").await;
        assert_eq!(ended.stdout, b"HELLO\n", "{}", ended.stderr);
        assert_eq!(ended.code, 7);
        assert!(ended.stderr.contains("to stderr\n"), "{}", ended.stderr);
        assert_quiet(&ended, transport);
    }
    // one request for each of them: nothing but the upgrade
    let requests = ssh.env.playground.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(requests.iter().all(|request| request.is_upgrade()));
}

#[tokio::test]
async fn what_kpf_says_is_what_ssh_shows() {
    let Some(ssh) = Ssh::start(Options::default()) else {
        return;
    };
    for (host, says) in [
        ("nothing.default.kpf", "pods \"nothing\" not found"),
        ("web.default.kpf", "connection refused"),
        (
            "svc_web.default.kpf",
            "Service web does not have a service port 22",
        ),
    ] {
        let ended = run(ssh.ssh(&[host, "true"])).await;
        assert_eq!(ended.code, 255);
        assert!(ended.stderr.contains(says), "{host}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_hundred_megabytes_through_a_pipe_both_ways() {
    let Some(ssh) = Ssh::start(Options::default()) else {
        return;
    };
    let mut command = ssh.ssh(&[HOST, "cat"]);
    command.stdin(Stdio::piped());
    let mut process = Process::start(command);
    let stdin = process.stdin.take().unwrap();
    let stdout = process.stdout.take().unwrap();
    let (sent, heard) = tokio::join!(
        in_time(Noise::new(BULK).write_to(stdin)),
        in_time(digest_of(stdout, usize::MAX)),
    );
    assert_eq!(heard.unwrap(), sent.unwrap());
    assert_eq!(process.code().await, 0);
}

#[tokio::test]
async fn scp_copies_both_ways() {
    let (Some(scp), Some(ssh)) = (tools::find("scp"), Ssh::start(Options::default())) else {
        return;
    };
    let (file, digest) = ssh.long_file();
    let [up, down] = ["up", "down"].map(|name| ssh.folder().join(name));
    let (file, up, down) = (text(&file), text(&up), text(&down));
    for (from, to, copy) in [
        (file, &format!("{HOST}:{up}")[..], up),
        (&format!("{HOST}:{file}"), down, down),
    ] {
        let ended = run(ssh.client(&scp, &["-q", from, to])).await;
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        assert_quiet(&ended, from);
        assert_eq!(digest_of_file(Path::new(copy)), digest, "{from} {to}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

#[tokio::test]
async fn sftp_copies_both_ways() {
    let (Some(sftp), Some(ssh)) = (tools::find("sftp"), Ssh::start(Options::default())) else {
        return;
    };
    let (file, digest) = ssh.long_file();
    let [up, down] = ["up", "down"].map(|name| ssh.folder().join(name));
    let batch = format!(
        "put {file} {up}\nget {file} {down}\n",
        file = file.display(),
        up = up.display(),
        down = down.display()
    );
    let ended = feed(
        ssh.client(&sftp, &["-q", "-b", "-", HOST]),
        batch.as_bytes(),
    )
    .await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_quiet(&ended, "sftp");
    assert_eq!(digest_of_file(&up), digest);
    assert_eq!(digest_of_file(&down), digest);
}

#[tokio::test]
async fn rsync_copies_both_ways() {
    let (Some(rsync), Some(ssh)) = (tools::find("rsync"), Ssh::start(Options::default())) else {
        return;
    };
    let source = ssh.folder().join("source");
    fs::create_dir_all(source.join("deeper")).unwrap();
    let lengths = [0, 1, 1000, 1 << 16, BULK];
    for (number, length) in lengths.into_iter().enumerate() {
        Noise::new(length).save(&source.join("deeper").join(number.to_string()));
    }
    let shell = format!("{} -F {}", ssh.ssh.display(), ssh.config.display());
    let there = ssh.folder().join("there");
    let back = ssh.folder().join("back");
    for (from, to) in [
        (
            format!("{}/", source.display()),
            format!("{HOST}:{}", there.display()),
        ),
        (
            format!("{HOST}:{}/", there.display()),
            back.display().to_string(),
        ),
    ] {
        let mut command = ssh.env.command(&rsync);
        command.args(["-a", "-e", &shell, &from, &to]);
        let ended = run(command).await;
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        assert_quiet(&ended, &from);
    }
    for (number, length) in lengths.into_iter().enumerate() {
        let copy = back.join("deeper").join(number.to_string());
        assert_eq!(digest_of_file(&copy), Noise::new(length).digest());
    }
}

#[tokio::test]
async fn one_connection_serves_many_sessions() {
    let Some(ssh) = Ssh::start(Options::default()) else {
        return;
    };
    let socket = ssh.folder().join("master");
    let path = format!("ControlPath={}", socket.display());
    let master = Process::start(ssh.ssh(&["-M", "-N", "-o", &path, HOST]));
    until("the master is there", || socket.exists()).await;
    for number in 0..5 {
        let word = format!("echo {number}");
        let ended = run(ssh.ssh(&["-o", &path, HOST, &word])).await;
        assert_eq!(
            ended.stdout,
            format!("{number}\n").as_bytes(),
            "{}",
            ended.stderr
        );
    }
    assert_eq!(ssh.env.playground.tunnels_opened(), 1);
    let ended = run(ssh.ssh(&["-O", "exit", "-o", &path, HOST])).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let mut master = master;
    master.code().await;
    // its ProxyCommand too
    master.nobody_left().await;
    until("the tunnel is closed", || {
        ssh.env.playground.tunnels().is_empty()
    })
    .await;
}

#[tokio::test]
async fn twenty_sessions_at_once() {
    let Some(ssh) = Ssh::start(Options::default()) else {
        return;
    };
    let mut sessions = JoinSet::new();
    for number in 0..20usize {
        let mut command = ssh.ssh(&[HOST, "cat"]);
        command.stdin(Stdio::piped());
        sessions.spawn(async move {
            let mut process = Process::start(command);
            let stdin = process.stdin.take().unwrap();
            let stdout = process.stdout.take().unwrap();
            let (sent, heard) = tokio::join!(
                in_time(Noise::new((1 << 20) + number).write_to(stdin)),
                in_time(digest_of(stdout, usize::MAX)),
            );
            let ended = process.end().await;
            assert_eq!(ended.code, 0, "session {number}: {}", ended.stderr);
            assert_quiet(&ended, &format!("session {number}"));
            assert_eq!(heard.unwrap(), sent.unwrap(), "session {number}");
        });
    }
    while let Some(ended) = sessions.join_next().await {
        ended.unwrap();
    }
}

/// A session that is asked for nothing must not be ended by anybody.
#[tokio::test]
async fn an_interactive_shell_answers_line_by_line() {
    let Some(ssh) = Ssh::start(Options::default()) else {
        return;
    };
    let mut command = ssh.ssh(&["-T", HOST, "exec sh"]);
    command.stdin(Stdio::piped());
    let mut shell = Process::start(command);
    let mut stdin = shell.stdin.take().unwrap();
    for (asked, answer) in [("echo one\n", "one\n"), ("echo $((40+2))\n", "42\n")] {
        stdin.write_all(asked.as_bytes()).await.unwrap();
        assert_eq!(shell.line().await, answer);
    }
    stdin.write_all(b"exit 3\n").await.unwrap();
    assert_eq!(shell.end().await.code, 3);
}
