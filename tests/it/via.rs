//! `--via`: pod streams that a program in the container makes, with every program that kpf knows.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::process::Command;

use crate::forward::Forward;
use crate::playground::kubeconfig;
use crate::playground::ports;
use crate::program::{
    Ended, Noise, Process, TestEnv, digest_of, digest_of_file, feed, in_time, run,
};
use crate::tools;

const TRANSPORTS: [&str; 2] = ["websocket", "spdy"];

/// The programs, as kpf calls them, the words that run them here, and what else they need.
const PROGRAMS: [(&str, &[&str]); 8] = [
    ("socat", &["socat"]),
    ("nc-busybox", &["busybox", "nc"]),
    ("python3", &["python3"]),
    ("perl", &["perl"]),
    ("php", &["php"]),
    ("node", &["node"]),
    ("bash", &["bash"]),
    ("nc-openbsd", &["nc.openbsd"]),
];

/// Bytes of a transfer: many times what any buffer on the way holds.
const LONG: usize = 8 << 20;

/// A playground whose containers have a shell, cat, and of the programs only these.
struct Containers {
    env: TestEnv,
    programs: TempDir,
}

impl Containers {
    fn with(programs: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        for program in programs {
            let (_, words) = PROGRAMS.iter().find(|(name, _)| name == program).unwrap();
            let mut words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            words[0] = real(tools::find(&words[0])?);
            let name = program.split('-').next().unwrap();
            script(&folder.path().join(name), &words.join(" "));
        }
        for tool in ["sh", "cat"] {
            let found = tools::find(tool)?;
            script(&folder.path().join(tool), &found.display().to_string());
        }
        let env = TestEnv::new();
        let path = folder.path().to_owned();
        env.playground
            .behave(|behaviour| behaviour.exec.programs = Some(path));
        Some(Self {
            env,
            programs: folder,
        })
    }

    fn connect(&self, transport: &str, port: u16) -> Command {
        let port = port.to_string();
        let words = ["connect", "--via", "exec", "--transport", transport, "echo"];
        let mut command = self.env.kpf(words);
        command.arg(port);
        command
    }

    /// The port of this machine where a port of the pod is: its containers have the machine's network.
    async fn port(&self, port: u16) -> u16 {
        let sandbox = self.env.playground.sandbox("default", "echo");
        sandbox.address(port).await.unwrap().port()
    }
}

/// The program itself where what is on PATH is a wrapper that needs more of a machine than a container has.
fn real(program: PathBuf) -> String {
    let system = Path::new("/usr/bin").join(program.file_name().unwrap());
    let program = if system.exists() { system } else { program };
    if program.ends_with("python3") {
        let asked = std::process::Command::new(&program)
            .args(["-c", "import sys; print(sys.executable)"])
            .output()
            .unwrap();
        return String::from_utf8(asked.stdout).unwrap().trim().to_owned();
    }
    program.display().to_string()
}

fn script(path: &Path, words: &str) {
    fs::write(path, format!("#!/bin/sh\nexec {words} \"$@\"\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Counts to the end of what it gets, then answers with the digest.
async fn digest_at_end(mut tcp: TcpStream) -> io::Result<()> {
    let digest = digest_of(&mut tcp, usize::MAX).await?;
    tcp.write_all(digest.as_bytes()).await
}

async fn serve<F, R>(serve: F) -> u16
where
    F: Fn(TcpStream) -> R + Send + 'static,
    R: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(tcp));
        }
    });
    port
}

#[track_caller]
fn assert_clean(ended: &Ended, what: &str) {
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{what}");
}

/// All bytes arrive, both ways at once, and the pod's answer to the end of stdin too.
#[tokio::test]
async fn every_program_carries_bytes_and_ends() {
    let echo = serve(|mut tcp| async move {
        let (mut reader, mut writer) = tcp.split();
        tokio::io::copy(&mut reader, &mut writer).await?;
        writer.shutdown().await
    })
    .await;
    for (program, _) in PROGRAMS {
        let Some(containers) = Containers::with(&[program]) else {
            return;
        };
        for transport in TRANSPORTS {
            let what = format!("{program} {transport}");
            let mut command = containers.connect(transport, echo);
            command.stdin(Stdio::piped());
            let mut process = Process::start(command);
            let mut stdin = process.stdin.take().unwrap();
            let stdout = process.stdout.take().unwrap();
            // bash tells the pod of the end only where it has been silent, like a runtime's port-forward
            let (sent, heard) = tokio::join!(
                in_time(async {
                    let sent = Noise::new(LONG).write_to(&mut stdin).await.unwrap();
                    drop(stdin);
                    sent
                }),
                in_time(digest_of(stdout, usize::MAX)),
            );
            assert_eq!(heard.unwrap(), sent, "{what}");
            assert_clean(&process.end().await, &what);
        }
    }
}

/// An answer that comes only after the end of stdin, which no port-forward can carry.
#[tokio::test]
async fn the_end_of_stdin_reaches_the_pod() {
    let port = serve(digest_at_end).await;
    let folder = tempfile::tempdir().unwrap();
    let digest = Noise::new(LONG).save(&folder.path().join("bytes"));
    assert_eq!(digest, digest_of_file(&folder.path().join("bytes")));
    for (program, _) in PROGRAMS.iter().filter(|(name, _)| *name != "bash") {
        let Some(containers) = Containers::with(&[program]) else {
            return;
        };
        for transport in TRANSPORTS {
            let mut command = containers.connect(transport, port);
            command.stdin(fs::File::open(folder.path().join("bytes")).unwrap());
            let ended = run(command).await;
            let what = format!("{program} {transport}");
            assert_eq!(String::from_utf8_lossy(&ended.stdout), digest, "{what}");
            assert_clean(&ended, &what);
        }
    }
}

/// The pod ends while stdin stays open: that ends it, all bytes arrive, and no upload that goes on is cut off.
#[tokio::test]
async fn the_pods_end_reaches_stdout() {
    let ends = serve(|mut tcp| async move { tcp.write_all(b"bye\n").await }).await;
    let (got, mut gets) = tokio::sync::mpsc::unbounded_channel();
    let half = serve(move |mut tcp| {
        let got = got.clone();
        async move {
            tcp.write_all(b"bye\n").await?;
            tcp.shutdown().await?;
            let digest = digest_of(&mut tcp, usize::MAX).await?;
            got.send(digest).map_err(io::Error::other)
        }
    })
    .await;
    for (program, _) in PROGRAMS.iter().filter(|(name, _)| *name != "nc-openbsd") {
        let Some(containers) = Containers::with(&[program]) else {
            return;
        };
        for transport in TRANSPORTS {
            let what = format!("{program} {transport}");
            let mut command = containers.connect(transport, ends);
            command.stdin(Stdio::piped());
            let mut process = Process::start(command);
            let _stdin = process.stdin.take();
            let ended = process.end().await;
            assert_eq!(ended.stdout, b"bye\n", "{what}");
            assert_clean(&ended, &what);
            if ["nc-busybox", "bash"].contains(program) {
                continue; // these end with the pod
            }
            let mut command = containers.connect(transport, half);
            command.stdin(Stdio::piped());
            let mut process = Process::start(command);
            assert_eq!(process.line().await, "bye\n", "{what}");
            let mut stdin = process.stdin.take().unwrap();
            let sent = in_time(Noise::new(LONG).write_to(&mut stdin))
                .await
                .unwrap();
            drop(stdin);
            assert_eq!(in_time(gets.recv()).await.unwrap(), sent, "{what}");
            assert_clean(&process.end().await, &what);
        }
    }
}

#[tokio::test]
async fn what_goes_wrong_is_told() {
    let resets = serve(|mut tcp| async move {
        tcp.write_all(b"partly\n").await?;
        tcp.read_u8().await?;
        ports::reset(&tcp)
    })
    .await;
    for (program, _) in PROGRAMS {
        let Some(containers) = Containers::with(&[program]) else {
            return;
        };
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = free.local_addr().unwrap().port();
        drop(free);
        for transport in TRANSPORTS {
            let what = format!("{program} {transport}");
            let ended = run(containers.connect(transport, closed)).await;
            assert_eq!(ended.code, 111, "{what}: {}", ended.stderr);
            assert_eq!(ended.stderr.matches('\n').count(), 1, "{}", ended.stderr);
            assert!(
                ended.stderr.to_lowercase().contains("connection refused"),
                "{what}: {}",
                ended.stderr
            );
            let mut command = containers.connect(transport, resets);
            command.stdin(Stdio::piped());
            let mut process = Process::start(command);
            // a reset takes with it what has not been read yet
            assert_eq!(process.line().await, "partly\n", "{what}");
            let mut stdin = process.stdin.take().unwrap();
            stdin.write_all(b"x").await.unwrap();
            let ended = process.end().await;
            // nc takes a reset for an end
            if !program.starts_with("nc-") {
                assert_eq!(ended.code, 74, "{what}: {}", ended.stderr);
            }
        }
    }
}

#[tokio::test]
async fn the_best_program_is_taken() {
    let Some(containers) = Containers::with(&["socat", "python3", "perl", "nc-openbsd"]) else {
        return;
    };
    let port = containers.port(ports::DAYTIME).await;
    for (gone, expected) in [
        ("", "socat"),
        ("socat", "python3"),
        ("python3", "perl"),
        ("perl", "nc"),
    ] {
        if !gone.is_empty() {
            fs::remove_file(containers.programs.path().join(gone)).unwrap();
        }
        let ended = run(containers.connect("spdy", port)).await;
        assert_eq!(ended.stdout, b"2026-01-02T03:04:05Z\r\n", "{expected}");
        let requests = containers.env.playground.requests();
        let command = requests.last().unwrap().uri.to_string();
        let word = match expected {
            "socat" => "socat".to_owned(),
            program => format!("&command={program}&"),
        };
        assert!(command.contains(&word), "{command}");
    }
    fs::remove_file(containers.programs.path().join("nc")).unwrap();
    let ended = run(containers.connect("spdy", port)).await;
    assert_eq!(ended.code, 1);
    assert_eq!(
        ended.stderr,
        "error: no program in container main can connect: kpf knows socat, nc, bash, python3, perl, php and node; \
         name another one with --via-command, or another container with -c\n"
    );
    fs::remove_file(containers.programs.path().join("sh")).unwrap();
    let ended = run(containers.connect("spdy", port)).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("there must be a shell") && ended.stderr.matches('\n').count() == 1,
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn other_hosts_and_sockets_are_reached() {
    let folder = tempfile::tempdir().unwrap();
    // every character that socat's own syntax, or a shell, would stumble over
    let path = folder.path().join("a,b:c!d\\e'f\"g$(h) [i]");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut unix, _)) = listener.accept().await {
            let (mut reader, mut writer) = unix.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        }
    });
    let remote = format!("unix:{}", path.display());
    let v6 = TcpListener::bind("[::1]:0").await.unwrap();
    let v6_port = v6.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = v6.accept().await {
            let (mut reader, mut writer) = tcp.split();
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        }
    });
    for (program, _) in PROGRAMS {
        let Some(containers) = Containers::with(&[program]) else {
            return;
        };
        let own = v6_port.to_string();
        let host = format!("localhost:{}", containers.port(ports::ECHO).await);
        let other = format!("[::1]:{v6_port}");
        // without --via: what isn't the pod's own needs exec. A port that only IPv6 has is found, too.
        for words in [
            &["connect", "echo", &remote][..],
            &["connect", "echo", &host],
            &["connect", "echo", &other],
            &["connect", "--via=exec", "echo", &own],
        ] {
            if words.contains(&&*remote) && ["nc-busybox", "bash"].contains(&program) {
                continue;
            }
            let what = format!("{program} {words:?}");
            let ended = feed(containers.env.kpf(words), b"hello\n").await;
            assert_eq!(ended.stdout, b"hello\n", "{what}: {}", ended.stderr);
            assert_clean(&ended, &what);
        }
        let words = ["connect", "--via", "portforward", "echo", &remote];
        let ended = run(containers.env.kpf(words)).await;
        assert_eq!(ended.code, 1);
        assert!(
            ended.stderr.contains("only ports of the pod itself"),
            "{}",
            ended.stderr
        );
    }
}

fn as_user<'a>(user: &str, words: &[&'a str]) -> Vec<String> {
    let mut all = vec!["--context".to_owned(), kubeconfig::context(user)];
    all.extend(words.iter().map(|word: &&'a str| (*word).to_owned()));
    all
}

/// A role without port-forward, and a node that can't: exec takes its place, and that is said once.
#[tokio::test]
async fn exec_takes_port_forwards_place() {
    let env = TestEnv::new();
    let sandbox = env.playground.sandbox("default", "echo");
    let port = sandbox
        .address(ports::ECHO)
        .await
        .unwrap()
        .port()
        .to_string();
    let told = |stderr: &str, why: &str| {
        assert_eq!(stderr.matches("(--via exec)").count(), 1, "{stderr}");
        assert!(stderr.contains(why), "{stderr}");
        assert_eq!(stderr.matches('\n').count(), 1, "{stderr}");
    };
    let words = as_user("exec-only", &["connect", "echo", &port]);
    let ended = feed(env.kpf(&words), b"hello\n").await;
    assert_eq!(
        (ended.code, &*ended.stdout),
        (0, &b"hello\n"[..]),
        "{}",
        ended.stderr
    );
    told(&ended.stderr, "pods/portforward");

    // what the node says comes after the first bytes were sent
    env.playground.behave(|behaviour| {
        let text = "unable to do port forwarding: socat not found";
        behaviour.fail_before_dial = Some(text.to_owned());
    });
    let ended = feed(env.kpf(["connect", "echo", &port]), b"hello\n").await;
    assert_eq!(
        (ended.code, &*ended.stdout),
        (0, &b"hello\n"[..]),
        "{}",
        ended.stderr
    );
    told(&ended.stderr, "socat not found");
    // unless it was forbidden
    let ended = feed(
        env.kpf(["connect", "--via=portforward", "echo", &port]),
        b"x",
    )
    .await;
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("socat not found"), "{}", ended.stderr);

    for user in ["exec-only", "admin"] {
        let words = as_user(user, &["forward", "echo", &format!(":{port}")]);
        let mut forward = Process::start(env.kpf(&words));
        let line = forward.line().await;
        let (address, _) = line
            .strip_prefix("Forwarding from ")
            .and_then(|line| line.split_once(" -> "))
            .expect("a forward's line");
        for _ in 0..3 {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(b"hello").await.unwrap();
            tcp.shutdown().await.unwrap();
            let mut heard = String::new();
            in_time(tcp.read_to_string(&mut heard)).await.unwrap();
            assert_eq!(heard, "hello", "{user}");
        }
        forward.signal(rustix::process::Signal::INT);
        let ended = forward.end().await;
        assert_eq!(ended.code, 0);
        told(&ended.stderr, "");
    }
}

#[tokio::test]
async fn who_may_do_neither_hears_of_both() {
    let env = TestEnv::new();
    let words = as_user("viewer", &["connect", "echo", "7"]);
    let ended = run(env.kpf(&words)).await;
    assert_eq!(ended.code, 77);
    let Ended { stderr, .. } = ended;
    assert!(
        stderr.contains("pods/portforward") && stderr.contains("pods/exec"),
        "{stderr}"
    );
    assert_eq!(stderr.matches('\n').count(), 1, "{stderr}");
}

#[tokio::test]
async fn a_command_of_ones_own_is_no_script() {
    let env = TestEnv::new();
    let via =
        |command: &str, port: &str| env.kpf(["connect", "--via-command", command, "echo", port]);
    // words, quotes and placeholders; no shell sees any of it
    let printf = "printf '%s|' '{host} {port}' '$HOME;id' a\\ b";
    let ended = run(via(printf, "22")).await;
    assert_eq!(
        ended.stdout, b"127.0.0.1 22|$HOME;id|a b|",
        "{}",
        ended.stderr
    );
    assert_clean(&ended, "printf");
    let ended = feed(via("cat", "unix:/x"), b"hello").await;
    assert_eq!(ended.stdout, b"hello");
    // its stderr and code are shown when it fails
    let ended = run(via("sh -c 'echo no luck >&2; exit 3'", "22")).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("exit code 3: no luck"),
        "{}",
        ended.stderr
    );
    let ended = run(via("no-such-program", "22")).await;
    assert_eq!(ended.code, 1);
    assert!(ended.stderr.contains("no-such-program"), "{}", ended.stderr);
    for (wrong, why) in [
        ("", "there is no command"),
        ("a 'b", "a quote is not closed"),
    ] {
        let ended = run(via(wrong, "22")).await;
        assert_eq!(ended.code, 1);
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
}

/// ssh into a container whose sshd doesn't run: each connection starts one of its own.
#[tokio::test]
async fn ssh_needs_no_running_sshd() {
    let env = TestEnv::new();
    let (Some(ssh), Some(sshd)) = (tools::find("ssh"), env.playground.ssh()) else {
        return tools::skip("there is no OpenSSH");
    };
    let program = tools::find("sshd").unwrap();
    let config = sshd.key.parent().unwrap().join("sshd_config");
    let proxy = format!(
        "{} connect --via-command '{} -i -e -f {}' %h %p",
        env!("CARGO_BIN_EXE_kpf"),
        program.display(),
        config.display()
    );
    let mut command = env.command(ssh);
    command
        .args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=yes",
        ])
        .args(["-o", "HostKeyAlias=sshd.default.kpf"])
        .args([
            OsStr::new("-o"),
            format!("UserKnownHostsFile={}", sshd.known_hosts.display()).as_ref(),
        ])
        .arg("-i")
        .arg(&sshd.key)
        .arg("-o")
        .arg(format!("ProxyCommand={proxy}"))
        .args(["-l", &sshd.user, "echo.default.kpf", "tr a-z A-Z; exit 7"]);
    let ended = feed(command, b"hello\n").await;
    assert_eq!(ended.stdout, b"HELLO\n", "{}", ended.stderr);
    assert_eq!(ended.code, 7);
}

/// Each connection is a command of its own: none feels another.
#[tokio::test]
async fn many_connections_at_once() {
    let Some(containers) = Containers::with(&["socat"]) else {
        return;
    };
    let env = &containers.env;
    let echo = containers.port(ports::ECHO).await;
    let stall = containers.port(ports::STALL).await;
    let mut command = env.kpf(["forward", "--via", "exec", "echo"]);
    command.args([format!(":{echo}"), format!(":{stall}")]);
    command.args(["--address", "127.0.0.1"]);
    let Forward {
        process: mut forward,
        places: locals,
        ..
    } = Forward::start(command, 2).await;
    let mut stalled = TcpStream::connect(&locals[1]).await.unwrap();
    // more than all buffers hold
    let mut sending =
        tokio::spawn(async move { Noise::new(64 << 20).write_to(&mut stalled).await });
    let all = (0..20).map(|_| async {
        let mut tcp = TcpStream::connect(&locals[0]).await.unwrap();
        let (reader, mut writer) = tcp.split();
        let (sent, heard) = tokio::join!(
            async {
                let sent = Noise::new(1 << 20).write_to(&mut writer).await.unwrap();
                writer.shutdown().await.unwrap();
                sent
            },
            digest_of(reader, usize::MAX),
        );
        assert_eq!(heard.unwrap(), sent);
    });
    in_time(futures_util::future::join_all(all)).await;
    assert!(futures_util::poll!(&mut sending).is_pending());
    forward.signal(rustix::process::Signal::INT);
    assert_eq!(forward.end().await.code, 0);
}

/// A download that is broken off, and a forward or a connect that ends while the pod has nothing to say: the pod's end of
/// the connection goes, and with it the command.
#[tokio::test]
async fn no_command_outlives_its_connection() {
    let (gone, mut all_gone) = tokio::sync::mpsc::unbounded_channel();
    let busy = serve({
        let gone = gone.clone();
        move |mut tcp| {
            let gone = gone.clone();
            async move {
                while tcp.write_all(&[b'x'; 4096]).await.is_ok() {}
                gone.send(()).map_err(io::Error::other)
            }
        }
    })
    .await;
    // deaf to the end of its input
    let silent = serve(move |mut tcp| {
        let gone = gone.clone();
        async move {
            tcp.write_all(b"hello\n").await?;
            while tcp.read(&mut [0; 64]).await? > 0 {}
            while tcp.write_all(b"\n").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            gone.send(()).map_err(io::Error::other)
        }
    })
    .await;
    for (program, _) in PROGRAMS {
        let Some(containers) = Containers::with(&[program]) else {
            return;
        };
        let mut command = containers.env.kpf(["forward", "--via", "exec", "echo"]);
        command.args([format!(":{busy}"), format!(":{silent}")]);
        command.args(["--address", "127.0.0.1"]);
        let Forward {
            process: mut forward,
            places: locals,
            ..
        } = Forward::start(command, 2).await;
        let mut cancelled = TcpStream::connect(&locals[0]).await.unwrap();
        let mut some = vec![0; 1 << 20];
        in_time(cancelled.read_exact(&mut some)).await.unwrap();
        drop(cancelled);
        in_time(all_gone.recv()).await.expect(program);

        let mut open = TcpStream::connect(&locals[1]).await.unwrap();
        in_time(open.read_exact(&mut [0; 6])).await.unwrap();
        forward.signal(rustix::process::Signal::INT);
        assert_eq!(forward.end().await.code, 0, "{program}");
        in_time(all_gone.recv()).await.expect(program);

        let mut connect = Process::start(containers.connect("spdy", busy));
        let mut stdout = connect.stdout.take().unwrap();
        in_time(stdout.read_exact(&mut some)).await.unwrap();
        drop(stdout);
        assert_eq!(connect.code().await, 141, "{program}");
        in_time(all_gone.recv()).await.expect(program);
    }
}
