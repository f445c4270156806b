//! YAML files that people write: what may be in them, and where each thing stands.
//!
//! What can be told of a value alone is told while it is read, by a visitor that fails: the YAML reader then adds the
//! place. What shows only later is looked for again by its [`Place`].

use std::collections::HashSet;
use std::fmt::{self, Display};
use std::fs::File;
use std::hash::Hash;
use std::io::{self, Read as _};
use std::marker::PhantomData;
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess,
    Visitor,
};

use crate::untrusted::printable;

/// Bytes of a file: far more than a person writes.
const LARGEST: u64 = 1 << 20;

/// What is wrong at a place of the text.
#[derive(Debug)]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// From 1.
    pub column: usize,
    /// What is wrong there, and what is allowed.
    pub reason: String,
}

/// A file's content, that of stdin for `-`. Blocks.
///
/// # Errors
/// It can't be read, or is larger than 1 MiB.
pub fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match path == Path::new("-") {
        true => io::stdin().take(LARGEST + 1).read_to_end(&mut bytes)?,
        false => File::open(path)?
            .take(LARGEST + 1)
            .read_to_end(&mut bytes)?,
    };
    match bytes.len() as u64 > LARGEST {
        true => Err(io::Error::other("it is larger than 1 MiB")),
        false => Ok(bytes),
    }
}

/// The text of a file.
///
/// # Errors
/// It is none, or there is nothing in it: then `hint` says what to write.
pub fn text<'a>(bytes: &'a [u8], hint: &str) -> Result<&'a str, Fault> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) if text.trim().is_empty() => {
            return Err(Fault {
                line: 1,
                column: 1,
                reason: format!("it is empty: {hint}"),
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

/// All of a document, which has `version: 1`. `expected` says what it should be: "a map with ...".
///
/// # Errors
/// The first thing that is wrong with it.
pub fn document<T: DeserializeOwned>(text: &str, expected: &'static str) -> Result<T, Fault> {
    // The version comes first: another one may have other keys.
    Head { expected }
        .deserialize(serde_yaml::Deserializer::from_str(text))
        .map_err(|error| fault(&error))?;
    serde_yaml::from_str(text).map_err(|error| fault(&error))
}

/// Looks for the version, and passes over everything else.
struct Head {
    expected: &'static str,
}

impl<'de> DeserializeSeed<'de> for Head {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Head {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut version = None;
        while let Some(key) = map.next_key::<String>()? {
            match key == "version" {
                true => version = Some(map.next_value::<Version>()?),
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        match version {
            Some(Version) => Ok(()),
            None => Err(A::Error::missing_field("version")),
        }
    }
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

/// A name that somebody has given to something: a-z, 0-9 and `-`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Name(pub String);

impl Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

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
pub struct Parsed<T>(pub T);

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
pub struct List<T>(pub Vec<Parsed<T>>);

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

/// For `deserialize_with`: a text that is read at once.
///
/// # Errors
/// What reading it says, with its place.
pub fn parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    Parsed::deserialize(deserializer).map(|Parsed(value)| value)
}

/// For `deserialize_with`: a list of such texts, at least one.
///
/// # Errors
/// As [`parsed`]; or it is empty.
pub fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    let List(items) = List::deserialize(deserializer)?;
    Ok(items.into_iter().map(|Parsed(value)| value).collect())
}

/// [`list`] for a key that may be left out.
///
/// # Errors
/// As [`list`].
pub fn optional_list<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: Display>,
{
    list(deserializer).map(Some)
}

/// Names and what they stand for, each name once, in the order of the file.
pub struct Named<V, K = Name>(pub Vec<(K, V)>);

impl<V, K> Default for Named<V, K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, V, K> Deserialize<'de> for Named<V, K>
where
    V: Deserialize<'de>,
    K: FromStr<Err: Display> + Eq + Hash + Clone + Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names<V, K>(PhantomData<(V, K)>);
        impl<'de, V, K> Visitor<'de> for Names<V, K>
        where
            V: Deserialize<'de>,
            K: FromStr<Err: Display> + Eq + Hash + Clone + Display,
        {
            type Value = Named<V, K>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut named = Vec::new();
                let mut seen = HashSet::new();
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
struct NewName<'a, K>(&'a mut HashSet<K>);

impl<'de, K> DeserializeSeed<'de> for NewName<'_, K>
where
    K: FromStr<Err: Display> + Eq + Hash + Clone + Display,
{
    type Value = K;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<K, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<K> Visitor<'_> for NewName<'_, K>
where
    K: FromStr<Err: Display> + Eq + Hash + Clone + Display,
{
    type Value = K;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<K, E> {
        let name: K = name.parse().map_err(E::custom)?;
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
pub struct Place<'a> {
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
    /// The last of the keys. A number among them is the index of a list.
    #[must_use]
    pub fn key(keys: &'a [&'a str]) -> Self {
        let end = End::Key;
        Self { keys, end }
    }

    /// What the last of the keys stands before.
    #[must_use]
    pub fn value(keys: &'a [&'a str]) -> Self {
        let end = End::Value;
        Self { keys, end }
    }

    /// An item of the list that it stands before.
    #[must_use]
    pub fn item(keys: &'a [&'a str], index: usize) -> Self {
        let end = End::Item(index);
        Self { keys, end }
    }

    /// A fault at this place: the text is read once more, by a visitor that fails there.
    pub fn fault(self, text: &str, reason: String) -> Fault {
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
        let (index, next) = match (self.keys.split_first(), self.end) {
            (Some((index, keys)), _) => (index.parse().ok(), Place { keys, ..self }),
            (None, End::Item(index)) => (
                Some(index),
                Place {
                    end: End::Value,
                    ..self
                },
            ),
            (None, _) => (None, self),
        };
        let Some(index) = index else { return Ok(()) };
        for _ in 0..index {
            seq.next_element::<IgnoredAny>()?;
        }
        seq.next_element_seed(next)?;
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

/// The name that was probably meant, or else those that there are.
pub fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str>, mark: &str) -> String {
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    let distances = known
        .iter()
        .map(|known| (strsim::osa_distance(name, known), *known));
    // A typing error in every third letter, two in a short name.
    let likely = distances
        .filter(|(distance, _)| *distance <= (name.len() / 3).max(2))
        .min_by_key(|(distance, _)| *distance);
    match likely {
        Some((_, likely)) => format!("did you mean `{mark}{likely}`?"),
        None if known.is_empty() => "there are none".to_owned(),
        None => {
            let marked: Vec<_> = known.iter().map(|name| format!("{mark}{name}")).collect();
            printable(&format!("there are {}", marked.join(", ")), 200)
        }
    }
}
