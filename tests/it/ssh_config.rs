//! `kpf ssh-config`, and the real ssh with what it has written.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use tokio::process::Command;

use crate::playground::Options;
use crate::program::{Ended, Noise, TestEnv, digest_of_file, run, until};
use crate::tools;

const BEGIN: &str = "# >>> kpf ssh-config >>>";
const END: &str = "# <<< kpf ssh-config <<<";

/// A home with ssh's configuration in it, and a way to run ssh with that alone.
struct Home {
    env: TestEnv,
    folder: PathBuf,
    ssh: PathBuf,
}

impl Home {
    /// None where the machine lacks OpenSSH.
    async fn new(words: &[&str]) -> Option<Self> {
        let ssh = tools::find("ssh")?;
        tools::find("sshd")?;
        let env = TestEnv::with(Options::default());
        let folder = home(&env);
        let ended = run(env.kpf([&["ssh-config", "--write"], words].concat())).await;
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        Some(Self { env, folder, ssh })
    }

    /// ssh, or one of those that run it. ssh finds `~` in the passwd file and not in HOME: where it does, a flag
    /// takes its place.
    fn client(&self, program: &str, words: &[&str]) -> Command {
        let login = self.env.playground.ssh().expect("the machine has an sshd");
        let mut command = self.env.command(program);
        command
            .arg("-F")
            .arg(self.folder.join(".ssh/config"))
            .args(["-o", "BatchMode=yes", "-o", "ControlPath=none"])
            .args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"])
            .args(["-o", "GlobalKnownHostsFile=none"])
            .args(["-o", &format!("User={}", login.user)])
            .args(["-o", &format!("IdentityFile={}", login.key.display())])
            .args(words);
        command
    }

    async fn ssh(&self, words: &[&str]) -> Ended {
        run(self.client(self.ssh.to_str().unwrap(), words)).await
    }

    /// The lines of the file with pinned keys.
    fn pins(&self) -> Vec<String> {
        let file = self.folder.join(".local/state/kpf/known_hosts");
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn uid(&self) -> String {
        let pod = self.env.playground.pod("default", "sshd").unwrap();
        pod["metadata"]["uid"].as_str().unwrap().to_owned()
    }
}

/// HOME of the programs that the environment runs.
fn home(env: &TestEnv) -> PathBuf {
    let command = env.command("true");
    command.as_std().get_current_dir().unwrap().to_owned()
}

#[tokio::test]
async fn ssh_reaches_a_pod_and_pins_its_key() {
    let Some(home) = Home::new(&[]).await else {
        return;
    };
    let ended = home.ssh(&["sshd.default.kpf", "echo hi"]).await;
    assert_eq!(ended.stdout, b"hi\n", "{}", ended.stderr);
    let new = "pinned the host key of pod default/sshd, which is new\n";
    assert!(ended.stderr.contains(new), "{}", ended.stderr);
    let [pin] = &home.pins()[..] else {
        panic!("{:?}", home.pins());
    };
    assert!(
        pin.starts_with(&format!("{} ssh-ed25519 ", home.uid())),
        "{pin}"
    );

    // From now on nothing is said, whatever name leads to the pod and on whatever port.
    for host in [
        "sshd.default.kpf",
        "svc_ssh.default.kpf",
        "sshd.default.playground.kpf",
    ] {
        let ended = home.ssh(&[host, "exit 7"]).await;
        assert_eq!(ended.code, 7, "{host}: {}", ended.stderr);
        assert_eq!(
            ended
                .stderr
                .lines()
                .filter(|line| line.contains("pin"))
                .count(),
            0
        );
    }
    assert_eq!(home.pins().len(), 1);
    // No note is left behind.
    let state = home.folder.join(".local/state/kpf");
    until("only the pins are left", || {
        fs::read_dir(&state).unwrap().count() == 1
    })
    .await;
}

#[tokio::test]
async fn another_key_is_refused_and_another_pod_is_not() {
    let Some(home) = Home::new(&[]).await else {
        return;
    };
    let file = home.folder.join(".local/state/kpf/known_hosts");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let forged = "AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    fs::write(
        &file,
        format!("{} ssh-ed25519 {forged} default/sshd\n", home.uid()),
    )
    .unwrap();
    let ended = home.ssh(&["sshd.default.kpf", "echo reached"]).await;
    assert_eq!(ended.code, 255, "{}", ended.stderr);
    assert_eq!(ended.stdout, b"");
    let advice = format!("run: ssh-keygen -R {} -f {}", home.uid(), file.display());
    assert!(ended.stderr.contains(&advice), "{}", ended.stderr);
    assert_eq!(home.pins().len(), 1, "nothing is pinned over it");

    // A new pod of the same name is no reason for a warning.
    home.env.playground.replace_pod("default", "sshd");
    let ended = home.ssh(&["sshd.default.kpf", "echo reached"]).await;
    assert_eq!(ended.stdout, b"reached\n", "{}", ended.stderr);
    assert_eq!(home.pins().len(), 2);

    // What ssh-keygen is said to do, it does.
    let keygen = tools::find("ssh-keygen").unwrap();
    let mut command = home.env.command(keygen);
    command.args(["-R", &home.uid(), "-f", file.to_str().unwrap()]);
    assert_eq!(run(command).await.code, 0);
    assert_eq!(home.pins().len(), 1);
}

#[tokio::test]
async fn a_role_that_sees_no_pods_pins_names() {
    let Some(home) = Home::new(&["--context", "playground-stream-only"]).await else {
        return;
    };
    for pinned in [1, 1] {
        let ended = home.ssh(&["sshd.default.kpf", "echo hi"]).await;
        assert_eq!(ended.stdout, b"hi\n", "{}", ended.stderr);
        assert_eq!(home.pins().len(), pinned);
    }
    assert!(
        home.pins()[0].starts_with("sshd.default.https:"),
        "{:?}",
        home.pins()
    );
}

#[tokio::test]
async fn scp_rsync_and_aliases_work() {
    let Some(home) = Home::new(&["--alias", "lab=playground-cert"]).await else {
        return;
    };
    let from = home.folder.join("from");
    let digest = Noise::new(1 << 20).save(&from);
    let to = home.env.playground.folder().join("to");
    let copy = |name: &str| format!("sshd.default.{name}:{}", to.display());
    let ended = run(home.client("scp", &[from.to_str().unwrap(), &copy("lab.kpf")])).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(digest_of_file(&to), digest);
    fs::remove_file(&to).unwrap();

    let Some(rsync) = tools::find("rsync") else {
        return;
    };
    let shell = home.client("ssh", &[]);
    let words = shell.as_std().get_args().map(|word| word.to_str().unwrap());
    let shell = format!("ssh {}", words.collect::<Vec<_>>().join(" "));
    let mut command = home.env.command(rsync);
    command.args(["-e", &shell, from.to_str().unwrap(), &copy("kpf")]);
    let ended = run(command).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(digest_of_file(&to), digest);

    let ended = home.ssh(&["sshd.default.nowhere.kpf", "true"]).await;
    assert!(
        ended.stderr.contains("`nowhere` is no context"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn the_block_is_first_and_the_rest_stays() {
    let env = TestEnv::new();
    let folder = home(&env).join("dotfiles");
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir(home(&env).join(".ssh")).unwrap();
    let (real, link) = (folder.join("ssh"), home(&env).join(".ssh/config"));
    let mine = "Compression yes\r\nHost *\n  StrictHostKeyChecking no\n# \u{e4}";
    fs::write(&real, mine).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("../dotfiles/ssh", &link).unwrap();

    let ended = run(env.kpf(["ssh-config"])).await;
    let block = String::from_utf8(ended.stdout).unwrap();
    assert!(
        block.starts_with(BEGIN) && block.ends_with(&format!("{END}\n")),
        "{block}"
    );
    assert_eq!(ended.stderr, "");

    // A dry run only shows.
    let ended = run(env.kpf(["ssh-config", "--write", "--dry-run"])).await;
    assert_eq!(
        String::from_utf8(ended.stdout).unwrap(),
        format!("{block}{mine}")
    );
    assert_eq!(fs::read_to_string(&real).unwrap(), mine);

    for word in ["wrote", "is up to date"] {
        let ended = run(env.kpf(["ssh-config", "--write"])).await;
        assert!(
            ended.code == 0 && ended.stderr.contains(word),
            "{}",
            ended.stderr
        );
        assert_eq!(fs::read_to_string(&real).unwrap(), format!("{block}{mine}"));
    }
    assert!(link.is_symlink(), "a link stays one");
    let backup = folder.join("ssh.kpf-backup");
    assert_eq!(fs::read_to_string(&backup).unwrap(), mine);
    for file in [&real, &backup] {
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640, "{}", file.display());
    }
    assert_eq!(
        fs::read_dir(&folder).unwrap().count(),
        2,
        "nothing else is left"
    );

    // What ssh makes of it: ours for pods, theirs for all others.
    if let Some(ssh) = tools::find("ssh") {
        for (host, expected) in [
            ("web.shop.kpf", "stricthostkeychecking true"),
            ("x", "stricthostkeychecking false"),
        ] {
            let mut command = env.command(&ssh);
            command.arg("-F").arg(&link).args(["-G", host]);
            let ended = run(command).await;
            let says = String::from_utf8(ended.stdout).unwrap();
            assert!(
                says.contains(expected) && says.contains("compression yes"),
                "{says}"
            );
        }
    }

    // Another one takes its place; and out it goes.
    let ended = run(env.kpf(["ssh-config", "--write", "--gateway", "me@gw.example:2222"])).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let text = fs::read_to_string(&real).unwrap();
    assert!(
        text.contains("ProxyJump me@gw.example:2222\n") && !text.contains("ProxyCommand"),
        "{text}"
    );
    for word in ["wrote", "has no block"] {
        let ended = run(env.kpf(["ssh-config", "--remove"])).await;
        assert!(
            ended.code == 0 && ended.stderr.contains(word),
            "{}",
            ended.stderr
        );
    }
    assert_eq!(fs::read_to_string(&real).unwrap(), mine);
}

#[tokio::test]
async fn a_first_configuration_is_private() {
    let env = TestEnv::new();
    let ended = run(env.kpf(["ssh-config", "--write"])).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let folder = home(&env).join(".ssh");
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&folder), mode(&folder.join("config"))),
        (0o700, 0o600)
    );
}

#[tokio::test]
async fn whatever_is_wrong_is_one_line_and_nothing_is_written() {
    let env = TestEnv::new();
    let file = home(&env).join("config");
    let broken = format!("Host x\n{BEGIN}\nHost *.kpf\n");
    fs::write(&file, &broken).unwrap();
    fs::write(home(&env).join("folder"), "").unwrap();
    let name = file.to_str().unwrap();
    for (words, part) in [
        (
            &["ssh-config", "--write", "--file", name][..],
            "broken kpf block, line 2: it has no end; mend it",
        ),
        (
            &["ssh-config", "--remove", "--file", name],
            "broken kpf block",
        ),
        (
            &["ssh-config", "--dry-run", "--file", name],
            "broken kpf block",
        ),
        (
            &["ssh-config", "--write", "--file", "folder/config"],
            "cannot ",
        ),
        (
            &["ssh-config", "--write", "--file", "/proc/nowhere/config"],
            "cannot make `/proc/nowhere`",
        ),
        (
            &["ssh-config", "--write", "--remove"],
            "cannot be used with",
        ),
        (
            &["ssh-config", "--gateway=-oProxyCommand=x"],
            "is no gateway",
        ),
        (&["ssh-config", "--gateway", "a.b.kpf"], "is no gateway"),
        (&["ssh-config", "--alias", "a_b=c"], "write ALIAS=CONTEXT"),
        (&["ssh-config", "--alias", "a"], "write ALIAS=CONTEXT"),
        (
            &["ssh-config", "--context", "a\nb"],
            "can't stand in ssh_config",
        ),
        (
            &["known-hosts", "ORDER", "x.y.kpf", "NONE", "NONE"],
            "its ProxyCommand must be `kpf connect --ssh`",
        ),
        (
            &["known-hosts", "ORDER", "x y", "NONE", "NONE"],
            "is no host",
        ),
    ] {
        let ended = run(env.kpf(words)).await;
        assert_eq!(ended.code, 1, "{words:?}: {}", ended.stderr);
        assert_eq!(ended.stdout, b"", "{words:?}");
        assert!(
            ended.stderr.lines().count() == 1 && ended.stderr.contains(part),
            "{words:?}: {}",
            ended.stderr
        );
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), broken);
    assert_eq!(
        fs::read_dir(home(&env)).unwrap().count(),
        2,
        "nothing is left behind"
    );
}
