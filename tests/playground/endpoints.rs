//! The controller that keeps EndpointSlices: which pods stand behind a service, on which ports, and how they are.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Who made a slice. Slices of others are left alone.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Whether the controller made this slice.
pub(crate) fn is_managed(slice: &Value) -> bool {
    slice["metadata"]["labels"][MANAGED_BY] == CONTROLLER
}

/// The slices that a service has with these pods, which are those of its namespace.
///
/// Pods whose ports come out alike share a slice: a named target port may have another number in each pod. A service
/// without pods has one slice without anything; one without a selector has none, and neither has an alias.
pub(crate) fn slices<'a>(service: &Value, pods: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let spec = &service["spec"];
    let Some(selector) = spec["selector"].as_object().filter(|it| !it.is_empty()) else {
        return Vec::new();
    };
    if spec["type"] == "ExternalName" {
        return Vec::new();
    }
    let mut groups: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for pod in pods {
        let labels = &pod["metadata"]["labels"];
        let selected = selector.iter().all(|(key, value)| labels[key] == *value);
        let over = matches!(
            pod["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        );
        if !selected || over || pod["status"]["podIP"].is_null() {
            continue;
        }
        let ports = ports(service, pod);
        let group = groups.entry(ports.to_string());
        let (_, endpoints) = group.or_insert_with(|| (ports, Vec::new()));
        endpoints.push(endpoint(service, pod));
    }
    if groups.is_empty() {
        return vec![slice(service, &Value::Null, &Value::Null)];
    }
    let groups = groups.into_values();
    groups
        .map(|(ports, endpoints)| slice(service, &ports, &json!(endpoints)))
        .collect()
}

/// The service's ports as they are in this pod; those that it doesn't have are left out.
fn ports(service: &Value, pod: &Value) -> Value {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let ports = ports.filter_map(|port| {
        let target = &port["targetPort"];
        let number = match target {
            Value::Null => port["port"].clone(),
            Value::String(name) => named(pod, name, &port["protocol"])?,
            number => number.clone(),
        };
        let name = port["name"].as_str().unwrap_or_default();
        Some(json!({ "name": name, "port": number, "protocol": port["protocol"] }))
    });
    ports.collect()
}

fn named(pod: &Value, name: &str, protocol: &Value) -> Option<Value> {
    let containers = pod["spec"]["containers"].as_array()?.iter();
    let mut ports = containers.flat_map(|it| it["ports"].as_array().into_iter().flatten());
    let port = ports.find(|port| port["name"] == name && port["protocol"] == *protocol)?;
    Some(port["containerPort"].clone())
}

fn endpoint(service: &Value, pod: &Value) -> Value {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut conditions = conditions.filter(|condition| condition["type"] == "Ready");
    let serving = conditions.next().is_some_and(|it| it["status"] == "True");
    let terminating = !pod["metadata"]["deletionTimestamp"].is_null();
    let always = service["spec"]["publishNotReadyAddresses"] == true;
    json!({
        "addresses": [pod["status"]["podIP"]],
        "conditions": {
            "ready": always || serving && !terminating,
            "serving": always || serving,
            "terminating": terminating,
        },
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {
            "kind": "Pod",
            "name": pod["metadata"]["name"],
            "namespace": pod["metadata"]["namespace"],
            "uid": pod["metadata"]["uid"],
        },
    })
}

fn slice(service: &Value, ports: &Value, endpoints: &Value) -> Value {
    let name = service["metadata"]["name"].as_str().unwrap_or_default();
    let mut labels = json!({ MANAGED_BY: CONTROLLER, SERVICE_NAME: name });
    if service["spec"]["clusterIP"] == "None" {
        labels["service.kubernetes.io/headless"] = json!("");
    }
    json!({
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{name}-{}", suffix(&ports.to_string())),
            "namespace": service["metadata"]["namespace"],
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": name,
                "uid": service["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    })
}

/// Five letters and digits that are the same for the same ports; the API server makes up random ones.
fn suffix(ports: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789"; // those that generated names are made of
    // FNV-1a
    let hash = ports.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let digits = (0..5).scan(hash >> 16, |rest, _| {
        let digit = *rest % LETTERS.len() as u64;
        *rest /= LETTERS.len() as u64;
        Some(char::from(LETTERS[digit as usize]))
    });
    digits.collect()
}
