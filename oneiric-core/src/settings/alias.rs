//! One `[secrets.<alias>]` table: where a secret is, which code asks for by a name of its own.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::{Origin, Problem};
use super::keys;
use super::tree::{Node, Value};
use crate::{AliasId, SecretRef};

/// What an alias stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SecretSettings {
    /// Who may answer, the first one first: the others only while those before them cannot answer.
    /// At least one; none is an alias, and no two ask for the same.
    pub candidates: Vec<SecretRef>,
}

/// What the table says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    r#ref: SecretRef,
    #[serde(default)]
    fallback: Vec<String>,
}

/// Every alias, with what is wrong with it noted.
pub(super) fn aliases(
    tree: &Node,
    problems: &mut Vec<Problem>,
) -> BTreeMap<AliasId, SecretSettings> {
    let names = |table| tree.children(table).map(|(id, _)| id).collect::<Vec<_>>();
    let known = Known { providers: names(keys::PROVIDERS), aliases: names(keys::SECRETS) };
    let mut aliases = BTreeMap::new();
    for (id, node) in tree.children(keys::SECRETS) {
        let alias = id.parse().expect("the layers checked the ids");
        match node.parse::<Written>() {
            Ok(written) => _ = aliases.insert(alias, known.settings(node, &written, problems)),
            Err(problem) => problems.push(problem),
        }
    }
    aliases
}

struct Known<'a> {
    providers: Vec<&'a str>,
    aliases: Vec<&'a str>,
}

impl Known<'_> {
    fn settings(
        &self,
        node: &Node,
        written: &Written,
        problems: &mut Vec<Problem>,
    ) -> SecretSettings {
        let mut note = |place: (String, Option<Origin>), message| {
            problems.push(Problem::new(place.0, place.1, message));
        };
        let first = &written.r#ref;
        if let Err(message) = self.check(first) {
            note(place(node, "ref", None), message);
        }
        let mut candidates = vec![first.clone()];
        for (at, text) in written.fallback.iter().enumerate() {
            match self.candidate(text, first) {
                Ok(candidate) if candidates.contains(&candidate) => {
                    let message = format!("is `{candidate}`, which stands there before");
                    note(place(node, "fallback", Some(at)), message);
                }
                Ok(candidate) => candidates.push(candidate),
                Err(message) => note(place(node, "fallback", Some(at)), message),
            }
        }
        SecretSettings { candidates }
    }

    /// A whole reference, or a provider that has the same under the same name.
    fn candidate(&self, text: &str, first: &SecretRef) -> Result<SecretRef, String> {
        let invalid = |error: crate::ParseError| format!("is not valid: {error}");
        let candidate = if text.contains(':') {
            text.parse().map_err(invalid)?
        } else if self.aliases.contains(&text) && !self.providers.contains(&text) {
            SecretRef::from(text.parse::<AliasId>().map_err(invalid)?)
        } else {
            first.at_provider(text.parse().map_err(invalid)?)
        };
        self.check(&candidate)?;
        Ok(candidate)
    }

    fn check(&self, candidate: &SecretRef) -> Result<(), String> {
        if let Some(alias) = candidate.alias() {
            let wanted = "what an alias stands for names a provider, as in `provider:key`";
            // What is no alias either may be a secret in the wrong place.
            return Err(match self.aliases.contains(&alias) {
                true => format!("names the alias `{alias}`, and {wanted}"),
                false => format!("names no provider, and {wanted}"),
            });
        }
        let id = candidate.provider().as_str();
        if self.providers.contains(&id) {
            return Ok(());
        }
        Err(unknown_provider(id, &self.providers))
    }
}

fn unknown_provider(id: &str, known: &[&str]) -> String {
    match keys::nearest(id, known.iter().copied()) {
        Some(near) => {
            format!("names the provider `{id}`, which is not there; did you mean `{near}`?")
        }
        None if known.is_empty() => {
            format!("names the provider `{id}`, and the settings have no provider")
        }
        None => format!(
            "names the provider `{id}`, which is not there; the settings have {}",
            known.join(", ")
        ),
    }
}

/// The full key of a value of the table, and where it came from.
fn place(node: &Node, name: &str, at: Option<usize>) -> (String, Option<Origin>) {
    let Some(value) = node.find(name) else { return (node.key.clone(), node.origin.clone()) };
    match (at, &value.value) {
        (Some(at), Value::List(items)) if at < items.len() => {
            (items[at].key.clone(), items[at].origin.clone().or_else(|| value.origin.clone()))
        }
        (Some(at), _) => (format!("{}[{at}]", value.key), value.origin.clone()),
        (None, _) => (value.key.clone(), value.origin.clone()),
    }
}
