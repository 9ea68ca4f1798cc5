//! One secret as a profile declares it, once everything that profiles inherit is put together.

use std::path::PathBuf;
use std::sync::Arc;

use figment::value::Value as Layered;

use super::super::error::{Origin, Problem};

/// See the module's documentation.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub(super) name: String,
    pub(super) path: Arc<PathBuf>,
    pub(super) line: usize,
    pub(super) description: Option<String>,
    pub(super) required: Option<bool>,
    pub(super) default: Option<String>,
    /// Says that its value is made of, or is found by, something else than its name.
    pub(super) elsewhere: Vec<&'static str>,
    /// Says something else that has no meaning here.
    pub(super) ignored: Vec<&'static str>,
}

impl Declared {
    /// What it becomes in a table of `secrets`.
    pub(super) fn fields(&self) -> Vec<(&'static str, Layered)> {
        let required = self.required.unwrap_or(self.default.is_none());
        let mut fields = vec![("required", Layered::from(required))];
        let texts = [("default", &self.default), ("description", &self.description)];
        for (name, text) in texts {
            fields.extend(text.as_deref().map(|text| (name, Layered::from(text))));
        }
        fields
    }

    pub(super) fn path(&self) -> &PathBuf {
        &self.path
    }

    pub(super) fn line(&self) -> usize {
        self.line
    }

    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        let origin = Origin::Line { path: self.path.to_path_buf(), line: self.line };
        Problem::new(&*self.name, Some(origin), message)
    }

    /// Refuses what would be read as another value than is meant.
    pub(super) fn refuse_elsewhere(&self, problems: &mut Vec<Problem>) {
        for what in &self.elsewhere {
            let alias = self.name.to_ascii_lowercase().replace('_', "-");
            let message = format!(
                "has `{what}`, by which its value is another than what is stored under its name, and \
                 that is not supported; say where the value itself is by `secrets.{alias}.ref`"
            );
            problems.push(self.problem(message));
        }
    }

    /// Notes what is passed over.
    pub(super) fn note(&self, notes: &mut Vec<Problem>) {
        for what in &self.ignored {
            let meaning = match *what {
                "as_path" => "and is given as a value, not as the path of a file",
                "generate" => "and is not made here: where it is not there, it is missing",
                "prompt" => "and nobody is asked for it: where it is not there, it is missing",
                "providers" => "which is not followed: the settings say where it is",
                "required" => "with a group, which is not looked at: it is taken as not required",
                _ => "which has no meaning here",
            };
            notes.push(self.problem(format!("has `{what}`, {meaning}")));
        }
    }
}
