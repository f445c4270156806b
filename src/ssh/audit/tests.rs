use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;

use super::event::{About, Kind};
use super::log::{Audit, OnFailure, Refused};
use super::sink::OpenError;
use super::verify::{self, Options, Report};
use super::{Auditor, Direction, Redact, Requested, SessionId, SinkConfig, SinkKind, Verdict};

const SOON: Duration = Duration::from_secs(20);

fn file(folder: &TempDir) -> PathBuf {
    folder.path().join("audit.jsonl")
}

fn to_file(path: &Path) -> SinkConfig {
    SinkConfig {
        kind: SinkKind::File(path.to_owned()),
        required: true,
    }
}

fn open(sinks: &[SinkConfig], on_failure: OnFailure) -> Result<Audit, OpenError> {
    Audit::open("gw-0", sinks, on_failure, Redact::default())
}

fn event(name: &str) -> Kind {
    Kind::TargetResolve {
        name: name.to_owned(),
    }
}

fn exec(command: &str) -> Kind {
    Kind::Request {
        what: Requested::Exec {
            command: command.into(),
            bytes: command.len(),
        },
        ok: true,
    }
}

fn report(path: &Path) -> Report {
    let log = BufReader::new(fs::File::open(path).unwrap());
    verify::verify(log, Options::default()).unwrap()
}

async fn write(audit: &Audit, name: &str) {
    let _ = audit.commit(About::default(), event(name)).await.unwrap();
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, wait)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn a_log_goes_on_where_the_last_process_stopped() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder);
    for run in 0..3 {
        let audit = open(&[to_file(&path)], OnFailure::Deny).unwrap();
        for at in 0..10 {
            write(&audit, &format!("{run}.{at}")).await;
        }
        audit.close(SOON).await.unwrap();
    }
    let report = report(&path);
    assert!(report.is_intact(), "{report:?}");
    assert_eq!((report.lines, report.last["gw-0"].seq), (30, 29));
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[tokio::test]
async fn a_line_that_a_kill_cut_off_is_ended_and_counted() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder);
    let audit = open(&[to_file(&path)], OnFailure::Deny).unwrap();
    write(&audit, "a").await;
    write(&audit, "b").await;
    audit.close(SOON).await.unwrap();
    let written = fs::read(&path).unwrap();
    fs::write(&path, &written[..written.len() - 20]).unwrap();

    let audit = open(&[to_file(&path)], OnFailure::Deny).unwrap();
    write(&audit, "c").await;
    audit.close(SOON).await.unwrap();
    let report = report(&path);
    assert!(report.is_intact(), "{report:?}");
    assert_eq!(
        (report.lines, report.torn, report.last["gw-0"].seq),
        (3, 1, 2)
    );
}

#[tokio::test]
async fn commit_means_that_it_is_in_the_file() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder);
    let audit = open(&[to_file(&path)], OnFailure::Deny).unwrap();
    for at in 0..50 {
        write(&audit, &format!("pod-{at}")).await;
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.ends_with('\n') && text.contains(&format!("pod-{at}\"")));
    }
}

#[tokio::test]
async fn many_writers_make_one_chain() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder);
    let audit = open(&[to_file(&path)], OnFailure::Deny).unwrap();
    let tasks = (0..8).map(|task| {
        let audit = audit.clone();
        tokio::task::spawn_blocking(move || {
            for at in 0..200 {
                let _ = audit
                    .write(About::default(), event(&format!("{task}.{at}")))
                    .unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    audit.close(SOON).await.unwrap();
    let report = report(&path);
    assert!(report.is_intact(), "{report:?}");
    assert_eq!(report.lines, 1600);
    assert_eq!(audit.counts()[0].1.queued, 1600);
}

#[tokio::test]
async fn what_is_no_log_is_not_written_to() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder);
    let why = |path: &Path| {
        open(&[to_file(path)], OnFailure::Deny)
            .unwrap_err()
            .to_string()
    };
    fs::write(&path, "notes\n").unwrap();
    assert!(
        why(&path).contains("not one of an audit log"),
        "{}",
        why(&path)
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "notes\n");

    let link = folder.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(why(&link).contains("symbolic link"), "{}", why(&link));
    assert!(
        why(folder.path()).contains("irectory"),
        "{}",
        why(folder.path())
    );
    assert!(why(Path::new("/dev/null")).contains("not a regular file"));
    assert!(why(&folder.path().join("no/such")).contains("No such file"));
}

#[tokio::test]
async fn two_processes_can_not_share_a_file() {
    let folder = TempDir::new().unwrap();
    let sinks = [to_file(&file(&folder))];
    let first = open(&sinks, OnFailure::Deny).unwrap();
    let second = open(&sinks, OnFailure::Deny).unwrap_err();
    assert!(matches!(second, OpenError::Locked(_)), "{second}");
    first.close(SOON).await.unwrap();
    open(&sinks, OnFailure::Deny).unwrap();
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_made_anew_and_the_chain_goes_on() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder);
    let old = folder.path().join("audit.jsonl.1");
    let audit = open(&[to_file(&path)], OnFailure::Deny).unwrap();
    write(&audit, "before").await;
    fs::rename(&path, &old).unwrap();
    let mut at = 0;
    while !path.exists() {
        assert!(at < 400, "never made anew");
        write(&audit, &format!("{at}")).await;
        at += 1;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    write(&audit, "after").await;
    audit.close(SOON).await.unwrap();
    let both = BufReader::new(
        fs::File::open(&old)
            .unwrap()
            .chain(fs::File::open(&path).unwrap()),
    );
    let report = verify::verify(both, Options::default()).unwrap();
    assert!(report.is_intact(), "{report:?}");
    assert!(fs::read_to_string(&path).unwrap().contains("\"after\""));
}

struct Listener {
    path: PathBuf,
    listener: UnixListener,
}

impl Listener {
    fn new(folder: &TempDir) -> Self {
        let path = folder.path().join("sink");
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        Self { path, listener }
    }

    fn sink(&self, required: bool) -> SinkConfig {
        SinkConfig {
            kind: SinkKind::Socket(self.path.clone()),
            required,
        }
    }

    fn accept(&self) -> BufReader<std::os::unix::net::UnixStream> {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        BufReader::new(stream)
    }
}

#[tokio::test]
async fn a_closed_socket_denies_until_it_is_back() {
    let folder = TempDir::new().unwrap();
    let listener = Listener::new(&folder);
    let audit = open(&[listener.sink(true)], OnFailure::Deny).unwrap();
    let mut reader = listener.accept();
    write(&audit, "one").await;
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("\"one\""), "{line}");
    assert_eq!(audit.check(), Ok(()));

    drop((reader, listener));
    let refused = audit.commit(About::default(), event("two")).await;
    assert!(refused.is_err());
    timeout(SOON, audit.failed()).await.unwrap();
    let Refused(why) = audit.write(About::default(), event("three")).unwrap_err();
    assert!(why.contains("sink"), "{why}");

    let listener = Listener::new(&folder);
    let mut reader = listener.accept();
    let mut lines = String::new();
    for _ in 0..2 {
        reader.read_line(&mut lines).unwrap();
    }
    assert!(
        lines.contains("\"two\"") && lines.contains("\"three\""),
        "{lines}"
    );
    until("it works again", || audit.check().is_ok()).await;
    write(&audit, "four").await;
}

#[tokio::test]
async fn with_continue_sessions_go_on_without_a_log() {
    let folder = TempDir::new().unwrap();
    let listener = Listener::new(&folder);
    let audit = open(&[listener.sink(true)], OnFailure::Continue).unwrap();
    drop(listener);
    for _ in 0..10 {
        write(&audit, "x").await;
    }
    until("the sink is seen to fail", || audit.works().is_err()).await;
    assert_eq!(audit.check(), Ok(()));
    assert!(
        timeout(Duration::from_millis(50), audit.failed())
            .await
            .is_err()
    );
    assert!(audit.close(SOON).await.is_err(), "what was lost is told");
}

#[tokio::test]
async fn a_sink_that_is_not_required_fails_alone() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder);
    let listener = Listener::new(&folder);
    let audit = open(&[to_file(&path), listener.sink(false)], OnFailure::Deny).unwrap();
    drop(listener);
    for at in 0..20 {
        write(&audit, &at.to_string()).await;
    }
    assert_eq!(audit.check(), Ok(()));
    assert!(audit.close(SOON).await.is_err());
    assert_eq!(report(&path).lines, 20);
}

#[tokio::test]
async fn a_sink_whose_reader_is_stuck_denies_and_holds_no_other_up() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder);
    let listener = Listener::new(&folder);
    let audit = open(&[to_file(&path), listener.sink(true)], OnFailure::Deny).unwrap();
    let stuck = listener.accept(); // and never reads
    let mut refused = None;
    for at in 0..100_000 {
        let name = format!("{at} {}", "x".repeat(400));
        if let Err(why) = audit.write(About::default(), event(&name)) {
            refused = Some(why);
            break;
        }
        if at % 64 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(refused.is_some(), "nobody noticed");
    timeout(SOON, audit.failed()).await.unwrap();
    let sent = audit.counts()[0].1;
    until("the file has all", || report(&path).lines >= sent.queued).await;
    drop(stuck);
}

#[tokio::test]
async fn secrets_are_taken_out() {
    let folder = TempDir::new().unwrap();
    let path = file(&folder);
    let redact = Redact::new(["(?i)password=(\\S+)"]).unwrap();
    let audit = Audit::open("gw", &[to_file(&path)], OnFailure::Deny, redact).unwrap();
    let kind = exec("login PASSWORD=hunter2");
    let _ = audit.commit(About::default(), kind).await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("PASSWORD=[redacted]") && !text.contains("hunter2"));
}

/// Closes when it sees something.
struct Watch {
    seen: AtomicUsize,
}

impl Auditor for Watch {
    fn on_event(&self, _: &About, kind: &Kind) -> Verdict {
        self.seen.fetch_add(1, Ordering::Relaxed);
        match *kind == exec("rm -rf /") {
            true => Verdict::Close,
            false => Verdict::Continue,
        }
    }

    fn on_bytes(&self, _: &SessionId, _: u32, direction: Direction, bytes: &[u8]) -> Verdict {
        match direction == Direction::In && bytes == b"secret" {
            true => Verdict::Close,
            false => Verdict::Continue,
        }
    }
}

#[tokio::test]
async fn an_auditor_may_close() {
    let watch = Watch {
        seen: AtomicUsize::new(0),
    };
    let audit = Audit::with_auditors(
        "gw",
        &[],
        OnFailure::Deny,
        Redact::default(),
        vec![Box::new(watch)],
    )
    .unwrap();
    let says = |kind| audit.write(About::default(), kind).unwrap();
    assert_eq!(says(exec("ls")), Verdict::Continue);
    assert_eq!(says(exec("rm -rf /")), Verdict::Close);
    let session = SessionId::random();
    let bytes = |direction, bytes: &[u8]| audit.bytes(&session, 1, direction, bytes);
    assert_eq!(bytes(Direction::In, b"secret"), Verdict::Close);
    assert_eq!(bytes(Direction::Out, b"secret"), Verdict::Continue);
}
