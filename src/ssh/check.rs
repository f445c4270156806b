//! Whether a gateway could serve with a configuration: everything that shows without serving.
//!
//! [`files`] looks at what the configuration names on this machine, [`cluster`] asks a cluster. Both find as much as
//! they can, and change nothing.

use std::fmt;
use std::fs::{File, Metadata};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use russh::keys::PrivateKey;
use tokio::time::timeout;

use super::access::{Access, KeyFiles, Settings};
use super::audit::{Redact, SinkKind};
use super::config::{Config, HostKey};
use super::host_key::{self, Store};
use super::policy::{Pattern, Rule};
use crate::cluster::{Cluster, RequestError};
use crate::untrusted::printable;

/// How long a cluster may take to answer one question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Characters of somebody else's words.
const SHOWN: usize = 300;

/// Groups that a cluster is asked about; who has more gets the same answer for most.
const MOST_GROUPS: usize = 16;

/// Something that is wrong, or could be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Finding {
    /// The gateway would not start, or nobody could do what it is for.
    Error(String),
    /// It would serve, but not as somebody may think.
    Warning(String),
}

impl Finding {
    /// Whether it is an error.
    #[must_use]
    pub const fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }
}

/// One line, fit to print.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(text) => write!(f, "error: {}", printable(text, 2 * SHOWN)),
            Self::Warning(text) => write!(f, "warning: {}", printable(text, 2 * SHOWN)),
        }
    }
}

/// What is to be said of files and of what the configuration allows.
pub async fn files(config: &Config, now: SystemTime) -> Vec<Finding> {
    let mut found = access(&config.access);
    match &config.host_key {
        HostKey::File(path) => found.extend(own_key(path, now).await),
        // Only the cluster has it.
        HostKey::Secret { .. } => {}
    }
    if let Some(path) = &config.relay.authority {
        found.extend(private_key("authority for pods", path, true));
    }
    if let Some(path) = &config.relay.key {
        found.extend(private_key("key for pods", path, false));
    }
    for sink in &config.audit.sinks {
        found.extend(match &sink.kind {
            SinkKind::Stdout => None,
            SinkKind::File(path) => to_be_made("audit log", path),
            SinkKind::Socket(path) => match path.metadata() {
                Ok(_) => None,
                Err(error) if sink.required => Some(Finding::Error(format!(
                    "audit socket `{}`: {error}",
                    path.display()
                ))),
                Err(error) => Some(Finding::Warning(format!(
                    "audit socket `{}`: {error}",
                    path.display()
                ))),
            },
        });
    }
    if let Err((pattern, error)) = Redact::new(config.audit.redact.iter().map(String::as_str)) {
        // The error's own lines point at the place below it.
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default();
        found.push(Finding::Error(format!(
            "audit: `{pattern}` is no regular expression: {reason}"
        )));
    }
    let recordings = config
        .recordings
        .as_ref()
        .map(|recordings| &recordings.folder);
    let folders = [
        ("recordings", recordings),
        ("spool", config.spool.folder.as_ref()),
    ];
    for (what, path) in folders {
        found.extend(path.and_then(|path| folder(what, path)));
    }
    found.extend(policy(config));
    found
}

/// Each part of who may log in by itself, so that one mistake doesn't hide the next.
fn access(settings: &Settings) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut read = |part: Settings| match Access::read(&part) {
        Ok((_, disabled)) => {
            let disabled = disabled.iter();
            found.extend(disabled.map(|line| Finding::Warning(line.to_string())));
        }
        Err(error) => found.push(Finding::Error(error.to_string())),
    };
    for authority in &settings.authorities {
        read(Settings {
            authorities: vec![authority.clone()],
            ..Settings::default()
        });
    }
    read(Settings {
        keys: settings.keys.clone(),
        ..Settings::default()
    });
    read(Settings {
        revoked: settings.revoked.clone(),
        ..Settings::default()
    });
    if let Some(program) = settings
        .keys_command
        .as_ref()
        .and_then(|words| words.first())
    {
        let path = Path::new(program);
        found.extend(
            match path
                .metadata()
                .map(|metadata| (metadata.is_file(), mode(&metadata)))
            {
                Err(error) => Some(Finding::Error(format!("keys command `{program}`: {error}"))),
                Ok((false, _)) => Some(Finding::Error(format!(
                    "keys command `{program}`: it is no file"
                ))),
                Ok((true, mode)) if mode & 0o111 == 0 => Some(Finding::Error(format!(
                    "keys command `{program}`: it can't be run (mode {mode:04o}): chmod +x"
                ))),
                Ok((true, mode)) if mode & 0o022 != 0 => Some(Finding::Error(format!(
                    "keys command `{program}`: others can write it (mode {mode:04o}): chmod go-w"
                ))),
                Ok(_) => None,
            },
        );
    }
    for (user, groups) in &settings.groups {
        for group in groups.iter().filter(|group| group.starts_with("system:")) {
            found.push(Finding::Warning(format!(
                "access: `{user}` is put into `{group}`, which is one of Kubernetes' own"
            )));
        }
    }
    found
}

/// The users that are known by name, as Kubernetes would know them: one is enough to ask about.
fn a_user(settings: &Settings) -> Option<String> {
    let listed = match &settings.keys {
        Some(KeyFiles::Of { user, .. }) => Some(user.clone()),
        Some(KeyFiles::Folder(folder)) => {
            let names = folder.read_dir().into_iter().flatten().flatten();
            let names = names.filter_map(|entry| entry.file_name().into_string().ok());
            let users = names.filter_map(|name| name.strip_suffix(".keys").map(str::to_owned));
            users.filter(|user| !user.starts_with('.')).min()
        }
        None => None,
    };
    let user = listed.or_else(|| settings.groups.keys().next().cloned())?;
    Some(format!("{}{user}", settings.user_prefix))
}

fn mode(metadata: &Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

async fn own_key(path: &Path, now: SystemTime) -> Option<Finding> {
    match Store::File(path.to_owned()).load(now).await {
        Ok(_) => None,
        Err(host_key::Error::Missing { .. }) => to_be_made("host key", path),
        Err(error) => Some(Finding::Error(error.to_string())),
    }
}

/// A key of the gateway's own, which nobody else may read.
fn private_key(what: &str, path: &Path, is_made: bool) -> Option<Finding> {
    let wrong = |reason: String| {
        Some(Finding::Error(format!(
            "{what} `{}`: {reason}",
            path.display()
        )))
    };
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_made => {
            return to_be_made(what, path);
        }
        Err(error) => return wrong(error.to_string()),
    };
    let mode = mode(&metadata);
    if mode & 0o077 != 0 {
        return wrong(format!("others can read it (mode {mode:04o}): chmod 600"));
    }
    // A pipe would wait for its other end.
    let text = match metadata.is_file() {
        true => std::fs::read_to_string(path),
        false => return wrong("it is no file".to_owned()),
    };
    match text.map(PrivateKey::from_openssh) {
        Ok(Ok(key)) if key.is_encrypted() => wrong(
            "it has a passphrase, which nobody is there to type: ssh-keygen -p -f FILE".to_owned(),
        ),
        Ok(Ok(_)) => None,
        Ok(Err(_)) => wrong("it is no private key in OpenSSH's format".to_owned()),
        Err(error) => wrong(error.to_string()),
    }
}

/// A file that is written or made: its folder has to be there.
fn to_be_made(what: &str, path: &Path) -> Option<Finding> {
    if path.exists() {
        let file = File::options().append(true).open(path);
        return file.err().map(|error| {
            Finding::Error(format!(
                "{what} `{}` can't be written: {error}",
                path.display()
            ))
        });
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    folder(what, parent.unwrap_or_else(|| Path::new(".")))
}

fn folder(what: &str, path: &Path) -> Option<Finding> {
    let wrong = |reason: &str| {
        Some(Finding::Error(format!(
            "{what}: the folder `{}` {reason}",
            path.display()
        )))
    };
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) => return wrong(&format!("can't be used: {error}")),
    };
    if !metadata.is_dir() {
        return wrong("is none");
    }
    // With the sticky bit, as `/tmp` has it, others can't take files away.
    match mode(&metadata) {
        mode if mode & 0o002 != 0 && mode & 0o1000 == 0 => wrong(&format!(
            "can be written by everyone (mode {mode:04o}): chmod o-w"
        )),
        _ if rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_err() => {
            wrong("can't be written")
        }
        _ => None,
    }
}

/// Rules that do more, or less, than they seem to.
fn policy(config: &Config) -> Vec<Finding> {
    let mut found = Vec::new();
    let is_any = |patterns: &[Pattern]| patterns.is_empty() || patterns.iter().any(Pattern::is_any);
    let is_for_all = |rule: &Rule| {
        let nobody_named = rule.users.is_empty() && rule.groups.is_empty();
        nobody_named || rule.users.iter().any(Pattern::is_any)
    };
    let Some(rules) = &config.policy.rules else {
        return found;
    };
    if rules.is_empty() {
        let reason = "policy: it has no rules, so nobody may do anything: leave `policy` out to let RBAC decide";
        found.push(Finding::Warning(reason.to_owned()));
    }
    let mut rules = rules.iter();
    while let Some(rule) = rules.next() {
        if !is_for_all(rule) || !is_any(&rule.clusters) || !is_any(&rule.namespaces) {
            continue;
        }
        if rule.grant.is_some() {
            found.push(Finding::Warning(format!(
                "policy: `{}` is for everybody, in all clusters and namespaces",
                rule.name
            )));
        }
        if let Some(next) = rules.next() {
            found.push(Finding::Warning(format!(
                "policy: `{}` and what follows it is never reached: `{}` matches everything",
                next.name, rule.name
            )));
        }
        break;
    }
    found
}

/// What a cluster lets the gateway do: it has to be able to impersonate people, and should not be able to do by itself
/// what they can. Sends no request that changes anything. A cluster that does not answer is a warning.
pub async fn cluster(alias: &str, cluster: &Cluster, config: &Config) -> Vec<Finding> {
    let mut found = ask(alias, cluster, config).await.unwrap_or_else(|reason| {
        vec![Finding::Warning(format!(
            "cluster `{alias}`: it can't be asked what the gateway may do: {reason}"
        ))]
    });
    if let HostKey::Secret {
        cluster: holder,
        namespace,
        name,
    } = &config.host_key
        && holder == alias
    {
        let secret = host_key::Secret::new(cluster.client(), namespace, name);
        let loading = Store::Secret(secret);
        match timeout(PATIENCE, loading.load(SystemTime::now())).await {
            Ok(Ok(_) | Err(host_key::Error::Missing { .. })) => {}
            Ok(Err(error)) => found.push(Finding::Error(error.to_string())),
            // That is said already.
            Err(_) => {}
        }
    }
    found
}

async fn ask(alias: &str, cluster: &Cluster, config: &Config) -> Result<Vec<Finding>, String> {
    let mut found = Vec::new();
    let user = a_user(&config.access);
    let is_known = user.is_some();
    let who = user
        .as_deref()
        .map_or_else(|| "anybody".to_owned(), |user| format!("`{user}`"));
    if !may_impersonate(cluster, "users", user).await? {
        let reason = format!(
            "cluster `{alias}`: the gateway may not impersonate {who}: it needs the verb `impersonate` on `users`, and on `groups`"
        );
        found.push(match is_known {
            true => Finding::Error(reason),
            // It may be allowed for those who log in.
            false => Finding::Warning(reason),
        });
    }
    let mut groups: Vec<&String> = config.access.groups.values().flatten().collect();
    groups.sort();
    groups.dedup();
    for group in groups.into_iter().take(MOST_GROUPS) {
        if !may_impersonate(cluster, "groups", Some(group.clone())).await? {
            found.push(Finding::Error(format!(
                "cluster `{alias}`: the gateway may not impersonate the group `{group}`"
            )));
        }
    }
    for subresource in ["exec", "portforward"] {
        let pods = ResourceAttributes {
            verb: Some("create".to_owned()),
            resource: Some("pods".to_owned()),
            subresource: Some(subresource.to_owned()),
            ..ResourceAttributes::default()
        };
        if may(cluster, pods).await? {
            found.push(Finding::Warning(format!(
                "cluster `{alias}`: the gateway itself may `create pods/{subresource}`, which it does not need: without that right a mistake of its own could give nobody more than they have"
            )));
        }
    }
    Ok(found)
}

/// As all versions have it, or else as 1.36 and later can have it (KEP-5284).
async fn may_impersonate(
    cluster: &Cluster,
    resource: &str,
    name: Option<String>,
) -> Result<bool, String> {
    let attributes = |verb: &str, group: Option<&str>| ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: group.map(str::to_owned),
        resource: Some(resource.to_owned()),
        name: name.clone(),
        ..ResourceAttributes::default()
    };
    let constrained = attributes("impersonate:user-info", Some("authentication.k8s.io"));
    Ok(may(cluster, attributes("impersonate", None)).await? || may(cluster, constrained).await?)
}

async fn may(cluster: &Cluster, attributes: ResourceAttributes) -> Result<bool, String> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(cluster.client());
    let parameters = PostParams::default();
    let answer = timeout(PATIENCE, reviews.create(&parameters, &review)).await;
    let answer = answer.map_err(|_| format!("no answer within {} s", PATIENCE.as_secs()))?;
    let answer =
        answer.map_err(|error| printable(&RequestError::from(error).to_string(), SHOWN))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}
