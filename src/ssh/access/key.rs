//! Which keys are strong enough, for users and for authorities.

use russh::keys::EcdsaCurve;
use russh::keys::ssh_key::public::KeyData;

/// Bits of an RSA key: fewer are weak (NIST SP 800-57 from 2030 on), and more make a server work hard for whoever asks
/// it to.
const RSA_BITS: std::ops::RangeInclusive<u32> = 3072..=8192;

/// The kinds of keys that users may have, for messages.
pub(super) const ALLOWED: &str =
    "ed25519, sk-ed25519, ECDSA on P-256 and P-384, and RSA of 3072 to 8192 bits";

/// Whether a user may log in by it.
pub(super) fn is_allowed(key: &KeyData) -> bool {
    // By what it is and not by its algorithm: ssh-key takes a certificate for a key, and gives it the key's algorithm.
    match key {
        KeyData::Ed25519(_) | KeyData::SkEd25519(_) => true,
        KeyData::Ecdsa(key) => key.curve() != EcdsaCurve::NistP521,
        KeyData::Rsa(key) => RSA_BITS.contains(&key.key_size()),
        _ => false,
    }
}

/// Whether an authority may sign by it: what OpenSSH's `CASignatureAlgorithms` has, with RSA keys as above.
pub(super) fn may_certify(key: &KeyData) -> bool {
    matches!(key, KeyData::Ecdsa(_) | KeyData::SkEcdsaSha2NistP256(_)) || is_allowed(key)
}
