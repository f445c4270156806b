//! What following does about refusals, watches that end, and an API server that is away.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use kpf::cluster;
use kpf::cluster::follow::Trouble;
use serde_json::json;

use super::{Following, PODS, ready};
use crate::playground::faults::{Answer, Interruption, Request};
use crate::playground::objects::service;
use crate::playground::{Options, Playground};
use crate::program::until;

fn lists_pods(request: &Request) -> bool {
    let query = request.uri.query().unwrap_or_default();
    request.path() == PODS && !query.contains("watch=true")
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
    // the refusal is taken for an answer
    following.follower.refresh();
    let is_list = |line: &String| *line == format!("read {PODS}");
    let lists = || following.asked().into_iter().filter(is_list).count();
    until("a second list", || lists() == 2).await;
    let asked = following.asked();
    let slices = asked.iter().filter(|line| line.ends_with("slices"));
    assert_eq!(slices.count(), 1, "{asked:?}");
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
    // also where the list had a connection of its own, which is as dead and kept for the next one
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
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
