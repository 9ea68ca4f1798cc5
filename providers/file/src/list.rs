//! The keys of a tree.

use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use oneiric_core::{Error, ErrorKind, Result, SecretKey};
use rustix::io::Errno;

use crate::error::{no_root, not_opened};

/// How many names are looked at before the tree is said to be no tree of secrets.
const MOST: usize = 100_000;

/// All keys, sorted. Names that start with a dot are passed over, and so are links that lead out
/// of the root or back to where they stand.
pub(crate) fn keys(root: &Path) -> Result<Vec<SecretKey>> {
    let base = fs::canonicalize(root).map_err(|error| no_root(root, errno(&error)))?;
    let mut walk = Walk { root, base: base.clone(), seen: 0, keys: Vec::new() };
    walk.directory("", &mut vec![base])?;
    walk.keys.sort();
    Ok(walk.keys)
}

struct Walk<'a> {
    root: &'a Path,
    /// The real path of the root.
    base: PathBuf,
    seen: usize,
    keys: Vec<SecretKey>,
}

impl Walk<'_> {
    /// Goes through the last one of `above`, which are the real paths from the root to here.
    fn directory(&mut self, prefix: &str, above: &mut Vec<PathBuf>) -> Result<()> {
        let here = above.last().expect("the root is always above");
        let entries = match fs::read_dir(here) {
            Ok(entries) => entries,
            // It was there a moment ago.
            Err(error) if errno(&error) == Errno::NOENT && !prefix.is_empty() => return Ok(()),
            Err(error) => return Err(not_opened(&self.root.join(prefix), errno(&error))),
        };
        for entry in entries {
            let entry =
                entry.map_err(|error| not_opened(&self.root.join(prefix), errno(&error)))?;
            self.seen += 1;
            if self.seen > MOST {
                let root = self.root.display();
                let message =
                    format!("`{root}` has more than {MOST} names in it; nothing is listed");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            self.entry(prefix, &entry, above)?;
        }
        Ok(())
    }

    fn entry(&mut self, prefix: &str, entry: &DirEntry, above: &mut Vec<PathBuf>) -> Result<()> {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else {
            return Ok(());
        };
        // What vanishes while it is looked at is not there.
        let Ok(real) = fs::canonicalize(entry.path()) else { return Ok(()) };
        let Ok(metadata) = fs::metadata(&real) else { return Ok(()) };
        if !real.starts_with(&self.base) {
            return Ok(());
        }
        let path = format!("{prefix}{name}");
        if metadata.is_file() {
            // A name that no key can have cannot be asked for.
            self.keys.extend(path.parse::<SecretKey>());
        } else if metadata.is_dir() && !above.contains(&real) {
            above.push(real);
            self.directory(&format!("{path}/"), above)?;
            above.pop();
        }
        Ok(())
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn keys_are_regular_files_inside() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("root");
        for dir in ["..2026", "db/deep", ".git"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for file in ["..2026/token", "db/password", "db/deep/x", ".git/config", ".hidden", "b"] {
            fs::write(root.join(file), "x").unwrap();
        }
        fs::write(base.path().join("outside"), "x").unwrap();
        symlink("..2026", root.join("..data")).unwrap();
        symlink("..data/token", root.join("token")).unwrap();
        symlink("../outside", root.join("escape")).unwrap();
        symlink("..", root.join("db/up")).unwrap();
        symlink("gone", root.join("dangling")).unwrap();
        let names: Vec<String> = keys(&root).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["b", "db/deep/x", "db/password", "token"]);
    }

    #[test]
    fn a_root_that_is_not_there_is_not_an_empty_one() {
        let base = tempfile::tempdir().unwrap();
        let error = keys(&base.path().join("gone")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}
