//! A command that failed: with which code, why, and what to do about it.

use std::error::Error as StdError;

use oneiric_core::ErrorKind;
use oneiric_core::settings::SettingsError;

use crate::exit::Exit;
use crate::output::tell;

/// The short form of `Result` for commands.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: Box<dyn StdError + Send + Sync>,
    remedy: Option<String>,
}

impl Failure {
    /// A failure with this code, for this reason: a sentence or an error.
    pub(crate) fn new(exit: Exit, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { exit, error: error.into(), remedy: None }
    }

    /// The same, with what a person can do about it.
    #[must_use]
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Tells a person, one layer a line, and gives the code.
    pub(crate) fn report(&self) -> Exit {
        tell(&format!("error: {}", self.error));
        let mut cause = self.error.source();
        while let Some(error) = cause {
            tell(&format!("  caused by: {error}"));
            cause = error.source();
        }
        if let Some(remedy) = &self.remedy {
            tell(&format!("help: {remedy}"));
        }
        self.exit()
    }

    /// The code alone.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

impl From<oneiric_core::Error> for Failure {
    fn from(error: oneiric_core::Error) -> Self {
        let exit = match error.kind() {
            ErrorKind::Conflict => Exit::CONFLICT,
            ErrorKind::Ambiguous => Exit::AMBIGUOUS,
            _ => Exit::FAILED,
        };
        Self::new(exit, error)
    }
}

impl From<SettingsError> for Failure {
    fn from(error: SettingsError) -> Self {
        Self::new(Exit::FAILED, error)
    }
}
