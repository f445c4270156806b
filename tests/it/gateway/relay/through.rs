//! The relay over real port-forward streams.

use std::num::NonZeroU16;

use kpf::cluster::target::{Endpoint, PodRef};
use kpf::cluster::{self, Cluster};
use kpf::dial::{Dialer, Exec, Route, Transport, Via};
use kpf::ssh::relay::Duplex;
use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::playground::{Options, Playground, kubeconfig};
use crate::program::{Noise, Process, digest_of, in_time, run};

async fn route(playground: &Playground, pod: &str) -> Route {
    let options = cluster::Options {
        kubeconfig: Some(playground.kubeconfig()),
        context: Some(kubeconfig::context("admin")),
        ..cluster::Options::default()
    };
    let dialer = Dialer::new(Cluster::load(&options).unwrap(), Transport::Auto);
    let pod = PodRef {
        namespace: "default".to_owned(),
        name: pod.to_owned(),
        uid: None,
    };
    let exec = Exec::default();
    let route = dialer.route(&pod, &[], Via::PortForward, &exec).await;
    route.unwrap()
}

/// A ground whose gateway leads to port 22 of a pod of a playground.
async fn ground(pod: &str) -> Option<(Ground, Playground)> {
    let mut ground = Ground::start().await?;
    let playground = Playground::start(Options::default()).unwrap();
    let authority = ground.gateway.setup.authority.clone();
    let config = playground.folder().join("sshd").join("sshd_config");
    let text = fs::read_to_string(&config).unwrap();
    let trusted = ground.path("trusted");
    fs::write(&config, format!("{text}TrustedUserCAKeys {trusted}\n")).unwrap();
    let route = route(&playground, pod).await;
    let spool = ground.folder.path().join("spool");
    ground.gateway = Gateway::start(Setup {
        dial: Box::new(move || {
            let route = route.clone();
            Box::pin(async move {
                let port = Endpoint::Port(NonZeroU16::new(22).unwrap());
                let stream = route.open(&port).await.map_err(io::Error::other)?;
                Ok(Box::new(Duplex(stream)) as Box<dyn Stream>)
            })
        }),
        authority,
        login: ground.sshd.user.clone(),
        caps: Caps::all(),
        limits: limits(&spool, Limits::CHANNEL),
        quota: Quota::default(),
        pins: Pins::default(),
    })
    .await;
    Some((ground, playground))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_sshd_is_reached_by_port_forward() {
    let Some((ground, playground)) = ground("sshd").await else {
        return;
    };
    let mut process = Process::start(ground.piped(&["pod", "cat; exit 4"]));
    let mut stdin = process.stdin.take().unwrap();
    let stdout = process.stdout.take().unwrap();
    let sending = async {
        let sent = Noise::new(20 << 20).write_to(&mut stdin).await;
        stdin.shutdown().await.unwrap();
        drop(stdin);
        sent
    };
    let (sent, heard) = tokio::join!(in_time(sending), in_time(digest_of(stdout, usize::MAX)));
    assert_eq!(heard.unwrap(), sent.unwrap());
    assert_eq!(process.code().await, 4);
    let pairs = || playground.open_pairs("default", "sshd");
    crate::program::until("its stream is closed", || pairs() == 0).await;
}

#[tokio::test]
async fn a_pod_without_an_sshd_says_so() {
    let Some((ground, _playground)) = ground("web").await else {
        return;
    };
    let ended = run(ground.ssh(&["-o", "LogLevel=INFO", "pod", "true"])).await;
    assert_eq!(ended.code, 255);
    let says = "nothing speaks SSH on port 22 of the pod (connection refused)";
    assert!(ended.stderr.contains(says), "{}", ended.stderr);
}
