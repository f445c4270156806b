//! Answers as the API server and the kubelet word them, and the query that asks.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use serde_json::{Value, json};

use super::request_line;

/// What all answers have as body.
pub(crate) struct Body(BoxBody<Bytes, Infallible>);

impl Body {
    /// A body that goes on for as long as the stream does.
    pub(crate) fn stream<S>(frames: S) -> Self
    where
        S: Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + Sync + 'static,
    {
        Self(BoxBody::new(StreamBody::new(frames)))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A refusal in the API server's form.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: StatusCode,
    reason: &'static str,
    message: String,
    details: Option<Value>,
}

impl Refusal {
    pub(crate) fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn forbidden(resource: &str, name: &str, message: String) -> Self {
        let details = json!({ "name": name, "kind": resource });
        Self {
            details: Some(details),
            ..Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
        }
    }

    pub(crate) fn not_found(resource: &str, name: &str) -> Self {
        let details = json!({ "name": name, "kind": resource });
        let message = format!("{resource} \"{name}\" not found");
        Self {
            details: Some(details),
            ..Self::new(StatusCode::NOT_FOUND, "NotFound", message)
        }
    }

    /// What an API server says that doesn't reach the kubelet; it has no reason.
    pub(crate) fn no_kubelet() -> Self {
        let message =
            "error dialing backend: dial tcp 127.0.0.1:10250: connect: connection refused";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    pub(crate) fn no_route() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(crate) fn expired() -> Self {
        let message = "too old resource version";
        Self::new(StatusCode::GONE, "Expired", message)
    }

    pub(crate) fn document(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code.as_u16(),
        });
        if !self.reason.is_empty() {
            status["reason"] = json!(self.reason);
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

impl From<Refusal> for Response<Body> {
    fn from(refusal: Refusal) -> Self {
        document(refusal.code, &refusal.document())
    }
}

/// The query of a request, decoded.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn of(uri: &Uri) -> Self {
        Self::parse(uri.query().unwrap_or_default())
    }

    /// Also of one that is too long for a URI.
    pub(crate) fn of_request<T>(request: &Request<T>) -> Self {
        let long = request.headers().get(request_line::QUERY);
        match long.and_then(|query| query.to_str().ok()) {
            Some(query) => Self::parse(query),
            None => Self::of(request.uri()),
        }
    }

    fn parse(query: &str) -> Self {
        let pairs = query.split('&');
        let pairs = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    pub(crate) fn all(&self, key: &str) -> Vec<&str> {
        let matching = self.0.iter().filter(|(name, _)| name == key);
        matching.map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn first(&self, key: &str) -> Option<&str> {
        self.all(key).first().copied()
    }
}

/// `application/x-www-form-urlencoded`.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [bytes.next(), bytes.next()].map(Option::unwrap_or_default);
                let digits = std::str::from_utf8(&digits).unwrap_or_default();
                u8::from_str_radix(digits, 16).unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// JSON.
pub(crate) fn document(code: StatusCode, value: &Value) -> Response<Body> {
    let mut response = text(code, value.to_string());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// An empty body.
pub(crate) fn empty() -> Body {
    Body(Full::default().boxed())
}

/// Plain text, as kubelets and runtimes answer.
pub(crate) fn text(code: StatusCode, body: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body(Full::from(body.into()).boxed()));
    *response.status_mut() = code;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

/// The same with headers.
pub(crate) fn text_with(
    code: StatusCode,
    headers: Vec<(&'static str, String)>,
    body: String,
) -> Response<Body> {
    let mut response = text(code, body);
    for (name, value) in headers {
        let value = HeaderValue::from_str(&value).expect("a test's header is well-formed");
        response
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
    response
}
