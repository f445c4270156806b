use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use russh::keys::key::safe_rng;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKey};

use super::*;
use crate::ssh::access::Caps;

fn authority() -> (Authority, PrivateKey) {
    let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
    (Authority::new(Arc::new(key.clone())), key)
}

fn issue(login: &str, user: &str, caps: &Caps, now: SystemTime) -> Result<Certificate, NotIssued> {
    let subject = Subject {
        login,
        user,
        session: "5e55",
        caps,
    };
    let Credential::Certificate {
        key, certificate, ..
    } = authority().0.issue(subject, now)?
    else {
        panic!("a certificate");
    };
    assert_eq!(certificate.public_key(), key.public_key().key_data());
    Ok(*certificate)
}

#[test]
fn a_certificate_is_for_one_login_of_one_session() {
    let (authority, key) = authority();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let subject = Subject {
        login: "root",
        user: "alice",
        session: "5e55",
        caps: &Caps::all(),
    };
    let Credential::Certificate { certificate, .. } = authority.issue(subject, now).unwrap() else {
        panic!("a certificate");
    };
    assert_eq!(certificate.cert_type(), CertType::User);
    assert_eq!(certificate.valid_principals(), ["root"]);
    assert_eq!(certificate.key_id(), "kpf:alice:5e55");
    assert_eq!(certificate.valid_after(), 1_000_000 - 60);
    assert_eq!(certificate.valid_before(), 1_000_000 + 600);
    let authority = key.fingerprint(HashAlg::Sha256);
    certificate.validate_at(1_000_599, [&authority]).unwrap();
    assert!(certificate.validate_at(1_000_600, [&authority]).is_err());
    let again = issue("root", "alice", &Caps::all(), now).unwrap();
    assert_ne!(again.public_key(), certificate.public_key(), "a fresh key");
    assert_ne!(again.serial(), certificate.serial());
}

#[test]
fn a_certificate_allows_what_the_users_does() {
    let now = SystemTime::now();
    let extensions = |caps: &Caps| -> Vec<String> {
        let certificate = issue("root", "alice", caps, now).unwrap();
        certificate.extensions().keys().cloned().collect()
    };
    assert_eq!(
        extensions(&Caps::all()),
        [
            "permit-X11-forwarding",
            "permit-agent-forwarding",
            "permit-port-forwarding",
            "permit-pty"
        ]
    );
    let caps = Caps {
        pty: false,
        agent_forwarding: false,
        x11_forwarding: false,
        force_command: Some("id".to_owned()),
        ..Caps::all()
    };
    assert_eq!(extensions(&caps), ["permit-port-forwarding"]);
    let forced = issue("root", "alice", &caps, now).unwrap();
    let options: Vec<_> = forced.critical_options().iter().collect();
    assert_eq!(options, [(&"force-command".to_owned(), &"id".to_owned())]);
}

#[test]
fn names_that_mean_more_than_a_name_are_refused() {
    let now = SystemTime::now();
    for login in [
        "",
        "root,admin",
        "a b",
        "a\n",
        "a:b",
        "../x",
        &"x".repeat(257),
    ] {
        let refused = issue(login, "alice", &Caps::all(), now);
        assert!(matches!(refused, Err(NotIssued::Login(_))), "{login:?}");
    }
    let odd = issue("DOMAIN\\bob", "a\u{1b}[2Jb\nc", &Caps::all(), now).unwrap();
    assert_eq!(odd.key_id(), "kpf:a\\u{1b}[2Jb c:5e55");
}

#[test]
fn openssh_reads_it_as_it_is_meant() {
    let certificate = issue("root", "alice", &Caps::all(), SystemTime::now()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key-cert.pub");
    std::fs::write(&path, certificate.to_openssh().unwrap()).unwrap();
    let shown = Command::new("ssh-keygen").arg("-Lf").arg(&path).output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    for line in ["user certificate", "kpf:alice:5e55", "permit-pty"] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
fn nothing_secret_is_shown() {
    let (authority, key) = authority();
    let secret = key.to_openssh(Default::default()).unwrap();
    let subject = Subject {
        login: "root",
        user: "alice",
        session: "5e55",
        caps: &Caps::all(),
    };
    let credential = authority.issue(subject, SystemTime::now()).unwrap();
    let plain = Credential::Key(Arc::new(key));
    let shown = format!("{authority:?} {credential:?} {plain:?}");
    for line in secret.lines().filter(|line| !line.is_empty()) {
        assert!(!shown.contains(line), "{shown}");
    }
}
