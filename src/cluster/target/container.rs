//! Which container of a pod a command runs in, chosen as kubectl does it (`cmd/util/podcmd`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

use super::TargetError;
use super::preference::phase;
use super::resolve::PodRef;
use crate::untrusted::printable;

/// A container that a command can run in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ContainerRef {
    /// The pod.
    pub pod: PodRef,
    /// The container's name.
    pub name: String,
    /// All containers, as kubectl lists them, where nobody has said which and there are several.
    pub chosen_from: Option<String>,
    /// The pod's annotations: anybody's words.
    pub annotations: BTreeMap<String, String>,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
}

/// Names the pod's default container, for kubectl and for us.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Characters of a container's name; Kubernetes allows 63.
const MAX_NAME: usize = 100;

/// Characters of a list of containers.
const MAX_LIST: usize = 800;

/// Chooses the container of `pod`: the one that is `wanted`, the one that its annotation names, or its first.
pub(super) fn choose(
    namespace: &str,
    pod: Pod,
    wanted: Option<&str>,
) -> Result<ContainerRef, TargetError> {
    let phase = phase(&pod);
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(TargetError::Completed {
            phase: phase.to_owned(),
        });
    }
    let name = pod.metadata.name.clone().unwrap_or_default();
    let containers = Containers::of(&pod);
    let annotations = pod.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|annotations| annotations.get(DEFAULT_CONTAINER));
    let annotated = annotated.map(String::as_str).filter(|it| !it.is_empty());
    let (container, chosen_from) = match (wanted.or(annotated), containers.main) {
        (Some(named), _) if containers.has(named) => (named.to_owned(), None),
        (Some(named), _) => {
            return Err(TargetError::NoContainer(format!(
                "container {} is not valid for pod {name} out of: {}",
                printable(named, MAX_NAME),
                containers.list()
            )));
        }
        (None, [first, ..]) => {
            let several = containers.names().count() > 1;
            (first.name.clone(), several.then(|| containers.list()))
        }
        (None, []) => {
            return Err(TargetError::NoContainer(format!(
                "pod {namespace}/{name} does not have any containers"
            )));
        }
    };
    Ok(ContainerRef {
        pod: PodRef {
            namespace: namespace.to_owned(),
            name,
            uid: pod.metadata.uid,
        },
        name: container,
        chosen_from,
        annotations: pod.metadata.annotations.unwrap_or_default(),
        labels: pod.metadata.labels.unwrap_or_default(),
    })
}

struct Containers<'a> {
    main: &'a [Container],
    ephemeral: &'a [EphemeralContainer],
    init: &'a [Container],
}

impl<'a> Containers<'a> {
    fn of(pod: &'a Pod) -> Self {
        let Some(spec) = &pod.spec else {
            return Self {
                main: &[],
                ephemeral: &[],
                init: &[],
            };
        };
        Self {
            main: &spec.containers,
            ephemeral: spec.ephemeral_containers.as_deref().unwrap_or_default(),
            init: spec.init_containers.as_deref().unwrap_or_default(),
        }
    }

    /// Each name, and what kubectl writes after it.
    fn names(&self) -> impl Iterator<Item = (&'a str, &'static str)> {
        let main = self.main.iter().map(|it| (it.name.as_str(), ""));
        let ephemeral = self
            .ephemeral
            .iter()
            .map(|it| (it.name.as_str(), " (ephem)"));
        let init = self.init.iter().map(|it| (it.name.as_str(), " (init)"));
        main.chain(ephemeral).chain(init)
    }

    fn has(&self, wanted: &str) -> bool {
        self.names().any(|(name, _)| name == wanted)
    }

    fn list(&self) -> String {
        let names: Vec<_> = self
            .names()
            .map(|(name, kind)| format!("{name}{kind}"))
            .collect();
        printable(&names.join(", "), MAX_LIST)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(annotations: Value, phase: &str) -> Pod {
        let pod = json!({
            "metadata": { "name": "p", "uid": "u", "annotations": annotations },
            "spec": {
                "containers": [{ "name": "app" }, { "name": "sidecar" }],
                "initContainers": [{ "name": "setup" }],
                "ephemeralContainers": [{ "name": "debugger" }],
            },
            "status": { "phase": phase },
        });
        serde_json::from_value(pod).unwrap()
    }

    fn chosen(pod: Pod, wanted: Option<&str>) -> (String, Option<String>) {
        let container = choose("n", pod, wanted).unwrap();
        assert_eq!(container.pod.name, "p");
        assert_eq!(container.pod.uid.as_deref(), Some("u"));
        (container.name, container.chosen_from)
    }

    /// Item 115 of the conformance list: the flag, then the annotation, then the first.
    #[test]
    fn flag_annotation_first() {
        const ALL: &str = "app, sidecar, debugger (ephem), setup (init)";
        let plain = || pod(json!({}), "Running");
        let annotated = |name| pod(json!({ DEFAULT_CONTAINER: name }), "Running");
        assert_eq!(chosen(plain(), None), ("app".into(), Some(ALL.into())));
        assert_eq!(chosen(annotated("sidecar"), None), ("sidecar".into(), None));
        for name in ["app", "sidecar", "setup", "debugger"] {
            let container = chosen(annotated("sidecar"), Some(name));
            assert_eq!(container, (name.to_owned(), None));
        }
        assert_eq!(chosen(annotated(""), None).0, "app");
        let mut single = plain();
        let spec = single.spec.as_mut().unwrap();
        spec.containers.truncate(1);
        spec.init_containers = None;
        spec.ephemeral_containers = None;
        assert_eq!(chosen(single, None), ("app".into(), None));
    }

    #[test]
    fn what_cannot_run_a_command_is_told() {
        let error = |pod, wanted| choose("n", pod, wanted).unwrap_err().to_string();
        assert_eq!(
            error(pod(json!({}), "Running"), Some("x")),
            "container x is not valid for pod p out of: app, sidecar, debugger (ephem), setup (init)"
        );
        assert_eq!(
            error(pod(json!({ DEFAULT_CONTAINER: "gone" }), "Running"), None),
            "container gone is not valid for pod p out of: app, sidecar, debugger (ephem), setup (init)"
        );
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(
                error(pod(json!({}), phase), None),
                format!(
                    "cannot exec into a container in a completed pod; current phase is {phase}"
                )
            );
        }
        // an init container runs while its pod is pending
        let pending = pod(json!({}), "Pending");
        assert_eq!(chosen(pending, Some("setup")).0, "setup");
        let mut empty = pod(json!({}), "Running");
        empty.spec = None;
        assert_eq!(error(empty, None), "pod n/p does not have any containers");
    }
}
