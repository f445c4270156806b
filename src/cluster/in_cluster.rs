//! The way in that Kubernetes gives to every pod: the API server's address, a token, a CA, a namespace.

use std::fs;
use std::path::PathBuf;

use kube::config::{AuthInfo, Cluster};

use super::Environment;

/// The way in and the pod's namespace; `None` outside of a pod, and in one without a token.
pub(super) fn access(environment: &Environment) -> Option<(Cluster, AuthInfo, Option<String>)> {
    let host = environment.text(&["KUBERNETES_SERVICE_HOST"])?;
    let port = environment.text(&["KUBERNETES_SERVICE_PORT"])?;
    let mount = environment.service_account();
    let file = |name: &str| Some(mount.join(name)).filter(|path| path.is_file());
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let token = file("token")?;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let cluster = Cluster {
        server: Some(format!("https://{host}:{port}")),
        certificate_authority: file("ca.crt").map(text),
        ..Cluster::default()
    };
    let user = AuthInfo {
        token_file: Some(text(token)),
        ..AuthInfo::default()
    };
    let mounted = || {
        Some(
            fs::read_to_string(mount.join("namespace"))
                .ok()?
                .trim()
                .to_owned(),
        )
    };
    let namespace = environment
        .text(&["POD_NAMESPACE"])
        .map(str::to_owned)
        .or_else(mounted);
    Some((cluster, user, namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mounted_service_account_is_used() {
        let mount = tempfile::tempdir().unwrap();
        let pairs = [
            ("KUBERNETES_SERVICE_HOST", "fd00::1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
        ];
        let environment = pairs
            .into_iter()
            .collect::<Environment>()
            .with_service_account(mount.path());
        let inside = || access(&environment);
        assert!(inside().is_none(), "without a token file it isn't a pod");

        fs::write(mount.path().join("token"), "t").unwrap();
        fs::write(mount.path().join("namespace"), "mine\n").unwrap();
        let (cluster, user, namespace) = inside().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://[fd00::1]:443"));
        assert_eq!(namespace.as_deref(), Some("mine"));
        assert_eq!(
            user.token_file.as_deref(),
            mount.path().join("token").to_str()
        );
        assert_eq!(cluster.certificate_authority, None);
        fs::write(mount.path().join("ca.crt"), "").unwrap();
        assert!(inside().unwrap().0.certificate_authority.is_some());
        assert!(access(&Environment::default()).is_none());
    }
}
