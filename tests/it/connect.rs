//! `kpf connect`: what arrives, what a stdin may be, and how it ends.

use std::fs::File;
use std::io::{PipeReader, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags, fcntl_getfl};
use rustix::io::ioctl_fionread;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use crate::playground::faults::{Answer, Request};
use crate::playground::ports::{self, Service};
use crate::playground::{Options, Playground, kubeconfig};
use crate::program::{BULK, Ended, Noise, Process, TestEnv, digest_of, feed, in_time, run, until};

/// The transports, as `--transport` names them.
const TRANSPORTS: [&str; 2] = ["websocket", "spdy"];

/// Where the tests put services of their own.
const LINE: u16 = 2000;
const SEND: u16 = 2001;
const TAKE: u16 = 2002;

const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// Answers one line with the same in capitals, and ends.
fn line() -> Service {
    Service::handler(|tcp| async move {
        let mut tcp = BufReader::new(tcp);
        let mut line = String::new();
        tcp.read_line(&mut line).await?;
        tcp.write_all(line.to_uppercase().as_bytes()).await
    })
}

fn env() -> TestEnv {
    let env = TestEnv::new();
    env.playground.serve("default", "echo", LINE, line());
    env
}

/// What a failed `connect` says: one line on stderr, and nothing on stdout.
#[track_caller]
fn assert_fails(ended: &Ended, code: i32, part: &str, what: &str) {
    let Ended { stdout, stderr, .. } = ended;
    assert_eq!(ended.code, code, "{what}: {stderr}");
    assert_eq!(String::from_utf8_lossy(stdout), "", "{what}");
    assert!(stderr.contains(part), "{what}: no `{part}` in {stderr}");
    let one_line = stderr.ends_with('\n') && stderr.matches('\n').count() == 1;
    assert!(one_line, "{what}: {stderr}");
}

/// The paths that were asked for, with the method.
fn asked(playground: &Playground) -> Vec<String> {
    let line = |request: &Request| format!("{} {}", request.method, request.path());
    playground.requests().iter().map(line).collect()
}

#[tokio::test]
async fn what_is_sent_comes_back() {
    let env = env();
    for transport in TRANSPORTS {
        let mut command = env.kpf(["connect", "echo", "7", "--transport", transport]);
        command.stdin(Stdio::piped());
        let mut process = Process::start(command);
        let mut stdin = process.stdin.take().unwrap();
        for line in ["hello\n", "\0\u{1b}[2Jworld\r\n"] {
            stdin.write_all(line.as_bytes()).await.unwrap();
            assert_eq!(process.line().await, line, "{transport}");
        }
        let opened = env.playground.tunnels().pop().unwrap();
        assert_eq!(opened.transport, transport);
        drop(stdin);
        let ended = process.end().await;
        assert_eq!((ended.code, &ended.stderr[..]), (0, ""), "{transport}");
    }
}

#[tokio::test]
async fn long_transfers_arrive_whole() {
    let env = env();
    let send = |mut tcp| async move { Noise::new(BULK).write_to(&mut tcp).await.map(drop) };
    env.playground
        .serve("default", "echo", SEND, Service::handler(send));
    let take = |mut tcp: tokio::net::TcpStream| async move {
        let digest = digest_of(&mut tcp, BULK).await?;
        tcp.write_all(digest.as_bytes()).await
    };
    env.playground
        .serve("default", "echo", TAKE, Service::handler(take));
    let expected = Noise::new(BULK).digest();
    for transport in TRANSPORTS {
        let connect = |port: u16| {
            let port = port.to_string();
            env.kpf(["connect", "echo", &port, "--transport", transport])
        };
        let mut down = Process::start(connect(SEND));
        let stdout = down.stdout.take().unwrap();
        let heard = in_time(digest_of(stdout, usize::MAX)).await.unwrap();
        assert_eq!(heard, expected, "down by {transport}");
        assert_eq!(down.code().await, 0);

        let mut up = connect(TAKE);
        let mut up = Process::start({
            up.stdin(Stdio::piped());
            up
        });
        let stdin = up.stdin.take().unwrap();
        let sent = in_time(Noise::new(BULK).write_to(stdin)).await.unwrap();
        let ended = up.end().await;
        assert_eq!(sent, expected);
        assert_eq!(
            String::from_utf8_lossy(&ended.stdout),
            expected,
            "up by {transport}: {}",
            ended.stderr
        );
        assert_eq!(ended.code, 0);
    }
}

#[tokio::test]
async fn every_form_of_a_target_leads_to_its_pod() {
    const WEB: [&str; 2] = ["web-5d8f7c9b64-2xkqp", "web-5d8f7c9b64-t7m4w"];
    let env = env();
    // so that the end of each page need not be waited for
    env.playground
        .behave(|behaviour| behaviour.grace = Duration::from_millis(10));
    // the words, the pods that are right, their namespace, and how many requests it may take
    for (words, pods, namespace, requests) in [
        ("web 80", &["web"][..], "default", 1),
        ("pod/web 80", &["web"], "default", 1),
        ("po/web 8080", &["web"], "default", 1),
        ("team-b/web 80", &["web"], "team-b", 1),
        ("team-b/pods/web 80", &["web"], "team-b", 1),
        ("web 80 -n team-b", &["web"], "team-b", 1),
        ("-n team-b team-b/web 80", &["web"], "team-b", 1),
        ("web 80 --context team-b", &["web"], "team-b", 1),
        ("web.team-b.kpf 80", &["web"], "team-b", 1),
        ("web.default.team-b.kpf 80", &["web"], "default", 1),
        ("web.default.Team-B.kpf 80", &["web"], "default", 1),
        ("web http", &["web"], "default", 2),
        ("many metrics", &["many"], "default", 2),
        ("svc/web http", &["web"], "default", 3),
        ("services/web 80", &["web"], "default", 3),
        ("svc/web 81", &["web"], "default", 3),
        ("svc/headless http", &["web"], "default", 3),
        ("svc_web.team-b.kpf 8080", &["web"], "team-b", 3),
        ("deploy/web 80", &WEB, "default", 3),
        ("deployments.apps/web 80", &WEB, "default", 3),
        ("deploy_web.team-b.playground.kpf 80", &WEB, "team-b", 3),
        ("rs/web 80", &WEB, "default", 3),
        ("sts/db 80", &["db-0", "db-1"], "default", 3),
        ("ds/agent 80", &["agent-9hq7z"], "default", 3),
        ("team-b/job/task 80", &["task-lw8vd"], "team-b", 3),
        ("rc/old 80", &["old-c4v2n"], "default", 3),
    ] {
        let before = env.playground.requests().len();
        let words = ["connect"].into_iter().chain(words.split(' '));
        let words: Vec<_> = words.collect();
        let ended = feed(env.kpf(&words), REQUEST).await;
        let what = words.join(" ");
        assert_eq!((ended.code, &ended.stderr[..]), (0, ""), "{what}");
        let page = String::from_utf8(ended.stdout).unwrap();
        let path = asked(&env.playground).pop().unwrap();
        let right = pods.iter().any(|pod| {
            page.contains(&format!("<b>{pod}</b>"))
                && path.contains(&format!("/namespaces/{namespace}/pods/{pod}/portforward"))
        });
        assert!(right, "{what}: {path} {page}");
        let made = asked(&env.playground).split_off(before);
        assert_eq!(made.len(), requests, "{what}: {made:?}");
    }
}

#[tokio::test]
async fn a_pod_and_a_number_cost_one_request() {
    let env = env();
    for target in ["default/echo", "echo.default.kpf"] {
        let before = asked(&env.playground).len();
        let connections = env.playground.connections_accepted();
        let ended = run(env.kpf(["connect", target, "13"])).await;
        assert_eq!(
            ended.stdout, b"2026-01-02T03:04:05Z\r\n",
            "{}",
            ended.stderr
        );
        assert_eq!(
            asked(&env.playground)[before..],
            ["GET /api/v1/namespaces/default/pods/echo/portforward"]
        );
        assert_eq!(env.playground.connections_accepted(), connections + 1);
    }
}

/// The flags of an open file, which all who have it share.
fn blocks(fd: impl AsFd) -> bool {
    !fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
}

#[tokio::test]
async fn stdin_may_be_a_file() {
    let env = env();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"from a file\n").unwrap();
    file.rewind().unwrap();
    let port = LINE.to_string();
    let mut command = env.kpf(["connect", "echo", &port]);
    command.stdin(file.try_clone().unwrap());
    let ended = run(command).await;
    assert_eq!(ended.stdout, b"FROM A FILE\n", "{}", ended.stderr);
    assert_eq!(ended.code, 0);
    assert!(blocks(&file));
}

#[tokio::test]
async fn stdout_may_be_a_file() {
    let env = env();
    let mut file = tempfile::tempfile().unwrap();
    let mut command = env.kpf(["connect", "echo", "13"]);
    command.stdout(file.try_clone().unwrap());
    assert_eq!(run(command).await.code, 0);
    file.rewind().unwrap();
    let mut written = String::new();
    file.read_to_string(&mut written).unwrap();
    assert_eq!(written, "2026-01-02T03:04:05Z\r\n");
}

#[tokio::test]
async fn stdin_and_stdout_may_be_dev_null() {
    let env = env();
    let ended = run(env.kpf(["connect", "echo", "13"])).await;
    assert_eq!(ended.stdout, b"2026-01-02T03:04:05Z\r\n");
    let mut command = env.kpf(["connect", "echo", "13"]);
    command.stdout(Stdio::null());
    let ended = run(command).await;
    assert_eq!((ended.code, &ended.stderr[..]), (0, ""));
}

#[tokio::test]
async fn stdin_and_stdout_may_be_one_socket() {
    let env = env();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let port = LINE.to_string();
    let mut command = env.kpf(["connect", "echo", &port]);
    command
        .stdin(OwnedFd::from(theirs.try_clone().unwrap()))
        .stdout(OwnedFd::from(theirs.try_clone().unwrap()));
    let mut process = Process::start(command);
    ours.write_all(b"over a socket\n").unwrap();
    assert_eq!(process.code().await, 0);
    assert!(blocks(&theirs));
    drop(theirs);
    let mut answer = String::new();
    ours.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "OVER A SOCKET\n");
}

#[tokio::test]
async fn a_shared_pipe_stays_as_it_is() {
    let env = env();
    let (ours, mut writer) = std::io::pipe().unwrap();
    let (mut reader, theirs) = std::io::pipe().unwrap();
    let port = LINE.to_string();
    let mut command = env.kpf(["connect", "echo", &port]);
    command
        .stdin(ours.try_clone().unwrap())
        .stdout(theirs.try_clone().unwrap());
    let mut process = Process::start(command);
    writer.write_all(b"over a pipe\n").unwrap();
    until("an answer", || ioctl_fionread(&reader).unwrap() == 12).await;
    let mut answer = [0; 12];
    reader.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"OVER A PIPE\n");
    assert!(blocks(&ours) && blocks(&theirs), "others have it too");
    assert_eq!(process.code().await, 0);
    assert!(blocks(&ours) && blocks(&theirs));
}

/// A terminal: the side of whoever types, and the programs' side.
fn terminal() -> (File, File) {
    let typist = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&typist).unwrap();
    unlockpt(&typist).unwrap();
    let name = ptsname(&typist, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let programs = rustix::fs::open(name, flags, Mode::empty()).unwrap();
    (typist.into(), programs.into())
}

#[tokio::test]
async fn a_terminal_stays_as_it_is() {
    let env = env();
    for (port, killed) in [(LINE, false), (ports::ECHO, true)] {
        let (mut typist, programs) = terminal();
        let mut command = env.kpf(["connect", "echo", &port.to_string()]);
        command
            .stdin(programs.try_clone().unwrap())
            .stdout(programs.try_clone().unwrap());
        let mut process = Process::start(command);
        typist.write_all(b"Typed\n").unwrap();
        // the terminal's own echo comes first
        let length = "Typed\r\nTyped\r\n".len();
        until("an answer", || {
            ioctl_fionread(&typist).unwrap() == length as u64
        })
        .await;
        assert!(blocks(&programs), "a shell may be reading it");
        let mut shown = vec![0; length];
        typist.read_exact(&mut shown).unwrap();
        if killed {
            assert_eq!(shown, b"Typed\r\nTyped\r\n");
            process.signal(Signal::KILL);
            assert_eq!(process.code().await, 128 + 9);
        } else {
            assert_eq!(shown, b"Typed\r\nTYPED\r\n");
            assert_eq!(process.code().await, 0);
        }
        assert!(blocks(&programs), "killed: {killed}");
    }
}

#[tokio::test]
async fn it_ends_when_nobody_reads_stdout() {
    let env = env();
    // while the pod sends, and while it is silent
    for port in ["19", "7"] {
        let opened = env.playground.tunnels_opened();
        let mut command = env.kpf(["connect", "echo", port]);
        command.stdin(Stdio::piped());
        let mut process = Process::start(command);
        until("the tunnel is up", || {
            env.playground.tunnels_opened() == opened + 1
        })
        .await;
        drop(process.stdout.take());
        let ended = process.end().await;
        assert_eq!((ended.code, &ended.stderr[..]), (141, ""), "{port}");
        process.nobody_left().await;
    }
}

#[tokio::test]
async fn it_ends_when_the_pod_has_ended() {
    let env = env();
    let mut command = env.kpf(["connect", "echo", "13"]);
    command.stdin(Stdio::piped());
    // stdin is open all the while
    let ended = Process::start(command).end().await;
    assert_eq!(ended.stdout, b"2026-01-02T03:04:05Z\r\n");
    assert_eq!((ended.code, &ended.stderr[..]), (0, ""));
}

#[tokio::test]
async fn the_answer_to_an_end_comes_where_the_runtime_lets_it() {
    let env = TestEnv::with(Options {
        half_close: true,
        ..Options::default()
    });
    let port = ports::COUNT.to_string();
    for transport in TRANSPORTS {
        let command = env.kpf(["connect", "echo", &port, "--transport", transport]);
        let ended = feed(command, &[7; 100_000]).await;
        assert_eq!(ended.stdout, b"100000\n", "{transport}: {}", ended.stderr);
        assert_eq!((ended.code, &ended.stderr[..]), (0, ""), "{transport}");
    }
}

#[tokio::test]
async fn the_end_of_stdin_cuts_nothing_off() {
    let env = env();
    let began = Instant::now();
    let mut process = Process::start(env.kpf(["connect", "echo", "19"]));
    // had the pod been told of the end, its node would have cut this after one second
    let mut stdout = process.stdout.take().unwrap();
    let lines = ports::lines();
    let mut heard = vec![0; lines.len()];
    while began.elapsed() < Duration::from_millis(2500) {
        in_time(stdout.read_exact(&mut heard)).await.unwrap();
        assert!(heard == lines);
    }
}

#[tokio::test]
async fn every_failure_has_its_code_and_leaves_stdin_alone() {
    let env = env();
    let free = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("https://{}", listener.local_addr().unwrap())
    };
    let contexts = ["viewer", "wrong"].map(kubeconfig::context);
    for (words, code, part) in [
        (&["web"][..], 1, "<PORT>"),
        (&["web", "65536"], 1, "65536"),
        (&["a//b", "22"], 1, "`a//b` lacks a type"),
        (
            &["web", "nothing"],
            1,
            "does not have a named port 'nothing'",
        ),
        (&["svc/web", "99"], 1, "does not have a service port 99"),
        (
            &["web", "80", "--context", "nothing"],
            1,
            "context \"nothing\" does not exist",
        ),
        (&["web", "80", "--server", &free], 69, "refused"),
        (&["svc/web", "80", "--server", &free], 69, "refused"),
        (
            &["web", "80", "--server", "https://kpf.invalid"],
            69,
            "kpf.invalid",
        ),
        (
            &["web", "80", "--context", &contexts[0]],
            77,
            "pods/portforward",
        ),
        (
            &["web", "80", "--context", &contexts[1]],
            77,
            "You must be logged in",
        ),
        (
            &["svc/web", "80", "--context", &contexts[1]],
            77,
            "You must be logged in",
        ),
        (&["nothing", "80"], 68, "pods \"nothing\" not found"),
        (&["svc/nothing", "80"], 68, "services \"nothing\" not found"),
        (&["pending", "80"], 68, "pending"),
        (&["done", "80"], 68, "not found"),
        (&["svc/external", "80"], 68, "selector"),
        (
            &["deploy/empty", "80", "--pod-running-timeout", "1s"],
            68,
            "deployment/empty",
        ),
    ] {
        let what = words.join(" ");
        let (kept, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"not for a dial that fails").unwrap();
        drop(writer);
        let mut command = env.kpf(["connect"].iter().chain(words));
        command.stdin(kept.try_clone().unwrap());
        let ended = run(command).await;
        assert_fails(&ended, code, part, &what);
        assert_eq!(rest(kept), "not for a dial that fails", "{what}");
    }
}

fn rest(mut pipe: PipeReader) -> String {
    let mut text = String::new();
    pipe.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn a_stream_that_fails_has_its_code() {
    let env = env();
    for transport in TRANSPORTS {
        let connect = |port: u16| {
            let port = port.to_string();
            env.kpf(["connect", "echo", &port, "--transport", transport])
        };
        let ended = run(connect(ports::REFUSED)).await;
        assert_fails(&ended, 111, "connection refused", transport);
        let ended = run(connect(ports::RESET)).await;
        assert_fails(&ended, 74, "reset", transport);
        let gone = "failed to find sandbox \"x\" in store: not found".to_owned();
        env.playground
            .behave(|behaviour| behaviour.fail_before_dial = Some(gone));
        let ended = run(connect(ports::ECHO)).await;
        assert_fails(&ended, 68, "failed to find sandbox", transport);
        env.playground
            .behave(|behaviour| behaviour.fail_before_dial = None);
    }
}

#[tokio::test]
async fn a_tunnel_that_is_lost_is_no_clean_end() {
    let env = env();
    for transport in TRANSPORTS {
        for how in ["cut", "close", "connections"] {
            let mut command = env.kpf(["connect", "echo", "7", "--transport", transport]);
            command.stdin(Stdio::piped());
            let mut process = Process::start(command);
            let mut stdin = process.stdin.take().unwrap();
            stdin.write_all(b"before\n").await.unwrap();
            assert_eq!(process.line().await, "before\n");
            match how {
                "cut" => env.playground.tunnels().pop().unwrap().cut(),
                "close" => env.playground.tunnels().pop().unwrap().close(),
                _ => env.playground.cut_all(),
            }
            let ended = process.end().await;
            assert_fails(
                &ended,
                74,
                "lost connection to pod",
                &format!("{transport} {how}"),
            );
        }
    }
}

#[tokio::test]
async fn what_a_server_says_is_escaped() {
    let env = env();
    let evil = Answer::Text {
        code: hyper::StatusCode::INTERNAL_SERVER_ERROR,
        headers: Vec::new(),
        body: format!("\u{1b}]0;owned\u{7}\nsecond line {}", "x".repeat(1 << 20)),
    };
    env.playground.answer(Request::is_upgrade, usize::MAX, evil);
    let ended = run(env.kpf(["connect", "echo", "7"])).await;
    assert_fails(&ended, 1, "owned", "a hostile server");
    assert!(!ended.stderr.contains('\u{1b}') && !ended.stderr.contains('\u{7}'));
    assert!(ended.stderr.len() < 8192, "{}", ended.stderr.len());
}

#[tokio::test]
async fn nonsense_on_the_tunnel_is_a_loss() {
    let env = env();
    let nonsense = Answer::Early(Bytes::from_static(b"\x80\x03\x00\x01\xff\xff\xff\xff"));
    env.playground.answer_next(Request::is_upgrade, nonsense);
    let ended = run(env.kpf(["connect", "echo", "7"])).await;
    assert_fails(&ended, 74, "", "nonsense");
}

/// A plugin that takes all the stdin it can get before it does its work.
fn greedy(folder: &Path) -> Vec<String> {
    let credential = kubeconfig::exec_credential("TOKEN");
    let script = format!(
        "cat > '{}'; printf '%s' '{}'",
        folder.join("stolen").display(),
        credential.replace("TOKEN", "'\"$KPF_PLAYGROUND_TOKEN\"'"),
    );
    ["/bin/sh", "-c", &script].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn a_credential_plugin_never_gets_stdin() {
    let folder = tempfile::tempdir().unwrap();
    let env = TestEnv::with(Options {
        plugin: greedy(folder.path()),
        user: "plugin".to_owned(),
        ..Options::default()
    });
    env.playground.serve("default", "echo", LINE, line());
    let port = LINE.to_string();
    let connect = || env.kpf(["connect", "echo", &port]);
    let ended = feed(connect(), b"for the pod\n").await;
    assert_eq!(ended.stdout, b"FOR THE POD\n", "{}", ended.stderr);
    let stolen = || std::fs::read_to_string(folder.path().join("stolen")).unwrap();
    assert_eq!(stolen(), "");

    // not even where it is a terminal
    let (mut typist, programs) = terminal();
    typist.write_all(b"for the pod\n").unwrap();
    let mut command: Command = connect();
    command.stdin(programs.try_clone().unwrap());
    let ended = run(command).await;
    assert_eq!(ended.stdout, b"FOR THE POD\n", "{}", ended.stderr);
    assert_eq!(stolen(), "");
}
