//! Sessions: the same command with the gateway and without must look the same.

use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::program::{Ended, Process, feed, in_time, run, until};

impl Ground {
    /// Runs it both ways, and compares.
    async fn same(&self, options: &[&str], remote: &str, stdin: &[u8]) -> Ended {
        let mut words = options.to_vec();
        words.push("pod");
        if !remote.is_empty() {
            words.push(remote);
        }
        let direct = self.client(&self.ssh, false, &words);
        let direct = feed(direct, stdin).await;
        let relayed = feed(self.ssh(&words), stdin).await;
        let shown = |ended: &Ended| {
            (
                ended.code,
                String::from_utf8_lossy(&ended.stdout).into_owned(),
                ended.stderr.clone(),
            )
        };
        assert_eq!(shown(&relayed), shown(&direct), "{options:?} {remote}");
        relayed
    }
}

#[tokio::test]
async fn commands_are_as_without_it() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    for (remote, stdin) in [
        ("echo hi", ""),
        ("exit 0", ""),
        ("exit 7", ""),
        ("exit 255", ""),
        ("kill -TERM $$", ""),
        ("kill -9 $$", ""),
        ("echo out; echo err >&2; exit 3", ""),
        ("exec >&-; echo later >&2", ""),
        ("wc -c", "a"),
        ("cat", ""),
        ("tr a-z A-Z", "hello\n"),
        ("tty", ""),
        ("printf '%s\\n' 'a  b' \"c'd\" \"$(printf 'x\\ny')\"", ""),
        ("seq 1 20000", ""),
        ("printf 'no newline'", ""),
        ("true; exec nothing-of-this-name", ""),
    ] {
        ground.same(&[], remote, stdin.as_bytes()).await;
    }
    // all bytes, in and out
    let all: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    let ended = ground.same(&[], "cat", &all).await;
    assert_eq!(ended.stdout, all);
    // as long as a request may be
    let long = format!("echo {} | wc -c", "x".repeat(60 * 1024));
    ground.same(&[], &long, b"").await;
    // a shell without a terminal
    ground.same(&["-T"], "", b"echo $((40+2))\nexit 5\n").await;
}

#[tokio::test]
async fn the_pods_sshd_logs_who_it_was() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let ended = run(ground.ssh(&["pod", "true"])).await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let log = ground.log();
    assert!(log.contains("ID kpf:alice:s1"), "{log}");
}

#[tokio::test]
async fn terminals_have_a_name_a_size_and_modes() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let ended = ground
        .same(
            &["-tt"],
            "test -t 0 && stty -a | grep -o 'rows [0-9]*; columns [0-9]*'; echo $TERM",
            b"",
        )
        .await;
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    // Typed characters are echoed, an end ends.
    ground.same(&["-tt"], "cat", b"abc\n\x04").await;
    // An interrupt interrupts.
    let mut process = Process::start(ground.piped(&["-tt", "pod", "echo ready; exec sleep 100"]));
    assert_eq!(process.line().await, "ready\r\n");
    process
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"\x03")
        .await
        .unwrap();
    assert_ne!(process.end().await.code, 0);
}

#[tokio::test]
async fn variables_are_the_pods_business() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let options = ["-o", "SetEnv=LC_ODD=\"a b'c$(id)\" KPF_X=no"];
    let ended = ground.same(&options, "echo \"$LC_ODD|$KPF_X\"", b"").await;
    assert_eq!(ended.stdout, b"a b'c$(id)|\n");
}

#[tokio::test]
async fn what_the_credential_does_not_allow_the_pod_does_not_either() {
    let caps = Caps {
        pty: false,
        force_command: Some("echo forced: $SSH_ORIGINAL_COMMAND".to_owned()),
        ..Caps::all()
    };
    let Some(ground) = Ground::with(Limits::CHANNEL, caps).await else {
        return;
    };
    let ended = run(ground.ssh(&["pod", "echo mine"])).await;
    assert_eq!(ended.stdout, b"forced: echo mine\n", "{}", ended.stderr);
    let ended = run(ground.ssh(&["-tt", "pod", "true"])).await;
    assert!(
        ended.stderr.contains("PTY allocation request failed"),
        "{}",
        ended.stderr
    );
}

/// All output, and then the code, however fast it ends.
#[tokio::test]
async fn the_end_comes_last() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let wanted: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    for _ in 0..10 {
        let ended = run(ground.ssh(&["pod", "seq 1 100000; exit 9"])).await;
        assert_eq!(ended.code, 9);
        assert!(ended.stdout == wanted.as_bytes());
    }
    // a process in the background holds stdout open
    ground
        .same(&[], "(sleep 1; echo late) & echo early", b"")
        .await;
}

#[tokio::test]
async fn a_client_that_is_killed_hangs_up() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let pid = ground.path("pid");
    let command = format!(
        "trap 'echo hup > {pid}.hup; exit' HUP; echo $$ > {pid}; while :; do sleep 0.05; done"
    );
    let process = Process::start(ground.ssh(&["-tt", "pod", &command]));
    until("it runs", || {
        fs::read_to_string(&pid).is_ok_and(|it| it.ends_with('\n'))
    })
    .await;
    process.signal(Signal::KILL);
    until("it got SIGHUP", || {
        fs::exists(format!("{pid}.hup")).unwrap()
    })
    .await;
    until("the channel has ended", || {
        !ground.gateway.carried.lock().unwrap().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_goes_ends_the_session_with_a_word() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let mut process = Process::start(ground.ssh(&["pod", "echo here; exec sleep 100"]));
    assert_eq!(process.line().await, "here\n");
    ground.traffic.cut.cancel();
    let ended = process.end().await;
    assert_eq!(ended.code, 255);
    assert!(
        ended
            .stderr
            .contains("kpf: the connection to the pod has ended: the pod or its sshd is gone"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn sessions_of_one_connection_are_apart() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let control = ground.path("mux");
    let path = format!("ControlPath={control}");
    let mut master = Process::start(ground.piped(&["-M", "-o", &path, "pod", "cat"]));
    until("the master listens", || fs::exists(&control).unwrap()).await;
    // and the master's own: sshd takes ten (MaxSessions)
    let slaves = (0..9).map(|number| {
        let code = format!("exec sh -c 'head -c {number}00000 /dev/zero | wc -c; exit {number}'");
        run(ground.ssh(&["-o", &path, "pod", &code]))
    });
    let ended = in_time(futures_util::future::join_all(slaves)).await;
    for (number, ended) in ended.iter().enumerate() {
        assert_eq!(
            ended.code,
            i32::try_from(number).unwrap(),
            "{}",
            ended.stderr
        );
        assert_eq!(ended.stdout, format!("{}\n", number * 100_000).into_bytes());
    }
    // one that is killed takes nobody with it
    let killed = Process::start(ground.ssh(&["-o", &path, "pod", "cat /dev/zero"]));
    killed.signal(Signal::KILL);
    let ended = run(ground.ssh(&["-o", &path, "pod", "echo alive"])).await;
    assert_eq!(ended.stdout, b"alive\n");
    drop(master.stdin.take());
    assert_eq!(master.end().await.code, 0);
}

#[tokio::test]
async fn files_are_copied_by_whatever_copies_them() {
    let Some(ground) = Ground::start().await else {
        return;
    };
    let file = ground.path("long");
    let digest = crate::program::Noise::new(5 << 20).save(Path::new(&file));
    let check = |name: &str, ended: Ended| {
        assert_eq!(ended.code, 0, "{name}: {}", ended.stderr);
        let copied = crate::program::digest_of_file(Path::new(&ground.path(name)));
        assert_eq!(copied, digest, "{name}");
    };
    if let Some(scp) = tools::find("scp") {
        for (name, words) in [("scp.up", vec!["-q"]), ("scp.old", vec!["-q", "-O"])] {
            let to = format!("pod:{}", ground.path(name));
            let words: Vec<&str> = [words, vec![&file, &to]].concat();
            check(name, run(ground.client(&scp, true, &words)).await);
        }
        let (from, to) = (format!("pod:{file}"), ground.path("scp.down"));
        check(
            "scp.down",
            run(ground.client(&scp, true, &["-q", &from, &to])).await,
        );
    }
    if let Some(sftp) = tools::find("sftp") {
        let batch = format!(
            "put {file} {}\nget {file} {}\n",
            ground.path("sftp.up"),
            ground.path("sftp.down")
        );
        let mut command = ground.client(&sftp, true, &["-q", "-b", "-", "pod"]);
        command.stdin(Stdio::piped());
        let ended = feed(command, batch.as_bytes()).await;
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        check(
            "sftp.up",
            Ended {
                code: 0,
                stdout: Vec::new(),
                stderr: String::new(),
            },
        );
        check("sftp.down", ended);
    }
    if let Some(rsync) = tools::find("rsync") {
        drop(ground.ssh(&[])); // writes the configuration
        let shell = format!("ssh -F {}", ground.path("ssh_config.true"));
        for (name, from, to) in [
            (
                "rsync.up",
                file.clone(),
                format!("pod:{}", ground.path("rsync.up")),
            ),
            (
                "rsync.down",
                format!("pod:{file}"),
                ground.path("rsync.down"),
            ),
        ] {
            let mut command = command(
                rsync.as_os_str(),
                ground.folder.path(),
                ground.folder.path(),
            );
            command.args(["-a", "-e", &shell, &from, &to]);
            check(name, run(command).await);
        }
    }
}
