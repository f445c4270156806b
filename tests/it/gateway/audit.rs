//! `kpf gateway audit verify` and `kpf gateway replay`, on logs and recordings that the library has written.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kpf::ssh::audit::recording::asciicast::Encoder;
use kpf::ssh::audit::recording::{Format, Terminal};
use kpf::ssh::audit::{
    About, Audit, Direction, Exit, Kind, OnFailure, Redact, SinkConfig, SinkKind,
};
use tempfile::TempDir;

use crate::program::{Ended, TestEnv, feed, in_time, run};

/// A log with ten events, of which the last says that the gateway has stopped.
async fn log(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("audit.jsonl");
    let sink = SinkConfig {
        kind: SinkKind::File(path.clone()),
        required: true,
    };
    let audit = Audit::open("gw-0", &[sink], OnFailure::Deny, Redact::default()).unwrap();
    for number in 0..9 {
        let name = format!("pod-{number}");
        let _ = audit
            .write(About::default(), Kind::TargetResolve { name })
            .unwrap();
    }
    let reason = "SIGTERM".to_owned();
    let _ = audit
        .write(About::default(), Kind::GatewayStop { reason })
        .unwrap();
    in_time(audit.close(Duration::from_secs(10))).await.unwrap();
    path
}

async fn kpf(words: &[&str], files: &[&Path]) -> Ended {
    let env = TestEnv::new();
    let files = files.iter().map(|file| file.to_str().unwrap());
    run(env.kpf(words.iter().copied().chain(files))).await
}

async fn verify(files: &[&Path]) -> (i32, String) {
    let ended = kpf(&["gateway", "audit", "verify"], files).await;
    (ended.code, String::from_utf8(ended.stdout).unwrap())
}

#[tokio::test]
async fn an_intact_log_is_verified() {
    let folder = TempDir::new().unwrap();
    let log = log(&folder).await;
    let (code, said) = verify(&[&log]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("gw-0: last event 9, sha256:"), "{said}");
    assert!(
        said.contains(": stopped\n10 events, as they were written\n"),
        "{said}"
    );

    let text = fs::read_to_string(&log).unwrap();
    let at = text.match_indices('\n').nth(4).unwrap().0 + 1;
    let old = folder.path().join("audit.jsonl.1");
    fs::write(&old, &text[..at]).unwrap();
    fs::write(&log, &text[at..]).unwrap();
    assert_eq!(verify(&[&old, &log]).await.0, 0);
    let (code, said) = verify(&[&log]).await;
    assert_eq!(code, 1);
    assert!(
        said.contains("audit.jsonl:1: the log begins with event 5"),
        "{said}"
    );
    let partial = ["gateway", "audit", "verify", "--partial"];
    assert_eq!(kpf(&partial, &[&log]).await.code, 0);
    let env = TestEnv::new();
    let stdin = feed(
        env.kpf(["gateway", "audit", "verify", "-"]),
        text.as_bytes(),
    )
    .await;
    assert_eq!(stdin.code, 0);
}

#[tokio::test]
async fn a_change_is_found_and_where() {
    let folder = TempDir::new().unwrap();
    let log = log(&folder).await;
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replace("pod-3", "pod-4")).unwrap();
    let (code, said) = verify(&[&log]).await;
    assert_eq!(code, 1);
    assert!(
        said.contains("audit.jsonl:5: the event before it was changed"),
        "{said}"
    );

    fs::write(&log, &text[..text.len() - 30]).unwrap();
    let (code, said) = verify(&[&log]).await;
    assert_eq!(code, 1);
    assert!(said.contains("audit.jsonl:10: cut off"), "{said}");

    fs::write(&log, "").unwrap();
    let ended = kpf(&["gateway", "audit", "verify"], &[&log]).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("there are no events"),
        "{}",
        ended.stderr
    );
    let ended = kpf(&["gateway", "audit", "verify"], &[Path::new("/no/such")]).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("cannot read /no/such"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_replay_shows_and_does_not_act() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.cast");
    let terminal = Terminal {
        kind: "xterm".to_owned(),
        columns: 80,
        rows: 24,
    };
    let shown = "\u{1b}[1mgrüße\u{1b}[m\r\n";
    let acts = "\u{1b}]52;c;ZWNobyBoaQ==\u{7}\u{1b}[6n";
    for format in [Format::V3, Format::V2] {
        let (mut encoder, mut cast) = Encoder::new(format, &terminal, 0);
        let hour = Duration::from_secs(3600);
        let bytes = format!("{shown}{acts}");
        let (head, tail) = bytes.as_bytes().split_at(7); // in the middle of a letter
        encoder.data(Duration::ZERO, Direction::Out, head, &mut cast);
        encoder.data(hour, Direction::Out, tail, &mut cast);
        encoder.end(hour, &Exit::Code(0), &mut cast);
        fs::write(&path, &cast).unwrap();
        let filtered = kpf(&["gateway", "replay"], &[&path]).await;
        assert_eq!(String::from_utf8(filtered.stdout).unwrap(), shown);
        let raw = kpf(&["gateway", "replay", "--raw"], &[&path]).await;
        assert_eq!(String::from_utf8(raw.stdout).unwrap(), bytes);
    }
    File::create(&path).unwrap();
    let ended = kpf(&["gateway", "replay"], &[&path]).await;
    assert_eq!(ended.code, 1);
    assert!(
        ended.stderr.contains("not an asciicast"),
        "{}",
        ended.stderr
    );
}
