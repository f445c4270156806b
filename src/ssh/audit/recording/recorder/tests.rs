use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

use super::super::Recordings;
use super::*;

const SOON: Duration = Duration::from_secs(20);

fn terminal() -> Terminal {
    Terminal {
        kind: "xterm".to_owned(),
        columns: 80,
        rows: 24,
    }
}

/// Wherever the tests' folder is, it may be nearly full.
fn anywhere() -> Config {
    Config {
        min_free: 0,
        ..Config::default()
    }
}

async fn begin(folder: &Path, config: Config, policy: Policy) -> Result<Recorder, Failure> {
    let recordings = Recordings::open(folder, config).unwrap();
    let begun = recordings.begin(policy, SessionId::random(), 0, terminal());
    begun.await.map(|recorder| recorder.expect("it is on"))
}

async fn end(recorder: Recorder) -> Summary {
    timeout(SOON, recorder.finish(Exit::Code(0))).await.unwrap()
}

fn sha256(bytes: &[u8]) -> Option<String> {
    Some(hex(digest::digest(&digest::SHA256, bytes).as_ref()))
}

#[tokio::test]
async fn a_recording_has_all_in_order_and_a_checksum() {
    let folder = TempDir::new().unwrap();
    let recorder = begin(folder.path(), anywhere(), Policy::Required)
        .await
        .unwrap();
    let mut shown = String::new();
    for number in 0..500 {
        let line = format!("line {number}: {}\r\n", "ü".repeat(100));
        shown += &line;
        for piece in line.as_bytes().chunks(33) {
            let piece = Bytes::copy_from_slice(piece);
            recorder.data(Direction::Out, piece).await.unwrap();
        }
    }
    recorder
        .data(Direction::In, "hunter2\r".into())
        .await
        .unwrap();
    recorder.resize(100, 50).await.unwrap();
    let path = folder.path().join(recorder.name());
    let summary = end(recorder).await;
    let file = fs::read(&path).unwrap();
    assert_eq!(summary.sha256, sha256(&file));
    assert_eq!(
        (summary.bytes, &summary.incomplete),
        (file.len() as u64, &None)
    );
    let text = String::from_utf8(file).unwrap();
    let mut seen = String::new();
    for line in text.lines().skip(1) {
        let (_, code, text): (f64, String, String) = serde_json::from_str(line).unwrap();
        if code == "o" {
            seen += &text;
        }
    }
    assert_eq!(seen, shown);
    assert!(text.ends_with(", \"x\", \"0\"]\n") && text.contains("\"r\", \"100x50\""));
    assert!(!text.contains("hunter2"), "what is typed is not recorded");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn what_is_typed_is_recorded_on_demand() {
    let folder = TempDir::new().unwrap();
    let config = Config {
        input: true,
        ..anywhere()
    };
    let recorder = begin(folder.path(), config, Policy::BestEffort)
        .await
        .unwrap();
    recorder.data(Direction::In, "ls\r".into()).await.unwrap();
    let summary = end(recorder).await;
    let text = fs::read_to_string(folder.path().join(summary.name)).unwrap();
    assert!(text.contains(r#""i", "ls\r""#), "{text}");
}

async fn fill(recorder: &Recorder) -> Result<(), Failure> {
    for _ in 0..1000 {
        recorder
            .data(Direction::Out, vec![b'x'; 1000].into())
            .await?;
    }
    Ok(())
}

fn small() -> Config {
    Config {
        max_bytes: 10_000,
        ..anywhere()
    }
}

#[tokio::test]
async fn a_required_recording_that_is_too_large_ends_the_channel() {
    let folder = TempDir::new().unwrap();
    let recorder = begin(folder.path(), small(), Policy::Required)
        .await
        .unwrap();
    let why = fill(&recorder).await.unwrap_err();
    assert_eq!(why, Failure::TooLarge(10_000));
    assert_eq!(timeout(SOON, recorder.failed()).await.unwrap(), why);
    let typed = recorder.data(Direction::In, "x".into()).await;
    assert_eq!(typed, Err(why.clone()), "nor may anything be typed");
    let summary = end(recorder).await;
    assert_eq!(summary.incomplete, Some(why));
}

#[tokio::test]
async fn any_other_stops_with_a_marker_and_the_channel_goes_on() {
    let folder = TempDir::new().unwrap();
    let recorder = begin(folder.path(), small(), Policy::BestEffort)
        .await
        .unwrap();
    fill(&recorder).await.unwrap();
    let summary = end(recorder).await;
    assert_eq!(summary.incomplete, Some(Failure::TooLarge(10_000)));
    let file = fs::read(folder.path().join(&summary.name)).unwrap();
    assert_eq!(
        (summary.bytes, summary.sha256),
        (file.len() as u64, sha256(&file))
    );
    let text = String::from_utf8(file).unwrap();
    let last = text.lines().last().unwrap();
    assert!(
        last.contains("\"m\", \"recording stopped: the recording has reached"),
        "{last}"
    );
    assert!(text.len() < 10_200, "{}", text.len());
}

#[tokio::test]
async fn without_space_or_a_directory_nothing_begins() {
    let folder = TempDir::new().unwrap();
    let greedy = Config {
        min_free: u64::MAX,
        ..anywhere()
    };
    let why = begin(folder.path(), greedy, Policy::Required)
        .await
        .unwrap_err();
    assert_eq!(why, Failure::NoSpace(u64::MAX));

    // A file where the year's directory has to be.
    let year = jiff::Timestamp::now().to_string()[..4].to_owned();
    fs::remove_dir_all(folder.path().join(&year)).unwrap();
    fs::write(folder.path().join(year), "").unwrap();
    let config = anywhere();
    let why = begin(folder.path(), config, Policy::Required)
        .await
        .unwrap_err();
    assert!(matches!(why, Failure::Create { .. }), "{why}");
    let recorder = begin(folder.path(), config, Policy::BestEffort)
        .await
        .unwrap();
    fill(&recorder).await.unwrap();
    assert_eq!(end(recorder).await.incomplete, Some(why));
    assert!(Recordings::open(&folder.path().join("no"), config).is_err());
}

/// A pipe in place of the file: it takes 64 KiB, and then nothing until it is read.
fn stuck() -> (Output, io::PipeReader) {
    let (reader, writer) = io::pipe().unwrap();
    let output = Output {
        store: Arc::new(Store::open(Path::new("/")).unwrap()),
        file: std::os::fd::OwnedFd::from(writer).into(),
        hash: digest::Context::new(&digest::SHA256),
        bytes: 0,
        max_bytes: u64::MAX,
        min_free: 0,
        look_at: 0,
    };
    (output, reader)
}

fn with_output(output: Output, required: bool) -> Recorder {
    let (queue, pieces) = mpsc::channel(QUEUE);
    let failure = Arc::new(watch::Sender::new(None));
    let (encoder, _) = Encoder::new(super::super::Format::V3, &terminal(), 0);
    let writer = Writer {
        name: "x".to_owned(),
        begin: Instant::now(),
        encoder,
        output: Some(output),
        bytes: 0,
        pieces,
        failure: failure.clone(),
    };
    Recorder {
        name: "x".to_owned(),
        required,
        queue,
        input: false,
        failure,
        task: tokio::spawn(writer.run()),
    }
}

#[tokio::test]
async fn a_required_recording_on_a_stuck_disk_fails_after_five_seconds() {
    let (output, reader) = stuck();
    let recorder = with_output(output, true);
    let begin = Instant::now();
    let half = vec![b'x'; 100_000];
    recorder.data(Direction::Out, half.into()).await.unwrap();
    // Nothing else happens on the channel.
    let why = timeout(SOON, recorder.failed()).await.unwrap();
    assert_eq!(why, Failure::Behind);
    assert!(begin.elapsed() >= BEHIND);
    drop(reader);
    let summary = end(recorder).await;
    assert_eq!((summary.sha256, summary.incomplete), (None, Some(why)));
}

#[tokio::test]
async fn any_other_on_a_stuck_disk_holds_its_user_up_for_a_second_once() {
    let (output, reader) = stuck();
    let recorder = with_output(output, false);
    let begin = Instant::now();
    for _ in 0..10 {
        fill(&recorder).await.unwrap();
    }
    assert!(begin.elapsed() < BEHIND, "{:?}", begin.elapsed());
    drop(reader);
    assert_eq!(end(recorder).await.incomplete, Some(Failure::Behind));
}
