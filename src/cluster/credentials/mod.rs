//! Who we are to the API server: a token, a token file, a password, a client certificate, a plugin's word, OIDC.
//!
//! Precedence as in client-go: a token, a password or a client certificate makes a plugin unnecessary, and it isn't
//! run. Nothing here shows a secret, neither in errors nor in `Debug`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use kube::config::{AuthInfo, Cluster};
use rustls::sign::CertifiedKey;
use secrecy::ExposeSecret;
use tokio::time::Instant;

use self::exec_plugin::ExecPlugin;
use self::oidc::Oidc;
use super::{Environment, Stdin, tls};
use crate::untrusted::printable;

mod exec_plugin;
mod oidc;

/// Why there are no credentials.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A credential plugin failed.
    #[error("getting credentials: {0}")]
    Plugin(String),
    /// A token file cannot be read or is empty.
    #[error("getting credentials: token file `{}`: {reason}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The OIDC provider gave no token.
    #[error("getting credentials: oidc: {0}")]
    Oidc(String),
    /// The kubeconfig's user entry makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// The way to this cluster's credentials. Clones share what was obtained.
#[derive(Clone)]
pub(super) struct Credentials(Arc<Source>);

enum Source {
    Fixed(Credential),
    TokenFile(TokenFile),
    Exec(Box<ExecPlugin>),
    Oidc(Box<Oidc>),
}

/// What one request is sent with.
#[derive(Clone, Default)]
pub(super) struct Credential {
    pub(super) authorization: Option<HeaderValue>,
    pub(super) identity: Option<Arc<CertifiedKey>>,
    /// Counts what a plugin or a provider has issued, to tell an old credential's rejection from a new one's.
    serial: u64,
}

impl Credentials {
    /// Reads certificates and checks the entry; runs no plugin and opens no connection.
    pub(super) fn new(
        user: &AuthInfo,
        cluster: &Cluster,
        environment: &Environment,
        stdin: Stdin,
    ) -> Result<Self, super::Error> {
        let set = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.is_empty());
        let identity = tls::identity(user)?;
        let token = user
            .token
            .as_ref()
            .map(ExposeSecret::expose_secret)
            .filter(|token| !token.trim().is_empty());
        let basic = set(&user.username) || user.password.is_some();
        let certified = identity.is_some();
        let fixed = |authorization| {
            Source::Fixed(Credential {
                authorization,
                identity: identity.clone(),
                serial: 0,
            })
        };
        if user.exec.is_some() && user.auth_provider.is_some() {
            let reason =
                "the user has both an exec plugin and an auth-provider: only one is allowed";
            return Err(Error::Invalid(reason.to_owned()).into());
        }
        let source = if (token.is_some() || set(&user.token_file)) && basic {
            let reason = "more than one authentication method found for the user; found [token, basicAuth], only one is allowed";
            return Err(Error::Invalid(reason.to_owned()).into());
        } else if let Some(path) = user.token_file.as_deref().filter(|path| !path.is_empty()) {
            let fallback = token.map(bearer).transpose()?;
            Source::TokenFile(TokenFile::new(path.into(), fallback, identity.clone()))
        } else if let Some(token) = token {
            fixed(Some(bearer(token)?))
        } else if basic {
            let user_name = user.username.as_deref().unwrap_or_default();
            let password = user
                .password
                .as_ref()
                .map_or("", ExposeSecret::expose_secret);
            fixed(Some(secret(&format!(
                "Basic {}",
                STANDARD.encode(format!("{user_name}:{password}"))
            ))?))
        } else if let Some(exec) = user.exec.as_ref().filter(|_| !certified) {
            Source::Exec(Box::new(ExecPlugin::new(
                exec,
                cluster,
                environment,
                stdin,
            )?))
        } else if let Some(provider) = &user.auth_provider {
            Source::Oidc(Box::new(Oidc::new(
                provider,
                environment,
                identity.clone(),
            )?))
        } else {
            fixed(None)
        };
        Ok(Self(Arc::new(source)))
    }

    /// What to send now: obtained, renewed or remembered.
    ///
    /// However many ask at once, a plugin runs once. Cancel safe: a plugin that nobody waits for any more is killed.
    pub(super) async fn current(&self) -> Result<Credential, Error> {
        match &*self.0 {
            Source::Fixed(credential) => Ok(credential.clone()),
            Source::TokenFile(file) => file.current(),
            Source::Exec(plugin) => plugin.current().await,
            Source::Oidc(oidc) => oidc.current().await,
        }
    }

    /// What kind it is, in words that hold no secret.
    pub(super) fn kind(&self) -> String {
        match &*self.0 {
            Source::Fixed(Credential {
                authorization,
                identity,
                ..
            }) => {
                let scheme = authorization.as_ref().map(HeaderValue::as_bytes);
                match (scheme, identity) {
                    (Some(scheme), _) if scheme.starts_with(b"Basic") => "a password",
                    (Some(_), None) => "a token",
                    (Some(_), Some(_)) => "a token and a client certificate",
                    (None, Some(_)) => "a client certificate",
                    (None, None) => "none: anonymous",
                }
                .to_owned()
            }
            Source::TokenFile(_) => "a token in a file".to_owned(),
            Source::Exec(plugin) => {
                let command = printable(plugin.command(), 100);
                format!("the credential plugin `{command}`")
            }
            Source::Oidc(_) => "a token of an OIDC provider".to_owned(),
        }
    }

    /// When what is sent now is over: as the plugin says, or as the token does. None if neither says it.
    pub(super) async fn expiry(&self) -> Option<Timestamp> {
        if let Source::Exec(plugin) = &*self.0
            && let Some(at) = plugin.expiry().await
        {
            return Some(at);
        }
        let credential = self.current().await.ok()?;
        expiry_of_token(credential.authorization?.to_str().ok()?)
    }

    /// The server has answered 401 to `credential`: it isn't used again where another one can be had.
    pub(super) fn rejected(&self, credential: &Credential) {
        match &*self.0 {
            Source::Fixed(_) | Source::Oidc(_) => {}
            Source::TokenFile(file) => file.rejected(),
            Source::Exec(plugin) => plugin.rejected(credential),
        }
    }
}

impl From<Error> for super::Error {
    fn from(error: Error) -> Self {
        Self::Credentials(error)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.0 {
            Source::Fixed(_) => "Fixed",
            Source::TokenFile(_) => "TokenFile",
            Source::Exec(_) => "Exec",
            Source::Oidc(_) => "Oidc",
        })
    }
}

/// The `exp` of a token that is a JWT. Nothing is checked: it is the server that believes it or not.
fn expiry_of_token(authorization: &str) -> Option<Timestamp> {
    let payload = authorization.strip_prefix("Bearer ")?.split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let payload: serde_json::Value = serde_json::from_slice(&payload).ok()?;
    Timestamp::from_second(payload["exp"].as_i64()?).ok()
}

fn bearer(token: &str) -> Result<HeaderValue, Error> {
    secret(&format!("Bearer {}", token.trim()))
}

fn secret(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Error::Invalid("the token or password has a control character in it".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A token that something else keeps fresh in a file, as the kubelet does for every pod.
struct TokenFile {
    path: PathBuf,
    /// What the entry says besides; used as long as the file cannot be read.
    fallback: Option<HeaderValue>,
    identity: Option<Arc<CertifiedKey>>,
    read: Mutex<Option<(HeaderValue, Instant)>>,
}

impl TokenFile {
    fn new(
        path: PathBuf,
        fallback: Option<HeaderValue>,
        identity: Option<Arc<CertifiedKey>>,
    ) -> Self {
        Self {
            path,
            fallback,
            identity,
            read: Mutex::new(None),
        }
    }

    fn current(&self) -> Result<Credential, Error> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let token = match &*read {
            Some((token, at)) if at.elapsed() < REREAD => token.clone(),
            old => match read_token(&self.path) {
                Ok(token) => token,
                // While the file is being replaced the old token is still good.
                Err(error) => match old
                    .as_ref()
                    .map(|(token, _)| token)
                    .or(self.fallback.as_ref())
                {
                    Some(token) => {
                        tracing::warn!("{error}");
                        token.clone()
                    }
                    None => return Err(error),
                },
            },
        };
        if read.as_ref().is_none_or(|(_, at)| at.elapsed() >= REREAD) {
            *read = Some((token.clone(), Instant::now()));
        }
        Ok(Credential {
            authorization: Some(token),
            identity: self.identity.clone(),
            serial: 0,
        })
    }

    fn rejected(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn read_token(path: &Path) -> Result<HeaderValue, Error> {
    let failed = |reason: String| Error::TokenFile {
        path: path.to_owned(),
        reason,
    };
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    if text.trim().is_empty() {
        return Err(failed("it is empty".to_owned()));
    }
    bearer(&text).map_err(|_| failed("its content is no token".to_owned()))
}

/// client-go re-reads as often; a bound token is renewed minutes before it expires.
const REREAD: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(user: &AuthInfo) -> Result<Credentials, super::super::Error> {
        Credentials::new(
            user,
            &Cluster::default(),
            &Environment::default(),
            Stdin::Taken,
        )
    }

    async fn authorization(credentials: &Credentials) -> String {
        let credential = credentials.current().await.unwrap();
        credential
            .authorization
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    }

    /// `crates.md` §0 row 11.
    #[tokio::test(start_paused = true)]
    async fn a_token_file_is_trimmed_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "  one\n").unwrap();
        let user = AuthInfo {
            token_file: path.to_str().map(str::to_owned),
            ..AuthInfo::default()
        };
        let credentials = credentials(&user).unwrap();
        assert_eq!(authorization(&credentials).await, "Bearer one");

        fs::write(&path, "two\n").unwrap();
        assert_eq!(authorization(&credentials).await, "Bearer one");
        tokio::time::advance(REREAD).await;
        assert_eq!(authorization(&credentials).await, "Bearer two");

        fs::write(&path, "three").unwrap();
        credentials.rejected(&Credential::default());
        assert_eq!(
            authorization(&credentials).await,
            "Bearer three",
            "a 401 doesn't wait for a minute"
        );

        fs::remove_file(&path).unwrap();
        tokio::time::advance(REREAD).await;
        assert_eq!(
            authorization(&credentials).await,
            "Bearer three",
            "the old one while there is no other"
        );
    }

    #[tokio::test]
    async fn a_token_file_without_a_token_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let user = AuthInfo {
            token_file: path.to_str().map(str::to_owned),
            ..AuthInfo::default()
        };
        for content in [None, Some(" \n"), Some("a\u{1}b")] {
            if let Some(content) = content {
                fs::write(&path, content).unwrap();
            }
            let error = credentials(&user)
                .unwrap()
                .current()
                .await
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
        let with_token = AuthInfo {
            token: Some("inline\n".to_owned().into()),
            ..user
        };
        assert_eq!(
            authorization(&credentials(&with_token).unwrap()).await,
            "Bearer inline"
        );
    }

    #[tokio::test]
    async fn tokens_and_passwords() {
        let token = AuthInfo {
            token: Some(" t\n".to_owned().into()),
            ..AuthInfo::default()
        };
        assert_eq!(
            authorization(&credentials(&token).unwrap()).await,
            "Bearer t"
        );
        let basic = AuthInfo {
            username: Some("me".to_owned()),
            password: Some("pw".to_owned().into()),
            ..AuthInfo::default()
        };
        assert_eq!(
            authorization(&credentials(&basic).unwrap()).await,
            "Basic bWU6cHc="
        );
        let nobody = credentials(&AuthInfo::default())
            .unwrap()
            .current()
            .await
            .unwrap();
        assert!(nobody.authorization.is_none() && nobody.identity.is_none());
        let both = AuthInfo {
            token: token.token,
            ..basic
        };
        assert!(
            credentials(&both)
                .unwrap_err()
                .to_string()
                .contains("only one is allowed")
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let token = AuthInfo {
            token: Some("s3cret".to_owned().into()),
            ..AuthInfo::default()
        };
        assert!(!format!("{:?}", credentials(&token).unwrap()).contains("s3cret"));
        assert!(!format!("{:?}", bearer("s3cret").unwrap()).contains("s3cret"));
        let error = bearer("s3\u{1}cret").unwrap_err();
        assert!(!error.to_string().contains("cret") && !format!("{error:?}").contains("cret"));
    }
}
