//! The gateway that nobody has configured.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;

use super::{Gateway, make_key, says};
use crate::program::{Process, TestEnv, run};
use crate::tools;

#[tokio::test]
async fn it_says_what_it_is_and_how_to_try_it() {
    let Some(mut gateway) = Gateway::start().await else {
        return;
    };
    let mut session = Process::start(gateway.fed(&["exec", "echo ready; cat"]));
    says(&mut session, "ready").await;
    gateway.process.signal(Signal::INT);
    let ended = gateway.process.end().await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert_eq!(ended.stdout, b"");
    for part in [
        "acts with your own rights in context playground",
        "Only this machine can connect, with the keys in your ~/.ssh",
        &format!("try: ssh -p {} ", gateway.port),
    ] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
    let ended = session.end().await;
    assert_eq!(ended.code, 255);
    assert_eq!(ended.stdout, b"");
}

#[tokio::test]
async fn sigterm_ends_it_too() {
    let Some(mut gateway) = Gateway::start().await else {
        return;
    };
    gateway.process.signal(Signal::TERM);
    assert_eq!(gateway.process.code().await, 143);
}

#[tokio::test]
async fn whoever_has_no_key_gets_one_for_this_once() {
    let (Some(ssh), Some(_)) = (tools::find("ssh"), tools::find("sshd")) else {
        return;
    };
    let env = TestEnv::new();
    let mut gateway = Process::start(env.kpf(["gateway", "--listen", "127.0.0.1:0"]));
    let line = gateway.line().await;
    let port = line.trim_end().rsplit(':').next().unwrap().to_owned();
    let key = env.home().join(".config/kpf/gateway/one_time_key");
    let mode = fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut command = env.command(&ssh);
    command.args([
        "-F",
        "none",
        "-oStrictHostKeyChecking=no",
        "-oBatchMode=yes",
    ]);
    command.args(["-oUserKnownHostsFile=/dev/null", "-oLogLevel=ERROR", "-i"]);
    command.arg(&key);
    command.args(["-p", &port, "web.default@127.0.0.1", "echo in"]);
    let ended = run(command).await;
    assert_eq!(ended.stdout, b"in\n", "{}", ended.stderr);
    gateway.signal(Signal::INT);
    let ended = gateway.end().await;
    assert!(ended.stderr.contains("try: ssh -i "), "{}", ended.stderr);
    assert!(!key.exists());
}

#[tokio::test]
async fn a_strange_key_does_not_get_in_and_nobody_is_asked_about_pods() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let keygen = tools::find("ssh-keygen").unwrap();
    let key = gateway.folder().join("strange");
    let mut command = gateway.env.command(&keygen);
    command
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key);
    assert_eq!(run(command).await.code, 0);
    let mut command = gateway.env.command(&gateway.ssh);
    command.args([
        "-F",
        "none",
        "-oStrictHostKeyChecking=no",
        "-oBatchMode=yes",
    ]);
    command.args([
        "-oUserKnownHostsFile=/dev/null",
        "-oIdentitiesOnly=yes",
        "-i",
    ]);
    command.arg(&key);
    let port = gateway.port.to_string();
    command.args(["-p", &port, "web.default@127.0.0.1", "echo in"]);
    let ended = run(command).await;
    assert_eq!(ended.code, 255);
    assert_eq!(ended.stdout, b"");
    assert!(
        ended.stderr.contains("Permission denied (publickey)"),
        "{}",
        ended.stderr
    );
    let asked = gateway.env.playground.requests();
    let about = |part: &str| asked.iter().filter(|it| it.path().contains(part)).count();
    assert_eq!(about("/pods/"), 0);
}

#[tokio::test]
async fn the_host_key_stays() {
    let Some(mut gateway) = Gateway::start().await else {
        return;
    };
    assert_eq!(run(gateway.ssh(&["exec", "true"])).await.code, 0);
    let known = gateway.env.home().join("known_gateways");
    let first = fs::read_to_string(&known).unwrap();
    gateway.process.signal(Signal::INT);
    gateway.process.code().await;
    let mut again = Process::start(gateway.env.kpf(["gateway", "--listen", "127.0.0.1:0"]));
    let line = again.line().await;
    let port = line.trim_end().rsplit(':').next().unwrap().to_owned();
    fs::remove_file(&known).unwrap();
    let ended = run(gateway.ssh(&["-p", &port, "exec", "true"])).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let key = |text: &str| text.split_whitespace().nth(2).map(str::to_owned);
    let second = fs::read_to_string(&known).unwrap();
    assert!(key(&first).is_some());
    assert_eq!(key(&first), key(&second));
    let mode = fs::metadata(gateway.env.home().join(".config/kpf/gateway/host_key"));
    assert_eq!(mode.unwrap().permissions().mode() & 0o777, 0o600);
}

/// A key in authorized_keys lets in, with what its line allows.
#[tokio::test]
async fn listed_keys_have_their_restrictions() {
    if tools::find("ssh-keygen").is_none() {
        return;
    }
    let env = TestEnv::new();
    fs::create_dir(env.home().join(".ssh")).unwrap();
    let key = make_key(&env, "listed").await;
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    let line = format!("no-port-forwarding,no-pty {public}");
    fs::write(env.home().join(".ssh/authorized_keys"), line).unwrap();
    let Some(gateway) = Gateway::launch(env, &[], &key).await else {
        return;
    };
    let ended = run(gateway.ssh(&["exec", "echo in"])).await;
    assert_eq!(ended.stdout, b"in\n", "{}", ended.stderr);
    let ended = run(gateway.ssh(&["-oLogLevel=INFO", "-W", "echo.default:7", "gw"])).await;
    assert_eq!(ended.code, 255);
    assert!(
        ended.stderr.contains("this key may not forward"),
        "{}",
        ended.stderr
    );
    let ended = run(gateway.ssh(&["-tt", "-oLogLevel=INFO", "exec", "tty"])).await;
    assert!(
        ended.stderr.contains("PTY allocation request failed"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn it_opens_no_port_to_others() {
    let env = TestEnv::new();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let ended = run(env.kpf(["gateway", "--listen", address])).await;
        assert_eq!(ended.code, 1, "{address}");
        assert_eq!(ended.stdout, b"");
        let part = "listens on this machine only";
        assert!(ended.stderr.contains(part), "{address}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn it_answers_some_questions_itself() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    for (command, parts) in [
        (
            &[][..],
            &["It has no shell of its own", "POD.NAMESPACE@GATEWAY"][..],
        ),
        (&["ls"], &["web.default", "pending.default", "Running 2/2"]),
        (&["ls", "team-b"], &["web.team-b"]),
        (
            &["whoami"],
            &["key: SHA256:", "cluster: playground (default)"],
        ),
        (
            &["explain", "web.default"],
            &["pod: web in namespace default", "container: main"],
        ),
        (&["explain", "deploy_web.default"], &["pod: web-"]),
    ] {
        let mut words = vec!["gw"];
        words.extend(command);
        let ended = run(gateway.ssh(&words)).await;
        assert_eq!(ended.code, 0, "{command:?}: {}", ended.stderr);
        let stdout = String::from_utf8(ended.stdout).unwrap();
        for part in parts {
            assert!(stdout.contains(part), "{command:?}: no {part} in {stdout}");
        }
    }
    for (command, code, part) in [
        (&["rm", "-rf", "/"][..], 127, "is no command of the gateway"),
        (&["explain"], 2, "usage: explain"),
        (&["explain", "nothing.default"], 1, "there is no such pod"),
        (&["explain", "x"], 2, "names no pod"),
        (&["ls", "no/where"], 2, "is no namespace"),
    ] {
        let mut words = vec!["gw"];
        words.extend(command);
        let ended = run(gateway.ssh(&words)).await;
        assert_eq!(ended.code, code, "{command:?}");
        assert_eq!(ended.stdout, b"", "{command:?}");
        assert!(ended.stderr.contains(part), "{command:?}: {}", ended.stderr);
    }
}
