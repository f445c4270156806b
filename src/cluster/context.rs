//! From a kubeconfig and the command's flags to one server, one way in and one identity.
//!
//! Precedence as in kubectl (client-go `tools/clientcmd/client_config.go`): a flag replaces what the context says, and
//! what belongs together is replaced together: a server given by flag drops the file's `tls-server-name`, a CA or
//! `--insecure-skip-tls-verify` drops the other one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ::http::Uri;
use kube::config::{AuthInfo, Cluster, Context, Kubeconfig};

use super::{Error, Options, in_cluster};
use crate::untrusted::printable;

/// Everything that a connection needs to know, before any file but the kubeconfig is read.
pub(super) struct Access {
    pub(super) server: Uri,
    pub(super) cluster: Cluster,
    pub(super) user: AuthInfo,
    pub(super) namespace: String,
}

/// What `config` means under `options`; `looked` are the files it was made of, for the error's sake.
pub(super) fn resolve(
    options: &Options,
    config: &Kubeconfig,
    looked: &[PathBuf],
) -> Result<Access, Error> {
    let context = context(options, config)?;
    let (mut cluster, mut user, mut namespace) =
        match selected_cluster(options, config, context.as_ref())? {
            Some(cluster) => (
                cluster,
                selected_user(options, config, context.as_ref())?,
                context.and_then(|c| c.namespace),
            ),
            None => match in_cluster::access(&options.environment) {
                Some((cluster, user, namespace)) => (cluster, user, namespace),
                None => return Err(nothing_configured(config, looked)),
            },
        };
    override_cluster(options, &mut cluster);
    override_user(options, &mut user)?;
    if options.namespace.is_some() {
        namespace.clone_from(&options.namespace);
    }
    Ok(Access {
        server: server(&cluster, &user)?,
        cluster,
        user,
        namespace: namespace
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".to_owned()),
    })
}

fn context(options: &Options, config: &Kubeconfig) -> Result<Option<Context>, Error> {
    let name = options.context.as_ref().or(config.current_context.as_ref());
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    match config.contexts.iter().find(|named| named.name == *name) {
        Some(named) => Ok(Some(named.context.clone().unwrap_or_default())),
        None => Err(Error::NoContext(printable(name, NAME_MAX))),
    }
}

/// The context's or the flag's cluster; `None` where neither file nor flag knows one.
fn selected_cluster(
    options: &Options,
    config: &Kubeconfig,
    context: Option<&Context>,
) -> Result<Option<Cluster>, Error> {
    let name = options
        .cluster
        .as_ref()
        .or_else(|| context.map(|context| &context.cluster));
    let found = name.and_then(|name| config.clusters.iter().find(|named| named.name == *name));
    match (found, name) {
        (Some(named), _) => Ok(Some(named.cluster.clone().unwrap_or_default())),
        // A server that is given by flag needs no cluster entry, unless one was asked for.
        (None, _) if options.server.is_some() && options.cluster.is_none() => {
            Ok(Some(Cluster::default()))
        }
        (None, Some(name)) => Err(Error::NoCluster(printable(name, NAME_MAX))),
        (None, None) => Ok(None),
    }
}

fn selected_user(
    options: &Options,
    config: &Kubeconfig,
    context: Option<&Context>,
) -> Result<AuthInfo, Error> {
    let name = options
        .user
        .as_ref()
        .or_else(|| context.and_then(|context| context.user.as_ref()));
    let found = name.and_then(|name| config.auth_infos.iter().find(|named| named.name == *name));
    match (found, &options.user) {
        (Some(named), _) => Ok(named.auth_info.clone().unwrap_or_default()),
        (None, Some(name)) => Err(Error::NoUser(printable(name, NAME_MAX))),
        (None, None) => Ok(AuthInfo::default()), // as client-go: a context may name a user that isn't there
    }
}

fn nothing_configured(config: &Kubeconfig, looked: &[PathBuf]) -> Error {
    let contexts: Vec<&str> = config
        .contexts
        .iter()
        .map(|named| named.name.as_str())
        .collect();
    if contexts.is_empty() {
        let looked: Vec<String> = looked
            .iter()
            .map(|path| format!("`{}`", path.display()))
            .collect();
        Error::NotConfigured(if looked.is_empty() {
            "nowhere".to_owned()
        } else {
            looked.join(", ")
        })
    } else {
        Error::NoCurrentContext(printable(&contexts.join(", "), 300))
    }
}

fn override_cluster(options: &Options, cluster: &mut Cluster) {
    if options.insecure_skip_tls_verify || options.certificate_authority.is_some() {
        cluster.insecure_skip_tls_verify = Some(options.insecure_skip_tls_verify);
        cluster.certificate_authority = options.certificate_authority.as_deref().map(text);
        cluster.certificate_authority_data = None;
    }
    if options.tls_server_name.is_some() || options.server.is_some() {
        cluster.tls_server_name.clone_from(&options.tls_server_name);
    }
    if options.server.is_some() {
        cluster.server.clone_from(&options.server);
    }
    if options.proxy_url.is_some() {
        cluster.proxy_url.clone_from(&options.proxy_url);
    }
}

fn override_user(options: &Options, user: &mut AuthInfo) -> Result<(), Error> {
    if let Some(token) = &options.token {
        user.token = Some(token.clone().into());
        user.token_file = None;
        (user.username, user.password) = (None, None);
    }
    if options.username.is_some() || options.password.is_some() {
        if options.token.is_some() {
            return Err(Error::Flag(
                "--token and --username are two identities: give one of them".to_owned(),
            ));
        }
        (user.token, user.token_file) = (None, None);
        user.username = options.username.clone().or_else(|| user.username.take());
        user.password = options
            .password
            .clone()
            .map(Into::into)
            .or_else(|| user.password.take());
    }
    if let Some(path) = &options.client_certificate {
        user.client_certificate = Some(text(path));
        user.client_certificate_data = None;
    }
    if let Some(path) = &options.client_key {
        user.client_key = Some(text(path));
        user.client_key_data = None;
    }
    if options.as_user.is_some() {
        user.impersonate.clone_from(&options.as_user);
    }
    if options.as_uid.is_some() {
        user.impersonate_uid.clone_from(&options.as_uid);
    }
    if !options.as_groups.is_empty() {
        user.impersonate_groups = Some(options.as_groups.clone());
    }
    if !options.as_user_extra.is_empty() {
        let mut extra: HashMap<String, Vec<String>> = HashMap::new();
        for pair in &options.as_user_extra {
            let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return Err(Error::Flag(format!(
                    "--as-user-extra takes KEY=VALUE, not `{}`",
                    printable(pair, NAME_MAX)
                )));
            };
            extra
                .entry(key.to_owned())
                .or_default()
                .push(value.to_owned());
        }
        user.impersonate_user_extra = Some(extra);
    }
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The server's URL, with the scheme that kubectl assumes where none is written.
fn server(cluster: &Cluster, user: &AuthInfo) -> Result<Uri, Error> {
    let set = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.is_empty());
    let written = cluster.server.as_deref().unwrap_or_default().trim();
    let invalid = |reason: &str| Error::Server {
        server: printable(written, NAME_MAX),
        reason: reason.to_owned(),
    };
    if written.is_empty() {
        return Err(invalid("the cluster entry has none, give one by --server"));
    }
    let with_scheme = if written.contains("://") {
        written.to_owned()
    } else {
        // client-go rest.DefaultServerURL: https as soon as anything about TLS is configured
        let tls = cluster.insecure_skip_tls_verify == Some(true)
            || set(&cluster.certificate_authority)
            || set(&cluster.certificate_authority_data)
            || set(&user.client_certificate)
            || set(&user.client_certificate_data);
        format!("{}://{written}", if tls { "https" } else { "http" })
    };
    let uri: Uri = with_scheme.parse().map_err(|_| invalid("not a URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(invalid("the scheme must be https or http"));
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(invalid("no host in it"));
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        let reason = "credentials don't belong into the URL, give --username and --password";
        return Err(Error::Server {
            server: uri.host().unwrap_or_default().to_owned(),
            reason: reason.to_owned(),
        });
    }
    Ok(uri)
}

const NAME_MAX: usize = 253; // the longest name that Kubernetes allows

#[cfg(test)]
mod tests {
    use std::fs;

    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::cluster::Environment;

    const CONFIG: &str = "\
current-context: one
clusters:
- {name: a, cluster: {server: https://a.example/k8s/c-1, tls-server-name: inner, certificate-authority-data: Y2E=}}
- {name: b, cluster: {server: b.example, insecure-skip-tls-verify: true, proxy-url: http://p}}
- {name: c, cluster: {server: c.example:8080}}
users:
- {name: t, user: {token: file-token, as: boss, as-groups: [g]}}
- {name: f, user: {tokenFile: /t, username: u, password: p}}
contexts:
- {name: one, context: {cluster: a, user: t, namespace: apps}}
- {name: two, context: {cluster: b, user: gone}}
- {name: three, context: {cluster: c, user: f, namespace: ''}}
- {name: broken, context: {cluster: nowhere, user: t}}
";

    fn with(options: &Options) -> Result<Access, Error> {
        resolve(
            options,
            &serde_yaml::from_str(CONFIG).unwrap(),
            &["/home/k/.kube/config".into()],
        )
    }

    fn error(options: &Options) -> String {
        with(options).map(|_| ()).unwrap_err().to_string()
    }

    fn some(value: &str) -> Option<String> {
        Some(value.to_owned())
    }

    #[test]
    fn contexts_clusters_and_users_are_chosen_by_name() {
        let one = with(&Options::default()).unwrap();
        assert_eq!(one.server, "https://a.example/k8s/c-1");
        assert_eq!(one.namespace, "apps");
        assert_eq!(one.user.token.unwrap().expose_secret(), "file-token");

        let two = with(&Options {
            context: some("two"),
            ..Options::default()
        })
        .unwrap();
        assert_eq!(
            two.server, "https://b.example/",
            "TLS is configured, so https is meant"
        );
        assert!(
            two.user.token.is_none(),
            "a user that isn't there is nobody, not an error"
        );

        let mixed = Options {
            cluster: some("c"),
            user: some("f"),
            namespace: some("n"),
            ..Options::default()
        };
        let mixed = with(&mixed).unwrap();
        assert_eq!(mixed.server, "http://c.example:8080/");
        assert_eq!(mixed.user.token_file.as_deref(), Some("/t"));
        assert_eq!(mixed.namespace, "n");
        assert_eq!(
            with(&Options {
                context: some("three"),
                ..Options::default()
            })
            .unwrap()
            .namespace,
            "default"
        );
    }

    #[test]
    fn unknown_names_are_told_in_kubectls_words() {
        assert_eq!(
            error(&Options {
                context: some("x"),
                ..Options::default()
            }),
            r#"context "x" does not exist"#
        );
        assert_eq!(
            error(&Options {
                cluster: some("x"),
                ..Options::default()
            }),
            r#"cluster "x" does not exist"#
        );
        assert_eq!(
            error(&Options {
                user: some("x"),
                ..Options::default()
            }),
            r#"auth info "x" does not exist"#
        );
        assert_eq!(
            error(&Options {
                context: some("broken"),
                ..Options::default()
            }),
            r#"cluster "nowhere" does not exist"#
        );
    }

    #[test]
    fn flags_replace_what_belongs_together() {
        let options = Options {
            server: some("https://other:6443"),
            token: some("flag-token"),
            ..Options::default()
        };
        let access = with(&options).unwrap();
        assert_eq!(access.server, "https://other:6443/");
        assert_eq!(access.cluster.tls_server_name, None);
        assert!(access.cluster.certificate_authority_data.is_some());
        assert_eq!(access.user.token.unwrap().expose_secret(), "flag-token");

        let access = with(&Options {
            insecure_skip_tls_verify: true,
            ..Options::default()
        })
        .unwrap();
        assert_eq!(access.cluster.certificate_authority_data, None);
        let ca = Options {
            context: some("two"),
            certificate_authority: Some("/ca".into()),
            ..Options::default()
        };
        assert_eq!(
            with(&ca).unwrap().cluster.insecure_skip_tls_verify,
            Some(false)
        );

        let token = Options {
            context: some("three"),
            token: some("t"),
            ..Options::default()
        };
        let user = with(&token).unwrap().user;
        assert!(user.token_file.is_none() && user.username.is_none() && user.password.is_none());
        let basic = Options {
            username: some("me"),
            password: some("pw"),
            ..Options::default()
        };
        let user = with(&basic).unwrap().user;
        assert!(user.token.is_none());
        assert_eq!(user.username.as_deref(), Some("me"));
        let both = Options {
            username: some("me"),
            token: some("t"),
            ..Options::default()
        };
        assert!(error(&both).contains("--token"));
    }

    #[test]
    fn impersonation_by_flags_and_file() {
        let user = with(&Options::default()).unwrap().user;
        assert_eq!(user.impersonate.as_deref(), Some("boss"));
        let options = Options {
            as_user: some("jane"),
            as_uid: some("42"),
            as_groups: vec!["a".into(), "b".into()],
            as_user_extra: vec!["scopes=x=1".into(), "scopes=y".into(), "empty=".into()],
            ..Options::default()
        };
        let user = with(&options).unwrap().user;
        assert_eq!(user.impersonate.as_deref(), Some("jane"));
        assert_eq!(user.impersonate_uid.as_deref(), Some("42"));
        assert_eq!(user.impersonate_groups.unwrap(), ["a", "b"]);
        let extra = user.impersonate_user_extra.unwrap();
        assert_eq!(extra["scopes"], ["x=1", "y"]);
        assert_eq!(extra["empty"], [""]);
        assert!(
            error(&Options {
                as_user_extra: vec!["novalue".into()],
                ..Options::default()
            })
            .contains("KEY=VALUE")
        );
    }

    #[test]
    fn a_server_needs_no_kubeconfig() {
        let options = Options {
            server: some("localhost:8080"),
            ..Options::default()
        };
        let access = resolve(&options, &Kubeconfig::default(), &[]).unwrap();
        assert_eq!(access.server, "http://localhost:8080/");
        assert_eq!(access.namespace, "default");
    }

    #[test]
    fn nothing_configured_says_what_to_do() {
        let none = |config: &Kubeconfig| {
            resolve(
                &Options::default(),
                config,
                &["/home/k/.kube/config".into()],
            )
            .map(|_| ())
            .unwrap_err()
            .to_string()
        };
        let error = none(&Kubeconfig::default());
        assert!(
            error.contains("/home/k/.kube/config") && error.contains("--server"),
            "{error}"
        );
        let error = none(
            &serde_yaml::from_str("contexts: [{name: dev, context: {cluster: c, user: u}}]")
                .unwrap(),
        );
        assert!(
            error.contains("dev") && error.contains("--context"),
            "{error}"
        );
    }

    #[test]
    fn servers_that_are_none() {
        for (server, why) in [
            ("", "--server"),
            ("ftp://x", "https or http"),
            ("https://", "URL"),
            ("http://a b", "URL"),
        ] {
            let text = error(&Options {
                server: some(server),
                ..Options::default()
            });
            assert!(text.contains(why), "{server}: {text}");
        }
        let text = error(&Options {
            server: some("https://me:s3cret@host"),
            ..Options::default()
        });
        assert!(text.contains("host") && !text.contains("s3cret"), "{text}");
    }

    #[test]
    fn a_pods_service_account_is_the_last_resort() {
        let mount = tempfile::tempdir().unwrap();
        fs::write(mount.path().join("token"), "t").unwrap();
        fs::write(mount.path().join("namespace"), "mine\n").unwrap();
        let pairs = [
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
        ];
        let environment: Environment = pairs.into_iter().collect();
        let options = Options {
            environment: environment.with_service_account(mount.path()),
            ..Options::default()
        };
        let inside = resolve(&options, &Kubeconfig::default(), &[]).unwrap();
        assert_eq!(
            (inside.server, inside.namespace.as_str()),
            (Uri::from_static("https://10.0.0.1:443"), "mine")
        );
        assert_eq!(with(&options).unwrap().namespace, "apps");
    }
}
