//! Credentials that ssh-keygen has made, each good or wrong in its own way.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A folder of keys, by the names that they are given.
struct Keygen(TempDir);

impl Keygen {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) {
        let output = Command::new("ssh-keygen")
            .args(arguments)
            .current_dir(&self.0)
            .stdin(Stdio::null())
            .output()
            .expect("ssh-keygen is installed");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {error}");
    }

    /// Makes a key of this kind (`ed25519`, `rsa 3072`).
    fn key(&self, name: &str, kind: &str) {
        let (kind, bits) = kind.split_once(' ').unwrap_or((kind, ""));
        let mut arguments = vec!["-q", "-N", "", "-C", name, "-f", name, "-t", kind];
        if !bits.is_empty() {
            arguments.extend(["-b", bits]);
        }
        self.run(&arguments);
    }

    fn public(&self, name: &str) -> PublicKey {
        let line = fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        PublicKey::from_openssh(&line).unwrap()
    }

    /// A certificate of `authority` for the key `name`.
    fn certify(&self, authority: &str, name: &str, arguments: &[&str]) -> Certificate {
        let public = format!("{name}.pub");
        let mut all = vec!["-q", "-s", authority, "-I", "alice@corp", "-z", "42"];
        all.extend(arguments);
        all.push(&public);
        self.run(&all);
        let line = fs::read_to_string(self.path(&format!("{name}-cert.pub"))).unwrap();
        Certificate::from_openssh(&line).unwrap()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn settings(&self, authority: &str) -> Settings {
        Settings {
            authorities: vec![AuthoritySettings {
                file: self.path(&format!("{authority}.pub")),
                principal_prefix: String::new(),
                may_set_groups: false,
            }],
            longest_certificate: DAY,
            ..Settings::default()
        }
    }
}

fn read(settings: &Settings) -> Access {
    let (access, disabled) = Access::read(settings).unwrap();
    assert_eq!(disabled, []);
    access
}

fn here() -> IpAddr {
    "192.0.2.7".parse().unwrap()
}

fn certificate(access: &Access, certificate: &Certificate) -> Result<Login, Refusal> {
    access.certificate(certificate, here(), SystemTime::now())
}

/// An hour from a minute ago, for alice.
const ALICE: &[&str] = &["-n", "alice", "-V", "-1m:+1h"];

#[test]
fn a_good_certificate_says_who_has_it_and_what_for() {
    let keygen = Keygen::new();
    keygen.key("ca", "ed25519");
    keygen.key("alice", "ed25519");
    let good = keygen.certify("ca", "alice", ALICE);
    let mut settings = keygen.settings("ca");
    settings.groups = [(
        "alice".to_owned(),
        vec!["ml".to_owned(), "system:nodes".to_owned()],
    )]
    .into();
    settings.user_prefix = "ssh:".to_owned();
    let login = certificate(&read(&settings), &good).unwrap();
    let expected = Login {
        identity: Identity {
            user: "ssh:alice".to_owned(),
            groups: vec!["ml".to_owned(), "system:nodes".to_owned()],
        },
        proof: Proof::Certificate {
            fingerprint: keygen
                .public("alice")
                .fingerprint(HashAlg::Sha256)
                .to_string(),
            authority: keygen.public("ca").fingerprint(HashAlg::Sha256).to_string(),
            serial: 42,
            key_id: "alice@corp".to_owned(),
        },
        caps: Caps::all(),
        expires: Some(UNIX_EPOCH + Duration::from_secs(good.valid_before())),
    };
    assert_eq!(login, expected);
}

/// Each is the good one but for what is written here.
#[test]
fn every_certificate_is_refused_for_its_own_reason() {
    let keygen = Keygen::new();
    keygen.key("ca", "ed25519");
    keygen.key("other", "ed25519");
    keygen.key("alice", "ed25519");
    let access = read(&keygen.settings("ca"));
    let hour = ["-V", "-1m:+1h"];
    let long = "a".repeat(129);
    let longest = "a".repeat(128);
    let option = |name: &str| Refusal::CriticalOption(name.to_owned());
    for (what, authority, arguments, expected) in [
        ("good", "ca", &["-n", "alice"][..], None),
        (
            "of another authority",
            "other",
            &["-n", "alice"],
            Some(Refusal::AuthorityUnknown),
        ),
        (
            "signed by its own key",
            "alice",
            &["-n", "alice"],
            Some(Refusal::AuthorityUnknown),
        ),
        (
            "a host's",
            "ca",
            &["-h", "-n", "alice"],
            Some(Refusal::NotAUsers),
        ),
        ("for everybody", "ca", &[], Some(Refusal::NoPrincipals)),
        (
            "for two",
            "ca",
            &["-n", "alice,bob"],
            Some(Refusal::SeveralUsers),
        ),
        (
            "for root and one of Kubernetes' own",
            "ca",
            &["-n", "alice,system:admin"],
            Some(Refusal::Principal),
        ),
        (
            "an administrator's",
            "ca",
            &["-n", "system:masters"],
            Some(Refusal::Principal),
        ),
        (
            "the same in other letters",
            "ca",
            &["-n", "System:masters"],
            Some(Refusal::Principal),
        ),
        (
            "a service account's",
            "ca",
            &["-n", "system:serviceaccount:kube-system:x"],
            Some(Refusal::Principal),
        ),
        (
            "with an escape sequence",
            "ca",
            &["-n", "al\u{1b}[2Jice"],
            Some(Refusal::Principal),
        ),
        (
            "with a line feed",
            "ca",
            &["-n", "alice\nImpersonate-Group: system:masters"],
            Some(Refusal::Principal),
        ),
        (
            "with a space",
            "ca",
            &["-n", "alice "],
            Some(Refusal::Principal),
        ),
        (
            "with letters that look alike",
            "ca",
            &["-n", "аlice"],
            Some(Refusal::Principal),
        ),
        (
            "too long a name",
            "ca",
            &["-n", &long],
            Some(Refusal::Principal),
        ),
        ("as long as can be", "ca", &["-n", &longest], None),
        (
            "expired",
            "ca",
            &["-n", "alice", "-V", "20200101:20200102"],
            Some(Refusal::Expired),
        ),
        (
            "for later",
            "ca",
            &["-n", "alice", "-V", "+1h:+2h"],
            Some(Refusal::NotYetValid),
        ),
        (
            "for ever",
            "ca",
            &["-n", "alice", "-V", "always:forever"],
            Some(Refusal::Lifetime),
        ),
        (
            "for ten years",
            "ca",
            &["-n", "alice", "-V", "-1m:+520w"],
            Some(Refusal::Lifetime),
        ),
        (
            "for a day and a bit",
            "ca",
            &["-n", "alice", "-V", "-1h:+24h"],
            Some(Refusal::Lifetime),
        ),
        ("for a day", "ca", &["-n", "alice", "-V", "-1h:+23h"], None),
        (
            "from here",
            "ca",
            &[
                "-n",
                "alice",
                "-O",
                "source-address=192.0.2.0/24,2001:db8::/32",
            ],
            None,
        ),
        (
            "from elsewhere",
            "ca",
            &["-n", "alice", "-O", "source-address=198.51.100.0/24"],
            Some(Refusal::Source),
        ),
        (
            "from nowhere",
            "ca",
            &[
                "-n",
                "alice",
                "-O",
                "critical:source-address=gw.example.com",
            ],
            Some(option("source-address")),
        ),
        (
            "from all but somewhere",
            "ca",
            &["-n", "alice", "-O", "critical:source-address=!192.0.2.9"],
            Some(option("source-address")),
        ),
        // ssh-key reads an empty value as none, and then the signature is of something else: refused all the same
        (
            "with an empty list",
            "ca",
            &["-n", "alice", "-O", "critical:source-address="],
            Some(Refusal::Signature),
        ),
        (
            "with an empty command",
            "ca",
            &["-n", "alice", "-O", "critical:force-command="],
            Some(Refusal::Signature),
        ),
        (
            "for a touch and a PIN",
            "ca",
            &["-n", "alice", "-O", "verify-required"],
            Some(option("verify-required")),
        ),
        (
            "with an option of somebody's own",
            "ca",
            &["-n", "alice", "-O", "critical:x@example.com=1"],
            Some(option("x@example.com")),
        ),
        (
            "with an extension of somebody's own",
            "ca",
            &["-n", "alice", "-O", "extension:x@example.com=1"],
            None,
        ),
    ] {
        let arguments = match arguments.contains(&"-V") {
            true => arguments.to_vec(),
            false => [arguments, &hour].concat(),
        };
        let made = keygen.certify(authority, "alice", &arguments);
        let found = certificate(&access, &made);
        assert_eq!(found.as_ref().err(), expected.as_ref(), "{what}: {found:?}");
        if let Some(refusal) = expected {
            let code = refusal.code();
            assert!(
                code.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            );
        }
    }
}

#[test]
fn the_kind_of_key_decides_whether_a_certificate_can_be_good() {
    let keygen = Keygen::new();
    keygen.key("alice", "ed25519");
    // Who signs.
    for (kind, expected) in [
        ("rsa 3072", Ok(())),
        ("ecdsa 256", Ok(())),
        ("ecdsa 384", Ok(())),
        ("ecdsa 521", Ok(())),
        ("rsa 1024", Err(())),
        ("rsa 2048", Err(())),
    ] {
        let name = kind.replace(' ', "");
        keygen.key(&name, kind);
        match (Access::read(&keygen.settings(&name)), expected) {
            (Ok((access, _)), Ok(())) => {
                let made = keygen.certify(&name, "alice", ALICE);
                certificate(&access, &made).unwrap();
            }
            (Err(error), Err(())) => {
                let error = error.to_string();
                assert!(
                    error.contains("line 1: authorities with such a key"),
                    "{error}"
                );
            }
            (found, _) => panic!("{kind}: {found:?}"),
        }
    }
    // How: with SHA-1.
    let access = read(&keygen.settings("rsa3072"));
    let arguments = [&["-t", "ssh-rsa"], ALICE].concat();
    let made = keygen.certify("rsa3072", "alice", &arguments);
    assert_eq!(
        certificate(&access, &made),
        Err(Refusal::AuthorityAlgorithm)
    );
    // What is signed.
    keygen.key("ca", "ed25519");
    let access = read(&keygen.settings("ca"));
    keygen.write("sk.pub", SECURITY_KEY);
    for (name, expected) in [
        ("rsa3072", None),
        ("ecdsa256", None),
        ("ecdsa384", None),
        ("sk", None),
        ("ecdsa521", Some(Refusal::KeyAlgorithm)),
        ("rsa1024", Some(Refusal::KeyAlgorithm)),
        ("rsa2048", Some(Refusal::KeyAlgorithm)),
    ] {
        let made = keygen.certify("ca", name, ALICE);
        assert_eq!(certificate(&access, &made).err(), expected, "{name}");
    }
}

/// A public key as a security key has it; nobody has the other half.
const SECURITY_KEY: &str = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJAAAABHNzaDo= sk\n";

#[test]
fn a_certificate_that_was_changed_is_refused() {
    let keygen = Keygen::new();
    keygen.key("ca", "ed25519");
    keygen.key("alice", "ed25519");
    let access = read(&keygen.settings("ca"));
    let good = keygen.certify("ca", "alice", ALICE);
    let bytes = good.to_bytes().unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        if let Ok(changed) = Certificate::from_bytes(&changed) {
            let found = certificate(&access, &changed);
            assert!(found.is_err(), "byte {at}: {found:?}");
        }
    }
    let at = bytes.windows(5).position(|window| window == b"alice");
    let mut renamed = bytes.clone();
    renamed[at.unwrap()..][..5].copy_from_slice(b"mallo");
    let renamed = Certificate::from_bytes(&renamed).unwrap();
    assert_eq!(certificate(&access, &renamed), Err(Refusal::Signature));
}

/// ssh-keygen takes a comma for the end of a principal, so this one is made without it.
#[test]
fn a_comma_makes_no_two_principals_of_one() {
    use russh::keys::PrivateKey;
    use russh::keys::ssh_key::certificate::Builder;

    let keygen = Keygen::new();
    keygen.key("ca", "ed25519");
    keygen.key("alice", "ed25519");
    let access = read(&keygen.settings("ca"));
    let authority = fs::read_to_string(keygen.path("ca")).unwrap();
    let authority = PrivateKey::from_openssh(authority).unwrap();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    for (principal, expected) in [
        ("alice", None),
        ("alice,root", Some(Refusal::Principal)),
        (",", Some(Refusal::Principal)),
        ("", Some(Refusal::Principal)),
    ] {
        let mut builder =
            Builder::new([7; 16], keygen.public("alice"), now - 60, now + 60).unwrap();
        builder.valid_principal(principal).unwrap();
        let made = builder.sign(&authority).unwrap();
        assert_eq!(certificate(&access, &made).err(), expected, "{principal}");
    }
}

#[test]
fn extensions_are_what_a_certificate_allows() {
    let keygen = Keygen::new();
    keygen.key("ca", "ed25519");
    keygen.key("alice", "ed25519");
    let access = read(&keygen.settings("ca"));
    let nothing = Caps {
        pty: false,
        port_forwarding: false,
        agent_forwarding: false,
        x11_forwarding: false,
        force_command: None,
    };
    for (options, expected) in [
        (&["clear"][..], nothing.clone()),
        (
            &["clear", "permit-pty"],
            Caps {
                pty: true,
                ..nothing.clone()
            },
        ),
        (
            &["no-pty"],
            Caps {
                pty: false,
                ..Caps::all()
            },
        ),
        (
            &["no-port-forwarding"],
            Caps {
                port_forwarding: false,
                ..Caps::all()
            },
        ),
        (
            &["no-agent-forwarding"],
            Caps {
                agent_forwarding: false,
                ..Caps::all()
            },
        ),
        (
            &["no-x11-forwarding"],
            Caps {
                x11_forwarding: false,
                ..Caps::all()
            },
        ),
        (
            &["force-command=nvidia-smi -L"],
            Caps {
                force_command: Some("nvidia-smi -L".to_owned()),
                ..Caps::all()
            },
        ),
    ] {
        let options = options.iter().flat_map(|option| ["-O", option]);
        let arguments: Vec<&str> = ALICE.iter().copied().chain(options).collect();
        let made = keygen.certify("ca", "alice", &arguments);
        assert_eq!(
            certificate(&access, &made).unwrap().caps,
            expected,
            "{arguments:?}"
        );
    }
}

#[test]
fn a_prefix_chooses_the_principal() {
    let keygen = Keygen::new();
    keygen.key("ca", "ed25519");
    keygen.key("alice", "ed25519");
    let mut settings = keygen.settings("ca");
    settings.authorities[0].principal_prefix = "k8s:".to_owned();
    let access = read(&settings);
    for (principals, expected) in [
        ("k8s:alice", Ok("alice")),
        ("root,k8s:alice,wheel", Ok("alice")),
        ("alice", Err(Refusal::NoUser)),
        ("k8s:alice,k8s:bob", Err(Refusal::SeveralUsers)),
        ("k8s:alice,k8s:alice", Err(Refusal::SeveralUsers)),
        ("k8s:", Err(Refusal::Principal)),
        ("k8s:system:masters", Err(Refusal::Principal)),
        ("k8s:alice,system:x", Err(Refusal::Principal)),
    ] {
        let made = keygen.certify("ca", "alice", &["-n", principals, "-V", "-1m:+1h"]);
        let user = certificate(&access, &made).map(|login| login.identity.user);
        assert_eq!(user, expected.map(str::to_owned), "{principals}");
    }
}

#[test]
fn only_some_authorities_set_groups() {
    let keygen = Keygen::new();
    keygen.key("ca", "ed25519");
    keygen.key("alice", "ed25519");
    let mut settings = keygen.settings("ca");
    let plain = read(&settings);
    settings.authorities[0].may_set_groups = true;
    settings.groups = [("alice".to_owned(), vec!["ml".to_owned(), "dev".to_owned()])].into();
    let setting = read(&settings);
    let many = ["a"; 65].join(",");
    for (groups, expected) in [
        ("ml,ops", Ok(vec!["ml", "ops", "dev"])),
        ("ml,", Err(Refusal::Groups)),
        ("system:masters", Err(Refusal::Groups)),
        ("ml, ops", Err(Refusal::Groups)),
        (&many, Err(Refusal::Groups)),
    ] {
        let option = format!("extension:kpf-groups@kpf.dev={groups}");
        let arguments = [ALICE, &["-O", &option]].concat();
        let made = keygen.certify("ca", "alice", &arguments);
        let found = certificate(&setting, &made).map(|login| login.identity.groups);
        let expected = expected.map(|groups| groups.into_iter().map(str::to_owned).collect());
        assert_eq!(found, expected, "{groups}");
        // The others' are passed over, as unknown extensions are.
        assert_eq!(certificate(&plain, &made).unwrap().identity.groups, [""; 0]);
    }
}

#[test]
fn revoked_certificates_are_refused_and_their_logins_end() {
    let keygen = Keygen::new();
    for name in ["ca", "alice", "other"] {
        keygen.key(name, "ed25519");
    }
    let made = keygen.certify("ca", "alice", ALICE);
    let mut settings = keygen.settings("ca");
    let login = certificate(&read(&settings), &made).unwrap();
    let print = |name| keygen.public(name).fingerprint(HashAlg::Sha256).to_string();
    let other = print("other");
    let now = SystemTime::now();
    for (text, expected) in [
        (String::new(), None),
        (other.clone(), None),
        (print("alice"), Some(Refusal::Revoked)),
        (print("ca"), Some(Refusal::Revoked)),
        (
            keygen.public("alice").to_openssh().unwrap(),
            Some(Refusal::Revoked),
        ),
        ("serial: 40-50".to_owned(), Some(Refusal::Revoked)),
        ("serial: 43-50".to_owned(), None),
        ("id: alice@corp".to_owned(), Some(Refusal::Revoked)),
        (
            format!("ca: {}\nserial: 42", print("ca")),
            Some(Refusal::Revoked),
        ),
        (format!("ca: {other}\nserial: 42"), None),
    ] {
        settings.revoked = Some(keygen.write("revoked", &text));
        let access = read(&settings);
        assert_eq!(certificate(&access, &made).err(), expected, "{text}");
        assert_eq!(access.recheck(&login, now).err(), expected, "{text}");
    }
    settings.revoked = None;
    let access = read(&settings);
    assert_eq!(access.recheck(&login, now + DAY), Err(Refusal::Expired));
    let access = read(&keygen.settings("other"));
    assert_eq!(access.recheck(&login, now), Err(Refusal::AuthorityUnknown));
    assert_eq!(
        access.recheck(&login, now),
        access.certificate(&made, here(), now).map(|_| ())
    );
}

#[tokio::test]
async fn listed_keys_let_their_owners_in() {
    let keygen = Keygen::new();
    for name in ["alice", "bob", "shared", "stranger"] {
        keygen.key(name, "ed25519");
    }
    keygen.key("weak", "rsa 2048");
    let line = |name: &str| keygen.public(name).to_openssh().unwrap();
    let folder = keygen.path("users");
    fs::create_dir(&folder).unwrap();
    let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
    write(
        "alice.keys",
        format!(
            "# laptop\nfrom=\"10.0.0.0/8\" {}\nno-pty {}\n",
            line("alice"),
            line("alice")
        ),
    );
    write(
        "bob.keys",
        format!(
            "{}\ncert-authority {}\n{}",
            line("bob"),
            line("stranger"),
            line("shared")
        ),
    );
    write(
        "carol.keys",
        format!("{}\n{}\n\u{1b}[2J", line("shared"), line("weak")),
    );
    write("system:admin.keys", line("stranger"));
    write("README", line("stranger"));
    write(".hidden.keys", line("stranger"));
    write("open.keys", line("stranger"));
    fs::set_permissions(folder.join("open.keys"), Permissions::from_mode(0o666)).unwrap();
    fs::create_dir(folder.join("folder.keys")).unwrap();
    let settings = Settings {
        keys: Some(KeyFiles::Folder(folder.clone())),
        user_prefix: "ssh:".to_owned(),
        groups: [("alice".to_owned(), vec!["ml".to_owned()])].into(),
        ..Settings::default()
    };
    let (access, disabled) = Access::read(&settings).unwrap();
    let disabled: Vec<String> = disabled
        .iter()
        .map(|disabled| {
            let path = disabled.path.file_name().unwrap().to_str().unwrap();
            format!("{path}:{}: {}", disabled.line.unwrap_or(0), disabled.reason)
        })
        .collect();
    for (found, expected) in disabled.iter().zip([
        "bob.keys:2: the option `cert-authority` is unknown",
        "carol.keys:1: `bob` has the same key",
        "carol.keys:2: such keys are not taken",
        "carol.keys:3: the option `\\u{1b}[2j` is unknown",
        "folder.keys:0: cannot read",
        "open.keys:0: keys",
        "system:admin.keys:0: `system:admin` can be no user",
    ]) {
        assert!(found.starts_with(expected), "{found}: {expected}");
    }
    assert_eq!(disabled.len(), 7, "{disabled:?}");

    let now = SystemTime::now();
    let login = access
        .key(&keygen.public("alice"), here(), now)
        .await
        .unwrap();
    let expected = Login {
        identity: Identity {
            user: "ssh:alice".to_owned(),
            groups: vec!["ml".to_owned()],
        },
        proof: Proof::Key {
            fingerprint: keygen
                .public("alice")
                .fingerprint(HashAlg::Sha256)
                .to_string(),
        },
        caps: Caps {
            pty: false,
            ..Caps::all()
        },
        expires: None,
    };
    assert_eq!(login, expected);
    let inside = access
        .key(&keygen.public("alice"), "10.1.2.3".parse().unwrap(), now)
        .await;
    assert_eq!(inside.unwrap().caps, Caps::all());
    for (name, expected) in [
        ("shared", Refusal::KeyUnknown),
        ("stranger", Refusal::KeyUnknown),
        ("weak", Refusal::KeyAlgorithm),
    ] {
        assert_eq!(
            access.key(&keygen.public(name), here(), now).await,
            Err(expected)
        );
    }
    let ed25519 = Algorithm::Ed25519;
    assert!(
        access
            .is_worth_a_signature(&keygen.public("bob"), &ed25519)
            .await
    );
    assert!(
        !access
            .is_worth_a_signature(&keygen.public("stranger"), &ed25519)
            .await
    );

    // A file that is gone, or another user's now, ends what it began.
    assert_eq!(access.recheck(&login, now), Ok(()));
    fs::rename(folder.join("alice.keys"), folder.join("dave.keys")).unwrap();
    let (renamed, _) = Access::read(&settings).unwrap();
    assert_eq!(renamed.recheck(&login, now), Err(Refusal::KeyUnknown));
    fs::remove_file(folder.join("dave.keys")).unwrap();
    let (gone, _) = Access::read(&settings).unwrap();
    assert_eq!(gone.recheck(&login, now), Err(Refusal::KeyUnknown));
}

#[tokio::test]
async fn one_file_is_one_users_and_a_command_knows_the_rest() {
    let keygen = Keygen::new();
    keygen.key("alice", "ed25519");
    keygen.key("bob", "rsa 3072");
    let file = keygen.write(
        "authorized_keys",
        keygen.public("alice").to_openssh().unwrap(),
    );
    let mut settings = Settings {
        keys: Some(KeyFiles::Of {
            user: "me".to_owned(),
            file,
        }),
        ..Settings::default()
    };
    let now = SystemTime::now();
    let rsa = |hash| Algorithm::Rsa { hash };
    let (alice, bob) = (keygen.public("alice"), keygen.public("bob"));
    let access = read(&settings);
    let login = access.key(&alice, here(), now).await.unwrap();
    assert_eq!(login.identity.user, "me");
    assert!(
        !access
            .is_worth_a_signature(&bob, &rsa(Some(HashAlg::Sha256)))
            .await
    );

    let script = r#"[ "$2" = ssh-rsa ] && echo '{"user":"bob","groups":["ops"],"options":"from=\"192.0.2.7\",restrict"}' || true"#;
    settings.keys_command = Some(["/bin/sh", "-c", script, "sh"].map(str::to_owned).to_vec());
    settings.revoked = Some(keygen.write("revoked", ""));
    let access = read(&settings);
    let login = access.key(&bob, here(), now).await.unwrap();
    assert_eq!(
        login.identity,
        Identity {
            user: "bob".to_owned(),
            groups: vec!["ops".to_owned()]
        }
    );
    assert!(!login.caps.pty);
    let elsewhere = access.key(&bob, "192.0.2.8".parse().unwrap(), now).await;
    assert_eq!(elsewhere, Err(Refusal::Source));
    assert!(
        access
            .is_worth_a_signature(&bob, &rsa(Some(HashAlg::Sha512)))
            .await
    );
    assert!(!access.is_worth_a_signature(&bob, &rsa(None)).await);
    assert_eq!(access.recheck(&login, now), Ok(()));

    settings.revoked = Some(keygen.write("revoked", bob.to_openssh().unwrap()));
    let access = read(&settings);
    assert_eq!(access.key(&bob, here(), now).await, Err(Refusal::Revoked));
    assert!(
        !access
            .is_worth_a_signature(&bob, &rsa(Some(HashAlg::Sha512)))
            .await
    );
    assert_eq!(access.recheck(&login, now), Err(Refusal::Revoked));
}

#[tokio::test]
async fn with_an_authority_every_key_may_be_certified() {
    let keygen = Keygen::new();
    keygen.key("ca", "ed25519");
    keygen.key("alice", "ed25519");
    keygen.key("weak", "ecdsa 521");
    let access = read(&keygen.settings("ca"));
    let alice = keygen.public("alice");
    assert!(
        access
            .is_worth_a_signature(&alice, &Algorithm::Ed25519)
            .await
    );
    assert!(
        !access
            .is_worth_a_signature(&keygen.public("weak"), &Algorithm::Ed25519)
            .await
    );
    let found = access.key(&alice, here(), SystemTime::now()).await;
    assert_eq!(found, Err(Refusal::KeyUnknown));
}

#[test]
fn what_could_let_others_in_is_an_error() {
    let keygen = Keygen::new();
    keygen.key("ca", "ed25519");
    keygen.key("alice", "ed25519");
    keygen.certify("ca", "alice", ALICE);
    let public = keygen.public("ca").to_openssh().unwrap();
    let certificate = fs::read_to_string(keygen.path("alice-cert.pub")).unwrap();
    let error = |change: &dyn Fn(&mut Settings)| {
        let mut settings = keygen.settings("ca");
        change(&mut settings);
        let error = Access::read(&settings).expect_err("no error").to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let authority = |path: PathBuf| error(&|settings| settings.authorities[0].file = path.clone());
    let private = authority(keygen.path("ca"));
    assert!(
        private.contains("line 1: this is a private key"),
        "{private}"
    );
    assert!(!private.contains("AAAA"), "{private}");
    for (text, part) in [
        ("".to_owned(), "it has no public key"),
        (format!("{public}\nalice"), "line 2: it is no public key"),
        (certificate, "line 1: "),
        (
            format!("cert-authority {public}"),
            "line 1: it is no public key",
        ),
    ] {
        let found = authority(keygen.write("authority", text));
        assert!(found.contains(part), "{found}");
    }
    let path = keygen.write("open", &public);
    fs::set_permissions(&path, Permissions::from_mode(0o646)).unwrap();
    assert!(authority(path).contains("writable by everyone"));
    assert!(authority(keygen.path("nothing")).contains("cannot read authority"));
    assert!(authority(keygen.0.path().to_owned()).contains("it is no file"));
    assert!(authority(Path::new("/dev/zero").to_owned()).contains("it is no file"));
    let revoked = keygen.write("revoked", "alice");
    assert!(error(&|settings| settings.revoked = Some(revoked.clone())).contains("line 1"));
    let missing = keygen.path("nothing");
    assert!(
        error(&|settings| settings.keys = Some(KeyFiles::Folder(missing.clone())))
            .contains("cannot read the folder of keys")
    );
    assert!(
        error(&|settings| {
            settings.groups = [("a,b".to_owned(), Vec::new())].into();
        })
        .contains("can be no user or group")
    );
    assert!(
        error(&|settings| settings.keys_command = Some(vec!["keys".to_owned()]))
            .contains("absolute path")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// No bytes make a certificate that is taken, or a panic.
    #[test]
    fn any_bytes_are_refused(bytes: Vec<u8>) {
        let access = Access {
            authorities: Vec::new(),
            longest_certificate: DAY,
            keys: Keys::default(),
            command: None,
            revoked: Revoked::default(),
            user_prefix: String::new(),
            groups: BTreeMap::new(),
        };
        if let Ok(made) = Certificate::from_bytes(&bytes) {
            prop_assert!(certificate(&access, &made).is_err());
        }
    }

    #[test]
    fn names_are_fit_for_headers_and_logs(name in "\\PC{0,20}|[a-zA-Z0-9@._:/,-]{0,20}|system:.{0,9}") {
        if is_person(&name) {
            prop_assert!(http::HeaderValue::from_str(&name).is_ok());
            prop_assert_eq!(printable(&name, 200), &name[..]);
            prop_assert!(!name.contains(',') && !name.starts_with("system:"));
        }
    }
}
