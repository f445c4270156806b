//! Configurations as people write them.

use proptest::prelude::*;

use super::*;
use crate::ssh::door;

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(Path::new("/etc/kpf/gateway.yaml"), text.as_bytes())
}

const SMALL: &str = "version: 1\nclusters: {dev: {}}\naccess: {keys: users}\n";

#[test]
fn a_small_file_has_defaults_for_the_rest() {
    let config = parse(SMALL).unwrap();
    let expected = Config {
        listen: vec!["127.0.0.1:2222".parse().unwrap()],
        metrics: None,
        proxies: Vec::new(),
        host_key: HostKey::File("/etc/kpf/host_key".into()),
        names: Clusters::new("dev", []).unwrap(),
        clusters: [("dev".to_owned(), ClusterSettings::default())].into(),
        access: Settings {
            keys: Some(KeyFiles::Folder("/etc/kpf/users".into())),
            longest_certificate: Duration::from_secs(86_400),
            ..Settings::default()
        },
        policy: Policy::default(),
        audit: Audit {
            sinks: vec![SinkConfig {
                kind: SinkKind::Stdout,
                required: true,
            }],
            on_failure: OnFailure::Deny,
            redact: Vec::new(),
        },
        recordings: None,
        relay: Relay::default(),
        spool: Spool::default(),
        limits: Limits::default(),
        drain: Duration::from_secs(300),
    };
    assert_eq!(config, expected);
}

/// The README's file, which has every key that there is.
fn example() -> &'static str {
    let readme = include_str!("../../../README.md");
    let (_, rest) = readme
        .split_once("```yaml\n# gateway.yaml")
        .expect("the README's example");
    rest.split("```").next().unwrap()
}

#[test]
fn the_example_of_the_readme_says_what_it_means() {
    let config = parse(example()).unwrap();
    assert_eq!(
        config.listen,
        [
            "0.0.0.0:2222".parse().unwrap(),
            "[::]:2222".parse().unwrap()
        ]
    );
    assert_eq!(config.metrics, Some("127.0.0.1:9100".parse().unwrap()));
    assert_eq!(config.proxies, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(config.host_key, HostKey::File("/etc/kpf/host_key".into()));
    assert_eq!(config.names, Clusters::new("dev", ["prod"]).unwrap());
    let prod = ClusterSettings {
        kubeconfig: Some("/etc/kpf/prod.kubeconfig".into()),
        context: Some("admin@prod".to_owned()),
    };
    assert_eq!(config.clusters["prod"], prod);
    let access = &config.access;
    let authority = AuthoritySettings {
        file: "/etc/kpf/user_ca.pub".into(),
        principal_prefix: "k8s:".to_owned(),
        may_set_groups: true,
    };
    assert_eq!(access.authorities, [authority]);
    assert_eq!(access.keys, Some(KeyFiles::Folder("/etc/kpf/users".into())));
    assert_eq!(
        access.keys_command.as_deref(),
        Some(&["/usr/local/bin/whose-key".to_owned(), "--team".to_owned()][..])
    );
    assert_eq!(access.revoked, Some("/etc/kpf/revoked".into()));
    assert_eq!(access.user_prefix, "ssh:");
    assert_eq!(access.groups["alice"], ["ml", "dev"]);
    let rules = config.policy.rules.as_deref().unwrap();
    let names: Vec<&str> = rules.iter().map(|rule| &rule.name[..]).collect();
    assert_eq!(
        names,
        [
            "nobody-in-kube-system",
            "production",
            "ml",
            "everybody-in-dev"
        ]
    );
    assert_eq!(rules[0].grant, None);
    let production = rules[1].grant.as_ref().unwrap();
    assert_eq!(production.record, Record::Required);
    assert!(!production.allows(Backend::Jump) && production.allows(Backend::Exec));
    let ml = rules[2].grant.as_ref().unwrap();
    assert!(ml.allows_forward("db.shop.svc", 5432) && ml.agent && !ml.x11);
    assert_eq!(
        (&ml.default_login[..], ml.on_disconnect),
        ("ubuntu", OnDisconnect::Leave)
    );
    assert_eq!(config.audit.sinks.len(), 2);
    assert_eq!(
        config.audit.sinks[1].kind,
        SinkKind::Socket("/run/vector.sock".into())
    );
    assert!(!config.audit.sinks[1].required);
    let recordings = config.recordings.unwrap();
    assert_eq!(recordings.folder, Path::new("/etc/kpf/recordings"));
    assert_eq!(
        (recordings.format, recordings.input),
        (CastVersion::V3, false)
    );
    assert_eq!(config.relay.authority, Some("/etc/kpf/pod_ca".into()));
    assert_eq!(config.spool.folder, Some("/var/tmp".into()));
    assert_eq!(config.drain, Duration::from_secs(600));
    // It shows the limits as they are anyway.
    let limits = Limits {
        penalties: Penalties {
            exempt: vec!["192.0.2.10/32".parse().unwrap()],
            ..Penalties::default()
        },
        ..Limits::default()
    };
    assert_eq!(config.limits, limits);
}

/// What is in the file for each part is all that there is.
#[test]
fn the_example_of_the_readme_has_every_key() {
    let example: serde_yaml::Value = serde_yaml::from_str(example()).unwrap();
    for (part, wanted) in [
        (
            "",
            "version, listen, metrics, proxies, host_key, clusters, default_cluster, access, policy, audit, recordings, relay, spool, limits, drain",
        ),
        (
            "access",
            "authorities, max_certificate_lifetime, keys, keys_command, revoked, user_prefix, groups",
        ),
        ("recordings", "folder, format, input, max_size, min_free"),
        ("relay", "authority, key"),
        ("spool", "folder, memory, per_channel, per_user"),
        (
            "limits",
            "login_grace, unauthenticated, unauthenticated_per_source, penalties, failed_logins, offered_keys, connections, connections_per_user, channels, sessions, session, idle, unused, keepalive, keepalive_misses, dial, recheck, command, variables, variable",
        ),
    ] {
        let mut text = SMALL.to_owned();
        let shown = match part {
            "" => {
                text += "nonsense: 1\n";
                &example
            }
            "access" => {
                text = "version: 1\nclusters: {dev: {}}\naccess: {nonsense: 1}\n".to_owned();
                &example["access"]
            }
            part => {
                text += &format!("{part}: {{nonsense: 1}}\n");
                &example[part]
            }
        };
        let error = parse(&text).unwrap_err().to_string();
        for key in wanted.split(", ") {
            assert!(error.contains(&format!("`{key}`")), "{key}: {error}");
            assert!(shown.get(key).is_some(), "the README lacks {part}.{key}");
        }
        assert_eq!(
            error.matches('`').count(),
            2 * (wanted.split(", ").count() + 2),
            "{error}"
        );
    }
}

#[test]
fn every_error_has_its_place_and_what_is_allowed() {
    let with = |lines: &str| format!("{SMALL}{lines}\n");
    let rule = |lines: &str| format!("{SMALL}policy:\n- name: all\n- name: a\n  {lines}\n");
    let recording = "recordings: {folder: r}\n";
    let mut others = Vec::new();
    for (text, place, part) in [
        (
            String::new(),
            (1, 1),
            "it is empty: write `version: 1`, `clusters:` and `access:`",
        ),
        (
            "clusters: {}".to_owned(),
            (1, 1),
            "missing field `version`: write `version: 1` first",
        ),
        ("version: 2".to_owned(), (1, 10), "this kpf reads version 1"),
        (
            "[]".to_owned(),
            (1, 1),
            "expected a map with `version`, `clusters` and `access`",
        ),
        (
            "version: 1".to_owned(),
            (1, 1),
            "there are no clusters: write one under `clusters:`",
        ),
        (
            "version: 1\nclusters: {}".to_owned(),
            (2, 1),
            "there are no clusters",
        ),
        (
            "version: 1\nclusters: {dev: {}}".to_owned(),
            (1, 1),
            "nobody could log in: write `authorities`, `keys` or `keys_command`",
        ),
        (
            "version: 1\nclusters: {dev: {}}\naccess: {revoked: x}".to_owned(),
            (3, 1),
            "nobody could log in",
        ),
        (
            "version: 1\nclusters: {a: {}, b: {}}\naccess: {keys: u}".to_owned(),
            (2, 1),
            "write `default_cluster:`",
        ),
        (
            "version: 1\nclusters: {kpf: {}}".to_owned(),
            (2, 12),
            "is no alias of a cluster",
        ),
        (
            "version: 1\nclusters: {Dev: {}}".to_owned(),
            (2, 12),
            "`Dev` is no name",
        ),
        (
            "version: 1\nclusters: {dev: {kubconfig: x}}".to_owned(),
            (2, 18),
            "unknown field `kubconfig`, expected `kubeconfig` or `context`",
        ),
        (
            with("default_cluster: prod"),
            (4, 18),
            "`prod` is no cluster: there are dev",
        ),
        (
            with("default_cluster: dve"),
            (4, 18),
            "`dve` is no cluster: did you mean `dev`?",
        ),
        (with("listen: 0.0.0.0:22"), (4, 9), "expected a list"),
        (with("listen: [gw:22]"), (4, 10), "invalid socket address"),
        (with("metrics: 9100"), (4, 10), "invalid socket address"),
        (with("proxies: [10.0.0.1/8]"), (4, 11), "write 10.0.0.0/8"),
        (
            with("host_key: {file: a, secret: b/c}"),
            (4, 21),
            "in a file or in a Secret",
        ),
        (
            with("host_key: {secret: b}"),
            (4, 20),
            "`b` is no Secret: write NAMESPACE/NAME",
        ),
        (
            with("host_key: {cluster: dev}"),
            (4, 12),
            "says where a Secret is",
        ),
        (
            with("host_key: {secret: a/b, cluster: x}"),
            (4, 34),
            "`x` is no cluster",
        ),
        (with("audit: {sinks: []}"), (4, 16), "the list is empty"),
        (
            with("audit: {sinks: [{file: a, stdout: true}]}"),
            (4, 17),
            "a sink is one of `stdout: true`, `file` and `socket`",
        ),
        (
            with("audit: {sinks: [{required: true}]}"),
            (4, 17),
            "a sink is one of",
        ),
        (
            with("audit: {on_failure: ignore}"),
            (4, 21),
            "unknown variant `ignore`, expected `deny` or `continue`",
        ),
        (with("recordings: {}"), (4, 13), "missing field `folder`"),
        (
            with("recordings: {folder: r, format: gif}"),
            (4, 33),
            "expected `asciicast-v2` or `asciicast-v3`",
        ),
        (
            with("recordings: {folder: r, max_size: lots}"),
            (4, 35),
            "`lots` is no size",
        ),
        (
            with("limits: {login_grace: 30}"),
            (4, 23),
            "`30` is no time: write 1500ms, 30s",
        ),
        (with("limits: {idle: never}"), (4, 16), "or off"),
        (
            with("limits: {login_grace: off}"),
            (4, 23),
            "`off` is no time",
        ),
        (
            with("limits: {channels: 0}"),
            (4, 20),
            "`0` is no number from 1",
        ),
        (
            with("limits: {channels: 5}"),
            (4, 1),
            "`sessions`, which is 10 unless you say so",
        ),
        (
            with("limits: {unauthenticated: 100}"),
            (4, 27),
            "is not BEGIN:PERCENT:FULL",
        ),
        (
            with("limits: {penalties: {min: 1h}}"),
            (4, 10),
            "can't be more than `max`",
        ),
        (
            with("limits: {penalties: {exempt: [gw]}}"),
            (4, 31),
            "is no address and no network: write 10.0.0.0/8",
        ),
        (with("drain: soon"), (4, 8), "is no time"),
        (with("policy: {}"), (4, 9), "expected a sequence"),
        (
            with("policy: [{users: [a]}]"),
            (4, 10),
            "missing field `name`",
        ),
        (
            rule("user: [a]"),
            (7, 3),
            "unknown field `user`, expected one of `name`, `users`",
        ),
        (rule("users: []"), (7, 10), "the list is empty"),
        (rule("users: [a b]"), (7, 11), "is no name and no pattern"),
        (
            rule("clusters: [d*, prd]"),
            (7, 18),
            "`prd` is none of the clusters",
        ),
        (
            rule("backends: [shell]"),
            (7, 14),
            "expected one of `jump`, `relay`, `exec`",
        ),
        (
            rule("forwards: [localhost]"),
            (7, 14),
            "is no destination: write HOST:PORT",
        ),
        (
            rule("record: required"),
            (7, 11),
            "there is no place for recordings",
        ),
        (
            rule("record: always"),
            (7, 11),
            "expected one of `off`, `best-effort`, `required`",
        ),
        (
            rule("deny: true\n  agent: true"),
            (8, 3),
            "leave `agent` out",
        ),
        (
            rule("logins: ['dev-*']"),
            (7, 11),
            "write `default_login:` too",
        ),
        (
            rule("logins: [app]\n  default_login: root"),
            (8, 18),
            "`root` is none of the `logins`",
        ),
        (rule("default_login: -oX"), (7, 18), "or no login at all"),
        (
            rule(&format!("record: yes\n{recording}")),
            (7, 11),
            "expected one of `off`",
        ),
        (
            "version: 1\nclusters: {d: {}}\naccess:\n  keys_command: [keys]".to_owned(),
            (4, 18),
            "no absolute path",
        ),
        (
            "version: 1\nclusters: {d: {}}\naccess:\n  keys_command: []".to_owned(),
            (4, 17),
            "the list is empty",
        ),
        (
            "version: 1\nclusters: {d: {}}\naccess: {keys: u, user_prefix: 'system:'}".to_owned(),
            (3, 32),
            "users can't be called so",
        ),
        (
            "version: 1\nclusters: {d: {}}\naccess: {groups: {a: [b], a: [c]}}".to_owned(),
            (3, 27),
            "`a` is there twice",
        ),
        (
            "version: 1\nclusters: {d: {}}\naccess: {groups: {a: ['b,c']}}".to_owned(),
            (3, 23),
            "can be no user or group",
        ),
        (
            "version: 1\nclusters: {d: {}}\naccess: {authorities: [{}]}".to_owned(),
            (3, 24),
            "missing field `file`",
        ),
        (
            "version: 1\nclusters: {d: {}}\naccess: {authorities: [ca.pub]}".to_owned(),
            (3, 24),
            "expected a map with `file`",
        ),
        (
            "version: 1\nclusters: {d: {}}\naccess: {password: x}".to_owned(),
            (3, 10),
            "unknown field `password`",
        ),
    ] {
        let found = match parse(&text) {
            Err(Error::Wrong {
                line,
                column,
                reason,
                ..
            }) => (line, column, reason),
            found => panic!("{text}: {found:?}"),
        };
        let is_right = (found.0, found.1) == place && found.2.contains(part);
        if !is_right || found.2.contains('\n') {
            others.push(format!("{text}\n{found:?}"));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n\n"));
}

#[test]
fn errors_name_the_file() {
    let error = parse("version: 1\nclusters: {a: 1}")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("configuration `/etc/kpf/gateway.yaml`, line 2, column 15: "),
        "{error}"
    );
    let error = Config::read(Path::new("/nowhere/gateway.yaml")).unwrap_err();
    let error = error.to_string();
    assert!(
        error.starts_with("cannot read the configuration `/nowhere/gateway.yaml`: "),
        "{error}"
    );
}

#[test]
fn the_door_has_the_same_defaults() {
    let proxies = ["10.0.0.0/8".parse().unwrap()];
    let expected = door::Config {
        proxies: proxies.to_vec(),
        ..door::Config::default()
    };
    let found = Limits::default().door(&proxies);
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
}

#[test]
fn rules_have_defaults_of_their_own() {
    let config = parse(&format!("{SMALL}policy:\n- name: app\n  logins: [app, root]\n- name: web\n  logins: [web]\n  forwards: []\n")).unwrap();
    let grants: Vec<_> = config
        .policy
        .rules
        .iter()
        .flatten()
        .filter_map(|rule| rule.grant.as_ref())
        .collect();
    assert_eq!(grants[0].default_login, "root");
    assert_eq!(grants[1].default_login, "web");
    assert!(grants[0].allows_forward("localhost", 80));
    assert!(!grants[1].allows_forward("localhost", 80));
    // An empty policy is a policy.
    let config = parse(&format!("{SMALL}policy: []\n")).unwrap();
    assert_eq!(config.policy.rules, Some(Vec::new()));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, text in "\\PC{0,60}|version: 1\n((limits|access|policy|audit|clusters):( [a-z{}\\[\\]:0-9]{0,12})?\n(  [a-z]{1,9}: [a-z0-9{}]{0,5}\n){0,2}){0,3}") {
        for bytes in [&bytes[..], text.as_bytes()] {
            if let Err(error) = Config::parse(Path::new("gateway.yaml"), bytes) {
                let error = error.to_string();
                prop_assert!(!error.contains('\n') && error.chars().count() < 800, "{}", error);
            }
        }
    }
}
