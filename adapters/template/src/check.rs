//! Whether the templates of an adapter can be rendered, without a secret.

use std::collections::BTreeSet;
use std::path::PathBuf;

use oneiric_core::Result;

use crate::config::Config;
use crate::template::Template;

/// What a check of the templates of one adapter found.
#[derive(Debug)]
#[non_exhaustive]
pub struct CheckReport {
    /// Each file, in the order of the settings.
    pub files: Vec<CheckedFile>,
    /// The names of `secrets` that no template uses. Not known, and empty, while one of the
    /// templates is not valid.
    pub unused: Vec<String>,
}

/// One file of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct CheckedFile {
    /// Where the rendered file would be put.
    pub target: PathBuf,
    /// What is wrong with its template: the file, the line, and the name or the reason.
    pub problem: Option<String>,
}

/// Renders every file with something in the place of each secret. No store is asked, no command
/// runs, and nothing is written.
///
/// # Errors
/// `Invalid` if the settings make no sense.
pub fn check(config: &Config) -> Result<CheckReport> {
    config.check()?;
    let mut used = BTreeSet::new();
    let mut files = Vec::new();
    for file in &config.files {
        let template = Template::read(file, &config.secrets).map_err(|error| error.chain());
        let tried = template.and_then(|template| {
            used.extend(template.uses().map(str::to_owned));
            template.try_out(&config.secrets)
        });
        files.push(CheckedFile { target: file.target.clone(), problem: tried.err() });
    }
    let all_known = files.iter().all(|file| file.problem.is_none());
    let unused = config.secrets.keys().filter(|name| all_known && !used.contains(*name));
    Ok(CheckReport { unused: unused.cloned().collect(), files })
}
