//! Which pod of a workload kubectl would take.
//!
//! The order is that of Kubernetes' `podutils.ActivePods`, reversed: the first difference wins.

use std::cmp::{Ordering, Reverse};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Orders pods, the preferred one first. Equal pods are ordered by name, so that the choice is repeatable; kubectl
/// leaves it to chance.
pub(super) fn preferred_first(a: &Pod, b: &Pod) -> Ordering {
    let by_name = || a.metadata.name.cmp(&b.metadata.name);
    Rank::of(a).cmp(&Rank::of(b)).then_with(by_name)
}

/// All of a pod that counts for the order; the lesser one is preferred.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(in crate::cluster) struct Rank {
    // `false` sorts before `true`, so each line says what is worse
    unassigned: bool,
    phase: u8,
    not_ready: bool,
    deleting: bool,
    /// Of two that are going, the one that stays longer.
    deletion: Option<Reverse<Timestamp>>,
    /// Of two that are ready, the one that has been so for longer.
    ready_since: Option<Oldest>,
    restarts: (i32, i32),
    created: Oldest,
}

impl Rank {
    pub(in crate::cluster) fn of(pod: &Pod) -> Self {
        let deletion = pod.metadata.deletion_timestamp.as_ref();
        Self {
            unassigned: is_unassigned(pod),
            phase: phase_rank(pod),
            not_ready: !is_ready(pod),
            deleting: is_deleting(pod),
            deletion: deletion.map(|time| Reverse(time.0)),
            ready_since: is_ready(pod).then(|| {
                let ready = ready_condition(pod);
                Oldest::of(ready.and_then(|ready| ready.last_transition_time.as_ref()))
            }),
            restarts: restarts(pod),
            created: Oldest::of(pod.metadata.creation_timestamp.as_ref()),
        }
    }
}

/// A time, the oldest first; one that is missing counts as the newest.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Oldest {
    At(Timestamp),
    Missing,
}

impl Oldest {
    fn of(time: Option<&Time>) -> Self {
        time.map_or(Self::Missing, |time| Self::At(time.0))
    }
}

/// The phase, `Unknown` where the node has not told yet.
pub(super) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Unknown")
}

pub(in crate::cluster) fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The condition `Ready`, which every kubelet sets.
pub(super) fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
}

fn is_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

fn is_unassigned(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or("")
        .is_empty()
}

fn phase_rank(pod: &Pod) -> u8 {
    match phase(pod) {
        "Running" => 0,
        "Unknown" => 1,
        _ => 2,
    }
}

/// The most restarts of any container, then of any init container that stays (a sidecar).
fn restarts(pod: &Pod) -> (i32, i32) {
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else {
        return (0, 0);
    };
    let stays = |name: &str| {
        let mut containers = spec.init_containers.iter().flatten();
        containers.any(|container| {
            container.name == name && container.restart_policy.as_deref() == Some("Always")
        })
    };
    let containers = status.container_statuses.iter().flatten();
    let sidecars = status
        .init_container_statuses
        .iter()
        .flatten()
        .filter(|status| stays(&status.name));
    (
        containers
            .map(|status| status.restart_count)
            .max()
            .unwrap_or(0),
        sidecars
            .map(|status| status.restart_count)
            .max()
            .unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::target::tests::pod;

    /// Whether kubectl takes a pod with `better` rather than one with `worse`, whatever their names are.
    #[track_caller]
    fn prefers(better: &Value, worse: &Value) {
        for (a, b) in [("a", "b"), ("b", "a")] {
            let (better, worse) = (pod(a, better.clone()), pod(b, worse.clone()));
            assert_eq!(preferred_first(&better, &worse), Ordering::Less);
            assert_eq!(preferred_first(&worse, &better), Ordering::Greater);
        }
    }

    fn ready(status: &str, since: &str) -> Value {
        json!({ "status": { "conditions": [
            { "type": "Initialized", "status": "True" },
            { "type": "Ready", "status": status, "lastTransitionTime": since },
        ] } })
    }

    const EARLY: &str = "2026-01-01T10:00:00Z";
    const LATE: &str = "2026-01-02T10:00:00Z";

    #[test]
    fn one_assigned_to_a_node_comes_before_the_phase() {
        prefers(
            &json!({ "status": { "phase": "Pending" } }),
            &json!({ "spec": { "nodeName": null } }),
        );
    }

    #[test]
    fn the_phase_comes_before_readiness() {
        let mut running = ready("False", EARLY);
        running["status"]["phase"] = json!("Running");
        prefers(&running, &json!({ "status": { "phase": "Unknown" } }));
        let mut unknown = ready("False", EARLY);
        unknown["status"]["phase"] = json!("Unknown");
        prefers(&unknown, &json!({ "status": { "phase": "Pending" } }));
    }

    #[test]
    fn pending_succeeded_and_failed_are_equal() {
        for worse in ["Pending", "Succeeded", "Failed"] {
            let worse =
                json!({ "status": { "phase": worse }, "metadata": { "creationTimestamp": LATE } });
            prefers(&json!({ "status": { "phase": "Failed" } }), &worse);
        }
    }

    #[test]
    fn a_ready_one_comes_before_one_that_stays() {
        prefers(
            &json!({ "metadata": { "deletionTimestamp": EARLY } }),
            &ready("False", EARLY),
        );
    }

    #[test]
    fn one_that_stays_comes_before_one_ready_for_longer() {
        let mut going = ready("True", EARLY);
        going["metadata"] = json!({ "deletionTimestamp": LATE });
        prefers(&ready("True", LATE), &going);
    }

    #[test]
    fn of_two_that_are_going_the_later_one() {
        let mut sooner = ready("True", EARLY);
        sooner["metadata"] = json!({ "deletionTimestamp": EARLY });
        prefers(
            &json!({ "metadata": { "deletionTimestamp": LATE } }),
            &sooner,
        );
    }

    #[test]
    fn one_ready_for_longer_comes_before_fewer_restarts() {
        let mut restarted = ready("True", EARLY);
        restarted["status"]["containerStatuses"] = statuses(&[("main", 9)]);
        prefers(&restarted, &ready("True", LATE));
    }

    #[test]
    fn the_time_of_readiness_counts_only_for_ready_ones() {
        let mut older = ready("False", LATE);
        older["metadata"] = json!({ "creationTimestamp": EARLY });
        prefers(&older, &ready("False", EARLY));
    }

    #[test]
    fn fewer_restarts_come_before_age() {
        let with = |main, init, at| {
            json!({
                "metadata": { "creationTimestamp": at },
                "spec": { "initContainers": [
                    { "name": "sidecar", "restartPolicy": "Always" },
                    { "name": "setup" },
                ] },
                "status": { "containerStatuses": main, "initContainerStatuses": init },
            })
        };
        let none = statuses(&[]);
        let setup = statuses(&[("setup", 9)]);
        prefers(
            &with(
                statuses(&[("main", 1), ("other", 2)]),
                statuses(&[("sidecar", 9)]),
                LATE,
            ),
            &with(statuses(&[("main", 3), ("other", 0)]), none.clone(), EARLY),
        );
        prefers(
            &with(none.clone(), setup.clone(), LATE),
            &with(none.clone(), statuses(&[("sidecar", 1)]), EARLY),
        );
        prefers(
            &with(none.clone(), setup, EARLY),
            &with(none.clone(), none, LATE),
        );
    }

    #[test]
    fn the_older_one_and_then_the_name() {
        prefers(
            &json!({ "metadata": { "creationTimestamp": EARLY } }),
            &json!({ "metadata": { "creationTimestamp": LATE } }),
        );
        prefers(
            &json!({ "metadata": { "creationTimestamp": LATE } }),
            &json!({ "metadata": { "creationTimestamp": null } }),
        );
        let same = json!({});
        assert_eq!(
            preferred_first(&pod("a", same.clone()), &pod("b", same)),
            Ordering::Less
        );
    }

    fn statuses(restarts: &[(&str, i32)]) -> Value {
        let status = |&(name, count)| {
            json!({
                "name": name, "restartCount": count, "image": "i", "imageID": "i", "ready": true,
            })
        };
        restarts.iter().map(status).collect()
    }
}
