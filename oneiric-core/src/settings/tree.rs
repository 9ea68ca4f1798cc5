//! The merged settings, before anything is known about their types: each value with its full key
//! and its origin.

use std::collections::BTreeMap;

use figment::value::{Tag, Value as Layered};
use figment::{Figment, Metadata, Profile as Layers};
use serde::de::DeserializeOwned;

use super::Profile;
use super::error::{Origin, Problem};

/// The names by which the layers are known in figment's metadata.
pub(super) const DEFAULT: &str = "default";
pub(super) const SERVERLESS: &str = "serverless";
pub(super) const DECLARED: &str = "declared";
pub(super) const FILE: &str = "file";
pub(super) const ENVIRONMENT: &str = "environment";
pub(super) const FLAG: &str = "flag";

/// A value, its full dotted key, and where it came from.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) key: String,
    pub(super) origin: Option<Origin>,
    pub(super) value: Value,
}

#[derive(Clone)]
pub(super) enum Value {
    Bool(bool),
    Integer(i64),
    Float(f64),
    /// A string of the file: a string and nothing else.
    String(String),
    /// Text of the environment or the command line: of whatever type is asked of it.
    Text(String),
    /// A date of the file, which no setting has.
    Date,
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Node {
    /// All that the layers say together.
    pub(super) fn merged(figment: &Figment) -> Self {
        let all = figment.find_value("").expect("every layer was read before it was merged");
        let origin_of = |tag, key: &str| Some(origin(figment.get_metadata(tag)?, key));
        Self::new(String::new(), all, &origin_of)
    }

    /// A node from a layered value, with everything below it.
    pub(super) fn new(
        key: String,
        value: Layered,
        origin_of: &dyn Fn(Tag, &str) -> Option<Origin>,
    ) -> Self {
        let origin = origin_of(value.tag(), &key);
        let text = matches!(origin, Some(Origin::Environment(_) | Origin::CommandLine));
        let value = match value {
            Layered::String(_, string) if text => Value::Text(string),
            Layered::String(_, string) => Value::String(string),
            Layered::Char(_, char) => Value::String(char.into()),
            Layered::Bool(_, bool) => Value::Bool(bool),
            Layered::Num(_, number) => match number.to_i128().map(i64::try_from) {
                Some(Ok(integer)) => Value::Integer(integer),
                _ => Value::Float(number.to_f64().expect("TOML's integers are i64, the rest f64")),
            },
            Layered::Empty(..) => Value::Date,
            Layered::Array(_, items) => Value::List(
                items
                    .into_iter()
                    .enumerate()
                    .map(|(index, item)| Self::new(format!("{key}[{index}]"), item, origin_of))
                    .collect(),
            ),
            Layered::Dict(_, dict) => Value::Table(
                dict.into_iter()
                    .map(|(name, value)| {
                        let node = Self::new(join(&key, &name), value, origin_of);
                        (name, node)
                    })
                    .collect(),
            ),
        };
        Self { key, origin, value }
    }

    /// The node at a dotted key below this one.
    pub(super) fn find(&self, key: &str) -> Option<&Self> {
        key.split('.').try_fold(self, |node, name| match &node.value {
            Value::Table(table) => table.get(name),
            _ => None,
        })
    }

    /// What the table at `key` holds, in the order of the names.
    pub(super) fn children(&self, key: &str) -> impl Iterator<Item = (&str, &Self)> {
        let table = match self.find(key).map(|node| &node.value) {
            Some(Value::Table(table)) => Some(table),
            _ => None,
        };
        table.into_iter().flatten().map(|(name, node)| (name.as_str(), node))
    }

    /// The value in the type that is wanted.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        T::deserialize(self).map_err(|refusal| refusal.into_problem(self))
    }
}

/// Where a layer has the value of a key from.
pub(super) fn origin(metadata: &Metadata, key: &str) -> Origin {
    match &*metadata.name {
        FILE => {
            let path = metadata.source.as_ref().and_then(|source| source.file_path());
            Origin::File(path.expect("the layer of a file has its path").to_owned())
        }
        ENVIRONMENT => Origin::Environment(metadata.interpolate(&Layers::Default, &[key])),
        DECLARED => {
            let place = metadata.interpolate(&Layers::Default, &[key]);
            let place =
                place.rsplit_once(':').and_then(|(path, line)| Some((path, line.parse().ok()?)));
            let (path, line) = place.expect("the layer of declarations says where each is");
            Origin::Line { path: path.into(), line }
        }
        FLAG => Origin::CommandLine,
        SERVERLESS => Origin::Default(Profile::Serverless),
        _ => Origin::Default(Profile::Default),
    }
}

/// The dotted key of a name within a table.
pub(super) fn join(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}
