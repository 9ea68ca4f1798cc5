//! Which attempts to add a version were begun, so that a repeated one makes no second version.
//!
//! The engine knows no tokens of requests, and a version has no room for one. So an attempt is
//! noted in the secret's own metadata before the version is added, in an entry of its own that no
//! other writer changes: a hash of its token, and the number of the newest version at that time.
//! Who comes again with the same token looks for the value among the versions after that one.

use std::fmt::Write as _;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::kv::Metadata;

/// What stands before the hash in the name of an entry.
const PREFIX: &str = "oneiric.attempt.";
/// How many attempts are remembered. Of a secret that is written by one rotator, one would do.
const MOST: usize = 8;

/// The newest version at the time when this attempt was begun, if it was.
pub(crate) fn base(metadata: &Metadata, token: &str) -> Option<u64> {
    metadata.custom_metadata.as_ref()?.get(&entry(token))?.parse().ok()
}

/// The change of the metadata that notes an attempt, and forgets the oldest ones.
pub(crate) fn note(metadata: &Metadata, token: &str) -> Map<String, Value> {
    let entries = metadata.custom_metadata.iter().flatten();
    let attempts = entries.filter(|(name, _)| name.starts_with(PREFIX));
    let mut noted: Vec<(u64, &str)> =
        attempts.map(|(name, base)| (base.parse().unwrap_or(0), name.as_str())).collect();
    noted.sort_unstable();
    let surplus = (noted.len() + 1).saturating_sub(MOST);
    let mut change: Map<String, Value> =
        noted.iter().take(surplus).map(|(_, name)| ((*name).to_owned(), Value::Null)).collect();
    change.insert(entry(token), metadata.current_version.to_string().into());
    change
}

/// A token is anybody's text, of any length.
fn entry(token: &str) -> String {
    let digest = Sha256::digest(token.as_bytes());
    digest.iter().take(8).fold(PREFIX.to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes any text");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_remembered_and_the_oldest_forgotten() {
        let custom_metadata = Some([("owner".to_owned(), "x".to_owned())].into());
        let mut metadata = Metadata { custom_metadata, ..Metadata::default() };
        for number in 0..12 {
            metadata.current_version = number;
            let change = note(&metadata, &format!("token-{number}"));
            let entries = metadata.custom_metadata.as_mut().unwrap();
            for (name, value) in change {
                match value {
                    Value::String(text) => _ = entries.insert(name, text),
                    _ => _ = entries.remove(&name),
                }
            }
        }
        assert_eq!(base(&metadata, "token-11"), Some(11));
        assert_eq!(base(&metadata, "token-4"), Some(4));
        assert_eq!(base(&metadata, "token-3"), None);
        let entries = metadata.custom_metadata.unwrap();
        assert_eq!(entries.len(), MOST + 1);
        assert_eq!(entries["owner"], "x");
    }
}
