//! The types that lead to pods, by every name that kubectl gives them.

use std::fmt;

/// A type of object that is a pod or selects pods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A pod, used as it is.
    Pod,
    /// A service, by the selector of its endpoints.
    Service,
    /// `deployments.apps`.
    Deployment,
    /// `replicasets.apps`.
    ReplicaSet,
    /// `statefulsets.apps`.
    StatefulSet,
    /// `daemonsets.apps`.
    DaemonSet,
    /// `jobs.batch`.
    Job,
    /// The predecessor of replica sets.
    ReplicationController,
}

impl Kind {
    /// The types as a sentence, for errors.
    pub(super) const LIST: &str = "pod, service, deployment, replicaset, statefulset, daemonset, job and replicationcontroller";

    /// Reads a type as kubectl does: any case; singular, plural or short; alone, with its group or with version
    /// and group (`deploy`, `deployments.apps`, `deployments.v1.apps`).
    pub fn from_word(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        let (head, rest) = match word.split_once('.') {
            Some((head, rest)) => (head, Some(rest)),
            None => (&word[..], None),
        };
        let kind = match head {
            "pod" | "pods" | "po" => Self::Pod,
            "service" | "services" | "svc" => Self::Service,
            "deployment" | "deployments" | "deploy" => Self::Deployment,
            "replicaset" | "replicasets" | "rs" => Self::ReplicaSet,
            "statefulset" | "statefulsets" | "sts" => Self::StatefulSet,
            "daemonset" | "daemonsets" | "ds" => Self::DaemonSet,
            "job" | "jobs" => Self::Job,
            "replicationcontroller" | "replicationcontrollers" | "rc" => {
                Self::ReplicationController
            }
            _ => return None,
        };
        let in_group =
            |rest: &str| rest == kind.group() || rest.strip_prefix("v1.") == Some(kind.group());
        rest.is_none_or(in_group).then_some(kind)
    }

    /// The shortest name that kubectl knows it by: `sts`.
    pub fn short(self) -> &'static str {
        match self {
            Self::Pod => "po",
            Self::Service => "svc",
            Self::Deployment => "deploy",
            Self::ReplicaSet => "rs",
            Self::StatefulSet => "sts",
            Self::DaemonSet => "ds",
            Self::Job => "job",
            Self::ReplicationController => "rc",
        }
    }

    /// Whether `word` is a type that everyone knows but that has no pods of its own, so that nobody means a
    /// namespace by it. Such a namespace is still reached as `nodes/pod/NAME`.
    pub(super) fn leads_to_no_pod(word: &str) -> bool {
        let word = word.to_ascii_lowercase();
        matches!(
            word.split('.').next(),
            Some(
                "cronjob"
                    | "cronjobs"
                    | "cj"
                    | "node"
                    | "nodes"
                    | "endpoints"
                    | "ingress"
                    | "ingresses"
            )
        )
    }

    /// As API servers call it in their sentences: `deployments.apps`.
    pub(in crate::cluster) fn resource(self) -> String {
        match self.group() {
            "" => format!("{self}s"),
            group => format!("{self}s.{group}"),
        }
    }

    fn group(self) -> &'static str {
        match self {
            Self::Pod | Self::Service | Self::ReplicationController => "",
            Self::Deployment | Self::ReplicaSet | Self::StatefulSet | Self::DaemonSet => "apps",
            Self::Job => "batch",
        }
    }
}

/// The singular, as kubectl writes it: `statefulset`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Service => "service",
            Self::Deployment => "deployment",
            Self::ReplicaSet => "replicaset",
            Self::StatefulSet => "statefulset",
            Self::DaemonSet => "daemonset",
            Self::Job => "job",
            Self::ReplicationController => "replicationcontroller",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_kubectl_is_known() {
        for (words, kind) in [
            ("po pod pods Pod pods.v1.", Kind::Pod),
            ("svc service services SVC", Kind::Service),
            (
                "deploy deployment deployments deployments.apps deployments.v1.apps deploy.apps",
                Kind::Deployment,
            ),
            (
                "rs replicaset replicasets ReplicaSet replicasets.apps",
                Kind::ReplicaSet,
            ),
            (
                "sts statefulset statefulsets statefulset.apps",
                Kind::StatefulSet,
            ),
            ("ds daemonset daemonsets", Kind::DaemonSet),
            ("job jobs jobs.batch jobs.v1.batch", Kind::Job),
            (
                "rc replicationcontroller replicationcontrollers",
                Kind::ReplicationController,
            ),
        ] {
            for word in words.split(' ') {
                assert_eq!(Kind::from_word(word), Some(kind), "{word}");
            }
            assert_eq!(Kind::from_word(&kind.to_string()), Some(kind));
            assert_eq!(Kind::from_word(kind.short()), Some(kind));
            assert!(Kind::LIST.contains(&kind.to_string()));
        }
    }

    #[test]
    fn other_words_and_other_groups_are_not() {
        for word in [
            "",
            "p",
            "cronjob",
            "shop",
            "pods.apps",
            "deployments.extensions",
            "jobs.",
            "deployments.v1",
        ] {
            assert_eq!(Kind::from_word(word), None, "{word}");
        }
        assert!(Kind::leads_to_no_pod("CronJobs.batch"));
        assert!(!Kind::leads_to_no_pod("shop"));
    }
}
