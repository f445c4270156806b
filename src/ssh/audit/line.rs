//! An event becomes a line of JSON in which nothing can steer a terminal, hide, or go on for ever.

use std::borrow::Cow;
use std::io;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::chain::Link;
use super::event::{About, Kind, MAX_NAME, Requested};
use super::redact::Redact;
use crate::untrusted;

/// The version of the format, which stands in every line.
pub const VERSION: u32 = 1;
/// Bytes of a line at most, its end included: the longest event is a command or path of 4 KiB, beside some 70 names of
/// 512 bytes, and an escape takes up to six bytes for one.
pub const MAX_LINE: usize = 256 * 1024;

#[derive(Serialize)]
struct Line<'a> {
    v: u32,
    ts: String,
    seq: u64,
    prev: String,
    gw: Bounded<'a>,
    #[serde(rename = "type")]
    kind_name: &'static str,
    #[serde(flatten)]
    about: &'a About,
    #[serde(flatten)]
    kind: &'a Kind,
}

/// The line, with its end.
#[must_use]
pub fn encode(at: Timestamp, link: &Link, gateway: &str, about: &About, kind: &Kind) -> Vec<u8> {
    let line = Line {
        v: VERSION,
        ts: format!("{at:.6}"),
        seq: link.seq,
        prev: link.prev.to_string(),
        gw: Bounded::name(gateway),
        kind_name: kind.name(),
        about,
        kind,
    };
    let mut bytes = Vec::with_capacity(512);
    line.serialize(&mut serde_json::Serializer::with_formatter(
        &mut bytes, Escaping,
    ))
    .expect("strings, numbers and maps with names can be written to memory");
    bytes.push(b'\n');
    bytes
}

/// The event without what the policy's patterns match, in all that a client words itself.
#[must_use]
pub fn redacted<'k>(kind: &'k Kind, redact: &Redact) -> Cow<'k, Kind> {
    let changed = match kind {
        Kind::Request {
            what: Requested::Exec { command, bytes },
            ok,
        } => {
            let text = String::from_utf8_lossy(command);
            match redact.apply(&text) {
                Cow::Borrowed(_) => None,
                Cow::Owned(command) => Some(Kind::Request {
                    what: Requested::Exec {
                        command: command.into_bytes(),
                        bytes: *bytes,
                    },
                    ok: *ok,
                }),
            }
        }
        Kind::File {
            direction,
            path,
            size,
            sha256,
        } => match redact.apply(path) {
            Cow::Borrowed(_) => None,
            Cow::Owned(path) => Some(Kind::File {
                direction: *direction,
                path,
                size: *size,
                sha256: sha256.clone(),
            }),
        },
        _ => None,
    };
    changed.map_or(Cow::Borrowed(kind), Cow::Owned)
}

/// Text that is written up to a number of bytes; `…` stands where it was cut.
pub(super) struct Bounded<'a>(&'a str, usize);

impl<'a> Bounded<'a> {
    pub(super) const fn new(text: &'a str, max: usize) -> Self {
        Self(text, max)
    }

    pub(super) const fn name(text: &'a str) -> Self {
        Self(text, MAX_NAME)
    }
}

impl Serialize for Bounded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(text, max) = *self;
        if text.len() <= max {
            return serializer.serialize_str(text);
        }
        let mut end = max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let kept = &text[..end];
        serializer.serialize_str(&format!("{kept}…"))
    }
}

/// Bytes that are written as text, with U+FFFD for what is none.
pub(super) struct LossyText<'a>(pub(super) &'a [u8], pub(super) usize);

impl Serialize for LossyText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // One byte past the bound, so that a cut shows; no more, so that 64 KiB aren't copied for 4.
        let head = &self.0[..self.0.len().min(self.1 + 4)];
        Bounded::new(&String::from_utf8_lossy(head), self.1).serialize(serializer)
    }
}

/// Compact JSON that escapes, beside what JSON asks for, DEL, C1 and everything that hides or reorders text.
pub(super) struct Escaping;

impl serde_json::ser::Formatter for Escaping {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        let mut plain = 0;
        for (at, c) in fragment.char_indices() {
            if untrusted::is_hidden(c) {
                writer.write_all(&fragment.as_bytes()[plain..at])?;
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
                plain = at + c.len_utf8();
            }
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ssh::access::{Caps, Identity, Login, Proof};
    use crate::ssh::audit::event::{Exit, Place, Transfer};
    use crate::ssh::audit::session::SessionId;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    fn at() -> Timestamp {
        "2026-11-22T01:02:03.456789Z".parse().unwrap()
    }

    fn text(about: &About, kind: &Kind) -> String {
        let line = encode(at(), &Link::FIRST, "gw-0", about, kind);
        String::from_utf8(line).unwrap()
    }

    fn json(about: &About, kind: &Kind) -> serde_json::Value {
        serde_json::from_str(&text(about, kind)).unwrap()
    }

    fn about() -> About {
        About {
            session: Some(SessionId::new(UNIX_EPOCH, [1; 10])),
            connection: Some(7),
            source: Some("203.0.113.9:51034".parse().unwrap()),
            login: Some(Arc::new(Login {
                identity: Identity {
                    user: "alice".to_owned(),
                    groups: vec!["ml".to_owned()],
                },
                proof: Proof::Certificate {
                    fingerprint: "SHA256:a".to_owned(),
                    authority: "SHA256:b".to_owned(),
                    serial: 42,
                    key_id: "alice@corp".to_owned(),
                },
                caps: Caps::all(),
                expires: None,
            })),
            place: Some(Arc::new(Place {
                cluster: "prod-eu".to_owned(),
                namespace: "team-a".to_owned(),
                pod: "trainer-0".to_owned(),
                uid: Some("1-2".to_owned()),
                container: None,
                backend: Some("relay"),
                login: Some("root".to_owned()),
            })),
            channel: Some(3),
        }
    }

    fn exec(command: &[u8]) -> Kind {
        Kind::Request {
            what: Requested::Exec {
                command: command.to_vec(),
                bytes: command.len(),
            },
            ok: true,
        }
    }

    #[test]
    fn a_line_is_as_documented() {
        let kind = Kind::ChannelOpen {
            ctype: "direct-tcpip".to_owned(),
            dest: Some("127.0.0.1:8888".to_owned()),
        };
        assert_eq!(
            text(&about(), &kind),
            concat!(
                r#"{"v":1,"ts":"2026-11-22T01:02:03.456789Z","seq":0,"#,
                r#""prev":"sha256:0000000000000000000000000000000000000000000000000000000000000000","#,
                r#""gw":"gw-0","type":"channel.open","sid":"0000000000040G2081040G2081","conn":7,"#,
                r#""user":"alice","groups":["ml"],"auth":{"method":"cert","fp":"SHA256:a","ca":"SHA256:b","serial":42,"#,
                r#""key_id":"alice@corp"},"src":"203.0.113.9:51034","cluster":"prod-eu","ns":"team-a","pod":"trainer-0","#,
                r#""uid":"1-2","container":null,"backend":"relay","login":"root","channel":3,"#,
                r#""ctype":"direct-tcpip","dest":"127.0.0.1:8888"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn every_kind_is_a_line() {
        let none = About::default();
        let ms = Duration::from_millis(1500);
        for (kind, expected) in [
            (Kind::ConnOpen { proxy: None }, r#""conn.open"}"#),
            (
                Kind::ConnClose {
                    reason: "bye".to_owned(),
                    bytes_in: 1,
                    bytes_out: 2,
                    duration: ms,
                },
                r#""conn.close","reason":"bye","bytes_in":1,"bytes_out":2,"ms":1500}"#,
            ),
            (
                Kind::AuthFail {
                    method: "publickey".to_owned(),
                    fp: None,
                    name: "a.b".to_owned(),
                    reason: "revoked".to_owned(),
                },
                r#""auth.fail","method":"publickey","name":"a.b","reason":"revoked"}"#,
            ),
            (Kind::SessionStart {}, r#""session.start"}"#),
            (
                Kind::SessionEnd {
                    reason: "exit".to_owned(),
                    exit: Exit::Code(3),
                    bytes_in: 1,
                    bytes_out: 2,
                    duration: ms,
                },
                r#""session.end","reason":"exit","exit":3,"bytes_in":1,"bytes_out":2,"ms":1500}"#,
            ),
            (
                Kind::ChannelClose {
                    reason: "exit".to_owned(),
                    exit: Exit::Signal("TERM".to_owned()),
                    bytes_in: 1,
                    bytes_out: 2,
                    resizes: 4,
                    duration: ms,
                },
                r#""reason":"exit","signal":"TERM","bytes_in":1,"bytes_out":2,"resizes":4,"ms":1500}"#,
            ),
            (
                exec(b"ls"),
                r#""request","request":"exec","command":"ls","bytes":2,"ok":true}"#,
            ),
            (
                Kind::Request {
                    what: Requested::Env {
                        name: "LANG".to_owned(),
                    },
                    ok: false,
                },
                r#""request","request":"env","env":"LANG","ok":false}"#,
            ),
            (
                Kind::Request {
                    what: Requested::Shell,
                    ok: true,
                },
                r#""request","request":"shell","ok":true}"#,
            ),
            (
                Kind::File {
                    direction: Transfer::In,
                    path: "/a".to_owned(),
                    size: 5,
                    sha256: None,
                },
                r#""file","direction":"in","path":"/a","size":5}"#,
            ),
            (
                Kind::GatewayStart {
                    version: "1",
                    listen: vec!["[::1]:22".parse().unwrap()],
                },
                r#""gateway.start","version":"1","listen":["[::1]:22"]}"#,
            ),
        ] {
            let line = text(&none, &kind);
            assert!(line.contains(expected), "{line}");
        }
    }

    #[test]
    fn the_environment_has_no_values_and_x11_no_cookie() {
        use crate::ssh::request::Request;
        for request in [
            Request::Env {
                name: "LC_A".to_owned(),
                value: "hush".to_owned(),
            },
            Request::X11 {
                single: false,
                protocol: "MIT".to_owned(),
                cookie: "hush".to_owned(),
                screen: 0,
            },
        ] {
            let kind = Kind::Request {
                what: Requested::from(&request),
                ok: true,
            };
            assert!(!text(&About::default(), &kind).contains("hush"));
        }
    }

    #[test]
    fn long_things_are_cut_and_counted() {
        let long = exec("ä".repeat(40_000).as_bytes());
        let value = json(&About::default(), &long);
        assert_eq!(value["bytes"], 80_000);
        let kept = value["command"].as_str().unwrap();
        assert_eq!(kept.strip_suffix('…').unwrap(), "ä".repeat(2048));

        let mut about = about();
        Arc::make_mut(about.login.as_mut().unwrap()).identity.groups =
            vec!["\u{e0001}".repeat(1000); 1000];
        assert!(text(&about, &long).len() < MAX_LINE);
    }

    #[test]
    fn secrets_go_before_the_cut() {
        let redact = Redact::new(["--token (\\S+)"]).unwrap();
        let command = format!("{} --token {}", "x".repeat(4080), "s".repeat(50));
        let kind = exec(command.as_bytes());
        let line = text(&About::default(), &redacted(&kind, &redact));
        assert!(!line.contains("sss"), "{line}");
        assert!(line.contains(&format!(r#""bytes":{}"#, command.len())));
        assert!(matches!(redacted(&exec(b"ls"), &redact), Cow::Borrowed(_)));
    }

    #[test]
    fn what_could_steer_a_terminal_is_escaped() {
        let kind = exec(
            "\u{1b}]0;x\u{7}\u{9b}K\u{7f}\u{2028}\u{202e}\u{200b}\u{feff}\u{e0041}\"\\\n"
                .as_bytes(),
        );
        let line = text(&About::default(), &kind);
        assert!(
            line.contains(
                r#""\u001b]0;x\u0007\u009bK\u007f\u2028\u202e\u200b\ufeff\udb40\udc41\"\\\n""#
            ),
            "{line}"
        );
    }

    proptest! {
        #[test]
        fn any_command_is_one_harmless_line_that_says_it(command in any::<Vec<u8>>(), name in any::<String>()) {
            let mut about = about();
            Arc::make_mut(about.place.as_mut().unwrap()).pod = name.clone();
            let line = text(&about, &exec(&command));
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(!line.trim_end().chars().any(untrusted::is_hidden));
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(value["command"].as_str().unwrap(), String::from_utf8_lossy(&command));
            prop_assert_eq!(value["pod"].as_str().unwrap(), name);
        }
    }
}
