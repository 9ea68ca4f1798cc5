//! Where to look for settings.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::error::{Origin, Problem, SettingsError};
use super::keys::env;

/// The file that is read when none is named.
const USUAL_FILE: &str = "oneiric.toml";

/// The places from which [`Settings::load`](super::Settings::load) takes settings: a file, the
/// environment, the command line, each stronger than the one before.
///
/// It holds what it was given and asks nobody else: [`Sources::new`] knows of no file and no
/// variable, and only [`Sources::of_process`] looks around.
#[derive(Clone, Default)]
pub struct Sources {
    file: Option<PathBuf>,
    directory: Option<PathBuf>,
    environment: BTreeMap<String, String>,
    flags: Vec<(String, String)>,
}

impl Sources {
    /// No file, no environment, no flags: the defaults alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// The environment of this process, and `oneiric.toml` in its working directory if it is
    /// there and neither `ONEIRIC_CONFIG` nor a flag names another file.
    pub fn of_process() -> Self {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        Self::new().with_directory(".").with_env(variables)
    }

    /// Reads this file, and fails if it is not there.
    #[must_use]
    pub fn with_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Reads `oneiric.toml` in this directory if no other file is named and it is there.
    #[must_use]
    pub fn with_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// Takes the variables that start with `ONEIRIC_`. Those of the environment provider, which
    /// hold secrets, and all others are left where they are.
    #[must_use]
    pub fn with_env<N, V>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<String>,
        V: Into<String>,
    {
        for (name, value) in variables {
            let name = name.into();
            if name == env::CONFIG || env::is_setting(&name) {
                self.environment.insert(name, value.into());
            }
        }
        self
    }

    /// Takes dotted keys and their values from the command line, as in `admin.enabled` and
    /// `false`. The last one wins.
    #[must_use]
    pub fn with_flags<K, V>(mut self, flags: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        self.flags.extend(flags.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// The file to read, if any.
    pub(super) fn config_file(&self) -> Result<Option<PathBuf>, SettingsError> {
        if let Some(path) = &self.file {
            return Ok(Some(path.clone()));
        }
        match self.environment.get(env::CONFIG).map(String::as_str) {
            Some("") => {
                let origin = Origin::Environment(env::CONFIG.into());
                let message = "is empty; unset it to read no file, or the usual one";
                Err(Problem::new(env::CONFIG, Some(origin), message).into())
            }
            Some(path) => Ok(Some(path.into())),
            None => {
                let usual = self.directory.as_ref().map(|directory| directory.join(USUAL_FILE));
                Ok(usual.filter(|path| path.exists()))
            }
        }
    }

    /// The variables that are settings, known or not.
    pub(super) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment
            .iter()
            .filter(|(name, _)| env::is_setting(name))
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn flags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.flags.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Names only: a value may be a secret that was put in the wrong place.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("directory", &self.directory)
            .field("environment", &self.environment.keys())
            .field("flags", &self.flags.iter().map(|(key, _)| key).collect::<Vec<_>>())
            .finish()
    }
}
