//! What is good no more: keys, authorities and certificates.
//!
//! The file is written as `ssh-keygen -k` takes it, so that one file serves sshd (as a KRL made of it) and this:
//!
//! ```text
//! # a key or an authority, whoever has it
//! SHA256:jfC0yQMIcNWIcxLwfEMmqZqkLNDrfwQ14Y7rRtNkZbc
//! sha256: SHA256:jfC0yQMIcNWIcxLwfEMmqZqkLNDrfwQ14Y7rRtNkZbc
//! ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI… alice's laptop
//! key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI…
//! # certificates, of all authorities
//! serial: 17
//! serial: 100-199
//! id: alice@corp laptop
//! # and from here on of this authority only, which ssh-keygen does not know
//! ca: SHA256:2oXIlUoh1tGRxvLMKTe7e8JZJNBPUGNcxsYwTmC5aRA
//! serial: 1-10
//! ```

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::path::Path;

use russh::keys::ssh_key::Fingerprint;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Certificate, HashAlg, PublicKey};

use super::{Error, file};
use crate::untrusted::printable;

/// What the file is called in errors.
const WHAT: &str = "revocations";

/// What a binary key revocation list begins with.
const KRL: &[u8] = b"SSHKRL\n\0";

/// All that is revoked.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    /// Of keys and authorities.
    fingerprints: HashSet<Fingerprint>,
    /// Of all authorities.
    certificates: Certificates,
    /// Of one.
    of: HashMap<Fingerprint, Certificates>,
}

/// Certificates by what is written in them.
#[derive(Debug, Default)]
struct Certificates {
    serials: Vec<RangeInclusive<u64>>,
    ids: HashSet<String>,
}

impl Certificates {
    fn have(&self, serial: u64, id: &str) -> bool {
        self.serials.iter().any(|range| range.contains(&serial)) || self.ids.contains(id)
    }
}

impl Revoked {
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let wrong = |line, reason| Error::Line {
            what: WHAT,
            path: path.to_owned(),
            line,
            reason,
        };
        let bytes = file::read(WHAT, path)?;
        if bytes.starts_with(KRL) {
            let reason =
                "this is a binary KRL: give the text that it was made of by `ssh-keygen -k`";
            return Err(wrong(1, reason.to_owned()));
        }
        Self::parse(&bytes).map_err(|(line, reason)| wrong(line, reason))
    }

    /// Everything or nothing: a line that was passed over could be the one that matters.
    fn parse(bytes: &[u8]) -> Result<Self, (usize, String)> {
        let mut revoked = Self::default();
        let mut authority = None;
        for (number, line) in file::lines(bytes) {
            line.map_err(str::to_owned)
                .and_then(|line| revoked.add(line, &mut authority))
                .map_err(|reason| (number, reason))?;
        }
        Ok(revoked)
    }

    fn add(&mut self, line: &str, authority: &mut Option<Fingerprint>) -> Result<(), String> {
        let (name, value) = match line.split_once(':') {
            // a fingerprint has a colon of its own
            Some((name, _)) if name.eq_ignore_ascii_case("sha256") && !line.contains(' ') => {
                ("sha256", line)
            }
            Some((name, value)) if !name.contains([' ', '\t']) => (name, value.trim()),
            _ => ("key", line),
        };
        match &name.to_ascii_lowercase()[..] {
            "serial" => self.list(*authority).serials.push(serials(value)?),
            "id" if !value.is_empty() => {
                self.list(*authority).ids.insert(value.to_owned());
            }
            "ca" => *authority = Some(fingerprint(value)?),
            "sha256" => {
                self.fingerprints.insert(fingerprint(value)?);
            }
            "key" => {
                let key = PublicKey::from_openssh(value).map_err(|_| unknown(line))?;
                self.fingerprints.insert(key.fingerprint(HashAlg::Sha256));
            }
            _ => return Err(unknown(line)),
        }
        Ok(())
    }

    /// The certificates of an authority, or of all of them.
    fn list(&mut self, authority: Option<Fingerprint>) -> &mut Certificates {
        match authority {
            Some(authority) => self.of.entry(authority).or_default(),
            None => &mut self.certificates,
        }
    }

    /// Whether the key is revoked.
    pub(super) fn key(&self, key: &KeyData) -> bool {
        self.fingerprints
            .contains(&key.fingerprint(HashAlg::Sha256))
    }

    /// The same by a `SHA256:…`.
    pub(super) fn fingerprint(&self, fingerprint: &str) -> bool {
        let fingerprint = fingerprint.parse();
        fingerprint.is_ok_and(|fingerprint| self.fingerprints.contains(&fingerprint))
    }

    /// Whether the authority's certificate of this serial number and id is.
    pub(super) fn issued(&self, authority: &str, serial: u64, id: &str) -> bool {
        let of = authority.parse().ok();
        let of = of.and_then(|authority: Fingerprint| self.of.get(&authority));
        let lists = of.into_iter().chain([&self.certificates]);
        lists.into_iter().any(|list| list.have(serial, id))
    }

    /// Whether anything about the certificate is: its key, its authority, its number, its id.
    pub(super) fn certificate(&self, certificate: &Certificate) -> bool {
        let authority = certificate.signature_key();
        self.key(certificate.public_key())
            || self.key(authority)
            || self.issued(
                &authority.fingerprint(HashAlg::Sha256).to_string(),
                certificate.serial(),
                certificate.key_id(),
            )
    }
}

fn fingerprint(text: &str) -> Result<Fingerprint, String> {
    let fingerprint: Result<Fingerprint, _> = text.parse();
    fingerprint
        .ok()
        .filter(|fingerprint| fingerprint.is_sha256())
        .ok_or_else(|| {
            format!(
                "`{}` is no fingerprint: it is `SHA256:` and 43 characters, as `ssh-keygen -l` prints it",
                printable(text, 80)
            )
        })
}

fn serials(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    // as ssh-keygen: `0x` before a hexadecimal number
    let number = |text: &str| match text.trim().strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.trim().parse().ok(),
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(format!(
            "`{}` is no serial number and no range: write 17 or 100-199",
            printable(text, 80)
        )),
    }
}

fn unknown(line: &str) -> String {
    format!(
        "`{}` is nothing that can be revoked: a line is `SHA256:…`, a public key, `serial: 1-9`, `id: KEY-ID` or `ca: SHA256:…`",
        printable(line, 80)
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const CA: &str = "SHA256:2oXIlUoh1tGRxvLMKTe7e8JZJNBPUGNcxsYwTmC5aRA";
    const OTHER: &str = "SHA256:jfC0yQMIcNWIcxLwfEMmqZqkLNDrfwQ14Y7rRtNkZbc";

    fn parse(text: &str) -> Revoked {
        Revoked::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn keys_are_revoked_by_what_they_are_or_by_their_fingerprints() {
        let key: PublicKey = KEY.parse().unwrap();
        let print = key.fingerprint(HashAlg::Sha256).to_string();
        for text in [
            KEY.to_owned(),
            format!("# alice\n\n  {KEY} alice's: laptop\r\n"),
            format!("key: {KEY}"),
            print.clone(),
            format!("sha256: {print}"),
            format!("SHA256: {print}"),
        ] {
            let revoked = parse(&text);
            assert!(revoked.key(key.key_data()), "{text}");
            assert!(revoked.fingerprint(&print), "{text}");
            assert!(!revoked.fingerprint(CA), "{text}");
        }
        assert!(!parse("").key(key.key_data()));
    }

    #[test]
    fn certificates_are_revoked_by_their_numbers_and_ids() {
        let text = format!(
            "serial: 17\nserial: 100-199\nserial: 0xffffffffffffffff\nid: alice@corp laptop\nca: {CA}\nserial: 1-3\nid: bob"
        );
        let revoked = parse(&text);
        for (authority, serial, id, expected) in [
            (OTHER, 17, "", true),
            (OTHER, 100, "", true),
            (CA, 199, "", true),
            (OTHER, 200, "", false),
            (OTHER, u64::MAX, "", true),
            (OTHER, 0, "alice@corp laptop", true),
            (OTHER, 0, "alice@corp", false),
            (CA, 2, "", true),
            (OTHER, 2, "", false),
            (CA, 0, "bob", true),
            (OTHER, 0, "bob", false),
        ] {
            let found = revoked.issued(authority, serial, id);
            assert_eq!(found, expected, "{authority} {serial} {id}");
        }
    }

    #[test]
    fn one_line_that_makes_no_sense_spoils_it_all() {
        for (text, line, part) in [
            (
                "serial: 1\nserials: 2",
                2,
                "`serials: 2` is nothing that can",
            ),
            ("serial: 9-1", 1, "is no serial number"),
            ("serial: -1", 1, "is no serial number"),
            ("serial: 99999999999999999999", 1, "is no serial number"),
            ("\n#\nalice", 3, "`alice` is nothing that can"),
            ("id:", 1, "is nothing that can"),
            ("SHA256:abc", 1, "is no fingerprint"),
            ("ca: alice", 1, "is no fingerprint"),
            ("ssh-ed25519 AAAA", 1, "is nothing that can"),
            ("\u{1b}[2J", 1, "`\\u{1b}[2J` is nothing"),
        ] {
            let (at, reason) = Revoked::parse(text.as_bytes()).unwrap_err();
            assert_eq!(at, line, "{text}");
            assert!(reason.contains(part), "{text}: {reason}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("krl");
        std::fs::write(&path, b"SSHKRL\n\0\0\0\0\x01").unwrap();
        let error = Revoked::read(&path).unwrap_err().to_string();
        assert!(error.contains("binary KRL"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, text in "((serial|id|ca|key|sha256): ?[0-9a-fx-]{0,9}\n?){0,4}") {
            for bytes in [&bytes[..], text.as_bytes()] {
                if let Err((line, reason)) = Revoked::parse(bytes) {
                    prop_assert!(line <= bytes.split(|byte| *byte == b'\n').count());
                    prop_assert!(!reason.contains('\n'));
                }
            }
        }
    }
}
