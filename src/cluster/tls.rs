//! TLS to the API server and to proxies: whom we trust, who we are, and what a failed handshake means.
//!
//! The provider is always aws-lc-rs, named explicitly, so that the post-quantum key exchange X25519MLKEM768 that kubectl
//! has doesn't depend on which provider a process happened to install.

use std::error::Error as StdError;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Cluster};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_platform_verifier::Verifier;
use secrecy::ExposeSecret;

use super::Error;
use crate::untrusted::printable;

/// The configuration for `server`, still without a client certificate.
pub(super) fn client_config(server: &Uri, cluster: &Cluster) -> Result<ClientConfig, Error> {
    let roots = authorities(cluster)?;
    let builder = builder();
    if cluster.insecure_skip_tls_verify == Some(true) {
        if roots.is_some() {
            // client-go transport.TLSConfigFor: which of the two was meant isn't ours to guess
            let reason =
                "specifying a root certificates file with the insecure flag is not allowed";
            return Err(Error::Tls(reason.to_owned()));
        }
        let verifier = Arc::new(NoVerification(provider()));
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth());
    }
    let mut store = RootCertStore::empty();
    if server.scheme_str() != Some("https") {
        // Never used: the system's roots aren't worth their time, and may not be there.
        return Ok(builder.with_root_certificates(store).with_no_client_auth());
    }
    let Some(roots) = roots else {
        return with_system_roots(Vec::new());
    };
    let (valid, _) = store.add_parsable_certificates(roots);
    if valid == 0 {
        return Err(Error::Tls(
            "no usable certificate in the cluster's certificate-authority".to_owned(),
        ));
    }
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

/// The configuration for an https proxy: the system's roots and the cluster's own, no client certificate.
pub(super) fn proxy_config(cluster: &Cluster) -> Result<ClientConfig, Error> {
    with_system_roots(authorities(cluster)?.unwrap_or_default())
}

fn with_system_roots(more: Vec<CertificateDer<'static>>) -> Result<ClientConfig, Error> {
    let verifier = Verifier::new_with_extra_roots(more, provider()).map_err(|error| {
        Error::Tls(format!(
            "cannot load the system's root certificates: {error}"
        ))
    })?;
    let builder = builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(builder.with_no_client_auth())
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let builder = ClientConfig::builder_with_provider(provider());
    builder
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs has suites for TLS 1.2 and 1.3")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// `base` as `identity`, with a session store of its own: a resumed session would carry the identity it began with.
pub(super) fn as_identity(
    base: &ClientConfig,
    identity: Option<&Arc<CertifiedKey>>,
) -> ClientConfig {
    let mut config = base.clone();
    config.resumption = Resumption::default();
    if let Some(identity) = identity {
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(identity.clone()));
    }
    config
}

/// The name that the server's certificate must have, where it isn't the URL's host.
pub(super) fn server_name(cluster: &Cluster) -> Result<Option<ServerName<'static>>, Error> {
    let Some(name) = cluster
        .tls_server_name
        .clone()
        .filter(|name| !name.is_empty())
    else {
        return Ok(None);
    };
    let shown = printable(&name, REASON_MAX);
    let name = ServerName::try_from(name)
        .map_err(|_| Error::Tls(format!("tls-server-name `{shown}` is no host name")))?;
    Ok(Some(name))
}

/// The client certificate and key of `user`, from its data or its files.
pub(super) fn identity(user: &AuthInfo) -> Result<Option<Arc<CertifiedKey>>, Error> {
    let key = user
        .client_key_data
        .as_ref()
        .map(ExposeSecret::expose_secret);
    let chain = load(
        "client-certificate",
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref(),
    )?;
    let key = load("client-key", key, user.client_key.as_deref())?;
    match (chain, key) {
        (Some(chain), Some(key)) => certified_key(&chain, &key).map(Some).map_err(Error::Tls),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Error::Tls(
            "client-certificate is given without client-key".to_owned(),
        )),
        (None, Some(_)) => Err(Error::Tls(
            "client-key is given without client-certificate".to_owned(),
        )),
    }
}

/// A certificate chain and its private key, both PEM.
pub(super) fn certified_key(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>, String> {
    let chain = certificates(chain);
    if chain.is_empty() {
        return Err("no PEM certificate in the client certificate".to_owned());
    }
    // pem::Error may quote its input
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| "no PEM private key in the client key".to_owned())?;
    match CertifiedKey::from_der(chain, key, &provider()) {
        Ok(identity) => Ok(Arc::new(identity)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("the client key doesn't belong to the client certificate".to_owned())
        }
        Err(error) => Err(format!(
            "the client certificate or key cannot be used: {error}"
        )),
    }
}

fn authorities(cluster: &Cluster) -> Result<Option<Vec<CertificateDer<'static>>>, Error> {
    let data = cluster.certificate_authority_data.as_deref();
    let pem = load(
        "certificate-authority",
        data,
        cluster.certificate_authority.as_deref(),
    )?;
    Ok(pem.map(|pem| certificates(&pem)))
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .collect()
}

/// What `NAME-data` holds in base64, else the file that `NAME` names; empty values are no values.
fn load(
    name: &'static str,
    data: Option<&str>,
    path: Option<&str>,
) -> Result<Option<Vec<u8>>, Error> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let data: String = data.split_whitespace().collect();
        let bytes = STANDARD
            .decode(data)
            .map_err(|_| Error::Tls(format!("{name}-data isn't base64")))?;
        return Ok(Some(bytes));
    }
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(source) => Err(Error::Read {
            what: name,
            path: PathBuf::from(path),
            source,
        }),
    }
}

/// What a failed handshake means, in Go's words where people search for them, and what to do about it.
pub(super) fn explain(error: &io::Error) -> String {
    match rustls_error(error) {
        Some(error) => explain_rustls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the connection was closed during the TLS handshake".to_owned()
        }
        None => format!(
            "TLS handshake: {}",
            printable(&error.to_string(), REASON_MAX)
        ),
    }
}

/// The TLS library's verdict in the chain of causes of `error`.
pub(super) fn rustls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // io::Error::source() skips the error that it wraps
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

pub(super) fn explain_rustls(error: &rustls::Error) -> String {
    use rustls::AlertDescription as Alert;
    let (what, hint) = match error {
        rustls::Error::InvalidCertificate(reason) => return explain_certificate(reason),
        rustls::Error::AlertReceived(
            alert @ (Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::UnsupportedCertificate),
        ) => {
            let hint = "the server refused our client certificate: has it expired, or was it made for another cluster?";
            (format!("remote error: tls: {alert:?}"), hint)
        }
        rustls::Error::InvalidMessage(_) => {
            let hint = "is the server's URL right? It may want http:// instead of https://";
            (
                "http: server gave HTTP response to HTTPS client".to_owned(),
                hint,
            )
        }
        other => return format!("tls: {}", printable(&other.to_string(), REASON_MAX)),
    };
    format!("{what} ({hint})")
}

fn explain_certificate(reason: &CertificateError) -> String {
    let (what, hint) = match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "certificate has expired or is not yet valid".to_owned(),
            "the server's certificate has expired: renew it, or check this machine's clock",
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            "certificate has expired or is not yet valid".to_owned(),
            "the server's certificate isn't valid yet: check this machine's clock",
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            "certificate signed by unknown authority".to_owned(),
            "the context's certificate-authority isn't the one that signed the server's certificate",
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let presented: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            let presented = presented.join(", ");
            let names = if presented.is_empty() {
                "no name"
            } else {
                presented.as_str()
            };
            let what = format!(
                "certificate is valid for {}, not {}",
                printable(names, REASON_MAX),
                expected.to_str()
            );
            (
                what,
                "give the name that the certificate has by --tls-server-name",
            )
        }
        CertificateError::NotValidForName => (
            "certificate is not valid for this name".to_owned(),
            "give the name that the certificate has by --tls-server-name",
        ),
        other => (
            printable(&format!("{other:?}"), REASON_MAX),
            "the server's certificate cannot be used",
        ),
    };
    format!("tls: failed to verify certificate: x509: {what} ({hint})")
}

const REASON_MAX: usize = 200; // a terminal's two lines

/// Accepts every certificate, because the user has said so.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A name as it is written, out of rustls' `DnsName("localhost")` and `IpAddress(127.0.0.1)`.
fn bare(presented: &str) -> &str {
    let inner = presented
        .split_once('(')
        .map_or(presented, |(_, rest)| rest);
    inner.trim_end_matches(')').trim_matches('"')
}
