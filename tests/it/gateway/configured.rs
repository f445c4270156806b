//! A gateway with a configuration: each user with their own rights, and all of it written down.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kpf::ssh::audit;
use rustix::process::Signal;
use serde_json::Value;
use tokio::process::Command;

use super::{Gateway, make_key, says};
use crate::playground::Options;
use crate::program::{Ended, Process, TestEnv, run, until};
use crate::tools;

/// A gateway for the playground's users, each of whom has a key of the same name.
pub(super) struct Team {
    pub(super) gateway: Gateway,
    pub(super) folder: PathBuf,
}

const USERS: [&str; 4] = ["admin", "viewer", "exec-only", "no-watch"];

impl Team {
    pub(super) async fn start(more: &str) -> Option<Self> {
        tools::find("ssh-keygen")?;
        let env = TestEnv::with(Options::default());
        let folder = env.home().join("gw");
        fs::create_dir_all(folder.join("users")).unwrap();
        fs::create_dir(folder.join("recordings")).unwrap();
        for user in USERS {
            let key = make_key(&env, &format!("gw/{user}")).await;
            let listed = folder.join(format!("users/{user}.keys"));
            fs::copy(key.with_extension("pub"), listed).unwrap();
        }
        let authority = make_key(&env, "gw/authority").await;
        let config = format!(
            "version: 1\n\
             clusters:\n  play: {{}}\n\
             access:\n  keys: users\n  authorities:\n    - file: authority.pub\n\
             audit:\n  sinks:\n    - file: events.jsonl\n\
             {more}"
        );
        fs::write(folder.join("gateway.yaml"), config).unwrap();
        let file = folder.join("gateway.yaml");
        let words = ["--config", file.to_str().unwrap()];
        assert!(authority.exists());
        // Each client says which key: ssh would offer this one too.
        let key = folder.join("none");
        let gateway = Gateway::launch(env, &words, &key).await?;
        Some(Self { gateway, folder })
    }

    /// ssh as this user.
    pub(super) fn ssh(&self, user: &str, words: &[&str]) -> Command {
        let mut command = self.gateway.env.command(&self.gateway.ssh);
        let key = self.folder.join(user);
        command.arg("-F").arg(&self.gateway.config);
        command.arg("-i").arg(key);
        command.arg("-oLogLevel=INFO").args(words);
        command
    }

    pub(super) async fn run(&self, user: &str, words: &[&str]) -> Ended {
        run(self.ssh(user, words)).await
    }

    fn events(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("events.jsonl")).unwrap_or_default();
        let lines = text.lines();
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    pub(super) fn of_type(&self, kind: &str) -> Vec<Value> {
        let mut events = self.events();
        events.retain(|event| event["type"] == kind);
        events
    }
}

#[tokio::test]
async fn each_user_has_their_own_rights_and_no_more() {
    let Some(team) = Team::start("").await else {
        return;
    };
    let echo = ["exec", "echo in"];
    let jump = ["-W", "echo.default:13", "gw"];
    for (user, exec, forward) in [
        ("admin", true, true),
        ("no-watch", true, true),
        ("exec-only", true, false),
        ("viewer", false, false),
    ] {
        let ended = team.run(user, &echo).await;
        assert_eq!(ended.code == 0, exec, "{user}: {}", ended.stderr);
        let said = ended.stderr.contains("cannot");
        assert!(exec || said, "{user}: {}", ended.stderr);
        let ended = team.run(user, &jump).await;
        assert_eq!(ended.code == 0, forward, "{user}: {}", ended.stderr);
        let ended = team.run(user, &["gw", "whoami"]).await;
        assert!(ended.stdout.starts_with(format!("{user}\n").as_bytes()));
    }
    // Threat 9: who may not look can't tell what is there.
    for pod in ["web.default", "nothing.default"] {
        let ended = team.run("stranger", &["-l", pod, "gw", "true"]).await;
        assert_eq!(ended.code, 255);
        assert!(
            ended.stderr.contains("Permission denied"),
            "{}",
            ended.stderr
        );
    }
    let requests = team.gateway.env.playground.requests();
    assert!(!requests.is_empty());
    for request in requests {
        let header = |name: &str| request.headers.get(name).and_then(|it| it.to_str().ok());
        let user = header("impersonate-user");
        assert!(
            user.is_some_and(|user| USERS.contains(&user)),
            "{request:?}"
        );
        let session = header("impersonate-extra-kpf.dev%2fsession");
        assert!(session.is_some_and(|id| id.len() == 26), "{request:?}");
    }
}

#[tokio::test]
async fn certificates_let_in_until_they_end() {
    let Some(team) = Team::start("limits:\n  penalties:\n    exempt: [127.0.0.1]\n").await else {
        return;
    };
    let keygen = tools::find("ssh-keygen").unwrap();
    let sign = async |name: &str, words: &[&str]| {
        let key = make_key(&team.gateway.env, &format!("gw/{name}")).await;
        let mut command = team.gateway.env.command(&keygen);
        let authority = team.folder.join("authority");
        command.arg("-q").arg("-s").arg(authority).args(words);
        command.arg(key.with_extension("pub"));
        let ended = run(command).await;
        assert_eq!(ended.code, 0, "{}", ended.stderr);
    };
    sign(
        "good",
        &["-I", "of alice", "-n", "admin", "-V", "+1h", "-z", "7"],
    )
    .await;
    let ended = team.run("good", &["exec", "echo in"]).await;
    assert_eq!(ended.stdout, b"in\n", "{}", ended.stderr);
    for (name, words) in [
        ("host", &["-h", "-I", "x", "-n", "admin", "-V", "+1h"][..]),
        ("nobody", &["-I", "x", "-V", "+1h"]),
        ("two", &["-I", "x", "-n", "admin,viewer", "-V", "+1h"]),
        ("system", &["-I", "x", "-n", "system:masters", "-V", "+1h"]),
        ("ended", &["-I", "x", "-n", "admin", "-V", "-2h:-1h"]),
        ("long", &["-I", "x", "-n", "admin", "-V", "+400d"]),
        (
            "elsewhere",
            &[
                "-I",
                "x",
                "-n",
                "admin",
                "-V",
                "+1h",
                "-O",
                "source-address=192.0.2.0/24",
            ],
        ),
        (
            "touch",
            &[
                "-I",
                "x",
                "-n",
                "admin",
                "-V",
                "+1h",
                "-O",
                "verify-required",
            ],
        ),
    ] {
        sign(name, words).await;
        let ended = team.run(name, &["exec", "echo in"]).await;
        assert_eq!(ended.code, 255, "{name}");
        assert_eq!(ended.stdout, b"", "{name}");
    }
    sign(
        "forced",
        &[
            "-I",
            "x",
            "-n",
            "admin",
            "-V",
            "+1h",
            "-O",
            "force-command=echo only $SSH_ORIGINAL_COMMAND",
        ],
    )
    .await;
    let ended = team.run("forced", &["exec", "echo in"]).await;
    assert_eq!(ended.stdout, b"only echo in\n", "{}", ended.stderr);
    let ended = team.run("forced", &["-W", "echo.default:13", "gw"]).await;
    assert_eq!(ended.code, 255);

    sign("short", &["-I", "x", "-n", "admin", "-V", "-1m:+5s"]).await;
    let mut command = team.ssh("short", &["exec", "echo ready; cat"]);
    command.stdin(Stdio::piped());
    let mut session = Process::start(command);
    says(&mut session, "ready").await;
    let ended = session.end().await;
    assert_eq!(ended.code, 255);
    assert!(
        ended.stderr.contains("your credential has expired"),
        "{}",
        ended.stderr
    );
    let logins = team.of_type("auth.ok");
    let by_certificate = |event: &&Value| event["auth"]["key_id"] == "of alice";
    assert_eq!(logins.iter().filter(by_certificate).count(), 1);
    // Each for its own reason, beside the bare keys, which are offered first.
    let failures = team.of_type("auth.fail");
    let reasons: std::collections::BTreeSet<_> =
        failures.iter().map(|it| it["reason"].as_str()).collect();
    assert!(reasons.len() >= 7, "{reasons:?}");
}

#[tokio::test]
async fn a_policy_narrows_what_roles_allow() {
    let more = "policy:\n  - name: no-web\n    namespaces: [team-b]\n    deny: true\n\
                \x20 - name: seen\n    users: [admin]\n    backends: [exec]\n\
                \x20 - name: jumps\n    users: [no-watch]\n    backends: [jump]\n";
    let Some(team) = Team::start(more).await else {
        return;
    };
    let jump = ["-W", "echo.default:13", "gw"];
    assert_eq!(team.run("admin", &["exec", "true"]).await.code, 0);
    let ended = team.run("admin", &jump).await;
    assert!(
        ended.stderr.contains("policy allows no jump"),
        "{}",
        ended.stderr
    );
    assert_eq!(team.run("no-watch", &jump).await.code, 0);
    let ended = team.run("no-watch", &["exec", "true"]).await;
    assert!(
        ended.stderr.contains("policy allows no session"),
        "{}",
        ended.stderr
    );
    // Where nothing is allowed it looks as where nothing is.
    for (user, pod) in [
        ("admin", "web.team-b"),
        ("admin", "nothing.default"),
        ("exec-only", "web.default"),
    ] {
        let ended = team.run(user, &["-l", pod, "gw", "true"]).await;
        let said = format!("kpf: {pod}.play: there is no such pod, or you may not reach it");
        assert!(
            ended.stderr.contains(&said),
            "{user} {pod}: {}",
            ended.stderr
        );
        let host = format!("{pod}:22");
        let ended = team.run(user, &["-W", &host, "gw"]).await;
        assert_eq!(ended.code, 255, "{user} {pod}");
    }
    let ended = team.run("admin", &["gw", "explain", "web.default"]).await;
    let stdout = String::from_utf8(ended.stdout).unwrap();
    assert!(stdout.contains("rule `seen`: exec"), "{stdout}");
}

#[tokio::test]
async fn what_happens_is_written_down() {
    let Some(mut team) = Team::start("").await else {
        return;
    };
    let ended = team
        .run("admin", &["exec", "cat; echo \u{1b}[2J; exit 3"])
        .await;
    assert_eq!(ended.code, 3);
    team.run("admin", &["-W", "echo.default:13", "gw"]).await;
    team.run("admin", &["-l", "nothing.default", "gw", "true"])
        .await;
    team.gateway.process.signal(Signal::TERM);
    assert_eq!(team.gateway.process.code().await, 143);

    let file = File::open(team.folder.join("events.jsonl")).unwrap();
    let report = audit::verify(BufReader::new(file), audit::verify::Options::default()).unwrap();
    assert!(report.is_intact(), "{report:?}");
    let ends = team.of_type("session.end");
    assert_eq!(ends.len(), 2, "{ends:?}");
    assert_eq!(ends[0]["exit"], 3);
    assert_eq!(ends[0]["pod"], "web");
    assert_eq!(ends[0]["backend"], "exec");
    assert_eq!(ends[0]["user"], "admin");
    assert!(ends[0]["uid"].is_string());
    assert_eq!(ends[1]["backend"], "jump");
    assert_eq!(ends[1]["bytes_out"], 22);
    assert_eq!(team.of_type("session.start").len(), 2);
    let asked = team.of_type("request");
    let command = asked
        .iter()
        .find(|event| event["request"] == "exec")
        .unwrap();
    let text = command["command"].as_str().unwrap();
    assert!(text.starts_with("cat; echo "), "{text}");
    assert_eq!(team.of_type("target.deny").len(), 1);
    let opened = team.of_type("channel.open");
    assert!(
        opened
            .iter()
            .any(|event| event["dest"] == "echo.default:13")
    );
    for kind in ["conn.open", "conn.close", "auth.ok"] {
        assert_eq!(team.of_type(kind).len(), 3, "{kind}");
    }
    assert_eq!(team.of_type("gateway.start").len(), 1);
    assert_eq!(team.of_type("gateway.stop").len(), 1);
    let raw = fs::read(team.folder.join("events.jsonl")).unwrap();
    assert!(raw.iter().all(|byte| *byte >= 0x20 || *byte == b'\n'));
}

/// Threat 35: without a log there are no sessions.
#[tokio::test]
async fn a_log_that_fails_ends_sessions() {
    let Some(team) = Team::start("").await else {
        return;
    };
    let mut command = team.ssh("admin", &["exec", "echo ready; cat"]);
    command.stdin(Stdio::piped());
    let mut session = Process::start(command);
    says(&mut session, "ready").await;
    // A folder in the place of the file can't be written, whoever we are.
    let log = team.folder.join("events.jsonl");
    fs::rename(&log, team.folder.join("events.old")).unwrap();
    fs::create_dir(&log).unwrap();
    // Something to be written.
    let knock = team.run("admin", &["gw", "whoami"]).await;
    let ended = session.end().await;
    assert_eq!(ended.code, 255, "{}", knock.stderr);
    assert!(ended.stderr.contains("log"), "{}", ended.stderr);
    assert_ne!(team.run("admin", &["exec", "true"]).await.code, 0);
}

/// Rows 70 and 71.
#[tokio::test]
async fn limits_end_connections_with_a_reason() {
    for (limits, words, part) in [
        (
            "session: 2s",
            &["exec", "sleep 60"][..],
            "session limit (2s) reached",
        ),
        (
            "unused: 1s",
            &["-N", "exec"],
            "nothing was open on this connection",
        ),
        ("idle: 1s", &["exec", "sleep 60"], "nothing has happened"),
    ] {
        let Some(team) = Team::start(&format!("limits:\n  {limits}\n")).await else {
            return;
        };
        let ended = team.run("admin", words).await;
        assert_eq!(ended.code, 255, "{limits}");
        assert!(ended.stderr.contains(part), "{limits}: {}", ended.stderr);
    }
}

/// Row 72: what runs may end, and nobody new comes in.
#[tokio::test]
async fn told_to_end_it_waits_for_sessions() {
    let Some(mut team) = Team::start("drain: 60s\n").await else {
        return;
    };
    let done = team.folder.join("done");
    let wait = format!(
        "echo ready; until [ -e {} ]; do sleep 0.05; done; echo whole",
        done.display()
    );
    let mut session = Process::start(team.ssh("admin", &["exec", &wait]));
    says(&mut session, "ready").await;
    team.gateway.process.signal(Signal::TERM);
    until("nobody listens", || {
        std::net::TcpStream::connect(("127.0.0.1", team.gateway.port)).is_err()
    })
    .await;
    fs::write(&done, "").unwrap();
    says(&mut session, "whole").await;
    assert_eq!(session.code().await, 0);
    assert_eq!(team.gateway.process.code().await, 143);
}

#[tokio::test]
async fn keys_are_read_again_when_it_is_told_so() {
    let Some(team) = Team::start("").await else {
        return;
    };
    let key = make_key(&team.gateway.env, "gw/late").await;
    assert_eq!(team.run("late", &["exec", "true"]).await.code, 255);
    let listed = team.folder.join("users/late.keys");
    fs::copy(key.with_extension("pub"), listed).unwrap();
    let gone = team.folder.join("users/exec-only.keys");
    fs::remove_file(gone).unwrap();
    team.gateway.process.signal(Signal::HUP);
    until("it is read", || !team.of_type("gateway.config").is_empty()).await;
    let ended = team.run("late", &["gw", "whoami"]).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(team.run("exec-only", &["exec", "true"]).await.code, 255);
    // What is wrong leaves it as it was.
    let file = team.folder.join("gateway.yaml");
    fs::write(&file, "version: 2\n").unwrap();
    team.gateway.process.signal(Signal::HUP);
    until("it is refused", || {
        let configs = team.of_type("gateway.config");
        configs.iter().any(|event| event["ok"] == false)
    })
    .await;
    assert_eq!(team.run("late", &["gw", "whoami"]).await.code, 0);
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anybody_is_let_in() {
    let env = TestEnv::new();
    let file = env.home().join("gateway.yaml");
    for (text, part) in [
        ("version: 1\n", "there are no clusters"),
        ("version: 1\nclusters: {a: {}}\n", "nobody could log in"),
        (
            "version: 1\nclusters: {a: {context: none}}\naccess: {keys: .}\n",
            "cluster `a`",
        ),
        (
            "version: 1\nclusters: {a: {}}\naccess: {keys: nowhere}\n",
            "nowhere",
        ),
        ("{", "line 2"),
    ] {
        fs::write(&file, text).unwrap();
        let words = ["gateway", "--config", file.to_str().unwrap()];
        let ended = run(env.kpf(words)).await;
        assert_eq!(ended.code, 1, "{text}");
        assert!(ended.stderr.contains(part), "{text}: {}", ended.stderr);
        assert_eq!(ended.stderr.matches('\n').count(), 1, "{}", ended.stderr);
    }
    let missing = Path::new("/nowhere/gateway.yaml");
    let ended = run(env.kpf(["gateway", "--config", missing.to_str().unwrap()])).await;
    assert!(ended.stderr.contains("cannot read"), "{}", ended.stderr);
}
