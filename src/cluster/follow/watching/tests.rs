//! Listing and watching on a scripted API server: what is asked for, when, and what is told.

use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::cluster::follow::facts::{PodFacts, Question};
use crate::cluster::scripted::{Exchange, Script, answers, is_silent, refuses, server, watches};
use crate::cluster::target::pod;

const LIST: &str = "/api/v1/namespaces/shop/pods?&labelSelector=app%3Dweb&limit=500";
const WATCH: &str = "/api/v1/namespaces/shop/pods?&watch=true&timeoutSeconds=";

struct Watched {
    events: Events<PodFacts>,
    script: Arc<Mutex<Script>>,
    refreshes: watch::Sender<u64>,
}

impl Watched {
    /// The pods of a label.
    fn new(exchanges: Vec<Exchange>) -> Self {
        Self::of(None, Some("app=web"), exchanges)
    }

    fn of(name: Option<&str>, labels: Option<&str>, exchanges: Vec<Exchange>) -> Self {
        let (client, script) = server(exchanges);
        let which = Which {
            path: "/api/v1/namespaces/shop/pods".to_owned(),
            name: name.map(str::to_owned),
            labels: labels.map(str::to_owned),
        };
        let question = Question {
            namespace: "shop".to_owned(),
            target: "deploy/web".parse().unwrap(),
            ports: Vec::new(),
        };
        let (refreshes, asked) = watch::channel(0);
        let read = move |pod: Pod| PodFacts::read(&question, None, &pod);
        Self {
            events: events(client, which, asked, read),
            script,
            refreshes,
        }
    }

    async fn next(&mut self) -> String {
        let names = |pods: Vec<PodFacts>| {
            let names: Vec<_> = pods.iter().map(|pod| pod.name().to_owned()).collect();
            names.join(" ")
        };
        match self.events.next().await.unwrap() {
            Event::Listed(pods) => format!("listed {}", names(pods)),
            Event::Changed(pod) => format!("changed {}", pod.name()),
            Event::Removed { name, uid } => format!("removed {name} {uid}"),
            Event::Watching => "watching".to_owned(),
            Event::Unwatched(_) => "unwatched".to_owned(),
            Event::Failed(error) => format!("failed {error}"),
        }
    }

    /// The next events are these.
    #[track_caller]
    fn sees(&mut self, expected: &[&str]) -> impl Future<Output = ()> {
        let here = std::panic::Location::caller();
        async move {
            for expected in expected {
                assert_eq!(self.next().await, *expected, "{here}");
            }
        }
    }

    /// Nothing happens, except that time passes, until all expected requests were made.
    async fn quiet(&mut self) {
        let rest = timeout(Duration::from_secs(1), self.events.next());
        assert!(rest.await.is_err());
        assert!(self.script.lock().unwrap().left.is_empty());
    }

    /// How long after the first request each was made.
    fn times(&self) -> Vec<Duration> {
        let script = self.script.lock().unwrap();
        let times = script.asked.iter();
        times.map(|(time, _)| *time - script.asked[0].0).collect()
    }

    fn asked(&self, index: usize) -> String {
        self.script.lock().unwrap().asked[index].1.clone()
    }
}

fn list(version: &str, pods: Vec<Value>) -> Value {
    json!({ "metadata": { "resourceVersion": version }, "items": pods })
}

fn event(kind: &str, name: &str, version: &str) -> Value {
    let mut object = json!(pod(name, json!({})));
    object["metadata"]["resourceVersion"] = json!(version);
    object["apiVersion"] = json!("v1");
    object["kind"] = json!("Pod");
    json!({ "type": kind, "object": object })
}

fn a_pod(name: &str) -> Value {
    json!(pod(name, json!({})))
}

#[tokio::test(start_paused = true)]
async fn a_list_comes_in_pages_and_nonsense_in_it_is_ignored() {
    let mut first = list(
        "6",
        vec![
            a_pod("a"),
            json!({ "metadata": 7 }),
            json!("x"),
            json!({ "metadata": { "name": "\u{1b}[2J", "uid": "1" } }),
            json!({ "metadata": { "name": "without-uid" } }),
        ],
    );
    first["metadata"]["continue"] = json!("next+page");
    let mut last = list("7", vec![a_pod("b")]);
    last["metadata"]["continue"] = json!("");
    let mut watched = Watched::new(vec![
        answers(LIST, first),
        answers("&limit=500&continue=next%2Bpage", last),
        watches(WATCH, Vec::new()),
    ]);
    watched.sees(&["listed a b", "watching"]).await;
    watched.quiet().await;
    let watch = watched.asked(2);
    assert!(watch.ends_with("&labelSelector=app%3Dweb&allowWatchBookmarks=true&resourceVersion=7"));
}

#[tokio::test(start_paused = true)]
async fn a_list_that_changes_between_its_pages_is_begun_again() {
    let mut first = list("6", vec![a_pod("a")]);
    first["metadata"]["continue"] = json!("c");
    let mut watched = Watched::new(vec![
        answers(LIST, first),
        refuses(
            "&continue=c",
            410,
            "the provided continue parameter is too old",
        ),
        answers(LIST, list("8", vec![a_pod("b")])),
        watches(WATCH, Vec::new()),
    ]);
    watched.sees(&["listed b", "watching"]).await;
    watched.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_list_without_an_end_is_not_believed() {
    let mut endless = list("6", Vec::new());
    endless["metadata"]["continue"] = json!("c");
    let pages = (0..PAGES).map(|_| answers("&limit=500", endless.clone()));
    let mut watched = Watched::new(pages.collect());
    watched.sees(&["failed the server's list has no end"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_is_resumed_where_it_was() {
    let bookmark = json!({ "type": "BOOKMARK", "object": {
        "kind": "Pod", "apiVersion": "v1", "metadata": { "resourceVersion": "12" },
    } });
    let mut watched = Watched::new(vec![
        answers(LIST, list("7", vec![a_pod("a")])),
        watches(WATCH, vec![event("ADDED", "b", "8")])
            .line("no JSON")
            .line(r#"{ "type": "WHATEVER", "object": {} }"#)
            .line(r#"{ "type": "ADDED", "object": { "metadata": 1 } }"#)
            .line(&event("DELETED", "a", "9").to_string())
            .breaks(),
        watches(
            "&resourceVersion=9",
            vec![event("MODIFIED", "b", "10"), bookmark],
        )
        .ends(),
        watches("&resourceVersion=12", Vec::new()),
    ]);
    watched
        .sees(&["listed a", "watching", "changed b", "removed a uid-a"])
        .await;
    watched.sees(&["watching", "changed b", "watching"]).await;
    watched.quiet().await;
    let times = watched.times();
    assert!(times[3] < Duration::from_secs(1), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_without_a_word_is_not_believed_for_ever() {
    let mut watched = Watched::new(vec![
        answers(LIST, list("7", Vec::new())),
        watches(WATCH, Vec::new()),
        watches("&resourceVersion=7", Vec::new()),
    ]);
    watched.sees(&["listed ", "watching", "watching"]).await;
    watched.quiet().await;
    let asked = watched.asked(1);
    let seconds = asked
        .strip_prefix(WATCH)
        .unwrap()
        .split('&')
        .next()
        .unwrap();
    let seconds = Duration::from_secs(seconds.parse().unwrap());
    let times = watched.times();
    assert_eq!(times[2] - times[1], seconds + GRACE);
}

#[tokio::test(start_paused = true)]
async fn failures_are_followed_by_longer_and_longer_waits() {
    let mut exchanges: Vec<_> = (0..8).map(|_| refuses(LIST, 500, "boom")).collect();
    exchanges.push(answers(LIST, list("7", Vec::new())));
    exchanges.push(refuses(WATCH, 503, "soon"));
    exchanges.push(watches("&resourceVersion=7", Vec::new()));
    let mut watched = Watched::new(exchanges);
    watched.sees(&["failed Error from server: boom"; 8]).await;
    watched
        .sees(&["listed ", "failed Error from server: soon", "watching"])
        .await;
    watched.quiet().await;
    let times = watched.times();
    for (index, pair) in times.windows(2).take(8).enumerate() {
        let longest = Duration::from_millis(200 << index).min(Duration::from_secs(10));
        let waited = pair[1] - pair[0];
        // the clock of a paused test has whole milliseconds
        let fits = longest / 2..=longest + Duration::from_millis(1);
        assert!(fits.contains(&waited), "{index}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_every_watch_is_not_asked_in_a_tight_loop() {
    let mut exchanges = vec![answers(LIST, list("7", Vec::new()))];
    exchanges.extend((0..7).map(|_| watches(WATCH, Vec::new()).ends()));
    let expired = json!({ "type": "ERROR", "object": {
        "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old",
    } });
    exchanges.push(watches(WATCH, vec![expired]));
    exchanges.push(answers(LIST, list("9", Vec::new())));
    exchanges.push(watches("&resourceVersion=9", Vec::new()));
    let mut watched = Watched::new(exchanges);
    watched.sees(&["listed "]).await;
    watched.sees(&["watching"; 8]).await;
    watched.sees(&["listed ", "watching"]).await;
    watched.quiet().await;
    let times = watched.times();
    assert!(times[8] - times[1] > Duration::from_secs(6), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_waited_for_longer_each_time() {
    let mut watched = Watched::new(vec![
        is_silent(LIST),
        is_silent(LIST),
        answers(LIST, list("7", Vec::new())),
        is_silent(WATCH),
        watches("&resourceVersion=7", Vec::new()),
    ]);
    for seconds in [10, 20] {
        let failed = watched.next().await;
        assert!(
            failed.ends_with(&format!("no answer within {seconds}s")),
            "{failed}"
        );
    }
    watched.sees(&["listed "]).await;
    assert!(watched.next().await.ends_with("no answer within 40s"));
    watched.sees(&["watching"]).await;
    watched.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_right_to_watch_it_asks_now_and_then_and_tries_again() {
    let lists = || answers(LIST, list("7", Vec::new()));
    let mut exchanges = vec![lists(), refuses(WATCH, 403, "no watch")];
    exchanges.extend((0..LISTS_BEFORE_A_WATCH).map(|_| lists()));
    exchanges.push(watches(WATCH, Vec::new()));
    let mut watched = Watched::new(exchanges);
    watched.sees(&["listed ", "unwatched"]).await;
    watched
        .sees(&["listed "; LISTS_BEFORE_A_WATCH as usize])
        .await;
    watched.sees(&["watching"]).await;
    watched.quiet().await;
    let times = watched.times();
    assert_eq!((times[3] - times[2]).as_secs(), SLOW.as_secs());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_may_not_be_listed_is_got() {
    let itself = "/pods?&fieldSelector=metadata.name%3Dweb&limit=500";
    let mut watched = Watched::of(
        Some("web"),
        None,
        vec![
            refuses(itself, 403, "no list"),
            answers("/pods/web", a_pod("web")),
            refuses("/pods/web", 404, "gone"),
            refuses("/pods/web", 500, "boom"),
            answers("/pods/web", json!({ "metadata": 1 })),
        ],
    );
    watched.sees(&["listed web", "unwatched", "listed "]).await;
    watched
        .sees(&["failed Error from server: boom", "listed "])
        .await;
    watched.quiet().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_worth_a_question_now_and_then_and_401_more() {
    let mut watched = Watched::new(vec![
        refuses(LIST, 401, "Unauthorized"),
        refuses(LIST, 403, "no"),
        answers(LIST, list("7", Vec::new())),
        watches(WATCH, Vec::new()),
    ]);
    let unauthorized = "failed You must be logged in to the server (Unauthorized)";
    watched
        .sees(&[unauthorized, "failed Error from server: no"])
        .await;
    watched.sees(&["listed ", "watching"]).await;
    watched.quiet().await;
    let times = watched.times();
    assert!(times[1] - times[0] < Duration::from_secs(1), "{times:?}");
    assert_eq!((times[2] - times[1]).as_secs(), SLOW.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_lists_anew_but_not_more_than_once_a_second() {
    let mut watched = Watched::new(vec![
        answers(LIST, list("7", vec![a_pod("a")])),
        watches(WATCH, Vec::new()),
        answers(LIST, list("8", vec![a_pod("b")])),
        watches("&resourceVersion=8", Vec::new()),
    ]);
    watched.sees(&["listed a", "watching"]).await;
    for _ in 0..3 {
        watched.refreshes.send_modify(|count| *count += 1);
    }
    watched.sees(&["listed b", "watching"]).await;
    watched.quiet().await;
    let times = watched.times();
    assert_eq!((times[2] - times[0]).as_secs(), BETWEEN_LISTS.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_ends_a_wait() {
    let mut exchanges: Vec<_> = (0..7).map(|_| refuses(LIST, 500, "boom")).collect();
    exchanges.push(answers(LIST, list("7", Vec::new())));
    exchanges.push(watches(WATCH, Vec::new()));
    let mut watched = Watched::new(exchanges);
    watched.sees(&["failed Error from server: boom"; 7]).await;
    watched.refreshes.send_modify(|count| *count += 1);
    watched.sees(&["listed ", "watching"]).await;
    watched.quiet().await;
    let times = watched.times();
    assert_eq!((times[7] - times[6]).as_secs(), BETWEEN_LISTS.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_is_not_forgotten_over_an_event() {
    // so many that chance can't hide it
    let events = vec![event("MODIFIED", "a", "8"); 20];
    let mut watched = Watched::new(vec![
        answers(LIST, list("7", Vec::new())),
        watches(WATCH, events),
        answers(LIST, list("9", vec![a_pod("a")])),
        watches("&resourceVersion=9", Vec::new()),
    ]);
    watched.sees(&["listed ", "watching"]).await;
    watched.refreshes.send_modify(|count| *count += 1);
    watched.sees(&["changed a"; 20]).await;
    watched.sees(&["listed a", "watching"]).await;
    watched.quiet().await;
    let times = watched.times();
    assert_eq!((times[2] - times[0]).as_secs(), BETWEEN_LISTS.as_secs());
}

/// The connections that were kept may be dead since the machine slept.
#[tokio::test(start_paused = true)]
async fn a_refresh_does_not_wait_long_for_an_answer() {
    let mut watched = Watched::new(vec![
        answers(LIST, list("7", Vec::new())),
        watches(WATCH, Vec::new()),
        is_silent(LIST),
        is_silent(LIST),
        answers(LIST, list("8", Vec::new())),
        watches(WATCH, Vec::new()),
    ]);
    watched.sees(&["listed ", "watching"]).await;
    watched.refreshes.send_modify(|count| *count += 1);
    for seconds in [2, 4] {
        let failed = watched.next().await;
        assert!(
            failed.ends_with(&format!("no answer within {seconds}s")),
            "{failed}"
        );
    }
    watched.sees(&["listed ", "watching"]).await;
    watched.quiet().await;
}
