//! From an HTTP request to a raw connection: WebSocket by GET and SPDY/3.1 by POST.
//!
//! What is accepted and refused follows client-go (`transport/websocket`, `httpstream/spdy`), with three differences:
//! bytes that come along with the 101 are kept, everything is bounded in time and size, and redirects are refused.

use std::time::Duration;

use ::http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER, UPGRADE};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use kube::client::Body;
use tokio::time::{Instant, timeout_at};

use super::error::{MESSAGE_MAX, REASON_MAX, refusal};
use super::long::LongLine;
use super::{Connection, RequestError, Transport, Unreachable};
use crate::cluster::credentials;
use crate::untrusted::printable;

/// What to upgrade, and to what.
#[derive(Clone, Debug)]
pub struct UpgradeRequest {
    /// Below the server's own path, such as `/api/v1/namespaces/n/pods/p/portforward`; already percent-encoded.
    pub path_and_query: String,
    /// What to speak afterwards.
    pub protocol: Protocol,
}

/// The protocol after the upgrade.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// WebSocket (RFC 6455), asked for by GET: API servers authorize it as the verb `get`.
    WebSocket {
        /// In order of preference; the server chooses one.
        subprotocols: Vec<String>,
    },
    /// SPDY/3.1, asked for by POST: API servers authorize it as the verb `create`.
    Spdy {
        /// The stream protocols, in order of preference; the server chooses one.
        protocols: Vec<String>,
    },
}

/// A connection that no longer speaks HTTP.
#[derive(Debug)]
pub struct Upgraded {
    /// The connection, with nothing of HTTP left on it.
    pub io: Connection,
    /// What the server sent right behind its 101: to be read before anything from `io`.
    pub read_buf: Bytes,
    /// The subprotocol or stream protocol that the server chose; empty where a SPDY server named none.
    pub protocol: String,
}

/// Why there is no upgraded connection.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The server answered with another status than 101.
    #[error("{}", status_line(*.code, reason.as_deref(), message))]
    Status {
        /// The HTTP status.
        code: u16,
        /// The Status document's reason, such as `Forbidden`.
        reason: Option<String>,
        /// The server's words, fit to show.
        message: String,
        /// How long the server asks to be left alone, at most an hour.
        retry_after: Option<Duration>,
        /// Whether the answer was a Kubernetes Status, so the API server's own, not a kubelet's or a proxy's.
        status_document: bool,
    },
    /// The server said 101 and did something else.
    #[error("unable to upgrade connection: {0}")]
    Handshake(String),
    /// There is no connection to the server.
    #[error(transparent)]
    Unreachable(Unreachable),
    /// There are no credentials to send.
    #[error(transparent)]
    Credentials(credentials::Error),
    /// No answer in time.
    #[error("unable to upgrade connection: no answer after {} s", .0.as_secs())]
    Timeout(Duration),
    /// What was asked for cannot be sent.
    #[error("unable to upgrade connection: {0}")]
    Request(String),
}

impl UpgradeError {
    /// Whether the other transport may work where this one didn't: after every answer but 101 and every bad handshake
    /// (old servers, proxies that know one of the two, roles with one of the two verbs), never when nothing answered.
    pub fn allows_fallback(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::Handshake(_))
    }

    /// Whether the server doesn't know who we are, or we have nothing to tell it.
    pub fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Status { code: 401, .. } | Self::Credentials(_))
    }

    /// Whether the server knows us and says no.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Status { code: 403, .. })
    }

    /// Whether what was asked for isn't there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { code: 404, .. })
    }

    /// Whether there was no answer at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Timeout(_))
    }
}

impl From<RequestError> for UpgradeError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Unreachable(reason) => Self::Unreachable(reason),
            RequestError::Credentials(reason) => Self::Credentials(reason),
            RequestError::Timeout(after) => Self::Timeout(after),
            RequestError::Invalid(reason) => Self::Request(reason),
            RequestError::Status {
                code,
                reason,
                message,
            } => {
                let reason = Some(reason).filter(|reason| !reason.is_empty());
                Self::Status {
                    code,
                    reason,
                    message,
                    retry_after: None,
                    status_document: true,
                }
            }
        }
    }
}

fn status_line(code: u16, reason: Option<&str>, message: &str) -> String {
    match code {
        401 => refusal(code, reason.unwrap_or_default(), message),
        _ => format!("unable to upgrade connection: {message}"),
    }
}

impl Transport {
    /// Sends `request` and hands out the connection once the server has agreed.
    ///
    /// Bounded by [`UPGRADE_TIMEOUT`], not counting a credential plugin's time. Cancel safe: dropping it closes the
    /// connection, or leaves it in the pool if nothing was sent yet.
    pub(in crate::cluster) async fn upgrade(
        &self,
        request: UpgradeRequest,
    ) -> Result<Upgraded, UpgradeError> {
        let credential = self
            .0
            .credentials
            .current()
            .await
            .map_err(UpgradeError::Credentials)?;
        let deadline = Instant::now() + UPGRADE_TIMEOUT;
        let key = STANDARD.encode(nonce()?);
        let is_long = self.is_long(&request.path_and_query);
        let mut message = message(&request, &key, is_long)?;
        let connection = capture_connection(&mut message);
        let path_and_query = &request.path_and_query;
        let sending = async {
            match is_long {
                true => self.send_long(message, path_and_query, &credential).await,
                false => self.send(message, &credential).await,
            }
        };
        let response = timeout_at(deadline, sending).await;
        let mut response = response.map_err(|_| UpgradeError::Timeout(UPGRADE_TIMEOUT))??;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            if !is_of_the_api_server(response.headers())
                && let Some(connection) = connection.connection_metadata().as_ref()
            {
                connection.poison();
            }
            return Err(refused(response).await);
        }
        let protocol = agreed(&request.protocol, &key, response.headers())?;
        let upgraded = timeout_at(deadline, hyper::upgrade::on(&mut response)).await;
        let upgraded = upgraded.map_err(|_| UpgradeError::Timeout(UPGRADE_TIMEOUT))?;
        let upgraded =
            upgraded.map_err(|error| UpgradeError::Unreachable(super::unreachable(&error)))?;
        let (io, read_buf) = match upgraded.downcast::<TokioIo<Connection>>() {
            Ok(parts) => (parts.io.into_inner(), parts.read_buf),
            Err(upgraded) => {
                let parts = upgraded
                    .downcast::<TokioIo<LongLine>>()
                    .expect("we make no other connections");
                (parts.io.into_inner().into_inner(), parts.read_buf)
            }
        };
        Ok(Upgraded {
            io,
            read_buf,
            protocol,
        })
    }
}

/// For the whole exchange up to the 101; client-go has no bound at all.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(30);

/// For the body of a refusal: what it says is worth a moment, no more.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// kubectl reads as much of a refusal.
const BODY_MAX: usize = 64 << 10;

fn nonce() -> Result<[u8; 16], UpgradeError> {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce)
        .map_err(|_| UpgradeError::Request("no random numbers on this machine".to_owned()))?;
    Ok(nonce)
}

/// The request; where its URI is too long for one, only with the path.
fn message(
    request: &UpgradeRequest,
    key: &str,
    is_long: bool,
) -> Result<Request<Body>, UpgradeError> {
    let whole = request.path_and_query.as_str();
    let path = whole.split('?').next().filter(|_| is_long);
    let builder = Request::builder()
        .uri(path.unwrap_or(whole))
        .header(CONNECTION, "Upgrade");
    let builder = match &request.protocol {
        Protocol::WebSocket { subprotocols } => builder
            .method(Method::GET)
            .header(UPGRADE, "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", key)
            .header(SUBPROTOCOL, subprotocols.join(", ")), // one line: API servers read only the first
        Protocol::Spdy { protocols } => protocols.iter().fold(
            // hyper sends no length for an empty body, and some load balancers want one
            builder
                .method(Method::POST)
                .header(UPGRADE, "SPDY/3.1")
                .header(CONTENT_LENGTH, 0),
            |builder, protocol| builder.header(STREAM_PROTOCOL, protocol),
        ),
    };
    builder
        .body(Body::empty())
        .map_err(|error| UpgradeError::Request(printable(&error.to_string(), REASON_MAX)))
}

const SUBPROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Checks a 101 against what was asked for; returns the protocol that the server chose.
fn agreed(asked: &Protocol, key: &str, headers: &HeaderMap) -> Result<String, UpgradeError> {
    let wrong = |what: &str| Err(UpgradeError::Handshake(what.to_owned()));
    let text = |name: &HeaderName| {
        headers
            .get(name)
            .map(HeaderValue::to_str)
            .and_then(Result::ok)
            .unwrap_or_default()
    };
    if !has_token(headers, &CONNECTION, "upgrade") {
        return wrong("the server's 101 has no `Connection: Upgrade`");
    }
    match asked {
        Protocol::WebSocket { subprotocols } => {
            if !has_token(headers, &UPGRADE, "websocket") {
                return wrong("the server's 101 isn't about WebSocket");
            }
            if text(&HeaderName::from_static("sec-websocket-accept")) != accept_key(key) {
                return wrong("the server's Sec-WebSocket-Accept is wrong");
            }
            let chosen = text(&SUBPROTOCOL);
            if !subprotocols.iter().any(|offered| offered == chosen) {
                let chosen = printable(chosen, REASON_MAX);
                return Err(UpgradeError::Handshake(format!(
                    r#"unable to negotiate protocol: client supports {subprotocols:?}, server returned "{chosen}""#
                )));
            }
            Ok(chosen.to_owned())
        }
        Protocol::Spdy { protocols } => {
            if !text(&UPGRADE).to_ascii_lowercase().contains("spdy/3.1") {
                return wrong("the server's 101 isn't about SPDY/3.1");
            }
            let chosen = text(&STREAM_PROTOCOL);
            if !protocols.is_empty() && !protocols.iter().any(|offered| offered == chosen) {
                let chosen = printable(chosen, REASON_MAX);
                return Err(UpgradeError::Handshake(format!(
                    r#"unable to negotiate protocol: client supports {protocols:?}, server returned "{chosen}""#
                )));
            }
            Ok(chosen.to_owned())
        }
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// RFC 6455 §4.2.2.
fn accept_key(key: &str) -> String {
    const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    STANDARD.encode(digest(
        &SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}{GUID}").as_bytes(),
    ))
}

/// Whether a refusal can be the API server's own words, a Status, and its connection serves on. A kubelet's are passed on
/// as plain text over a hijacked connection, which the API server then closes without having said so (apimachinery
/// `UpgradeAwareHandler.tryUpgrade`): a request that follows on it is lost.
fn is_of_the_api_server(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
}

/// Turns any answer but a 101 into an error. Reads the body, so that the connection can serve the next attempt.
async fn refused(response: Response<Incoming>) -> UpgradeError {
    let (head, body) = response.into_parts();
    let body = read(body).await;
    let status = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let field = |name: &str| {
        status
            .as_ref()
            .and_then(|status| status.get(name)?.as_str())
            .filter(|text| !text.is_empty())
    };
    let status_document = field("kind") == Some("Status");
    // apimachinery httpstream/spdy upgradeErrorMessage: these, in this order
    let message = match field("message").or_else(|| field("error")) {
        Some(message) => printable(message, MESSAGE_MAX),
        None => printable(&String::from_utf8_lossy(&body), MESSAGE_MAX),
    };
    let message = match (head.status, message.is_empty()) {
        (status, _) if status.is_redirection() => {
            let location = head
                .headers
                .get(LOCATION)
                .map(|location| String::from_utf8_lossy(location.as_bytes()));
            let location = printable(&location.unwrap_or_default(), REASON_MAX);
            format!(
                "the server redirects to `{location}`, and credentials are not sent to another address: use that one as the server"
            )
        }
        (status, empty) if status.is_success() => {
            let text = if empty {
                String::new()
            } else {
                format!(": {message}")
            };
            format!("the server or a proxy before it ignored the upgrade ({status}){text}")
        }
        (_, true) => "empty server response".to_owned(),
        (_, false) => message,
    };
    UpgradeError::Status {
        code: head.status.as_u16(),
        reason: field("reason").map(|reason| printable(reason, REASON_MAX)),
        message,
        retry_after: head
            .headers
            .get(RETRY_AFTER)
            .and_then(|value| retry_after(value, Timestamp::now())),
        status_document,
    }
}

/// What there is of `body`: all of it, or what came before the limits or the connection's end.
async fn read(mut body: Incoming) -> Vec<u8> {
    let deadline = Instant::now() + BODY_TIMEOUT;
    let mut bytes = Vec::new();
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let room = BODY_MAX - bytes.len();
        bytes.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            break;
        }
    }
    bytes
}

/// Seconds or a date (RFC 9110 §10.2.3), at most an hour.
fn retry_after(value: &HeaderValue, now: Timestamp) -> Option<Duration> {
    const MAX: Duration = Duration::from_secs(3600);
    let text = value.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            Duration::try_from(date.duration_since(now)).unwrap_or_default()
        }
    };
    Some(wait.min(MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_key_of_rfc_6455() {
        assert_eq!(
            accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn rule_18_retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let parse = |text| retry_after(&HeaderValue::from_static(text), now);
        assert_eq!(parse("60"), Some(Duration::from_secs(60)));
        assert_eq!(
            parse("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::from_secs(37))
        );
        assert_eq!(parse("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(parse("99999999999"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("soon"), None);
        assert_eq!(parse("-1"), None);
    }
}
