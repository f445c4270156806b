//! Which pod of a workload kubectl would take.
//!
//! The order is that of Kubernetes' `podutils.ActivePods`, reversed: the first difference wins.

use std::cmp::Ordering;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Orders pods, the preferred one first. Equal pods are ordered by name, so that the choice is repeatable; kubectl
/// leaves it to chance.
pub(super) fn preferred_first(a: &Pod, b: &Pod) -> Ordering {
    // `false` sorts before `true`, so each line says what is worse
    is_unassigned(a)
        .cmp(&is_unassigned(b))
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| (!is_ready(a)).cmp(&!is_ready(b)))
        .then_with(|| is_deleting(a).cmp(&is_deleting(b)))
        .then_with(|| by_deletion(a, b))
        .then_with(|| by_readiness(a, b))
        .then_with(|| restarts(a).cmp(&restarts(b)))
        .then_with(|| {
            oldest_first(
                a.metadata.creation_timestamp.as_ref(),
                b.metadata.creation_timestamp.as_ref(),
            )
        })
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

/// The phase, `Unknown` where the node has not told yet.
pub(super) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Unknown")
}

pub(super) fn is_deleting(pod: &Pod) -> bool {
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

/// Of two that are going, the one that stays longer.
fn by_deletion(a: &Pod, b: &Pod) -> Ordering {
    match (
        &a.metadata.deletion_timestamp,
        &b.metadata.deletion_timestamp,
    ) {
        (Some(a), Some(b)) => b.0.cmp(&a.0),
        _ => Ordering::Equal,
    }
}

/// Of two that are ready, the one that has been so for longer.
fn by_readiness(a: &Pod, b: &Pod) -> Ordering {
    if !is_ready(a) || !is_ready(b) {
        return Ordering::Equal;
    }
    let since =
        |pod| ready_condition(pod).and_then(|condition| condition.last_transition_time.as_ref());
    oldest_first(since(a), since(b))
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

/// A time that is missing counts as the newest.
fn oldest_first(a: Option<&Time>, b: Option<&Time>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.0.cmp(&b.0),
        _ => a.is_none().cmp(&b.is_none()),
    }
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
