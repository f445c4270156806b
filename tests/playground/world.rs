//! The objects of the playground: what `kubectl get` shows, with resource versions and watches.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::endpoints;

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
    resource("", "secrets", "secret", "Secret", &[], true),
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
    resource(
        "discovery.k8s.io",
        "endpointslices",
        "endpointslice",
        "EndpointSlice",
        &[],
        true,
    ),
];

/// The groups besides the core's.
pub(crate) const GROUPS: [&str; 3] = ["apps", "batch", "discovery.k8s.io"];

/// What may be in a pod's field selector; other objects have only the first two.
const FIELDS: [&str; 6] = [
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.phase",
    "status.podIP",
];

impl Resource {
    pub(crate) fn find(group: &str, plural: &str) -> Option<&'static Self> {
        RESOURCES
            .iter()
            .find(|resource| resource.group == group && resource.plural == plural)
    }

    pub(crate) fn of_kind(kind: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|resource| resource.kind == kind)
    }

    pub(crate) fn api_version(&self) -> String {
        match self.group {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        }
    }
}

/// Something that happened to an object, as a watch sees it.
pub(crate) struct Event {
    /// `ADDED`, `MODIFIED` or `DELETED`.
    pub(crate) change: &'static str,
    pub(crate) object: Value,
}

/// The same as it is remembered.
struct Change {
    version: u64,
    plural: &'static str,
    before: Option<Value>,
    /// With the change's version also where the object is gone.
    object: Value,
    deleted: bool,
}

impl Change {
    /// What it means to those who see a part of the objects: one that comes into view is added.
    fn event(&self, sees: impl Fn(&Value) -> bool) -> Option<Event> {
        let before = self.before.as_ref().is_some_and(&sees);
        let after = !self.deleted && sees(&self.object);
        let change = match (before, after) {
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        let object = self.object.clone();
        Some(Event { change, object })
    }
}

/// All objects and their recent history.
pub(crate) struct World {
    objects: BTreeMap<(&'static str, String, String), Value>,
    history: VecDeque<Change>,
    /// Versions up to this one are no longer in the history.
    forgotten: u64,
    /// Nobody may begin to watch from before this one.
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
            forgotten: 1000,
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

    /// Whether a watch may begin after `version`.
    pub(crate) fn check(&self, version: u64) -> Result<(), Expired> {
        match version < self.compacted.max(self.forgotten) {
            true => Err(Expired),
            false => Ok(()),
        }
    }

    /// What happened to objects of a kind after `version`. A watch that goes on is not bothered by a compaction.
    pub(crate) fn since(
        &self,
        version: u64,
        resource: &Resource,
        namespace: &str,
        selector: &Selector,
    ) -> Result<Vec<Event>, Expired> {
        if version < self.forgotten {
            return Err(Expired);
        }
        let news = self.history.iter();
        let news = news.filter(|it| it.version > version && it.plural == resource.plural);
        let sees = |object: &Value| {
            (namespace.is_empty() || object["metadata"]["namespace"] == namespace)
                && selector.matches(object)
        };
        Ok(news.filter_map(|change| change.event(sees)).collect())
    }

    /// Forgets the history, as a compaction of etcd does: watches that resume get 410.
    pub(crate) fn compact(&mut self) {
        self.compacted = self.version();
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
        // where the runtime has made a sandbox
        if object["status"]["podIP"] == "" {
            let [.., high, low] = version.to_be_bytes();
            object["status"]["podIP"] = json!(format!("10.0.{high}.{low}"));
        }
        let key = (resource.plural, namespace.clone(), name);
        let before = self.objects.insert(key, object.clone());
        self.record(Change {
            version,
            plural: resource.plural,
            before,
            object,
            deleted: false,
        });
        self.reconcile(resource, &namespace);
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
        self.record(Change {
            version,
            plural: resource.plural,
            before: Some(object.clone()),
            object: object.clone(),
            deleted: true,
        });
        self.reconcile(resource, namespace);
        Some(object)
    }

    /// Brings a namespace's slices in line with its services and pods, one of which has changed.
    fn reconcile(&mut self, changed: &Resource, namespace: &str) {
        if !["pods", "services"].contains(&changed.plural) {
            return;
        }
        let [pods, services, slices] = ["Pod", "Service", "EndpointSlice"]
            .map(|kind| Resource::of_kind(kind).expect("a kind of ours"));
        let all = Selector::default();
        let pods = || self.list(pods, namespace, &all);
        let wanted = self.list(services, namespace, &all);
        let mut wanted: Vec<Value> = wanted
            .flat_map(|service| endpoints::slices(service, pods()))
            .collect();
        let mut obsolete = Vec::new();
        for present in self.list(slices, namespace, &all) {
            if !endpoints::is_managed(present) {
                continue;
            }
            let name = &present["metadata"]["name"];
            match wanted.iter().position(|it| it["metadata"]["name"] == *name) {
                None => obsolete.push(name.as_str().unwrap_or_default().to_owned()),
                Some(index) => {
                    let same = |field: &str| wanted[index][field] == present[field];
                    if same("endpoints") && same("ports") {
                        wanted.swap_remove(index);
                    } else {
                        wanted[index]["metadata"]["uid"] = present["metadata"]["uid"].clone();
                    }
                }
            }
        }
        for slice in wanted {
            self.apply(slice);
        }
        for name in obsolete {
            self.remove(slices, namespace, &name);
        }
    }

    fn record(&mut self, change: Change) {
        if self.history.len() == HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.forgotten = oldest.version;
        }
        let version = change.version;
        self.history.push_back(change);
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

    /// The name in `metadata.name=NAME`, which counts as the request's.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find_map(|requirement| match requirement {
                Requirement::In(key, values) if key == "metadata.name" => values.first(),
                _ => None,
            })
            .map(String::as_str)
    }

    /// A field that the server has no selector for.
    pub(crate) fn unknown_field(&self, resource: &Resource) -> Option<&str> {
        let known = match resource.plural {
            "pods" => &FIELDS[..],
            _ => &FIELDS[..2],
        };
        let keys = self.fields.iter().map(Requirement::key);
        keys.into_iter().find(|key| !known.contains(key))
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
    fn key(&self) -> &str {
        match self {
            Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::Missing(key) => key,
        }
    }

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
