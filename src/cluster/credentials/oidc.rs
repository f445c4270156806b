//! OpenID Connect: an id token from the kubeconfig, renewed by its refresh token
//! (client-go `plugin/pkg/client/auth/oidc`).
//!
//! Own code rather than kube's, which knows no CA of the provider, no proxy, and keeps a rotated refresh token to
//! itself. kpf never writes the kubeconfig; where kubectl would, it warns.

use std::sync::Arc;
use std::time::Duration;

use ::http::header::{AUTHORIZATION, CONTENT_TYPE};
use ::http::{HeaderValue, Request, StatusCode, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy;
use jiff::Timestamp;
use kube::config::{AuthProviderConfig, Cluster};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::sign::CertifiedKey;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Credential, Error, bearer};
use crate::cluster::http::Connector;
use crate::cluster::{Environment, http};
use crate::untrusted::printable;

/// One user at one provider.
pub(super) struct Oidc {
    issuer: Uri,
    client_id: String,
    client_secret: String,
    /// The provider's CA, under the names that a cluster's has.
    authority: Cluster,
    environment: Environment,
    identity: Option<Arc<CertifiedKey>>,
    tokens: Mutex<Tokens>,
}

struct Tokens {
    id: Option<String>,
    refresh: Option<String>,
}

impl Oidc {
    pub(super) fn new(
        provider: &AuthProviderConfig,
        environment: &Environment,
        identity: Option<Arc<CertifiedKey>>,
    ) -> Result<Self, Error> {
        if provider.name != "oidc" {
            let name = printable(&provider.name, 50);
            let hint = "kubectl has dropped it too: use your provider's exec plugin";
            return Err(Error::Invalid(format!(
                r#"no Auth Provider found for name "{name}" ({hint})"#
            )));
        }
        let set = |key: &str| {
            provider
                .config
                .get(key)
                .filter(|value| !value.is_empty())
                .cloned()
        };
        let required = |key: &str| {
            set(key).ok_or_else(|| Error::Oidc(format!("the auth-provider's config has no {key}")))
        };
        let issuer = required("idp-issuer-url")?.parse();
        Ok(Self {
            issuer: issuer.map_err(|_| Error::Oidc("idp-issuer-url is no URL".to_owned()))?,
            authority: Cluster {
                certificate_authority: set("idp-certificate-authority"),
                certificate_authority_data: set("idp-certificate-authority-data"),
                ..Cluster::default()
            },
            environment: environment.clone(),
            client_id: required("client-id")?,
            client_secret: set("client-secret").unwrap_or_default(),
            identity,
            tokens: Mutex::new(Tokens {
                id: set("id-token"),
                refresh: set("refresh-token"),
            }),
        })
    }

    /// The id token as it is, or renewed; those who ask meanwhile wait for the same renewal.
    pub(super) async fn current(&self) -> Result<Credential, Error> {
        let mut tokens = self.tokens.lock().await;
        let id = match tokens
            .id
            .as_deref()
            .filter(|id| is_valid(id, Timestamp::now()))
        {
            Some(id) => id.to_owned(),
            None => {
                let renewal = timeout(RENEWAL_TIMEOUT, self.renew(&mut tokens)).await;
                renewal.map_err(|_| {
                    Error::Oidc(format!("no token after {} s", RENEWAL_TIMEOUT.as_secs()))
                })??
            }
        };
        Ok(Credential {
            authorization: Some(bearer(&id)?),
            identity: self.identity.clone(),
            serial: 0,
        })
    }

    async fn renew(&self, tokens: &mut Tokens) -> Result<String, Error> {
        let Some(refresh) = tokens.refresh.clone() else {
            return Err(Error::Oidc(
                "no valid id-token, and cannot refresh without refresh-token: log in again"
                    .to_owned(),
            ));
        };
        // Made when it is needed: the system's roots take time to load, and most runs renew nothing.
        let connector = Connector::new(&self.issuer, &self.authority, &self.environment);
        let client = http::client(connector.map_err(|error| Error::Oidc(error.to_string()))?);
        let endpoint = self.token_endpoint(&client).await?;
        // golang.org/x/oauth2 tries in this order, since providers disagree
        let mut answer = self.ask(&client, &endpoint, &refresh, true).await?;
        if answer.0.is_client_error() {
            answer = self.ask(&client, &endpoint, &refresh, false).await?;
        }
        let (status, body) = answer;
        let answer: TokenResponse = serde_json::from_slice(&body).unwrap_or_default();
        if !status.is_success() {
            let words = [answer.error, answer.error_description]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(": ");
            return Err(Error::Oidc(format!(
                "failed to refresh token: {status} {}: log in again",
                printable(&words, 200)
            )));
        }
        let Some(id) = answer.id_token.filter(|id| !id.is_empty()) else {
            return Err(Error::Oidc(
                "the provider's answer has no id_token: was the scope `openid` asked for at login?"
                    .to_owned(),
            ));
        };
        if let Some(rotated) = answer
            .refresh_token
            .filter(|new| !new.is_empty() && *new != refresh)
        {
            tracing::warn!(
                "the OIDC provider has replaced the refresh token, and kpf doesn't write it into the kubeconfig: \
                 if the old one is no longer accepted, log in again"
            );
            tokens.refresh = Some(rotated);
        }
        tokens.id = Some(id.clone());
        Ok(id)
    }

    async fn token_endpoint(
        &self,
        client: &legacy::Client<Connector, Full<Bytes>>,
    ) -> Result<Uri, Error> {
        let issuer = self.issuer.to_string();
        let issuer = issuer.trim_end_matches('/');
        let request = Request::get(format!("{issuer}/.well-known/openid-configuration"));
        let (status, body) = self.send(client, request.body(Full::default())).await?;
        let metadata: Option<Metadata> = serde_json::from_slice(&body)
            .ok()
            .filter(|_| status.is_success());
        let metadata = metadata.ok_or_else(|| {
            Error::Oidc(format!("failed to query the provider's metadata: {status}"))
        })?;
        metadata
            .token_endpoint
            .parse()
            .map_err(|_| Error::Oidc("the provider's token_endpoint is no URL".to_owned()))
    }

    async fn ask(
        &self,
        client: &legacy::Client<Connector, Full<Bytes>>,
        endpoint: &Uri,
        refresh: &str,
        by_header: bool,
    ) -> Result<(StatusCode, Bytes), Error> {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let (id, secret) = (encode(&self.client_id), encode(&self.client_secret));
        let mut form = format!("grant_type=refresh_token&refresh_token={}", encode(refresh));
        let mut builder = Request::post(endpoint.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if by_header {
            builder = builder.header(
                AUTHORIZATION,
                HeaderValue::from_str(&format!(
                    "Basic {}",
                    STANDARD.encode(format!("{id}:{secret}"))
                ))
                .expect("base64"),
            );
        } else {
            form.push_str(&format!("&client_id={id}"));
            if !secret.is_empty() {
                form.push_str(&format!("&client_secret={secret}"));
            }
        }
        self.send(client, builder.body(Full::from(form))).await
    }

    async fn send(
        &self,
        client: &legacy::Client<Connector, Full<Bytes>>,
        request: Result<Request<Full<Bytes>>, ::http::Error>,
    ) -> Result<(StatusCode, Bytes), Error> {
        const BODY_MAX: usize = 1 << 20; // as client-go reads of a provider
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Error::Oidc(format!(
                "provider {}: {}",
                printable(&self.issuer.to_string(), 200),
                http::unreachable(error)
            ))
        };
        let request = request.map_err(|error| Error::Oidc(error.to_string()))?;
        let response = client
            .request(request)
            .await
            .map_err(|error| failed(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        Ok((status, body.map_err(|error| failed(&*error))?.to_bytes()))
    }
}

/// For the provider's two answers.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Whether the token's own word gives it ten more seconds, as client-go asks for. Its signature is the server's affair.
fn is_valid(token: &str, now: Timestamp) -> bool {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let claims = token
        .split('.')
        .nth(1)
        .and_then(|part| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok());
    let claims = claims.and_then(|json| serde_json::from_slice::<Claims>(&json).ok());
    claims.is_some_and(|claims| claims.exp > now.as_second() as f64 + 10.0)
}

#[derive(Deserialize)]
struct Metadata {
    token_endpoint: String,
}

#[derive(Default, Deserialize)]
struct TokenResponse {
    id_token: Option<String>,
    refresh_token: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_own_expiry_counts() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let token = |exp: &str| {
            format!(
                "e30.{}.sig",
                URL_SAFE_NO_PAD.encode(format!(r#"{{"exp": {exp}}}"#))
            )
        };
        assert!(is_valid(&token("1000011"), now));
        assert!(is_valid(&token("1.7e12"), now));
        assert!(!is_valid(&token("1000010"), now));
        assert!(!is_valid(&token("-1e400"), now));
        assert!(!is_valid(&token("\"x\""), now));
        for nonsense in ["", "a", "a.b", "a.%%.c", "a..c"] {
            assert!(!is_valid(nonsense, now));
        }
    }
}
