//! Why a request has no good answer, in kubectl's words.

use std::time::Duration;

use super::Unreachable;
use crate::cluster::credentials;
use crate::untrusted::printable;

/// The failure of an ordinary request; made from [`kube::Error`] for those of [`super::super::Cluster::client`].
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The server has answered, and it is a no.
    #[error("{}", refusal(*.code, reason, message))]
    Status {
        /// The HTTP status.
        code: u16,
        /// The Status document's reason, such as `NotFound`; may be empty.
        reason: String,
        /// The server's words, fit to show.
        message: String,
    },
    /// There is no connection to the server.
    #[error(transparent)]
    Unreachable(Unreachable),
    /// There are no credentials to send.
    #[error(transparent)]
    Credentials(#[from] credentials::Error),
    /// `--request-timeout` has passed.
    #[error("Unable to connect to the server: no answer within the request timeout of {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The request cannot be sent, or the answer makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl RequestError {
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

impl From<kube::Error> for RequestError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Status {
                code: status.code,
                reason: printable(&status.reason, REASON_MAX),
                message: printable(&status.message, MESSAGE_MAX),
            },
            kube::Error::Service(error) => match error.downcast() {
                Ok(error) => *error,
                Err(error) => Self::Unreachable(super::unreachable(&*error)),
            },
            kube::Error::ReadEvents(error) => Self::Unreachable(Unreachable::Lost {
                reason: printable(&error.to_string(), REASON_MAX),
            }),
            other => {
                let reason = printable(&other.to_string(), MESSAGE_MAX);
                Self::Invalid(format!(
                    "the server's answer cannot be understood: {reason}"
                ))
            }
        }
    }
}

/// kubectl's line for a refused request (`cmd/util.StandardErrorMessage`).
pub(super) fn refusal(code: u16, reason: &str, message: &str) -> String {
    match (code, reason) {
        (401, _) => format!("You must be logged in to the server ({message})"),
        (_, "") => format!("Error from server: {message}"),
        (_, reason) => format!("Error from server ({reason}): {message}"),
    }
}

pub(super) const REASON_MAX: usize = 100; // reasons are single words
pub(super) const MESSAGE_MAX: usize = 1000; // the longest useful messages list a pod's containers
