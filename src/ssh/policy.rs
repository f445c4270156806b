//! What the configuration lets people do, where and as whom. RBAC has the last word: a policy can only narrow it.
//!
//! The first rule that a user and a place match decides; with rules, who matches none may nothing. Without any, RBAC
//! alone says who may go where, and what they may do there is what a rule has that says nothing of it
//! ([`Grant::default`]).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;

use super::access::{Identity, network};
use super::name::{Place, is_login};
use crate::untrusted::printable;

/// Characters of a pattern or a destination in a message.
const SHOWN: usize = 120;

/// All rules, in their order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policy {
    /// None where the configuration has no policy: an empty one lets nobody do anything.
    pub rules: Option<Vec<Rule>>,
}

/// Who may do what, where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// For people who ask why.
    pub name: String,
    /// One of these, or in one of the groups; both empty for everyone.
    pub users: Vec<Pattern>,
    /// See `users`.
    pub groups: Vec<Pattern>,
    /// In one of these; empty for all.
    pub clusters: Vec<Pattern>,
    /// In one of these; empty for all.
    pub namespaces: Vec<Pattern>,
    /// None forbids everything.
    pub grant: Option<Grant>,
}

/// What somebody may do at a place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The ways in.
    pub backends: BTreeSet<Backend>,
    /// Where `-L` and `-D` may lead through a relay; none for [`Destination::own`].
    pub forwards: Option<Vec<Destination>>,
    /// `-R`; none for yes.
    pub remote_forwards: Option<bool>,
    /// `-A`.
    pub agent: bool,
    /// `-X`.
    pub x11: bool,
    /// Whether terminals are recorded.
    pub record: Record,
    /// Whom to be at the pod's SSH server; empty for anyone.
    pub logins: Vec<Pattern>,
    /// Whom to be where neither the user nor the pod says so; one of `logins`.
    pub default_login: String,
    /// What becomes of a command whose client is gone.
    pub on_disconnect: OnDisconnect,
}

/// A way into a pod.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Backend {
    /// A stream to the pod's SSH server, which the gateway can't read.
    Jump,
    /// The gateway's own connection to the pod's SSH server.
    Relay,
    /// A command in a container.
    Exec,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Jump, Self::Relay, Self::Exec];
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jump => "jump",
            Self::Relay => "relay",
            Self::Exec => "exec",
        })
    }
}

/// Whether terminals are recorded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Record {
    /// No.
    #[default]
    Off,
    /// As long as it goes well.
    BestEffort,
    /// Or the channel is closed. Nothing that can't be recorded is allowed: no jump, and no forward that isn't listed.
    Required,
}

/// What becomes of a command whose client is gone.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnDisconnect {
    /// It is told, as by sshd.
    #[default]
    HangUp,
    /// It runs on.
    Leave,
}

/// What may be done by a rule that says nothing of it.
impl Default for Grant {
    fn default() -> Self {
        Self {
            backends: Backend::ALL.into(),
            forwards: None,
            remote_forwards: None,
            agent: false,
            x11: false,
            record: Record::Off,
            logins: Vec::new(),
            default_login: "root".to_owned(),
            on_disconnect: OnDisconnect::HangUp,
        }
    }
}

impl Policy {
    /// What somebody may do at a place.
    #[must_use]
    pub fn decide(&self, identity: &Identity, place: &Place) -> Verdict<'_> {
        let Some(rules) = &self.rules else {
            return Verdict {
                rule: None,
                grant: Some(Cow::Owned(Grant::default())),
                has_policy: false,
            };
        };
        let mut rules = rules.iter();
        let rule = rules.find(|rule| rule.matches(identity, place));
        Verdict {
            rule: rule.map(|rule| &rule.name[..]),
            grant: rule.and_then(|rule| rule.grant.as_ref()).map(Cow::Borrowed),
            has_policy: true,
        }
    }
}

impl Rule {
    fn matches(&self, identity: &Identity, place: &Place) -> bool {
        let any = |patterns: &[Pattern], text: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
        };
        let is_user = self.users.iter().any(|user| user.matches(&identity.user));
        let is_member = identity
            .groups
            .iter()
            .any(|group| self.groups.iter().any(|pattern| pattern.matches(group)));
        let is_for_all = self.users.is_empty() && self.groups.is_empty();
        (is_for_all || is_user || is_member)
            && any(&self.clusters, place.cluster())
            && any(&self.namespaces, place.namespace())
    }
}

/// What a policy says, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verdict<'a> {
    /// The name of the rule that decided.
    pub rule: Option<&'a str>,
    /// What may be done; none for nothing.
    pub grant: Option<Cow<'a, Grant>>,
    has_policy: bool,
}

/// One line for `explain`: whoever asks has to be logged in, and only learns of rules for themselves.
impl fmt::Display for Verdict<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rule {
            Some(rule) => write!(f, "rule `{}`: ", printable(rule, SHOWN))?,
            None if self.has_policy => f.write_str("no rule matches: ")?,
            None => f.write_str("no policy, so RBAC decides: ")?,
        }
        match &self.grant {
            Some(grant) => grant.fmt(f),
            None => f.write_str("nothing is allowed"),
        }
    }
}

impl Grant {
    /// Whether this is a way in.
    #[must_use]
    pub fn allows(&self, backend: Backend) -> bool {
        let is_seen = backend != Backend::Jump || self.record != Record::Required;
        is_seen && self.backends.contains(&backend)
    }

    /// Whether a relay may connect to this port of this host, as the pod's SSH server names it.
    #[must_use]
    pub fn allows_forward(&self, host: &str, port: u16) -> bool {
        let destinations = self.destinations();
        destinations.iter().any(|allowed| allowed.has(host, port))
    }

    /// Whether a relay may connect to this socket of the pod.
    #[must_use]
    pub fn allows_socket(&self, path: &str) -> bool {
        let destinations = self.destinations();
        destinations.iter().any(|allowed| allowed.has_socket(path))
    }

    /// Whether a relay may have the pod's SSH server listen.
    #[must_use]
    pub fn allows_remote_forwards(&self) -> bool {
        self.remote_forwards
            .unwrap_or(self.record != Record::Required)
    }

    /// Whom to be at the pod's SSH server: whom the user has asked for, else whom the pod's annotation names, else the
    /// default. None where that isn't allowed.
    #[must_use]
    pub fn login<'a>(
        &'a self,
        asked: Option<&'a str>,
        annotated: Option<&'a str>,
    ) -> Option<&'a str> {
        let login = asked.or(annotated).unwrap_or(&self.default_login);
        let may = self.logins.is_empty() || self.logins.iter().any(|one| one.matches(login));
        (may && is_login(login)).then_some(login)
    }

    fn destinations(&self) -> Cow<'_, [Destination]> {
        match &self.forwards {
            Some(listed) => Cow::Borrowed(listed),
            None if self.record == Record::Required => Cow::Borrowed(&[]),
            None => Cow::Owned(Destination::own()),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list(items: impl IntoIterator<Item: fmt::Display>) -> String {
            let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
            match items.is_empty() {
                true => "none".to_owned(),
                false => printable(&items.join(", "), SHOWN),
            }
        }
        let backends = Backend::ALL.into_iter().filter(|way| self.allows(*way));
        write!(f, "{}", list(backends))?;
        write!(
            f,
            "; forwards through a relay: {}",
            list(self.destinations().iter())
        )?;
        for (what, may) in [
            ("remote forwards", self.allows_remote_forwards()),
            ("agent", self.agent),
            ("X11", self.x11),
        ] {
            write!(f, "; {what}: {}", if may { "yes" } else { "no" })?;
        }
        if !self.logins.is_empty() {
            write!(f, "; logins: {}", list(&self.logins))?;
        }
        match self.record {
            Record::Off => Ok(()),
            Record::BestEffort => f.write_str("; recorded"),
            Record::Required => f.write_str("; recorded, or closed"),
        }
    }
}

/// A name in which `*` stands for anything, also for nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern(String);

impl Pattern {
    /// Whether it means this name. Letters have to be of the same case.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        glob(self.0.as_bytes(), text.as_bytes())
    }

    /// Whether it means every name.
    #[must_use]
    pub fn is_any(&self) -> bool {
        !self.0.is_empty() && self.0.bytes().all(|byte| byte == b'*')
    }

    /// The one name that it means.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(&self.0)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "`{}` is no name and no pattern: it has visible ASCII characters, and `*` for any others",
                printable(text, SHOWN)
            )),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `*` in the pattern can stand for what the text has more. Takes no longer than their lengths multiplied.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // The last `*`, and up to where it stands for the text.
    let mut star: Option<(usize, usize)> = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == text[seen] => {
                at += 1;
                seen += 1;
            }
            _ => {
                let Some((star_at, until)) = star else {
                    return false;
                };
                star = Some((star_at, until + 1));
                (at, seen) = (star_at + 1, until + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// Where forwards may lead: `localhost:*`, `*.svc:443`, `10.0.0.0/8:8000-8999`, `[::1]:80`, `/run/app/*`.
///
/// Only what is allowed can be said, and not what isn't: a host has more spellings than anybody would think of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// Ports of hosts.
    Ports(Hosts, RangeInclusive<u16>),
    /// A socket, by its absolute path.
    Socket(Pattern),
}

/// Hosts, as they are named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Hosts {
    /// `localhost` and every address that is the pod itself.
    Local,
    /// Addresses, not names.
    Network(IpNet),
    /// Names and addresses as they are written, in any case.
    Named(Pattern),
}

impl Destination {
    /// The pod itself: what its user can reach there anyway.
    #[must_use]
    pub fn own() -> Vec<Self> {
        vec![
            Self::Ports(Hosts::Local, 1..=u16::MAX),
            Self::Socket(Pattern("/*".to_owned())),
        ]
    }

    fn has(&self, host: &str, port: u16) -> bool {
        let Self::Ports(hosts, ports) = self else {
            return false;
        };
        let address: Option<IpAddr> = host.parse().ok();
        let address = address.map(|address| address.to_canonical());
        let host = host.to_ascii_lowercase();
        let is_host = match hosts {
            Hosts::Local => address.map_or(host == "localhost", |address| address.is_loopback()),
            Hosts::Network(network) => address.is_some_and(|address| network.contains(&address)),
            Hosts::Named(pattern) => pattern.matches(&host),
        };
        is_host && ports.contains(&port)
    }

    fn has_socket(&self, path: &str) -> bool {
        // `..` would lead out of what the pattern means.
        let is_plain = path.starts_with('/') && !path.split('/').any(|part| part == "..");
        matches!(self, Self::Socket(pattern) if is_plain && pattern.matches(path))
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return text.parse().map(Self::Socket);
        }
        let wrong = || {
            format!(
                "`{}` is no destination: write HOST:PORT as in localhost:*, *.svc:443 or 10.0.0.0/8:8000-8999, or the path of a socket",
                printable(text, SHOWN)
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let ports = match port.split_once('-') {
            _ if port == "*" => Some(1..=u16::MAX),
            None => number(port).map(|port| port..=port),
            Some((first, last)) => number(first)
                .zip(number(last))
                .map(|(first, last)| first..=last)
                .filter(|ports| !ports.is_empty()),
        };
        let ports = ports.ok_or_else(wrong)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let hosts = match bare.unwrap_or(host) {
            "localhost" => Hosts::Local,
            host if host.contains('/') => Hosts::Network(network(host)?),
            host if bare.is_some() => {
                Hosts::Network(host.parse::<IpAddr>().map_err(|_| wrong())?.into())
            }
            host if host.parse::<IpAddr>().is_ok() && !host.contains(':') => {
                Hosts::Network(network(host)?)
            }
            host if host.contains([':', '[', ']']) => return Err(wrong()),
            host => Hosts::Named(host.to_ascii_lowercase().parse()?),
        };
        Ok(Self::Ports(hosts, ports))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hosts, ports) = match self {
            Self::Socket(path) => return path.fmt(f),
            Self::Ports(hosts, ports) => (hosts, ports),
        };
        match hosts {
            Hosts::Local => f.write_str("localhost")?,
            Hosts::Network(network @ IpNet::V6(_)) => write!(f, "[{network}]")?,
            Hosts::Network(network) => network.fmt(f)?,
            Hosts::Named(pattern) => pattern.fmt(f)?,
        }
        match (*ports.start(), *ports.end()) {
            (1, u16::MAX) => f.write_str(":*"),
            (first, last) if first == last => write!(f, ":{first}"),
            (first, last) => write!(f, ":{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ssh::name::Clusters;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| pattern(text)).collect()
    }

    fn place(host: &str) -> Place {
        let clusters = Clusters::new("dev", ["prod", "prod-eu"]).unwrap();
        Place::from_host(host, &clusters).unwrap()
    }

    fn who(user: &str, groups: &[&str]) -> Identity {
        Identity {
            user: user.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        }
    }

    fn rule(name: &str) -> Rule {
        Rule {
            name: name.to_owned(),
            users: Vec::new(),
            groups: Vec::new(),
            clusters: Vec::new(),
            namespaces: Vec::new(),
            grant: Some(Grant::default()),
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = Policy {
            rules: Some(vec![
                Rule {
                    users: patterns(&["mallory"]),
                    grant: None,
                    ..rule("out")
                },
                Rule {
                    groups: patterns(&["ml", "ml-*"]),
                    namespaces: patterns(&["team-*"]),
                    clusters: patterns(&["prod*"]),
                    ..rule("teams")
                },
                Rule {
                    users: patterns(&["*@corp"]),
                    groups: patterns(&["ops"]),
                    ..rule("ops")
                },
                Rule {
                    clusters: patterns(&["dev"]),
                    namespaces: patterns(&["sandbox"]),
                    ..rule("everyone")
                },
            ]),
        };
        for (identity, host, expected) in [
            (
                who("mallory", &["ops"]),
                "web.sandbox",
                (Some("out"), false),
            ),
            (
                who("alice", &["ml"]),
                "web.team-a.prod",
                (Some("teams"), true),
            ),
            (
                who("alice", &["x", "ml-x"]),
                "web.team-a.prod-eu",
                (Some("teams"), true),
            ),
            (who("alice", &["ml"]), "web.team-a", (None, false)),
            (who("alice", &["ml"]), "web.teams.prod", (None, false)),
            (who("alice", &["mla"]), "web.team-a.prod", (None, false)),
            (who("alice", &["ops"]), "web.shop.prod", (Some("ops"), true)),
            (who("alice@corp", &[]), "web.shop.prod", (Some("ops"), true)),
            (who("ops", &[]), "web.shop.prod", (None, false)),
            (who("bob", &[]), "web.sandbox", (Some("everyone"), true)),
            (who("bob", &[]), "web.sandbox.prod", (None, false)),
        ] {
            let verdict = policy.decide(&identity, &place(host));
            let found = (verdict.rule, verdict.grant.is_some());
            assert_eq!(found, expected, "{identity:?} {host}");
        }
        let denied = policy.decide(&who("bob", &[]), &place("web.shop"));
        assert_eq!(denied.to_string(), "no rule matches: nothing is allowed");
    }

    #[test]
    fn no_policy_leaves_it_to_rbac_and_an_empty_one_allows_nothing() {
        let (bob, web) = (who("bob", &[]), place("web.shop"));
        let none = Policy::default();
        let verdict = none.decide(&bob, &web);
        assert_eq!(verdict.grant.as_deref(), Some(&Grant::default()));
        assert_eq!(
            verdict.to_string(),
            "no policy, so RBAC decides: jump, relay, exec; forwards through a relay: localhost:*, /*; remote forwards: yes; agent: no; X11: no"
        );
        let empty = Policy {
            rules: Some(Vec::new()),
        };
        assert_eq!(empty.decide(&bob, &web).grant, None);
    }

    #[test]
    fn a_recording_that_is_required_leaves_no_way_around_it() {
        let default = Grant::default();
        assert!(Backend::ALL.iter().all(|backend| default.allows(*backend)));
        assert!(default.allows_forward("localhost", 80) && default.allows_remote_forwards());
        let required = Grant {
            record: Record::Required,
            ..Grant::default()
        };
        assert!(!required.allows(Backend::Jump));
        assert!(required.allows(Backend::Relay) && required.allows(Backend::Exec));
        assert!(!required.allows_forward("localhost", 80) && !required.allows_socket("/run/x"));
        assert!(!required.allows_remote_forwards());
        let listed = Grant {
            forwards: Some(vec!["localhost:80".parse().unwrap()]),
            remote_forwards: Some(true),
            ..required
        };
        assert!(listed.allows_forward("localhost", 80) && listed.allows_remote_forwards());
        assert!(!listed.allows_forward("localhost", 81) && !listed.allows(Backend::Jump));
        let policy = Policy {
            rules: Some(vec![Rule {
                grant: Some(listed),
                ..rule("seen")
            }]),
        };
        assert_eq!(
            policy
                .decide(&who("bob", &[]), &place("web.shop"))
                .to_string(),
            "rule `seen`: relay, exec; forwards through a relay: localhost:80; remote forwards: yes; agent: no; X11: no; recorded, or closed"
        );
    }

    #[test]
    fn forwards_lead_where_they_are_listed() {
        for (allowed, host, port, expected) in [
            ("localhost:*", "localhost", 8080, true),
            ("localhost:*", "LOCALHOST", 8080, true),
            ("localhost:*", "127.0.0.1", 1, true),
            ("localhost:*", "127.8.8.8", 1, true),
            ("localhost:*", "::1", 65535, true),
            ("localhost:*", "::ffff:127.0.0.1", 80, true),
            ("localhost:*", "localhost", 0, false),
            // what a resolver could make of these is not asked
            ("localhost:*", "127.1", 80, false),
            ("localhost:*", "2130706433", 80, false),
            ("localhost:*", "0x7f000001", 80, false),
            ("localhost:*", "0", 80, false),
            ("localhost:*", "localhost.", 80, false),
            ("localhost:*", "localhost.evil.example", 80, false),
            ("localhost:*", "169.254.169.254", 80, false),
            ("localhost:*", "kubernetes.default", 443, false),
            ("localhost:8080", "localhost", 8080, true),
            ("localhost:8080", "localhost", 8081, false),
            ("localhost:8000-8999", "localhost", 8999, true),
            ("localhost:8000-8999", "localhost", 9000, false),
            ("*.svc:443", "db.shop.svc", 443, true),
            ("*.svc:443", "DB.shop.SVC", 443, true),
            ("*.svc:443", "db.shop.svc.evil.example", 443, false),
            ("*.svc:443", "svc", 443, false),
            ("*:*", "169.254.169.254", 80, true),
            ("10.0.0.0/8:*", "10.1.2.3", 80, true),
            ("10.0.0.0/8:*", "::ffff:10.1.2.3", 80, true),
            ("10.0.0.0/8:*", "10.evil.example", 80, false),
            ("10.0.0.1:80", "10.0.0.1", 80, true),
            ("10.0.0.1:80", "::ffff:10.0.0.1", 80, true),
            ("[2001:db8::1]:80", "2001:db8:0::1", 80, true),
            ("[2001:db8::/32]:80", "2001:db8::9", 80, true),
            ("/run/*", "/run/x", 80, false),
        ] {
            let grant = Grant {
                forwards: Some(vec![allowed.parse().unwrap()]),
                ..Grant::default()
            };
            assert_eq!(
                grant.allows_forward(host, port),
                expected,
                "{allowed}: {host}:{port}"
            );
        }
        for (allowed, path, expected) in [
            ("/run/*", "/run/app/x.sock", true),
            ("/run/*", "/run/../etc/x", false),
            ("/run/*", "/var/run/x", false),
            ("/*", "relative", false),
            ("localhost:*", "/run/x", false),
        ] {
            let grant = Grant {
                forwards: Some(vec![allowed.parse().unwrap()]),
                ..Grant::default()
            };
            assert_eq!(grant.allows_socket(path), expected, "{allowed}: {path}");
        }
        for wrong in [
            "",
            "localhost",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "localhost:9-8",
            "localhost:-",
            "::1:80",
            "[::1:80",
            "[localhost.]:80",
            "10.0.0.1/8:80",
            ":80",
            "a b:80",
            "h\u{1b}:80",
            "localhost:http",
        ] {
            let error = wrong.parse::<Destination>().expect_err(wrong);
            assert!(!error.contains(|c: char| c.is_control()), "{error}");
        }
    }

    #[test]
    fn logins_are_those_that_are_listed() {
        let any = Grant::default();
        assert_eq!(any.login(None, None), Some("root"));
        assert_eq!(any.login(None, Some("ubuntu")), Some("ubuntu"));
        assert_eq!(any.login(Some("me"), Some("ubuntu")), Some("me"));
        assert_eq!(any.login(None, Some("-oX")), None);
        let listed = Grant {
            logins: patterns(&["app", "dev-*"]),
            default_login: "app".to_owned(),
            ..Grant::default()
        };
        assert_eq!(listed.login(None, None), Some("app"));
        assert_eq!(listed.login(Some("dev-1"), None), Some("dev-1"));
        assert_eq!(listed.login(Some("root"), None), None);
        assert_eq!(listed.login(None, Some("root")), None);
    }

    /// What [`glob`] does, by trying everything.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|at| slow(rest, &text[at..])),
            Some((byte, rest)) => text.first() == Some(byte) && slow(rest, &text[1..]),
        }
    }

    proptest! {
        #[test]
        fn a_star_stands_for_anything(pattern in "[ab*]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), slow(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_destination_is_read_or_refused(text in "\\PC{0,30}|[a-z*.\\[\\]:/0-9-]{0,20}(:[0-9*-]{1,5})?", host in "[a-z0-9.:]{0,12}", port: u16) {
            if let Ok(destination) = text.parse::<Destination>() {
                prop_assert_eq!(destination.to_string().parse(), Ok(destination.clone()));
                destination.has(&host, port);
                prop_assert!(!destination.has(&host, 0));
            }
        }
    }
}
