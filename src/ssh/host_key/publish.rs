//! What users are given, so that they know the gateway when they see it.

use std::fmt::Write as _;

use russh::keys::{Algorithm, HashAlg, PublicKey};

use super::HostKeys;

/// The port that known_hosts doesn't name.
const SSH_PORT: u16 = 22;

impl HostKeys {
    /// `SHA256:…` of each key, as `ssh` shows it when it meets a host for the first time.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        self.public_keys()
            .map(|key| key.fingerprint(HashAlg::Sha256).to_string())
            .collect()
    }

    /// The public keys, one a line: what an authority signs.
    #[must_use]
    pub fn public_lines(&self) -> String {
        self.public_keys()
            .filter_map(|key| key.to_openssh().ok())
            .fold(String::new(), |text, line| text + line.trim_end() + "\n")
    }

    /// Lines for `known_hosts`: every key for `host` at `port`; and, if there are certificates, their authorities.
    #[must_use]
    pub fn known_hosts(&self, host: &str, port: u16) -> String {
        let name = match port {
            SSH_PORT => host.to_owned(),
            _ => format!("[{host}]:{port}"),
        };
        let mut text = String::new();
        let mut authorities: Vec<String> = self
            .certificates
            .iter()
            .filter_map(|it| {
                PublicKey::from(it.signature_key().clone())
                    .to_openssh()
                    .ok()
            })
            .collect();
        authorities.dedup();
        for authority in authorities {
            let _ = writeln!(text, "@cert-authority {name} {}", authority.trim_end());
        }
        for line in self.public_lines().lines() {
            let _ = writeln!(text, "{name} {line}");
        }
        text
    }

    /// SSHFP records (RFC 4255) of `host`, for `VerifyHostKeyDNS`.
    #[must_use]
    pub fn sshfp(&self, host: &str) -> String {
        let mut text = String::new();
        for key in self.public_keys() {
            let algorithm = match key.algorithm() {
                Algorithm::Ecdsa { .. } => 3, // RFC 6594
                Algorithm::Ed25519 => 4,      // RFC 7479
                _ => continue,
            };
            let fingerprint = key.fingerprint(HashAlg::Sha256);
            let hex = fingerprint
                .as_bytes()
                .iter()
                .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
            let _ = writeln!(text, "{host} IN SSHFP {algorithm} 2 {hex}");
        }
        text
    }

    fn public_keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.keys.iter().map(|key| key.public_key())
    }
}
