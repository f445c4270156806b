//! The same command lines, run by kubectl and by kpf: what scripts see must be the same.

use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::differences::{Tally, forward};
use crate::forward::{Forward, free_port};
use crate::playground::kubeconfig;
use crate::program::{Ended, Noise, Process, TestEnv, digest_of, in_time, run};
use crate::tools;

/// What `KUBECTL_PORT_FORWARD_WEBSOCKETS` may be.
const WEBSOCKETS: [&str; 2] = ["true", "false"];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Exchange {
    /// A small request, a small answer without its headers, and the pod's end.
    Page,
    /// One line without being asked, and the pod's end.
    Daytime,
    /// The same bytes back.
    Echo(usize),
    /// A count and so many counters up, and a verdict.
    Verify(u64),
}

impl Exchange {
    /// What came back; for an echo its digest.
    pub(crate) async fn by(self, mut tcp: TcpStream) -> String {
        let mut answer = String::new();
        match self {
            Self::Page => {
                tcp.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            }
            Self::Daytime => {}
            Self::Echo(length) => {
                // the writer stays open: a node gives an answer little time after an end
                let (mut reader, mut writer) = tcp.into_split();
                let (heard, sent) = tokio::join!(
                    digest_of(&mut reader, length),
                    Noise::new(length).write_to(&mut writer)
                );
                let heard = heard.unwrap();
                assert_eq!(heard, sent.unwrap());
                return heard;
            }
            Self::Verify(count) => {
                let counters = [count].into_iter().chain(0..count);
                let bytes: Vec<u8> = counters.flat_map(u64::to_be_bytes).collect();
                tcp.write_all(&bytes).await.unwrap();
            }
        }
        tcp.read_to_string(&mut answer).await.unwrap();
        match answer.split_once("\r\n\r\n") {
            Some((_date, body)) => body.to_owned(),
            None => answer,
        }
    }
}

/// What a script sees of a forward.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    lines: Vec<String>,
    /// For each listening address, what came back and the line that the connection brought.
    connections: Vec<(String, String)>,
    rest: Vec<u8>,
    code: i32,
}

/// Puts `LOCAL` in place of a port that was chosen at random.
fn normalized(line: &str, port: u16) -> String {
    line.replacen(&port.to_string(), "LOCAL", 1)
}

pub(crate) async fn see(
    command: Command,
    lines: usize,
    exchange: Exchange,
    signal: Signal,
) -> Seen {
    let mut forward = Forward::start(command, lines).await;
    let mut connections = Vec::new();
    for index in 0..lines {
        let answer = in_time(exchange.by(forward.connect(index).await)).await;
        let line = forward.process.line().await;
        connections.push((answer, normalized(&line, forward.places[index].port())));
    }
    let pairs = forward.lines.iter().zip(&forward.places);
    let lines = pairs
        .map(|(line, place)| normalized(line, place.port()))
        .collect();
    forward.process.signal(signal);
    let Ended { code, stdout, .. } = forward.process.end().await;
    Seen {
        lines,
        connections,
        rest: stdout,
        code,
    }
}

/// kubectl's and kpf's command for the same words.
fn both(env: &TestEnv, kubectl: &Path, websockets: &str, words: &str) -> [Command; 2] {
    let programs = [env.command(kubectl), env.kpf::<&str>([])];
    programs.map(|command| port_forward(command, websockets, words))
}

/// The command of one of them.
pub(crate) fn port_forward(mut program: Command, websockets: &str, words: &str) -> Command {
    program
        .arg("port-forward")
        .args(words.split_whitespace())
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
    program
}

fn env() -> TestEnv {
    let env = TestEnv::new();
    // the second that a node takes to end a forward is no matter of these
    env.playground
        .behave(|behaviour| behaviour.grace = Duration::from_millis(10));
    env
}

#[tokio::test]
async fn forwards_look_and_end_alike() {
    let env = env();
    let tally = Tally::default();
    for kubectl in tools::kubectls() {
        for websockets in WEBSOCKETS {
            let port = free_port();
            for (words, lines, exchange, signal) in [
                ("pod/web :80", 2, Exchange::Page, Signal::INT),
                ("web 0:80", 2, Exchange::Page, Signal::TERM),
                (
                    &format!("pod/web {port}:8080"),
                    2,
                    Exchange::Page,
                    Signal::HUP,
                ),
                (
                    &format!("pod/web {port}:http"),
                    2,
                    Exchange::Page,
                    Signal::INT,
                ),
                ("pods/many :metrics", 2, Exchange::Page, Signal::INT),
                ("svc/web :http", 2, Exchange::Page, Signal::INT),
                ("service/web :81", 2, Exchange::Page, Signal::INT),
                ("svc/headless :80", 2, Exchange::Page, Signal::INT),
                ("sts/db :80 -n team-b", 2, Exchange::Page, Signal::INT),
                ("ds/agent :13 :13", 4, Exchange::Daytime, Signal::INT),
                (
                    "pod/echo :7 --address=127.0.0.1",
                    1,
                    Exchange::Echo(8 << 20),
                    Signal::INT,
                ),
                (
                    "pod/echo :1005 --address=::1",
                    1,
                    Exchange::Verify(1 << 18),
                    Signal::INT,
                ),
                (
                    "pod/echo :13 --address localhost,127.0.0.2",
                    3,
                    Exchange::Daytime,
                    Signal::INT,
                ),
                (
                    "pod/echo :13 --context playground-cert",
                    2,
                    Exchange::Daytime,
                    Signal::INT,
                ),
                (
                    "pod/echo :13 --context playground-plugin",
                    2,
                    Exchange::Daytime,
                    Signal::INT,
                ),
                (
                    "pod/echo :13 --context playground-create-only",
                    2,
                    Exchange::Daytime,
                    Signal::INT,
                ),
                (
                    "pod/echo :13 --as create-only",
                    2,
                    Exchange::Daytime,
                    Signal::INT,
                ),
            ] {
                let [theirs, ours] = both(&env, &kubectl, websockets, words);
                let theirs = see(theirs, lines, exchange, signal).await;
                let ours = see(ours, lines, exchange, signal).await;
                assert_eq!(ours, theirs, "{words}, {} {websockets}", kubectl.display());
                tally.count(None);
            }
        }
    }
    tally.print("forward");
}

#[tokio::test]
async fn failures_have_the_same_code_and_words() {
    let env = env();
    let tally = Tally::default();
    let [viewer, wrong] = ["viewer", "wrong"].map(kubeconfig::context);
    let viewer = format!("pod/web :80 --context {viewer}");
    let wrong = format!("pod/web :80 --context {wrong}");
    for kubectl in tools::kubectls() {
        for (words, part) in [
            (
                "",
                "TYPE/NAME and list of ports are required for port-forward",
            ),
            (
                "pod/web",
                "TYPE/NAME and list of ports are required for port-forward",
            ),
            (
                "pod/nothing :80",
                "Error from server (NotFound): pods \"nothing\" not found",
            ),
            (
                "svc/nothing :80",
                "Error from server (NotFound): services \"nothing\" not found",
            ),
            (
                "deploy/nothing :80",
                "Error from server (NotFound): deployments.apps \"nothing\" not found",
            ),
            ("pod/web :80 -n nowhere", "\" not found"),
            (
                "svc/web :99",
                "error: Service web does not have a service port 99",
            ),
            (
                "svc/web :nothing",
                "error: Service 'web' does not have a named port 'nothing'",
            ),
            (
                "pod/web :nothing",
                "error: Pod 'web' does not have a named port 'nothing'",
            ),
            ("svc/dns :53", "error: UDP protocol is not supported for 53"),
            ("svc/external :80", "Service is defined without a selector"),
            (
                "pod/done :80",
                "error: unable to forward port because pod is not running. Current status=Succeeded",
            ),
            (
                "pod/pending :80 --pod-running-timeout=1s",
                "error: unable to forward port because pod is not running. Current status=Pending",
            ),
            (
                "deploy/empty :80 --pod-running-timeout=1s",
                "timed out waiting for the condition",
            ),
            ("pod/web 0", "remote port must be > 0"),
            ("pod/web 80:0", "remote port must be > 0"),
            ("pod/web abc!:80", "error parsing local port 'abc!'"),
            ("pod/web 65536", "65536"),
            ("pod/web :80 --address nohost", "nohost is not a valid IP"),
            (
                "pod/web :80 --pod-running-timeout=0s",
                "--pod-running-timeout must be higher than zero",
            ),
            ("pod/web :80 --context nothing", "nothing"),
            (
                &viewer,
                "forbidden: User \"viewer\" cannot create resource \"pods/portforward\"",
            ),
            (&wrong, "You must be logged in to the server"),
            (
                "pod/web :80 -s https://127.0.0.1:1",
                "The connection to the server 127.0.0.1:1 was refused - did you specify the right host or port?",
            ),
        ] {
            let mut said = Vec::new();
            for command in both(&env, &kubectl, "true", words) {
                let what = format!("{words}, {:?}", command.as_std().get_program());
                let ended = run(command).await;
                let stdout = String::from_utf8_lossy(&ended.stdout);
                assert_eq!(
                    (ended.code, &stdout[..]),
                    (1, ""),
                    "{what}: {}",
                    ended.stderr
                );
                assert!(ended.stderr.contains(part), "{what}: {}", ended.stderr);
                said.push(ended.stderr);
            }
            // what kpf says more, or in a line less
            tally.count(Some(forward::LINES).filter(|_| said[0] != said[1]));
        }
    }
    tally.print("forward, failures");
}

/// What becomes of a command line.
#[derive(Debug, PartialEq)]
enum Outcome {
    Fails(i32),
    /// The lines of `Forwarding from`.
    Forwards(Vec<String>),
}

impl Outcome {
    async fn of(command: Command, lines: usize) -> Self {
        let mut process = Process::start(command);
        let mut said = Vec::new();
        for _ in 0..lines.max(1) {
            match process.line().await {
                line if line.is_empty() => return Self::Fails(process.code().await),
                line => said.push(line),
            }
        }
        process.signal(Signal::INT);
        assert_eq!(
            process.end().await.stdout,
            b"",
            "more lines than were expected"
        );
        Self::Forwards(said)
    }
}

#[tokio::test]
async fn what_differs_is_meant_to() {
    let env = env();
    let tally = Tally::default();
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = occupied.local_addr().unwrap().port();
    let [a, b] = [free_port(), free_port()];
    let fails = || Outcome::Fails(1);
    let forwards = |pairs: &[(u16, u16)]| {
        let line = |(local, remote)| format!("Forwarding from 127.0.0.1:{local} -> {remote}\n");
        Outcome::Forwards(pairs.iter().copied().map(line).collect())
    };
    // the words, what kubectl does, what kpf does, and why
    let differences = [
        (
            format!("pod/web {a}:80:90"),
            forwards(&[(a, a)]),
            fails(),
            forward::THREE_PORTS,
        ),
        (
            format!("pod/web {taken}:80 {a}:80"),
            forwards(&[(a, 80)]),
            fails(),
            forward::PARTIAL,
        ),
        (
            format!("pod/web 127.0.0.1:{a}:80"),
            fails(),
            forwards(&[(a, 80)]),
            forward::ADDRESS,
        ),
        (
            format!("team-b/web {a}:80"),
            fails(),
            forwards(&[(a, 80)]),
            forward::TARGETS,
        ),
        (
            format!("web.team-b.kpf {a}:80"),
            fails(),
            forwards(&[(a, 80)]),
            forward::TARGETS,
        ),
        (
            format!("pod/web {a}:80 pod/echo {b}:7"),
            fails(),
            forwards(&[(a, 80), (b, 7)]),
            forward::TARGETS,
        ),
    ];
    for kubectl in tools::kubectls() {
        for (words, theirs, ours, why) in &differences {
            let words = format!("{words} --address=127.0.0.1");
            let [kubectl, kpf] = both(&env, &kubectl, "true", &words);
            let lines = |outcome: &Outcome| match outcome {
                Outcome::Fails(_) => 0,
                Outcome::Forwards(lines) => lines.len(),
            };
            let did = Outcome::of(kubectl, lines(theirs)).await;
            assert_eq!(&did, theirs, "kubectl {words}");
            let did = Outcome::of(kpf, lines(ours)).await;
            assert_eq!(&did, ours, "kpf {words}: {}", why.why);
            tally.count(Some(why));
        }
    }
    tally.print("forward, differences");
    drop(occupied);
}

/// kubectl ends with all its forwards when one connection is refused, and the peer of that one sees an end that
/// could be an empty answer. In kpf one failure is one failure, and looks like one.
#[tokio::test]
async fn a_refused_connection_is_the_end_for_kubectl_only() {
    let env = env();
    let tally = Tally::default();
    for kubectl in tools::kubectls() {
        for websockets in WEBSOCKETS {
            let words = "pod/echo :1006 :7 --address=127.0.0.1";
            let [theirs, ours] = both(&env, &kubectl, websockets, words);
            let mut theirs = Forward::start(theirs, 2).await;
            let mut tcp = theirs.connect(0).await;
            assert_eq!(in_time(tcp.read(&mut [0])).await.unwrap(), 0);
            let ended = theirs.process.end().await;
            assert_eq!(ended.code, 1);
            assert!(
                ended.stderr.contains("error: lost connection to pod"),
                "{}",
                ended.stderr
            );

            let ours = Forward::start(ours, 2).await;
            let mut tcp = ours.connect(0).await;
            let error = in_time(tcp.read(&mut [0])).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            in_time(Exchange::Echo(1000).by(ours.connect(1).await)).await;
            ours.interrupt().await;
            tally.count(Some(forward::FAILURE));
        }
    }
    tally.print("forward, a refused connection");
}
