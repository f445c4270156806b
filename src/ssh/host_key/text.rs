//! The texts that a store holds.

use russh::keys::ssh_key::{self, LineEnding};
use russh::keys::{Algorithm, Certificate, PrivateKey};

use super::Wrong;

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";

/// All keys of `text`, at least one.
pub(super) fn keys(text: &str) -> Result<Vec<PrivateKey>, Wrong> {
    let mut keys = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(END).map(|at| at + END.len());
        let (pem, after) = end
            .and_then(|end| rest.split_at_checked(end))
            .filter(|(pem, _)| pem.starts_with(BEGIN))
            .ok_or(Wrong::NotAKey)?;
        let key = PrivateKey::from_openssh(pem).map_err(|_| Wrong::NotAKey)?;
        if key.is_encrypted() {
            return Err(Wrong::Encrypted);
        }
        match key.algorithm() {
            Algorithm::Ed25519 | Algorithm::Ecdsa { .. } => keys.push(key),
            other => return Err(Wrong::Kind(other.to_string())),
        }
        rest = after.trim_start();
    }
    match keys.is_empty() {
        true => Err(Wrong::NoKey),
        false => Ok(keys),
    }
}

/// One certificate a line; empty lines and comments don't count.
pub(super) fn certificates(text: &str) -> Result<Vec<Certificate>, Wrong> {
    text.lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            Certificate::from_openssh(line).map_err(|_| Wrong::NotACertificate(number))
        })
        .collect()
}

pub(super) fn write(keys: &[PrivateKey]) -> Result<String, ssh_key::Error> {
    keys.iter().try_fold(String::new(), |text, key| {
        Ok(text + &key.to_openssh(LineEnding::LF)?)
    })
}

pub(super) fn write_certificates(certificates: &[Certificate]) -> Result<String, ssh_key::Error> {
    certificates
        .iter()
        .try_fold(String::new(), |text, certificate| {
            Ok(text + &certificate.to_openssh()? + "\n")
        })
}
