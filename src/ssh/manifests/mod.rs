//! What a cluster needs to run the gateway, as YAML for `kubectl apply`.
//!
//! The text is `template.yaml`. What goes into it is checked first, so that it stays what the template says: names by
//! Kubernetes' own rules, lists as JSON, and the configuration as an indented block.

use std::fmt::Write as _;
use std::time::Duration;

use crate::cluster::target::is_label;
use crate::untrusted::printable;

#[cfg(test)]
mod tests;

const TEMPLATE: &str = include_str!("template.yaml");
/// The configuration where none is given.
const CONFIG: &str = include_str!("gateway.yaml");
/// How long the last events may take to be written after a drain.
const LAST_EVENTS: Duration = Duration::from_secs(10);
/// Characters of a wrong value in an error.
const SHOWN: usize = 120;

/// What the manifests are made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of everything that is made.
    pub name: String,
    /// Where it is made.
    pub namespace: String,
    /// An image with kpf as its entry point.
    pub image: String,
    /// Pods.
    pub replicas: u16,
    /// Where people come in.
    pub service: Service,
    /// The service's port.
    pub port: u16,
    /// Users that the gateway may act as; everybody where there is none.
    pub users: Vec<String>,
    /// Groups that it may give them; none but those that the API server gives to everybody where there is none.
    pub groups: Vec<String>,
    /// Rules of constrained impersonation (KEP-5284, Kubernetes 1.36), rather than of the older kind.
    pub constrained: bool,
    /// The configuration's text; without one, keys from a ConfigMap, the host key in a Secret, and events on stdout.
    pub config: Option<String>,
    /// How long a drain may take; as the configuration says.
    pub drain: Duration,
}

/// How a service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Service {
    /// By an address of its own.
    #[default]
    LoadBalancer,
    /// By a port of every node.
    NodePort,
    /// From inside the cluster.
    ClusterIp,
}

/// A value that fits into no manifest.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: `{value}` {reason}")]
pub struct Error {
    what: &'static str,
    value: String,
    reason: &'static str,
}

impl Options {
    /// The manifests, in an order in which they can be applied.
    ///
    /// # Errors
    /// A value is none that Kubernetes would take.
    pub fn manifests(&self) -> Result<String, Error> {
        let wrong = |what, value: &str, reason| Error {
            what,
            value: printable(value, SHOWN),
            reason,
        };
        for (what, name) in [("--name", &self.name), ("--namespace", &self.namespace)] {
            // leaves room for `-host-key`, and can be a service's
            let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
            if !is_label(name) || !begins || name.len() > 50 || !is_text(name) {
                let reason = "is no name: a-z, 0-9 and `-`, 50 at most, beginning with a letter";
                return Err(wrong(what, name, reason));
            }
        }
        if !is_image(&self.image) || !is_text(&self.image) {
            return Err(wrong("--image", &self.image, "is no image reference"));
        }
        for (what, names) in [("--user", &self.users), ("--group", &self.groups)] {
            for name in names {
                if name.starts_with("system:") {
                    let reason = "is the cluster's own: nobody is to act as that through a gateway";
                    return Err(wrong(what, name, reason));
                }
                if name.is_empty() || name.chars().any(char::is_control) {
                    return Err(wrong(what, name, "is no name"));
                }
            }
        }
        let (service, traffic) = match self.service {
            // the addresses of users rather than those of nodes
            Service::LoadBalancer => ("LoadBalancer", "  externalTrafficPolicy: Local\n"),
            Service::NodePort => ("NodePort", "  externalTrafficPolicy: Local\n"),
            Service::ClusterIp => ("ClusterIP", ""),
        };
        let names = [
            ("name", self.name.clone()),
            ("namespace", self.namespace.clone()),
        ];
        let mut config = String::new();
        let text = self.config.clone();
        for line in text.unwrap_or_else(|| filled(CONFIG, &names)).lines() {
            // of a line that is empty, an indent would be all there is
            let indent = if line.is_empty() { "" } else { "    " };
            let _ = writeln!(config, "{indent}{line}"); // a String takes everything
        }
        let config = config.trim_end_matches('\n');
        let [name, namespace] = names;
        let values = [
            ("impersonation", self.impersonation()),
            ("config", config.to_owned()),
            name,
            namespace,
            ("image", self.image.clone()),
            ("replicas", self.replicas.to_string()),
            ("grace", (self.drain + LAST_EVENTS).as_secs().to_string()),
            ("service", service.to_owned()),
            ("traffic", traffic.to_owned()),
            ("port", self.port.to_string()),
        ];
        Ok(filled(TEMPLATE, &values))
    }

    /// The role that lets the gateway act as its users, and nothing else.
    fn impersonation(&self) -> String {
        let list = |names: &[String]| match names {
            [] => String::new(),
            names => {
                let names = serde_json::json!(names); // JSON is YAML
                format!("    resourceNames: {names}\n")
            }
        };
        let rule = |group: &str, resources: &str, names: &[String], verbs: &str| {
            let names = list(names);
            format!(
                "  - apiGroups: [\"{group}\"]\n    resources: [{resources}]\n{names}    verbs: [{verbs}]\n"
            )
        };
        // the id of a connection, for the cluster's own audit log
        let session = "userextras/kpf.dev/session";
        let mut rules = String::new();
        if self.constrained {
            let group = "authentication.k8s.io";
            let who = "\"impersonate:user-info\"";
            rules += &rule(group, "users", &self.users, who);
            if !self.groups.is_empty() {
                rules += &rule(group, "groups", &self.groups, who);
            }
            rules += &rule(group, session, &[], who);
            rules += "  # and what for; where, the users' own roles say\n";
            let [get, create, list] = ["get", "create", "list"]
                .map(|verb| format!("\"impersonate-on:user-info:{verb}\""));
            rules += &rule("", "pods", &[], &format!("{get}, {list}"));
            let streams = "pods/portforward, pods/exec";
            rules += &rule("", streams, &[], &format!("{get}, {create}"));
            rules += &rule("", "services, replicationcontrollers", &[], &get);
            rules += &rule(
                "apps",
                "deployments, replicasets, statefulsets, daemonsets",
                &[],
                &get,
            );
            rules += &rule("batch", "jobs", &[], &get);
            rules += &rule(
                "authorization.k8s.io",
                "selfsubjectaccessreviews",
                &[],
                &create,
            );
        } else {
            rules += &rule("", "users", &self.users, "impersonate");
            if !self.groups.is_empty() {
                rules += &rule("", "groups", &self.groups, "impersonate");
            }
            rules += &rule("authentication.k8s.io", session, &[], "impersonate");
        }
        let everybody = if self.users.is_empty() {
            "# It may act as any user: make this again with --user to name them, where they are known.\n"
        } else {
            ""
        };
        let name = &self.name;
        format!(
            "{everybody}apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata:\n  name: {name}\nrules:\n{rules}---"
        )
    }
}

/// The template with its `${name}`s filled in, once: a value that has one stays as it is.
fn filled(template: &str, values: &[(&str, String)]) -> String {
    let mut text = String::with_capacity(2 * template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        text += before;
        let known = values.iter().find_map(|(name, value)| {
            let after = after.strip_prefix(name)?.strip_prefix('}')?;
            Some((value, after))
        });
        match known {
            Some((value, after)) => {
                text += value;
                rest = after;
            }
            None => {
                text += "${";
                rest = after;
            }
        }
    }
    text + rest
}

/// Whether YAML takes it for text, as it stands: not for `true` or a number.
fn is_text(value: &str) -> bool {
    let read = serde_yaml::from_str(value);
    matches!(read, Ok(serde_yaml::Value::String(text)) if text == value)
}

/// Whether it may be a reference as in `registry:5000/team/kpf:0.1@sha256:…`; the registry has the last word.
fn is_image(image: &str) -> bool {
    let may = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@');
    !image.is_empty()
        && image.len() <= 512
        && image.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !image.ends_with(':') // YAML's, not Docker's
        && image.chars().all(may)
}
