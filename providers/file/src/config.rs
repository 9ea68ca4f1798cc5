//! The settings of one `[providers.<id>]` section with `kind = "file"`.

use std::path::PathBuf;
use std::time::Duration;

use oneiric_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use crate::client::FileProvider;
use crate::permissions::Permissions;
use crate::view::DATA;

/// How a [`FileProvider`] is set up.
///
/// ```
/// let config = oneiric_provider_file::Config::new("/run/secrets");
/// let provider = config.build()?;
/// # Ok::<(), oneiric_core::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The root directory. It may come into being later.
    pub path: PathBuf,
    /// The largest file that is read, in bytes (64 KiB).
    #[serde(default = "default_max_bytes")]
    pub max_bytes: u64,
    /// How long a file that is written in place must be quiet before the change is announced, and
    /// the least time between two announcements of one key (`"50ms"`).
    #[serde(default = "default_debounce", deserialize_with = "oneiric_core::settings::duration")]
    pub debounce: Duration,
    /// The kinds of structured files that are parsed (all). The others are served as they are.
    #[serde(default = "default_parse")]
    pub parse: Vec<Format>,
    /// Whether files that are not UTF-8 are served (`false`).
    #[serde(default)]
    pub binary: bool,
    /// Whether the one line end at the end of a file, which most editors write, belongs to the
    /// secret (`false`). Structured files are not concerned.
    #[serde(default)]
    pub keep_newline: bool,
    /// What is done about a file that others may read or change (`"warn"`).
    #[serde(default)]
    pub permissions: Permissions,
    /// Whether secrets may be written, and their versions are kept in `.oneiric` below the root
    /// (`false`). All who read such a tree say the same, or they do not know its versions.
    #[serde(default)]
    pub write: bool,
}

/// A kind of structured file, known by the end of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// `.json`: checked, and served as it is.
    Json,
    /// `.toml`: served as JSON; dates become strings.
    Toml,
    /// `.yaml`, `.yml`: served as JSON. Duplicate keys are refused; `007` stays text.
    Yaml,
    /// `.env`: served as a JSON object of strings. Nothing is substituted.
    Env,
}

impl Config {
    /// The defaults, with this root directory.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_bytes: default_max_bytes(),
            debounce: default_debounce(),
            parse: default_parse(),
            binary: false,
            keep_newline: false,
            permissions: Permissions::default(),
            write: false,
        }
    }

    /// Checks the settings and makes the provider. Nothing is read yet but where the root is, and
    /// whether it is a mount that is swapped as a whole.
    ///
    /// # Errors
    /// `Invalid` if a setting makes no sense.
    pub fn build(mut self) -> Result<FileProvider> {
        let invalid = |message: &str| Err(Error::new(ErrorKind::Invalid, message));
        if self.path.as_os_str().is_empty() {
            return invalid("`path` of a file provider is empty; it must name a directory");
        }
        if self.max_bytes == 0 {
            return invalid("`max_bytes` of a file provider is 0, so that no file could be read");
        }
        if self.debounce > MAX_DEBOUNCE {
            return invalid("`debounce` of a file provider is more than 10s");
        }
        self.path = std::path::absolute(&self.path).map_err(|error| {
            let path = self.path.display();
            let message = format!("`path` of a file provider, `{path}`, cannot be made absolute");
            Error::with_source(ErrorKind::Invalid, message, error)
        })?;
        if self.write && self.path.join(DATA).symlink_metadata().is_ok() {
            let path = self.path.display();
            return invalid(&format!(
                "`write` of a file provider is set, and `{path}` is a mount that is swapped as a \
                 whole; it is written by whoever swaps it"
            ));
        }
        Ok(FileProvider::new(self))
    }
}

const MAX_DEBOUNCE: Duration = Duration::from_secs(10);

fn default_max_bytes() -> u64 {
    64 * 1024
}

fn default_debounce() -> Duration {
    Duration::from_millis(50)
}

fn default_parse() -> Vec<Format> {
    vec![Format::Json, Format::Toml, Format::Yaml, Format::Env]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_read() {
        let config: Config =
            toml::from_str("path = 'x'\ndebounce = '250ms'\nparse = ['json', 'env']").unwrap();
        assert_eq!(config.debounce, Duration::from_millis(250));
        assert_eq!(config.parse, [Format::Json, Format::Env]);
        assert_eq!(config.max_bytes, 65_536);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (section, part) in [
            ("path = 'x'\ndebounce = 'soon'", "a duration such as"),
            ("path = 'x'\nsweep = '1s'", "unknown field `sweep`"),
            ("path = 'x'\nparse = ['ini']", "unknown variant `ini`"),
            ("path = 'x'\npermissions = 'strict'", "expected one of `warn`, `refuse`, `ignore`"),
            ("debounce = '1s'", "missing field `path`"),
        ] {
            let error = toml::from_str::<Config>(section).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let mut config = Config::new("");
        assert!(config.clone().build().unwrap_err().to_string().contains("`path`"));
        config.path = "x".into();
        config.max_bytes = 0;
        assert!(config.clone().build().unwrap_err().to_string().contains("`max_bytes`"));
    }
}
