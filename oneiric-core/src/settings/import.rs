//! Secrets that are declared in a `secretspec.toml`, as one more layer of settings: weaker than the
//! settings file, stronger than the defaults.
//!
//! What is in a declaration and has no meaning here is refused or noted, never passed over.

mod declared;
mod manifest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::{Origin, Problem, SettingsError};
use super::keys;
use super::layers::Layer;
use super::tree::Node;
use crate::{AliasId, ProviderId, SecretKey, SecretRef};
use declared::Declared;
use manifest::Manifest;

/// What a file declares.
pub(super) struct Import {
    pub(super) layer: Layer,
    /// What is in it and has no meaning here.
    pub(super) notes: Vec<Problem>,
}

/// Reads the file that the settings name, if they do.
pub(super) fn import(
    tree: &Node,
    problems: &mut Vec<Problem>,
) -> Result<Option<Import>, SettingsError> {
    let mut text = |key: &str| {
        let node = tree.find(key)?;
        match node.parse::<String>() {
            Ok(text) if !text.is_empty() => Some((text, node)),
            Ok(_) => {
                problems.push(Problem::new(key, node.origin.clone(), "is empty; unset it"));
                None
            }
            Err(problem) => {
                problems.push(problem);
                None
            }
        }
    };
    let from = text(keys::SECRETS_FROM);
    let profile = text(keys::SECRETS_FROM_PROFILE);
    let provider = text(keys::SECRETS_FROM_PROVIDER);
    let Some((from, from_node)) = from else {
        for (_, node) in profile.iter().chain(&provider) {
            let message = format!("says nothing without `{}`", keys::SECRETS_FROM);
            problems.push(Problem::new(&*node.key, node.origin.clone(), message));
        }
        return Ok(None);
    };
    let manifest = Manifest::read(&path(&from, from_node), problems)?;
    let profile = match &profile {
        Some((profile, node)) => (profile.as_str(), node.origin.clone()),
        None => (manifest::DEFAULT, from_node.origin.clone()),
    };
    let Some(declared) = manifest.profile(profile, problems) else { return Ok(None) };
    let provider = provider.and_then(|(id, node)| match id.parse::<ProviderId>() {
        Ok(id) => Some(id),
        Err(error) => {
            let message = format!("is not valid: {error}");
            problems.push(Problem::new(&*node.key, node.origin.clone(), message));
            None
        }
    });
    let mut importing = Importing { tree, provider, problems, homeless: Vec::new() };
    let layer = importing.layer(&declared);
    importing.say_homeless(from_node);
    let mut notes = manifest.notes;
    for secret in declared.values() {
        secret.note(&mut notes);
    }
    Ok(Some(Import { layer, notes }))
}

/// Beside the settings file, where that names it; in the working directory otherwise. A directory
/// stands for the usual file in it.
fn path(from: &str, node: &Node) -> PathBuf {
    let path = match &node.origin {
        Some(Origin::File(file)) => file.parent().unwrap_or(Path::new("")).join(from),
        _ => PathBuf::from(from),
    };
    manifest::file(path)
}

struct Importing<'a> {
    /// What the settings say themselves.
    tree: &'a Node,
    provider: Option<ProviderId>,
    problems: &'a mut Vec<Problem>,
    /// Those of which nobody says where they are.
    homeless: Vec<String>,
}

impl Importing<'_> {
    fn layer(&mut self, declared: &BTreeMap<String, Declared>) -> Layer {
        let mut aliases: BTreeMap<AliasId, &str> = BTreeMap::new();
        let mut places = BTreeMap::new();
        let mut entries = Vec::new();
        for (name, secret) in declared {
            let Some(alias) = self.alias(name, secret) else { continue };
            if let Some(other) = aliases.insert(alias.clone(), name) {
                let message = format!("and `{other}` would both be the alias `{alias}`");
                self.problems.push(secret.problem(message));
                continue;
            }
            let key = format!("{}.{alias}", keys::SECRETS);
            let mut fields = vec![("env", name.clone().into())];
            // Where it is by our own word, its place in the declaration is of no interest.
            if self.tree.find(&format!("{key}.ref")).is_none() {
                secret.refuse_elsewhere(self.problems);
                match self.place(name, secret) {
                    Some(reference) => fields.push(("ref", reference.to_string().into())),
                    None => continue,
                }
            }
            fields.extend(secret.fields());
            places.insert(key, (secret.path().clone(), secret.line()));
            entries.push((alias.to_string(), fields));
        }
        Layer::declared(entries, places)
    }

    fn alias(&mut self, name: &str, secret: &Declared) -> Option<AliasId> {
        let alias = name.to_ascii_lowercase().replace('_', "-");
        match alias.parse() {
            Ok(alias) => Some(alias),
            Err(error) => {
                self.problems.push(secret.problem(format!("cannot be an alias: {error}")));
                None
            }
        }
    }

    /// Its name at the provider that the settings name.
    fn place(&mut self, name: &str, secret: &Declared) -> Option<SecretRef> {
        let Some(provider) = &self.provider else {
            self.homeless.push(name.to_owned());
            return None;
        };
        match name.parse::<SecretKey>() {
            Ok(key) => Some(SecretRef::new(provider.clone(), key)),
            Err(error) => {
                self.problems.push(secret.problem(format!("cannot be a key: {error}")));
                None
            }
        }
    }

    fn say_homeless(&mut self, from: &Node) {
        // One that is set and not valid is said already.
        if self.homeless.is_empty() || self.tree.find(keys::SECRETS_FROM_PROVIDER).is_some() {
            return;
        }
        let names: Vec<_> = self.homeless.iter().map(|name| format!("`{name}`")).collect();
        let message = format!(
            "declares {}, and nothing says where that is: name the provider that has each under its \
             name by `{}`, or set `{}.<alias>.ref`",
            names.join(", "),
            keys::SECRETS_FROM_PROVIDER,
            keys::SECRETS
        );
        self.problems.push(Problem::new(keys::SECRETS_FROM, from.origin.clone(), message));
    }
}
