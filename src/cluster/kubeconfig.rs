//! Kubeconfig files: which ones are read, what they say together.
//!
//! The rules are kubectl's (client-go `tools/clientcmd/loader.go`): `--kubeconfig` alone if it is given, else every
//! file of `KUBECONFIG`, else `~/.kube/config`. Of several files the first one to set a value or to define a name
//! wins; a file that isn't there is skipped; paths inside a file are relative to that file.
//! What a context means together with the command's flags is `context.rs`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kube::config::Kubeconfig;
use serde::Deserialize as _;

use super::{Error, Options};
use crate::untrusted::printable;

/// Reads and merges what `options` and its environment point to, and says where it looked.
pub(super) fn read(options: &Options) -> Result<(Kubeconfig, Vec<PathBuf>), Error> {
    if let Some(path) = &options.kubeconfig {
        // Asked for by name, so its absence is an error.
        return Ok((read_file(path)?, vec![path.clone()]));
    }
    let paths = paths(options);
    let mut merged = Kubeconfig::default();
    for path in &paths {
        match read_file(path) {
            Ok(next) => merged = merge(merged, next),
            Err(Error::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok((merged, paths))
}

/// The names of the contexts, in the order of the files.
pub(super) fn contexts(config: Kubeconfig) -> Vec<String> {
    let contexts = config.contexts.into_iter();
    contexts.map(|named| named.name).collect()
}

fn paths(options: &Options) -> Vec<PathBuf> {
    let listed: Vec<PathBuf> = options
        .environment
        .get("KUBECONFIG")
        .map(|list| {
            std::env::split_paths(list)
                .filter(|path| !path.as_os_str().is_empty())
                .collect()
        })
        .unwrap_or_default();
    if !listed.is_empty() {
        return listed;
    }
    let home = options.environment.home();
    home.map(|home| home.join(".kube").join("config"))
        .into_iter()
        .collect()
}

fn read_file(path: &Path) -> Result<Kubeconfig, Error> {
    let bytes = fs::read(path).map_err(|source| Error::Read {
        what: "kubeconfig",
        path: path.to_owned(),
        source,
    })?;
    let mut config = parse(&decode(bytes)).map_err(|error| Error::Parse {
        path: path.to_owned(),
        line: error.location().map_or(1, |at| at.line()),
        reason: reason(&error),
    })?;
    anchor(&mut config, path.parent().unwrap_or_else(|| Path::new("")));
    Ok(config)
}

/// The text of a file that an editor or PowerShell may have saved as UTF-16.
fn decode(bytes: Vec<u8>) -> String {
    let wide = |unit: fn([u8; 2]) -> u16| {
        let units = bytes[2..]
            .chunks_exact(2)
            .map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units)
            .map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect()
    };
    match bytes.as_slice() {
        [0xff, 0xfe, ..] => wide(u16::from_le_bytes),
        [0xfe, 0xff, ..] => wide(u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, text @ ..] => String::from_utf8_lossy(text).into_owned(),
        text => String::from_utf8_lossy(text).into_owned(),
    }
}

/// Parses the first document, as kubectl does.
fn parse(text: &str) -> Result<Kubeconfig, serde_yaml::Error> {
    let Some(document) = serde_yaml::Deserializer::from_str(text).next() else {
        return Ok(Kubeconfig::default());
    };
    let strict = Option::<Kubeconfig>::deserialize(document).map(Option::unwrap_or_default);
    strict.or_else(|error| tolerant(text).ok_or(error))
}

/// Parses with duplicate keys, of which the last one counts as in kubectl, and without entries that are null.
fn tolerant(text: &str) -> Option<Kubeconfig> {
    let document = serde_yaml::Deserializer::from_str(text).next()?;
    let mut value = serde_json::Value::deserialize(document).ok()?;
    drop_nulls(&mut value);
    serde_json::from_value(value).ok()
}

fn drop_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// What is wrong, without the place (the error says it by itself) and without the values of a file full of secrets.
fn reason(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    // serde quotes an unexpected scalar: `invalid type: string "...", expected ...`
    let text = match (text.find('"'), text.rfind("\", expected")) {
        (Some(start), Some(end)) if start < end => {
            format!("{}{}", &text[..start].trim_end(), &text[end + 1..])
        }
        _ => text.to_owned(),
    };
    printable(&text, 200)
}

/// Makes the paths in `config` relative to `directory`, where its file is.
fn anchor(config: &mut Kubeconfig, directory: &Path) {
    let anchor = |value: &mut Option<String>| {
        if let Some(path) = value.as_mut().filter(|path| !path.is_empty()) {
            *path = directory.join(&*path).to_string_lossy().into_owned();
        }
    };
    for cluster in config
        .clusters
        .iter_mut()
        .filter_map(|named| named.cluster.as_mut())
    {
        anchor(&mut cluster.certificate_authority);
    }
    for user in config
        .auth_infos
        .iter_mut()
        .filter_map(|named| named.auth_info.as_mut())
    {
        anchor(&mut user.client_certificate);
        anchor(&mut user.client_key);
        anchor(&mut user.token_file);
        if let Some(exec) = &mut user.exec {
            // A bare name is looked up in PATH.
            if exec
                .command
                .as_ref()
                .is_some_and(|command| command.contains(std::path::is_separator))
            {
                anchor(&mut exec.command);
            }
        }
    }
}

/// Adds to `first` what only `next` defines.
fn merge(mut first: Kubeconfig, next: Kubeconfig) -> Kubeconfig {
    for cluster in next.clusters {
        if !first
            .clusters
            .iter()
            .any(|known| known.name == cluster.name)
        {
            first.clusters.push(cluster);
        }
    }
    for user in next.auth_infos {
        if !first.auth_infos.iter().any(|known| known.name == user.name) {
            first.auth_infos.push(user);
        }
    }
    for context in next.contexts {
        if !first
            .contexts
            .iter()
            .any(|known| known.name == context.name)
        {
            first.contexts.push(context);
        }
    }
    let set = |name: &String| !name.is_empty();
    first.current_context = first.current_context.filter(set).or(next.current_context);
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Environment;

    const FIRST: &str = "\
apiVersion: v1
kind: Config
current-context: \"\"
clusters:
- {name: shared, cluster: {server: https://first, certificate-authority: ca.pem}}
users:
- {name: red, user: {client-certificate: ../red.pem, client-key: /abs/red.key}}
";
    const SECOND: &str = "\
apiVersion: v1
kind: Config
current-context: second
clusters:
- {name: shared, cluster: {server: https://second, insecure-skip-tls-verify: true}}
- {name: other, cluster: {server: https://other}}
users:
- {name: red, user: {token: loses}}
- {name: plugin, user: {exec: {command: ./bin/login, apiVersion: client.authentication.k8s.io/v1}}}
- {name: path, user: {exec: {command: aws, apiVersion: client.authentication.k8s.io/v1, env: null, args: null}}}
contexts:
- {name: second, context: {cluster: shared, user: red}}
";

    fn list(paths: &[&Path]) -> Options {
        let list = std::env::join_paths(paths).expect("no colon in a temporary path");
        Options {
            environment: [("KUBECONFIG", list)].into_iter().collect(),
            ..Options::default()
        }
    }

    #[test]
    fn first_value_wins_and_missing_files_are_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a/config"), dir.path().join("b"));
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(&a, FIRST).unwrap();
        fs::write(&b, SECOND).unwrap();
        let missing = dir.path().join("missing");

        let (config, _) = read(&list(&[&missing, &a, &missing, &b])).unwrap();

        assert_eq!(
            config.current_context.as_deref(),
            Some("second"),
            "an empty value isn't a value"
        );
        let shared = config.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(shared.server.as_deref(), Some("https://first"));
        assert_eq!(
            shared.insecure_skip_tls_verify, None,
            "entries are never mixed"
        );
        assert_eq!(config.clusters.len(), 2);
        let red = config.auth_infos[0].auth_info.as_ref().unwrap();
        assert!(red.token.is_none());
        let directory = dir.path().join("a");
        assert_eq!(
            Path::new(shared.certificate_authority.as_deref().unwrap()),
            directory.join("ca.pem")
        );
        assert_eq!(
            Path::new(red.client_certificate.as_deref().unwrap()),
            directory.join("../red.pem")
        );
        assert_eq!(red.client_key.as_deref(), Some("/abs/red.key"));
        let command = |i: usize| {
            config.auth_infos[i]
                .auth_info
                .as_ref()
                .unwrap()
                .exec
                .as_ref()
                .unwrap()
                .command
                .clone()
        };
        assert_eq!(
            command(1).map(PathBuf::from),
            Some(dir.path().join("./bin/login"))
        );
        assert_eq!(command(2).as_deref(), Some("aws"));
    }

    #[test]
    fn home_is_the_default_and_may_be_empty() {
        let home = tempfile::tempdir().unwrap();
        let name = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        let environment: Environment =
            [(name, home.path().as_os_str()), ("KUBECONFIG", "".as_ref())]
                .into_iter()
                .collect();
        let options = Options {
            environment,
            ..Options::default()
        };
        let (config, looked) = read(&options).unwrap();
        assert!(config.contexts.is_empty());
        assert_eq!(looked, [home.path().join(".kube/config")]);

        fs::create_dir(home.path().join(".kube")).unwrap();
        fs::write(home.path().join(".kube/config"), SECOND).unwrap();
        assert_eq!(read(&options).unwrap().0.contexts[0].name, "second");
    }

    #[test]
    fn a_named_file_must_exist() {
        let options = Options {
            kubeconfig: Some("/nonexistent/config".into()),
            ..Options::default()
        };
        let error = read(&options).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/config"), "{error}");
    }

    #[test]
    fn malformed_yaml_names_file_and_line_but_no_value() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        for (text, line) in [
            ("clusters:\n- name: x\n  cluster: {server: }]\n", "line 3"),
            ("a: b\nusers: \"s3cret\"\n", "line 2"),
            ("clusters:\n- name: x\n  cluster: s3cret\n", "line 3"),
            (
                "users:\n- name: x\n  user: {exec: {interactiveMode: s3cret}}\n",
                "line 3",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&list(&[&path])).unwrap_err().to_string();
            assert!(error.contains(&*path.to_string_lossy()), "{error}");
            assert!(error.contains(line), "{error}");
            assert!(!error.contains('\n'), "{error}");
            assert!(
                !error.contains("s3cret") || error.contains("variant"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_kubectl_reads_is_read() {
        let duplicate = "current-context: a\ncurrent-context: b\nusers: null\ncontexts:\n- name: 123\n  context: {cluster: x, user: y}\n";
        let config = parse(&duplicate.replace("123", "'123'")).unwrap();
        assert_eq!(
            config.current_context.as_deref(),
            Some("b"),
            "the last duplicate counts"
        );
        assert_eq!(config.contexts[0].name, "123");
        let numeric = parse("contexts:\n- name: 123\n  context: {cluster: 1, user: 2}\n").unwrap();
        assert_eq!(numeric.contexts[0].name, "123");
        let null =
            parse("users:\n- name: o\n  user:\n    auth-provider: {name: oidc, config: null}\n")
                .unwrap();
        assert_eq!(null.auth_infos.len(), 1);
        assert_eq!(parse("").unwrap().contexts.len(), 0);
        assert_eq!(
            parse("{\n\t\"contexts\": [],\n\t\"current-context\": \"j\"\n}")
                .unwrap()
                .current_context
                .as_deref(),
            Some("j")
        );
        assert_eq!(
            parse("current-context: one\n---\ncurrent-context: two\n")
                .unwrap()
                .current_context
                .as_deref(),
            Some("one")
        );
    }

    #[test]
    fn files_saved_as_utf16_are_read() {
        let utf16: Vec<u8> = "\u{feff}current-context: ä"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(
            parse(&decode(utf16)).unwrap().current_context.as_deref(),
            Some("ä")
        );
        let utf8 = "\u{feff}current-context: b".as_bytes().to_vec();
        assert_eq!(
            parse(&decode(utf8)).unwrap().current_context.as_deref(),
            Some("b")
        );
    }
}
