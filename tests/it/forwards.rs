//! Many targets in one `kpf forward`: the forwards file, local unix sockets, and two that want the same port.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;

use crate::forward::free_port;
use crate::playground::objects::service;
use crate::program::{Noise, Process, TestEnv, digest_of, feed, in_time, run};

/// A playground, and a folder for files and sockets.
struct Ground {
    env: TestEnv,
    folder: TempDir,
}

impl Ground {
    fn new() -> Self {
        let env = TestEnv::new();
        let folder = tempfile::tempdir().unwrap();
        Self { env, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str, content: &str) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name).into_os_string().into_string().unwrap()
    }

    /// kpf in the folder, so that a socket's path is short.
    fn kpf(&self, line: &str) -> Command {
        let mut command = self.env.kpf(line.split_whitespace());
        command.current_dir(self.folder.path());
        command
    }

    /// What a command says that must fail at its start: one line, and nothing was begun.
    async fn refused(&self, line: &str) -> String {
        let tunnels = self.env.playground.tunnels_opened();
        let ended = run(self.kpf(line)).await;
        assert_eq!(
            (ended.code, &ended.stdout[..]),
            (1, &b""[..]),
            "{line}: {ended:?}"
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{line}: {}", ended.stderr);
        // but for the one in advance of a forward that runs beside it
        assert!(
            self.env.playground.tunnels_opened() <= tunnels + 1,
            "{line}"
        );
        ended.stderr
    }
}

/// Starts a forward, and reads so many lines of where it listens.
async fn start(command: Command, lines: usize) -> (Process, Vec<String>) {
    let mut process = Process::start(command);
    let mut said = Vec::new();
    for _ in 0..lines {
        let line = process.line().await;
        let Some(place) = line.strip_prefix("Forwarding from ") else {
            panic!("{line}: {:?}", process.end().await);
        };
        said.push(place.trim_end().to_owned());
    }
    (process, said)
}

async fn interrupt(process: &mut Process) {
    process.signal(Signal::INT);
    let ended = process.end().await;
    assert_eq!((ended.code, &ended.stderr[..]), (0, ""));
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    in_time(stream.write_all(b"hello")).await.unwrap();
    let mut heard = [0; 5];
    in_time(stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"hello");
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

const FILE: &str = r#"
version: 1
forwards:
  echo:
    target: pod/echo
    ports: [":7", "unix:echo.sock:7"]
    address: ["127.0.0.1"]
  web:
    context: team-b
    target: svc/web
    ports: [":http"]
    address: ["::1"]
  db:
    namespace: team-b
    target: db-0
    ports: [":80"]
groups:
  all: [both, db]
  both: [echo, web]
"#;

#[tokio::test]
async fn a_file_names_targets_of_two_namespaces_and_a_socket() {
    let ground = Ground::new();
    let file = ground.file("forwards.yaml", FILE);
    for (words, places) in [
        (
            format!("forward -f {file} --address 127.0.0.1"),
            &[
                "127.0.0.1 7",
                "unix:echo.sock 7",
                "[::1] 8080",
                "127.0.0.1 80",
            ][..],
        ),
        (
            format!("-f {file} @both"),
            &["127.0.0.1 7", "unix:echo.sock 7", "[::1] 8080"],
        ),
        (
            // each once, in the order of the words, and with a target of the usual kind
            format!("@web pod/echo :13 @all -f {file} --address 127.0.0.1"),
            &[
                "[::1] 8080",
                "127.0.0.1 13",
                "127.0.0.1 7",
                "unix:echo.sock 7",
                "127.0.0.1 80",
            ],
        ),
    ] {
        let (mut process, said) = start(ground.kpf(&words), places.len()).await;
        let without_ports: Vec<_> = said
            .iter()
            .map(|line| {
                let (local, remote) = line.split_once(" -> ").unwrap();
                let place = match local.starts_with("unix:") {
                    true => local,
                    false => local.rsplit_once(':').unwrap().0,
                };
                format!("{place} {remote}")
            })
            .collect();
        assert_eq!(without_ports, places, "{words}");
        echo(UnixStream::connect(ground.path("echo.sock")).await.unwrap()).await;
        assert_eq!(
            process.line().await,
            "Handling connection for unix:echo.sock\n"
        );
        let place = said.iter().find(|line| line.ends_with(" -> 7")).unwrap();
        echo(
            TcpStream::connect(place.trim_end_matches(" -> 7"))
                .await
                .unwrap(),
        )
        .await;
        let mut tunnels: Vec<_> = ground.env.playground.tunnels().into_iter().collect();
        tunnels.retain(|tunnel| tunnel.namespace == "team-b" && tunnel.pod == "web");
        assert!(!tunnels.is_empty(), "{words}");
        interrupt(&mut process).await;
        assert!(!ground.path("echo.sock").exists());
    }
}

#[tokio::test]
async fn the_file_is_in_the_configuration_folder_or_on_stdin() {
    let ground = Ground::new();
    fs::create_dir_all(ground.path(".config/kpf")).unwrap();
    ground.file(".config/kpf/forwards.yaml", FILE);
    fs::create_dir_all(ground.path("xdg/kpf")).unwrap();
    ground.file("xdg/kpf/forwards.yaml", &FILE.replace("\":7\"", "\":13\""));
    for (variable, value, remote) in [
        ("HOME", ground.path(""), "7"),
        ("XDG_CONFIG_HOME", ground.path("xdg"), "13"),
    ] {
        let mut command = ground.kpf("@echo");
        command.env(variable, value);
        let (mut process, said) = start(command, 2).await;
        assert!(said[0].ends_with(&format!(" -> {remote}")), "{said:?}");
        interrupt(&mut process).await;
    }
    let said = ground.refused("@echo").await;
    let missing = "error: cannot read the forwards file `";
    assert!(
        said.starts_with(missing) && said.contains("/.config/kpf/forwards.yaml`: No such file"),
        "{said}"
    );

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let file = format!("version: 1\nforwards:\n  a: {{target: echo, ports: [\"{port}:7\"]}}\n");
    let ended = feed(ground.kpf("forward -f -"), file.as_bytes()).await;
    assert!(
        ended.code == 1 && ended.stderr.contains("in use"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_bad_file_begins_nothing() {
    let ground = Ground::new();
    let file = |name: &str, content: &str| ground.file(name, content);
    let good = file("good", FILE);
    let bad = [
        (
            "version",
            FILE.replace("version: 1", "version: 2"),
            "line 2, column 10: version: 2 is unknown",
        ),
        (
            "hook",
            FILE.replace("target: db-0", "target: db-0\n    exec: rm"),
            "line 16, column 5: forwards.db: unknown field `exec`",
        ),
        (
            "port",
            FILE.replace("\":80\"", "8080:80:90"),
            "line 16, column 13: forwards.db.ports[0]: invalid port format '8080:80:90'",
        ),
        (
            "name",
            FILE.replace("[both, db]", "[both, bd]"),
            "line 18, column 15: `bd` is no forward and no group: did you mean `db`?",
        ),
        (
            "cycle",
            FILE.replace("[echo, web]", "[echo, all]"),
            "line 19, column 16: the group `all` holds itself: all > both > all",
        ),
        ("yaml", FILE.replace("groups:", "groups"), ", column "),
    ];
    for (name, content, part) in &bad {
        let path = file(name, content);
        // whatever is asked for: a file is right or wrong
        for words in [
            format!("forward -f {path}"),
            format!("pod/echo unix:x.sock:7 @echo -f {path}"),
        ] {
            let said = ground.refused(&words).await;
            let begin = format!("error: forwards file `{path}`, line ");
            assert!(
                said.starts_with(&begin) && said.contains(part),
                "{name}: {said}"
            );
        }
    }
    for (words, parts) in [
        (
            format!("@ehco -f {good}"),
            &[
                "`@ehco` is no forward and no group",
                "did you mean `@echo`?",
            ][..],
        ),
        (
            format!("pod/echo unix:x.sock:7 @Echo -f {good}"),
            &["did you mean `@echo`?"],
        ),
        (
            format!("@web -f {good} --context playground"),
            &["names the context `team-b` but --context says `playground`"],
        ),
        (
            format!("@db -f {good} -n default"),
            &["names the namespace `team-b` but -n says `default`"],
        ),
        (
            format!("forward -f {}", ground.path("").display()),
            &["cannot read the forwards file", "directory"],
        ),
        (
            format!("forward -f {}", ground.path("none").display()),
            &["cannot read the forwards file", "No such file"],
        ),
    ] {
        let said = ground.refused(&words).await;
        assert!(
            parts.iter().all(|part| said.contains(part)),
            "{words}: {said}"
        );
    }
    let sockets = ["x.sock", "echo.sock"].map(|name| ground.path(name).exists());
    assert_eq!(sockets, [false; 2]);
}

#[tokio::test]
async fn two_that_want_the_same_are_both_named_and_nothing_is_bound() {
    let ground = Ground::new();
    let port = free_port();
    ground.env.playground.apply(service(
        "default",
        "named",
        Some("echo"),
        json!([{ "name": "plain", "port": port, "targetPort": 7 }]),
    ));
    // somebody who would notice that it was bound
    let file = ground.file(
        "f.yaml",
        &format!("version: 1\nforwards:\n  a: {{target: echo, ports: [\"{port}:13\"]}}\n"),
    );
    for (words, says) in [
        (
            format!("pod/echo unix:x.sock:7 {port}:7 team-b/pod/echo {port}:7"),
            format!(
                "`{port}:7` of pod/echo and `{port}:7` of team-b/pod/echo both listen on 127.0.0.1:{port}"
            ),
        ),
        (
            format!("pod/echo {port}:7 127.0.0.1:{port}:13"),
            format!("`127.0.0.1:{port}:13` of pod/echo both listen on 127.0.0.1:{port}"),
        ),
        (
            format!("pod/echo 0.0.0.0:{port}:7 @a -f {file}"),
            format!("`{port}:13` of @a both listen on 127.0.0.1:{port}"),
        ),
        (
            "pod/echo unix:x.sock:7 unix:./x.sock:13".to_owned(),
            format!("both listen on unix:{}", ground.path("x.sock").display()),
        ),
        (
            // one that only the service can tell
            format!("pod/echo {port}:7 svc/named plain"),
            format!(
                "`{port}:7` of pod/echo and `plain` of service/named both listen on 127.0.0.1:{port}"
            ),
        ),
    ] {
        let said = ground.refused(&words).await;
        assert!(
            said.contains(&says) && said.contains(": give one of them another local "),
            "{words}: {said}"
        );
        assert!(!ground.path("x.sock").exists(), "{words}");
    }
}

#[tokio::test]
async fn a_socket_is_its_owners_and_lives_as_long_as_kpf() {
    let ground = Ground::new();
    let path = ground.path("x.sock");
    // a program that was killed has left one
    drop(UnixListener::bind(&path).unwrap());
    for (signal, code) in [(Signal::INT, 0), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let words = format!("pod/echo unix:{}:7", path.display());
        let (mut process, said) = start(ground.kpf(&words), 1).await;
        assert_eq!(said, [format!("unix:{} -> 7", path.display())]);
        assert_eq!(mode(&path), 0o600);
        // 4 MB both ways, and one connection that is still open at the end
        let mut stream = UnixStream::connect(&path).await.unwrap();
        let (reader, writer) = stream.split();
        let noise = Noise::new(4 << 20);
        let (sent, heard) =
            in_time(async { tokio::join!(noise.write_to(writer), digest_of(reader, 4 << 20)) })
                .await;
        assert_eq!(sent.unwrap(), heard.unwrap());

        let said = ground.refused(&words).await;
        assert!(
            said.contains("another program listens there") && said.contains("choose another path"),
            "{said}"
        );
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        process.signal(signal);
        assert_eq!(process.end().await.code, code);
        assert!(!path.exists(), "{signal:?}");
    }
}

#[tokio::test]
async fn what_is_not_our_socket_stays() {
    let ground = Ground::new();
    ground.file("precious", "data");
    fs::create_dir(ground.path("folder")).unwrap();
    let long = format!("unix:/{}:7", "x".repeat(107));
    for (words, part) in [
        (
            "pod/echo unix:other.sock:7 unix:precious:7",
            "unix:precious: it exists and is no socket: remove it; choose another path",
        ),
        (
            "pod/echo unix:other.sock:7 unix:folder:7",
            "unix:folder: it exists and is no socket",
        ),
        (
            "pod/echo unix:none/x.sock:7",
            "unable to listen on unix:none/x.sock: No such file or directory",
        ),
        (
            &format!("pod/echo {long}"),
            "has 108 bytes, and 107 are the most",
        ),
    ] {
        let said = ground.refused(words).await;
        assert!(said.contains(part), "{words}: {said}");
        assert!(!ground.path("other.sock").exists(), "{words}");
    }
    assert_eq!(fs::read(ground.path("precious")).unwrap(), b"data");

    // somebody replaces it while we are at work
    let path = ground.path("x.sock");
    let (mut process, _) = start(ground.kpf("pod/echo unix:x.sock:7"), 1).await;
    fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    interrupt(&mut process).await;
    UnixStream::connect(&path).await.unwrap();

    // with --allow-partial the others go on
    let (mut process, said) = start(
        ground.kpf("pod/echo unix:x.sock:7 unix:y.sock:7 --allow-partial"),
        1,
    )
    .await;
    assert_eq!(said, ["unix:y.sock -> 7"]);
    process.signal(Signal::INT);
    let ended = process.end().await;
    assert!(
        ended.code == 0
            && ended
                .stderr
                .starts_with("warning: unable to listen on unix:x.sock"),
        "{ended:?}"
    );
    UnixStream::connect(&path).await.unwrap();
}

/// No other failure of the start leaves a socket either.
#[tokio::test]
async fn a_target_that_is_missing_takes_the_sockets_of_the_others_with_it() {
    let ground = Ground::new();
    let said = ground
        .refused("pod/echo unix:x.sock:7 pod/missing unix:y.sock:http")
        .await;
    assert!(said.contains("\"missing\" not found"), "{said}");
    let left: Vec<_> = fs::read_dir(ground.folder.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// One that fails gets what was sent and an end; with bytes that nobody has read Linux makes it a reset.
#[tokio::test]
async fn a_connection_that_the_pod_refuses_ends() {
    let ground = Ground::new();
    let (mut process, _) = start(ground.kpf("pod/echo unix:x.sock:1006 unix:y.sock:7"), 2).await;
    let mut stream = UnixStream::connect(ground.path("x.sock")).await.unwrap();
    let read = in_time(stream.read(&mut [0])).await;
    assert_eq!(read.unwrap_or(0), 0);
    echo(UnixStream::connect(ground.path("y.sock")).await.unwrap()).await;
    process.signal(Signal::INT);
    let ended = process.end().await;
    assert_eq!(ended.code, 0);
    assert!(
        ended
            .stderr
            .starts_with("error: forwarding unix:x.sock -> 1006: "),
        "{}",
        ended.stderr
    );
}
