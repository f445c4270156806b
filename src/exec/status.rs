//! The document that says how a command ended: a `metav1.Status`, in JSON, on the error channel.

use bytes::Bytes;
use serde::Deserialize;

use super::{Error, Lost};
use crate::untrusted;

/// Far more than any runtime's words; what is longer is no Status.
const MAX: usize = 1024 * 1024;
/// Characters of a server's words that are shown.
const MAX_TEXT: usize = 1000;

/// What has come of the document so far. It may come in any pieces.
#[derive(Debug, Default)]
pub(super) struct Report {
    document: Vec<u8>,
    too_long: bool,
    status: Option<Status>,
}

/// Only what counts, and all of it optional: runtimes leave out what they like.
#[derive(Debug, Deserialize)]
struct Status {
    status: Option<String>,
    message: Option<String>,
    reason: Option<String>,
    details: Option<Details>,
}

#[derive(Debug, Deserialize)]
struct Details {
    causes: Option<Vec<Cause>>,
}

#[derive(Debug, Deserialize)]
struct Cause {
    /// `StatusCause.Type`, which JSON calls so.
    reason: Option<String>,
    message: Option<String>,
}

impl Report {
    pub(super) fn push(&mut self, piece: &Bytes) {
        self.too_long |= self.document.len() + piece.len() > MAX;
        if self.too_long {
            return;
        }
        self.document.extend_from_slice(piece);
        // Tried only where a document can end, or a server that sends it byte by byte would cost us the square of it.
        if piece.trim_ascii_end().ends_with(b"}") {
            self.status = serde_json::from_slice(&self.document).ok();
        }
    }

    /// Whether the document is complete.
    pub(super) fn is_whole(&self) -> bool {
        self.status.is_some()
    }

    /// The exit code. `lost` tells how the connection has ended, which counts only where there is no document:
    /// client-go takes that for success (`remotecommand/v4.go`), and so hides every cut-off output.
    pub(super) fn verdict(&self, lost: Lost) -> Result<u8, Error> {
        if self.too_long {
            return Err(Error::Protocol(format!(
                "the status is longer than {MAX} bytes"
            )));
        }
        let Some(status) = &self.status else {
            let broke_off = self.document.is_empty() || lost != Lost::Closed;
            return Err(match serde_json::from_slice::<Status>(&self.document) {
                Err(error) if !broke_off => Error::Protocol(format!(
                    "{error} in {:?}",
                    text(&String::from_utf8_lossy(&self.document))
                )),
                _ => Error::NoStatus(lost),
            });
        };
        let reason = status.reason.as_deref();
        match status.status.as_deref() {
            Some("Success") => Ok(0),
            Some("Failure") if reason == Some("NonZeroExitCode") => exit_code(status),
            Some("Failure") => Err(Error::Remote(
                match text(status.message.as_deref().unwrap_or_default()) {
                    empty if empty.is_empty() => {
                        "the command failed, and the server does not say why".to_owned()
                    }
                    message => message,
                },
            )),
            _ => Err(Error::Protocol("unknown error".to_owned())),
        }
    }
}

fn exit_code(status: &Status) -> Result<u8, Error> {
    let Some(details) = &status.details else {
        return Err(Error::Protocol("details must be set".to_owned()));
    };
    let mut causes = details.causes.iter().flatten();
    let Some(cause) = causes.find(|cause| cause.reason.as_deref() == Some("ExitCode")) else {
        return Err(Error::Protocol("no ExitCode cause given".to_owned()));
    };
    let code = cause.message.as_deref().unwrap_or_default();
    // Rust takes a plus sign, Go's ParseUint doesn't.
    let digits = code.bytes().all(|byte| byte.is_ascii_digit());
    match code.parse() {
        Ok(code) if digits => Ok(code),
        _ => Err(Error::Protocol(format!(
            "invalid exit code value {:?}",
            text(code)
        ))),
    }
}

fn text(words: &str) -> String {
    untrusted::printable(words, MAX_TEXT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(pieces: &[&str]) -> Report {
        let mut report = Report::default();
        for piece in pieces {
            report.push(&Bytes::copy_from_slice(piece.as_bytes()));
        }
        report
    }

    fn verdict(document: &str) -> Result<u8, String> {
        let verdict = report(&[document]).verdict(Lost::Closed);
        verdict.map_err(|error| error.to_string())
    }

    fn exit(message: &str) -> String {
        format!(
            r#"{{"metadata":{{}},"status":"Failure","message":"command terminated with non-zero exit code","reason":"NonZeroExitCode","details":{{"causes":[{{"reason":"Other","message":"7"}},{{"reason":"ExitCode","message":{message:?}}}]}}}}"#
        )
    }

    /// Items 100 and 105: each row of the table.
    #[test]
    fn the_document_decides() {
        assert_eq!(verdict(r#"{"status":"Success"}"#), Ok(0));
        assert_eq!(verdict(r#"{"metadata":{},"status":"Success"}"#), Ok(0));
        for code in [0, 1, 3, 126, 255] {
            assert_eq!(verdict(&exit(&code.to_string())), Ok(code));
        }
        for (document, error) in [
            (
                r#"{"status":"Failure","reason":"NonZeroExitCode"}"#,
                "error stream protocol error: details must be set",
            ),
            (
                r#"{"status":"Failure","reason":"NonZeroExitCode","details":{}}"#,
                "error stream protocol error: no ExitCode cause given",
            ),
            (
                r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"x","message":"1"}]}}"#,
                "error stream protocol error: no ExitCode cause given",
            ),
            (
                r#"{"status":"Failure","reason":"InternalError","message":"Internal error occurred: no\nsuch thing\u001b[2J"}"#,
                "Internal error occurred: no such thing\\u{1b}[2J",
            ),
            (
                r#"{"status":"Failure"}"#,
                "the command failed, and the server does not say why",
            ),
            (
                r#"{"status":"Maybe"}"#,
                "error stream protocol error: unknown error",
            ),
            (r#"{}"#, "error stream protocol error: unknown error"),
        ] {
            assert_eq!(verdict(document), Err(error.to_owned()), "{document}");
        }
        for code in ["256", "-1", "+1", "", "1.0", " 1", "x"] {
            let error = format!("error stream protocol error: invalid exit code value {code:?}");
            let error = error.replace(r#"" 1""#, r#""1""#); // as it is shown
            assert_eq!(verdict(&exit(code)), Err(error));
        }
        let error = verdict("exit status 1").unwrap_err();
        assert!(
            error.starts_with("error stream protocol error: ")
                && error.ends_with(" in \"exit status 1\""),
            "{error}"
        );
    }

    /// Item 101.
    #[test]
    fn no_document_is_a_failure() {
        for lost in [Lost::Closed, Lost::Silent, Lost::NotStarted] {
            let error = report(&[]).verdict(lost.clone()).unwrap_err();
            assert!(
                matches!(&error, Error::NoStatus(why) if *why == lost),
                "{error}"
            );
        }
        // one that broke off, too
        let cut = Lost::Cut("reset".to_owned());
        let error = report(&[r#"{"status":"#]).verdict(cut).unwrap_err();
        assert!(matches!(error, Error::NoStatus(_)), "{error}");
    }

    #[test]
    fn pieces_are_put_together() {
        let document = exit("42");
        for at in 0..document.len() {
            let (one, other) = document.split_at(at);
            let report = report(&[one, other, "\n"]);
            assert!(report.is_whole(), "cut at {at}");
            assert_eq!(report.verdict(Lost::Closed).unwrap(), 42, "cut at {at}");
        }
        assert!(!report(&[r#"{"a":{}"#]).is_whole());
    }

    /// Item 104.
    #[test]
    fn it_is_bounded() {
        let mut report = Report::default();
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        for _ in 0..100 {
            report.push(&piece);
        }
        assert!(report.document.len() <= MAX);
        let error = report.verdict(Lost::Closed).unwrap_err().to_string();
        assert_eq!(
            error,
            "error stream protocol error: the status is longer than 1048576 bytes"
        );
        let error = verdict(&"{".repeat(100_000)).unwrap_err();
        assert!(error.len() < 2000, "{}", error.len());
    }
}
