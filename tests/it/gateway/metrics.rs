//! The address for Prometheus and for probes, as HTTP clients see it.

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::configured::Team;
use super::says;
use crate::program::{Process, in_time, until};

/// The answer, its head included.
async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

/// The figure of this name and these labels.
fn figure(text: &str, name: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("kpf_gateway_{name} ")));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.parse().unwrap()
}

#[tokio::test]
async fn what_happens_is_counted_and_a_gateway_that_ends_is_not_ready() {
    let more = "metrics: 127.0.0.1:0\ndrain: 60s\nrecordings: {folder: recordings, min_free: 1KiB}\n\
                policy:\n  - {name: seen, users: [admin], record: best-effort}\n";
    let Some(mut team) = Team::start(more).await else {
        return;
    };
    until("it is said", || team.gateway.process.said().contains('\n')).await;
    let said = team.gateway.process.said();
    let address = said.split("Metrics and health at ").nth(1);
    let address = address.unwrap_or_else(|| panic!("{said}"));
    let address = address.lines().next().unwrap().to_owned();
    assert!(get(&address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/readyz").await.starts_with("HTTP/1.1 200"));

    team.run("stranger", &["exec", "true"]).await;
    team.run("admin", &["-l", "nothing.default", "gw", "true"])
        .await;
    std::fs::remove_dir(team.folder.join("recordings")).unwrap();
    team.run("admin", &["-tt", "exec", "true"]).await;
    team.run("admin", &["-W", "echo.default:13", "gw"]).await;
    let done = team.folder.join("done");
    let wait = format!(
        "echo ready; until [ -e {} ]; do sleep 0.05; done",
        done.display()
    );
    let mut session = Process::start(team.ssh("admin", &["exec", &wait]));
    says(&mut session, "ready").await;

    let text = get(&address, "/metrics").await;
    for (name, expected) in [
        ("connections{state=\"auth\"}", 1),
        ("sessions{backend=\"exec\",cluster=\"play\"}", 1),
        ("sessions{backend=\"jump\",cluster=\"play\"}", 0),
        ("channels{type=\"session\"}", 1),
        ("bytes_total{backend=\"jump\",dir=\"out\"}", 22),
        ("bytes_total{backend=\"exec\",dir=\"out\"}", 6),
        ("auth_total{method=\"publickey\",result=\"ok\"}", 4),
        ("target_errors_total{reason=\"denied\"}", 1),
        ("recording_failures_total", 1),
        ("limits_hit_total{limit=\"sessions\"}", 0),
    ] {
        assert_eq!(figure(&text, name), expected, "{name}: {text}");
    }
    assert!(figure(&text, "events_total{sink=\"0-file\",result=\"queued\"}") > 10);
    for word in ["admin", "web.default", "stranger"] {
        assert!(!text.contains(word), "{word}");
    }

    team.gateway.process.signal(Signal::TERM);
    until("nobody listens", || {
        std::net::TcpStream::connect(("127.0.0.1", team.gateway.port)).is_err()
    })
    .await;
    let ready = get(&address, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    assert!(ready.contains("the gateway is being stopped\n"), "{ready}");
    assert!(get(&address, "/healthz").await.starts_with("HTTP/1.1 200"));
    std::fs::write(done, "").unwrap();
    assert_eq!(session.code().await, 0);
    assert_eq!(team.gateway.process.code().await, 143);
}
