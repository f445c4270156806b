//! Whatever a person gets wrong: one line that says what was tried and what to do, the right code, and soon.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::process::Command;

use crate::playground::{Options, kubeconfig};
use crate::program::{Ended, TestEnv, run};

/// No failure here has anything to wait for.
const SOON: Duration = Duration::from_secs(20);

/// The codes of `connect`; `forward` has only 1, as kubectl.
const USAGE: i32 = 1;
const NO_POD: i32 = 68;
const UNREACHABLE: i32 = 69;
const FORBIDDEN: i32 = 77;

/// Runs it, and checks all but what it says.
async fn fail(command: Command, code: i32, what: &str) -> String {
    let began = Instant::now();
    let Ended {
        code: ended,
        stdout,
        stderr,
    } = run(command).await;
    assert_eq!(ended, code, "{what}: {stderr}");
    assert_eq!(String::from_utf8_lossy(&stdout), "", "{what}");
    assert!(began.elapsed() < SOON, "{what}: {:?}", began.elapsed());
    let lines = stderr.lines().count();
    assert!(lines == 1 && stderr.ends_with('\n'), "{what}: {stderr}");
    assert!(stderr.len() < 1500, "{what}: {} bytes", stderr.len());
    let text = stderr.trim_end().trim_start_matches("error: ");
    let parts: Vec<_> = text.split(": ").collect();
    for pair in parts.windows(2) {
        assert_ne!(pair[0], pair[1], "said twice: {what}: {stderr}");
    }
    for never in [
        "panicked",
        "RUST_BACKTRACE",
        "Some(",
        "Os {",
        "kube::",
        "hyper",
        "DnsName(",
    ] {
        assert!(!stderr.contains(never), "{what}: {stderr}");
    }
    stderr
}

/// What a `connect` and a `forward` with these words say: the same parts, with their own codes.
async fn both(env: &TestEnv, target: &str, port: &str, flags: &[&str], code: i32, parts: &[&str]) {
    for command in ["connect", "forward"] {
        let port = match command {
            "forward" if !port.contains(':') => format!(":{port}"),
            _ => port.to_owned(),
        };
        let words = [command, target, &port];
        let what = format!("{} {}", words.join(" "), flags.join(" "));
        let code = if command == "connect" { code } else { 1 };
        let said = fail(env.kpf(words.iter().chain(flags)), code, &what).await;
        for part in parts {
            assert!(said.contains(part), "{what}: no `{part}` in {said}");
        }
    }
}

/// A file of the test's own.
fn file(env: &TestEnv, name: &str, content: &str) -> PathBuf {
    let path = env.playground.folder().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

#[tokio::test]
async fn contexts_and_kubeconfigs() {
    let env = TestEnv::new();
    let malformed = file(
        &env,
        "malformed",
        "apiVersion: v1\nclusters:\n  - name: [\n",
    );
    let wrong_type = file(
        &env,
        "wrong-type",
        "apiVersion: v1\nkind: Config\nclusters: 5\n",
    );
    let binary = env.playground.folder().join("binary");
    fs::write(&binary, [0xff, 0xfe, 0, 1, 2]).unwrap();
    let empty = file(&env, "empty", "");
    let dangling = file(
        &env,
        "dangling",
        "apiVersion: v1\ncontexts:\n- name: a\n  context: {cluster: nowhere, user: nobody}\ncurrent-context: a\n",
    );
    let scheme = file(
        &env,
        "scheme",
        "apiVersion: v1\nclusters:\n- {name: c, cluster: {server: 'ftp://there'}}\ncontexts:\n\
         - {name: a, context: {cluster: c}}\ncurrent-context: a\n",
    );
    let folder = env.playground.folder();
    let missing = folder.join("missing");
    for (flags, parts) in [
        (
            &["--context", "nothing"][..],
            &["context \"nothing\" does not exist"][..],
        ),
        (
            &["--cluster", "nothing"],
            &["cluster \"nothing\" does not exist"],
        ),
        (
            &["--user", "nothing"],
            &["auth info \"nothing\" does not exist"],
        ),
        (
            &["--kubeconfig", text(&missing)],
            &["missing", "No such file"],
        ),
        (
            &["--kubeconfig", text(folder)],
            &[text(folder), "directory"],
        ),
        (
            &["--kubeconfig", text(&malformed)],
            &["malformed", "line 3"],
        ),
        (
            &["--kubeconfig", text(&wrong_type)],
            &["wrong-type", "line 3"],
        ),
        (&["--kubeconfig", text(&binary)], &["binary"]),
        (
            &["--kubeconfig", text(&empty)],
            &["no cluster is configured", "KUBECONFIG"],
        ),
        (
            &["--kubeconfig", text(&dangling)],
            &["cluster \"nowhere\" does not exist"],
        ),
        (&["--kubeconfig", text(&scheme)], &["ftp://there"]),
        (
            &["--certificate-authority", text(&missing)],
            &["certificate", "missing"],
        ),
        (&["--certificate-authority", text(&empty)], &["certificate"]),
        (&["--client-certificate", text(&missing)], &["certificate"]),
        (&["--proxy-url", "nonsense://x"], &["proxy"]),
        (
            &["--request-timeout", "soon"],
            &["--request-timeout", "soon"],
        ),
    ] {
        both(&env, "web", "80", flags, USAGE, parts).await;
    }
    // as KUBECONFIG says it
    for command in [["connect", "web", "80"], ["forward", "web", ":80"]] {
        for (value, part) in [
            ("/nowhere/at:/all", "no cluster is configured"),
            ("", "no cluster"),
        ] {
            let mut kpf = env.kpf(command);
            kpf.env("KUBECONFIG", value);
            let said = fail(kpf, 1, value).await;
            assert!(said.contains(part), "{said}");
            assert!(said.contains("--kubeconfig"), "what to do: {said}");
        }
    }
    assert_eq!(env.playground.connections_accepted(), 0, "nothing was sent");
}

#[tokio::test]
async fn a_kubeconfig_that_may_not_be_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let env = TestEnv::new();
    let secret = file(&env, "secret", "apiVersion: v1\n");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&secret).is_ok() {
        // root may read everything, and has then said what it is
        fs::write(&secret, "clusters: 5\n").unwrap();
        both(
            &env,
            "web",
            "80",
            &["--kubeconfig", text(&secret)],
            USAGE,
            &["line 1"],
        )
        .await;
        return;
    }
    let parts = ["cannot read", "secret", "denied"];
    both(
        &env,
        "web",
        "80",
        &["--kubeconfig", text(&secret)],
        USAGE,
        &parts,
    )
    .await;
}

#[tokio::test]
async fn certificates() {
    let expired = TestEnv::with(Options {
        expired_certificate: true,
        ..Options::default()
    });
    both(&expired, "web", "80", &[], UNREACHABLE, &["expired"]).await;

    let env = TestEnv::new();
    let other = file(&env, "other-ca", &expired.playground.authority());
    let flags = ["--certificate-authority", text(&other)];
    both(&env, "web", "80", &flags, UNREACHABLE, &["certificate"]).await;
    let flags = ["--tls-server-name", "somebody.else"];
    both(
        &env,
        "web",
        "80",
        &flags,
        UNREACHABLE,
        &["certificate", "somebody.else"],
    )
    .await;
    assert_eq!(env.playground.requests().len(), 0, "no credential was sent");
}

#[tokio::test]
async fn servers_that_are_not_there() {
    let env = TestEnv::new();
    let free = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let refused = format!("https://{free}");
    let place = free.to_string();
    let plain = format!("http://{}", env.playground.address());
    for (flags, parts) in [
        (&["-s", &refused[..]][..], &[&place[..], "refused"][..]),
        (&["-s", "https://kpf.invalid"], &["kpf.invalid"]),
        (&["-s", &plain], &["HTTP"]),
        (&["--proxy-url", &refused], &["refused"]),
        (
            &["--proxy-url", "http://kpf.invalid:3128"],
            &["kpf.invalid"],
        ),
    ] {
        // a proxy is never used for loopback, unless the kubeconfig or the flag says so
        both(&env, "web", "80", flags, UNREACHABLE, parts).await;
    }
}

#[tokio::test]
async fn users() {
    let env = TestEnv::new();
    for (user, code, parts) in [
        (
            "wrong",
            FORBIDDEN,
            &["You must be logged in to the server"][..],
        ),
        (
            "viewer",
            FORBIDDEN,
            &["forbidden", "pods/portforward", "`create`", "default"],
        ),
        ("get-only", FORBIDDEN, &["forbidden", "pods/portforward"]),
    ] {
        let context = kubeconfig::context(user);
        let flags = ["--context", &context[..]];
        both(&env, "web", "80", &flags, code, parts).await;
        both(&env, "svc/web", "80", &flags, code, parts).await;
    }
    let flags = ["--context", "playground-viewer", "--as", "admin"];
    both(&env, "web", "80", &flags, FORBIDDEN, &["impersonate"]).await;
    let said = run(env.kpf(["connect", "web", "80"].iter().chain(&flags)))
        .await
        .stderr;
    assert!(
        !said.contains("`create`"),
        "a hint that doesn't help: {said}"
    );

    for (plugin, parts) in [
        (
            &["/nowhere/plugin"][..],
            &["/nowhere/plugin", "this plugin is the playground itself"][..],
        ),
        (&["/bin/sh", "-c", "exit 3"], &["3"]),
        (&["/bin/sh", "-c", "echo nonsense"], &["/bin/sh"]),
    ] {
        let env = TestEnv::with(Options {
            plugin: plugin.iter().map(|&word| word.to_owned()).collect(),
            user: "plugin".to_owned(),
            ..Options::default()
        });
        both(&env, "web", "80", &[], FORBIDDEN, parts).await;
        assert_eq!(env.playground.requests().len(), 0, "nothing was asked");
    }
}

#[tokio::test]
async fn pods_and_what_leads_to_them() {
    let env = TestEnv::new();
    let wait = ["--pod-running-timeout", "1s"];
    for (target, code, parts) in [
        (
            "nothing",
            NO_POD,
            &["pods \"nothing\" not found", "default"][..],
        ),
        ("nowhere/web", NO_POD, &["not found"]),
        (
            "svc/nothing",
            NO_POD,
            &["services \"nothing\" not found", "default"],
        ),
        (
            "team-b/deploy/nothing",
            NO_POD,
            &["deployments.apps \"nothing\" not found", "team-b"],
        ),
        ("pending", NO_POD, &["pending"]),
        ("done", NO_POD, &["done"]),
        (
            "deploy/empty",
            NO_POD,
            &[
                "timed out waiting for the condition",
                "deployment/empty",
                "1s",
            ],
        ),
        ("svc/external", NO_POD, &["external", "without a selector"]),
    ] {
        both(&env, target, "80", &wait, code, parts).await;
    }
}

#[tokio::test]
async fn ports() {
    let env = TestEnv::new();
    for (target, port, parts) in [
        (
            "web",
            "nothing",
            &["Pod 'web' does not have a named port 'nothing'"][..],
        ),
        (
            "svc/web",
            "99",
            &["Service web does not have a service port 99"],
        ),
        (
            "svc/web",
            "nothing",
            &["Service 'web' does not have a named port 'nothing'"],
        ),
        ("svc/dns", "53", &["UDP protocol is not supported for 53"]),
        ("svc/dns", "dns", &["UDP protocol is not supported for dns"]),
        ("many", "dns", &["UDP protocol is not supported for dns"]),
        ("web", "0", &["remote port must be > 0"]),
        ("web", "65536", &["65536", "1 to 65535"]),
        ("web", "-1", &["-1"]),
        ("web", "99999999999999999999", &["99999999999999999999"]),
        ("web", "ABC", &["ABC"]),
        ("web", "a_b", &["a_b"]),
        ("web", "80x!", &["80x!"]),
        (
            "web",
            "8080:80:90:1",
            &["invalid port format '8080:80:90:1'"],
        ),
        ("web", "80\u{1b}[2J", &["80"]),
    ] {
        both(&env, target, port, &[], USAGE, parts).await;
    }
    for (spec, part) in [
        ("abc!:80", "error parsing local port 'abc!'"),
        ("65536:80", "error parsing local port '65536'"),
        ("80:", "remote port cannot be empty"),
        ("", "remote port cannot be empty"),
        ("8080:80:90", "invalid port format '8080:80:90'"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1:80:80", "[::1:80:80"),
    ] {
        let said = fail(env.kpf(["forward", "pod/web", spec]), 1, spec).await;
        assert!(said.contains(part), "{spec}: {said}");
    }
    let said = fail(
        env.kpf(["forward", "web", ":80", "--address", "192.0.2.1"]),
        1,
        "address",
    )
    .await;
    assert!(
        said.contains("192.0.2.1") && said.contains("with --address"),
        "{said}"
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let said = fail(
        env.kpf(["forward", "web", &format!("{port}:80")]),
        1,
        "taken",
    )
    .await;
    assert!(said.contains(&port) && said.contains("in use"), "{said}");
}

#[tokio::test]
async fn targets_and_words() {
    let env = TestEnv::new();
    for (target, parts) in [
        ("", &["target is empty"][..]),
        ("/", &["`/`"]),
        ("pod/", &["pod/", "name"]),
        ("/web", &["/web"]),
        ("a/b/c/d", &["too many slashes", "NAMESPACE/TYPE/NAME"]),
        ("a//b", &["`a//b` lacks a type"]),
        ("Web", &["`Web` is no name of a pod"]),
        ("cronjob/backup", &["`cronjob`", "leads to no pod"]),
        (".kpf", &["lacks a namespace"]),
        ("web.kpf", &["lacks a namespace"]),
        ("web.default.nothing.kpf", &["`nothing` is no context"]),
        ("web\u{1b}]0;x\u{7}", &["no name"]),
    ] {
        both(&env, target, "80", &[], USAGE, parts).await;
    }
    let flags = ["-n", "other"];
    both(
        &env,
        "team-b/web",
        "80",
        &flags,
        USAGE,
        &["`team-b`", "`other`", "leave one of them out"],
    )
    .await;
    let flags = ["--context", "team-b"];
    let parts = ["playground", "team-b", "leave one of them out"];
    both(
        &env,
        "web.default.playground.kpf",
        "80",
        &flags,
        USAGE,
        &parts,
    )
    .await;
    for (words, parts) in [
        (
            &["connect"][..],
            &["<TARGET>", "<PORT>", "usage: kpf connect"][..],
        ),
        (&["connect", "web"], &["<PORT>"]),
        (&["connect", "web", "80", "81"], &["81"]),
        (&["connect", "web", "80", "--nonsense"], &["--nonsense"]),
        (&["forward"], &["TYPE/NAME and list of ports are required"]),
        (&["forward", "web"], &["no port follows `pod/web`"]),
        (&["web"], &["no port follows `pod/web`"]),
        (
            &["web", "80", "--transport", "pigeon"],
            &["pigeon", "websocket"],
        ),
        (
            &["web", "80", "--pod-running-timeout", "0"],
            &["must be higher than zero"],
        ),
        (
            &["web", "80", "--address", "localhost,nohost"],
            &["nohost is not a valid IP"],
        ),
    ] {
        let what = words.join(" ");
        let said = fail(env.kpf(words), 1, &what).await;
        for part in parts {
            assert!(said.contains(part), "{what}: {said}");
        }
    }
    assert_eq!(env.playground.connections_accepted(), 0, "nothing was sent");
}
