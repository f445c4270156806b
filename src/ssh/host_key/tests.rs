use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use russh::keys::ssh_key::certificate::Builder;

use super::*;

fn now() -> SystemTime {
    SystemTime::now()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn store(folder: &tempfile::TempDir) -> (Store, PathBuf) {
    let path = folder.path().join("state").join("host_key");
    (Store::File(path.clone()), path)
}

/// A certificate of `key` from a fresh authority, valid from 1000 to 2000.
fn certificate(key: &PrivateKey, change: impl FnOnce(&mut Builder)) -> Certificate {
    let mut builder = Builder::new([7; 16], key.public_key().clone(), 1000, 2000).unwrap();
    builder.key_id("gw").unwrap();
    change(&mut builder);
    builder.sign(&fresh().unwrap()).unwrap()
}

fn host(builder: &mut Builder) {
    builder.cert_type(CertType::Host).unwrap();
    builder.valid_principal("gw.example").unwrap();
}

fn put(path: &Path, certificates: &[Certificate]) {
    let text = text::write_certificates(certificates).unwrap();
    fs::write(format!("{}-cert.pub", path.display()), text).unwrap();
}

#[tokio::test]
async fn it_is_made_once_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (store, path) = store(&folder);
    assert!(matches!(
        store.load(now()).await,
        Err(Error::Missing { .. })
    ));
    let made = store.load_or_make(now()).await.unwrap();
    let kept = store.load_or_make(now()).await.unwrap();
    assert_eq!(made.fingerprints(), kept.fingerprints());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    // OpenSSH reads it.
    let output = Command::new("ssh-keygen").arg("-lf").arg(&path).output();
    let shown = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(shown.contains(&made.fingerprints()[0]), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_get_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (store, path) = store(&folder);
    let all: Vec<_> = (0..32)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.load_or_make(now()).await.unwrap().fingerprints() })
        })
        .collect();
    let mut seen = std::collections::HashSet::new();
    for one in all {
        seen.insert(one.await.unwrap());
    }
    assert_eq!(seen.len(), 1);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[tokio::test]
async fn what_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (store, path) = store(&folder);
    store.load_or_make(now()).await.unwrap();
    for mode in [0o644, 0o640, 0o604, 0o660] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = store.load_or_make(now()).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("mode {mode:04o}")), "{text}");
        assert!(text.contains("chmod 600"), "{text}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    store.load_or_make(now()).await.unwrap();
}

#[tokio::test]
async fn what_is_no_key_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (store, path) = store(&folder);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let keygen = |arguments: &[&str]| {
        let _ = fs::remove_file(&path);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-f"])
            .arg(&path)
            .args(arguments)
            .status();
        assert!(made.unwrap().success());
    };
    let wrong = async || match store.load_or_make(now()).await {
        Err(Error::Unusable { wrong, place }) => {
            assert!(place.contains("host_key"), "{place}");
            wrong
        }
        other => panic!("{other:?}"),
    };
    for (text, expected) in [
        ("", Wrong::NoKey),
        ("hello", Wrong::NotAKey),
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----",
            Wrong::NotAKey,
        ),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----",
            Wrong::NotAKey,
        ),
    ] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(wrong().await, expected, "{text}");
    }
    keygen(&["-t", "ed25519", "-N", "secret"]);
    assert_eq!(wrong().await, Wrong::Encrypted);
    keygen(&["-t", "rsa", "-b", "2048", "-N", ""]);
    assert!(matches!(wrong().await, Wrong::Kind(_)));
    keygen(&["-t", "ecdsa", "-N", ""]);
    store.load_or_make(now()).await.unwrap();
}

#[tokio::test]
async fn a_rotation_has_two_steps() {
    let folder = tempfile::tempdir().unwrap();
    let (store, path) = store(&folder);
    let first = store.load_or_make(now()).await.unwrap();
    let error = store.drop_old(now()).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Unusable {
                wrong: Wrong::NothingOld,
                ..
            }
        ),
        "{error}"
    );
    put(&path, &[certificate(&first.keys()[0], host)]);

    let both = store.rotate(at(1500)).await.unwrap();
    assert_eq!(both.keys().len(), 2);
    assert_eq!(both.fingerprints()[0], first.fingerprints()[0]);
    assert_eq!(both.certificates().len(), 1);
    let error = store.rotate(at(1500)).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Unusable {
                wrong: Wrong::Rotating,
                ..
            }
        ),
        "{error}"
    );
    put(
        &path,
        &[0, 1].map(|number: usize| certificate(&both.keys()[number], host)),
    );
    let both = store.load(at(1500)).await.unwrap();
    assert_eq!(
        both.certificates()[0].public_key(),
        both.keys()[1].public_key().key_data(),
        "the newest key's certificate is the one that is served"
    );
    assert_eq!(
        both.known_hosts("gw", 22)
            .matches("\ngw ssh-ed25519 ")
            .count(),
        2
    );

    let last = store.drop_old(at(1500)).await.unwrap();
    assert_eq!(last.fingerprints(), [both.fingerprints()[1].clone()]);
    assert_eq!(last.certificates().len(), 1);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2);
}

#[tokio::test]
async fn a_certificate_must_fit() {
    let folder = tempfile::tempdir().unwrap();
    let (store, path) = store(&folder);
    let keys = store.load_or_make(now()).await.unwrap();
    let key = &keys.keys()[0];
    let wrong = async |certificate: &Certificate, now| {
        put(&path, std::slice::from_ref(certificate));
        match store.load(at(now)).await {
            Err(Error::Unusable { wrong, .. }) => Some(wrong),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        }
    };
    let good = certificate(key, host);
    assert_eq!(wrong(&good, 1500).await, None);
    assert_eq!(wrong(&good, 1000).await, None);
    assert_eq!(wrong(&good, 999).await, Some(Wrong::Expired("gw".into())));
    assert_eq!(wrong(&good, 2000).await, Some(Wrong::Expired("gw".into())));
    let user = certificate(key, |builder| {
        builder.cert_type(CertType::User).unwrap();
        builder.valid_principal("gw.example").unwrap();
    });
    assert_eq!(
        wrong(&user, 1500).await,
        Some(Wrong::UserCertificate("gw".into()))
    );
    let other = certificate(&fresh().unwrap(), host);
    assert_eq!(
        wrong(&other, 1500).await,
        Some(Wrong::OtherKey("gw".into()))
    );
    let mut bytes = good.to_bytes().unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    // ssh-key may already refuse to read it
    if let Ok(forged) = Certificate::from_bytes(&bytes) {
        assert_eq!(
            wrong(&forged, 1500).await,
            Some(Wrong::Signature("gw".into()))
        );
    }
    fs::write(
        format!("{}-cert.pub", path.display()),
        "# mine\n\nssh-ed25519 x\n",
    )
    .unwrap();
    let error = store.load(at(1500)).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Unusable {
                wrong: Wrong::NotACertificate(3),
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_published_is_what_openssh_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (store, path) = store(&folder);
    let key = store.load_or_make(now()).await.unwrap().keys()[0].clone();
    put(&path, &[certificate(&key, host)]);
    let keys = store.load(at(1500)).await.unwrap();
    assert_eq!(keys.expires(), Some(at(2000)));

    let known = folder.path().join("known_hosts");
    fs::write(&known, keys.known_hosts("gw.example", 2222)).unwrap();
    let found = Command::new("ssh-keygen")
        .args(["-F", "[gw.example]:2222", "-l", "-f"])
        .arg(&known)
        .output()
        .unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    assert!(found.contains(&keys.fingerprints()[0]), "{found}");
    assert!(found.contains("CA"), "{found}");

    let public = folder.path().join("host_key.pub");
    fs::write(&public, keys.public_lines()).unwrap();
    let records = Command::new("ssh-keygen")
        .args(["-r", "gw.example", "-f"])
        .arg(&public)
        .output()
        .unwrap();
    let records = String::from_utf8(records.stdout).unwrap();
    assert!(
        records.contains(keys.sshfp("gw.example").trim()),
        "{records}"
    );
}

#[test]
fn nothing_secret_is_shown() {
    let keys = HostKeys::fresh().unwrap();
    let private = text::write(&keys.keys).unwrap();
    let shown = format!("{keys:?} {:?}", Store::File("x".into()));
    for line in private.lines().filter(|line| line.len() > 20) {
        assert!(!shown.contains(line), "{shown}");
    }
    let seed = keys.keys[0]
        .key_data()
        .ed25519()
        .unwrap()
        .private
        .to_bytes();
    assert!(!shown.contains(&format!("{seed:?}")), "{shown}");
}
