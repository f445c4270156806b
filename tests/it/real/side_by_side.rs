//! The same command lines, run by kubectl and by kpf against a Kubernetes that nobody here wrote.

use std::path::Path;

use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::{NOBODY, Real};
use crate::differences::{Tally, forward};
use crate::forward::Forward;
use crate::program::{in_time, run};
use crate::side_by_side::{Exchange, port_forward, see};
use crate::tools;

/// kubectl's and kpf's command for the same words. Both fall back to SPDY.
fn both<Guard>(real: &Real<Guard>, kubectl: &Path, words: &str) -> [Command; 2] {
    let programs = [real.command(kubectl), real.kpf(&[])];
    programs.map(|command| port_forward(command, "true", words))
}

/// What each pod and port there is does, by every way to name it; the node of this cluster ends a forward a second after
/// the service.
#[tokio::test]
async fn forwards_look_and_end_alike() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let tally = Tally::default();
    let echo = Exchange::Echo(8 << 20);
    for kubectl in tools::kubectls() {
        for (words, lines, exchange, signal) in [
            ("pod/echo :7", 2, echo, Signal::INT),
            ("echo :echo --address=127.0.0.1", 1, echo, Signal::TERM),
            ("pod/echo :1013", 2, Exchange::Daytime, Signal::HUP),
            ("pods/echo :1021 --address=::1", 1, echo, Signal::INT),
            ("pod/web :80", 2, Exchange::Page, Signal::INT),
            ("web 0:http -n team-b", 2, Exchange::Page, Signal::INT),
            ("svc/web :8080", 2, Exchange::Page, Signal::INT),
            ("service/web :http", 2, Exchange::Page, Signal::INT),
            ("svc/echo :named --address=127.0.0.1", 1, echo, Signal::INT),
            ("svc/headless :7 --address=127.0.0.1", 1, echo, Signal::INT),
            (
                "pod/echo :1013 :1013 --address localhost,127.0.0.2",
                6,
                Exchange::Daytime,
                Signal::INT,
            ),
            (
                "pod/echo :1013 --context create-only",
                2,
                Exchange::Daytime,
                Signal::INT,
            ),
            (
                "pod/echo :1013 --context cert",
                2,
                Exchange::Daytime,
                Signal::INT,
            ),
        ] {
            let [theirs, ours] = both(&real, &kubectl, words);
            let theirs = see(theirs, lines, exchange, signal).await;
            let ours = see(ours, lines, exchange, signal).await;
            assert_eq!(ours, theirs, "{words}, {}", kubectl.display());
            tally.count(None);
        }
    }
    tally.print("forward, real");
}

#[tokio::test]
async fn failures_have_the_same_code_and_words() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let tally = Tally::default();
    for kubectl in tools::kubectls() {
        for (words, part) in [
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
            (
                "svc/echo :99",
                "error: Service echo does not have a service port 99",
            ),
            (
                "svc/echo :nothing",
                "error: Service 'echo' does not have a named port 'nothing'",
            ),
            (
                "pod/echo :nothing",
                "error: Pod 'echo' does not have a named port 'nothing'",
            ),
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
            (
                "pod/echo :7 --context viewer",
                "forbidden: User \"viewer\" cannot create resource \"pods/portforward\"",
            ),
            (
                "pod/echo :7 --token=wrong --context create-only",
                "You must be logged in to the server",
            ),
        ] {
            let mut said = Vec::new();
            for command in both(&real, &kubectl, words) {
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
    tally.print("forward, real, failures");
}

/// kubectl 1.37 and 1.32 do; 1.20 survives it. See the playground's test of the same name for more.
#[tokio::test]
async fn a_refused_connection_is_the_end_for_kubectl_only() {
    let Some(real) = Real::shared().await else {
        return;
    };
    let tally = Tally::default();
    for kubectl in tools::kubectls() {
        let words = format!("pod/echo :{NOBODY} :7 --address=127.0.0.1");
        let [theirs, ours] = both(&real, &kubectl, &words);
        let mut theirs = Forward::start(theirs, 2).await;
        let mut tcp = theirs.connect(0).await;
        assert_eq!(in_time(tcp.read(&mut [0])).await.unwrap(), 0);
        assert_eq!(theirs.process.end().await.code, 1);

        let ours = Forward::start(ours, 2).await;
        let mut tcp = ours.connect(0).await;
        let error = in_time(tcp.read(&mut [0])).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        in_time(Exchange::Echo(1000).by(ours.connect(1).await)).await;
        ours.interrupt().await;
        tally.count(Some(forward::FAILURE));
    }
    tally.print("forward, real, a refused connection");
}
