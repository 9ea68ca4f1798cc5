//! What can be wrong with settings, and where a setting came from.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Profile;

/// Why settings were refused. Nothing of them is in effect then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The settings file cannot be read.
    #[error("cannot read the settings file `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The settings file is not TOML.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column in characters, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// Settings that are unknown, of the wrong form, or do not go together: all that were found.
    #[error("{}", listed(.0))]
    Invalid(Vec<Problem>),
}

/// One thing that is wrong, as in ``oneiric.toml: `admin.sokcet` is not a setting; did you mean
/// `admin.socket`?``. It names keys and never quotes what may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The key that is wrong, dotted.
    pub key: String,
    /// Where its value came from, if it has one.
    pub origin: Option<Origin>,
    /// What is wrong, as the rest of a sentence that starts with the key.
    pub message: String,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The defaults of a profile.
    Default(Profile),
    /// The settings file.
    File(PathBuf),
    /// A line of a file that declares secrets, from 1.
    Line {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// This environment variable.
    Environment(String),
    /// The command line.
    CommandLine,
}

impl Problem {
    pub(super) fn new(
        key: impl Into<String>,
        origin: Option<Origin>,
        message: impl Into<String>,
    ) -> Self {
        Self { key: key.into(), origin, message: message.into() }
    }
}

impl From<Problem> for SettingsError {
    fn from(problem: Problem) -> Self {
        Self::Invalid(vec![problem])
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "`{}` {}", self.key, self.message)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default(Profile::Default) => f.write_str("default"),
            Self::Default(profile) => write!(f, "default of profile `{profile}`"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Line { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

fn listed(problems: &[Problem]) -> String {
    match problems {
        [one] => one.to_string(),
        many => {
            let mut text = format!("the settings have {} problems:", many.len());
            for problem in many {
                text.push_str(&format!("\n  {problem}"));
            }
            text
        }
    }
}

/// Enough of a text to recognise it. A misplaced paste can be a secret.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(24) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
