//! The way to the API server one stage at a time, for those who want to know where it ends.

use std::net::SocketAddr;
use std::path::PathBuf;

use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;

use super::http::TlsFacts;
use super::{Cluster, Error, Options, RequestError, Unreachable, kubeconfig};
use crate::untrusted::printable;

/// Where a cluster is configured.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The kubeconfig files that were looked for, and whether they are there.
    pub files: Vec<(PathBuf, bool)>,
    /// The context; none where there is none.
    pub context: Option<String>,
}

/// Finds out where `options` lead to.
///
/// # Errors
/// A file can't be read or makes no sense.
pub fn origin(options: &Options) -> Result<Origin, Error> {
    let (config, files) = kubeconfig::read(options)?;
    let is_there = |file: PathBuf| {
        let there = file.is_file();
        (file, there)
    };
    Ok(Origin {
        files: files.into_iter().map(is_there).collect(),
        context: options.context.clone().or(config.current_context),
    })
}

/// Something that a role allows or doesn't.
#[derive(Clone, Copy, Debug)]
pub struct Action<'a> {
    /// As in `create`.
    pub verb: &'a str,
    /// As in `pods`.
    pub resource: &'a str,
    /// As in `portforward`; empty for none.
    pub subresource: &'a str,
}

impl Cluster {
    /// What kind of credential is sent, in words that hold no secret.
    pub fn credential_kind(&self) -> String {
        self.transport.credentials().kind()
    }

    /// Gets the credential, by its plugin if it has one, and says when it is over, if anybody knows.
    ///
    /// # Errors
    /// There is none to be had.
    pub async fn credential_expiry(&self) -> Result<Option<Timestamp>, RequestError> {
        let credentials = self.transport.credentials();
        credentials.current().await?;
        Ok(credentials.expiry().await)
    }

    /// The proxy's URL without credentials, if there is one.
    pub fn proxy(&self) -> Option<String> {
        self.transport.connector().proxy()
    }

    /// Looks up who is dialled first: the proxy, else the server.
    ///
    /// # Errors
    /// The name has no address.
    pub async fn look_up(&self) -> Result<Vec<SocketAddr>, Unreachable> {
        let (host, port) = self.transport.connector().first_hop(self.server());
        let failed = |reason: String| Unreachable::Dns {
            host: printable(&host, 300),
            reason: printable(&reason, 200),
        };
        let found = tokio::net::lookup_host((&host[..], port)).await;
        let found: Vec<_> = found.map_err(|error| failed(error.to_string()))?.collect();
        match found.is_empty() {
            true => Err(failed("no addresses".to_owned())),
            false => Ok(found),
        }
    }

    /// Connects to who is dialled first, by TCP alone.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn dial(&self) -> Result<(), Unreachable> {
        let connector = self.transport.connector();
        let (host, port) = connector.first_hop(self.server());
        connector.dial(&host, port).await.map(drop)
    }

    /// Connects to the server, TLS included; says what that has agreed on, nothing for `http`.
    ///
    /// # Errors
    /// The proxy refuses, or the server isn't who it should be.
    pub async fn handshake(&self) -> Result<Option<TlsFacts>, Unreachable> {
        let connector = self.transport.connector().clone();
        let connection = connector.connect(self.server().clone()).await?;
        Ok(connection.tls())
    }

    /// The server's version: `v1.36.0`.
    ///
    /// # Errors
    /// It doesn't answer.
    pub async fn version(&self) -> Result<String, RequestError> {
        let info = self.client().apiserver_version().await?;
        Ok(printable(&info.git_version, 100))
    }

    /// Whether we may do this in a namespace.
    ///
    /// # Errors
    /// The server doesn't say.
    pub async fn may(&self, action: Action<'_>, namespace: &str) -> Result<bool, RequestError> {
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    namespace: text(namespace),
                    verb: text(action.verb),
                    resource: text(action.resource),
                    subresource: text(action.subresource),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.client());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}
