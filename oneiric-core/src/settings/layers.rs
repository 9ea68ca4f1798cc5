//! The places where settings are written, each read and checked for itself, then merged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use figment::value::{Dict, Empty, Map, Tag, Value};
use figment::{Figment, Metadata, Profile as Layers, Provider};

use super::error::{Origin, Problem, SettingsError};
use super::keys::{self, Meaning, env};
use super::sources::Sources;
use super::tree::{self, join};
use crate::{AdapterId, AliasId, ProviderId};

pub(super) const DEFAULTS: &str = include_str!("default.toml");
pub(super) const SERVERLESS_DEFAULTS: &str = include_str!("serverless.toml");

const IS_A_TABLE: &str = "is a table, and wants its keys set one by one";

/// Everything that one place says.
pub(super) struct Layer {
    metadata: Metadata,
    dict: Dict,
}

impl Layer {
    /// The defaults of every profile.
    pub(super) fn defaults() -> Self {
        Self::embedded(tree::DEFAULT, DEFAULTS)
    }

    /// What profile `serverless` has in their place.
    pub(super) fn serverless_defaults() -> Self {
        Self::embedded(tree::SERVERLESS, SERVERLESS_DEFAULTS)
    }

    fn embedded(name: &'static str, text: &str) -> Self {
        let dict = read_toml(Path::new(name), text).expect("the embedded defaults are TOML");
        Self { metadata: Metadata::named(name), dict }
    }

    /// The settings file, where there is one.
    pub(super) fn file(sources: &Sources) -> Result<Option<Self>, SettingsError> {
        let Some(path) = sources.config_file()? else { return Ok(None) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(source) => return Err(SettingsError::Unreadable { path, source }),
        };
        let dict = read_toml(&path, &text)?;
        Ok(Some(Self { metadata: Metadata::from(tree::FILE, path.as_path()), dict }))
    }

    /// The environment.
    pub(super) fn environment(sources: &Sources, problems: &mut Vec<Problem>) -> Self {
        let mut dict = Dict::new();
        let mut names = BTreeMap::<String, String>::new();
        for (name, value) in sources.variables() {
            let path = name[env::PREFIX.len()..].to_ascii_lowercase();
            let path: Vec<_> = path.split("__").collect();
            let key = path.join(".");
            let clash = match names.get(&key) {
                Some(other) => Some(format!("is set twice, also by {other}")),
                None => insert(&mut dict, &path, value).err().map(str::to_owned),
            };
            names.insert(key.clone(), name.to_owned());
            if let Some(message) = clash {
                let origin = Origin::Environment(name.to_owned());
                problems.push(Problem::new(key, Some(origin), message));
            }
        }
        let names = Arc::new(names);
        let metadata = Metadata::named(tree::ENVIRONMENT).interpolater(move |_, path| {
            let key = path.join(".");
            // A table has no variable of its own, only its entries have.
            names.get(&key).cloned().unwrap_or_else(|| keys::env_name(&key) + keys::ENV_REST)
        });
        Self { metadata, dict }
    }

    /// What another file declares: fields of aliases, and where it is declared.
    pub(super) fn declared(
        entries: Vec<(String, Vec<(&'static str, Value)>)>,
        places: BTreeMap<String, (PathBuf, usize)>,
    ) -> Self {
        let table = |fields: Vec<(&'static str, Value)>| {
            let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
            Value::Dict(Tag::Default, fields.collect())
        };
        let aliases = entries.into_iter().map(|(alias, fields)| (alias, table(fields))).collect();
        let aliases = Value::Dict(Tag::Default, aliases);
        let dict = Dict::from([(keys::SECRETS.to_owned(), aliases)]);
        let metadata = Metadata::named(tree::DECLARED).interpolater(move |_, path| {
            let key = path.join(".");
            let alias = key.split('.').take(2).collect::<Vec<_>>().join(".");
            let (path, line) = places.get(&alias).cloned().unwrap_or_default();
            format!("{}:{line}", path.display())
        });
        Self { metadata, dict }
    }

    /// The command line. What is said twice there holds as it was said last.
    pub(super) fn command_line(sources: &Sources, problems: &mut Vec<Problem>) -> Self {
        let mut dict = Dict::new();
        for (key, value) in sources.flags() {
            let path: Vec<_> = key.split('.').collect();
            if let Err(message) = insert(&mut dict, &path, value) {
                problems.push(Problem::new(key, Some(Origin::CommandLine), message));
            }
        }
        Self { metadata: Metadata::named(tree::FLAG), dict }
    }

    /// Whether it is one of the defaults.
    pub(super) fn is_embedded(&self) -> bool {
        [tree::DEFAULT, tree::SERVERLESS].contains(&&*self.metadata.name)
    }

    /// Looks for keys that nobody knows, and for values where tables belong.
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        self.check_table("", &self.dict, problems);
    }

    fn check_table(&self, table: &str, dict: &Dict, problems: &mut Vec<Problem>) {
        for (name, value) in dict {
            let key = join(table, name);
            match (keys::meaning(&key), value) {
                (Meaning::Setting, _) => {}
                (Meaning::Table, Value::Dict(_, dict)) => self.check_table(&key, dict, problems),
                (Meaning::Sections, Value::Dict(_, dict)) => {
                    self.check_sections(&key, dict, problems);
                }
                (Meaning::Table | Meaning::Sections, _) => {
                    problems.push(self.problem(&key, IS_A_TABLE));
                }
                (Meaning::Unknown, _) => problems.push(self.unknown(&key)),
            }
        }
    }

    fn check_sections(&self, table: &str, dict: &Dict, problems: &mut Vec<Problem>) {
        for (id, value) in dict {
            let key = join(table, id);
            let valid = match table {
                keys::PROVIDERS => id.parse::<ProviderId>().map(drop),
                keys::SECRETS => id.parse::<AliasId>().map(drop),
                _ => id.parse::<AdapterId>().map(drop),
            };
            if let Err(error) = valid {
                problems.push(self.problem(&key, &format!("is not valid: {error}")));
            } else if !matches!(value, Value::Dict(..)) {
                problems.push(self.problem(&key, IS_A_TABLE));
            }
        }
    }

    fn unknown(&self, key: &str) -> Problem {
        let message = match keys::nearest(key, keys::all_names()) {
            Some(near) if &*self.metadata.name == tree::ENVIRONMENT => {
                let rest = if keys::KEYS.contains(&near) { "" } else { keys::ENV_REST };
                format!("is not a setting; did you mean {}{rest}?", keys::env_name(near))
            }
            Some(near) => format!("is not a setting; did you mean `{near}`?"),
            None => "is not a setting; `oneiric config show` lists them all".into(),
        };
        self.problem(key, &message)
    }

    fn problem(&self, key: &str, message: &str) -> Problem {
        Problem::new(key, Some(tree::origin(&self.metadata, key)), message)
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    fn data(&self) -> Result<Map<Layers, Dict>, figment::Error> {
        Ok(Layers::Default.collect(self.dict.clone()))
    }
}

/// All layers in one tree; a later one wins.
pub(super) fn merge<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> tree::Node {
    tree::Node::merged(&layers.into_iter().fold(Figment::new(), Figment::merge))
}

/// A TOML value as figment has it. It has no dates, and no setting has one: they travel as the
/// empty value until somebody asks for them and is told.
pub(super) fn layered(value: toml::Value) -> Value {
    let tag = Tag::Default;
    match value {
        toml::Value::String(text) => Value::String(tag, text),
        toml::Value::Integer(integer) => Value::from(integer),
        toml::Value::Float(float) => Value::from(float),
        toml::Value::Boolean(bool) => Value::Bool(tag, bool),
        toml::Value::Datetime(_) => Value::Empty(tag, Empty::Unit),
        toml::Value::Array(items) => Value::Array(tag, items.into_iter().map(layered).collect()),
        toml::Value::Table(table) => Value::Dict(tag, layered_table(table)),
    }
}

fn layered_table(table: toml::Table) -> Dict {
    table.into_iter().map(|(name, value)| (name, layered(value))).collect()
}

fn read_toml(path: &Path, text: &str) -> Result<Dict, SettingsError> {
    match text.parse::<toml::Table>() {
        Ok(table) => Ok(layered_table(table)),
        Err(error) => Err(syntax_error(path, text, &error)),
    }
}

/// What is wrong with a text that is no TOML, and where.
pub(super) fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> SettingsError {
    // Its own Display quotes the line, and the line may hold a secret.
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    SettingsError::Syntax {
        path: PathBuf::from(path),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message: error.message().to_owned(),
    }
}

fn insert(dict: &mut Dict, path: &[&str], value: &str) -> Result<(), &'static str> {
    const BOTH: &str = "is set both as a value and as a table";
    match path {
        [] => Ok(()),
        [name] => match dict.insert((*name).to_owned(), Value::from(value)) {
            Some(Value::Dict(..)) => Err(BOTH),
            _ => Ok(()),
        },
        [name, rest @ ..] => {
            let table = Value::Dict(Tag::Default, Dict::new());
            match dict.entry((*name).to_owned()).or_insert(table) {
                Value::Dict(_, dict) => insert(dict, rest, value),
                _ => Err(BOTH),
            }
        }
    }
}
