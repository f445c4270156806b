//! A forwards file as it is written: which keys and values there may be, and where each one stands.
//!
//! What can be told of a value alone is told while it is read, by a visitor that fails: the YAML reader then adds the
//! place. What shows only later is looked for again by its [`Place`].

use std::fmt::{self, Display};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use super::Fault;
use crate::cluster::target::Target;
use crate::cluster::target::ports::{Address, PortSpec};

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
        // The version comes first: another one may have other keys.
        #[derive(Deserialize)]
        #[serde(expecting = "a map with `version`, `forwards` and `groups`")]
        struct Head {
            #[serde(rename = "version")]
            _version: Version,
        }
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
        let _: Head = serde_yaml::from_str(text).map_err(|error| fault(&error))?;
        let whole: Whole = serde_yaml::from_str(text).map_err(|error| fault(&error))?;
        let members = |list: List<Name>| list.0.into_iter().map(|Parsed(Name(name))| name);
        let groups = whole.groups.0.into_iter();
        Ok(Self {
            forwards: whole.forwards.0,
            groups: groups
                .map(|(name, list)| (name, members(list).collect()))
                .collect(),
        })
    }
}

/// The text of a file.
pub(super) fn text(bytes: &[u8]) -> Result<&str, Fault> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) if text.trim().is_empty() => {
            return Err(Fault {
                line: 1,
                column: 1,
                reason: "it is empty: write `version: 1` and `forwards:`".to_owned(),
            });
        }
        Ok(text) => return Ok(text),
        Err(error) => error,
    };
    let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
    let last = before.rsplit('\n').next().unwrap_or_default();
    Err(Fault {
        line: before.matches('\n').count() + 1,
        column: last.chars().count() + 1,
        reason: "this is no UTF-8: save the file as UTF-8".to_owned(),
    })
}

fn fault(error: &serde_yaml::Error) -> Fault {
    let (line, column) = error
        .location()
        .map_or((1, 1), |place| (place.line(), place.column()));
    // The place has a form of its own.
    let place = format!(" at line {line} column {column}");
    let mut reason = error.to_string().replace(&place, "");
    if reason == "missing field `version`" {
        reason += ": write `version: 1` first";
    }
    Fault {
        line,
        column,
        reason,
    }
}

/// The only one that there is.
struct Version;

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;
        impl Visitor<'_> for One {
            type Value = Version;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number 1")
            }

            fn visit_u64<E: serde::de::Error>(self, version: u64) -> Result<Version, E> {
                match version {
                    1 => Ok(Version),
                    other => Err(E::custom(format_args!(
                        "{other} is unknown: this kpf reads version 1"
                    ))),
                }
            }
        }
        deserializer.deserialize_any(One)
    }
}

/// What `@` stands before.
struct Name(String);

impl FromStr for Name {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let may = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        match !name.is_empty() && name.chars().all(may) {
            true => Ok(Self(name.to_owned())),
            false => Err(format!("`{name}` is no name: a name has a-z, 0-9 and `-`")),
        }
    }
}

/// A text that is read at once, so that what is wrong with it has its place.
struct Parsed<T>(T);

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(PhantomData<T>);
        impl<T: FromStr<Err: Display>> Visitor<'_> for Text<T> {
            type Value = Parsed<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Parsed<T>, E> {
                text.parse().map(Parsed).map_err(E::custom)
            }
        }
        // Numbers come as they are written, too.
        deserializer.deserialize_str(Text(PhantomData))
    }
}

/// At least one of them.
struct List<T>(Vec<Parsed<T>>);

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: FromStr<Err: Display>> Visitor<'de> for Items<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list, as in [a, b]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                match items.is_empty() {
                    true => Err(A::Error::custom("the list is empty: write at least one")),
                    false => Ok(List(items)),
                }
            }
        }
        deserializer.deserialize_seq(Items(PhantomData))
    }
}

fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    Parsed::deserialize(deserializer).map(|Parsed(value)| value)
}

fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let List(items) = List::deserialize(deserializer)?;
    Ok(items.into_iter().map(|Parsed(value)| value).collect())
}

fn optional_list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    list(deserializer).map(Some)
}

/// Names and what they stand for, each name once, in the order of the file.
struct Named<T>(Vec<(String, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Names<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
                let mut named = Vec::new();
                let mut seen = std::collections::HashSet::new();
                while let Some(name) = map.next_key_seed(NewName(&mut seen))? {
                    named.push((name, map.next_value()?));
                }
                Ok(Named(named))
            }
        }
        deserializer.deserialize_map(Names(PhantomData))
    }
}

/// A key that wasn't there before.
struct NewName<'a>(&'a mut std::collections::HashSet<String>);

impl<'de> DeserializeSeed<'de> for NewName<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NewName<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<String, E> {
        let Name(name) = name.parse().map_err(E::custom)?;
        match self.0.insert(name.clone()) {
            true => Ok(name),
            false => Err(E::custom(format_args!(
                "`{name}` is there twice: give one of them another name"
            ))),
        }
    }
}

/// A value's place in the document, as the keys that lead to it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    keys: &'a [&'a str],
    end: End,
}

#[derive(Clone, Copy)]
enum End {
    /// The last key itself.
    Key,
    Value,
    /// An item of the list that is the value.
    Item(usize),
}

impl<'a> Place<'a> {
    pub(super) fn key(keys: &'a [&'a str]) -> Self {
        let end = End::Key;
        Self { keys, end }
    }

    pub(super) fn value(keys: &'a [&'a str]) -> Self {
        let end = End::Value;
        Self { keys, end }
    }

    pub(super) fn item(keys: &'a [&'a str], index: usize) -> Self {
        let end = End::Item(index);
        Self { keys, end }
    }

    /// A fault at this place: the text is read once more, by a visitor that fails there.
    pub(super) fn fault(self, text: &str, reason: String) -> Fault {
        let found = self.deserialize(serde_yaml::Deserializer::from_str(text));
        let place = found.err().and_then(|error| error.location());
        Fault {
            line: place.as_ref().map_or(1, serde_yaml::Location::line),
            column: place.as_ref().map_or(1, serde_yaml::Location::column),
            reason,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match (self.keys, self.end) {
            ([], End::Value) => deserializer.deserialize_any(Here),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the way to a place")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((wanted, keys)) = self.keys.split_first() else {
            return Ok(());
        };
        let is_end = keys.is_empty() && matches!(self.end, End::Key);
        while let Some(key) = map.next_key_seed(Key(is_end.then_some(*wanted)))? {
            match key == *wanted {
                true => map.next_value_seed(Place { keys, ..self })?,
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let End::Item(index) = self.end else {
            return Ok(());
        };
        for _ in 0..index {
            seq.next_element::<IgnoredAny>()?;
        }
        let end = End::Value;
        seq.next_element_seed(Self { end, ..self })?;
        Ok(())
    }
}

/// A key, which fails if it is this one.
struct Key<'a>(Option<&'a str>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        match self.0 == Some(key) {
            true => Err(E::custom("here")),
            false => Ok(key.to_owned()),
        }
    }
}

/// Takes nothing, so that whatever it is handed is where the reader stops.
struct Here;

impl Visitor<'_> for Here {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}
