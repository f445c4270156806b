//! The target that a manifest names, for kubectl's `--filename`. Only the object's kind, name and namespace count: what
//! containers it has, the cluster knows better than a file.

use serde::Deserialize;

use super::{Kind, Target, TargetError};
use crate::untrusted::printable;

/// Characters of a name, a kind or a parser's complaint that are shown.
const SHOWN: usize = 200;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
}

impl Target {
    /// The one object that `manifests` hold, YAML or JSON; each comes with its file's name.
    ///
    /// # Errors
    ///
    /// [`TargetError::Usage`], in kubectl's words where it has some: what can't be read, is no object that leads to pods,
    /// or is none or more than one.
    pub fn from_manifests(manifests: &[(String, Vec<u8>)]) -> Result<Self, TargetError> {
        let mut targets = Vec::new();
        for (file, content) in manifests {
            for document in serde_yaml::Deserializer::from_slice(content) {
                let manifest = Option::<Manifest>::deserialize(document).map_err(|error| {
                    let error = printable(&error.to_string(), SHOWN);
                    usage(format!("error parsing {}: {error}", printable(file, SHOWN)))
                })?;
                targets.extend(manifest.map(|manifest| manifest.target(file)).transpose()?);
            }
        }
        match <[Self; 1]>::try_from(targets) {
            Ok([target]) => Ok(target),
            // kubectl's words, for none too
            Err(_) => Err(usage(
                "cannot exec into multiple objects at a time".to_owned(),
            )),
        }
    }
}

impl Manifest {
    fn target(self, file: &str) -> Result<Target, TargetError> {
        let file = printable(file, SHOWN);
        let missing = |field| {
            usage(format!(
                "unable to decode \"{file}\": Object '{field}' is missing"
            ))
        };
        let kind = self.kind.ok_or_else(|| missing("Kind"))?;
        let version = self.api_version.ok_or_else(|| missing("apiVersion"))?;
        if kind == "List" {
            return Err(usage(
                "cannot exec into multiple objects at a time".to_owned(),
            ));
        }
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let word = format!("{kind}.v1.{group}");
        let found = Kind::from_word(&word).filter(|it| it.to_string().eq_ignore_ascii_case(&kind));
        let Some(found) = found else {
            return Err(usage(format!(
                "no pods are known behind kind \"{}\" in version \"{}\" from \"{file}\": use one of {}",
                printable(&kind, SHOWN),
                printable(&version, SHOWN),
                Kind::LIST
            )));
        };
        let Some(name) = self.metadata.name else {
            return Err(missing("metadata.name"));
        };
        // Names are checked as those that are typed.
        let word = match &self.metadata.namespace {
            Some(namespace) => format!("{namespace}/{found}/{name}"),
            None => format!("{found}/{name}"),
        };
        word.parse()
            .map_err(|error: TargetError| usage(printable(&error.to_string(), 2 * SHOWN)))
    }
}

fn usage(message: String) -> TargetError {
    TargetError::Usage(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &str) -> Result<String, String> {
        let manifests = [("a.yaml".to_owned(), content.as_bytes().to_vec())];
        let target = Target::from_manifests(&manifests);
        target.map(|it| it.to_string()).map_err(|it| it.to_string())
    }

    #[test]
    fn objects_are_targets() {
        for (content, target) in [
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: web}",
                "pod/web",
            ),
            (
                "---\n# only a comment\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n---\n",
                "shop/service/web",
            ),
            (
                r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"x": [1]}}"#,
                "deployment/web",
            ),
            (
                "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}",
                "job/j",
            ),
        ] {
            assert_eq!(read(content).as_deref(), Ok(target), "{content}");
        }
    }

    #[test]
    fn what_is_none_is_told() {
        let many = "cannot exec into multiple objects at a time";
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n";
        for (content, part) in [
            ("", many),
            (&*format!("{pod}---\n{pod}"), many),
            ("apiVersion: v1\nkind: List\nitems: []", many),
            ("a: [", "error parsing a.yaml: "),
            ("just text", "error parsing a.yaml: "),
            (
                "a: b",
                "unable to decode \"a.yaml\": Object 'Kind' is missing",
            ),
            ("kind: Pod", "Object 'apiVersion' is missing"),
            (
                "apiVersion: v1\nkind: Pod",
                "Object 'metadata.name' is missing",
            ),
            (
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}",
                "kind \"ConfigMap\"",
            ),
            (
                "apiVersion: v1\nkind: deploy\nmetadata: {name: a}",
                "kind \"deploy\"",
            ),
            (
                "apiVersion: apps/v1\nkind: Pod\nmetadata: {name: a}",
                "version \"apps/v1\"",
            ),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: a/b}", "a/b"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: \"\\e[2J\"}",
                "u{1b}",
            ),
        ] {
            let error = read(content).expect_err(content);
            assert!(error.contains(part), "{content}: {error}");
            assert!(!error.contains(['\u{1b}', '\n']), "{error}");
        }
    }
}
