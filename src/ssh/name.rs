//! Where a connection wants to go, from the user name or from the host of a jump. Neither says who it is.
//!
//! ```text
//! user   = [ login "+" ] place [ "+" container ]
//! host   = place [ "+" container ] [ ".kpf" ]
//! place  = object "." namespace [ "." cluster ]
//! object = pod | type "_" name
//! ```
//!
//! | written | means |
//! |---|---|
//! | `web-0.shop` | the pod `web-0` in the namespace `shop` of the default cluster |
//! | `web-0.shop.prod` | the same on `prod`, which is an alias of the configuration |
//! | `web.v1.shop.prod` | the pod `web.v1`: with dots in its name it needs its cluster |
//! | `deploy_api.shop` | a pod of the deployment `api` |
//! | `root+web-0.shop` | as `root`, where the pod has an SSH server |
//! | `+web-0.shop+sidecar` | in the container `sidecar`, with no login of its own |
//! | nothing, or a word with neither `.` nor `+` | nowhere: the gateway's own commands |
//!
//! With two words before the cluster nothing is guessed: the last of three or more is the cluster, so that one name
//! means one place whatever runs there. `/` and `:` are no separators because scp and rsync cut a host at them.

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

use crate::cluster::target::{Kind, Target, is_label};
use crate::untrusted::printable;

/// Bytes of a name: more than its parts can have together.
const LONGEST: usize = 512;

/// Bytes of a login: Linux's limit (`useradd(8)`).
const LONGEST_LOGIN: usize = 32;

/// Characters of a name in an error.
const SHOWN: usize = 120;

/// What the configuration calls its clusters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Clusters {
    default: String,
    aliases: BTreeSet<String>,
}

impl Clusters {
    /// The aliases that there are; `default` is one of them whether `aliases` has it or not.
    ///
    /// # Errors
    /// An alias is no RFC 1123 label that begins with a letter (so that no IP address is a place), or is `kpf`.
    pub fn new<'a>(
        default: &'a str,
        aliases: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, NameError> {
        let aliases = aliases.into_iter().chain([default]).map(|alias| {
            let may = is_label(alias) && !alias.starts_with(|c: char| c.is_ascii_digit());
            match may && alias != "kpf" {
                true => Ok(alias.to_owned()),
                false => Err(NameError::Alias(printable(alias, SHOWN))),
            }
        });
        Ok(Self {
            aliases: aliases.collect::<Result<_, _>>()?,
            default: default.to_owned(),
        })
    }

    /// The cluster of a place that names none.
    #[must_use]
    pub fn default(&self) -> &str {
        &self.default
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.aliases.iter().map(String::as_str)
    }

    fn list(&self) -> String {
        let names: Vec<&str> = self.iter().collect();
        printable(&names.join(", "), SHOWN)
    }
}

/// What a user name leads to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// Nowhere: the gateway itself answers.
    BuiltIn,
    /// A place in a cluster.
    Place(Place),
}

impl Destination {
    /// Reads a user name. What has neither `.` nor `+` can be no place, and is most often the name that its
    /// owner has on their own machine.
    ///
    /// # Errors
    /// It looks like a place but is none.
    pub fn from_user(user: &str, clusters: &Clusters) -> Result<Self, NameError> {
        if !user.contains(['.', '+']) {
            return Ok(Self::BuiltIn);
        }
        let name = Name::new(user)?;
        let (login, place, container) = match user.split('+').collect::<Vec<_>>()[..] {
            [place] => ("", place, None),
            [first, second] if first.contains('.') && !second.contains('.') => {
                return Err(name.wrong(format_args!(
                    "before one `+` is the login: write `+{}` for a container",
                    name.shown()
                )));
            }
            [login, place] => (login, place, None),
            [login, place, container] => (login, place, Some(container)),
            _ => return Err(name.wrong("it has more than two `+`")),
        };
        let login = (!login.is_empty()).then_some(login);
        name.place(login, place, container, clusters)
            .map(Self::Place)
    }
}

/// A place in a cluster, by names that Kubernetes could have: each is fit for a URL's path and for a terminal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    login: Option<String>,
    target: Target,
    cluster: String,
    container: Option<String>,
}

impl Place {
    /// Reads the host of a jump. It is never looked up in the DNS.
    ///
    /// # Errors
    /// It is no place.
    pub fn from_host(host: &str, clusters: &Clusters) -> Result<Self, NameError> {
        let name = Name::new(host)?;
        let host = host.strip_suffix(".kpf").unwrap_or(host);
        match host.split('+').collect::<Vec<_>>()[..] {
            [place] => name.place(None, place, None, clusters),
            [place, container] if !container.contains('.') => {
                name.place(None, place, Some(container), clusters)
            }
            _ => Err(name.wrong("the host of a jump has no login: write OBJECT.NAMESPACE")),
        }
    }

    /// Whom to be at the pod's SSH server, where the user says so.
    #[must_use]
    pub fn login(&self) -> Option<&str> {
        self.login.as_deref()
    }

    /// The type of the object.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.target.kind()
    }

    /// The name of the object.
    #[must_use]
    pub fn name(&self) -> &str {
        self.target.name()
    }

    /// Where the object is.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.target.own_namespace().unwrap_or_default() // a place always has one
    }

    /// The alias of its cluster, also where the default was meant.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The container, where the user says so.
    #[must_use]
    pub fn container(&self) -> Option<&str> {
        self.container.as_deref()
    }

    /// The object, to be looked for in [`Self::cluster`].
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }
}

/// As a user name, with its cluster: `root+deploy_api.shop.prod`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.login, &self.container) {
            (Some(login), _) => write!(f, "{login}+")?,
            (None, Some(_)) => f.write_str("+")?,
            (None, None) => {}
        }
        if self.kind() != Kind::Pod {
            write!(f, "{}_", self.kind().short())?;
        }
        write!(f, "{}.{}.{}", self.name(), self.namespace(), self.cluster)?;
        match &self.container {
            Some(container) => write!(f, "+{container}"),
            None => Ok(()),
        }
    }
}

/// Why a name is no place: one line, fit to print.
#[derive(Debug, Eq, Error, PartialEq)]
pub enum NameError {
    /// What somebody has sent makes no place.
    #[error("`{name}` is no target: {reason}")]
    NoPlace {
        /// What was sent.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The configuration calls a cluster what no name can say.
    #[error(
        "`{0}` is no alias of a cluster: it has a-z, 0-9 and `-`, up to 63, begins with a letter and is not `kpf`"
    )]
    Alias(String),
}

/// What was sent, for its errors.
struct Name<'a>(&'a str);

impl<'a> Name<'a> {
    fn new(text: &'a str) -> Result<Self, NameError> {
        let name = Self(text);
        if text.len() > LONGEST {
            return Err(name.wrong(format_args!("it is longer than {LONGEST} characters")));
        }
        // Whatever the parts may be, only these are in any of them.
        let may = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-');
        match text.chars().find(|c| !may(*c)) {
            Some(c) => Err(name.wrong(format_args!(
                "`{}` can't be in one: it has a-z, 0-9, `-`, `_`, `.` and `+`",
                // white space would become nothing
                match c.is_ascii_graphic() {
                    true => c.to_string(),
                    false => c.escape_unicode().to_string(),
                }
            ))),
            None => Ok(name),
        }
    }

    fn shown(&self) -> String {
        printable(self.0, SHOWN)
    }

    fn wrong(&self, reason: impl fmt::Display) -> NameError {
        NameError::NoPlace {
            name: self.shown(),
            reason: reason.to_string(),
        }
    }

    fn place(
        &self,
        login: Option<&str>,
        place: &str,
        container: Option<&str>,
        clusters: &Clusters,
    ) -> Result<Place, NameError> {
        if let Some(login) = login.filter(|login| !is_login(login)) {
            return Err(self.wrong(format_args!(
                "`{}` is no login: it has letters, digits, `-`, `_` and `.`, up to {LONGEST_LOGIN}, and begins with none of `-` and `.`",
                printable(login, SHOWN)
            )));
        }
        if let Some(container) = container.filter(|container| !is_label(container)) {
            return Err(self.wrong(format_args!(
                "`{}` is no name of a container",
                printable(container, SHOWN)
            )));
        }
        let words: Vec<&str> = place.split('.').collect();
        let (object, namespace, cluster) = match &words[..] {
            [] | [_] => return Err(self.wrong("it lacks a namespace: write OBJECT.NAMESPACE")),
            [object, namespace] => ((*object).to_owned(), *namespace, clusters.default()),
            [object @ .., namespace, cluster] => match clusters.aliases.get(*cluster) {
                Some(cluster) => (object.join("."), *namespace, &cluster[..]),
                None => {
                    let reason = format!(
                        "`{}` is no cluster here, and three words or more end in one: the clusters are {}; for a pod with dots in its name write POD.NAMESPACE.{}",
                        printable(cluster, SHOWN),
                        clusters.list(),
                        clusters.default()
                    );
                    return Err(self.wrong(reason));
                }
            },
        };
        let (kind, name) = match object.split_once('_') {
            // as everywhere in kubectl, but in lower case like the rest
            Some((word, name)) => match Kind::from_word(word) {
                Some(kind) if !word.contains(|c: char| c.is_ascii_uppercase()) => (kind, name),
                _ => {
                    return Err(self.wrong(format_args!(
                        "`{}` leads to no pod: before `_` is one of deploy, sts, job, ds, rs, rc, svc and po",
                        printable(word, SHOWN)
                    )));
                }
            },
            None => (Kind::Pod, &object[..]),
        };
        if !is_label(namespace) {
            return Err(self.wrong(format_args!(
                "`{}` is no namespace: it has a-z, 0-9 and `-`, up to 63",
                printable(namespace, SHOWN)
            )));
        }
        let target = Target::in_namespace(kind, namespace, name);
        Ok(Place {
            login: login.map(str::to_owned),
            target: target.map_err(|error| self.wrong(error))?,
            cluster: cluster.to_owned(),
            container: container.map(str::to_owned),
        })
    }
}

/// What a Unix system could call a user, and no option of a command.
pub(super) fn is_login(login: &str) -> bool {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=LONGEST_LOGIN).contains(&login.len())
        && login.bytes().all(may)
        && !login.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    /// What a path's segment keeps as it is.
    const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.');

    fn clusters() -> Clusters {
        Clusters::new("dev", ["prod", "prod-eu"]).unwrap()
    }

    fn user(name: &str) -> Result<Destination, NameError> {
        Destination::from_user(name, &clusters())
    }

    /// A place as the parts that it should have: login, kind, name, namespace, cluster, container.
    type Parts<'a> = (
        Option<&'a str>,
        Kind,
        &'a str,
        &'a str,
        &'a str,
        Option<&'a str>,
    );

    fn parts(place: &Place) -> Parts<'_> {
        (
            place.login(),
            place.kind(),
            place.name(),
            place.namespace(),
            place.cluster(),
            place.container(),
        )
    }

    #[test]
    fn user_names_are_read_as_they_are_documented() {
        let pod = Kind::Pod;
        for (name, expected) in [
            ("web-0.shop", (None, pod, "web-0", "shop", "dev", None)),
            ("web-0.shop.dev", (None, pod, "web-0", "shop", "dev", None)),
            (
                "web-0.shop.prod",
                (None, pod, "web-0", "shop", "prod", None),
            ),
            (
                "web.v1.shop.prod",
                (None, pod, "web.v1", "shop", "prod", None),
            ),
            ("web.shop.prod", (None, pod, "web", "shop", "prod", None)),
            // the alias of a cluster may be the name of a namespace, or of a pod
            ("prod.prod.prod", (None, pod, "prod", "prod", "prod", None)),
            ("prod.prod", (None, pod, "prod", "prod", "dev", None)),
            (
                "root+web-0.shop",
                (Some("root"), pod, "web-0", "shop", "dev", None),
            ),
            (
                "J.Doe_1+web.shop",
                (Some("J.Doe_1"), pod, "web", "shop", "dev", None),
            ),
            ("+web.shop", (None, pod, "web", "shop", "dev", None)),
            (
                "+web.shop+sidecar",
                (None, pod, "web", "shop", "dev", Some("sidecar")),
            ),
            (
                "root+web.shop.prod-eu+c-1",
                (Some("root"), pod, "web", "shop", "prod-eu", Some("c-1")),
            ),
            (
                "deploy_api.shop",
                (None, Kind::Deployment, "api", "shop", "dev", None),
            ),
            (
                "sts_db.v1.shop.prod",
                (None, Kind::StatefulSet, "db.v1", "shop", "prod", None),
            ),
            ("job_a.b", (None, Kind::Job, "a", "b", "dev", None)),
            ("ds_a.b", (None, Kind::DaemonSet, "a", "b", "dev", None)),
            ("rs_a.b", (None, Kind::ReplicaSet, "a", "b", "dev", None)),
            ("svc_a.b", (None, Kind::Service, "a", "b", "dev", None)),
            (
                "rc_a.b",
                (None, Kind::ReplicationController, "a", "b", "dev", None),
            ),
            ("pod_a.b", (None, pod, "a", "b", "dev", None)),
            ("0.1", (None, pod, "0", "1", "dev", None)),
        ] {
            let found = user(name).unwrap_or_else(|error| panic!("{name}: {error}"));
            let Destination::Place(place) = found else {
                panic!("{name} is no place");
            };
            assert_eq!(parts(&place), expected, "{name}");
        }
    }

    #[test]
    fn what_can_be_no_place_is_for_the_gateway_itself() {
        for name in [
            "",
            "alice",
            "Administrator",
            "john_doe",
            "DOMAIN\\user",
            "jürgen",
            "deploy_api",
            "a b",
        ] {
            assert_eq!(user(name), Ok(Destination::BuiltIn), "{name}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        let long = format!("{}.shop", "a".repeat(254));
        let longer = format!("{}.shop", "a.".repeat(400));
        let namespace = format!("web.{}", "a".repeat(64));
        let login = format!("{}+web.shop", "a".repeat(33));
        for (name, part) in [
            (".", "is no namespace"),
            ("+", "lacks a namespace"),
            ("root+web", "lacks a namespace"),
            ("web.", "is no namespace"),
            (".shop", "lacks the name of a pod"),
            ("web..prod", "`` is no namespace"),
            (".shop.prod", "lacks the name of a pod"),
            ("web..shop.prod", "no name of a pod"),
            ("web.shop.", "`` is no cluster"),
            ("web.shop+sidecar", "write `+web.shop+sidecar`"),
            ("a+b+c+d.e", "more than two `+`"),
            ("web.shop++", "`` is no name of a container"),
            ("root+web.shop+", "`` is no name of a container"),
            ("root+web.shop+A", "`A` is no name of a container"),
            (
                "web.v1.shop",
                "`shop` is no cluster here, and three words or more end in one: the clusters are dev, prod, prod-eu; for a pod with dots in its name write POD.NAMESPACE.dev",
            ),
            ("127.0.0.1", "`1` is no cluster"),
            ("169.254.169.254", "`254` is no cluster"),
            ("kubernetes.default.svc", "`svc` is no cluster"),
            ("web.shop.kpf", "`kpf` is no cluster"),
            ("web.shop.Prod", "`Prod` is no cluster"),
            ("Web.shop", "`Web` is no name of a pod"),
            ("web.Shop", "`Shop` is no namespace"),
            ("web-.shop", "no name"),
            ("-web.shop", "no name"),
            ("web.-shop", "is no namespace"),
            ("web.svc_shop", "`svc_shop` is no namespace"),
            ("_web.shop", "`` leads to no pod"),
            ("deploy_.shop", "lacks the name of a deployment"),
            ("deploy_a_b.shop", "`a_b` is no name"),
            ("DEPLOY_api.shop", "`DEPLOY` leads to no pod"),
            ("cronjob_api.shop", "`cronjob` leads to no pod"),
            ("-oProxyCommand=x+web.shop", "`=` can't be in one"),
            ("-l+web.shop", "`-l` is no login"),
            (".ssh+web.shop", "`.ssh` is no login"),
            (&login, "is no login"),
            (&long, "up to 253"),
            (&longer, "longer than 512"),
            (&namespace, "is no namespace"),
            // what other systems use as separators
            ("shop/web.x", "`/` can't be in one"),
            ("root:web.shop", "`:` can't"),
            ("root@web.shop", "`@` can't"),
            ("root%web.shop", "`%` can't"),
            ("root#web.shop", "`#` can't"),
            ("root~web.shop", "`~` can't"),
            ("a,b.shop", "`,` can't"),
            ("[::1].shop", "`[` can't"),
            // what would do harm in a path, a shell, a terminal or a log
            ("../../etc.shop", "`/` can't"),
            ("web.shop/exec?command=id", "`/` can't"),
            ("web.shop?x", "`?` can't"),
            ("web%2f.shop", "`%` can't"),
            ("$(id).shop", "`$` can't"),
            ("`id`.shop", "can't be in one"),
            ("web.shop;id", "`;` can't"),
            ("web.shop|id", "`|` can't"),
            ("web.shop&id", "`&` can't"),
            ("web.shop'", "`'` can't"),
            ("web.shop\"", "`\"` can't"),
            ("web.shop\\", "`\\` can't"),
            ("web.shop*", "`*` can't"),
            ("web.shop{a}", "`{` can't"),
            ("web.shop\n", "`\\u{a}` can't"),
            ("web.shop ", "`\\u{20}` can't"),
            ("web.shop\0", "`\\u{0}` can't"),
            ("\u{1b}]0;x.shop", "`\\u{1b}` can't"),
            ("web.shop\u{9b}", "`\\u{9b}` can't"),
            ("web.shop\u{202e}", "`\\u{202e}` can't"),
            ("wéb.shop", "`\\u{e9}` can't"),
            ("web\u{ff0e}shop.x", "`\\u{ff0e}` can't"), // a full-width dot
        ] {
            let error = user(name).expect_err(name).to_string();
            assert!(error.contains(part), "{name:?}: {error}");
            assert!(error.chars().count() < 500, "{name:?}: {error}");
            assert!(error.chars().all(|c| !c.is_control()), "{name:?}: {error}");
        }
    }

    #[test]
    fn hosts_have_no_login_and_may_end_in_kpf() {
        let clusters = clusters();
        for (host, expected) in [
            ("web.shop", (None, Kind::Pod, "web", "shop", "dev", None)),
            (
                "web.shop.kpf",
                (None, Kind::Pod, "web", "shop", "dev", None),
            ),
            (
                "web.v1.shop.prod.kpf",
                (None, Kind::Pod, "web.v1", "shop", "prod", None),
            ),
            (
                "deploy_api.shop+side.kpf",
                (None, Kind::Deployment, "api", "shop", "dev", Some("side")),
            ),
        ] {
            let place = Place::from_host(host, &clusters).unwrap();
            assert_eq!(parts(&place), expected, "{host}");
        }
        for (host, part) in [
            ("", "lacks a namespace"),
            ("localhost", "lacks a namespace"),
            ("2130706433", "lacks a namespace"),
            ("127.0.0.1", "is no cluster"),
            ("127.1.kpf.kpf", "`kpf` is no cluster"),
            ("::1", "`:` can't be in one"),
            ("[::1]", "`[` can't be in one"),
            ("metadata.google.internal", "is no cluster"),
            ("kubernetes.default.svc.cluster.local", "is no cluster"),
            ("web.kpf", "lacks a namespace"),
            (".kpf", "lacks a namespace"),
            ("web.shop.", "is no cluster"),
            ("root+web.shop+side", "has no login"),
            ("root+web.shop", "has no login"),
        ] {
            let error = Place::from_host(host, &clusters).expect_err(host);
            let error = error.to_string();
            assert!(error.contains(part), "{host}: {error}");
        }
    }

    #[test]
    fn aliases_are_words_that_no_address_has() {
        let clusters = clusters();
        assert_eq!(clusters.default(), "dev");
        assert_eq!(
            clusters.iter().collect::<Vec<_>>(),
            ["dev", "prod", "prod-eu"]
        );
        for alias in [
            "", "1", "10", "0a", "Prod", "a.b", "a_b", "arn:aws", "kpf", "a\n",
        ] {
            let error = Clusters::new("dev", [alias]).expect_err(alias).to_string();
            assert!(error.contains("is no alias"), "{alias}: {error}");
            Clusters::new(alias, []).expect_err(alias);
        }
    }

    /// What scp and rsync would make of `USER@HOST:PATH`: they cut at the first `/` and `:`.
    #[test]
    fn scp_and_rsync_keep_every_name_whole() {
        for name in [
            "web-0.shop",
            "root+deploy_api.shop.prod",
            "+web.shop.prod+sidecar",
        ] {
            let Ok(Destination::Place(place)) = user(name) else {
                panic!("{name}");
            };
            for written in [name.to_owned(), place.to_string()] {
                assert!(!written.contains(['/', ':', '@', '%', '#', ',', '~', ' ']));
                assert_eq!(user(&written), Ok(Destination::Place(place.clone())));
            }
        }
    }

    proptest! {
        #[test]
        fn any_name_is_one_place_or_an_error(
            name in "\\PC{0,60}|[a-z0-9A-Z._+-]{0,60}|([a-z]{1,6}\\+)?((deploy|svc|po|x)_)?[a-z.]{1,9}\\.[a-z]{1,5}(\\.(dev|prod))?(\\+[a-z]{1,3})?"
        ) {
            let clusters = clusters();
            if let Ok(Destination::Place(place)) = user(&name) {
                let shown = place.to_string();
                prop_assert_eq!(user(&shown), Ok(Destination::Place(place.clone())), "{}", shown);
                // A segment of a path stays what it is, and what RBAC sees is what was checked.
                for segment in [place.namespace(), place.name(), place.cluster()] {
                    let encoded = utf8_percent_encode(segment, PATH);
                    prop_assert_eq!(encoded.to_string(), segment);
                    prop_assert!(!segment.is_empty() && segment != "." && segment != "..");
                }
                prop_assert!(place.login().is_none_or(is_login));
                let pod = name.strip_prefix('+').unwrap_or(&name);
                prop_assert!(pod.contains(place.namespace()) && pod.contains(place.name()));
            }
            if let Ok(place) = Place::from_host(&name, &clusters) {
                prop_assert_eq!(place.login(), None);
                let host = place.to_string();
                let host = format!("{}.kpf", host.strip_prefix('+').unwrap_or(&host));
                prop_assert_eq!(Place::from_host(&host, &clusters), Ok(place));
            }
        }

        #[test]
        fn the_parts_of_a_place_are_found_again(
            login in proptest::option::of("[a-z_][a-z0-9_-]{0,20}"),
            kind in proptest::sample::select(vec!["", "deploy_", "sts_", "job_", "ds_", "rs_", "svc_"]),
            pod in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z0-9]{1,9}){0,3}",
            namespace in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
            cluster in proptest::sample::select(vec!["dev", "prod", "prod-eu"]),
            container in proptest::option::of("[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"),
        ) {
            let mut name = login.as_ref().map(|login| format!("{login}+")).unwrap_or_default();
            if let (None, Some(_)) = (&login, &container) {
                name += "+";
            }
            name += &format!("{kind}{pod}.{namespace}.{cluster}");
            if let Some(container) = &container {
                name += &format!("+{container}");
            }
            let Ok(Destination::Place(place)) = user(&name) else {
                panic!("{name}");
            };
            prop_assert_eq!(place.to_string(), name);
            prop_assert_eq!(parts(&place), (
                login.as_deref(),
                Kind::from_word(kind.trim_end_matches('_')).unwrap_or(Kind::Pod),
                &pod[..], &namespace[..], cluster, container.as_deref(),
            ));
        }
    }
}
