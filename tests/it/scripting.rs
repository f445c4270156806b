//! What scripts have of `forward` and `exec`: events, files, commands and the background.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixDatagram};

use crate::playground::Options;
use crate::program::{Ended, Process, TestEnv, feed, in_time, run, until};

async fn event(process: &mut Process) -> Value {
    let line = process.line().await;
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"))
}

fn home(env: &TestEnv) -> PathBuf {
    let command = env.command("true");
    command.as_std().get_current_dir().unwrap().to_owned()
}

async fn echo(port: u64) {
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap()))
        .await
        .unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    in_time(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"hello");
}

#[tokio::test]
async fn events_are_json_lines_with_versions_and_numbers() {
    let env = TestEnv::new();
    let words = [
        "forward",
        "-o",
        "json",
        "--address",
        "127.0.0.1",
        "svc/echo",
        ":7",
        "pod/web",
        ":9999",
    ];
    let mut forward = Process::start(env.kpf(words));
    let mut events = Vec::new();
    for _ in 0..3 {
        events.push(event(&mut forward).await);
    }
    assert_eq!(events[0]["type"], "listening");
    assert_eq!(events[0]["target"], "service/echo");
    assert_eq!(events[0]["pod"], "echo");
    assert_eq!(events[0]["remote"], "7");
    let port = events[0]["port"].as_u64().unwrap();
    assert_eq!(events[0]["address"], format!("127.0.0.1:{port}"));
    assert_eq!(events[2]["type"], "ready");

    echo(port).await;
    events.push(event(&mut forward).await);
    events.push(event(&mut forward).await);
    assert_eq!(
        (&events[3]["type"], &events[3]["connection"]),
        (&"opened".into(), &0.into())
    );
    assert_eq!(events[3]["local"], port.to_string());
    assert_eq!(
        (&events[4]["type"], &events[4]["pod"]),
        (&"closed".into(), &"echo".into())
    );
    assert_eq!(
        (&events[4]["sent"], &events[4]["received"]),
        (&5.into(), &5.into())
    );
    assert!(events[4]["error"].is_null(), "{}", events[4]);

    // One that fails says why, here and on stderr.
    let refused = events[1]["port"].as_u64().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(refused).unwrap()))
        .await
        .unwrap();
    assert!(in_time(stream.read(&mut [0])).await.is_err());
    events.push(event(&mut forward).await);
    events.push(event(&mut forward).await);
    assert!(
        events[6]["error"].as_str().unwrap().contains("refused"),
        "{}",
        events[6]
    );

    env.playground.replace_pod("default", "echo");
    loop {
        let event = event(&mut forward).await;
        events.push(event.clone());
        assert_eq!(
            (&event["type"], &event["target"]),
            (&"state".into(), &"service/echo".into())
        );
        assert!(event["message"].is_string(), "{event}");
        if event["state"] == "connected" || event["state"] == "moved" {
            break;
        }
    }
    forward.signal(Signal::INT);
    let rest = forward.end().await;
    for line in String::from_utf8(rest.stdout).unwrap().lines() {
        events.push(serde_json::from_str(line).unwrap());
    }
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["code"]), (&"ended".into(), &0.into()));
    for (index, event) in events.iter().enumerate() {
        assert_eq!(
            (&event["version"], &event["seq"]),
            (&1.into(), &index.into()),
            "{event}"
        );
        assert!(event["time"].as_str().unwrap().ends_with('Z'), "{event}");
    }
    assert!(
        rest.stderr.contains("connection refused"),
        "{}",
        rest.stderr
    );

    let ended = run(env.kpf(["forward", "-o", "json", "pod/nothing", "80"])).await;
    let event: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(
        (&event["type"], &event["code"]),
        (&"ended".into(), &1.into())
    );
    assert!(
        event["error"].as_str().unwrap().contains("not found"),
        "{event}"
    );
    assert_eq!((ended.code, ended.stderr.lines().count()), (1, 1));
}

#[tokio::test]
async fn files_and_the_service_manager_are_told() {
    let env = TestEnv::new();
    let (ports, ready) = (home(&env).join("ports"), home(&env).join("ready"));
    fs::write(&ready, "of an earlier run").unwrap();
    let socket = home(&env).join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let words = [
        "forward",
        "-q",
        "--port-file",
        "ports",
        "--ready-file",
        "ready",
        "pod/echo",
        ":7",
        ":9",
        "unix:s:7",
    ];
    let mut command = env.kpf(words);
    command.env("NOTIFY_SOCKET", &socket);
    let mut forward = Process::start(command);
    let mut message = [0; 100];
    let length = in_time(manager.recv(&mut message)).await.unwrap();
    assert_eq!(&message[..length], b"READY=1");

    assert_eq!(
        fs::read_to_string(&ready).unwrap(),
        format!("{}\n", forward.id())
    );
    let lines = fs::read_to_string(&ports).unwrap();
    let lines: Vec<_> = lines.lines().collect();
    assert!(lines.len() == 3 && lines[2] == "unix:s", "{lines:?}");
    echo(lines[0].parse().unwrap()).await;

    forward.signal(Signal::TERM);
    let ended = forward.end().await;
    assert_eq!(
        (ended.code, &ended.stdout[..], &ended.stderr[..]),
        (143, &b""[..], "")
    );
    let length = in_time(manager.recv(&mut message)).await.unwrap();
    assert_eq!(&message[..length], b"STOPPING=1");
    assert!(!ports.exists() && !ready.exists());
}

/// A command with all of its surroundings.
async fn with_command(env: &TestEnv, words: &[&str]) -> Ended {
    let all = [
        "forward",
        "--address",
        "127.0.0.1",
        "pod/echo",
        ":7",
        "pod/web",
        ":http",
        "--",
    ];
    let mut command = env.kpf([&all[..], words].concat());
    command.env("NOTIFY_SOCKET", "/nowhere");
    run(command).await
}

#[tokio::test]
async fn a_command_runs_while_the_forward_lives() {
    let env = TestEnv::new();
    let script = r#"
        exec 3<>/dev/tcp/127.0.0.1/$KPF_PORT_7; echo hello >&3; read -r answer <&3
        [ "$KPF_ADDRESS_7" = "127.0.0.1:$KPF_PORT" ] && [ "$KPF_ADDRESS" = "$KPF_ADDRESS_7" ] && [ -n "$KPF_PORT_HTTP" ] || exit 1
        [ -z "$NOTIFY_SOCKET" ] || exit 2
        echo "$answer"; exit 7"#;
    let ended = with_command(&env, &["bash", "-c", script]).await;
    assert_eq!(ended.code, 7, "{}", ended.stderr);
    assert_eq!(ended.stdout, b"hello\n", "stdout is the command's alone");
    assert_eq!(ended.stderr, "");

    fs::write(home(&env).join("file"), "no program").unwrap();
    fs::set_permissions(home(&env).join("file"), fs::Permissions::from_mode(0o644)).unwrap();
    for (word, code) in [
        ("kpf-there-is-none", 127),
        ("./none", 127),
        ("./file", 126),
        ("/", 126),
    ] {
        let ended = with_command(&env, &[word]).await;
        assert_eq!(ended.code, code, "{word}: {}", ended.stderr);
        assert!(
            ended
                .stderr
                .starts_with(&format!("error: cannot run `{word}`: ")),
            "{}",
            ended.stderr
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    let ended = with_command(&env, &["sh", "-c", "kill -9 $$"]).await;
    assert_eq!(ended.code, 137);
    let ended = with_command(&env, &[]).await;
    assert_eq!(
        (ended.code, &ended.stderr[..]),
        (1, "error: no COMMAND follows `--`\n")
    );
}

#[tokio::test]
async fn signals_are_for_the_command() {
    let env = TestEnv::new();
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::USR1, "USR1"),
    ] {
        let script = format!(
            "trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
        );
        let words = ["forward", "pod/echo", ":7", "--", "sh", "-c", &script];
        let mut forward = Process::start(env.kpf(words));
        assert_eq!(forward.line().await, "ready\n");
        forward.signal(signal);
        let ended = forward.end().await;
        assert_eq!(
            (ended.code, &ended.stdout[..]),
            (9, format!("got {name}\n").as_bytes()),
            "{}",
            ended.stderr
        );
        forward.nobody_left().await;
    }
}

#[tokio::test]
async fn without_its_forward_the_command_ends() {
    let env = TestEnv::new();
    let words = [
        "forward",
        "--no-reconnect",
        "pod/echo",
        ":7",
        "--",
        "sh",
        "-c",
        "echo ready; exec sleep 1000",
    ];
    let mut forward = Process::start(env.kpf(words));
    assert_eq!(forward.line().await, "ready\n");
    for tunnel in env.playground.tunnels() {
        tunnel.cut();
    }
    let ended = forward.end().await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("lost connection to pod"),
        "{}",
        ended.stderr
    );
    forward.nobody_left().await;
}

#[tokio::test]
async fn a_forward_goes_on_in_the_background() {
    let env = TestEnv::new();
    let started = run(env.kpf([
        "forward",
        "--background",
        "--address",
        "127.0.0.1",
        "svc/echo",
        ":7",
    ]))
    .await;
    assert_eq!(started.code, 0, "{}", started.stderr);
    let line = String::from_utf8(started.stdout).unwrap();
    let port = line
        .strip_prefix("Forwarding from 127.0.0.1:")
        .and_then(|rest| rest.strip_suffix(" -> 7\n"));
    let port: u64 = port.unwrap_or_else(|| panic!("{line:?}")).parse().unwrap();
    let number = started.stderr.trim().rsplit(' ').next().unwrap().to_owned();
    echo(port).await;

    let listed = run(env.kpf(["forward", "--list"])).await;
    let expected = format!("{number}\t127.0.0.1:{port} -> 7\tservice/echo\n");
    assert_eq!(String::from_utf8(listed.stdout).unwrap(), expected);
    let listed = run(env.kpf(["forward", "--list", "-o", "json"])).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["number"].to_string(), number);
    assert_eq!(listed["forwards"][0]["target"], "service/echo");

    let nobody = run(env.kpf(["forward", "--stop", "1"])).await;
    assert_eq!(nobody.code, 1);
    assert!(
        nobody.stderr.contains("has the number 1: see"),
        "{}",
        nobody.stderr
    );
    let stopped = run(env.kpf(["forward", "--stop", &number])).await;
    assert_eq!(
        (stopped.code, &stopped.stderr[..]),
        (0, &format!("stopped {number}\n")[..])
    );
    assert_eq!(run(env.kpf(["forward", "--list"])).await.stdout, b"");
    let folder = home(&env).join(".local/state/kpf/forwards");
    until("nothing is left of it", || {
        fs::read_dir(&folder).unwrap().count() == 0
    })
    .await;
    assert!(
        TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap()))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn one_that_died_is_not_listed() {
    let env = TestEnv::new();
    let started = run(env.kpf(["forward", "--background", "-q", "pod/echo", ":7"])).await;
    assert_eq!(
        (started.code, &started.stdout[..], &started.stderr[..]),
        (0, &b""[..], "")
    );
    let listed = run(env.kpf(["forward", "--list", "-o", "json"])).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let number = i32::try_from(listed["number"].as_i64().unwrap()).unwrap();
    let process = rustix::process::Pid::from_raw(number).unwrap();
    rustix::process::kill_process(process, Signal::KILL).unwrap();
    let folder = home(&env).join(".local/state/kpf/forwards");
    in_time(async { while !run(env.kpf(["forward", "--list"])).await.stdout.is_empty() {} }).await;
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    let stopped = run(env.kpf(["forward", "--stop", "all"])).await;
    assert_eq!((stopped.code, &stopped.stderr[..]), (0, ""));
}

#[tokio::test]
async fn what_cannot_be_is_one_line() {
    let env = TestEnv::new();
    for (words, part) in [
        (
            &["forward", "--port-file", "no/where", "pod/echo", ":7"][..],
            "cannot write `no/where`",
        ),
        (
            &["forward", "--ready-file", "no/where", "pod/echo", ":7"],
            "cannot write `no/where`",
        ),
        (
            &["forward", "--background", "pod/nothing", ":7"],
            "pods \"nothing\" not found",
        ),
        (
            &["forward", "--background", "pod/echo", ":7", "--", "true"],
            "cannot be used with",
        ),
        (
            &["forward", "-o", "json", "pod/echo", ":7", "--", "true"],
            "cannot be used with",
        ),
        (
            &["forward", "-o", "yaml", "pod/echo", ":7"],
            "invalid value 'yaml'",
        ),
        (&["forward", "--stop", "x"], "write a number"),
        (
            &["forward", "--list", "pod/echo", ":7"],
            "cannot be used with",
        ),
        (&["forward", "--"], "no COMMAND follows"),
        (
            &["exec", "-o", "json", "-it", "web", "--", "true"],
            "cannot be used with",
        ),
    ] {
        let ended = run(env.kpf(words)).await;
        assert_eq!(
            (ended.code, &ended.stdout[..]),
            (1, &b""[..]),
            "{words:?}: {}",
            ended.stderr
        );
        assert!(
            ended.stderr.lines().count() == 1 && ended.stderr.contains(part),
            "{words:?}: {}",
            ended.stderr
        );
    }
    let left = fs::read_dir(home(&env))
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name != ".local").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn exec_tells_output_and_code_in_lines() {
    let env = TestEnv::with(Options::default());
    let script = r#"cat; echo "to stderr" >&2; printf '\377\000'; exit 3"#;
    let input: Vec<u8> = "z\u{fc}rich\n".repeat(20_000).into_bytes();
    let ended = feed(
        env.kpf(["exec", "-i", "-o", "json", "web", "--", "sh", "-c", script]),
        &input,
    )
    .await;
    assert_eq!(ended.code, 3, "{}", ended.stderr);
    let events: Vec<Value> = String::from_utf8(ended.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(events.iter().all(|event| event["version"] == 1));
    assert_eq!(
        (&events[0]["type"], &events[0]["pod"]),
        (&"started".into(), &"web".into())
    );
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["code"]),
        (&"exited".into(), &3.into())
    );
    let of = |stream: &str| -> Vec<u8> {
        use base64::Engine as _;
        let of_stream = events.iter().filter(|event| event["stream"] == stream);
        of_stream
            .flat_map(|event| match event["text"].as_str() {
                Some(text) => text.as_bytes().to_vec(),
                None => base64::engine::general_purpose::STANDARD
                    .decode(event["base64"].as_str().unwrap())
                    .unwrap(),
            })
            .collect()
    };
    assert_eq!(of("stderr"), b"to stderr\n");
    assert!(of("stdout") == [&input[..], b"\xff\0"].concat());
    assert_eq!(ended.stderr, "command terminated with exit code 3\n");
}
