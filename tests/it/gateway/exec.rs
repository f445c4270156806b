//! Sessions in a pod that has no SSH server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncWriteExt as _;

use super::{Backend, Gateway, says};
use crate::program::{BULK, Noise, Process, digest_of, digest_of_file, feed, in_time, run, until};
use crate::tools;

/// Rows 9 to 12.
#[tokio::test]
async fn a_hundred_megabytes_in_and_out_and_round() {
    let Some(gateway) = Gateway::relaying("").await else {
        return;
    };
    for backend in Backend::ALL {
        for command in ["cat", "sleep 1; cat", "gzip -1 | gzip -dc"] {
            let mut process = Process::start(gateway.fed(&[backend.host(), command]));
            let stdin = process.stdin.take().unwrap();
            let stdout = process.stdout.take().unwrap();
            let (sent, heard) = tokio::join!(
                in_time(Noise::new(BULK).write_to(stdin)),
                in_time(digest_of(stdout, usize::MAX)),
            );
            assert_eq!(heard.unwrap(), sent.unwrap(), "{backend:?} {command}");
            assert_eq!(process.code().await, 0, "{backend:?} {command}");
        }
        let mut process = Process::start(gateway.fed(&[backend.host(), "sha256sum; echo done"]));
        let sent = in_time(Noise::new(BULK).write_to(process.stdin.take().unwrap())).await;
        says(&mut process, &format!("{}  -", sent.unwrap())).await;
        says(&mut process, "done").await;
        assert_eq!(process.code().await, 0, "{backend:?}");
    }
}

/// Rows 19 and 21, and what `-t` means for the streams.
#[tokio::test]
async fn a_terminal_is_one() {
    let Some(gateway) = Gateway::relaying("").await else {
        return;
    };
    for backend in Backend::ALL {
        let command = "test -t 0 && test -t 1 && test -t 2 && echo \"$TERM\"; exit 3";
        let mut command = gateway.ssh(&["-tt", backend.host(), command]);
        command.env("TERM", "screen-256color");
        let ended = feed(command, b"").await;
        let stdout = String::from_utf8_lossy(&ended.stdout);
        assert_eq!(
            stdout, "screen-256color\r\n",
            "{backend:?} {}",
            ended.stderr
        );
        assert_eq!(ended.code, 3, "{backend:?}");
    }
}

/// Row 23: what is typed reaches the terminal, and its special characters do what they do.
#[tokio::test]
async fn keys_that_mean_something() {
    let Some(gateway) = Gateway::relaying("").await else {
        return;
    };
    for backend in Backend::ALL {
        // Whatever gets it, the shell or what it has just become: it ends.
        let command =
            "trap 'echo got INT' INT; sh -c 'echo ready; exec cat'; echo end; cat; exit 5";
        let words = ["-tt", "-e", "none", backend.host(), command];
        let mut process = Process::start(gateway.fed(&words));
        let mut stdin = process.stdin.take().unwrap();
        assert_eq!(process.line().await, "ready\r\n", "{backend:?}");
        stdin.write_all(b"\x03").await.unwrap();
        let line = process.line().await;
        assert_eq!(line, "^Cgot INT\r\n", "{backend:?}");
        assert_eq!(process.line().await, "end\r\n", "{backend:?}");
        stdin.write_all(b"\x04").await.unwrap();
        assert_eq!(process.code().await, 5, "{backend:?}");
    }
}

/// Row 29.
#[tokio::test]
async fn a_long_command_is_run_and_a_longer_one_refused() {
    let Some(gateway) = Gateway::relaying("").await else {
        return;
    };
    for backend in Backend::ALL {
        let word = "x".repeat(60_000);
        let ended = run(gateway.ssh(&[backend.host(), &format!("printf %s {word}")])).await;
        assert_eq!(
            ended.stdout,
            word.as_bytes(),
            "{backend:?}: {}",
            ended.stderr
        );
    }
    let word = "x".repeat(100_000);
    let ended = run(gateway.ssh(&["exec", &format!("printf %s {word}")])).await;
    assert_eq!(ended.code, 255);
    assert!(
        ended.stderr.contains("exec request failed"),
        "{}",
        ended.stderr
    );
}

/// Threat 52: a command of all bytes that one can have.
#[tokio::test]
async fn a_command_may_have_any_bytes() {
    use std::os::unix::ffi::OsStringExt as _;

    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let bytes: Vec<u8> = (1..=255).filter(|byte| *byte != b'\'').collect();
    let word = [b"printf %s '".as_slice(), &bytes, b"'"].concat();
    let mut command = gateway.ssh(&["exec"]);
    command.arg(std::ffi::OsString::from_vec(word));
    let ended = run(command).await;
    assert_eq!(ended.stdout, bytes, "{}", ended.stderr);
}

/// Rows 31, 32 and 34, as far as they don't need a terminal.
#[tokio::test]
async fn files_go_both_ways() {
    let (Some(scp), Some(sftp)) = (tools::find("scp"), tools::find("sftp")) else {
        return;
    };
    let Some(gateway) = Gateway::relaying("").await else {
        return;
    };
    let file = gateway.folder().join("long");
    let digest = Noise::new(BULK / 4).save(&file);
    let file = file.to_str().unwrap();
    for backend in Backend::ALL {
        let host = backend.host();
        for options in [&["-q"][..], &["-q", "-O"], &["-q", "-p"]] {
            let copy = gateway.folder().join("copy");
            let copy = copy.to_str().unwrap();
            for (from, to) in [
                (file.to_owned(), format!("{host}:{copy}")),
                (format!("{host}:{file}"), copy.to_owned()),
            ] {
                let mut words = options.to_vec();
                words.extend([from.as_str(), to.as_str()]);
                let ended = run(gateway.client(&scp, &words)).await;
                assert_eq!(ended.code, 0, "{backend:?} {words:?}: {}", ended.stderr);
                assert_eq!(digest_of_file(Path::new(copy)), digest, "{words:?}");
                fs::remove_file(copy).unwrap();
            }
        }
        let folder = gateway.folder().join(format!("of-{host}"));
        let folder = folder.to_str().unwrap();
        let batch = format!(
            "mkdir {folder}\nput {file} {folder}/a\nrename {folder}/a {folder}/b\nchmod 600 {folder}/b\n\
             symlink {folder}/b {folder}/c\nls -l {folder}\nget {folder}/c {folder}/d\nrm {folder}/b\n"
        );
        let words = ["-q", "-b", "-", host];
        let ended = feed(gateway.client(&sftp, &words), batch.as_bytes()).await;
        assert_eq!(ended.code, 0, "{backend:?}: {}", ended.stderr);
        assert_eq!(digest_of_file(&Path::new(folder).join("d")), digest);
        assert!(!Path::new(folder).join("b").exists());
    }
}

/// Row 37.
#[tokio::test]
async fn rsync_copies_both_ways() {
    let Some(rsync) = tools::find("rsync") else {
        return;
    };
    let Some(gateway) = Gateway::relaying("").await else {
        return;
    };
    let source = gateway.folder().join("source");
    fs::create_dir_all(source.join("deeper")).unwrap();
    let lengths = [0, 1, 1 << 16, BULK / 8];
    for (number, length) in lengths.into_iter().enumerate() {
        Noise::new(length).save(&source.join("deeper").join(number.to_string()));
    }
    let shell = format!("{} -F {}", gateway.ssh.display(), gateway.config.display());
    for backend in Backend::ALL {
        let host = backend.host();
        let [there, back] =
            ["there", "back"].map(|name| gateway.folder().join(format!("{name}-{host}")));
        for (from, to) in [
            (
                format!("{}/", source.display()),
                format!("{host}:{}", there.display()),
            ),
            (
                format!("{host}:{}/", there.display()),
                back.display().to_string(),
            ),
        ] {
            let mut command = gateway.env.command(&rsync);
            command.args(["-a", "--partial", "-e", &shell, &from, &to]);
            let ended = run(command).await;
            assert_eq!(ended.code, 0, "{backend:?}: {}", ended.stderr);
        }
        for (number, length) in lengths.into_iter().enumerate() {
            let copy = back.join("deeper").join(number.to_string());
            assert_eq!(digest_of_file(&copy), Noise::new(length).digest());
        }
    }
}

/// Row 59: who loses the connection loses the command.
#[tokio::test]
async fn a_command_ends_with_its_client() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    for options in [&[][..], &["-tt"]] {
        let file = gateway.folder().join("hung-up");
        let command = format!(
            "trap 'echo hung up >{}; exit' HUP; echo ready; while :; do sleep 0.1; done",
            file.display()
        );
        let mut words = options.to_vec();
        words.extend(["exec", &command]);
        let mut process = Process::start(gateway.fed(&words));
        assert_eq!(process.line().await.trim_end(), "ready");
        process.signal(Signal::KILL);
        process.code().await;
        until("the command gets SIGHUP", || {
            fs::read(&file).is_ok_and(|text| text == b"hung up\n")
        })
        .await;
        fs::remove_file(&file).unwrap();
    }
}

/// Row 61: a pod that goes away ends its sessions, with a word of why.
#[tokio::test]
async fn a_session_ends_with_its_pod() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    let mut process = Process::start(gateway.fed(&["exec", "echo ready; cat"]));
    says(&mut process, "ready").await;
    gateway.env.playground.delete_pod("default", "web");
    let ended = tokio::time::timeout(Duration::from_secs(20), process.end()).await;
    let ended = ended.expect("it ends soon");
    assert_ne!(ended.code, 0);
}

/// What can't be had is refused, and the session goes on.
#[tokio::test]
async fn what_a_container_does_not_have_is_refused() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    for (options, part) in [
        (
            &["-R", "0:localhost:80"][..],
            "remote port forwarding failed",
        ),
        (&["-A"], ""),
        (&["-X"], ""),
    ] {
        let mut words = vec!["-oLogLevel=INFO"];
        words.extend(options);
        words.extend(["exec", "echo alive; echo \"${SSH_AUTH_SOCK-}$DISPLAY\""]);
        let ended = run(gateway.ssh(&words)).await;
        assert_eq!(ended.stdout, b"alive\n\n", "{options:?}: {}", ended.stderr);
        assert_eq!(ended.code, 0, "{options:?}");
        assert!(ended.stderr.contains(part), "{options:?}: {}", ended.stderr);
    }
    let words = [
        "-oExitOnForwardFailure=yes",
        "-R",
        "0:localhost:80",
        "exec",
        "true",
    ];
    assert_eq!(run(gateway.ssh(&words)).await.code, 255);
}

/// Who may not look can't tell what is not there from what they may not see.
#[tokio::test]
async fn a_pod_that_is_none_is_told_in_one_line() {
    let Some(gateway) = Gateway::start().await else {
        return;
    };
    for (user, part) in [
        (
            "nothing.default",
            "there is no such pod, or you may not reach it",
        ),
        (
            "web.nowhere",
            "there is no such pod, or you may not reach it",
        ),
        ("+web.default+nothing", "container nothing is not valid"),
        ("done.default", "completed"),
        ("a.b.c", "is no cluster here"),
        ("web.Default", "is no namespace"),
    ] {
        let ended = run(gateway.ssh(&["-l", user, "gw", "true"])).await;
        assert_eq!(ended.code, 255, "{user}");
        assert_eq!(ended.stderr.matches('\n').count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(part), "{user}: {}", ended.stderr);
    }
}
