//! A forwards file as it is written: which keys and values there may be.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::cluster::target::Target;
use crate::cluster::target::ports::{Address, PortSpec};
use crate::yaml::{self, Fault, List, Name, Named, Parsed, list, optional_list, parsed};

/// All of it.
pub(super) struct Document {
    pub(super) forwards: Vec<(String, Forward)>,
    pub(super) groups: Vec<(String, Vec<String>)>,
}

/// A value of `forwards`.
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a map with `target` and `ports`, and maybe `context`, `namespace`, `address`, `container` and `via`"
)]
pub(super) struct Forward {
    pub(super) context: Option<String>,
    pub(super) namespace: Option<String>,
    #[serde(deserialize_with = "parsed")]
    pub(super) target: Target,
    #[serde(deserialize_with = "list")]
    pub(super) ports: Vec<PortSpec>,
    #[serde(default, deserialize_with = "optional_list")]
    pub(super) address: Option<Vec<Address>>,
    pub(super) container: Option<String>,
    pub(super) via: Option<Via>,
}

/// How streams are made, as by `--via`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// Port-forward where it can be had.
    Auto,
    /// Port-forward only.
    Portforward,
    /// A command in a container.
    Exec,
}

impl Document {
    pub(super) fn read(text: &str) -> Result<Self, Fault> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            #[serde(rename = "version")]
            _version: IgnoredAny,
            #[serde(default)]
            forwards: Named<Forward>,
            #[serde(default)]
            groups: Named<List<Name>>,
        }
        let expected = "a map with `version`, `forwards` and `groups`";
        let whole: Whole = yaml::document(text, expected)?;
        let members = |list: List<Name>| list.0.into_iter().map(|Parsed(Name(name))| name);
        let forwards = whole.forwards.0.into_iter();
        let groups = whole.groups.0.into_iter();
        Ok(Self {
            forwards: forwards
                .map(|(Name(name), forward)| (name, forward))
                .collect(),
            groups: groups
                .map(|(Name(name), list)| (name, members(list).collect()))
                .collect(),
        })
    }
}
