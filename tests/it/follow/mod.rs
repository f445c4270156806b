//! `cluster::follow` against the playground: what it sees of pods that come and go, and what it asks for that.

mod failures;

use std::sync::Arc;
use std::time::Duration;

use kpf::cluster::follow::{Candidate, Follower, Trouble, View};
use kpf::cluster::target::Endpoint;
use kpf::cluster::{self, Cluster};
use serde_json::json;
use tokio::time::timeout;

use crate::playground::objects::{Pod, container, service};
use crate::playground::{Options, Playground, kubeconfig};
use crate::program::{DEADLINE, until};

struct Following {
    playground: Playground,
    follower: Follower,
    last: Arc<View>,
}

impl Following {
    fn begin(target: &str, ports: &str) -> Self {
        let playground = Playground::start(Options::default()).expect("a playground");
        Self::of(playground, "admin", target, ports)
    }

    fn of(playground: Playground, user: &str, target: &str, ports: &str) -> Self {
        let options = cluster::Options {
            kubeconfig: Some(playground.kubeconfig()),
            context: Some(kubeconfig::context(user)),
            ..cluster::Options::default()
        };
        Self::with(playground, &options, target, ports)
    }

    fn with(playground: Playground, options: &cluster::Options, target: &str, ports: &str) -> Self {
        let cluster = Cluster::load(options).expect("a cluster");
        let ports: Vec<_> = ports.split(' ').map(|port| port.parse().unwrap()).collect();
        let follower = cluster.follow(&target.parse().unwrap(), &ports).unwrap();
        Self {
            playground,
            last: follower.view(),
            follower,
        }
    }

    /// The first view from now on that is as wished.
    async fn view(&mut self, wish: impl Fn(&View) -> bool) -> Arc<View> {
        let waiting = async {
            while !wish(&self.last) {
                let next = self.follower.changed().await;
                assert!(next.generation > self.last.generation);
                self.last = next;
            }
        };
        if timeout(DEADLINE, waiting).await.is_err() {
            panic!("only {:#?}", self.last);
        }
        self.last.clone()
    }

    /// When all is well and watched.
    async fn settled(&mut self, watches: usize) -> Arc<View> {
        let view = self.view(|view| view.settled && view.trouble.is_none());
        let view = view.await;
        self.watches(watches).await;
        view
    }

    async fn watches(&self, count: usize) {
        let watches = || self.playground.watches().len() == count;
        until("as many watches", watches).await;
    }

    /// What was asked for, without the parameters that are in every watch.
    fn asked(&self) -> Vec<String> {
        let requests = self.playground.requests().into_iter();
        let requests = requests.map(|request| {
            let query = request.uri.query().unwrap_or_default();
            match query.contains("watch=true") {
                true => format!("watch {}", request.path()),
                false => format!("read {}", request.path()),
            }
        });
        requests.collect()
    }
}

fn ready(view: &View) -> Vec<&str> {
    let ready = view.candidates.iter().filter(|pod| pod.ready);
    ready.map(|pod| &*pod.pod.name).collect()
}

fn names(view: &View) -> Vec<&str> {
    view.candidates.iter().map(|pod| &*pod.pod.name).collect()
}

fn port(pod: &Candidate) -> Result<u16, String> {
    match &pod.ports[0] {
        Ok(port) => match port.endpoint {
            Endpoint::Port(number) => Ok(number.get()),
            ref other => panic!("{other}"),
        },
        Err(error) => Err(error.clone()),
    }
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn a_pod_is_watched_and_nothing_is_polled() {
    let mut following = Following::begin("echo", "7 echo nothing");
    let view = following.settled(1).await;
    assert_eq!(ready(&view), ["echo"]);
    let first = view.candidates[0].clone();
    assert!(first.running && !first.terminating);
    assert_eq!(first.ports[0], first.ports[1]);
    let missing = first.ports[2].as_ref().unwrap_err();
    assert!(missing.starts_with("Pod 'echo' does not have a named port 'nothing'"));

    let watch = following.playground.watches()[0].to_string();
    let seconds = watch.split("timeoutSeconds=").nth(1).unwrap();
    let seconds: u32 = seconds.split('&').next().unwrap().parse().unwrap();
    assert!((180..290).contains(&seconds), "{watch}");
    for part in [
        "fieldSelector=metadata.name%3Decho",
        "allowWatchBookmarks=true",
    ] {
        assert!(watch.contains(part), "{watch}");
    }

    following.playground.set_ready("default", "echo", false);
    let view = following.view(|view| ready(view).is_empty()).await;
    assert!(view.candidates[0].running);
    following.playground.set_ready("default", "echo", true);
    following.view(|view| ready(view) == ["echo"]).await;
    // the other pods are none of its affair
    following.playground.set_ready("default", "web", false);

    let grace = Duration::from_millis(50);
    following.playground.terminate_pod("default", "echo", grace);
    let going = |view: &View| {
        view.candidates
            .iter()
            .any(|pod| pod.terminating && !pod.ready)
    };
    following.view(going).await;
    let gone = following.view(|view| view.candidates.is_empty()).await;
    let trouble = gone.trouble.as_ref().expect("it is gone");
    assert_eq!(trouble.to_string(), "pod `echo` is deleted");
    assert!(!trouble.is_final());
    let successor = Pod::new("default", "echo", "echo").object();
    following.playground.apply(successor);
    let view = following.view(|view| ready(view) == ["echo"]).await;
    assert!(view.trouble.is_none());
    assert_ne!(view.candidates[0].pod.uid, first.pod.uid);

    following.playground.replace_pod("default", "echo");
    let second = view.candidates[0].pod.uid.clone();
    let other = |view: &View| view.candidates.iter().any(|pod| pod.pod.uid != second);
    following.view(other).await;
    assert_eq!(
        following.asked(),
        [format!("read {PODS}"), format!("watch {PODS}")]
    );
}

#[tokio::test]
async fn a_rollout_leads_to_the_new_pods_without_a_gap() {
    let mut following = Following::begin("deploy/web", "http");
    let old = following.settled(2).await;
    assert_eq!(ready(&old).len(), 2);
    let grace = Duration::from_millis(20);
    let mut new = following.playground.roll("default", "web", grace);
    new.sort_unstable();
    loop {
        let view = following.last.clone();
        assert!(!ready(&view).is_empty(), "{view:#?}");
        let mut found = names(&view);
        found.sort_unstable();
        if found == new {
            break;
        }
        following
            .view(|later| later.generation > view.generation)
            .await;
    }
    assert_eq!(following.asked().len(), 4, "{:?}", following.asked());

    following.playground.remove("Deployment", "default", "web");
    let view = following.view(|view| view.trouble.is_some()).await;
    assert!(matches!(view.trouble, Some(Trouble::Deleted(_))));
    assert_eq!(
        view.trouble.as_ref().unwrap().to_string(),
        "deployment `web` is deleted"
    );
    assert_eq!(ready(&view).len(), 2);
}

#[tokio::test]
async fn every_kind_leads_to_its_pods() {
    for (target, pods) in [
        ("rs/web", 2),
        ("sts/db", 2),
        ("ds/agent", 1),
        ("job/task", 1),
        ("rc/old", 1),
        ("deploy/empty", 0),
    ] {
        let mut following = Following::begin(target, "80");
        let view = following.settled(2).await;
        assert_eq!(ready(&view).len(), pods, "{target}");
    }
}

#[tokio::test]
async fn a_services_pods_are_ready_when_its_endpoints_say_so() {
    let mut following = Following::begin("svc/web", "http");
    let view = following.settled(3).await;
    assert_eq!(ready(&view)[0], "web");
    assert_eq!(port(&view.candidates[0]), Ok(8080));

    // a port of the same name and another number
    let mut other = Pod::new("default", "other", "web");
    other.containers = vec![container("main", &[("http", 9999, "TCP")])];
    following.playground.apply(other.object());
    let with_other = |view: &View| ready(view).contains(&"other");
    let view = following.view(with_other).await;
    let other = view.candidates.iter().find(|pod| pod.pod.name == "other");
    assert_eq!(port(other.unwrap()), Ok(9999));

    following.playground.set_ready("default", "web", false);
    following.view(|view| !ready(view).contains(&"web")).await;
    let grace = Duration::from_secs(3600);
    following
        .playground
        .terminate_pod("default", "other", grace);
    let view = following.view(|view| !ready(view).contains(&"other")).await;
    let last = view.candidates.last().expect("a pod");
    assert!(last.pod.name == "other" && last.terminating && last.running);

    // from blue to green
    let ports = json!([{ "name": "http", "port": 80, "targetPort": 7, "protocol": "TCP" }]);
    following
        .playground
        .apply(service("default", "web", Some("echo"), ports));
    let view = following.view(|view| ready(view) == ["echo"]).await;
    assert_eq!(names(&view), ["echo"]);
    assert_eq!(port(&view.candidates[0]), Ok(7));
    following.watches(3).await;
}

#[tokio::test]
async fn endpoints_lead_to_pods_without_a_selector() {
    let playground = Playground::start(Options::default()).expect("a playground");
    let ports = json!([{ "name": "http", "port": 80, "targetPort": "web", "protocol": "TCP" }]);
    playground.apply(service("default", "chosen", None, ports));
    let slice = |ready: bool| {
        json!({
            "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": { "name": "chosen-1", "namespace": "default",
                "labels": { "kubernetes.io/service-name": "chosen" } },
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
            "endpoints": [{
                "addresses": ["10.0.0.1"],
                "conditions": { "ready": ready },
                "targetRef": { "kind": "Pod", "name": "echo", "uid": "1234" },
            }],
        })
    };
    playground.apply(slice(true));
    let mut following = Following::of(playground, "admin", "svc/chosen", "80");
    let view = following.settled(2).await;
    assert_eq!(ready(&view), ["echo"]);
    assert_eq!(view.candidates[0].pod.uid.as_deref(), Some("1234"));
    assert_eq!(port(&view.candidates[0]), Ok(8080));
    following.playground.apply(slice(false));
    following.view(|view| ready(view).is_empty()).await;
}

#[tokio::test]
async fn what_was_missing_may_come() {
    let mut following = Following::begin("late", "80");
    let view = following.view(|view| view.settled).await;
    assert!(view.trouble.as_ref().is_some_and(Trouble::is_final));
    following.watches(1).await;
    following
        .playground
        .apply(Pod::new("default", "late", "late").object());
    let view = following.view(|view| ready(view) == ["late"]).await;
    assert!(view.trouble.is_none());
}

#[tokio::test]
async fn the_last_one_ends_the_watch() {
    let mut following = Following::begin("deploy/web", "80");
    following.settled(2).await;
    let clone = following.follower.clone();
    let Following {
        playground,
        follower,
        ..
    } = following;
    drop(follower);
    assert_eq!(playground.watches().len(), 2);
    drop(clone);
    until("no watch", || playground.watches().is_empty()).await;
}
