//! Names of secrets and versions: what a key may look like, and what an answer or an event names.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use oneiric_core::{Error, ErrorKind, Result, SecretKey};

/// The longest id of a secret.
const MAX_ID: usize = 255;
/// The longest name of an alias or an annotation.
const MAX_LABEL: usize = 63;

/// The full name of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SecretName {
    pub(crate) project: String,
    pub(crate) location: Option<String>,
    pub(crate) id: String,
}

impl SecretName {
    /// `projects/P` or `projects/P/locations/L`.
    pub(crate) fn parent(&self) -> String {
        parent(&self.project, self.location.as_deref())
    }

    /// The name of one version, by its number or by another name.
    pub(crate) fn version(&self, version: &str) -> String {
        format!("{self}/versions/{version}")
    }

    /// Reads the full name of a secret, or of a version of one.
    pub(crate) fn parse(resource: &str) -> Option<(Self, Option<&str>)> {
        let mut parts = resource.split('/');
        let mut next = |word: &str, valid: fn(&str) -> bool| {
            (parts.next()? == word).then_some(())?;
            parts.next().filter(|part| valid(part))
        };
        let project = next("projects", is_project)?.to_owned();
        // Where the location would be, there may be the secret already.
        let rest = &resource["projects/".len() + project.len()..];
        let location = if rest.starts_with("/locations/") {
            Some(next("locations", is_location)?.to_owned())
        } else {
            None
        };
        let id = next("secrets", is_id)?.to_owned();
        let version = match resource.split('/').count() - if location.is_some() { 6 } else { 4 } {
            0 => None,
            2 => Some(next("versions", is_version)?),
            _ => return None,
        };
        Some((Self { project, location, id }, version))
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/secrets/{}", self.parent(), self.id)
    }
}

/// The number at the end of the full name of a version.
pub(crate) fn number(version: &str) -> Option<u64> {
    version.rsplit_once("/versions/")?.1.parse().ok()
}

pub(crate) fn parent(project: &str, location: Option<&str>) -> String {
    match location {
        Some(location) => format!("projects/{project}/locations/{location}"),
        None => format!("projects/{project}"),
    }
}

/// Where short keys are, and which numbers belong to which projects.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) project: String,
    pub(crate) location: Option<String>,
    /// From a project's number to its id, and the other way.
    numbers: Mutex<(HashMap<String, String>, HashMap<String, String>)>,
}

impl Place {
    pub(crate) fn new(project: &str, number: Option<&str>, location: Option<&str>) -> Self {
        let place = Self {
            project: project.into(),
            location: location.map(Into::into),
            numbers: Mutex::default(),
        };
        if let Some(number) = number {
            place.pair(project, number);
        }
        place
    }

    /// The secret that a key names.
    pub(crate) fn secret(&self, key: &SecretKey) -> Result<SecretName> {
        let refuse = |why: &str| Err(Error::new(ErrorKind::Invalid, format!("`{key}` {why}")));
        let text = key.as_str();
        if !text.contains('/') {
            if !is_id(text) {
                return refuse(
                    "is no id of a secret: those are 1 to 255 letters and digits of ASCII, \
                     hyphens and underscores",
                );
            }
            let Self { project, location, .. } = self;
            return Ok(SecretName {
                project: project.clone(),
                location: location.clone(),
                id: text.into(),
            });
        }
        match SecretName::parse(text) {
            Some((name, None)) if name.location == self.location => Ok(name),
            Some((_, None)) => refuse("is in another location than this provider"),
            Some((_, Some(_))) => refuse("names a version; write it behind an `@`"),
            None => refuse("is neither the id nor the full name of a secret"),
        }
    }

    /// Every key that names this secret here, the shortest first. None if it is not in the
    /// location of this provider.
    pub(crate) fn keys(&self, name: &SecretName) -> Vec<SecretKey> {
        if name.location != self.location {
            return Vec::new();
        }
        let mut keys = Vec::new();
        let mut add = |text: String| keys.extend(text.parse().ok());
        let id = self.id_of(&name.project);
        if id == self.project {
            add(name.id.clone());
        }
        let number = self.number_of(&id);
        for project in std::iter::once(id).chain(number) {
            add(SecretName { project, ..name.clone() }.to_string());
        }
        keys
    }

    /// Whether it is not known yet whether this is the configured project: it goes by a number,
    /// and no answer has shown ours.
    pub(crate) fn may_be_ours(&self, name: &SecretName) -> bool {
        name.location == self.location
            && is_number(&name.project)
            && !is_number(&self.project)
            && self.id_of(&name.project) == name.project
            && self.number_of(&self.project).is_none()
    }

    /// Notes what an answer shows: asked by its id, a project answers by its number.
    pub(crate) fn learn(&self, asked: &SecretName, answered: &str) {
        if is_number(&asked.project) {
            return;
        }
        if let Some((name, _)) = SecretName::parse(answered)
            && is_number(&name.project)
            && name.id == asked.id
        {
            self.pair(&asked.project, &name.project);
        }
    }

    fn pair(&self, id: &str, number: &str) {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if numbers.0.get(number).is_none_or(|known| known != id) {
            numbers.0.insert(number.into(), id.into());
            numbers.1.insert(id.into(), number.into());
        }
    }

    /// The id of a project, as far as it is known.
    fn id_of(&self, project: &str) -> String {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.0.get(project).map_or_else(|| project.into(), Clone::clone)
    }

    fn number_of(&self, id: &str) -> Option<String> {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.1.get(id).cloned()
    }
}

fn is_number(project: &str) -> bool {
    !project.is_empty() && project.bytes().all(|byte| byte.is_ascii_digit())
}

/// Ids and numbers of projects, those of a domain (`example.com:id`) included.
pub(crate) fn is_project(text: &str) -> bool {
    let of_it = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b':' | b'.');
    (1..=MAX_LABEL).contains(&text.len())
        && text.bytes().all(of_it)
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

pub(crate) fn is_location(text: &str) -> bool {
    let of_it = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_LABEL).contains(&text.len()) && text.bytes().all(of_it)
}

fn is_id(text: &str) -> bool {
    let of_it = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=MAX_ID).contains(&text.len()) && text.bytes().all(of_it)
}

/// A number, `latest` or an alias.
pub(crate) fn is_version(text: &str) -> bool {
    text == "latest" || is_alias(text) || (is_number(text) && text.parse::<u64>().is_ok())
}

/// Names of aliases, by the documentation of `Secret.version_aliases`.
pub(crate) fn is_alias(text: &str) -> bool {
    text.len() <= MAX_LABEL
        && is_id(text)
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && !matches!(text, "latest" | "NEW")
}

/// Names of annotations, by the documentation of `Secret.annotations`.
pub(crate) fn is_annotation(text: &str) -> bool {
    let of_it = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edge = |c: char| c.is_ascii_alphanumeric();
    (1..=MAX_LABEL).contains(&text.len())
        && text.bytes().all(of_it)
        && text.starts_with(edge)
        && text.ends_with(edge)
}

pub(crate) fn is_subscription(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let of_it = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~+%".contains(&byte);
    matches!(parts[..], ["projects", project, "subscriptions", id]
        if is_project(project) && !id.is_empty() && id.bytes().all(of_it))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> SecretKey {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_is_an_id_or_a_full_name() {
        let global = Place::new("p", None, None);
        let regional = Place::new("p", None, Some("europe-west1"));
        for (place, text, full) in [
            (&global, "db", "projects/p/secrets/db"),
            (&global, "projects/other/secrets/db", "projects/other/secrets/db"),
            (&regional, "db", "projects/p/locations/europe-west1/secrets/db"),
        ] {
            assert_eq!(place.secret(&key(text)).unwrap().to_string(), full);
        }
        for (place, text) in [
            (&global, "../db"),
            (&global, "a b"),
            (&global, "projects/p/secrets/db/versions/1"),
            (&global, "projects/p/secrets/db/versions"),
            (&global, "projects/p/secrets/"),
            (&global, "projects/p/locations/l/secrets/db"),
            (&global, "projects//secrets/db"),
            (&regional, "projects/p/secrets/db"),
        ] {
            assert_eq!(place.secret(&key(text)).unwrap_err().kind(), ErrorKind::Invalid, "{text}");
        }
    }

    #[test]
    fn names_of_versions_are_read() {
        let (name, version) =
            SecretName::parse("projects/4711/locations/l/secrets/db/versions/7").unwrap();
        assert_eq!((name.parent().as_str(), version), ("projects/4711/locations/l", Some("7")));
        assert_eq!(number("projects/4711/secrets/db/versions/12"), Some(12));
        assert_eq!(number("projects/4711/secrets/db/versions/latest"), None);
        for wrong in ["projects/p/secrets/db/versions/+1", "projects/p/secrets/db/x/1", "", "/"] {
            assert!(SecretName::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn numbers_of_projects_are_configured_or_learned() {
        let place = Place::new("p", None, None);
        let (event, _) = SecretName::parse("projects/4711/secrets/db").unwrap();
        assert!(place.may_be_ours(&event));
        assert_eq!(place.keys(&event), [key("projects/4711/secrets/db")]);
        place.learn(&place.secret(&key("db")).unwrap(), "projects/4711/secrets/db/versions/1");
        assert!(!place.may_be_ours(&event));
        let all = [key("db"), key("projects/p/secrets/db"), key("projects/4711/secrets/db")];
        assert_eq!(place.keys(&event), all);
        let configured = Place::new("p", Some("4711"), None);
        assert_eq!(configured.keys(&event), all);
        let (other, _) = SecretName::parse("projects/42/secrets/db").unwrap();
        assert!(!configured.may_be_ours(&other));
        assert_eq!(configured.keys(&other), [key("projects/42/secrets/db")]);
    }
}
