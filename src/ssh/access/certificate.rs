//! Everything that an OpenSSH user certificate must be before its holder is somebody (`PROTOCOL.certkeys`; sshd's
//! `sshkey_cert_check_authority` and `auth2-pubkey.c`).
//!
//! russh 0.65 looks at the time and whether the certificate is signed by the key that it names itself; that this key
//! is known, and all of the rest, is left to its user.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use russh::keys::ssh_key::Algorithm;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Certificate, HashAlg, PublicKey};

use super::{AuthoritySettings, Caps, Error, Refusal, Sources, file, is_name, is_person, key};
use crate::untrusted::printable;

/// Our own extension: groups, with commas between them.
const GROUPS: &str = "kpf-groups@kpf.dev";

/// Groups of one certificate. Each becomes a header of every request.
const MOST_GROUPS: usize = 64;

/// Whose certificates are taken.
#[derive(Clone, Debug)]
pub(super) struct Authority {
    key: KeyData,
    principal_prefix: String,
    may_set_groups: bool,
}

impl Authority {
    /// Reads the public keys of a file.
    pub(super) fn read(settings: &AuthoritySettings) -> Result<Vec<Self>, Error> {
        const WHAT: &str = "authority";
        let path = &settings.file;
        let wrong = |line, reason| Error::Line {
            what: WHAT,
            path: path.clone(),
            line,
            reason,
        };
        let bytes = file::read(WHAT, path)?;
        let mut authorities = Vec::new();
        for (number, line) in file::lines(&bytes) {
            let line = line.map_err(|reason| wrong(number, reason.to_owned()))?;
            if line.contains("PRIVATE KEY") {
                let reason = "this is a private key, which a gateway must not have: give the public one (`ssh-keygen -y -f FILE`), and keep this one where certificates are signed";
                return Err(wrong(number, reason.to_owned()));
            }
            let key = PublicKey::from_openssh(line).map_err(|_| {
                let reason = "it is no public key: a line is `TYPE BASE64 COMMENT`, as `ssh-keygen` writes it to a file with `.pub`";
                wrong(number, reason.to_owned())
            })?;
            if !key::may_certify(key.key_data()) {
                let reason = format!(
                    "authorities with such a key are not taken: they may have {}, and ECDSA on P-521",
                    key::ALLOWED
                );
                return Err(wrong(number, reason));
            }
            authorities.push(Self {
                key: key.key_data().clone(),
                principal_prefix: settings.principal_prefix.clone(),
                may_set_groups: settings.may_set_groups,
            });
        }
        match authorities.is_empty() {
            true => Err(wrong(1, "it has no public key".to_owned())),
            false => Ok(authorities),
        }
    }

    pub(super) fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }
}

/// Who holds a certificate, and what it allows.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) user: String,
    pub(super) groups: Vec<String>,
    pub(super) caps: Caps,
    pub(super) expires: SystemTime,
}

/// Whether all of it is as it must be, but for revocations.
pub(super) fn check(
    certificate: &Certificate,
    authorities: &[Authority],
    longest: Duration,
    source: IpAddr,
    now: SystemTime,
) -> Result<Holder, Refusal> {
    if certificate.cert_type() != CertType::User {
        return Err(Refusal::NotAUsers);
    }
    let authority = authorities
        .iter()
        .find(|authority| authority.key == *certificate.signature_key())
        .ok_or(Refusal::AuthorityUnknown)?;
    // An RSA authority may still sign with SHA-1.
    if let Algorithm::Rsa { hash: None } = certificate.signature().algorithm() {
        return Err(Refusal::AuthorityAlgorithm);
    }
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (begin, end) = (certificate.valid_after(), certificate.valid_before());
    // The time is the certificate's own here, so that only the signature can be what is wrong.
    certificate
        .validate_at(
            begin,
            [&certificate.signature_key().fingerprint(HashAlg::Sha256)],
        )
        .map_err(|_| match begin < end {
            true => Refusal::Signature,
            false => Refusal::Expired,
        })?;
    if !key::is_allowed(certificate.public_key()) {
        return Err(Refusal::KeyAlgorithm);
    }
    if now < begin {
        return Err(Refusal::NotYetValid);
    }
    if end <= now {
        return Err(Refusal::Expired);
    }
    if end - begin > longest.as_secs() {
        return Err(Refusal::Lifetime);
    }
    let user = user(certificate.valid_principals(), &authority.principal_prefix)?;
    let mut caps = caps(certificate);
    restrictions(certificate, source, &mut caps)?;
    Ok(Holder {
        user,
        groups: match authority.may_set_groups {
            true => groups(certificate)?,
            false => Vec::new(),
        },
        caps,
        // it ends within `longest` from a time that was, so this can't be too far away
        expires: UNIX_EPOCH
            .checked_add(Duration::from_secs(end))
            .ok_or(Refusal::Lifetime)?,
    })
}

/// The one principal that is somebody.
fn user(principals: &[String], prefix: &str) -> Result<String, Refusal> {
    if principals.is_empty() {
        return Err(Refusal::NoPrincipals);
    }
    // One that could be read as several is one too many, whoever the others are (CVE-2026-35414).
    if !principals.iter().all(|principal| is_person(principal)) {
        return Err(Refusal::Principal);
    }
    let mut users = principals
        .iter()
        .filter_map(|principal| principal.strip_prefix(prefix));
    match (users.next(), users.next()) {
        (Some(user), None) if is_person(user) => Ok(user.to_owned()),
        (Some(_), None) => Err(Refusal::Principal),
        (None, _) => Err(Refusal::NoUser),
        (Some(_), Some(_)) => Err(Refusal::SeveralUsers),
    }
}

/// What the extensions permit: nothing that isn't there. Others are ignored, as they have to be.
fn caps(certificate: &Certificate) -> Caps {
    let has = |name: &str| certificate.extensions().contains_key(name);
    Caps {
        pty: has("permit-pty"),
        port_forwarding: has("permit-port-forwarding"),
        agent_forwarding: has("permit-agent-forwarding"),
        x11_forwarding: has("permit-X11-forwarding"),
        force_command: None,
    }
}

/// Heeds the critical options. One that can't be heeded refuses; `verify-required` is one of those, because russh
/// doesn't tell whether a security key was touched.
fn restrictions(certificate: &Certificate, source: IpAddr, caps: &mut Caps) -> Result<(), Refusal> {
    for (name, value) in certificate.critical_options().iter() {
        let wrong = || Refusal::CriticalOption(printable(name, 80));
        match &name[..] {
            "source-address" => {
                let sources = Sources::parse_plain(value).map_err(|_| wrong())?;
                if !sources.have(source) {
                    return Err(Refusal::Source);
                }
            }
            "force-command" if !value.is_empty() && !value.contains('\0') => {
                caps.force_command = Some(value.clone());
            }
            _ => return Err(wrong()),
        }
    }
    Ok(())
}

fn groups(certificate: &Certificate) -> Result<Vec<String>, Refusal> {
    let Some(list) = certificate.extensions().get(GROUPS) else {
        return Ok(Vec::new());
    };
    let groups: Vec<String> = list.split(',').map(str::to_owned).collect();
    let is_group = |group: &String| is_name(group) && is_person(group);
    match groups.len() <= MOST_GROUPS && groups.iter().all(is_group) {
        true => Ok(groups),
        false => Err(Refusal::Groups),
    }
}
