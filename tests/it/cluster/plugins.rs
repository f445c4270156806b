//! Credential plugins, as shell scripts.

use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use kpf::cluster::{Cluster, Environment, Options, Stdin, UpgradeError};

use super::server::{Answer, Authority, SPDY, Server, status, within};
use super::upgrade::spdy;

/// A kubeconfig whose user is a plugin.
struct Plugin {
    dir: tempfile::TempDir,
    entry: String,
}

impl Plugin {
    /// `script` runs in sh; each run is counted in the file `runs`.
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runs = dir.path().join("runs");
        let script = format!(
            "echo run >> '{}'\ndir='{}'\n{script}\n",
            runs.display(),
            dir.path().display()
        );
        std::fs::write(dir.path().join("plugin.sh"), script).unwrap();
        Self {
            dir,
            entry: "interactiveMode: IfAvailable".to_owned(),
        }
    }

    /// A plugin that prints `status`, in which `$RUN` is the number of the run.
    fn printing(status: &str) -> Self {
        let status = status.replace('"', "\\\"");
        Self::new(&format!(
            "RUN=$(wc -l < $dir/runs | tr -d ' ')\n\
             echo \"{{\\\"kind\\\": \\\"ExecCredential\\\", \\\"apiVersion\\\": \\\"client.authentication.k8s.io/v1\\\", \\\"status\\\": {status}}}\""
        ))
    }

    fn token() -> Self {
        Self::printing(r#"{"token": "token-$RUN"}"#)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(self.path("runs")).map_or(0, |runs| runs.lines().count())
    }

    fn options(&self, server: &str, ca: Option<&Path>) -> Options {
        let ca = ca.map_or(String::new(), |ca| {
            format!(", certificate-authority: '{}'", ca.display())
        });
        let config = format!(
            "current-context: c\nclusters: [{{name: c, cluster: {{server: '{server}'{ca}}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             users:\n- name: u\n  user:\n    exec:\n      apiVersion: client.authentication.k8s.io/v1\n      command: /bin/sh\n      args: ['{}']\n      {}\n",
            self.path("plugin.sh").display(),
            self.entry.replace('\n', "\n      ")
        );
        std::fs::write(self.path("config"), config).unwrap();
        let environment: Environment = [("PATH", "/usr/bin:/bin"), ("INHERITED", "yes")]
            .into_iter()
            .collect();
        Options {
            kubeconfig: Some(self.path("config")),
            environment,
            stdin: Stdin::Taken,
            ..Options::default()
        }
    }

    fn cluster(&self, server: &Server) -> Cluster {
        Cluster::load(&self.options(&format!("http://{}", server.address), None)).unwrap()
    }

    async fn error(&self) -> String {
        let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
        let error = within(self.cluster(&server).upgrade(spdy()))
            .await
            .unwrap_err();
        assert!(
            matches!(error, UpgradeError::Credentials(_)) && !error.allows_fallback(),
            "{error:?}"
        );
        assert_eq!(
            server.connections(),
            0,
            "nothing is sent without credentials"
        );
        error.to_string()
    }
}

fn tokens(server: &Server) -> Vec<String> {
    server
        .seen()
        .iter()
        .map(|request| request.header("authorization").to_owned())
        .collect()
}

/// `crates.md` §0 row 2.
#[tokio::test]
async fn the_plugin_runs_once_for_many_requests() {
    let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
    let plugin = Plugin::token();
    let cluster = plugin.cluster(&server);
    assert_eq!(plugin.runs(), 0, "loading runs nothing");
    let upgrades = join_all((0..20).map(|_| cluster.upgrade(spdy())));
    assert!(within(upgrades).await.iter().all(Result::is_ok));
    assert_eq!(plugin.runs(), 1);
    assert!(
        tokens(&server)
            .iter()
            .all(|token| token == "Bearer token-1")
    );
}

/// `crates.md` §0 row 2: the runtime isn't blocked meanwhile.
#[tokio::test(flavor = "current_thread")]
async fn others_go_on_while_the_plugin_runs() {
    let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
    let plugin = Plugin::new(
        "while [ ! -e $dir/go ]; do sleep 0.01; done; echo '{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"status\": {\"token\": \"t\"}}'",
    );
    let cluster = plugin.cluster(&server);
    let (upgraded, ()) = within(async {
        tokio::join!(cluster.upgrade(spdy()), async {
            while plugin.runs() == 0 {
                tokio::task::yield_now().await;
            }
            std::fs::write(plugin.path("go"), "").unwrap();
        })
    })
    .await;
    upgraded.unwrap();
}

/// `crates.md` §0 rows 3 and 4.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_plugin_has_our_stderr_and_not_our_stdin() {
    for mode in ["Never", "IfAvailable"] {
        let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
        let mut plugin =
            Plugin::printing(r#"{"token": "$(readlink /proc/$$/fd/0) $(readlink /proc/$$/fd/2)"}"#);
        plugin.entry = format!("interactiveMode: {mode}");
        within(plugin.cluster(&server).upgrade(spdy()))
            .await
            .unwrap();
        let stderr = std::fs::read_link("/proc/self/fd/2").unwrap();
        assert_eq!(
            tokens(&server),
            [format!("Bearer /dev/null {}", stderr.display())]
        );
    }
}

#[tokio::test]
async fn a_plugin_that_needs_stdin_is_an_error_when_the_command_has_it() {
    let mut plugin = Plugin::token();
    plugin.entry = "interactiveMode: Always".to_owned();
    let error = plugin.error().await;
    assert!(
        error.contains("cannot support interactive mode: standard input is unavailable"),
        "{error}"
    );
    assert_eq!(plugin.runs(), 0);
}

#[tokio::test]
async fn the_plugin_is_told_what_it_is_for() {
    let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
    let mut plugin = Plugin::new(
        "printf %s \"$KUBERNETES_EXEC_INFO\" > $dir/info\n\
         echo \"{\\\"apiVersion\\\": \\\"client.authentication.k8s.io/v1\\\", \\\"status\\\": {\\\"token\\\": \\\"$OWN-$INHERITED\\\"}}\"",
    );
    plugin.entry =
        "interactiveMode: Never\nprovideClusterInfo: true\nenv: [{name: OWN, value: mine}]"
            .to_owned();
    within(plugin.cluster(&server).upgrade(spdy()))
        .await
        .unwrap();
    assert_eq!(tokens(&server), ["Bearer mine-yes"]);
    let info: serde_json::Value =
        serde_json::from_slice(&std::fs::read(plugin.path("info")).unwrap()).unwrap();
    assert_eq!(info["kind"], "ExecCredential");
    assert_eq!(info["apiVersion"], "client.authentication.k8s.io/v1");
    assert_eq!(info["spec"]["interactive"], false);
    assert_eq!(
        info["spec"]["cluster"]["server"],
        format!("http://{}", server.address)
    );
}

#[tokio::test]
async fn a_401_makes_the_next_request_run_the_plugin_again() {
    let server = Server::start(|request| match request.header("authorization") {
        "Bearer token-1" => status(401, "Unauthorized", "Unauthorized"),
        _ => Answer::Echo(SPDY.into()),
    })
    .await;
    let plugin = Plugin::token();
    let cluster = plugin.cluster(&server);
    assert!(
        within(cluster.upgrade(spdy()))
            .await
            .unwrap_err()
            .is_unauthorized()
    );
    within(cluster.upgrade(spdy())).await.unwrap();
    within(cluster.upgrade(spdy())).await.unwrap();
    assert_eq!(
        tokens(&server),
        ["Bearer token-1", "Bearer token-2", "Bearer token-2"]
    );
}

#[tokio::test]
async fn an_expired_credential_is_renewed_and_a_fresh_one_kept() {
    let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
    for (expiry, runs) in [("2001-01-01T00:00:00Z", 2), ("2100-01-01T00:00:00Z", 1)] {
        let plugin = Plugin::printing(&format!(
            r#"{{"token": "t", "expirationTimestamp": "{expiry}"}}"#
        ));
        let cluster = plugin.cluster(&server);
        within(cluster.upgrade(spdy())).await.unwrap();
        within(cluster.upgrade(spdy())).await.unwrap();
        assert_eq!(plugin.runs(), runs, "{expiry}");
    }
}

/// `crates.md` §0 row 12.
#[tokio::test]
async fn a_client_certificate_from_a_plugin_rotates() {
    let authority = Authority::new("ca");
    let identity = authority.issue("localhost");
    let server = Server::start_tls(Some(authority.server(&identity)), |request| {
        match request.line.starts_with("GET") {
            true => status(404, "NotFound", "kept alive"),
            false => Answer::Echo(SPDY.into()),
        }
    })
    .await;
    let plugin = Plugin::new(
        "RUN=$(wc -l < $dir/runs | tr -d ' ')\n\
         quote() { awk '{printf \"%s\\\\n\", $0}' $dir/$1; }\n\
         printf '{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"status\": {\"expirationTimestamp\": \"2001-01-01T00:00:00Z\", '\n\
         printf '\"clientCertificateData\": \"%s\", \"clientKeyData\": \"%s\"}}' \"$(quote $RUN.pem)\" \"$(quote $RUN.key)\"",
    );
    for run in 1..=2 {
        let identity = authority.issue(&format!("jane-{run}"));
        std::fs::write(plugin.path(&format!("{run}.pem")), identity.certificate).unwrap();
        std::fs::write(plugin.path(&format!("{run}.key")), identity.key).unwrap();
    }
    let ca = plugin.path("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let url = format!("https://localhost:{}", server.address.port());
    let cluster = Cluster::load(&plugin.options(&url, Some(&ca))).unwrap();

    super::lookups::pod(&cluster).await.unwrap_err(); // leaves its connection in the pool
    within(cluster.upgrade(spdy())).await.unwrap();
    let seen: Vec<_> = server
        .seen()
        .into_iter()
        .map(|request| request.tls.unwrap())
        .collect();
    assert!(seen[0].client_certificate.is_some());
    assert_ne!(
        seen[0].client_certificate, seen[1].client_certificate,
        "neither pool nor session kept the old one"
    );
}

#[tokio::test]
async fn a_plugin_that_isnt_there_shows_its_install_hint() {
    let mut plugin = Plugin::token();
    plugin.entry =
        "command: kpf-no-such-plugin\ninstallHint: |\n  run:\n    brew install it".to_owned();
    let error = plugin.error().await;
    assert_eq!(
        error,
        "getting credentials: exec: executable kpf-no-such-plugin not found: run: brew install it"
    );
}

#[tokio::test]
async fn plugins_that_fail_say_why_and_show_nothing() {
    let print = |document: &str| Plugin::new(&format!("printf %s '{document}'"));
    for (plugin, why) in [
        (Plugin::new("exit 3"), "failed with exit code 3"),
        (Plugin::new("kill -9 $$"), "signal"),
        (print("s3cret"), "no ExecCredential (line 1"),
        (print(""), "no ExecCredential"),
        (
            print(
                r#"{"apiVersion": "client.authentication.k8s.io/v1beta1", "status": {"token": "s3cret"}}"#,
            ),
            "plugin returned version client.authentication.k8s.io/v1beta1",
        ),
        (
            print(r#"{"apiVersion": "client.authentication.k8s.io/v1"}"#),
            "didn't return a status field",
        ),
        (
            Plugin::printing("{}"),
            "didn't return a token or cert/key pair",
        ),
        (
            Plugin::printing(r#"{"clientKeyData": "s3cret"}"#),
            "only certificate or key",
        ),
        (
            Plugin::printing(r#"{"clientCertificateData": "x", "clientKeyData": "s3cret"}"#),
            "no PEM certificate",
        ),
        (
            Plugin::printing(r#"{"token": "s3cret", "expirationTimestamp": "s3cret"}"#),
            "RFC 3339",
        ),
        (
            Plugin::new("yes s3cret | head -c 3000000; exec sleep 1000"),
            "more than 1048576 bytes",
        ),
    ] {
        let error = plugin.error().await;
        assert!(error.contains(why), "{error}");
        assert!(
            !error.contains("s3cret") && !error.contains('\n'),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_plugin_that_nobody_waits_for_is_killed() {
    let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
    let plugin = Plugin::new("echo $$ > $dir/pid.new; mv $dir/pid.new $dir/pid; exec sleep 1000");
    let cluster = plugin.cluster(&server);
    let upgrade = tokio::spawn(async move { cluster.upgrade(spdy()).await.map(|_| ()) });
    within(async {
        while !plugin.path("pid").exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let pid = std::fs::read_to_string(plugin.path("pid"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    upgrade.abort();
    within(async {
        while rustix::process::test_kill_process(pid).is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_token_makes_the_plugin_unnecessary() {
    let server = Server::start(|_| Answer::Echo(SPDY.into())).await;
    let plugin = Plugin::token();
    let options = Options {
        token: Some("flag".to_owned()),
        ..plugin.options(&format!("http://{}", server.address), None)
    };
    within(Cluster::load(&options).unwrap().upgrade(spdy()))
        .await
        .unwrap();
    assert_eq!(tokens(&server), ["Bearer flag"]);
    assert_eq!(plugin.runs(), 0);
}

#[test]
fn plugin_entries_that_make_no_sense() {
    for (entry, why) in [
        (
            "apiVersion: client.authentication.k8s.io/v1alpha1",
            "invalid apiVersion",
        ),
        ("command: ''", "no command"),
    ] {
        let mut plugin = Plugin::token();
        plugin.entry = entry.to_owned();
        let error = Cluster::load(&plugin.options("http://localhost:1", None))
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{error}");
    }
}
