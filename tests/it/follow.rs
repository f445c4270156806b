//! `cluster::follow` against the playground: what it sees of pods that come and go, and what it asks for that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use kpf::cluster::follow::{Candidate, Follower, Trouble, View};
use kpf::cluster::target::Endpoint;
use kpf::cluster::{self, Cluster};
use serde_json::json;
use tokio::time::timeout;

use crate::playground::faults::{Answer, Interruption, Request};
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

fn lists_pods(request: &Request) -> bool {
    let query = request.uri.query().unwrap_or_default();
    request.path() == PODS && !query.contains("watch=true")
}

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
async fn without_a_right_to_see_endpoints_the_pods_own_word_counts() {
    let playground = Playground::start(Options::default()).expect("a playground");
    let refusal = Answer::Status {
        code: StatusCode::FORBIDDEN,
        reason: "Forbidden",
        message: "no".to_owned(),
    };
    let slices = |request: &Request| request.path().ends_with("/endpointslices");
    playground.answer(slices, usize::MAX, refusal);
    let mut following = Following::of(playground, "admin", "svc/echo", "7");
    let view = following.settled(2).await;
    assert_eq!(ready(&view), ["echo"]);
    following.playground.set_ready("default", "echo", false);
    following.view(|view| ready(view).is_empty()).await;
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
async fn what_no_waiting_cures_is_told_at_once() {
    let alias = || {
        let mut alias = service("default", "alias", None, json!([{ "port": 80 }]));
        alias["spec"]["type"] = json!("ExternalName");
        alias["spec"]["externalName"] = json!("example.org");
        alias
    };
    for (user, target, words) in [
        (
            "admin",
            "nothing",
            "Error from server (NotFound): pods \"nothing\" not found in namespace `default`",
        ),
        (
            "admin",
            "deploy/nothing",
            "Error from server (NotFound): deployments.apps \"nothing\" not found in namespace `default`",
        ),
        (
            "admin",
            "svc/web",
            "Service web does not have a service port 7",
        ),
        (
            "admin",
            "svc/external",
            "invalid service 'external': Service is defined without a selector",
        ),
        ("admin", "svc/alias", "service 'alias' is an alias"),
        (
            "stream-only",
            "echo",
            "Error from server (Forbidden): pods \"echo\" is forbidden",
        ),
        (
            "stream-only",
            "svc/web",
            "Error from server (Forbidden): services \"web\" is forbidden",
        ),
        ("wrong", "echo", "You must be logged in to the server"),
    ] {
        let playground = Playground::start(Options::default()).expect("a playground");
        playground.apply(alias());
        let port = if target == "svc/web" { "7" } else { "80" };
        let mut following = Following::of(playground, user, target, port);
        let view = following.view(|view| view.settled).await;
        let trouble = view.trouble.as_ref().expect("trouble");
        assert!(trouble.is_final(), "{trouble:?}");
        assert!(trouble.to_string().starts_with(words), "{trouble}");
        assert!(view.candidates.is_empty());
    }
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
async fn a_watch_that_ends_is_resumed_and_one_that_is_too_old_is_begun_anew() {
    let mut following = Following::begin("echo", "7");
    following.settled(1).await;
    let read = format!("read {PODS}");
    let watch = format!("watch {PODS}");
    let first = following.playground.watches();

    following.playground.set_ready("default", "echo", false);
    following.view(|view| ready(view).is_empty()).await;
    following.playground.interrupt_watches(Interruption::End);
    until("a new watch", || following.asked().len() == 3).await;
    following.watches(1).await;
    assert_eq!(following.asked(), [&*read, &watch, &watch]);
    let version = |watch: &hyper::Uri| {
        let query = watch.query().unwrap();
        let version = query.split("resourceVersion=").nth(1).unwrap();
        version.parse::<u64>().unwrap()
    };
    assert!(version(&following.playground.watches()[0]) > version(&first[0]));

    // compacted meanwhile: the watch's version is too old
    following.playground.set_ready("default", "web", false);
    following.playground.compact();
    following.playground.interrupt_watches(Interruption::End);
    until("a list and a watch", || following.asked().len() == 6).await;
    following.watches(1).await;
    assert_eq!(following.asked()[3..], [&*watch, &read, &watch]);

    following.playground.interrupt_watches(Interruption::Error {
        code: StatusCode::INTERNAL_SERVER_ERROR,
        reason: "InternalError",
        message: "etcdserver: no leader".to_owned(),
    });
    until("a list and a watch", || following.asked().len() == 8).await;
    following.watches(1).await;
    assert_eq!(following.asked()[6..], [&*read, &watch]);
    following.playground.set_ready("default", "echo", true);
    let view = following.view(|view| ready(view) == ["echo"]).await;
    assert!(view.trouble.is_none());
}

#[tokio::test]
async fn without_a_right_to_watch_it_asks_when_it_is_told_to() {
    for target in ["echo", "rs/web"] {
        let playground = Playground::start(Options::default()).expect("a playground");
        let mut following = Following::of(playground, "no-watch", target, "80");
        let view = following.view(|view| view.settled && view.trouble.is_some());
        let view = view.await;
        let trouble = view.trouble.as_ref().unwrap();
        assert!(matches!(trouble, Trouble::Unwatched(_)) && !trouble.is_final());
        let pod = ready(&view)[0].to_owned();

        following.playground.set_ready("default", &pod, false);
        let asked = following.asked().len();
        for _ in 0..100 {
            following.follower.refresh();
        }
        let view = following.view(|view| !ready(view).contains(&&*pod)).await;
        assert!(matches!(view.trouble, Some(Trouble::Unwatched(_))));
        // one more for each kind of object
        let more = following.asked().len() - asked;
        assert!(more <= 2, "{more}");
    }
}

#[tokio::test]
async fn a_role_may_be_allowed_only_to_get() {
    let playground = Playground::start(Options::default()).expect("a playground");
    let refusal = Answer::Status {
        code: StatusCode::FORBIDDEN,
        reason: "Forbidden",
        message: "pods is forbidden".to_owned(),
    };
    playground.answer(|request| request.path() == PODS, usize::MAX, refusal);
    let mut following = Following::of(playground, "admin", "echo", "7");
    let view = following
        .view(|view| view.settled && view.trouble.is_some())
        .await;
    assert_eq!(ready(&view), ["echo"]);
    assert_eq!(
        view.trouble.as_ref().unwrap().to_string(),
        "Error from server (Forbidden): pods is forbidden; asking every 30 s instead of watching"
    );
    following.playground.delete_pod("default", "echo");
    following.follower.refresh();
    let view = following.view(|view| view.candidates.is_empty()).await;
    assert!(matches!(view.trouble, Some(Trouble::Deleted(_))));
    let read = format!("read {PODS}");
    let get = format!("{read}/echo");
    assert_eq!(following.asked(), [&*read, &get, &get]);
}

#[tokio::test]
async fn it_keeps_what_it_knows_while_the_api_server_is_away() {
    let mut following = Following::begin("svc/echo", "7");
    following.settled(3).await;
    following.playground.stop();
    let view = following.view(|view| view.trouble.is_some()).await;
    assert!(
        matches!(view.trouble, Some(Trouble::Failing(_))),
        "{view:?}"
    );
    assert_eq!(ready(&view), ["echo"]);
    following.playground.resume().unwrap();
    following.settled(3).await;
    following.playground.set_ready("default", "echo", false);
    following.view(|view| ready(view).is_empty()).await;
}

#[tokio::test]
async fn a_refresh_finds_out_what_a_dead_watch_has_missed() {
    let options = Options {
        network: true,
        ..Options::default()
    };
    let playground = Playground::start(options).expect("a playground");
    let mut following = Following::of(playground, "admin", "echo", "7");
    following.settled(1).await;
    following.playground.network().forget();
    following.playground.set_ready("default", "echo", false);
    let begun = Instant::now();
    following.follower.refresh();
    following.view(|view| ready(view).is_empty()).await;
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_watch_outlives_the_request_timeout() {
    let playground = Playground::start(Options::default()).expect("a playground");
    let options = cluster::Options {
        kubeconfig: Some(playground.kubeconfig()),
        request_timeout: Some(Duration::from_millis(300)),
        ..cluster::Options::default()
    };
    let mut following = Following::with(playground, &options, "echo", "7");
    following.settled(1).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    following.playground.set_ready("default", "echo", false);
    following.view(|view| ready(view).is_empty()).await;
    assert_eq!(following.asked().len(), 2, "{:?}", following.asked());
}

#[tokio::test]
async fn a_list_that_is_refused_once_is_asked_for_again() {
    let playground = Playground::start(Options::default()).expect("a playground");
    let busy = Answer::Status {
        code: StatusCode::TOO_MANY_REQUESTS,
        reason: "TooManyRequests",
        message: "later".to_owned(),
    };
    playground.answer(lists_pods, 2, busy);
    let mut following = Following::of(playground, "admin", "echo", "7");
    let view = following.view(|view| view.trouble.is_some()).await;
    assert!(!view.settled && matches!(view.trouble, Some(Trouble::Failing(_))));
    let view = following.settled(1).await;
    assert_eq!(ready(&view), ["echo"]);
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
