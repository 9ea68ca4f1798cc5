//! One `[secrets.<alias>]` table: where a secret is, which code asks for by a name of its own, and
//! what is expected of it.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::error::{Origin, Problem};
use super::keys;
use super::tree::{Node, Value};
use crate::{AliasId, SecretKind, SecretRef, SecretValue};

/// What an alias stands for, and what is expected of it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SecretSettings {
    /// Who may answer, the first one first: the others only while those before them cannot answer.
    /// At least one; none is an alias, and no two ask for the same.
    pub candidates: Vec<SecretRef>,
    /// Whether who uses it cannot do without. If not, it is left out of sets while it is not there.
    pub required: bool,
    /// What stands in its place while all candidates say that it is not there; not with `required`.
    pub default: Option<SecretValue>,
    /// The form that its value must have. One of another form is refused, and the last good one
    /// serves on.
    pub kind: Option<SecretKind>,
    /// What it is for, in words for people.
    pub description: Option<String>,
    /// The environment variable in which a command gets it; see [`variable`](Self::variable).
    pub env: Option<String>,
}

impl SecretSettings {
    /// The environment variable in which a command gets it: `env`, or else the alias in capitals
    /// with `_` for `-`.
    pub fn variable(&self, alias: &AliasId) -> String {
        let made = || alias.as_str().to_ascii_uppercase().replace('-', "_");
        self.env.clone().unwrap_or_else(made)
    }
}

/// A required secret of any kind.
impl From<Vec<SecretRef>> for SecretSettings {
    fn from(candidates: Vec<SecretRef>) -> Self {
        Self { candidates, required: true, default: None, kind: None, description: None, env: None }
    }
}

/// What the table says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    r#ref: SecretRef,
    #[serde(default)]
    fallback: Vec<String>,
    required: Option<bool>,
    default: Option<String>,
    kind: Option<SecretKind>,
    description: Option<String>,
    env: Option<String>,
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
    check_variables(tree, &aliases, problems);
    aliases
}

/// Two secrets cannot be in one variable.
fn check_variables(
    tree: &Node,
    aliases: &BTreeMap<AliasId, SecretSettings>,
    problems: &mut Vec<Problem>,
) {
    let mut known: BTreeMap<String, &AliasId> = BTreeMap::new();
    for (alias, settings) in aliases {
        let variable = settings.variable(alias);
        if let Some(other) = known.insert(variable.clone(), alias) {
            let key = format!("{}.{alias}", keys::SECRETS);
            let Some(node) = tree.find(&key) else { continue };
            let (key, origin) = place(node, "env", None);
            let message = format!(
                "would be in the variable `{variable}`, and so would `{other}`; give one of them \
                 another by `env`"
            );
            problems.push(Problem::new(key, origin, message));
        }
    }
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
        let (required, default) = Self::presence(node, written, &mut note);
        if let (Some(kind), Some(default)) = (written.kind, &default)
            && let Err(why) = kind.check(default)
        {
            note(place(node, "default", None), format!("is not of kind `{kind}`: it {why}"));
        }
        if let Some(name) = &written.env
            && let Err(message) = check_variable(name)
        {
            note(place(node, "env", None), message);
        }
        SecretSettings {
            candidates,
            required,
            default,
            kind: written.kind,
            description: written.description.clone(),
            env: written.env.clone(),
        }
    }

    /// Whether it must be there, and what stands in its place if it need not. Of a secret that is
    /// declared elsewhere, what the settings say themselves is the last word.
    fn presence(
        node: &Node,
        written: &Written,
        note: &mut impl FnMut((String, Option<Origin>), String),
    ) -> (bool, Option<SecretValue>) {
        let is_imported = |name| {
            let origin = node.find(name).and_then(|node| node.origin.as_ref());
            matches!(origin, Some(Origin::Line { .. }))
        };
        let default = written.default.as_deref().map(SecretValue::from);
        if written.required != Some(true) || default.is_none() {
            return (written.required.unwrap_or(default.is_none()), default);
        }
        match (is_imported("required"), is_imported("default")) {
            (true, false) => (false, default),
            (false, true) => (true, None),
            _ => {
                let message =
                    "goes with no `required = true`: what has a default need not be there";
                note(place(node, "default", None), message.to_owned());
                (true, None)
            }
        }
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

/// A name that every shell can say.
fn check_variable(name: &str) -> Result<(), String> {
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match is_name {
        true => Ok(()),
        false => {
            Err("is no name of a variable: one has letters, digits and `_`, and begins with no \
                      digit"
                .to_owned())
        }
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
