//! What somebody may do, as they ask it themselves: `SelfSubjectAccessReview`.

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::access::{Action, Caller};
use super::answer::{Body, Refusal, document};

/// Bytes of a question.
const LONGEST: usize = 64 << 10;

/// POST to `selfsubjectaccessreviews`. Everybody who is somebody may ask.
pub(crate) async fn of_self(
    caller: &Caller,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let body = Limited::new(request.into_body(), LONGEST).collect().await;
    let body = body
        .map_err(|_| Refusal::bad_request("no body"))?
        .to_bytes();
    let mut review: Value =
        serde_json::from_slice(&body).map_err(|_| Refusal::bad_request("no object"))?;
    let asked = review["spec"]["resourceAttributes"].clone();
    let word = |key: &str| asked[key].as_str().unwrap_or_default();
    let resource = match word("subresource") {
        "" => word("resource").to_owned(),
        subresource => format!("{}/{subresource}", word("resource")),
    };
    let allowed = caller.may(&Action {
        verb: word("verb"),
        group: word("group"),
        resource: &resource,
        namespace: word("namespace"),
        name: word("name"),
    });
    review["status"] = json!({ "allowed": allowed });
    Ok(document(StatusCode::CREATED, &review))
}
