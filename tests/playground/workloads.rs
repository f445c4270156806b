//! What workload controllers do, when a test tells them to.

use std::time::Duration;

use serde_json::{Value, json};

use super::Playground;
use super::objects::Pod;
use super::tls::random_hex;
use super::wire::lock;
use super::world::{Resource, Selector};

impl Playground {
    /// Brings a deployment or stateful set (`Deployment`, `StatefulSet`) to so many pods: new ones are ready at once,
    /// those that are too many terminate within the grace period. Returns the names of the pods that stay or are new.
    ///
    /// # Panics
    /// If there is no such workload.
    pub(crate) fn scale(
        &self,
        kind: &str,
        (namespace, name): (&str, &str),
        replicas: usize,
        grace: Duration,
    ) -> Vec<String> {
        let workload = self.workload(kind, namespace, name);
        let mut pods = self.pods_of(&workload);
        // the newest go first, as with stateful sets
        for pod in pods.drain(replicas.min(pods.len())..) {
            self.terminate_pod(namespace, &pod, grace);
        }
        let revision = pods.first().and_then(|pod| pod.rsplit_once('-'));
        let revision =
            revision.map_or_else(|| format!("{name}-{}", random(5)), |it| it.0.to_owned());
        while pods.len() < replicas {
            let pod = match kind {
                "StatefulSet" => format!("{name}-{}", pods.len()),
                _ => format!("{revision}-{}", random(3)),
            };
            self.make_pod(&workload, &pod);
            pods.push(pod);
        }
        self.set_replicas(kind, namespace, name, replicas);
        pods
    }

    /// Rolls a deployment out: a new ReplicaSet with as many new pods, which are ready at once; then the old ones
    /// terminate within the grace period. Returns the names of the new pods.
    ///
    /// # Panics
    /// If there is no such deployment.
    pub(crate) fn roll(&self, namespace: &str, name: &str, grace: Duration) -> Vec<String> {
        let deployment = self.workload("Deployment", namespace, name);
        let old = self.pods_of(&deployment);
        let revision = format!("{name}-{}", random(5));
        let mut set = deployment.clone();
        set["kind"] = json!("ReplicaSet");
        set["metadata"] = json!({
            "name": revision, "namespace": namespace, "labels": deployment["metadata"]["labels"],
            "ownerReferences": [owner(&deployment)],
        });
        self.apply(set);
        let new = old.iter().map(|_| format!("{revision}-{}", random(3)));
        let new: Vec<String> = new.collect();
        for pod in &new {
            self.make_pod(&deployment, pod);
        }
        for pod in old {
            self.terminate_pod(namespace, &pod, grace);
        }
        new
    }

    fn workload(&self, kind: &str, namespace: &str, name: &str) -> Value {
        let resource = Resource::of_kind(kind).expect("a kind that the playground knows");
        let world = lock(&self.server.world);
        let workload = world.get(resource, namespace, name).cloned();
        workload.unwrap_or_else(|| panic!("there is no {kind} {namespace}/{name}"))
    }

    /// The names of the pods that it selects and that don't terminate, oldest first.
    fn pods_of(&self, workload: &Value) -> Vec<String> {
        let namespace = workload["metadata"]["namespace"].as_str();
        let labels = workload["spec"]["selector"]["matchLabels"].as_object();
        let labels = labels.into_iter().flatten();
        let labels = labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")));
        let selector = Selector::parse(&labels.collect::<Vec<_>>().join(","), "");
        let pods = Resource::of_kind("Pod").expect("pods are known");
        let world = lock(&self.server.world);
        let pods = world.list(pods, namespace.unwrap_or_default(), &selector);
        let mut pods: Vec<(&str, &str)> = pods
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .filter_map(|pod| {
                let metadata = &pod["metadata"];
                // uids are made in order
                Some((metadata["uid"].as_str()?, metadata["name"].as_str()?))
            })
            .collect();
        pods.sort_unstable();
        pods.into_iter().map(|(_, name)| name.to_owned()).collect()
    }

    fn make_pod(&self, workload: &Value, name: &str) {
        let text = |value: &'static str| workload["metadata"][value].as_str().unwrap_or_default();
        let mut pod = Pod::new(text("namespace"), name, text("name")).object();
        let labels = workload["spec"]["template"]["metadata"]["labels"].as_object();
        for (key, value) in labels.into_iter().flatten() {
            pod["metadata"]["labels"][key] = value.clone();
        }
        pod["metadata"]["ownerReferences"] = json!([owner(workload)]);
        self.apply(pod);
    }

    fn set_replicas(&self, kind: &str, namespace: &str, name: &str, replicas: usize) {
        let resource = Resource::of_kind(kind).expect("a kind that the playground knows");
        lock(&self.server.world).update(resource, namespace, name, |workload| {
            workload["spec"]["replicas"] = json!(replicas);
            workload["status"]["replicas"] = json!(replicas);
            workload["status"]["readyReplicas"] = json!(replicas);
        });
    }
}

fn owner(workload: &Value) -> Value {
    json!({
        "apiVersion": workload["apiVersion"], "kind": workload["kind"], "controller": true,
        "name": workload["metadata"]["name"], "uid": workload["metadata"]["uid"],
    })
}

/// The random part of a name.
fn random(bytes: usize) -> String {
    random_hex(bytes).expect("it worked for the tokens")
}
