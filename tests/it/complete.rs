//! Completion: what is offered, and that real shells offer it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::process::Child;

use crate::playground::process::open_terminal;
use crate::program::{Ended, TestEnv, run, until};
use crate::tools;

/// What is offered after this line.
async fn offered(env: &TestEnv, line: &str) -> Ended {
    let words = ["complete", "zsh", "--"].into_iter().chain(line.split(' '));
    run(env.kpf(words)).await
}

#[tokio::test]
async fn whatever_the_cluster_has_is_offered() {
    let env = TestEnv::new();
    for (line, some, none) in [
        (
            "kpf ",
            &[
                "forward\tForward local ports to pods",
                "svc/\ta service",
                "echo",
            ][..],
            "known-hosts",
        ),
        (
            "kpf fo",
            &["forward\tForward local ports to pods"],
            "connect",
        ),
        ("kpf forward we", &["web"], "echo"),
        ("kpf forward svc/", &["svc/echo", "svc/web"], "web"),
        ("kpf forward deployments/", &["deployments/web"], "svc/echo"),
        (
            "kpf forward team-b/",
            &["team-b/web", "team-b/svc/\ta service"],
            "web",
        ),
        (
            "kpf forward team-b/svc/w",
            &["team-b/svc/web"],
            "team-b/svc/echo",
        ),
        ("kpf -n team-b connect svc/w", &["svc/web"], "svc/echo"),
        ("kpf forward svc/web ", &["http\t80", "80\thttp"], "22"),
        ("kpf svc/web 9000:h", &["9000:http\t80"], "http"),
        ("kpf connect sshd ", &["22\tssh", "ssh\t22"], "80"),
        ("kpf forward web 80 svc/ec", &["svc/echo"], "80"),
        ("kpf exec sshd -c ", &["sshd"], "web"),
        (
            "kpf exec deploy/web --container=",
            &["--container=main"],
            "main",
        ),
        (
            "kpf --context playground-st",
            &["playground-stream-only"],
            "playground",
        ),
        ("kpf forward -n tea", &["team-b"], "default"),
        (
            "kpf forward --namespace=tea",
            &["--namespace=team-b"],
            "default",
        ),
        ("kpf exec web -- l", &["//files"], "web"),
        ("kpf --kubeconfig ", &["//files"], "web"),
    ] {
        let ended = offered(&env, line).await;
        let said = String::from_utf8(ended.stdout).unwrap();
        let lines: Vec<_> = said.lines().collect();
        for one in some {
            assert!(lines.contains(one), "{line}: {one} is not in {lines:?}");
        }
        assert!(!lines.contains(&none), "{line}: {none} is in {lines:?}");
        assert_eq!((ended.code, &ended.stderr[..]), (0, ""), "{line}");
    }
    // one request for the names of a kind, and none for what needs none
    let before = env.playground.requests().len();
    offered(&env, "kpf forward svc/").await;
    assert_eq!(env.playground.requests().len(), before + 1);
    offered(&env, "kpf forward --").await;
    offered(&env, "kpf --context ").await;
    assert_eq!(env.playground.requests().len(), before + 1);
}

#[tokio::test]
async fn names_of_the_forwards_file_are_offered() {
    let env = TestEnv::new();
    let command = env.command("true");
    let folder = command
        .as_std()
        .get_current_dir()
        .unwrap()
        .join(".config/kpf");
    fs::create_dir_all(&folder).unwrap();
    let file = "version: 1\nforwards: {db: {target: svc/echo, ports: [7]}}\ngroups: {all: [db]}\n";
    fs::write(folder.join("forwards.yaml"), file).unwrap();
    let ended = offered(&env, "kpf forward @").await;
    let mut lines: Vec<_> = ended.stdout.split(|&byte| byte == b'\n').collect();
    lines.sort_unstable();
    assert_eq!(lines, [&b""[..], b"@all", b"@db"]);
}

#[tokio::test]
async fn what_goes_wrong_is_no_word_and_soon_over() {
    let env = TestEnv::new();
    // it takes connections, and that is all
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("--server=https://{}", silent.local_addr().unwrap());
    for flag in [
        &silent[..],
        "--server=https://127.0.0.1:1",
        "--context=nowhere",
        "--context=playground-wrong",
        "--context=playground-stream-only",
        "--kubeconfig=/nowhere",
        "--unknown",
    ] {
        for line in [
            "forward svc/",
            "connect web ",
            "exec web -c ",
            "forward -n ",
            "forward @",
        ] {
            let began = Instant::now();
            let ended = offered(&env, &format!("kpf {flag} {line}")).await;
            let what = (ended.code, &ended.stderr[..]);
            assert_eq!(what, (0, ""), "{flag} {line}");
            // 1.8 s, and what a busy machine adds
            assert!(began.elapsed() < Duration::from_secs(10), "{flag} {line}");
        }
    }
}

/// A shell that is typed at.
struct Shell {
    _child: Child,
    keys: File,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Shell {
    /// None where there is no such shell. Its `kpf` is ours.
    fn start(env: &TestEnv, name: &str, words: &[&str]) -> Option<Self> {
        let program = tools::find(name)?;
        let (outer, inner) = open_terminal().unwrap();
        let mut command = env.command(program);
        let kpf = std::path::Path::new(env!("CARGO_BIN_EXE_kpf"));
        let path = std::env::var("PATH").unwrap();
        let end = || Stdio::from(inner.try_clone().unwrap());
        command
            .args(words)
            .env(
                "PATH",
                format!("{}:{path}", kpf.parent().unwrap().display()),
            )
            .env("TERM", "xterm")
            .env("PS1", "> ")
            .stdin(end())
            .stdout(end())
            .stderr(end());
        let child = command.spawn().unwrap();
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let (mut screen, sink) = (File::from(outer.try_clone().unwrap()), seen.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..length]);
            }
        });
        Some(Self {
            _child: child,
            keys: outer.into(),
            seen,
        })
    }

    fn types(&mut self, text: &str) {
        self.keys.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until this is a line of its own, and forgets what was shown.
    async fn sees(&self, line: &str) {
        let what = format!("{line:?} is seen");
        let shown = || {
            self.seen()
                .replace('\r', "\n")
                .split('\n')
                .any(|it| it == line)
        };
        until(&what, shown).await;
        self.seen.lock().unwrap().clear();
    }

    /// What is typed becomes this line, which the shell then prints: the screen is drawn in too many ways.
    async fn shows(&mut self, typed: &str, line: &str) {
        self.types(typed);
        // to the beginning, and to the end
        self.types("\u{1}echo '\u{5}'\n");
        self.sees(line).await;
    }

    /// Without what only moves and colours.
    fn seen(&self) -> String {
        let seen = self.seen.lock().unwrap();
        let text = String::from_utf8_lossy(&seen).into_owned();
        let mut plain = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '\u{1b}' if rest.next() == Some('[') => {
                    rest.by_ref().find(|c| ('@'..='~').contains(c));
                }
                '\u{1b}' => {}
                c => plain.push(c),
            }
        }
        plain
    }
}

#[tokio::test]
async fn bash_completes() {
    let env = TestEnv::new();
    let Some(mut bash) = Shell::start(&env, "bash", &["--norc", "--noprofile", "-i"]) else {
        return;
    };
    bash.types("source <(kpf completions bash); echo rea''dy\n");
    bash.sees("ready").await;
    for (typed, completed) in [
        ("kpf forward svc/ec\tX", "kpf forward svc/echo X"),
        (
            "kpf forward svc/web 9000:ht\tX",
            "kpf forward svc/web 9000:http X",
        ),
        ("kpf connect team-b/sv\tX", "kpf connect team-b/svc/X"),
        (
            "kpf --context=playground-str\tX",
            "kpf --context=playground-stream-only X",
        ),
        ("kpf conn\tX", "kpf connect X"),
    ] {
        bash.shows(typed, completed).await;
    }
}

#[tokio::test]
async fn zsh_completes() {
    let env = TestEnv::new();
    let Some(mut zsh) = Shell::start(&env, "zsh", &["-f", "-i"]) else {
        return;
    };
    zsh.types(
        "autoload -U compinit; compinit -u -D; source <(kpf completions zsh); echo rea''dy\n",
    );
    zsh.sees("ready").await;
    for (typed, completed) in [
        ("kpf forward svc/ec\tX", "kpf forward svc/echo X"),
        (
            "kpf forward svc/web 9000:ht\tX",
            "kpf forward svc/web 9000:http X",
        ),
        ("kpf connect team-b/sv\tX", "kpf connect team-b/svc/X"),
        (
            "kpf --context=playground-str\tX",
            "kpf --context=playground-stream-only X",
        ),
        ("kpf conn\tX", "kpf connect X"),
    ] {
        zsh.shows(typed, completed).await;
    }
}

#[tokio::test]
async fn fish_completes() {
    let env = TestEnv::new();
    let Some(fish) = tools::find("fish") else {
        return;
    };
    for (line, offered) in [
        ("kpf forward svc/ec", "svc/echo\n"),
        ("kpf forward svc/web 9000:ht", "9000:http\t80\n"),
        (
            "kpf --context=playground-str",
            "--context=playground-stream-only\n",
        ),
        (
            "kpf conn",
            "connect\tAttach stdin and stdout to one port of a pod, for ssh's ProxyCommand\n",
        ),
    ] {
        let mut command = env.command(&fish);
        let kpf = std::path::Path::new(env!("CARGO_BIN_EXE_kpf"));
        let path = std::env::var("PATH").unwrap();
        command
            .env(
                "PATH",
                format!("{}:{path}", kpf.parent().unwrap().display()),
            )
            .args([
                "--no-config",
                "-c",
                "kpf completions fish | source; complete -C $argv[1]",
                line,
            ]);
        let ended = run(command).await;
        assert_eq!(
            String::from_utf8(ended.stdout).unwrap(),
            offered,
            "{line}: {}",
            ended.stderr
        );
    }
}
