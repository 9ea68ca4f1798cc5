//! One `[providers.<id>]` or `[adapters.<id>]` table.

use std::fmt;

use serde::de::DeserializeOwned;

use super::error::{Problem, SettingsError};
use super::tree::{Node, Value};

/// One `[providers.<id>]` or `[adapters.<id>]` table: a kind, and settings that only the code of
/// this kind understands.
///
/// ```
/// use oneiric_core::settings::{Settings, Sources};
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     path: std::path::PathBuf,
///     max_bytes: Option<u64>,
/// }
///
/// let sources = Sources::new()
///     .with_flags([("providers.files.kind", "file")])
///     .with_env([("ONEIRIC_PROVIDERS__FILES__PATH", "/run/secrets")]);
/// let settings = Settings::load(&sources)?;
/// let section = &settings.providers["files"];
/// assert_eq!(section.kind(), "file");
/// let config: Config = section.parse()?;
/// assert_eq!(config.path.to_str(), Some("/run/secrets"));
/// # Ok::<(), oneiric_core::settings::SettingsError>(())
/// ```
#[derive(Clone)]
pub struct Section {
    kind: String,
    node: Node,
}

impl Section {
    pub(super) fn new(mut node: Node) -> Result<Self, Problem> {
        let kind = match &mut node.value {
            Value::Table(table) => table.remove("kind"),
            _ => None,
        };
        let Some(kind) = kind else {
            let key = format!("{}.kind", node.key);
            return Err(Problem::new(
                key,
                node.origin,
                "is missing; it says whose settings these are",
            ));
        };
        Ok(Self { kind: kind.parse()?, node })
    }

    /// Which code it is for, as in `file`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Its dotted key, as in `providers.files`.
    pub fn path(&self) -> &str {
        &self.node.key
    }

    /// Everything but `kind`, as `T`. Give `T` `#[serde(deny_unknown_fields)]`, so that a mistyped
    /// key is found, and plain fields: `flatten`, `untagged` and `tag` hide from this method which
    /// type is wanted, and with it whether text of the environment is a number. [`duration`]
    /// reads durations.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`], with the key, its origin and, for an unknown one, the nearest.
    ///
    /// [`duration`]: super::duration()
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        Ok(self.node.parse()?)
    }
}

/// Without the values: some may be secrets that were put in the wrong place.
impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Section")
            .field("path", &self.path())
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
