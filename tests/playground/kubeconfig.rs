//! The kubeconfig that opens the playground: one context per user, and one per namespace for the admin.

use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::access::{Proof, User, Users};
use super::objects::NAMESPACES;

/// What goes into it besides the users.
pub(crate) struct Place<'a> {
    pub(crate) url: &'a str,
    pub(crate) authority: &'a str,
    /// The credential plugin: a program and its arguments; it is given the token in `KPF_PLAYGROUND_TOKEN`.
    pub(crate) plugin: &'a [String],
    pub(crate) current: &'a str,
}

/// The name of a user's context in the default namespace.
pub(crate) fn context(user: &str) -> String {
    match user {
        "admin" => "playground".to_owned(),
        user => format!("playground-{user}"),
    }
}

/// The file's content: JSON, which is YAML too.
pub(crate) fn render(users: &Users, place: &Place<'_>) -> String {
    let mut contexts: Vec<Value> = users
        .iter()
        .map(|user| entry_context(&context(user.name), user.name, NAMESPACES[0]))
        .collect();
    contexts.push(entry_context(NAMESPACES[1], "admin", NAMESPACES[1]));
    let users: Vec<Value> = users
        .iter()
        .map(|user| json!({ "name": user.name, "user": credentials(user, place.plugin) }))
        .collect();
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "playground",
            "cluster": {
                "server": place.url,
                "certificate-authority-data": STANDARD.encode(place.authority),
            },
        }],
        "users": users,
        "contexts": contexts,
        "current-context": context(place.current),
    });
    format!("{config:#}\n")
}

fn entry_context(name: &str, user: &str, namespace: &str) -> Value {
    let context = json!({ "cluster": "playground", "user": user, "namespace": namespace });
    json!({ "name": name, "context": context })
}

fn credentials(user: &User, plugin: &[String]) -> Value {
    match &user.proof {
        Proof::Token(token) | Proof::Nothing(token) => json!({ "token": token }),
        Proof::Basic(password) => json!({ "username": user.name, "password": password }),
        Proof::Certificate(identity) => json!({
            "client-certificate-data": STANDARD.encode(&identity.certificate),
            "client-key-data": STANDARD.encode(&identity.key),
        }),
        Proof::Plugin(token) => json!({ "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": plugin.first(),
            "args": plugin.get(1..),
            "env": [{ "name": "KPF_PLAYGROUND_TOKEN", "value": token }],
            "interactiveMode": "IfAvailable",
            "installHint": "this plugin is the playground itself",
        }}),
    }
}

/// What a credential plugin prints.
pub(crate) fn exec_credential(token: &str) -> String {
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": { "token": token },
    });
    format!("{credential}\n")
}

/// Writes a file that only its owner can read.
pub(crate) fn write_private(file: &Path, content: &str) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?;
    // the file may have been there with other permissions
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content.as_bytes())
}
