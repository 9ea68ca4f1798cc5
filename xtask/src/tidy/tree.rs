//! The files of the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Failure, Result, output};

/// The files that git tracks, and those that it would.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// Relative to the root, with `/`, sorted.
    files: Vec<String>,
}

impl Tree {
    /// Asks git. A file that was deleted and not yet committed is none.
    pub(super) fn load(root: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let list = output(git.current_dir(root)).ok_or_else(|| {
            Failure::new(format!("git cannot list the files of {}", root.display()))
        })?;
        let mut files: Vec<String> = list
            .split('\0')
            .filter(|file| !file.is_empty() && root.join(file).is_file())
            .map(str::to_owned)
            .collect();
        files.sort();
        files.dedup();
        Ok(Self { root: root.to_owned(), files })
    }

    /// The files whose name ends so.
    pub(super) fn ending(&self, end: &str) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str).filter(move |file| file.ends_with(end))
    }

    /// Whether this is a file of the repository, or a folder of one.
    pub(super) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.files.iter().any(|file| {
            file.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// The text of a file.
    pub(super) fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.path(file))
            .map_err(|error| Failure::new(format!("cannot read {file}: {error}")))
    }

    /// Where a file of the repository is.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file)
    }

    /// A tree of these files, on which nothing can be read.
    #[cfg(test)]
    pub(super) fn of(files: &[&str]) -> Self {
        let files = files.iter().map(|&file| file.to_owned()).collect();
        Self { root: "/nowhere".into(), files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_files_count_and_ignored_and_deleted_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let git = |args: &[&str]| {
            let mut command = Command::new("git");
            output(command.args(args).current_dir(dir.path())).unwrap()
        };
        git(&["init", "--quiet"]);
        fs::create_dir(dir.path().join("docs")).unwrap();
        for (name, text) in
            [(".gitignore", "target\n"), ("gone.rs", ""), ("target", ""), ("docs/new.md", "hi")]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        git(&["add", "gone.rs"]);
        fs::remove_file(dir.path().join("gone.rs")).unwrap();

        let tree = Tree::load(dir.path()).unwrap();
        assert_eq!(tree.files, [".gitignore", "docs/new.md"]);
        assert_eq!(tree.ending(".md").collect::<Vec<_>>(), ["docs/new.md"]);
        assert_eq!(tree.read("docs/new.md").unwrap(), "hi");
        assert!(tree.has("docs/new.md") && tree.has("docs/") && tree.has("docs"));
        assert!(!tree.has("doc") && !tree.has("gone.rs"));
        assert!(Tree::load(&dir.path().join("nowhere")).is_err());
    }
}
