//! The key-value engine as its answers show it, and the paths in it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use oneiric_core::{Error, ErrorKind, Result, SecretKey, Stamp, VersionState};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The parts of a path, or `None` if it is none that names one thing.
pub(crate) fn segments(path: &str) -> Option<Vec<&str>> {
    let segments: Vec<&str> = path.split('/').collect();
    let named = |segment: &&str| !matches!(*segment, "" | "." | "..");
    segments.iter().all(named).then_some(segments)
}

/// The parts of the path of a secret.
pub(crate) fn key_segments(key: &SecretKey) -> Result<Vec<&str>> {
    segments(key.as_str()).ok_or_else(|| {
        let message = format!("`{key}` is no path of a secret: a part of it is empty or dots");
        Error::new(ErrorKind::Invalid, message)
    })
}

/// The number of a version.
pub(crate) fn number(version: &str) -> Result<u64> {
    let digits = version.bytes().all(|byte| byte.is_ascii_digit());
    version.parse().ok().filter(|number| digits && *number > 0).ok_or_else(|| {
        let message = format!("`{version}` is no number, and versions of KV version 2 are numbers");
        Error::new(ErrorKind::Invalid, message)
    })
}

/// What every answer has its content in.
#[derive(Deserialize)]
pub(crate) struct Answer<T> {
    pub(crate) data: T,
}

/// The content of KV version 1, and the data of a version: a JSON object, kept as it was written.
#[derive(Deserialize)]
pub(crate) struct Raw<'a> {
    #[serde(borrow)]
    pub(crate) data: &'a RawValue,
}

/// One version, with its content unless that is deleted or destroyed.
#[derive(Deserialize)]
pub(crate) struct Stored<'a> {
    #[serde(borrow)]
    pub(crate) data: Option<&'a RawValue>,
    pub(crate) metadata: About,
}

/// What is known of a version.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct About {
    /// Its number, where it stands alone.
    #[serde(default)]
    pub(crate) version: u64,
    created_time: String,
    #[serde(default)]
    deletion_time: String,
    #[serde(default)]
    destroyed: bool,
}

impl About {
    /// Whether it can be read. It may be that its deletion is still to come.
    pub(crate) fn state(&self) -> VersionState {
        let deleted = !self.deletion_time.is_empty() && self.ends().is_none();
        match (self.destroyed, deleted) {
            (true, _) => VersionState::Destroyed,
            (_, true) => VersionState::Disabled,
            _ => VersionState::Enabled,
        }
    }

    /// When it will be deleted, if that is to come.
    pub(crate) fn ends(&self) -> Option<SystemTime> {
        time(&self.deletion_time).filter(|end| *end > SystemTime::now())
    }

    pub(crate) fn created(&self) -> Option<SystemTime> {
        time(&self.created_time)
    }

    /// The number alone would be the same for a secret that was removed and made again.
    pub(crate) fn stamp(&self, version: u64) -> Stamp {
        format!("{version}/{}", self.created_time).into()
    }
}

fn time(text: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(text).ok()
}

/// What is known of a secret.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Metadata {
    /// 0 if there is none yet.
    pub(crate) current_version: u64,
    /// Those that are kept, by their numbers.
    #[serde(default)]
    pub(crate) versions: BTreeMap<String, About>,
    #[serde(default)]
    pub(crate) custom_metadata: Option<BTreeMap<String, String>>,
}

impl Metadata {
    pub(crate) fn version(&self, number: u64) -> Option<&About> {
        self.versions.get(&number.to_string())
    }

    /// The versions, the newest first.
    pub(crate) fn newest_first(&self) -> Vec<(u64, &About)> {
        let numbered = self.versions.iter().filter_map(|(text, about)| {
            let number = text.parse().ok()?;
            Some((number, about))
        });
        let mut versions: Vec<(u64, &About)> = numbered.collect();
        versions.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        versions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_thing() {
        assert_eq!(segments("a/b c/%2e"), Some(vec!["a", "b c", "%2e"]));
        for path in ["", "/a", "a/", "a//b", "../a", "a/./b", "a/.."] {
            assert_eq!(segments(path), None, "{path}");
        }
        assert_eq!(number("7").unwrap(), 7);
        for version in ["0", "", "+1", "-1", "latest", "18446744073709551616"] {
            assert!(number(version).is_err(), "{version}");
        }
    }

    #[test]
    fn a_deletion_to_come_is_none_yet() {
        let about = |deletion_time: &str, destroyed| About {
            version: 1,
            created_time: "2026-01-01T00:00:00.123456789Z".into(),
            deletion_time: deletion_time.into(),
            destroyed,
        };
        let future = "2999-01-01T00:00:00Z";
        assert_eq!(about("", false).state(), VersionState::Enabled);
        assert_eq!(about(future, false).state(), VersionState::Enabled);
        assert!(about(future, false).ends().is_some());
        assert_eq!(about("2026-01-01T00:00:00.5Z", false).state(), VersionState::Disabled);
        assert_eq!(about("", true).state(), VersionState::Destroyed);
        assert!(about("", false).created().is_some());
    }

    #[test]
    fn versions_are_in_the_order_of_numbers() {
        let text = r#"{"current_version":10,"versions":{
            "10":{"created_time":"x"},"9":{"created_time":"x"},"1":{"created_time":"x"}}}"#;
        let metadata: Metadata = serde_json::from_str(text).unwrap();
        let numbers: Vec<u64> = metadata.newest_first().into_iter().map(|(n, _)| n).collect();
        assert_eq!(numbers, [10, 9, 1]);
    }
}
