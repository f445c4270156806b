//! What stands in the playground's two namespaces at the start.

use serde_json::{Value, json};

use super::ports;
use super::world::World;

/// The namespaces; both hold the same objects.
pub(crate) const NAMESPACES: [&str; 2] = ["default", "team-b"];

/// The only node.
pub(crate) const NODE: &str = "playground";

/// A pod to be made; everything else about it is filled in.
pub(crate) struct Pod<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) labels: Value,
    pub(crate) containers: Vec<Value>,
    pub(crate) init_containers: Vec<Value>,
    /// `Running`, `Pending`, `Succeeded`, ...
    pub(crate) phase: &'a str,
    pub(crate) ready: bool,
}

impl<'a> Pod<'a> {
    /// A running and ready pod with one container that declares the built-in ports.
    pub(crate) fn new(namespace: &'a str, name: &'a str, app: &str) -> Self {
        Self {
            namespace,
            name,
            labels: json!({ "app": app }),
            containers: vec![container(
                "main",
                &[
                    ("http", ports::HTTP_ALT, "TCP"),
                    ("echo", ports::ECHO, "TCP"),
                    ("discard", ports::DISCARD, "TCP"),
                    ("chargen", ports::CHARGEN, "TCP"),
                ],
            )],
            init_containers: Vec::new(),
            phase: "Running",
            ready: true,
        }
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.labels[key] = json!(value);
        self
    }

    /// The object as the API server stores it.
    pub(crate) fn object(self) -> Value {
        let running = self.phase == "Running";
        let ready = running && self.ready;
        let truth = |yes: bool| if yes { "True" } else { "False" };
        let statuses: Vec<Value> = self
            .containers
            .iter()
            .map(|container| {
                let state = match self.phase {
                    "Running" => json!({ "running": { "startedAt": "2026-01-02T03:04:06Z" } }),
                    "Succeeded" => {
                        json!({ "terminated": { "exitCode": 0, "reason": "Completed" } })
                    }
                    _ => json!({ "waiting": { "reason": "ContainerCreating" } }),
                };
                json!({
                    "name": container["name"], "image": "playground", "imageID": "",
                    "ready": ready, "restartCount": 0, "started": running, "state": state,
                })
            })
            .collect();
        let mut spec = json!({ "containers": self.containers, "restartPolicy": "Always" });
        if !self.init_containers.is_empty() {
            spec["initContainers"] = json!(self.init_containers);
        }
        let mut status = json!({
            "phase": self.phase,
            "conditions": [
                { "type": "PodScheduled", "status": truth(self.phase != "Pending") },
                { "type": "ContainersReady", "status": truth(ready) },
                { "type": "Ready", "status": truth(ready),
                  "lastTransitionTime": "2026-01-02T03:04:07Z" },
            ],
        });
        if self.phase != "Pending" {
            spec["nodeName"] = json!(NODE);
            status["podIP"] = json!(""); // the world has one
            status["containerStatuses"] = json!(statuses);
        }
        json!({
            "kind": "Pod",
            "metadata": { "name": self.name, "namespace": self.namespace, "labels": self.labels },
            "spec": spec,
            "status": status,
        })
    }
}

/// A container that declares these ports: name, number, protocol.
pub(crate) fn container(name: &str, ports: &[(&str, u16, &str)]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, port, protocol)| {
            json!({ "name": name, "containerPort": port, "protocol": protocol })
        })
        .collect();
    json!({ "name": name, "image": "playground", "ports": ports })
}

/// A service; `ports` are service ports as the API has them.
pub(crate) fn service(namespace: &str, name: &str, app: Option<&str>, ports: Value) -> Value {
    let mut spec = json!({ "type": "ClusterIP", "clusterIP": "10.96.0.10", "ports": ports });
    if let Some(app) = app {
        spec["selector"] = json!({ "app": app });
    }
    json!({
        "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": spec,
        "status": { "loadBalancer": {} },
    })
}

/// Fills the world.
pub(crate) fn create(world: &mut World) {
    world.apply(json!({ "kind": "Node", "metadata": { "name": NODE } }));
    for namespace in NAMESPACES {
        world.apply(json!({
            "kind": "Namespace", "metadata": { "name": namespace }, "status": { "phase": "Active" },
        }));
        pods(world, namespace);
        services(world, namespace);
        workloads(world, namespace);
    }
}

fn pods(world: &mut World, namespace: &str) {
    world.apply(Pod::new(namespace, "echo", "echo").object());
    world.apply(Pod::new(namespace, "web", "web").object());

    let mut sshd = Pod::new(namespace, "sshd", "sshd");
    sshd.containers = vec![container("sshd", &[("ssh", ports::SSH, "TCP")])];
    world.apply(sshd.object());

    let mut many = Pod::new(namespace, "many", "many");
    many.containers = vec![
        container(
            "app",
            &[("web", ports::HTTP_ALT, "TCP"), ("dns", 53, "UDP")],
        ),
        container("sidecar", &[("metrics", ports::HTTP, "TCP")]),
    ];
    many.init_containers = vec![container("setup", &[("setup", ports::ECHO, "TCP")])];
    world.apply(many.object());

    let mut pending = Pod::new(namespace, "pending", "pending");
    pending.phase = "Pending";
    world.apply(pending.object());

    let mut done = Pod::new(namespace, "done", "done");
    done.phase = "Succeeded";
    world.apply(done.object());

    let mut not_ready = Pod::new(namespace, "not-ready", "web");
    not_ready.ready = false;
    world.apply(not_ready.object());
}

fn services(world: &mut World, namespace: &str) {
    let mut add = |name, app, ports| world.apply(service(namespace, name, app, ports));
    add(
        "web",
        Some("web"),
        json!([
            { "name": "http", "port": 80, "targetPort": "http", "protocol": "TCP" },
            { "name": "number", "port": 81, "targetPort": 8080, "protocol": "TCP" },
            { "name": "same", "port": 8080, "protocol": "TCP" },
        ]),
    );
    add(
        "echo",
        Some("echo"),
        json!([{ "port": 7, "targetPort": 7, "protocol": "TCP" }]),
    );
    add(
        "ssh",
        Some("sshd"),
        json!([{ "name": "ssh", "port": 22, "targetPort": "ssh", "protocol": "TCP" }]),
    );
    add(
        "dns",
        Some("many"),
        json!([{ "name": "dns", "port": 53, "targetPort": "dns", "protocol": "UDP" }]),
    );
    add(
        "both",
        Some("echo"),
        json!([
            { "name": "tcp", "port": 7, "targetPort": 7, "protocol": "TCP" },
            { "name": "udp", "port": 7, "targetPort": 7, "protocol": "UDP" },
        ]),
    );
    add(
        "external",
        None,
        json!([{ "port": 80, "targetPort": 80, "protocol": "TCP" }]),
    );
    // kubectl takes a headless service's port as it is and never looks at targetPort
    let ports = json!([{ "name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP" }]);
    let mut headless = service(namespace, "headless", Some("web"), ports);
    headless["spec"]["clusterIP"] = json!("None");
    world.apply(headless);
}

fn workloads(world: &mut World, namespace: &str) {
    let mut set = |kind: &str, name: &str, pods: &[&str]| {
        let labels = json!({ "owner": name });
        // a replication controller's selector is a plain map, older than all the others
        let selector = match kind {
            "ReplicationController" => labels.clone(),
            _ => json!({ "matchLabels": labels }),
        };
        let template = json!({
            "metadata": { "labels": labels },
            "spec": { "containers": [{ "name": "main", "image": "playground" }] },
        });
        let replicas = pods.len();
        world.apply(json!({
            "kind": kind,
            "metadata": { "name": name, "namespace": namespace, "labels": { "owner": name } },
            "spec": { "replicas": replicas, "selector": selector, "template": template },
            "status": { "replicas": replicas, "readyReplicas": replicas },
        }));
        for pod in pods {
            world.apply(Pod::new(namespace, pod, name).label("owner", name).object());
        }
    };
    let replicas = ["web-5d8f7c9b64-2xkqp", "web-5d8f7c9b64-t7m4w"];
    set("Deployment", "web", &replicas);
    set("ReplicaSet", "web", &replicas);
    set("Deployment", "empty", &[]);
    set("StatefulSet", "db", &["db-0", "db-1"]);
    set("DaemonSet", "agent", &["agent-9hq7z"]);
    set("Job", "task", &["task-lw8vd"]);
    set("ReplicationController", "old", &["old-c4v2n"]);
}
