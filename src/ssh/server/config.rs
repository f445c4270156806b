//! How russh is set up. Each line that differs from its defaults has its reason.

use std::borrow::Cow;
use std::time::Duration;

use russh::keys::{Algorithm, Certificate, PrivateKey};
use russh::server::Config;
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};

use crate::ssh::config::Limits;

/// Without a version: who wants to know it has to log in.
const IDENT: &str = "SSH-2.0-kpf";
/// The same for each refusal, so that none of them tells what was looked up; agents with many keys don't feel it.
const REJECTION: Duration = Duration::from_millis(20);
/// What russh's own bounds hang on beside the keepalive: a client that doesn't read, or doesn't close. Never none.
const INACTIVITY: Duration = Duration::from_secs(30);
/// Bytes that a client may send before they are granted anew.
const WINDOW: u32 = 1 << 20;
/// As OpenSSH has it.
const PACKET: u32 = 32 * 1024;

/// Key exchange without finite fields: those cost a server more than they cost who asks for them.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];
const CIPHERS: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::AES_256_CTR,
];
/// Encrypt-then-MAC only.
const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM];
/// zlib would be open to anybody, before they are logged in.
const COMPRESSION: &[compression::Name] = &[compression::NONE];

/// russh's configuration for these host keys.
pub(super) fn config(
    host_keys: Vec<PrivateKey>,
    certificates: Vec<Certificate>,
    limits: &Limits,
) -> Config {
    let mut algorithms: Vec<Algorithm> = host_keys.iter().map(PrivateKey::algorithm).collect();
    // What clients may sign with is announced from the same list; SHA-1 is not in it.
    algorithms.extend(user_key_algorithms());
    algorithms.dedup();
    Config {
        server_id: SshId::Standard(Cow::Borrowed(IDENT)),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REJECTION,
        // The first request of every client is for "none", to learn the methods: russh would let it wait.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: host_keys,
        certificates,
        window_size: WINDOW,
        maximum_packet_size: PACKET,
        max_auth_attempts: limits.failed_logins as usize,
        // Longer than it takes to find out that a client is not there; answers to that count.
        inactivity_timeout: Some(limits.keepalive * (limits.keepalive_misses + 1) + INACTIVITY),
        // russh's would also be sent before the login, which ends OpenSSH clients: see `keepalive`.
        keepalive_interval: None,
        nodelay: true,
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Owned(algorithms),
            cipher: Cow::Borrowed(CIPHERS),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(COMPRESSION),
            ..Preferred::DEFAULT
        },
        ..Config::default()
    }
}

/// What users' keys may sign with.
fn user_key_algorithms() -> Vec<Algorithm> {
    use russh::keys::{EcdsaCurve, HashAlg};
    vec![
        Algorithm::Ed25519,
        Algorithm::SkEd25519,
        Algorithm::Ecdsa {
            curve: EcdsaCurve::NistP256,
        },
        Algorithm::Ecdsa {
            curve: EcdsaCurve::NistP384,
        },
        Algorithm::Rsa {
            hash: Some(HashAlg::Sha512),
        },
        Algorithm::Rsa {
            hash: Some(HashAlg::Sha256),
        },
    ]
}
