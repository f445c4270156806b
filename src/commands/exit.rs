//! The exit codes of `connect`: sysexits(3) where one fits, since ssh and scripts have nothing else to go by. And those
//! of `exec`, which are the command's, or kubectl's 1; only a command that was lost is told from one that failed.

use crate::cluster::target::TargetError;
use crate::cluster::{RequestError, UpgradeError};
use crate::dial;
use crate::exec;
use crate::spdy::OpenError;
use crate::splice::Broken;
use crate::tunnel::Failure;

/// Wrong usage, or what has no code of its own.
pub(super) const OTHER: u8 = 1;
/// Nobody reads stdout any more: the code of a program that SIGPIPE has ended.
pub(super) const NO_READER: u8 = 128 + 13;
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

/// The code for an error of `connect`.
pub(super) fn code(error: &anyhow::Error) -> u8 {
    let of_cause = |cause: &(dyn std::error::Error + 'static)| {
        if let Some(error) = cause.downcast_ref() {
            Some(of_target(error))
        } else if let Some(error) = cause.downcast_ref() {
            Some(of_dial(error))
        } else if let Some(error) = cause.downcast_ref() {
            Some(of_broken(error))
        } else {
            cause.downcast_ref().map(|_: &OpenError| LOST)
        }
    };
    error.chain().find_map(of_cause).unwrap_or(OTHER)
}

/// The code for an error of `exec`.
pub(super) fn exec_code(error: &anyhow::Error) -> u8 {
    if error.is::<exec::verify::Short>() {
        return LOST;
    }
    match error.downcast_ref() {
        Some(
            exec::Error::NoStatus(_) | exec::Error::Unreadable(_) | exec::Error::Unwritable { .. },
        ) => LOST,
        _ => OTHER,
    }
}

fn of_target(error: &TargetError) -> u8 {
    match error {
        TargetError::NotFound { .. }
        | TargetError::NoPods(_)
        | TargetError::NoPodInTime { .. }
        | TargetError::NotRunning { .. }
        | TargetError::Completed { .. } => NO_POD,
        TargetError::NoAnswer { .. } => UNREACHABLE,
        TargetError::Request(error) if error.is_unreachable() => UNREACHABLE,
        TargetError::Request(RequestError::Credentials(_)) => FORBIDDEN,
        TargetError::Request(error) if error.is_unauthorized() || error.is_forbidden() => FORBIDDEN,
        _ => OTHER,
    }
}

fn of_dial(error: &dial::Error) -> u8 {
    let error = match (error, error.upgrade()) {
        (_, Some(answer)) => answer,
        (dial::Error::Container(error), _) => return of_target(error),
        (dial::Error::Open(_), _) => return LOST,
        _ => return OTHER,
    };
    match error {
        _ if error.is_unauthorized() || error.is_forbidden() => FORBIDDEN,
        _ if error.is_not_found() => NO_POD,
        _ if error.is_unreachable() => UNREACHABLE,
        // The API server's and the kubelet's words for a pod that isn't placed, or has no sandbox.
        UpgradeError::Status { message, .. }
            if message.contains("not found") || message.contains("does not have a host") =>
        {
            NO_POD
        }
        UpgradeError::Status {
            code: 502..=504, ..
        } => UNREACHABLE,
        _ => OTHER,
    }
}

fn of_broken(broken: &Broken) -> u8 {
    let Broken::Far(error) = broken else {
        return LOST;
    };
    match Failure::of(error) {
        Some(Failure::Refused(_)) => REFUSED,
        Some(Failure::PodGone(_)) => NO_POD,
        Some(Failure::Unsupported(_) | Failure::Other(_)) => OTHER,
        _ => LOST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster;
    use crate::cluster::target::PodRef;

    fn refused(status: u16, message: &str) -> anyhow::Error {
        let error = UpgradeError::Status {
            code: status,
            reason: None,
            message: message.to_owned(),
            retry_after: None,
            status_document: true,
        };
        let pod = PodRef {
            namespace: "n".to_owned(),
            name: "p".to_owned(),
            uid: None,
        };
        let what = dial::Subresource::PortForward;
        anyhow::Error::new(dial::Error::One { error, what, pod }).context("around it")
    }

    #[test]
    fn each_cause_has_its_code() {
        for (status, message, expected) in [
            (401, "Unauthorized", FORBIDDEN),
            (403, "forbidden", FORBIDDEN),
            (404, "pods \"p\" not found", NO_POD),
            (400, "pod p does not have a host assigned", NO_POD),
            (500, "pod not found (\"p_n\")", NO_POD),
            (503, "", UNREACHABLE),
            (500, "something else", OTHER),
        ] {
            assert_eq!(
                code(&refused(status, message)),
                expected,
                "{status} {message}"
            );
        }
        let failures = [
            (Failure::Refused(String::new()), REFUSED),
            (Failure::PodGone(String::new()), NO_POD),
            (Failure::Other(String::new()), OTHER),
            (Failure::Reset, LOST),
            (Failure::Unconfirmed, LOST),
        ];
        for (failure, expected) in failures {
            let error = anyhow::Error::new(Broken::Far(failure.into()));
            assert_eq!(code(&error.context("around it")), expected);
        }
        let usage = cluster::Error::NoContext("x".to_owned());
        assert_eq!(code(&usage.into()), OTHER);
    }
}
