//! OpenID Connect by kube's own layer: an id token from the kubeconfig, renewed by its refresh token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::http::header::AUTHORIZATION;
use ::http::{HeaderValue, Request, Response};
use kube::client::{Body, ConfigExt as _};
use kube::config::{AuthInfo, AuthProviderConfig};
use rustls::sign::CertifiedKey;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer as _, ServiceExt as _, service_fn};

use super::{Credential, Error, secret};
use crate::untrusted::printable;

/// The provider's client, and the token that it started with.
pub(super) struct Oidc {
    /// Answers every request with the `Authorization` that kube put onto it.
    authorize: BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>,
    identity: Option<Arc<CertifiedKey>>,
    configured: Option<HeaderValue>,
    warned: AtomicBool,
}

impl Oidc {
    pub(super) fn new(
        provider: &AuthProviderConfig,
        identity: Option<Arc<CertifiedKey>>,
    ) -> Result<Self, Error> {
        if provider.name != "oidc" {
            let name = printable(&provider.name, 50);
            let hint = "kubectl has dropped it too: use your provider's exec plugin";
            return Err(Error::Invalid(format!(
                r#"no Auth Provider found for name "{name}" ({hint})"#
            )));
        }
        // Any URL: the layer doesn't look at it.
        let mut config = kube::Config::new("https://unused".parse().expect("a URL"));
        config.auth_info = AuthInfo {
            auth_provider: Some(provider.clone()),
            ..AuthInfo::default()
        };
        let layer = config
            .auth_layer()
            .map_err(|error| Error::Oidc(printable(&error.to_string(), 300)))?;
        let layer =
            layer.ok_or_else(|| Error::Oidc("the auth-provider gives no token".to_owned()))?;
        let echo = service_fn(|request: Request<Body>| async move {
            let mut response = Response::new(Body::empty());
            if let Some(value) = request.headers().get(AUTHORIZATION) {
                response.headers_mut().insert(AUTHORIZATION, value.clone());
            }
            Ok::<_, BoxError>(response)
        });
        let configured = provider
            .config
            .get("id-token")
            .and_then(|token| secret(&format!("Bearer {token}")).ok());
        let authorize = BoxCloneSyncService::new(layer.layer(echo));
        Ok(Self {
            authorize,
            identity,
            configured,
            warned: AtomicBool::new(false),
        })
    }

    pub(super) async fn current(&self) -> Result<Credential, Error> {
        let answer = self
            .authorize
            .clone()
            .oneshot(Request::new(Body::empty()))
            .await;
        let answer = answer.map_err(|error| Error::Oidc(printable(&error.to_string(), 300)))?;
        let authorization = answer.headers().get(AUTHORIZATION).cloned();
        if authorization != self.configured && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the OIDC token was renewed, which kpf doesn't write into the kubeconfig: \
                 if your provider allows a refresh token only once, log in again"
            );
        }
        Ok(Credential {
            authorization,
            identity: self.identity.clone(),
            serial: 0,
        })
    }
}
