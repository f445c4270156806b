//! What the playground's pods, services, servers and networks go through: other suites rely on it.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::playground::faults::Request;
use crate::playground::objects::{Pod, container, service};
use crate::playground::{Options, Playground, ports};
use crate::program::{TestEnv, in_time, run, until};
use crate::tools;
use crate::upgrade::{self, End};
use crate::watches::{PODS, SLICES, json_of, types, version, watched};

const PATH: &str = "/api/v1/namespaces/default/pods/echo/portforward";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// For what must not happen.
const A_WHILE: Duration = Duration::from_millis(200);

fn playground() -> Playground {
    Playground::start(Options::default()).expect("a playground")
}

/// A service's slices.
async fn slices(playground: &Playground, service: &str) -> Vec<Value> {
    let path = format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3D{service}");
    let list = json_of(playground, &path).await;
    list["items"].as_array().expect("items").clone()
}

/// `NAME ready|serving|terminating...` of each endpoint of a slice.
fn endpoints(slice: &Value) -> Vec<String> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let mut endpoints: Vec<String> = endpoints
        .map(|endpoint| {
            let mut words = vec![endpoint["targetRef"]["name"].as_str().expect("a name")];
            let conditions = ["ready", "serving", "terminating"];
            words.extend(
                conditions
                    .iter()
                    .filter(|it| endpoint["conditions"][**it] == true),
            );
            words.join(" ")
        })
        .collect();
    endpoints.sort_unstable();
    endpoints
}

#[tokio::test]
async fn slices_follow_the_pods_of_a_service() {
    let playground = playground();
    let web = slices(&playground, "web").await;
    let [slice] = &web[..] else { panic!("{web:?}") };
    assert_eq!(
        endpoints(slice),
        [
            "not-ready",
            "web ready serving",
            "web-5d8f7c9b64-2xkqp ready serving",
            "web-5d8f7c9b64-t7m4w ready serving"
        ]
    );
    assert_eq!(
        slice["ports"],
        json!([
            { "name": "http", "port": 8080, "protocol": "TCP" },
            { "name": "number", "port": 8080, "protocol": "TCP" },
            { "name": "same", "port": 8080, "protocol": "TCP" },
        ])
    );
    let pod = playground.pod("default", "web").expect("a pod");
    let endpoint = slice["endpoints"].as_array().expect("endpoints").iter();
    let mut endpoint = endpoint.filter(|it| it["targetRef"]["name"] == "web");
    let endpoint = endpoint.next().expect("the pod");
    assert_eq!(endpoint["targetRef"]["uid"], pod["metadata"]["uid"]);
    assert_eq!(endpoint["addresses"], json!([pod["status"]["podIP"]]));

    playground.set_ready("default", "not-ready", true);
    playground.set_ready("default", "web", false);
    playground.terminate_pod("default", "web-5d8f7c9b64-t7m4w", Duration::from_secs(60));
    playground.delete_pod("default", "web-5d8f7c9b64-2xkqp");
    assert_eq!(
        endpoints(&slices(&playground, "web").await[0]),
        [
            "not-ready ready serving",
            "web",
            "web-5d8f7c9b64-t7m4w serving terminating"
        ]
    );
}

#[tokio::test]
async fn services_of_all_kinds_have_their_slices() {
    let playground = playground();
    let external = slices(&playground, "external").await;
    assert_eq!(external, [] as [Value; 0], "a service without selector");
    let headless = slices(&playground, "headless").await;
    assert_eq!(headless[0]["ports"][0]["port"], 8080);
    assert_eq!(endpoints(&headless[0]).len(), 4);

    let port = json!([{ "name": "web", "port": 80, "targetPort": "web", "protocol": "TCP" }]);
    playground.apply(service("default", "mixed", Some("mixed"), port));
    let empty = slices(&playground, "mixed").await;
    assert_eq!(empty[0]["endpoints"], Value::Null);
    assert_eq!(empty[0]["ports"], Value::Null);

    // a named port is another one in each of the pods, and missing in the third
    for (name, port) in [("a", ("web", 80)), ("b", ("web", 8080)), ("c", ("www", 80))] {
        let mut pod = Pod::new("default", name, "mixed");
        pod.containers = vec![container("main", &[(port.0, port.1, "TCP")])];
        playground.apply(pod.object());
    }
    let mut mixed: Vec<_> = slices(&playground, "mixed")
        .await
        .iter()
        .map(|slice| (slice["ports"][0]["port"].as_u64(), endpoints(slice)))
        .collect();
    mixed.sort_unstable();
    let of = |pod: &str| vec![format!("{pod} ready serving")];
    assert_eq!(
        mixed,
        [(None, of("c")), (Some(80), of("a")), (Some(8080), of("b"))]
    );

    let manual = json!({
        "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "mine", "namespace": "default",
                      "labels": { "kubernetes.io/service-name": "external" } },
        "endpoints": [{ "addresses": ["192.0.2.1"], "conditions": {} }], "ports": [],
    });
    playground.apply(manual);
    playground.set_ready("default", "a", false);
    assert_eq!(slices(&playground, "external").await.len(), 1);
}

#[tokio::test]
async fn workloads_are_scaled_and_rolled_out() {
    let playground = playground();
    let long = Duration::from_secs(60);
    let pods = playground.scale("Deployment", ("default", "web"), 3, long);
    let [_, _, third] = &pods[..] else {
        panic!("{pods:?}")
    };
    let third = third.clone();
    let pods = playground.scale("StatefulSet", ("default", "db"), 3, long);
    assert_eq!(pods, ["db-0", "db-1", "db-2"]);
    playground.scale("StatefulSet", ("default", "db"), 1, long);
    let last = playground.pod("default", "db-2").expect("it has its grace");
    assert!(!last["metadata"]["deletionTimestamp"].is_null());
    playground.sandbox("default", "db-2");

    let selected = format!("{PODS}?labelSelector=owner%3Dweb");
    let from = format!(
        "{selected}&watch=1&resourceVersion={}",
        version(&playground).await
    );
    let mut new = Vec::new();
    let events = watched(&playground, &from, async || {
        new = playground.roll("default", "web", Duration::ZERO);
        until("the old ones are gone", || {
            playground.pod("default", "web-5d8f7c9b64-2xkqp").is_none()
                && playground.pod("default", "web-5d8f7c9b64-t7m4w").is_none()
                && playground.pod("default", &third).is_none()
        })
        .await;
    })
    .await;
    assert_eq!(new.len(), 3);
    let left = json_of(&playground, &selected).await;
    let mut left: Vec<_> = left["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|pod| pod["metadata"]["name"].as_str().expect("a name"))
        .collect();
    left.sort_unstable();
    new.sort_unstable();
    assert_eq!(left, new);
    let types = types(&events);
    assert_eq!(types[..3], ["ADDED"; 3]);
    assert_eq!(types.iter().filter(|it| **it == "DELETED").count(), 3);
}

#[tokio::test]
async fn a_kubelet_can_go_and_come_back() {
    let playground = playground();
    let mut spdy = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let pair = spdy.open("7").await;
    spdy.write(pair.data, b"x").await;
    assert_eq!(spdy.read(pair.data, 1).await.0, b"x");
    playground.stop_kubelet();
    let lost = "error dialing backend: dial tcp 127.0.0.1:10250: connect: connection refused";
    let raw = upgrade::spdy(&playground, "admin", PATH).await;
    assert_eq!(
        (raw.status().as_u16(), raw.message()),
        (500, lost.to_owned())
    );
    let tunnel = upgrade::websocket(&playground, "admin", PATH, TUNNEL).await;
    assert_eq!(
        (tunnel.status().as_u16(), tunnel.message()),
        (500, lost.to_owned())
    );
    assert!(!tunnel.body().contains("reason"), "{}", tunnel.body());
    until("no tunnel", || playground.tunnels().is_empty()).await;
    // the pod ran on
    assert_eq!(playground.sandbox("default", "echo").dials(), 1);
    playground.start_kubelet();
    let again = upgrade::websocket(&playground, "admin", PATH, TUNNEL).await;
    assert_eq!(again.status(), StatusCode::SWITCHING_PROTOCOLS);
}

#[tokio::test]
async fn containers_stop_and_start_under_a_tunnel() {
    let playground = playground();
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let before = client.open("7").await;
    client.write(before.data, b"x").await;
    assert_eq!(client.read(before.data, 1).await.0, b"x");
    playground.stop_containers("default", "echo");
    assert_eq!(client.read_to_end(before.data).await.1, End::Fin);
    let during = client.open("7").await;
    let (text, _) = client.read_to_end(during.error).await;
    let text = String::from_utf8(text).expect("text");
    assert!(text.ends_with("connect: connection refused"), "{text}");
    let slice = &slices(&playground, "echo").await[0];
    assert_eq!(endpoints(slice), ["echo"]);
    playground.start_containers("default", "echo");
    let after = client.open("7").await;
    client.write(after.data, b"y").await;
    assert_eq!(client.read(after.data, 1).await.0, b"y");
    let pod = playground.pod("default", "echo").expect("a pod");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    assert_eq!(playground.sandbox("default", "echo").tunnels_opened(), 1);
    assert_eq!(playground.open_pairs("default", "echo"), 1);
}

#[tokio::test]
async fn a_pod_says_who_it_is() {
    let playground = playground();
    let pod = playground.pod("default", "echo").expect("a pod");
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let mut client = upgrade::spdy(&playground, "admin", PATH).await.spdy();
    let pair = client.open(&ports::IDENTITY.to_string()).await;
    let line = format!("echo {uid}\n");
    let (heard, _) = client.read(pair.data, line.len()).await;
    assert_eq!(String::from_utf8(heard).expect("text"), line);
    client.write(pair.data, b"and on").await;
    assert_eq!(client.read(pair.data, 6).await.0, b"and on");
}

#[tokio::test]
async fn a_network_freezes_thaws_forgets_and_cuts() {
    let playground = playground();
    // it blocks, which a runtime's thread must not
    let address = std::thread::scope(|scope| {
        let asking = || playground.service_address("default", "echo", ports::ECHO);
        scope.spawn(asking).join().expect("an answer")
    });
    let network = playground.network_to(address.expect("it listens"));
    let connect = async || {
        TcpStream::connect(network.address())
            .await
            .expect("a network")
    };
    let echo = async |tcp: &mut TcpStream| {
        let mut heard = [0];
        tcp.write_all(b"x").await?;
        tcp.read_exact(&mut heard).await
    };
    let mut old = connect().await;
    in_time(echo(&mut old)).await.expect("an echo");
    network.freeze();
    assert!(timeout(A_WHILE, echo(&mut old)).await.is_err());
    let mut new = connect().await;
    assert!(timeout(A_WHILE, echo(&mut new)).await.is_err());
    network.thaw();
    // what was sent arrives now
    for tcp in [&mut old, &mut new] {
        in_time(tcp.read_exact(&mut [0])).await.expect("late");
    }
    network.forget();
    assert!(timeout(A_WHILE, echo(&mut old)).await.is_err());
    let mut new = connect().await;
    in_time(echo(&mut new)).await.expect("a new connection");
    network.cut();
    let cut = in_time(new.read(&mut [0])).await;
    assert!(cut.is_err(), "{cut:?}");

    network.slow(Duration::from_millis(50), Some(10_000));
    let mut slow = connect().await;
    let begun = Instant::now();
    in_time(echo(&mut slow)).await.expect("an echo");
    assert!(begun.elapsed() >= Duration::from_millis(100));
    let begun = Instant::now();
    slow.write_all(&[0; 5000]).await.expect("a network");
    in_time(slow.read_exact(&mut [0; 5000]))
        .await
        .expect("an echo");
    assert!(begun.elapsed() >= Duration::from_millis(500));
}

#[tokio::test]
async fn kubectl_goes_through_the_network_and_renews_its_credentials() {
    for kubectl in tools::kubectls() {
        let env = TestEnv::with(Options {
            network: true,
            ..Options::default()
        });
        let playground = &env.playground;
        let ask = |words: &[&str]| {
            let mut command = env.command(&kubectl);
            command.args(["--request-timeout=30s"]).args(words);
            command
        };
        let list = ask(&["get", "endpointslices", "-o", "name"]);
        let ended = run(list).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
        let list = String::from_utf8(ended.stdout).expect("text");
        assert!(
            list.contains("endpointslice.discovery.k8s.io/web-"),
            "{list}"
        );

        // a watch that ends with what it waits for
        let waiting = run(ask(&[
            "wait",
            "--for=condition=Ready=false",
            "pod/web",
            "--timeout=60s",
        ]));
        let acting = async {
            until("a watch", || !playground.watches().is_empty()).await;
            playground.set_ready("default", "web", false);
        };
        let (waited, ()) = tokio::join!(waiting, acting);
        assert_eq!((waited.code, waited.stderr.as_str()), (0, ""));

        let plugin = ["get", "pod", "echo", "--context", "playground-plugin"];
        assert_eq!(run(ask(&plugin)).await.code, 0);
        let old = playground.token("plugin").expect("a token");
        playground.expire_token("plugin");
        let new = playground.token("plugin").expect("a token");
        assert_ne!(old, new);
        let ended = run(ask(&plugin)).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
        assert!(playground.plugin_runs() >= 2);
        let refused = ["get", "pod", "echo", "--context", "playground-viewer"];
        playground.expire_token("viewer");
        let ended = run(ask(&refused)).await;
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        assert!(ended.stderr.contains("logged in"), "{}", ended.stderr);
        let requests = playground.requests();
        assert!(
            requests
                .iter()
                .any(|it| it.path().contains("endpointslices"))
        );
        assert!(!requests.iter().any(Request::is_upgrade));
    }
}
