//! `kpf gateway`, as real OpenSSH sees it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::playground::{Options, ports};
use crate::program::{Process, TestEnv, in_time, run};
use crate::tools;

mod audit;
mod check;
mod configured;
mod conformance;
mod door;
mod exec;
mod host_key;
mod jump;
mod laptop;
mod metrics;
mod recordings;
mod relay;
mod relayed;

/// How a pod is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// To the pod's own sshd, end to end.
    Jump,
    /// To the pod's own sshd, by a login of the gateway's.
    Relay,
    /// As a command in the container.
    Exec,
}

/// A playground with a gateway before it, and an ssh_config that knows the ways:
///
/// | host | what it is |
/// |---|---|
/// | `gw` | the gateway |
/// | `direct` | the sshd of the pod `sshd`, without anything between |
/// | `jump` | the same, by the gateway |
/// | `relay` | the same, by the gateway's own login |
/// | `exec` | the pod `web`, by the gateway |
pub(crate) struct Gateway {
    pub(crate) env: TestEnv,
    pub(crate) config: PathBuf,
    pub(crate) ssh: PathBuf,
    pub(crate) port: u16,
    pub(crate) process: Process,
}

impl Gateway {
    /// None where the machine lacks OpenSSH.
    pub(crate) async fn start() -> Option<Self> {
        Self::with(Options::default(), &[]).await
    }

    pub(crate) async fn with(options: Options, words: &[&str]) -> Option<Self> {
        tools::find("ssh-keygen")?;
        let env = TestEnv::with(options);
        fs::create_dir(env.home().join(".ssh")).expect("a folder");
        let key = make_key(&env, ".ssh/id_ed25519").await;
        Self::launch(env, words, &key).await
    }

    /// With a configuration that has it log in to pods: the key is `admin`'s, the pod `sshd` trusts its authority. `more` is
    /// the rest of the configuration; its events are in `gw/events.jsonl`.
    pub(crate) async fn relaying(more: &str) -> Option<Self> {
        tools::find("ssh-keygen")?;
        tools::find("sshd")?;
        let env = TestEnv::with(Options::default());
        let folder = env.home().join("gw");
        fs::create_dir_all(folder.join("users")).expect("a folder");
        let key = make_key(&env, "gw/admin").await;
        let listed = folder.join("users/admin.keys");
        fs::copy(key.with_extension("pub"), listed).expect("a file");
        let authority = make_key(&env, "gw/pod_ca").await;
        let sshd = env.playground.folder().join("sshd/sshd_config");
        let text = fs::read_to_string(&sshd).expect("a file");
        let trusts = format!("TrustedUserCAKeys {}.pub\n", authority.display());
        fs::write(&sshd, text + &trusts).expect("a file");
        let file = folder.join("gateway.yaml");
        let config = format!(
            "version: 1\n\
             clusters:\n  play: {{}}\n\
             access:\n  keys: users\n\
             audit:\n  sinks:\n    - file: events.jsonl\n\
             relay:\n  authority: pod_ca\n\
             {more}"
        );
        fs::write(&file, config).expect("a file");
        let words = ["--config", file.to_str().expect("text")];
        Self::launch(env, &words, &key).await
    }

    /// Runs `kpf gateway` with these words; `key` is what clients log in with.
    pub(crate) async fn launch(env: TestEnv, words: &[&str], key: &Path) -> Option<Self> {
        let ssh = tools::find("ssh")?;
        tools::find("sshd")?;
        let mut command = env.kpf(["gateway", "--listen", "127.0.0.1:0"]);
        command.args(words);
        let mut process = Process::start(command);
        let line = process.line().await;
        let port = line
            .trim_end()
            .strip_prefix("Listening on 127.0.0.1:")
            .unwrap_or_else(|| panic!("{line:?}"));
        let port = port.parse().expect("a port");

        let login = env.playground.ssh().expect("the machine has an sshd");
        let direct = address_of_sshd(&env);
        let config = env.playground.folder().join("gateway_config");
        let text = format!(
            "Host gw exec relay\n\
             HostName 127.0.0.1\n\
             Port {port}\n\
             User nobody\n\
             IdentityFile {key}\n\
             UserKnownHostsFile {home}/known_gateways\n\
             StrictHostKeyChecking accept-new\n\
             Host exec\n\
             User web.default\n\
             Host direct\n\
             HostName {ip}\n\
             Port {direct_port}\n\
             Host jump\n\
             HostName sshd.default\n\
             ProxyJump gw\n\
             Host direct jump\n\
             User {user}\n\
             IdentityFile {pod_key}\n\
             UserKnownHostsFile {known_hosts}\n\
             StrictHostKeyChecking yes\n\
             Host *\n\
             IdentitiesOnly yes\n\
             IdentityAgent none\n\
             GlobalKnownHostsFile /dev/null\n\
             BatchMode yes\n\
             LogLevel ERROR\n",
            key = key.display(),
            home = env.home().display(),
            ip = direct.ip(),
            direct_port = direct.port(),
            user = login.user,
            pod_key = login.key.display(),
            known_hosts = login.known_hosts.display(),
        );
        // The first value counts, so what is special comes first.
        let text = text.replacen(
            "Host gw exec relay\n",
            &format!(
                "Host exec\nUser web.default\nHost relay\nUser {}+sshd.default\nHost gw exec relay\n",
                login.user
            ),
            1,
        );
        fs::write(&config, text).expect("a file");
        Some(Self {
            env,
            config,
            ssh,
            port,
            process,
        })
    }

    /// ssh, or one of those that run it, with this configuration.
    pub(crate) fn client(&self, program: impl AsRef<Path>, words: &[&str]) -> Command {
        let mut command = self.env.command(program.as_ref());
        command.arg("-F").arg(&self.config).args(words);
        command
    }

    pub(crate) fn ssh(&self, words: &[&str]) -> Command {
        self.client(&self.ssh, words)
    }

    /// ssh with a stdin that is a pipe.
    pub(crate) fn fed(&self, words: &[&str]) -> Command {
        let mut command = self.ssh(words);
        command.stdin(Stdio::piped());
        command
    }

    /// Sockets that the gateway has, those within the process aside.
    pub(crate) fn sockets(&self) -> usize {
        let links = fs::read_dir(format!("/proc/{}/fd", self.process.id()));
        let links = links.expect("it runs").flatten();
        let sockets = links.filter_map(|link| {
            let target = fs::read_link(link.path()).ok()?;
            let target = target.to_str()?.strip_prefix("socket:[")?;
            target.strip_suffix(']').map(str::to_owned)
        });
        let sockets: Vec<String> = sockets.collect();
        let tcp = fs::read_to_string(format!("/proc/{}/net/tcp", self.process.id()));
        let tcp = tcp.expect("it runs");
        let inodes = tcp
            .lines()
            .filter_map(|line| line.split_whitespace().nth(9));
        inodes
            .filter(|inode| sockets.iter().any(|it| it == inode))
            .count()
    }

    /// A folder for both sides, which are the same machine.
    pub(crate) fn folder(&self) -> &Path {
        self.env.playground.folder()
    }
}

/// Makes a key below the home, and its public part beside it.
pub(crate) async fn make_key(env: &TestEnv, name: &str) -> PathBuf {
    let key = env.home().join(name);
    let keygen = tools::find("ssh-keygen").expect("it was there before");
    let mut command = env.command(&keygen);
    command
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key);
    assert_eq!(run(command).await.code, 0);
    key
}

impl Backend {
    pub(crate) const ALL: [Self; 3] = [Self::Jump, Self::Relay, Self::Exec];

    /// The host that is reached so.
    pub(crate) fn host(self) -> &'static str {
        match self {
            Self::Jump => "jump",
            Self::Relay => "relay",
            Self::Exec => "exec",
        }
    }
}

fn address_of_sshd(env: &TestEnv) -> SocketAddr {
    // Outside of this test's runtime: the playground waits on its own.
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let playground = &env.playground;
            playground.service_address("default", "sshd", ports::SSH)
        });
        asking.join().expect("no panic").expect("sshd listens")
    })
}

/// Waits for the line of stdout that a program says when it is there.
pub(crate) async fn says(process: &mut Process, expected: &str) {
    let line = in_time(process.line()).await;
    assert_eq!(line, format!("{expected}\n"));
}
