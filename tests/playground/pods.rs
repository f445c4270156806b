//! What becomes of pods: made, ready, terminating, killed, replaced, restarted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::Playground;
use super::node::Sandbox;
use super::ports::Service;
use super::server::Server;
use super::wire::lock;
use super::world::{Resource, Selector};

impl Playground {
    /// Creates or replaces an object; see [`objects::Pod`] and [`objects::service`] for easy ones. A running pod is
    /// started.
    pub(crate) fn apply(&self, object: Value) {
        let is_pod = object["kind"] == "Pod";
        let metadata = object["metadata"].clone();
        lock(&self.server.world).apply(object);
        if is_pod {
            let text = |field: &str| metadata[field].as_str().unwrap_or_default();
            if let Some(pod) = self.pod(text("namespace"), text("name")) {
                self.start_pod(&pod);
            }
        }
    }

    /// A pod as the API server has it.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Option<Value> {
        let pods = Resource::find("", "pods").expect("pods are known");
        lock(&self.server.world).get(pods, namespace, name).cloned()
    }

    /// Changes a pod's object; watches see it.
    pub(crate) fn update_pod(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let pods = Resource::find("", "pods").expect("pods are known");
        lock(&self.server.world).update(pods, namespace, name, change);
    }

    /// A running pod, for its counters and to put services on its ports.
    ///
    /// # Panics
    /// If no such pod runs.
    pub(crate) fn sandbox(&self, namespace: &str, name: &str) -> Arc<Sandbox> {
        let sandbox = self.server.node.sandbox(namespace, name);
        sandbox.unwrap_or_else(|| panic!("pod {namespace}/{name} does not run"))
    }

    /// Puts a service on a port of a pod, or takes one away.
    pub(crate) fn serve(
        &self,
        namespace: &str,
        name: &str,
        port: u16,
        service: impl Into<Option<Service>>,
    ) {
        self.sandbox(namespace, name).serve(port, service.into());
    }

    /// Where a port of a pod listens on this machine, to reach it without any forward.
    ///
    /// # Errors
    /// If nobody listens there.
    pub(crate) fn service_address(
        &self,
        namespace: &str,
        name: &str,
        port: u16,
    ) -> std::io::Result<SocketAddr> {
        let sandbox = self.sandbox(namespace, name);
        self.runtime().block_on(sandbox.address(port))
    }

    /// Makes a pod's readiness probe succeed or fail.
    pub(crate) fn set_ready(&self, namespace: &str, name: &str, ready: bool) {
        self.update_pod(namespace, name, |pod| be_ready(pod, ready));
    }

    /// Begins a graceful deletion: the pod runs on, terminating, until the grace period is over. Then it is gone,
    /// unless another pod has its name by then.
    pub(crate) fn terminate_pod(&self, namespace: &str, name: &str, grace: Duration) {
        let Some(pod) = self.pod(namespace, name) else {
            return;
        };
        self.update_pod(namespace, name, |pod| {
            pod["metadata"]["deletionTimestamp"] = json!(timestamp(SystemTime::now() + grace));
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace.as_secs());
        });
        let server = self.server.clone();
        self.runtime().spawn(async move {
            sleep(grace).await;
            server.remove_pod(&pod["metadata"]);
        });
    }

    /// The containers' processes end, and their ports refuse connections; the pod stays, not ready, and so do
    /// tunnels to it.
    pub(crate) fn stop_containers(&self, namespace: &str, name: &str) {
        self.sandbox(namespace, name).stop();
        self.update_pod(namespace, name, |pod| {
            be_ready(pod, false);
            let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
            each_container(pod, |status| {
                status["started"] = json!(false);
                status["state"] = waiting.clone();
                status["lastState"] = json!({ "terminated": { "exitCode": 1, "reason": "Error" } });
            });
        });
    }

    /// The containers run again, with a restart counted.
    pub(crate) fn start_containers(&self, namespace: &str, name: &str) {
        self.sandbox(namespace, name).restart();
        self.update_pod(namespace, name, |pod| {
            each_container(pod, |status| {
                let restarts = status["restartCount"].as_u64().unwrap_or_default();
                status["restartCount"] = json!(restarts + 1);
                status["started"] = json!(true);
                let running = json!({ "running": { "startedAt": timestamp(SystemTime::now()) } });
                status["state"] = running;
            });
            be_ready(pod, true);
        });
    }

    /// Stops the containers and starts them at once: connections end, later ones work.
    pub(crate) fn restart_containers(&self, namespace: &str, name: &str) {
        self.stop_containers(namespace, name);
        self.start_containers(namespace, name);
    }

    /// Ends a pod's processes; its object stays, with a deletion timestamp, as during a graceful deletion.
    pub(crate) fn kill_pod(&self, namespace: &str, name: &str) {
        self.update_pod(namespace, name, |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-02T04:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        });
        self.server.node.kill(namespace, name);
    }

    /// Ends a pod and removes its object.
    pub(crate) fn delete_pod(&self, namespace: &str, name: &str) {
        let pods = Resource::find("", "pods").expect("pods are known");
        self.kill_pod(namespace, name);
        lock(&self.server.world).remove(pods, namespace, name);
    }

    /// Deletes a pod and makes it again under the same name, with a new uid and new processes.
    pub(crate) fn replace_pod(&self, namespace: &str, name: &str) {
        let Some(mut pod) = self.pod(namespace, name) else {
            return;
        };
        self.delete_pod(namespace, name);
        for field in [
            "uid",
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            pod["metadata"][field] = Value::Null;
        }
        pod["status"]["podIP"] = json!(""); // it gets another
        self.apply(pod);
    }

    /// Forgets past events: watches that resume from before get 410.
    pub(crate) fn compact(&self) {
        lock(&self.server.world).compact();
    }
}

impl Playground {
    pub(super) fn start_pods(&self) {
        let world = lock(&self.server.world);
        let pods = Resource::find("", "pods").expect("pods are known");
        let all = Selector::default();
        for pod in world.list(pods, "", &all) {
            self.start_pod(pod);
        }
    }

    fn start_pod(&self, pod: &Value) {
        if pod["status"]["phase"] != "Running" {
            return;
        }
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
        let is_sshd = pod["spec"]["containers"][0]["name"] == "sshd";
        let sshd = self.server.sshd.clone().filter(|_| is_sshd);
        let node = &self.server.node;
        node.start(text("namespace"), text("name"), text("uid"), sshd);
    }
}

impl Server {
    /// Ends a pod and removes its object, if it is still the same pod.
    fn remove_pod(&self, pod: &Value) {
        let pods = Resource::find("", "pods").expect("pods are known");
        let text = |field: &str| pod[field].as_str().unwrap_or_default();
        let (namespace, name) = (text("namespace"), text("name"));
        let mut world = lock(&self.world);
        let present = world.get(pods, namespace, name);
        if present.is_some_and(|present| present["metadata"]["uid"] == pod["uid"]) {
            self.node.kill(namespace, name);
            world.remove(pods, namespace, name);
        }
    }
}

fn be_ready(pod: &mut Value, ready: bool) {
    let truth = if ready { "True" } else { "False" };
    let now = timestamp(SystemTime::now());
    let conditions = pod["status"]["conditions"].as_array_mut();
    for condition in conditions.into_iter().flatten() {
        if condition["type"] == "Ready" || condition["type"] == "ContainersReady" {
            condition["status"] = json!(truth);
            condition["lastTransitionTime"] = json!(now);
        }
    }
    each_container(pod, |status| status["ready"] = json!(ready));
}

fn each_container(pod: &mut Value, change: impl FnMut(&mut Value)) {
    let statuses = pod["status"]["containerStatuses"].as_array_mut();
    statuses.into_iter().flatten().for_each(change);
}

/// A time as the API has it: to the second, UTC.
fn timestamp(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).expect("a time of this era");
    let time = time.round(jiff::Unit::Second).expect("seconds are whole");
    time.to_string()
}
