//! Exit codes: sysexits(3) where one fits, since ssh's ProxyCommand and scripts have nothing else to go by.

use std::io;

use crate::cluster::target::TargetError;
use crate::cluster::{RequestError, UpgradeError, credentials};
use crate::dial;
use crate::spdy::OpenError;
use crate::splice::Broken;
use crate::tunnel::Failure;

/// Wrong usage, or what has no code of its own.
const OTHER: u8 = 1;
/// No such pod, or it doesn't run (EX_NOHOST).
const NO_POD: u8 = 68;
/// The cluster can't be reached (EX_UNAVAILABLE).
const UNREACHABLE: u8 = 69;
/// The connection was lost while in use (EX_IOERR).
const LOST: u8 = 74;
/// Forbidden, or not logged in (EX_NOPERM).
const FORBIDDEN: u8 = 77;
/// The pod refuses the port (ECONNREFUSED).
const REFUSED: u8 = 111;

/// The code for an error; only `connect` tells more than failure.
pub(super) fn code(error: &anyhow::Error) -> u8 {
    // A forward that fails has exit code 1, as kubectl's.
    if error.is::<ForwardFailed>() {
        return OTHER;
    }
    error
        .chain()
        .find_map(|cause| {
            None.or_else(|| cause.downcast_ref().map(of_target))
                .or_else(|| cause.downcast_ref().map(of_dial))
                .or_else(|| cause.downcast_ref().map(of_failure))
                .or_else(|| cause.downcast_ref().map(of_broken))
                .or_else(|| cause.downcast_ref().map(|_: &OpenError| LOST))
        })
        .unwrap_or(OTHER)
}

/// Marks an error as `forward`'s.
#[derive(Debug, thiserror::Error)]
#[error("forwarding failed")]
pub(super) struct ForwardFailed;

fn of_target(error: &TargetError) -> u8 {
    match error {
        TargetError::Usage(_) | TargetError::NoSuchPort(_) | TargetError::Failed { .. } => OTHER,
        TargetError::Unauthorized(_) | TargetError::Forbidden(_) => FORBIDDEN,
        TargetError::NotFound { .. }
        | TargetError::NoPods(_)
        | TargetError::NotRunning { .. }
        | TargetError::TimedOut { .. } => NO_POD,
        TargetError::Unreachable { .. } => UNREACHABLE,
    }
}

fn of_dial(error: &dial::Error) -> u8 {
    let error = error.upgrade();
    if error.is_unauthorized() || error.is_forbidden() {
        FORBIDDEN
    } else if error.is_not_found() {
        NO_POD
    } else if error.is_unreachable() {
        UNREACHABLE
    } else {
        match error {
            // The kubelet's words for a pod that isn't there, or has no sandbox: plain text, code 500.
            UpgradeError::Status { message, .. }
                if message.contains("not found") || message.contains("does not have a host") =>
            {
                NO_POD
            }
            UpgradeError::Status { code: 502..=504, .. } => UNREACHABLE,
            _ => OTHER,
        }
    }
}

fn of_failure(failure: &Failure) -> u8 {
    match failure {
        Failure::Refused(_) => REFUSED,
        Failure::PodGone(_) => NO_POD,
        Failure::Other(_) => OTHER,
        _ => LOST,
    }
}

fn of_broken(broken: &Broken) -> u8 {
    match broken {
        Broken::Far(error) => Failure::of(error).map_or(LOST, of_failure),
        Broken::Near(_) => LOST,
    }
}
