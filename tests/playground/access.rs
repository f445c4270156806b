//! Who is asking, and what may they do: authentication and role-based access control.

use std::collections::HashMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use rustls::pki_types::CertificateDer;

use super::tls::{Authority, Identity, random_hex};
use super::wire::lock;

/// What a user's role allows. All but `StreamOnly` may read objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything, impersonation included.
    Admin,
    /// Objects can be read; no subresource.
    Viewer,
    /// `get` and `create` on the streaming subresources, and nothing else: no pod can be looked at.
    StreamOnly,
    /// `get` on the streaming subresources: what a WebSocket needed before 1.35.
    GetOnly,
    /// `create` on the streaming subresources: what SPDY needs.
    CreateOnly,
    /// Remote commands, but no port-forward.
    ExecOnly,
    /// `get` and `list` of objects and all of the streaming subresources, but no `watch`.
    NoWatch,
}

/// How a user proves who they are.
#[derive(Clone)]
pub(crate) enum Proof {
    Token(String),
    Basic(String),
    Certificate(Box<Identity>),
    /// A token that only a credential plugin knows.
    Plugin(String),
    /// A token that the server doesn't know.
    Nothing(String),
}

/// One user of the playground.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    pub(crate) proof: Proof,
}

/// All users, looked up by their proof.
pub(crate) struct Users {
    users: Vec<User>,
    /// What is let in now; credentials that expired are gone from here.
    by_authorization: Mutex<HashMap<String, usize>>,
}

/// The identity a request ends up with.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) role: Option<Role>,
}

/// A question to the authorizer.
pub(crate) struct Action<'a> {
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    /// `pods` or, with a subresource, `pods/portforward`.
    pub(crate) resource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Users {
    /// Makes the playground's users, with fresh secrets.
    pub(crate) fn new(authority: &Authority) -> anyhow::Result<Self> {
        let secret =
            |user: &str| -> anyhow::Result<String> { Ok(format!("{user}-{}", random_hex(16)?)) };
        let certificate = authority.client("cert", "playground:admins")?;
        let users = vec![
            User::new("admin", Role::Admin, Proof::Token(secret("admin")?)),
            User::new(
                "cert",
                Role::Admin,
                Proof::Certificate(Box::new(certificate)),
            ),
            User::new("plugin", Role::Admin, Proof::Plugin(secret("plugin")?)),
            User::new("basic", Role::Admin, Proof::Basic(secret("basic")?)),
            User::new("viewer", Role::Viewer, Proof::Token(secret("viewer")?)),
            User::new("get-only", Role::GetOnly, Proof::Token(secret("get-only")?)),
            User::new(
                "stream-only",
                Role::StreamOnly,
                Proof::Token(secret("stream-only")?),
            ),
            User::new(
                "create-only",
                Role::CreateOnly,
                Proof::Token(secret("create-only")?),
            ),
            User::new(
                "exec-only",
                Role::ExecOnly,
                Proof::Token(secret("exec-only")?),
            ),
            User::new("no-watch", Role::NoWatch, Proof::Token(secret("no-watch")?)),
            User::new("wrong", Role::Viewer, Proof::Nothing(secret("wrong")?)),
        ];
        let by_authorization: HashMap<_, _> = users
            .iter()
            .enumerate()
            .filter_map(|(index, user)| Some((user.authorization()?, index)))
            .collect();
        Ok(Self {
            users,
            by_authorization: Mutex::new(by_authorization),
        })
    }

    /// Refuses a user's token from now on, and lets a new one in, which is returned; `None` if the user has no token.
    pub(crate) fn renew(&self, name: &str) -> anyhow::Result<Option<String>> {
        let of_user = |user: &User| user.name == name && user.token().is_some();
        let Some(index) = self.users.iter().position(of_user) else {
            return Ok(None);
        };
        let token = format!("{name}-{}", random_hex(16)?);
        let mut known = lock(&self.by_authorization);
        known.retain(|_, user| *user != index);
        known.insert(format!("Bearer {token}"), index);
        Ok(Some(token))
    }

    /// The token that lets a user in now.
    pub(crate) fn token(&self, name: &str) -> Option<String> {
        let index = self.users.iter().position(|user| user.name == name)?;
        let known = lock(&self.by_authorization);
        let (header, _) = known.iter().find(|(_, user)| **user == index)?;
        Some(header.strip_prefix("Bearer ")?.to_owned())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &User> {
        self.users.iter()
    }

    pub(crate) fn named(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name == name)
    }

    /// Who sends these headers, or `None` where the API server says 401.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&CertificateDer<'_>>,
    ) -> Option<Caller> {
        let user = match headers.get(AUTHORIZATION) {
            Some(value) => {
                let known = lock(&self.by_authorization);
                &self.users[*known.get(value.to_str().ok()?)?]
            }
            None => self.by_certificate(certificate?)?,
        };
        Some(Caller {
            name: user.name.to_owned(),
            role: Some(user.role),
        })
    }

    /// The caller after `Impersonate-User`, or `None` if they may not.
    pub(crate) fn impersonate(&self, caller: Caller, headers: &HeaderMap) -> Option<Caller> {
        let Some(wanted) = headers.get("impersonate-user") else {
            return Some(caller);
        };
        if caller.role != Some(Role::Admin) {
            return None;
        }
        let name = wanted.to_str().ok()?.to_owned();
        let role = self.named(&name).map(|user| user.role);
        Some(Caller { name, role })
    }

    fn by_certificate(&self, certificate: &CertificateDer<'_>) -> Option<&User> {
        self.users.iter().find(|user| match &user.proof {
            Proof::Certificate(identity) => identity.der == *certificate,
            _ => false,
        })
    }
}

impl User {
    fn new(name: &'static str, role: Role, proof: Proof) -> Self {
        Self { name, role, proof }
    }

    fn token(&self) -> Option<&str> {
        match &self.proof {
            Proof::Token(token) | Proof::Plugin(token) => Some(token),
            _ => None,
        }
    }

    /// The `Authorization` header that lets this user in at first.
    fn authorization(&self) -> Option<String> {
        match &self.proof {
            Proof::Token(token) | Proof::Plugin(token) => Some(format!("Bearer {token}")),
            Proof::Basic(password) => {
                let pair = STANDARD.encode(format!("{}:{password}", self.name));
                Some(format!("Basic {pair}"))
            }
            Proof::Certificate(_) | Proof::Nothing(_) => None,
        }
    }
}

impl Caller {
    /// Whether the role allows it.
    pub(crate) fn may(&self, action: &Action<'_>) -> bool {
        let streaming = matches!(
            action.resource,
            "pods/portforward" | "pods/exec" | "pods/attach"
        );
        let reading = matches!(action.verb, "get" | "list" | "watch")
            && !action.resource.contains('/')
            && action.resource != "secrets"; // as Kubernetes' own view role
        match self.role {
            Some(Role::Admin) => true,
            Some(Role::Viewer) => reading,
            Some(Role::StreamOnly) => streaming,
            Some(Role::GetOnly) => reading || streaming && action.verb == "get",
            Some(Role::ExecOnly) => reading || action.resource == "pods/exec",
            Some(Role::CreateOnly) => reading || streaming && action.verb == "create",
            Some(Role::NoWatch) => reading && action.verb != "watch" || streaming,
            None => false,
        }
    }

    /// The API server's sentence for what the role doesn't allow.
    pub(crate) fn forbidden(&self, action: &Action<'_>) -> String {
        let resource = action.resource.split('/').next().unwrap_or_default();
        let kind = match action.group {
            "" => resource.to_owned(),
            group => format!("{resource}.{group}"),
        };
        let object = match action.name {
            "" => kind,
            name => format!("{kind} \"{name}\""),
        };
        let scope = match action.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        format!(
            "{object} is forbidden: User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {scope}",
            self.name, action.verb, action.resource, action.group,
        )
    }
}
