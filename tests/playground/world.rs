//! The objects of the playground: what `kubectl get` shows, with resource versions and watches.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};
use tokio::sync::watch;

/// Events kept for watches that resume; older ones are answered with 410 as by etcd's compaction.
const HISTORY: usize = 1000;

/// A kind of object that the API server knows.
pub(crate) struct Resource {
    pub(crate) group: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) short: &'static [&'static str],
    pub(crate) namespaced: bool,
}

const fn resource(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
) -> Resource {
    Resource {
        group,
        plural,
        singular,
        kind,
        short,
        namespaced,
    }
}

/// Everything that has objects here. All groups have one version, `v1`.
pub(crate) const RESOURCES: &[Resource] = &[
    resource("", "namespaces", "namespace", "Namespace", &["ns"], false),
    resource("", "nodes", "node", "Node", &["no"], false),
    resource("", "pods", "pod", "Pod", &["po"], true),
    resource("", "services", "service", "Service", &["svc"], true),
    resource(
        "",
        "replicationcontrollers",
        "replicationcontroller",
        "ReplicationController",
        &["rc"],
        true,
    ),
    resource(
        "apps",
        "daemonsets",
        "daemonset",
        "DaemonSet",
        &["ds"],
        true,
    ),
    resource(
        "apps",
        "deployments",
        "deployment",
        "Deployment",
        &["deploy"],
        true,
    ),
    resource(
        "apps",
        "replicasets",
        "replicaset",
        "ReplicaSet",
        &["rs"],
        true,
    ),
    resource(
        "apps",
        "statefulsets",
        "statefulset",
        "StatefulSet",
        &["sts"],
        true,
    ),
    resource("batch", "jobs", "job", "Job", &[], true),
];

impl Resource {
    pub(crate) fn find(group: &str, plural: &str) -> Option<&'static Self> {
        RESOURCES
            .iter()
            .find(|resource| resource.group == group && resource.plural == plural)
    }

    fn of_kind(kind: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|resource| resource.kind == kind)
    }

    pub(crate) fn api_version(&self) -> String {
        match self.group {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        }
    }
}

/// Something that happened to an object.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) version: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(crate) change: &'static str,
    plural: &'static str,
    pub(crate) object: Value,
}

/// All objects and their recent history.
pub(crate) struct World {
    objects: BTreeMap<(&'static str, String, String), Value>,
    history: VecDeque<Event>,
    /// Versions up to this one are no longer in the history.
    compacted: u64,
    version: watch::Sender<u64>,
}

/// A watch asked for a version that is gone.
#[derive(Debug)]
pub(crate) struct Expired;

impl World {
    /// An empty world; resource versions start at an arbitrary number as on a used cluster.
    pub(crate) fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            compacted: 1000,
            version: watch::Sender::new(1000),
        }
    }

    pub(crate) fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Wakes at each change.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(crate) fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<&Value> {
        let key = (resource.plural, namespace.to_owned(), name.to_owned());
        self.objects.get(&key)
    }

    /// Objects of a kind, in one namespace or, if that is empty, in all.
    pub(crate) fn list<'a>(
        &'a self,
        resource: &'a Resource,
        namespace: &'a str,
        selector: &'a Selector,
    ) -> impl Iterator<Item = &'a Value> {
        self.objects
            .iter()
            .filter(move |((plural, at, _), object)| {
                *plural == resource.plural
                    && (namespace.is_empty() || at == namespace)
                    && selector.matches(object)
            })
            .map(|(_, object)| object)
    }

    /// What happened to objects of a kind after `version`.
    pub(crate) fn since(
        &self,
        version: u64,
        resource: &Resource,
        namespace: &str,
        selector: &Selector,
    ) -> Result<Vec<Event>, Expired> {
        if version < self.compacted {
            return Err(Expired);
        }
        Ok(self
            .history
            .iter()
            .filter(|event| {
                event.version > version
                    && event.plural == resource.plural
                    && (namespace.is_empty() || event.object["metadata"]["namespace"] == namespace)
                    && selector.matches(&event.object)
            })
            .cloned()
            .collect())
    }

    /// Forgets the history, as a compaction of etcd does: watches that resume get 410.
    pub(crate) fn compact(&mut self) {
        self.compacted = self.version();
        self.history.clear();
    }

    /// Creates or replaces an object; what the server fills in is filled in.
    ///
    /// # Panics
    /// If the object has no kind that the playground knows, or no name: a mistake in a test.
    pub(crate) fn apply(&mut self, mut object: Value) {
        let kind = object["kind"].as_str().unwrap_or_default();
        let resource = Resource::of_kind(kind).expect("a kind that the playground knows");
        object["apiVersion"] = json!(resource.api_version());
        let version = self.version() + 1;
        let metadata = &mut object["metadata"];
        let name = metadata["name"].as_str().expect("a name").to_owned();
        let namespace = metadata["namespace"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        metadata["resourceVersion"] = json!(version.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("00000000-0000-4000-8000-{version:012x}"));
        }
        if metadata["creationTimestamp"].is_null() {
            metadata["creationTimestamp"] = json!("2026-01-02T03:04:05Z");
        }
        let key = (resource.plural, namespace, name);
        let change = match self.objects.insert(key, object.clone()) {
            None => "ADDED",
            Some(_) => "MODIFIED",
        };
        self.record(version, change, resource.plural, object);
    }

    /// Changes an object in place; says whether there was one.
    pub(crate) fn update(
        &mut self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> bool {
        let Some(mut object) = self.get(resource, namespace, name).cloned() else {
            return false;
        };
        change(&mut object);
        self.apply(object);
        true
    }

    /// Removes an object and returns it.
    pub(crate) fn remove(
        &mut self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Option<Value> {
        let key = (resource.plural, namespace.to_owned(), name.to_owned());
        let mut object = self.objects.remove(&key)?;
        let version = self.version() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        self.record(version, "DELETED", resource.plural, object.clone());
        Some(object)
    }

    fn record(&mut self, version: u64, change: &'static str, plural: &'static str, object: Value) {
        if self.history.len() == HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.compacted = oldest.version;
        }
        self.history.push_back(Event {
            version,
            change,
            plural,
            object,
        });
        self.version.send_replace(version);
    }
}

/// A label selector and a field selector, both of which must match.
#[derive(Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Missing(String),
}

impl Selector {
    /// Parses the values of `labelSelector` and `fieldSelector`.
    pub(crate) fn parse(labels: &str, fields: &str) -> Self {
        Self {
            labels: requirements(labels),
            fields: requirements(fields),
        }
    }

    fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels
            .iter()
            .all(|requirement| requirement.holds(|key| labels[key].as_str()))
            && self.fields.iter().all(|requirement| {
                requirement.holds(|path| {
                    let field = path.split('.').fold(object, |value, step| &value[step]);
                    Some(field.as_str().unwrap_or_default())
                })
            })
    }
}

impl Requirement {
    fn holds<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        let among = |key: &str, values: &[String]| {
            value(key).is_some_and(|value| values.iter().any(|wanted| wanted == value))
        };
        match self {
            Self::In(key, values) => among(key, values),
            Self::NotIn(key, values) => !among(key, values),
            Self::Exists(key) => value(key).is_some(),
            Self::Missing(key) => value(key).is_none(),
        }
    }
}

/// `a=b,c!=d,e in (f,g),h notin (i),j,!k`
fn requirements(text: &str) -> Vec<Requirement> {
    let mut depth = 0;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|term| !term.is_empty())
    .map(|term| {
        let set = |values: &str| -> Vec<String> {
            let inner = values.trim().trim_start_matches('(').trim_end_matches(')');
            inner
                .split(',')
                .map(|value| value.trim().to_owned())
                .collect()
        };
        if let Some((key, values)) = term.split_once(" notin ") {
            Requirement::NotIn(key.trim().to_owned(), set(values))
        } else if let Some((key, values)) = term.split_once(" in ") {
            Requirement::In(key.trim().to_owned(), set(values))
        } else if let Some((key, value)) = term.split_once("!=") {
            Requirement::NotIn(key.to_owned(), vec![value.to_owned()])
        } else if let Some((key, value)) = term.split_once('=') {
            let value = value.trim_start_matches('=');
            Requirement::In(key.to_owned(), vec![value.to_owned()])
        } else if let Some(key) = term.strip_prefix('!') {
            Requirement::Missing(key.to_owned())
        } else {
            Requirement::Exists(term.to_owned())
        }
    })
    .collect()
}
