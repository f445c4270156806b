//! The one HTTP client of a cluster: every request and every upgrade goes through `Transport`.
//!
//! `kube`'s own stack isn't used because it retries, lacks TCP_NODELAY, and runs credential plugins in the
//! way; `kube::Client` is put on top of this one for lookups. HTTP/1.1 only (an upgrade needs it), no retries, and
//! redirects are answers like any other, so credentials never travel to another server.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::http::header::{
    AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, USER_AGENT as USER_AGENT_HEADER,
};
use ::http::uri::PathAndQuery;
use ::http::{Request, Response, StatusCode, Uri};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::Body;
use kube::config::AuthInfo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::sign::CertifiedKey;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

pub(super) use self::connect::Connector;
pub use self::connect::{Connection, TlsFacts, Unreachable};
pub use self::error::RequestError;
pub use self::upgrade::{Protocol, UpgradeError, UpgradeRequest, Upgraded};

use super::credentials::{Credential, Credentials};
use super::{Error, Impersonation, tls};

mod connect;
mod error;
mod long;
mod read_ahead;
mod tunnel;
mod upgrade;

const USER_AGENT: &str = concat!("kpf/", env!("CARGO_PKG_VERSION"));

/// Requests to one server as one user. Clones share connections, sessions and credentials.
#[derive(Clone)]
pub(super) struct Transport(Arc<Shared>);

struct Shared {
    server: Uri,
    /// Who we are, and for whom we act.
    headers: HeaderMap,
    credentials: Credentials,
    request_timeout: Option<Duration>,
    connector: Connector,
    pool: RwLock<Pool>,
}

/// Connections of one identity. Another identity begins with a new pool: a kept connection or a resumed TLS session
/// would still be the old one.
struct Pool {
    identity: Option<Arc<CertifiedKey>>,
    client: legacy::Client<Connector, Body>,
}

impl Transport {
    pub(super) fn new(
        server: Uri,
        headers: HeaderMap,
        credentials: Credentials,
        request_timeout: Option<Duration>,
        connector: Connector,
    ) -> Self {
        let pool = RwLock::new(Pool::new(&connector, None));
        Self(Arc::new(Shared {
            server,
            headers,
            credentials,
            request_timeout,
            connector,
            pool,
        }))
    }

    pub(super) fn credentials(&self) -> &Credentials {
        &self.0.credentials
    }

    /// What opens its connections, as nobody.
    pub(super) fn connector(&self) -> &Connector {
        &self.0.connector
    }

    pub(super) fn server(&self) -> &Uri {
        &self.0.server
    }

    /// The same with connections of its own. Credentials are shared: a plugin runs once for all.
    pub(super) fn apart(&self) -> Self {
        self.with_headers(self.0.headers.clone())
    }

    /// The same, for somebody else.
    pub(super) fn impersonating(&self, who: &Impersonation<'_>) -> Result<Self, Error> {
        let extra = who.extra.iter();
        let extra = extra.map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()]));
        let user = AuthInfo {
            impersonate: Some(who.user.to_owned()),
            impersonate_groups: Some(who.groups.to_owned()),
            impersonate_user_extra: Some(extra.collect()),
            ..AuthInfo::default()
        };
        if who.user.is_empty() {
            return Err(Error::Flag("impersonation: there is no user".to_owned()));
        }
        Ok(self.with_headers(headers(&user)?))
    }

    fn with_headers(&self, headers: HeaderMap) -> Self {
        let shared = &self.0;
        Self::new(
            shared.server.clone(),
            headers,
            shared.credentials.clone(),
            shared.request_timeout,
            shared.connector.clone(),
        )
    }

    /// An ordinary request, under `--request-timeout` up to the end of its body; of a watch, up to its beginning.
    /// Cancel safe.
    pub(super) async fn request(
        &self,
        request: Request<Body>,
    ) -> Result<Response<Bounded>, RequestError> {
        // A credential plugin may be waiting for a person: its time isn't the request's.
        let credential = self.0.credentials.current().await?;
        let Some(limit) = self.0.request_timeout else {
            return Ok(self.send(request, &credential).await?.map(|body| Bounded {
                body,
                deadline: None,
            }));
        };
        let deadline = Instant::now() + limit;
        let is_watch = is_watch(&request);
        let response = timeout_at(deadline, self.send(request, &credential)).await;
        let response = response.map_err(|_| RequestError::Timeout(limit))??;
        Ok(response.map(|body| Bounded {
            body,
            deadline: (!is_watch).then(|| (Box::pin(sleep_until(deadline)), limit)),
        }))
    }

    /// Sends `request` to the server, below the server URL's own path.
    async fn send(
        &self,
        mut request: Request<Body>,
        credential: &Credential,
    ) -> Result<Response<Incoming>, RequestError> {
        *request.uri_mut() = join(&self.0.server, request.uri().path_and_query())?;
        let method = request.method().clone();
        let path = request.uri().path().to_owned(); // a query may hold a command with a secret in it
        self.identify(&mut request, credential);
        let client = self.client(credential.identity.as_ref());
        let response = client
            .request(request)
            .await
            .map_err(|error| RequestError::Unreachable(unreachable(&error)))?;
        tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
        self.answered(&response, credential);
        Ok(response)
    }

    /// Says who asks, and for whom.
    fn identify(&self, request: &mut Request<Body>, credential: &Credential) {
        let headers = request.headers_mut();
        headers.extend(self.0.headers.clone());
        if let Some(authorization) = &credential.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
    }

    /// Takes note of what an answer says of the credential.
    fn answered(&self, response: &Response<Incoming>, credential: &Credential) {
        if response.status() == StatusCode::UNAUTHORIZED {
            self.0.credentials.rejected(credential);
        }
    }

    fn client(&self, identity: Option<&Arc<CertifiedKey>>) -> legacy::Client<Connector, Body> {
        let same = |pool: &Pool| match (&pool.identity, identity) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        {
            let pool = self.0.pool.read().unwrap_or_else(PoisonError::into_inner);
            if same(&pool) {
                return pool.client.clone();
            }
        }
        let mut pool = self.0.pool.write().unwrap_or_else(PoisonError::into_inner);
        if !same(&pool) {
            *pool = Pool::new(&self.0.connector, identity);
        }
        pool.client.clone()
    }
}

impl Pool {
    fn new(connector: &Connector, identity: Option<&Arc<CertifiedKey>>) -> Self {
        Self {
            identity: identity.cloned(),
            client: client(connector.as_identity(identity)),
        }
    }
}

impl Connector {
    fn as_identity(&self, identity: Option<&Arc<CertifiedKey>>) -> Self {
        let mut connector = self.clone();
        connector.tls = Arc::new(tls::as_identity(&self.tls, identity));
        connector
    }
}

fn is_watch<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|pair| pair == "watch=true")
}

/// A client whose idle connections end after 90 s, hyper's default and Go's.
pub(super) fn client<B>(connector: Connector) -> legacy::Client<Connector, B>
where
    B: HttpBody<Data: Send> + Send,
{
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(connector)
}

/// `path` below the path of `server`, which a Rancher or a proxied cluster has.
fn join(server: &Uri, path: Option<&PathAndQuery>) -> Result<Uri, RequestError> {
    let prefix = server.path().trim_end_matches('/');
    let path = path.map_or("/", PathAndQuery::as_str);
    let mut parts = server.clone().into_parts();
    let joined = PathAndQuery::try_from(format!("{prefix}{path}"));
    // Two valid paths make a valid one, unless it is longer than 64 KiB.
    parts.path_and_query = Some(joined.map_err(|error| RequestError::Invalid(error.to_string()))?);
    Uri::from_parts(parts).map_err(|error| RequestError::Invalid(error.to_string()))
}

/// The headers of every request: our name, and whom we act for.
pub(super) fn headers(user: &AuthInfo) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT_HEADER, HeaderValue::from_static(USER_AGENT));
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| {
            Error::Flag("impersonation: a name has a control character in it".to_owned())
        })
    };
    if let Some(user) = &user.impersonate {
        headers.append("impersonate-user", value(user)?);
    }
    if let Some(uid) = &user.impersonate_uid {
        headers.append("impersonate-uid", value(uid)?);
    }
    for group in user.impersonate_groups.iter().flatten() {
        headers.append("impersonate-group", value(group)?);
    }
    for (key, values) in user.impersonate_user_extra.iter().flatten() {
        let name = format!(
            "impersonate-extra-{}",
            utf8_percent_encode(&key.to_lowercase(), EXTRA_KEY)
        );
        let name = HeaderName::try_from(name)
            .map_err(|_| Error::Flag("impersonation: an extra key is no header name".to_owned()))?;
        for text in values {
            headers.append(&name, value(text)?);
        }
    }
    if user.impersonate.as_ref().is_none_or(String::is_empty) && headers.len() > 1 {
        let reason =
            "requesting uid, groups or user-extra without impersonating a user: give --as too";
        return Err(Error::Flag(reason.to_owned()));
    }
    Ok(headers)
}

/// Everything that isn't legal in a header name, and `%` itself (client-go `transport.headerKeyEscape`).
const EXTRA_KEY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'*')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// Finds in the causes of the client's error what went wrong on the way to the server.
pub(super) fn unreachable(error: &(dyn StdError + 'static)) -> Unreachable {
    let mut cause = Some(error);
    let mut last = error;
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<Unreachable>() {
            return found.clone();
        }
        last = error;
        cause = error.source();
    }
    // TLS 1.3 servers judge the client's certificate only after the handshake.
    if let Some(error) = tls::rustls_error(error) {
        return Unreachable::Tls {
            reason: tls::explain_rustls(error),
        };
    }
    Unreachable::Lost {
        reason: crate::untrusted::printable(&last.to_string(), 200),
    }
}

/// A response's body that ends in an error when its request has taken too long.
pub(super) struct Bounded {
    body: Incoming,
    deadline: Option<(Pin<Box<Sleep>>, Duration)>,
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = RequestError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        if let Some((sleep, limit)) = &mut self.deadline
            && sleep.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(RequestError::Timeout(*limit))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(
            frame
                .map(|frame| frame.map_err(|error| RequestError::Unreachable(unreachable(&error)))),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_2_the_servers_path_prefix_is_kept() {
        let path = "/api/v1/pods?limit=1".parse().unwrap();
        for (server, expected) in [
            ("https://h", "https://h/api/v1/pods?limit=1"),
            ("https://h/", "https://h/api/v1/pods?limit=1"),
            (
                "https://h/k8s/clusters/c-1",
                "https://h/k8s/clusters/c-1/api/v1/pods?limit=1",
            ),
            ("http://h:8080/p/", "http://h:8080/p/api/v1/pods?limit=1"),
        ] {
            assert_eq!(
                join(&server.parse().unwrap(), Some(&path)).unwrap(),
                expected
            );
        }
    }

    #[test]
    fn a_url_that_is_too_long_is_an_error() {
        let path = format!("/{}", "x".repeat(65_500)).parse().unwrap();
        let server = format!("https://h/{}", "y".repeat(100)).parse().unwrap();
        assert!(join(&server, Some(&path)).is_err());
    }

    #[test]
    fn impersonation_headers() {
        let extra = [(
            "Example.org/Scope%".to_owned(),
            vec!["a".to_owned(), "b".to_owned()],
        )];
        let user = AuthInfo {
            impersonate: Some("jane".to_owned()),
            impersonate_uid: Some("42".to_owned()),
            impersonate_groups: Some(vec!["dev".to_owned(), "ops".to_owned()]),
            impersonate_user_extra: Some(extra.into_iter().collect()),
            ..AuthInfo::default()
        };
        let headers = headers(&user).unwrap();
        assert_eq!(headers["impersonate-user"], "jane");
        assert_eq!(headers["impersonate-uid"], "42");
        assert_eq!(
            headers
                .get_all("impersonate-group")
                .iter()
                .collect::<Vec<_>>(),
            ["dev", "ops"]
        );
        let scopes: Vec<_> = headers
            .get_all("impersonate-extra-example.org%2fscope%25")
            .iter()
            .collect();
        assert_eq!(scopes, ["a", "b"]);
    }

    #[test]
    fn impersonation_of_nobody_is_an_error() {
        let user = AuthInfo {
            impersonate_groups: Some(vec!["g".to_owned()]),
            ..AuthInfo::default()
        };
        assert!(headers(&user).unwrap_err().to_string().contains("--as"));
        let user = AuthInfo {
            impersonate: Some("a\nb".to_owned()),
            ..AuthInfo::default()
        };
        assert!(headers(&user).is_err());
    }
}
