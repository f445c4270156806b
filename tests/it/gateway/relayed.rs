//! Logins by the gateway to a pod's own sshd: when there is one, as whom, and what is written down of it.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;

use super::{Gateway, says};
use crate::program::{Ended, Process, run, until};

fn events(gateway: &Gateway, kind: &str) -> Vec<Value> {
    let file = gateway.env.home().join("gw/events.jsonl");
    let text = fs::read_to_string(file).unwrap_or_default();
    let events = text.lines().map(|line| serde_json::from_str(line).unwrap());
    events
        .filter(|event: &Value| event["type"] == kind)
        .collect()
}

async fn ssh(gateway: &Gateway, user: &str, command: &str) -> Ended {
    let user = format!("-oUser={user}");
    run(gateway.ssh(&[&user, "-oLogLevel=INFO", "gw", command])).await
}

/// What an sshd says of a connection, and no container does.
const IS_SSHD: &str = "test -n \"$SSH_CONNECTION\"";

/// Waits for so many of them: they are written by a task of their own.
async fn written(gateway: &Gateway, kind: &str, count: usize) -> Vec<Value> {
    until("events are written", || {
        events(gateway, kind).len() >= count
    })
    .await;
    events(gateway, kind)
}

/// Waits for one about such a channel.
async fn of_channel(gateway: &Gateway, kind: &str, ctype: &str) -> Value {
    let found = || {
        events(gateway, kind)
            .into_iter()
            .find(|it| it["ctype"] == ctype)
    };
    until("an event is written", || found().is_some()).await;
    found().unwrap()
}

#[tokio::test]
async fn a_pod_with_an_sshd_is_logged_in_to_and_others_are_not() {
    let Some(gateway) =
        Gateway::relaying("policy:\n  - name: all\n    default_login: nobody-here\n").await
    else {
        return;
    };
    // Its port 22 greets, so this is a login; the default one is nobody's.
    let ended = ssh(&gateway, "sshd.default", "true").await;
    assert_eq!(ended.code, 255);
    assert!(
        ended
            .stderr
            .contains("does not let nobody-here in with the gateway's certificate"),
        "{}",
        ended.stderr
    );
    assert_eq!(ended.stderr.matches("kpf: ").count(), 1, "{}", ended.stderr);
    let denied = written(&gateway, "target.deny", 1).await;
    assert_eq!(denied[0]["login"], "nobody-here");
    assert_eq!(denied[0]["backend"], "relay");
    // Its own account is somebody's.
    let pod = gateway.env.playground.ssh().unwrap().user;
    let ended = ssh(&gateway, &format!("{pod}+sshd.default"), IS_SSHD).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let ended = ssh(&gateway, "web.default", IS_SSHD).await;
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    let started = written(&gateway, "session.start", 2).await;
    assert_eq!(started[0]["backend"], "relay");
    assert_eq!(started[0]["login"], pod);
    assert_eq!(started[1]["backend"], "exec");
    let ended = written(&gateway, "session.end", 2).await;
    assert_eq!(ended[0]["exit"], 0);
    assert_eq!(ended[1]["exit"], 1);
    let log = fs::read_to_string(gateway.folder().join("sshd/log")).unwrap();
    assert!(log.contains("kpf:admin:"), "{log}");
}

#[tokio::test]
async fn who_asks_for_a_login_gets_it_or_nothing() {
    let policy = "policy:\n  - name: a\n    namespaces: [team-a]\n    backends: [exec]\n  - name: rest\n    logins: [nobody, root]\n    default_login: nobody\n";
    let Some(gateway) = Gateway::relaying(policy).await else {
        return;
    };
    for (user, part) in [
        // There is no sshd.
        ("root+web.default", "nothing speaks SSH on port 22"),
        ("admin+sshd.default", "does not allow this login"),
        ("root+web.team-a", "allows no login to the pod's sshd"),
    ] {
        let ended = ssh(&gateway, user, "echo no").await;
        assert_eq!(ended.code, 255, "{user}");
        assert_eq!(ended.stdout, b"", "{user}");
        assert!(ended.stderr.contains(part), "{user}: {}", ended.stderr);
        assert_eq!(ended.stderr.matches("kpf: ").count(), 1, "{}", ended.stderr);
    }
    let Some(laptop) = Gateway::start().await else {
        return;
    };
    let ended = ssh(&laptop, "root+sshd.default", "echo no").await;
    assert_eq!(ended.code, 255);
    assert!(
        ended.stderr.contains("logs in to no pod's sshd"),
        "{}",
        ended.stderr
    );
    let ended = ssh(&laptop, "sshd.default", "echo yes").await;
    assert_eq!(ended.stdout, b"yes\n", "{}", ended.stderr);
}

#[tokio::test]
async fn ports_and_sockets_are_reached_by_the_sshd_as_the_policy_allows() {
    let policy = "policy:\n  - name: all\n    forwards: [\"localhost:*\", \"*.example:22\"]\n";
    let Some(gateway) = Gateway::relaying(policy).await else {
        return;
    };
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = target.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = target.accept() {
            use std::io::Write as _;
            let _ = stream.write_all(b"hello\n");
        }
    });
    let to = format!("localhost:{port}");
    let mut forwarded = Process::start(gateway.fed(&["-W", &to, "relay"]));
    says(&mut forwarded, "hello").await;
    drop(forwarded.stdin.take());
    assert_eq!(forwarded.code().await, 0);
    let opened = of_channel(&gateway, "channel.open", "direct-tcpip").await;
    assert_eq!(opened["backend"], "relay");
    // The pod's own words.
    let ended = run(gateway.ssh(&["-oLogLevel=INFO", "-W", "localhost:1", "relay"])).await;
    assert_eq!(ended.code, 255);
    assert!(ended.stderr.contains("onnect"), "{}", ended.stderr);
    // Sockets are not listed.
    let local = gateway.folder().join("local.sock");
    let remote = gateway.folder().join("remote.sock");
    let forward = format!("{}:{}", local.display(), remote.display());
    let mut session = Process::start(gateway.ssh(&["-L", &forward, "relay", "echo up; sleep 20"]));
    says(&mut session, "up").await;
    let mut stream = std::os::unix::net::UnixStream::connect(&local).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut heard = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut heard).unwrap();
    assert_eq!(heard, b"");
    let ctype = "direct-streamlocal@openssh.com";
    let denied = of_channel(&gateway, "channel.deny", ctype).await;
    assert_eq!(
        denied["reason"],
        "the gateway's policy does not allow this socket"
    );
}

/// What the gateway's own gate has refused is not asked for in the pod.
#[tokio::test]
async fn a_key_is_held_to_its_options() {
    let Some(gateway) = Gateway::relaying("").await else {
        return;
    };
    let listed = gateway.env.home().join("gw/users/admin.keys");
    let key = fs::read_to_string(&listed).unwrap();
    fs::write(&listed, format!("no-pty,command=\"echo forced\" {key}")).unwrap();
    gateway.process.signal(rustix::process::Signal::HUP);
    until("it is read", || {
        !events(&gateway, "gateway.config").is_empty()
    })
    .await;
    for words in [
        &["relay", "echo mine"][..],
        &["relay"],
        &["-s", "relay", "sftp"],
    ] {
        let ended = run(gateway.ssh(words)).await;
        assert_eq!(ended.stdout, b"forced\n", "{words:?} {}", ended.stderr);
        assert_eq!(ended.code, 0);
    }
    let ended = run(gateway.ssh(&["-oLogLevel=INFO", "-tt", "relay", "true"])).await;
    assert!(
        ended.stderr.contains("PTY allocation request failed"),
        "{}",
        ended.stderr
    );
    let ended = run(gateway.ssh(&["-oLogLevel=INFO", "-W", "localhost:22", "relay"])).await;
    assert_eq!(ended.code, 255);
    assert!(ended.stderr.contains("may not forward"), "{}", ended.stderr);
}

/// The pod's owner has a say.
#[tokio::test]
async fn annotations_and_virtual_machines() {
    let Some(gateway) = Gateway::relaying("").await else {
        return;
    };
    let login = gateway.env.playground.ssh().unwrap().user;
    let annotate = |annotations: Value| {
        let change = move |pod: &mut Value| pod["metadata"]["annotations"] = annotations;
        let playground = &gateway.env.playground;
        playground.update_pod("default", "sshd", change);
    };
    let relay = serde_json::json!({ "kpf.dev/ssh": "relay", "kpf.dev/ssh-login": login });
    annotate(relay);
    let ended = ssh(&gateway, "sshd.default", IS_SSHD).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    annotate(serde_json::json!({ "kpf.dev/ssh": "relay", "kpf.dev/ssh-port": "1" }));
    let ended = ssh(&gateway, "sshd.default", IS_SSHD).await;
    assert_eq!(ended.code, 255);
    let says = "nothing speaks SSH on port 1";
    assert!(ended.stderr.contains(says), "{}", ended.stderr);
    annotate(serde_json::json!({ "kpf.dev/ssh": "exec" }));
    let ended = ssh(&gateway, "sshd.default", IS_SSHD).await;
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    annotate(serde_json::json!({ "kpf.dev/ssh": "off" }));
    for user in ["sshd.default", "+sshd.default+sshd", "root+sshd.default"] {
        let ended = ssh(&gateway, user, "echo no").await;
        assert_eq!((ended.code, &ended.stdout[..]), (255, &b""[..]), "{user}");
        let says = "the pod takes no sessions";
        assert!(ended.stderr.contains(says), "{user}: {}", ended.stderr);
    }
    // A machine has no sessions beside it.
    let label = |pod: &mut Value| pod["metadata"]["labels"]["kubevirt.io"] = "virt-launcher".into();
    gateway.env.playground.update_pod("default", "web", label);
    for (user, says) in [
        ("web.default", "nothing speaks SSH"),
        ("+web.default+main", "beside the virtual machine"),
    ] {
        let ended = ssh(&gateway, user, "echo no").await;
        assert_eq!((ended.code, &ended.stdout[..]), (255, &b""[..]), "{user}");
        assert!(ended.stderr.contains(says), "{user}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn another_host_key_of_the_same_pod_is_refused_and_written_down() {
    let Some(gateway) = Gateway::relaying("").await else {
        return;
    };
    let ended = run(gateway.ssh(&["relay", "true"])).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let folder = gateway.folder().join("sshd");
    fs::copy(folder.join("client_key"), folder.join("host_key")).unwrap();
    let ended = run(gateway.ssh(&["relay", "true"])).await;
    assert_eq!(ended.code, 255);
    let says = "shows another host key than before";
    assert!(ended.stderr.contains(says), "{}", ended.stderr);
    let denied = written(&gateway, "target.deny", 1).await;
    assert_eq!(denied.len(), 1);
    assert!(denied[0]["reason"].as_str().unwrap().contains(says));
    assert_eq!(denied[0]["pod"], "sshd");
}

#[tokio::test]
async fn what_is_not_relayed_is_refused() {
    let Some(gateway) = Gateway::relaying("policy:\n  - name: all\n    agent: true\n").await else {
        return;
    };
    let words = [
        "-oLogLevel=INFO",
        "-oExitOnForwardFailure=yes",
        "-R",
        "0:localhost:1",
    ];
    let ended = run(gateway.ssh(&[&words[..], &["relay", "echo no"]].concat())).await;
    assert_eq!((ended.code, &ended.stdout[..]), (255, &b""[..]));
    assert!(
        ended.stderr.contains("remote port forwarding failed"),
        "{}",
        ended.stderr
    );
}
