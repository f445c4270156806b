//! What terminals show is recorded, and what happens where it can't be.

use std::fs;

use super::configured::Team;
use crate::program::{Ended, run, until};

/// A gateway that records so.
async fn recording(record: &str, more: &str) -> Option<Team> {
    let config = format!(
        "policy:\n  - name: seen\n    users: [admin]\n    record: {record}\n\
         recordings:\n  folder: recordings\n  min_free: 1KiB\n{more}"
    );
    Team::start(&config).await
}

/// What `kpf gateway replay` shows of the only recording.
async fn replayed(team: &Team) -> Ended {
    until("it has ended", || !team.of_type("recording.end").is_empty()).await;
    let end = team.of_type("recording.end");
    assert_eq!(end.len(), 1, "{end:?}");
    assert_eq!(end[0]["incomplete"], serde_json::Value::Null);
    let begin = team.of_type("recording.start");
    assert_eq!(begin[0]["name"], end[0]["name"]);
    let name = end[0]["name"].as_str().unwrap();
    let file = team.folder.join("recordings").join(name);
    let mut digest = team.gateway.env.command("sha256sum");
    digest.arg(&file);
    let digest = String::from_utf8(run(digest).await.stdout).unwrap();
    assert!(digest.starts_with(end[0]["sha256"].as_str().unwrap()));
    let words = ["gateway", "replay", "--raw", file.to_str().unwrap()];
    run(team.gateway.env.kpf(words)).await
}

#[tokio::test]
async fn a_terminal_is_recorded_as_it_was_shown() {
    for record in ["required", "best-effort"] {
        let Some(team) = recording(record, "").await else {
            return;
        };
        let command =
            "echo out; echo gr\u{fc}\u{df}e >&2; seq 20000; printf '\\033[1mbold\\033[m'; exit 3";
        let ended = team.run("admin", &["-tt", "exec", command]).await;
        assert_eq!(ended.code, 3, "{}", ended.stderr);
        assert!(ended.stdout.starts_with(b"out\r\n"));
        let replayed = replayed(&team).await;
        assert!(replayed.stdout == ended.stdout, "{record}: not the same");
    }
}

#[tokio::test]
async fn what_is_typed_is_recorded_only_if_the_configuration_says_so() {
    for input in [false, true] {
        let more = format!("  input: {input}\n");
        let Some(team) = recording("required", &more).await else {
            return;
        };
        let command = "stty -echo; echo ready; read secret; echo read";
        let mut words = team.ssh("admin", &["-tt", "exec", command]);
        words.stdin(std::process::Stdio::piped());
        let mut session = crate::program::Process::start(words);
        assert_eq!(session.line().await, "ready\r\n");
        let mut stdin = session.stdin.take().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, b"sesame\n")
            .await
            .unwrap();
        assert_eq!(session.line().await, "read\r\n");
        assert_eq!(session.code().await, 0);
        let replayed = replayed(&team).await;
        assert_eq!(replayed.stdout, b"ready\r\nread\r\n");
        let name = team.of_type("recording.end")[0]["name"].clone();
        let file = team.folder.join("recordings").join(name.as_str().unwrap());
        let cast = fs::read_to_string(file).unwrap();
        assert_eq!(cast.contains("sesame"), input, "{cast}");
    }
}

#[tokio::test]
async fn without_a_recording_that_is_required_there_is_no_session() {
    let Some(team) = recording("required", "").await else {
        return;
    };
    // A folder that is gone can't be written, whoever we are.
    fs::remove_dir(team.folder.join("recordings")).unwrap();
    let mark = team.folder.join("ran");
    let command = format!("touch {}", mark.display());
    let ended = team.run("admin", &["-tt", "exec", &command]).await;
    assert_eq!(ended.code, 255);
    let said = String::from_utf8(ended.stdout).unwrap() + &ended.stderr;
    assert!(said.contains("has to be recorded: no recording"), "{said}");
    assert!(!mark.exists());
    // Nobody could say what a shell was told without one.
    let ended = team.run("admin", &["-T", "exec"]).await;
    assert_eq!(ended.code, 255);
    assert!(ended.stderr.contains("no terminal"), "{}", ended.stderr);
    let denied = team.of_type("target.deny");
    assert_eq!(denied.len(), 2, "{denied:?}");
    assert!(team.of_type("session.start").is_empty());
    // A command's words are in the log.
    let ended = team.run("admin", &["exec", "echo in"]).await;
    assert_eq!(ended.stdout, b"in\n", "{}", ended.stderr);
}

#[tokio::test]
async fn a_recording_that_is_not_required_fails_alone() {
    let Some(team) = recording("best-effort", "").await else {
        return;
    };
    fs::remove_dir(team.folder.join("recordings")).unwrap();
    let ended = team.run("admin", &["-tt", "exec", "echo in; exit 4"]).await;
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    assert_eq!(ended.stdout, b"in\r\n");
    until("it is said", || !team.of_type("recording.end").is_empty()).await;
    let why = team.of_type("recording.end")[0]["incomplete"].clone();
    assert!(why.as_str().unwrap().contains("no recording"), "{why}");
}

#[tokio::test]
async fn a_recording_that_ends_too_soon_takes_its_session_along_if_it_is_required() {
    for (record, code) in [("required", 255), ("best-effort", 0)] {
        let Some(team) = recording(record, "  max_size: 64KiB\n").await else {
            return;
        };
        let ended = team.run("admin", &["-tt", "exec", "seq 100000"]).await;
        assert_eq!(ended.code, code, "{record}: {}", ended.stderr);
        let said = String::from_utf8(ended.stdout).unwrap() + &ended.stderr;
        let told = said.contains("has to be recorded: the recording has reached its limit");
        assert_eq!(told, record == "required", "{record}");
        assert_eq!(said.contains("\n100000\r\n"), record != "required");
        until("it is said", || !team.of_type("recording.end").is_empty()).await;
        let why = team.of_type("recording.end")[0]["incomplete"].clone();
        assert!(why.as_str().unwrap().contains("limit"), "{why}");
    }
}
