//! Which settings hold, and why.

use crate::SecretRef;

use super::error::Origin;
use super::keys;
use super::tree::{Node, Value};

/// What stands in the place of a value that may be a secret.
const REDACTED: &str = "[redacted]";

/// What a key of a provider or an adapter contains when its value is taken for a secret.
const SECRET_WORDS: [&str; 7] =
    ["token", "password", "passphrase", "secret", "credential", "private_key", "api_key"];

/// What such a key ends with when its value only says where the secret is.
const PLACE_SUFFIXES: [&str; 3] = ["_file", "_path", "_dir"];

/// One setting with its value and its origin.
///
/// Settings are not secrets and are shown, with two exceptions that guard against a secret in the
/// wrong place. Within a provider or an adapter, a value whose key has `token`, `password`,
/// `passphrase`, `secret`, `credential`, `private_key` or `api_key` in it is `[redacted]`, unless
/// it is a reference to a secret of a configured provider (`files:db#/password`) or a configured
/// alias, a boolean, or the key ends in `_file`, `_path` or `_dir`. A URL with a password in it is
/// `[redacted]` too.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Explained {
    /// The dotted key.
    pub key: String,
    /// The value as text, if it is set.
    pub value: Option<String>,
    /// Where it came from.
    pub origin: Origin,
}

/// Every setting, in the order of the manual, then providers, adapters and aliases.
pub(super) fn explain(tree: &Node) -> Vec<Explained> {
    let settings = keys::KEYS.into_iter().map(|key| {
        let unset = Origin::Default(super::Profile::Default);
        let (value, origin) = match tree.find(key) {
            Some(node) => (Some(shown(node)), node.origin.clone().unwrap_or(unset)),
            None => (None, unset),
        };
        Explained { key: key.to_owned(), value, origin }
    });
    let mut all: Vec<_> = settings.collect();
    let names = |table| tree.children(table).map(|(id, _)| id).collect();
    let known = Known { providers: names(keys::PROVIDERS), aliases: names(keys::SECRETS) };
    for table in keys::SECTIONS {
        for (_, section) in tree.children(table) {
            explain_section(section, &section.key, &known, &mut all);
        }
    }
    all
}

/// What a reference to a secret may begin with.
struct Known<'a> {
    providers: Vec<&'a str>,
    aliases: Vec<&'a str>,
}

fn explain_section(node: &Node, section: &str, known: &Known<'_>, all: &mut Vec<Explained>) {
    match &node.value {
        Value::Table(table) => {
            for child in table.values() {
                explain_section(child, section, known, all);
            }
        }
        Value::List(items) if items.iter().any(|item| matches!(item.value, Value::Table(_))) => {
            for item in items {
                explain_section(item, section, known, all);
            }
        }
        _ => {
            let name = &node.key[section.len()..];
            let hidden = is_secret_name(name) && !is_harmless(node, known);
            let value = if hidden { REDACTED.to_owned() } else { shown(node) };
            if let Some(origin) = node.origin.clone() {
                all.push(Explained { key: node.key.clone(), value: Some(value), origin });
            }
        }
    }
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
        && !PLACE_SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

fn is_harmless(node: &Node, known: &Known<'_>) -> bool {
    let is_reference = |text: &str| {
        text.parse::<SecretRef>().is_ok_and(|reference| match reference.alias() {
            Some(alias) => known.aliases.contains(&alias),
            None => known.providers.contains(&reference.provider().as_str()),
        })
    };
    match &node.value {
        Value::Bool(_) => true,
        Value::String(text) | Value::Text(text) => text.split(',').map(str::trim).all(is_reference),
        Value::List(items) => items.iter().all(|item| is_harmless(item, known)),
        Value::Integer(_) | Value::Float(_) | Value::Date | Value::Table(_) => false,
    }
}

/// A value as text: a string as it is, a list as TOML has it.
fn shown(node: &Node) -> String {
    match &node.value {
        Value::Bool(bool) => bool.to_string(),
        Value::Integer(integer) => integer.to_string(),
        Value::Float(float) => format!("{float:?}"),
        Value::String(text) | Value::Text(text) if has_password(text) => REDACTED.to_owned(),
        Value::String(text) | Value::Text(text) => text.clone(),
        Value::Date => "a date".to_owned(),
        Value::List(items) => {
            let items = items.iter().map(|item| match &item.value {
                Value::String(_) => format!("{:?}", shown(item)),
                _ => shown(item),
            });
            format!("[{}]", items.collect::<Vec<_>>().join(", "))
        }
        Value::Table(table) => {
            let entries = table.iter().map(|(name, node)| format!("{name} = {}", shown(node)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Whether it is a URL with a password, as in `postgres://user:password@host`.
pub(super) fn has_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
}
