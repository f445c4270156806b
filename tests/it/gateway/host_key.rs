//! The gateway's own key in a Secret that several replicas share.

use std::time::SystemTime;

use kpf::cluster::{self, Cluster};
use kpf::ssh::host_key::{Error, Secret, Store};
use tokio::task::JoinSet;

use crate::playground::{Options, Playground, kubeconfig};
use crate::program::in_time;

fn replica(playground: &Playground, user: &str) -> Store {
    let options = cluster::Options {
        kubeconfig: Some(playground.kubeconfig()),
        context: Some(kubeconfig::context(user)),
        ..cluster::Options::default()
    };
    let cluster = Cluster::load(&options).unwrap();
    Store::Secret(Secret::new(cluster.client(), "team-b", "kpf-gateway"))
}

#[tokio::test]
async fn replicas_that_start_at_once_have_the_same_key() {
    let playground = Playground::start(Options::default()).unwrap();
    let mut starting = JoinSet::new();
    for _ in 0..8 {
        let store = replica(&playground, "admin");
        starting.spawn(async move { store.load_or_make(SystemTime::now()).await.unwrap() });
    }
    let keys = in_time(starting.join_all()).await;
    for one in &keys {
        assert_eq!(one.fingerprints(), keys[0].fingerprints());
    }
    // and one that starts later
    let later = replica(&playground, "admin");
    let later = in_time(later.load(SystemTime::now())).await.unwrap();
    assert_eq!(later.fingerprints(), keys[0].fingerprints());
}

/// Both add a key: one of them finds the other's, by the version, and says so.
#[tokio::test]
async fn two_rotations_at_once_are_one() {
    let playground = Playground::start(Options::default()).unwrap();
    let now = SystemTime::now();
    let stores = [(); 2].map(|()| replica(&playground, "admin"));
    let first = in_time(stores[0].load_or_make(now)).await.unwrap();
    let (one, other) =
        in_time(async { tokio::join!(stores[0].rotate(now), stores[1].rotate(now)) }).await;
    let results = [one, other];
    let rotated: Vec<_> = results.iter().filter_map(|it| it.as_ref().ok()).collect();
    assert_eq!(rotated.len(), 1, "{results:?}");
    let refused = results.iter().find_map(|it| it.as_ref().err()).unwrap();
    assert!(
        refused.to_string().contains("rotation is under way"),
        "{refused}"
    );
    assert_eq!(rotated[0].keys().len(), 2);
    let last = in_time(stores[1].drop_old(now)).await.unwrap();
    assert_ne!(last.fingerprints(), first.fingerprints());
    assert_eq!(last.fingerprints()[0], rotated[0].fingerprints()[1]);
}

#[tokio::test]
async fn what_is_not_allowed_is_said() {
    let playground = Playground::start(Options::default()).unwrap();
    let store = replica(&playground, "viewer");
    let error = in_time(store.load_or_make(SystemTime::now()))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Secret { .. }), "{text}");
    assert!(
        text.starts_with("host key in Secret team-b/kpf-gateway: "),
        "{text}"
    );
    assert!(text.contains("cannot get resource \"secrets\""), "{text}");
    assert!(text.contains("get, create and update"), "{text}");
}
