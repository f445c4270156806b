//! `kpf doctor`: where the way ends, and what to do.

use std::net::TcpListener;

use serde_json::Value;

use crate::playground::Options;
use crate::program::{Ended, TestEnv, run};

/// The words, and what each step is found to be: `websocket` and `ok`.
async fn examine(env: &TestEnv, words: &[&str]) -> (Ended, Vec<(String, String)>) {
    let ended = run(env.kpf([&["doctor"], words].concat())).await;
    let text = String::from_utf8(ended.stdout.clone()).unwrap();
    let steps = text.lines().filter(|line| !line.starts_with(' '));
    let steps = steps.map(|line| {
        let (verdict, rest) = line.split_at(9);
        (rest[..12].trim().to_owned(), verdict.trim().to_owned())
    });
    (ended, steps.collect())
}

fn verdict<'a>(steps: &'a [(String, String)], name: &str) -> &'a str {
    let step = steps.iter().find(|(step, _)| step == name);
    step.map_or("none", |(_, verdict)| verdict)
}

fn text(ended: &Ended) -> String {
    String::from_utf8(ended.stdout.clone()).unwrap()
}

#[tokio::test]
async fn all_is_well() {
    let env = TestEnv::new();
    let (ended, steps) = examine(&env, &["svc/echo", "7"]).await;
    assert_eq!((ended.code, &ended.stderr[..]), (0, ""), "{}", text(&ended));
    let names: Vec<_> = steps.iter().map(|(name, _)| &name[..]).collect();
    let expected = [
        "kubeconfig",
        "credential",
        "proxy",
        "name",
        "tcp",
        "tls",
        "api server",
        "round trip",
        "rights",
        "pod",
        "ports",
        "websocket",
        "spdy",
        "port",
    ];
    assert_eq!(names, expected);
    assert!(
        steps.iter().all(|(_, verdict)| verdict == "ok"),
        "{}",
        text(&ended)
    );
    let text = text(&ended);
    for part in [
        "context playground;",
        "a token",
        "TLSv1_3",
        "X25519",
        "v1.36",
        "echo in namespace default is ready",
        "waits for the client",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // No secret in it.
    assert!(
        !text.contains(&env.playground.token("admin").unwrap()),
        "{text}"
    );

    let ended = run(env.kpf(["doctor", "-o", "json", "--context", "playground-plugin"])).await;
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(
        (ended.code, &report["version"], &report["healthy"]),
        (0, &1.into(), &true.into())
    );
    let steps = report["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 9);
    assert!(
        steps[1]["what"]
            .as_str()
            .unwrap()
            .starts_with("the credential plugin `"),
        "{}",
        steps[1]
    );
    assert!(
        steps
            .iter()
            .all(|step| step["milliseconds"].is_number() && step["verdict"] == "ok")
    );
}

#[tokio::test]
async fn what_is_wrong_has_advice() {
    let env = TestEnv::new();
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = format!("--server=https://{nobody}");
    for (words, step, part) in [
        (
            &["--kubeconfig", "/nowhere"][..],
            "kubeconfig",
            "--kubeconfig",
        ),
        (
            &["--context", "nowhere"],
            "kubeconfig",
            "kubectl config get-contexts",
        ),
        (
            &["web.default.nowhere.kpf"],
            "kubeconfig",
            "`nowhere` is no context",
        ),
        (
            &["--server", "https://no.such.name.invalid"],
            "name",
            "/etc/resolv.conf",
        ),
        (&[&nobody], "tcp", "firewalls"),
        (&["--certificate-authority", "/dev/null"], "kubeconfig", ""),
        (
            &["--tls-server-name", "other.example"],
            "tls",
            "tls-server-name",
        ),
        (&["--context", "playground-wrong"], "rights", "log in again"),
        (&["nothing"], "pod", "kubectl get pods"),
        (&["svc/web", "9999"], "pod", "service port 9999"),
        (&["web", "9999"], "port", "nothing listens there"),
        (
            &["--context", "playground-viewer", "web"],
            "port-forward",
            "--via exec",
        ),
    ] {
        let (ended, steps) =
            examine(&env, &[&["--pod-running-timeout", "1s"], words].concat()).await;
        let text = text(&ended);
        assert_eq!(
            (ended.code, &ended.stderr[..]),
            (1, ""),
            "{words:?}: {text}"
        );
        assert_eq!(verdict(&steps, step), "FAILED", "{words:?}: {text}");
        let last = steps.last().unwrap();
        assert_eq!(last.1, "FAILED", "nothing follows: {text}");
        assert!(
            text.contains("-> ") && text.contains(part),
            "{words:?}: {text}"
        );
    }
}

#[tokio::test]
async fn one_way_is_enough() {
    for (version, context, bad, good) in [
        ("1.29", "playground", "websocket", "spdy"),
        ("1.36", "playground-create-only", "websocket", "spdy"),
        ("1.34", "playground-get-only", "spdy", "websocket"),
    ] {
        let env = TestEnv::with(Options {
            server_version: version.to_owned(),
            ..Options::default()
        });
        let (ended, steps) = examine(&env, &["--context", context, "echo", "7"]).await;
        let text = text(&ended);
        assert_eq!(ended.code, 0, "{text}");
        assert_eq!(
            (verdict(&steps, bad), verdict(&steps, good)),
            ("warning", "ok"),
            "{text}"
        );
        assert_eq!(verdict(&steps, "port"), "ok", "{text}");
        if context.ends_with("only") {
            assert_eq!(verdict(&steps, "rights"), "warning", "{text}");
        }
    }
}
