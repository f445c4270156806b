//! From what a user names to a pod and its ports.
//!
//! A [`Target`] is written the same way everywhere: on the command line, in ssh_config and in the user names of
//! the gateway.
//!
//! | written | means |
//! |---|---|
//! | `NAME` | the pod NAME |
//! | `TYPE/NAME` | TYPE as kubectl knows it: `pod`, `svc`, `deployments.apps`, … ([`Kind`]) |
//! | `NS/NAME` | where the first word is no type: the pod NAME in namespace NS |
//! | `NS/TYPE/NAME` | all three |
//! | `OBJECT.NS.kpf`, `OBJECT.NS.CONTEXT.kpf` | the host form: OBJECT is a pod's name or `TYPE_NAME` |
//!
//! This file reads a target; `manifest` finds one in a file; [`ports`] reads ports; `translate` finds the pod's port behind a service's or a name;
//! `preference` orders the pods of a workload; `container` chooses one of a pod's containers; `resolve` asks the
//! cluster, and is the only one that does.

mod container;
mod kind;
mod manifest;
pub mod ports;
mod preference;
mod resolve;
mod translate;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use super::{Alias, Options, RequestError, contexts};

pub use self::container::ContainerRef;
pub use self::kind::Kind;
pub use self::resolve::{PodRef, Resolved};
pub use self::translate::{Endpoint, PodPort};

// what `follow` shares with `resolve`
pub(super) use self::preference::{Rank, is_deleting};
pub(super) use self::resolve::{is_over, is_ready, is_running, label_selector, without_selector};
pub(super) use self::translate::{port_of_pod, port_of_service, service_port};

#[cfg(test)]
pub(super) use self::tests::pod;

/// What a user wants to reach, before anything was asked of a cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    context: Option<String>,
    namespace: Option<String>,
    kind: Kind,
    name: String,
}

impl Target {
    /// A pod, by its name.
    pub(super) fn pod(name: &str) -> Self {
        Self {
            context: None,
            namespace: None,
            kind: Kind::Pod,
            name: name.to_owned(),
        }
    }

    /// An object in a namespace, by names as they were sent.
    ///
    /// # Errors
    ///
    /// [`TargetError::Usage`] where Kubernetes has no such names.
    pub fn in_namespace(kind: Kind, namespace: &str, name: &str) -> Result<Self, TargetError> {
        Ok(Self {
            context: None,
            namespace: Some(valid_namespace(namespace, namespace)?.to_owned()),
            kind,
            name: valid_name(name, kind, name)?.to_owned(),
        })
    }

    /// The namespace that the target itself names.
    pub fn own_namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The kind of object that was named.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether any of several pods will do, as for all but a pod's own name.
    pub fn leads_to_many(&self) -> bool {
        self.kind != Kind::Pod
    }

    /// The name of the object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same target in this context and namespace, where the target names none itself.
    ///
    /// # Errors
    ///
    /// [`TargetError::Usage`] where it names others, or where `namespace` can't be one.
    pub fn within(
        mut self,
        context: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<Self, TargetError> {
        if let Some(namespace) = namespace {
            if !is_label(namespace) {
                return Err(TargetError::Usage(format!(
                    "`{namespace}` is no namespace: a lowercase RFC 1123 label has a-z, 0-9 and `-`, up to 63"
                )));
            }
            if self
                .namespace
                .as_deref()
                .is_some_and(|own| own != namespace)
            {
                return Err(TargetError::Usage(format!(
                    "`{self}` names another namespace than `{namespace}`: leave one of them out"
                )));
            }
            self.namespace = Some(namespace.to_owned());
        }
        if let Some(context) = context {
            if let Some(own) = self.context.as_deref().filter(|own| *own != context) {
                return Err(TargetError::Usage(format!(
                    "the target names the context `{own}` and not `{context}`: leave one of them out"
                )));
            }
            self.context = Some(context.to_owned());
        }
        Ok(self)
    }

    /// The namespace to look in: the target's own, else that of `-n`, else `default` (the context's).
    ///
    /// # Errors
    ///
    /// [`TargetError::Usage`] where the target's namespace and `-n` differ: neither may win silently.
    pub fn namespace<'a>(
        &'a self,
        flag: Option<&'a str>,
        default: &'a str,
    ) -> Result<&'a str, TargetError> {
        match (self.namespace.as_deref(), flag) {
            (Some(own), Some(flag)) if own != flag => Err(TargetError::Usage(format!(
                "`{self}` names the namespace `{own}` but -n says `{flag}`: leave one of them out"
            ))),
            (Some(own), _) => Ok(own),
            (None, Some(flag)) => Ok(flag),
            (None, None) => Ok(default),
        }
    }

    /// Puts the context that the host form names into `options`; nothing changes where the target names none.
    ///
    /// ssh lower-cases host names before it hands them to a ProxyCommand, so a context also matches without
    /// regard to case where that is unambiguous.
    ///
    /// # Errors
    ///
    /// [`TargetError::Usage`] where the kubeconfig has no such context, or several that differ only in case, or
    /// where `--context` says another one; [`TargetError::Config`] where it can't be read.
    pub fn choose_context(&self, options: &mut Options) -> Result<(), TargetError> {
        let Some(wanted) = &self.context else {
            return Ok(());
        };
        let known = contexts(options)?;
        let alias = options.aliases.iter().find(|it| it.alias == *wanted);
        let context = match alias {
            Some(alias) => find_context(&alias.context, &known)?,
            None => find_context(wanted, &known)?,
        };
        match &options.context {
            Some(flag) if flag != context => Err(TargetError::Usage(format!(
                "the target names the context `{context}` but --context says `{flag}`: leave one of them out"
            ))),
            _ => {
                options.context = Some(context.to_owned());
                Ok(())
            }
        }
    }
}

impl FromStr for Alias {
    type Err = TargetError;

    /// Reads `ALIAS=CONTEXT`.
    fn from_str(word: &str) -> Result<Self, TargetError> {
        let wrong = |what: &str| TargetError::Usage(format!("{what}: write ALIAS=CONTEXT"));
        let (alias, context) = word.split_once('=').ok_or_else(|| wrong("it has no `=`"))?;
        match is_label(alias) && alias != "kpf" {
            _ if context.is_empty() => Err(wrong("it lacks the context")),
            false => Err(wrong(
                "an alias is a part of a host name, of a-z, 0-9 and `-`, and not kpf",
            )),
            true => Ok(Self {
                alias: alias.to_owned(),
                context: context.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.alias, self.context)
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(word: &str) -> Result<Self, TargetError> {
        let words: Vec<&str> = word.split('/').collect();
        let (namespace, kind, name) = match words[..] {
            [""] => {
                return Err(TargetError::Usage(
                    "the target is empty: write NAME or TYPE/NAME".to_owned(),
                ));
            }
            [host] if host.ends_with(".kpf") => return host_form(host),
            [name] => (None, Kind::Pod, name),
            [first, name] => match Kind::from_word(first) {
                Some(kind) => (None, kind, name),
                None => (Some(namespace_or_kind(word, first)?), Kind::Pod, name),
            },
            [namespace, kind, name] => (
                Some(valid_namespace(word, namespace)?),
                known_kind(word, kind)?,
                name,
            ),
            _ => {
                return Err(TargetError::Usage(format!(
                    "`{word}` has too many slashes: write NAMESPACE/TYPE/NAME"
                )));
            }
        };
        Ok(Self {
            context: None,
            namespace: namespace.map(str::to_owned),
            kind,
            name: valid_name(word, kind, name)?.to_owned(),
        })
    }
}

/// The canonical way to write it, as in `shop/service/web`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{}/{}", self.kind, self.name)
    }
}

/// Why a target does not lead to a pod and its ports, in one line each. What a server has said is in it as
/// [`printable`](crate::untrusted::printable) text.
#[derive(Debug, Error)]
pub enum TargetError {
    /// What was typed makes no sense, whatever the cluster has.
    #[error("{0}")]
    Usage(String),
    /// The kubeconfig can't be searched for the context that the target names.
    #[error(transparent)]
    Config(#[from] super::Error),
    /// The cluster has no such object.
    #[error("{source} in namespace `{namespace}`")]
    NotFound {
        /// Where it was looked for.
        namespace: String,
        /// The server's words, as in `pods "web" not found`.
        source: RequestError,
    },
    /// The cluster refused to answer or could not be asked.
    #[error(transparent)]
    Request(RequestError),
    /// The cluster was asked and has not answered in time.
    #[error("the API server did not answer about `{target}` within {wait:?}")]
    NoAnswer {
        /// What it was asked for.
        target: String,
        /// How long it was given.
        wait: Duration,
    },
    /// The object exists but no pod can be found through it: a service without a selector.
    #[error("{0}")]
    NoPods(String),
    /// No pod of the object came up in time.
    #[error(
        "timed out waiting for the condition: no pod of `{target}` came up in namespace `{namespace}` within {wait:?}"
    )]
    NoPodInTime {
        /// The object.
        target: String,
        /// Where it is.
        namespace: String,
        /// How long it was given.
        wait: Duration,
    },
    /// The pod exists but does not run, and did not start in time.
    #[error(
        "unable to forward port because pod is not running. Current status={status} (pod `{pod}`)"
    )]
    NotRunning {
        /// The pod's name.
        pod: String,
        /// Its phase, and what its containers wait for if they say so: `Pending, ImagePullBackOff`.
        status: String,
    },
    /// The pod has run to its end; no command can run in it.
    #[error("cannot exec into a container in a completed pod; current phase is {phase}")]
    Completed {
        /// `Succeeded` or `Failed`.
        phase: String,
    },
    /// The pod has no such container.
    #[error("{0}")]
    NoContainer(String),
    /// The pod or service has no such port, or it is for UDP.
    #[error("{0}")]
    NoSuchPort(String),
}

/// `OBJECT.NS` or `NAME.NS.CONTEXT`: no slashes, because scp and rsync would cut the host at them.
fn host_form(word: &str) -> Result<Target, TargetError> {
    let parts: Vec<&str> = word.split('.').collect();
    let (object, namespace, context) = match &parts[..parts.len() - 1] {
        [] | [_] => {
            return Err(TargetError::Usage(format!(
                "`{word}` lacks a namespace: write OBJECT.NAMESPACE.kpf or OBJECT.NAMESPACE.CONTEXT.kpf"
            )));
        }
        [object, namespace] => ((*object).to_owned(), namespace, None),
        [object @ .., namespace, context] => (object.join("."), namespace, Some(*context)),
    };
    if context == Some("") {
        return Err(TargetError::Usage(format!("`{word}` has an empty context")));
    }
    let (kind, name) = match object.split_once('_') {
        Some((kind, name)) => (known_kind(word, kind)?, name),
        None => (Kind::Pod, &object[..]),
    };
    Ok(Target {
        context: context.map(str::to_owned),
        namespace: Some(valid_namespace(word, namespace)?.to_owned()),
        kind,
        name: valid_name(word, kind, name)?.to_owned(),
    })
}

fn find_context<'a>(wanted: &str, known: &'a [String]) -> Result<&'a str, TargetError> {
    if let Some(exact) = known.iter().find(|context| *context == wanted) {
        return Ok(exact);
    }
    let mut alike = known
        .iter()
        .filter(|context| context.eq_ignore_ascii_case(wanted));
    match (alike.next(), alike.next()) {
        (Some(only), None) => Ok(only),
        (Some(one), Some(other)) => Err(TargetError::Usage(format!(
            "`{wanted}` can mean the context `{one}` or `{other}`: write it with --context"
        ))),
        (None, _) => Err(TargetError::Usage(format!(
            "`{wanted}` is no context of the kubeconfig; three words or more end in .NAMESPACE.CONTEXT.kpf"
        ))),
    }
}

fn known_kind(word: &str, kind: &str) -> Result<Kind, TargetError> {
    if kind.is_empty() {
        return Err(TargetError::Usage(format!(
            "`{word}` lacks a type: write TYPE/NAME or NAMESPACE/TYPE/NAME"
        )));
    }
    Kind::from_word(kind).ok_or_else(|| {
        TargetError::Usage(format!(
            "`{kind}` in `{word}` leads to no pod: the types are {}",
            Kind::LIST
        ))
    })
}

/// The first of two words, which is no type that kpf can reach: a namespace, unless that can't be meant.
fn namespace_or_kind<'a>(word: &str, first: &'a str) -> Result<&'a str, TargetError> {
    if Kind::leads_to_no_pod(first) || (!first.is_empty() && !is_label(first)) {
        known_kind(word, first)?;
    }
    valid_namespace(word, first)
}

fn valid_namespace<'a>(word: &str, namespace: &'a str) -> Result<&'a str, TargetError> {
    if namespace.is_empty() {
        return Err(TargetError::Usage(format!(
            "`{word}` has nothing before its slash or dot: write NAMESPACE/NAME"
        )));
    }
    if !is_label(namespace) {
        return Err(TargetError::Usage(format!(
            "`{namespace}` in `{word}` is no namespace: a lowercase RFC 1123 label has a-z, 0-9 and `-`, up to 63"
        )));
    }
    Ok(namespace)
}

fn valid_name<'a>(word: &str, kind: Kind, name: &'a str) -> Result<&'a str, TargetError> {
    if name.is_empty() {
        return Err(TargetError::Usage(format!(
            "`{word}` lacks the name of a {kind}"
        )));
    }
    // A namespace is one label, names are several: apiserver's `NameIsDNSSubdomain`, 253 in all.
    if name.len() > 253 || !name.split('.').all(is_label_shaped) {
        return Err(TargetError::Usage(format!(
            "`{name}` is no name of a {kind}: a lowercase RFC 1123 name has a-z, 0-9, `-` and `.`, up to 253"
        )));
    }
    Ok(name)
}

/// An RFC 1123 label: what a namespace, a container or a service's port can be called.
pub(crate) fn is_label(word: &str) -> bool {
    word.len() <= 63 && is_label_shaped(word)
}

fn is_label_shaped(word: &str) -> bool {
    word.bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !word.is_empty()
        && !word.starts_with('-')
        && !word.ends_with('-')
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// A pod on a node, running and ready since noon, with `patch` merged into it.
    pub(in crate::cluster) fn pod(name: &str, patch: Value) -> Pod {
        let mut pod = json!({
            "metadata": { "name": name, "uid": format!("uid-{name}"), "creationTimestamp": "2026-01-01T11:00:00Z" },
            "spec": { "nodeName": "node", "containers": [{ "name": "main" }] },
            "status": { "phase": "Running", "conditions": [
                { "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T12:00:00Z" },
            ] },
        });
        merge(&mut pod, patch);
        serde_json::from_value(pod).unwrap()
    }

    fn merge(into: &mut Value, patch: Value) {
        match (into, patch) {
            (Value::Object(into), Value::Object(patch)) => {
                for (key, value) in patch {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, patch) => *into = patch,
        }
    }

    fn parse(word: &str) -> Target {
        word.parse()
            .unwrap_or_else(|error| panic!("{word}: {error}"))
    }

    fn target(context: Option<&str>, namespace: Option<&str>, kind: Kind, name: &str) -> Target {
        Target {
            context: context.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
            kind,
            name: name.to_owned(),
        }
    }

    #[test]
    fn every_form_is_read() {
        let pod = Kind::Pod;
        for (word, expected) in [
            ("web", target(None, None, pod, "web")),
            ("web.v1", target(None, None, pod, "web.v1")),
            ("pod/web", target(None, None, pod, "web")),
            (
                "Deployment/api",
                target(None, None, Kind::Deployment, "api"),
            ),
            (
                "deployments.apps/api",
                target(None, None, Kind::Deployment, "api"),
            ),
            ("shop/web", target(None, Some("shop"), pod, "web")),
            (
                "shop/svc/web",
                target(None, Some("shop"), Kind::Service, "web"),
            ),
            (
                "svc/svc/svc",
                target(None, Some("svc"), Kind::Service, "svc"),
            ),
            ("pod/web.kpf", target(None, None, pod, "web.kpf")),
            ("web.shop.kpf", target(None, Some("shop"), pod, "web")),
            (
                "deploy_api.shop.kpf",
                target(None, Some("shop"), Kind::Deployment, "api"),
            ),
            (
                "web.shop.prod.kpf",
                target(Some("prod"), Some("shop"), pod, "web"),
            ),
            (
                "web.v1.shop.prod.kpf",
                target(Some("prod"), Some("shop"), pod, "web.v1"),
            ),
            (
                "sts_db.v1.shop.user@prod.kpf",
                target(Some("user@prod"), Some("shop"), Kind::StatefulSet, "db.v1"),
            ),
        ] {
            assert_eq!(parse(word), expected, "{word}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        let long_name = "a".repeat(254);
        let long_namespace = format!("{}/web", "a".repeat(64));
        for (word, part) in [
            ("", "the target is empty"),
            ("/", "nothing before its slash"),
            ("/web", "nothing before its slash"),
            ("pod/", "lacks the name of a pod"),
            ("shop/", "lacks the name of a pod"),
            ("shop//web", "`shop//web` lacks a type"),
            ("a/pod/b/c", "too many slashes"),
            ("Web", "`Web` is no name of a pod"),
            ("web_1", "`web_1` is no name"),
            ("-web", "no name"),
            ("web-", "no name"),
            ("web..x", "no name"),
            ("web\u{1b}[2J", "no name"),
            ("wéb", "no name"),
            (&long_name, "up to 253"),
            (&long_namespace, "leads to no pod"),
            (
                "shop/thing/web",
                "`thing` in `shop/thing/web` leads to no pod: the types are pod, service",
            ),
            (
                "cronjob/backup",
                "`cronjob` in `cronjob/backup` leads to no pod",
            ),
            ("deployments.batch/x", "leads to no pod"),
            ("Shop/web", "leads to no pod"),
            ("Shop/pod/web", "is no namespace"),
            (".kpf", "lacks a namespace"),
            ("web.kpf", "lacks a namespace"),
            ("web..kpf", "nothing before"),
            (".shop.kpf", "lacks the name"),
            ("web.shop..kpf", "empty context"),
            (
                "thing_web.shop.kpf",
                "`thing` in `thing_web.shop.kpf` leads to no pod",
            ),
        ] {
            let error = word.parse::<Target>().expect_err(word).to_string();
            assert!(error.contains(part), "{word}: {error}");
            assert!(!error.contains('\n'), "{word}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_words_are_read_or_refused(word in "\\PC{0,40}|[a-z0-9._:/\\[\\]-]{0,40}(\\.kpf)?") {
            if let Ok(target) = word.parse::<Target>() {
                let again = target.to_string().parse::<Target>();
                prop_assert_eq!(again.ok(), Some(Target { context: None, ..target }));
            }
            if let Ok(port) = word.parse::<ports::PortSpec>() {
                let is_socket = word.starts_with("unix:") || word.contains(":unix:");
                let could_be_target = word.contains('/') || word.ends_with(".kpf");
                prop_assert!(is_socket || !could_be_target, "{port:?} could be a target");
            }
        }
    }

    #[test]
    fn the_flag_and_the_target_must_agree_on_the_namespace() {
        let own = parse("shop/web");
        assert_eq!(own.namespace(None, "default").unwrap(), "shop");
        assert_eq!(own.namespace(Some("shop"), "default").unwrap(), "shop");
        let error = own
            .namespace(Some("other"), "default")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "`shop/pod/web` names the namespace `shop` but -n says `other`: leave one of them out"
        );

        let none = parse("web");
        assert_eq!(none.namespace(None, "default").unwrap(), "default");
        assert_eq!(none.namespace(Some("other"), "default").unwrap(), "other");
    }

    #[test]
    fn a_context_is_one_of_the_kubeconfig() {
        let known = ["prod", "Dev", "TEST", "test"].map(str::to_owned);
        for (wanted, context) in [("prod", "prod"), ("dev", "Dev"), ("test", "test")] {
            assert_eq!(find_context(wanted, &known).unwrap(), context);
        }
        let error = |wanted| find_context(wanted, &known).unwrap_err().to_string();
        assert!(error("Test").contains("`TEST` or `test`"));
        assert!(error("shop").contains("`shop` is no context"));
    }

    #[test]
    fn the_host_form_chooses_the_context() {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("config");
        let context = |name| json!({ "name": name, "context": { "cluster": "c", "user": "u" } });
        let config = json!({ "contexts": [context("prod"), context("Dev")] });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        let options = |context: Option<&str>| Options {
            kubeconfig: Some(kubeconfig.clone()),
            context: context.map(str::to_owned),
            ..Options::default()
        };
        for (word, flag, expected) in [
            ("web.shop.dev.kpf", None, Ok(Some("Dev"))),
            ("web.shop.prod.kpf", Some("prod"), Ok(Some("prod"))),
            ("web.shop.kpf", Some("Dev"), Ok(Some("Dev"))),
            ("web", None, Ok(None)),
            (
                "web.shop.prod.kpf",
                Some("Dev"),
                Err("names the context `prod` but --context says `Dev`"),
            ),
            (
                "web.v1.shop.kpf",
                None,
                Err("`shop` is no context of the kubeconfig"),
            ),
        ] {
            let mut options = options(flag);
            match (parse(word).choose_context(&mut options), expected) {
                (Ok(()), Ok(expected)) => {
                    assert_eq!(options.context.as_deref(), expected, "{word}")
                }
                (Err(error), Err(part)) => {
                    assert!(error.to_string().contains(part), "{word}: {error}")
                }
                (found, _) => panic!("{word}: {found:?}"),
            }
        }
    }
}
