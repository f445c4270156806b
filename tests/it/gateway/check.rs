//! `kpf gateway check` on configurations that are good, and on those that aren't.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::playground::kubeconfig;
use crate::program::{Ended, Process, TestEnv, in_time};

/// A folder with a configuration and what it names.
struct Folder(TempDir);

impl Folder {
    /// With a certificate authority `ca`, and alice's key in `users`.
    async fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.keygen(&["-t", "ed25519", "-f", "ca"]).await;
        folder.keygen(&["-t", "ed25519", "-f", "alice"]).await;
        fs::create_dir(folder.path("users")).unwrap();
        fs::copy(folder.path("alice.pub"), folder.path("users/alice.keys")).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn set_mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    async fn keygen(&self, arguments: &[&str]) {
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-q", "-N", ""])
            .args(arguments)
            .current_dir(&self.0);
        assert!(in_time(command.status()).await.unwrap().success());
    }
}

/// The context of one of the playground's users, as a value of `clusters`.
fn cluster(user: &str) -> String {
    format!("{{context: {}}}", kubeconfig::context(user))
}

async fn check(env: &TestEnv, config: &Path) -> Ended {
    let config = config.to_str().unwrap();
    let command = env.kpf(["gateway", "check", "--config", config]);
    Process::start(command).end().await
}

fn lines(ended: &Ended) -> Vec<&str> {
    std::str::from_utf8(&ended.stdout)
        .unwrap()
        .lines()
        .collect()
}

#[tokio::test]
async fn a_good_configuration_has_no_errors() {
    let env = TestEnv::new();
    let folder = Folder::new().await;
    let config = format!(
        "version: 1\nclusters: {{dev: {}}}\naccess: {{authorities: [{{file: ca.pub}}], keys: users}}\n",
        cluster("admin")
    );
    folder.write("gateway.yaml", &config);
    let ended = check(&env, &folder.path("gateway.yaml")).await;
    // An administrator's credentials are more than a gateway needs.
    let rights = ["exec", "portforward"].map(|what| {
        format!("warning: cluster `dev`: the gateway itself may `create pods/{what}`, which it does not need")
    });
    let found = lines(&ended);
    assert_eq!(found.len(), 2, "{ended:?}");
    for (found, expected) in found.iter().zip(&rights) {
        assert!(found.starts_with(expected), "{found}");
    }
    assert_eq!((ended.code, &ended.stderr[..]), (0, ""));
    assert!(!folder.path("host_key").exists(), "it has made a key");

    // The same from stdin, where paths begin in the folder that kpf runs in.
    let config = config.replace("ca.pub", folder.path("ca.pub").to_str().unwrap());
    let config = config.replace("users", folder.path("users").to_str().unwrap());
    let mut command = env.kpf(["gateway", "check", "--config", "-"]);
    command.stdin(std::process::Stdio::piped());
    let mut process = Process::start(command);
    let mut stdin = process.stdin.take().unwrap();
    in_time(stdin.write_all(config.as_bytes())).await.unwrap();
    drop(stdin);
    let from_stdin = process.end().await;
    assert_eq!((from_stdin.code, from_stdin.stdout), (0, ended.stdout));
}

#[tokio::test]
async fn who_may_not_impersonate_can_be_no_gateway() {
    let env = TestEnv::new();
    let folder = Folder::new().await;
    let config = format!(
        "version: 1\nclusters: {{dev: {}}}\naccess: {{keys: users, user_prefix: 'ssh:', groups: {{alice: [ml]}}}}\n",
        cluster("viewer")
    );
    folder.write("gateway.yaml", &config);
    let ended = check(&env, &folder.path("gateway.yaml")).await;
    let found = lines(&ended);
    assert_eq!(
        found,
        [
            "error: cluster `dev`: the gateway may not impersonate `ssh:alice`: it needs the verb `impersonate` on `users`, and on `groups`",
            "error: cluster `dev`: the gateway may not impersonate the group `ml`",
        ],
        "{ended:?}"
    );
    assert_eq!(ended.code, 1);
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_a_warning() {
    let env = TestEnv::new();
    let folder = Folder::new().await;
    // Nobody listens on a port that is only bound.
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    folder.write(
        "down.kubeconfig",
        &format!("clusters: [{{name: c, cluster: {{server: 'http://{closed}'}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: ''}}}}]\ncurrent-context: c\n"),
    );
    folder.write(
        "gateway.yaml",
        "version: 1\nclusters: {down: {kubeconfig: down.kubeconfig}}\naccess: {keys: users}\n",
    );
    let ended = check(&env, &folder.path("gateway.yaml")).await;
    let [line] = lines(&ended)[..] else {
        panic!("{ended:?}");
    };
    assert!(
        line.starts_with("warning: cluster `down`: it can't be asked what the gateway may do: "),
        "{line}"
    );
    assert_eq!(ended.code, 0);

    // One that is not there at all is an error.
    folder.write(
        "gateway.yaml",
        "version: 1\nclusters: {gone: {context: nowhere}}\naccess: {keys: users}\n",
    );
    let ended = check(&env, &folder.path("gateway.yaml")).await;
    assert_eq!(
        lines(&ended),
        ["error: cluster `gone`: context \"nowhere\" does not exist"]
    );
    assert_eq!(ended.code, 1);
}

#[tokio::test]
async fn every_mistake_is_found_at_once() {
    let env = TestEnv::new();
    let folder = Folder::new().await;
    folder
        .keygen(&["-t", "rsa", "-b", "1024", "-f", "weak"])
        .await;
    folder.keygen(&["-t", "ed25519", "-f", "host_key"]).await;
    folder.set_mode("host_key", 0o644);
    folder.keygen(&["-t", "ed25519", "-f", "pod_ca"]).await;
    folder.set_mode("pod_ca", 0o640);
    folder.write("pod_key", "no key");
    folder.set_mode("pod_key", 0o600);
    folder.write("users/bob.keys", "no-such-option ssh-ed25519 AAAA\n");
    folder.write("revoked", "serial: 1\nnonsense\n");
    folder.write("whose-key", "#!/bin/sh\n");
    folder.set_mode("whose-key", 0o644);
    fs::create_dir(folder.path("recordings")).unwrap();
    folder.set_mode("recordings", 0o777);
    let program = folder.path("whose-key");
    let config = format!(
        "version: 1
clusters: {{dev: {}}}
access:
  authorities: [{{file: ca}}, {{file: weak.pub}}, {{file: missing.pub}}]
  keys: users
  keys_command: ['{}']
  revoked: revoked
  groups: {{alice: ['system:masters']}}
relay: {{authority: pod_ca, key: pod_key}}
audit:
  sinks: [{{file: missing/events}}, {{socket: missing.sock, required: false}}]
  redact: ['(']
recordings: {{folder: recordings}}
spool: {{folder: missing}}
policy:
- name: all
- name: rest
  users: [bob]
",
        cluster("admin"),
        program.display()
    );
    folder.write("gateway.yaml", &config);
    let ended = check(&env, &folder.path("gateway.yaml")).await;
    let found = lines(&ended);
    let own = format!("{}/", folder.0.path().display());
    let found: Vec<String> = found.iter().map(|line| line.replace(&own, "")).collect();
    let expected = [
        "error: authority `ca`, line 1: this is a private key, which a gateway must not have",
        "error: authority `weak.pub`, line 1: authorities with such a key are not taken",
        "error: cannot read authority `missing.pub`: No such file",
        "warning: keys `users/bob.keys`, line 1: the option `no-such-option` is unknown",
        "error: revocations `revoked`, line 2: `nonsense` is nothing that can be revoked",
        "error: keys command `whose-key`: it can't be run (mode 0644)",
        "warning: access: `alice` is put into `system:masters`",
        "error: host key host_key: others can read it (mode 0644)",
        "error: authority for pods `pod_ca`: others can read it (mode 0640)",
        "error: key for pods `pod_key`: it is no private key",
        "error: audit log: the folder `missing` can't be used",
        "warning: audit socket `missing.sock`: No such file",
        "error: audit: `(` is no regular expression: ",
        "error: recordings: the folder `recordings` can be written by everyone (mode 0777)",
        "error: spool: the folder `missing` can't be used",
        "warning: policy: `all` is for everybody, in all clusters and namespaces",
        "warning: policy: `rest` and what follows it is never reached",
        "warning: cluster `dev`: the gateway itself may `create pods/exec`",
        "warning: cluster `dev`: the gateway itself may `create pods/portforward`",
    ];
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert_eq!((ended.code, &ended.stderr[..]), (1, ""));
}

#[tokio::test]
async fn what_is_wrong_in_the_file_has_its_place() {
    let env = TestEnv::new();
    let folder = Folder::new().await;
    folder.write(
        "gateway.yaml",
        "version: 1\nclusters: {dev: {kubconfig: x}}\n",
    );
    let path = folder.path("gateway.yaml");
    let ended = check(&env, &path).await;
    let expected = format!(
        "error: configuration `{}`, line 2, column 18: clusters.dev: unknown field `kubconfig`, expected `kubeconfig` or `context`",
        path.display()
    );
    assert_eq!(lines(&ended), [expected]);
    assert_eq!((ended.code, &ended.stderr[..]), (1, ""));

    let ended = Process::start(env.kpf(["gateway", "check"])).end().await;
    let [line] = lines(&ended)[..] else {
        panic!("{ended:?}");
    };
    assert!(
        line.starts_with("error: cannot read the configuration `")
            && line.contains("/.config/kpf/gateway.yaml`"),
        "{line}"
    );
    assert_eq!(ended.code, 1);
}
