//! Files of keys with their options, as in sshd(8) under `AUTHORIZED_KEYS FILE FORMAT`.
//!
//! A line that has anything unknown in it lets nobody in: an option that isn't heeded would let in too many.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{HashAlg, PublicKey};

use super::{Caps, Disabled, Error, KeyFiles, Refusal, Sources, file, is_person, key};
use crate::untrusted::printable;

/// Files of a folder. Each is read at the start.
const MOST_FILES: usize = 20_000;

/// What a file's name ends in.
const SUFFIX: &str = ".keys";

/// What a file of keys is called in errors.
const WHAT: &str = "keys";

/// All keys that are listed.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// By the SHA-256 of the key, so that finding one takes as long as not finding it.
    by_fingerprint: HashMap<[u8; 32], Listed>,
}

/// A key that is listed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Listed {
    pub(super) user: String,
    key: KeyData,
    /// Of each line that has the key, in the order of the file.
    pub(super) options: Vec<Options>,
    /// Listed for others too: it doesn't say who somebody is.
    is_shared: bool,
}

/// What the options of a line say.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Options {
    pub(super) caps: Caps,
    pub(super) sources: Option<Sources>,
    pub(super) expires: Option<SystemTime>,
}

/// A line of a file.
#[derive(Debug)]
struct Line {
    key: KeyData,
    options: Options,
}

impl Keys {
    /// Reads all files; what lets nobody in is told to `disabled`.
    pub(super) fn read(files: &KeyFiles, disabled: &mut Vec<Disabled>) -> Result<Self, Error> {
        let mut keys = Self::default();
        match files {
            KeyFiles::Of { user, file } => {
                if !is_person(user) {
                    return Err(Error::Setting(no_user(user)));
                }
                keys.add(user, file, &file::read(WHAT, file)?, disabled);
            }
            KeyFiles::Folder(folder) => keys.add_folder(folder, disabled)?,
        }
        keys.by_fingerprint.retain(|_, listed| !listed.is_shared);
        Ok(keys)
    }

    /// The line of this key.
    pub(super) fn find(&self, key: &KeyData) -> Option<&Listed> {
        let listed = self.by_fingerprint.get(&digest(key)?);
        listed.filter(|listed| listed.key == *key)
    }

    /// The same by a `SHA256:…`.
    pub(super) fn of(&self, fingerprint: &str) -> Option<&Listed> {
        let fingerprint: russh::keys::ssh_key::Fingerprint = fingerprint.parse().ok()?;
        self.by_fingerprint.get(&fingerprint.sha256()?)
    }

    fn add_folder(&mut self, folder: &Path, disabled: &mut Vec<Disabled>) -> Result<(), Error> {
        let wrong = |source| Error::Read {
            what: "the folder of keys",
            path: folder.to_owned(),
            source,
        };
        let mut paths = Vec::new();
        for entry in folder.read_dir().map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            // A mounted ConfigMap has folders of its own, which begin with a dot.
            let name = path.file_name().and_then(|name| name.to_str());
            let user = name
                .filter(|name| !name.starts_with('.'))
                .and_then(|name| name.strip_suffix(SUFFIX));
            if let Some(user) = user {
                paths.push((user.to_owned(), path));
            }
            if paths.len() > MOST_FILES {
                let reason = format!("it has more than {MOST_FILES} files");
                return Err(wrong(io::Error::other(reason)));
            }
        }
        paths.sort();
        for (user, path) in paths {
            let bytes = match is_person(&user) {
                true => file::read(WHAT, &path).map_err(|error| error.to_string()),
                false => Err(no_user(&user)),
            };
            match bytes {
                Ok(bytes) => self.add(&user, &path, &bytes, disabled),
                Err(reason) => disabled.push(Disabled {
                    path,
                    line: None,
                    reason,
                }),
            }
        }
        Ok(())
    }

    fn add(&mut self, user: &str, path: &Path, bytes: &[u8], disabled: &mut Vec<Disabled>) {
        for (number, line) in file::lines(bytes) {
            let line = line.map_err(str::to_owned).and_then(Line::parse);
            let added = line.and_then(|line| self.add_line(user, line));
            if let Err(reason) = added {
                disabled.push(Disabled {
                    path: path.to_owned(),
                    line: Some(number),
                    reason,
                });
            }
        }
    }

    fn add_line(&mut self, user: &str, line: Line) -> Result<(), String> {
        let digest = digest(&line.key).ok_or("it has no SHA-256")?;
        match self.by_fingerprint.entry(digest) {
            Entry::Vacant(vacant) => {
                vacant.insert(Listed {
                    user: user.to_owned(),
                    key: line.key,
                    options: vec![line.options],
                    is_shared: false,
                });
            }
            Entry::Occupied(mut listed) if listed.get().user == user => {
                listed.get_mut().options.push(line.options);
            }
            Entry::Occupied(mut listed) => {
                listed.get_mut().is_shared = true;
                return Err(format!(
                    "`{}` has the same key, so it lets neither of them in: a key says who somebody is",
                    listed.get().user
                ));
            }
        }
        Ok(())
    }
}

fn digest(key: &KeyData) -> Option<[u8; 32]> {
    key.fingerprint(HashAlg::Sha256).sha256()
}

fn no_user(name: &str) -> String {
    format!(
        "`{}` can be no user: a name has visible ASCII characters but no `,`, up to 128, and does not begin with `system:`",
        printable(name, 80)
    )
}

impl Line {
    fn parse(line: &str) -> Result<Self, String> {
        // As sshd does: what is no key has options first.
        let (options, key) = match public_key(line) {
            Some(key) => (Options::none(), Some(key)),
            None => {
                let (options, rest) = line.split_at(end_of_options(line));
                (Options::parse(options)?, public_key(rest.trim_start()))
            }
        };
        let key = key.ok_or("it is no public key: a line is `OPTIONS TYPE BASE64 COMMENT`")?;
        if !key::is_allowed(&key) {
            return Err(format!(
                "such keys are not taken: they may be {}",
                key::ALLOWED
            ));
        }
        Ok(Self { key, options })
    }
}

/// A key by its first two words; what follows is a comment of any kind.
fn public_key(text: &str) -> Option<KeyData> {
    let mut words = text.split_ascii_whitespace();
    let (kind, base64) = (words.next()?, words.next()?);
    let key = PublicKey::from_openssh(&format!("{kind} {base64}")).ok()?;
    Some(key.key_data().clone())
}

/// Options end with the first white space that is in no quotes.
fn end_of_options(line: &str) -> usize {
    let mut is_quoted = false;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match c {
            '"' if before != '\\' => is_quoted = !is_quoted,
            ' ' | '\t' if !is_quoted => return at,
            _ => {}
        }
        before = c;
    }
    line.len()
}

impl Options {
    /// Of a line without any.
    pub(super) const fn none() -> Self {
        Self {
            caps: Caps::all(),
            sources: None,
            expires: None,
        }
    }

    /// Reads `restrict,pty,from="10.0.0.0/8"`. They count in their order, so that `restrict` is followed by what is
    /// allowed all the same. `permit-` before a word of those is taken too: certificates write them so.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::none();
        let mut rest = text;
        while !rest.is_empty() {
            let (name, value, after) = next_option(rest)?;
            let name = name.to_ascii_lowercase();
            let caps = &mut options.caps;
            let permitted = name.strip_prefix("permit-").unwrap_or(&name);
            match (&name[..], permitted, value) {
                ("restrict", _, None) => {
                    *caps = Caps {
                        pty: false,
                        port_forwarding: false,
                        agent_forwarding: false,
                        x11_forwarding: false,
                        force_command: caps.force_command.take(),
                    };
                }
                (_, "pty", None) => caps.pty = true,
                ("no-pty", _, None) => caps.pty = false,
                (_, "port-forwarding", None) => caps.port_forwarding = true,
                ("no-port-forwarding", _, None) => caps.port_forwarding = false,
                (_, "agent-forwarding", None) => caps.agent_forwarding = true,
                ("no-agent-forwarding", _, None) => caps.agent_forwarding = false,
                (_, "x11-forwarding", None) => caps.x11_forwarding = true,
                ("no-x11-forwarding", _, None) => caps.x11_forwarding = false,
                // There is no file that it would be about.
                (_, "user-rc", None) | ("no-user-rc", _, None) => {}
                ("from", _, Some(value)) => {
                    let sources = Sources::parse(&value)?;
                    if options.sources.replace(sources).is_some() {
                        return Err("it has `from` twice".to_owned());
                    }
                }
                ("command", _, Some(value)) if !value.is_empty() && !value.contains('\0') => {
                    if caps.force_command.replace(value).is_some() {
                        return Err("it has `command` twice".to_owned());
                    }
                }
                ("expiry-time", _, Some(value)) => {
                    let end = time(&value)?;
                    options.expires = Some(options.expires.map_or(end, |other| other.min(end)));
                }
                _ => {
                    return Err(format!(
                        "the option `{}` is unknown or wrong here: there are from=, expiry-time=, command=, restrict, pty, port-forwarding, agent-forwarding, X11-forwarding and user-rc, and `no-` before those",
                        printable(&name, 80)
                    ));
                }
            }
            rest = after;
        }
        Ok(options)
    }

    /// Whether the line is good for somebody there and then.
    pub(super) fn check(&self, source: IpAddr, now: SystemTime) -> Result<(), Refusal> {
        if self.expires.is_some_and(|end| end <= now) {
            return Err(Refusal::Expired);
        }
        match &self.sources {
            Some(sources) if !sources.have(source) => Err(Refusal::Source),
            _ => Ok(()),
        }
    }

    /// The first of them that is, or what the last one has against it.
    pub(super) fn first_of(
        all: &[Self],
        source: IpAddr,
        now: SystemTime,
    ) -> Result<&Self, Refusal> {
        let mut refusal = Refusal::KeyUnknown;
        for options in all {
            match options.check(source, now) {
                Ok(()) => return Ok(options),
                Err(reason) => refusal = reason,
            }
        }
        Err(refusal)
    }
}

/// The first of several options: its name, its value, and what follows.
fn next_option(text: &str) -> Result<(&str, Option<String>, &str), String> {
    let end = text.find(['=', ',']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return Err("it has an option without a name".to_owned());
    }
    let (value, rest) = match rest.strip_prefix('=') {
        None => (None, rest),
        Some(rest) => {
            let quoted = rest
                .strip_prefix('"')
                .ok_or_else(|| format!("`{}` has a value without quotes", printable(name, 80)))?;
            let (value, rest) = unquoted(quoted)
                .ok_or_else(|| format!("`{}` has no closing quote", printable(name, 80)))?;
            (Some(value), rest)
        }
    };
    match rest.strip_prefix(',') {
        Some("") => Err("it has a comma with no option after it".to_owned()),
        Some(rest) => Ok((name, value, rest)),
        None if rest.is_empty() => Ok((name, value, rest)),
        None => Err(format!(
            "there is something between `{}` and the next comma",
            printable(name, 80)
        )),
    }
}

/// What is before the closing quote, and after it. `\"` is a quote, and a backslash before anything else is one.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' if chars.next_if(|(_, next)| *next == '"').is_some() => value.push('"'),
            c => value.push(c),
        }
    }
    None
}

/// `YYYYMMDD`, with `HHMM` or `HHMMSS` after it, and maybe `Z`. In UTC, with `Z` or without: sshd means its own time
/// zone without, but replicas have none that a reader of the file could know.
fn time(text: &str) -> Result<SystemTime, String> {
    let wrong = || {
        format!(
            "`{}` is no time: write YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, in UTC",
            printable(text, 40)
        )
    };
    let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number = |at: usize, length| -> i8 {
        let digits = digits.get(at..at + length);
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
    };
    let year = digits[..4].parse().map_err(|_| wrong())?;
    let time = DateTime::new(
        year,
        number(4, 2),
        number(6, 2),
        number(8, 2),
        number(10, 2),
        number(12, 2),
        0,
    );
    let time = time.and_then(|time| time.to_zoned(TimeZone::UTC));
    Ok(time.map_err(|_| wrong())?.timestamp().into())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn line(text: &str) -> Result<Options, String> {
        Line::parse(text).map(|line| line.options)
    }

    #[test]
    fn lines_are_read_as_sshd_reads_them() {
        let all = Options::none();
        let none = Caps {
            pty: false,
            port_forwarding: false,
            agent_forwarding: false,
            x11_forwarding: false,
            force_command: None,
        };
        let with = |caps| Options {
            caps,
            ..Options::none()
        };
        for (options, expected) in [
            ("", all.clone()),
            ("pty ", all.clone()),
            (
                "no-pty,No-X11-Forwarding ",
                with(Caps {
                    pty: false,
                    x11_forwarding: false,
                    ..Caps::all()
                }),
            ),
            ("restrict ", with(none.clone())),
            (
                "restrict,pty,permit-port-forwarding\t",
                with(Caps {
                    pty: true,
                    port_forwarding: true,
                    ..none.clone()
                }),
            ),
            ("pty,restrict ", with(none.clone())),
            (
                r#"command="say \"hi, you\" \n",restrict "#,
                with(Caps {
                    force_command: Some(r#"say "hi, you" \n"#.to_owned()),
                    ..none
                }),
            ),
            (
                r#"from="10.0.0.0/8,!10.1.1.1" "#,
                Options {
                    sources: Some(Sources::parse("10.0.0.0/8,!10.1.1.1").unwrap()),
                    ..all.clone()
                },
            ),
            (
                r#"expiry-time="19700102",expiry-time="19700101000130Z" "#,
                Options {
                    expires: Some(UNIX_EPOCH + Duration::from_secs(90)),
                    ..all.clone()
                },
            ),
            ("no-user-rc,user-rc ", all),
        ] {
            for comment in ["", " alice", " alice # \"and\" others"] {
                let text = format!("{options}{ED25519}{comment}");
                assert_eq!(line(&text), Ok(expected.clone()), "{text}");
            }
        }
    }

    #[test]
    fn a_line_with_anything_unknown_is_disabled() {
        for (options, part) in [
            ("cert-authority", "`cert-authority` is unknown"),
            (r#"principals="alice""#, "`principals` is unknown"),
            (r#"environment="A=b""#, "`environment` is unknown"),
            (r#"permitopen="a:1""#, "`permitopen` is unknown"),
            (r#"permitlisten="1""#, "`permitlisten` is unknown"),
            (r#"tunnel="0""#, "`tunnel` is unknown"),
            ("verify-required", "`verify-required` is unknown"),
            ("no-touch-required", "`no-touch-required` is unknown"),
            ("permit-restrict", "`permit-restrict` is unknown"),
            ("no-permit-pty", "`no-permit-pty` is unknown"),
            ("pty=\"yes\"", "`pty` is unknown or wrong"),
            ("from", "`from` is unknown or wrong"),
            (r#"from="*.example.com""#, "`*.example.com` is no address"),
            (r#"from="10.0.0.1",from="10.0.0.2""#, "`from` twice"),
            (r#"command="""#, "`command` is unknown or wrong"),
            (r#"command="a",command="b""#, "`command` twice"),
            ("command=id", "a value without quotes"),
            (r#"command="id"#, "no closing quote"),
            (r#"command="id\"#, "no closing quote"),
            (r#"command="id"pty"#, "something between `command`"),
            (",pty", "an option without a name"),
            ("pty,,pty", "an option without a name"),
            ("pty,", "a comma with no option"),
            ("=\"x\"", "an option without a name"),
            (r#"expiry-time="""#, "is no time"),
            (r#"expiry-time="2026""#, "is no time"),
            (r#"expiry-time="20261301""#, "is no time"),
            (r#"expiry-time="202601012500""#, "is no time"),
            (r#"expiry-time="+1w""#, "is no time"),
            ("\u{1b}[2J", "`\\u{1b}[2j` is unknown"),
            ("pty pty", "it is no public key"),
        ] {
            let text = format!("{options} {ED25519}");
            let error = line(&text).expect_err(&text);
            assert!(error.contains(part), "{text}: {error}");
        }
        for text in [
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ",
            "pty",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
        ] {
            line(text).expect_err(text);
        }
    }

    #[test]
    fn the_first_line_without_objection_counts() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let source = "10.0.0.1".parse().unwrap();
        let options = |text: &str| Options::parse(text).unwrap();
        let expired = options(r#"expiry-time="19700101""#);
        let elsewhere = options(r#"from="192.0.2.1""#);
        let restricted = options("restrict");
        let all = [expired.clone(), elsewhere.clone(), restricted.clone()];
        assert_eq!(Options::first_of(&all, source, now), Ok(&restricted));
        assert_eq!(
            Options::first_of(&all[..2], source, now),
            Err(Refusal::Source)
        );
        assert_eq!(
            Options::first_of(&all[..1], source, now),
            Err(Refusal::Expired)
        );
        // the moment itself is too late
        let end = UNIX_EPOCH + Duration::from_secs(90);
        let until = options(r#"expiry-time="19700101000130""#);
        assert_eq!(until.check(source, end), Err(Refusal::Expired));
        assert_eq!(until.check(source, end - Duration::from_nanos(1)), Ok(()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_lines_or_errors(bytes: Vec<u8>, text in "([a-z-]{0,9}(=\"?[^\"]{0,9}\"?)?,?){0,4} ?(ssh-ed25519 )?[A-Za-z0-9+/=]{0,80}") {
            for bytes in [&bytes[..], text.as_bytes()] {
                let mut disabled = Vec::new();
                let mut keys = Keys::default();
                keys.add("alice", Path::new("alice.keys"), bytes, &mut disabled);
                prop_assert!(disabled.iter().all(|line| !line.to_string().contains('\n')));
                prop_assert!(keys.by_fingerprint.len() + disabled.len() <= bytes.split(|b| *b == b'\n').count());
            }
        }

        #[test]
        fn any_options_are_read_or_refused(text in "\\PC{0,60}|(([a-zA-Z0-9-]{1,12}|from|command|expiry-time|pty|restrict)(=\"[0-9./,!]{0,9}\")?,?){0,4}") {
            if let Ok(options) = Options::parse(&text) {
                // nothing was passed over
                let text = text.to_ascii_lowercase();
                prop_assert_eq!(options.caps.force_command.is_some(), text.contains("command="));
                prop_assert_eq!(options.sources.is_some(), text.contains("from="));
                prop_assert_eq!(options.expires.is_some(), text.contains("expiry-time="));
            }
        }

        #[test]
        fn a_value_is_found_again(value in "[^\\x00]{1,40}") {
            prop_assume!(!value.ends_with('\\') && !value.contains("\\\""));
            let text = format!("pty,command=\"{}\",restrict", value.replace('"', "\\\""));
            let options = Options::parse(&text).unwrap();
            prop_assert_eq!(options.caps.force_command, Some(value));
            let line = format!("{text} {ED25519}");
            prop_assert_eq!(end_of_options(&line), text.len());
        }
    }
}
