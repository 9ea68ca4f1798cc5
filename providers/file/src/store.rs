//! The versions of a tree that is written to. They are kept in a directory beside the secrets
//! where no key leads to: `.oneiric/<key>/`, in files whose names start with `..`.
//!
//! The live file is a copy of one of them, and bears the time in its name; so the live file tells
//! which version it is, in one rename, and a file that somebody else put there is none of them.

mod disk;
mod name;
mod write;

use std::fs::{self, File};
use std::io::{self, ErrorKind as IoKind};
use std::path::{Path, PathBuf};

use oneiric_core::{Error, ErrorKind, Result, VersionState};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{not_opened, refused};
use crate::read::{self, Facts};

pub(crate) use disk::{Disk, RealDisk};
pub(crate) use name::{Kept, plain_version};

/// The directory of the versions.
pub(crate) const STORE: &str = ".oneiric";

/// The longest head of a file, in bytes.
const MOST_HEAD: u64 = 8 * 1024;

/// The versions of one tree.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    max_bytes: u64,
    disk: Box<dyn Disk>,
}

/// The first line of a file; the value follows it.
#[derive(Serialize, Deserialize)]
struct Head {
    /// The attempt that made it, if it was made here.
    token: Option<String>,
}

impl Store {
    pub(crate) fn new(root: PathBuf, max_bytes: u64, disk: Box<dyn Disk>) -> Self {
        Self { root, max_bytes, disk }
    }

    /// The versions of a key, the newest first.
    pub(crate) fn versions(&self, key: &str) -> Result<Vec<Kept>> {
        let dir = self.dir(key);
        let failed = |error: &io::Error| not_opened(&dir, errno(error));
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), IoKind::NotFound | IoKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(failed(&error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(|error| failed(&error))?.file_name());
        }
        Ok(name::versions(names.iter().filter_map(|name| name.to_str())))
    }

    /// The value of a version that can be read.
    pub(crate) fn value(&self, key: &str, kept: &Kept) -> Result<Zeroizing<Vec<u8>>> {
        if kept.state != VersionState::Enabled {
            return Err(self.not_enabled(key, kept));
        }
        Ok(self.contents(key, kept)?.1)
    }

    /// That a version cannot be read.
    pub(crate) fn not_enabled(&self, key: &str, kept: &Kept) -> Error {
        let what = format!("is {} in the version {}", kept.state.token(), kept.version());
        refused(ErrorKind::VersionDisabled, &self.root.join(key), &what)
    }

    fn contents(&self, key: &str, kept: &Kept) -> Result<(Head, Zeroizing<Vec<u8>>)> {
        let path = self.dir(key).join(kept.name());
        let file = File::open(&path).map_err(|error| not_opened(&path, errno(&error)))?;
        let facts = Facts::of(&file, &path)?;
        let damaged = || refused(ErrorKind::Invalid, &path, "is not a version as it was written");
        let most = self.max_bytes.saturating_add(MOST_HEAD);
        let bytes = read::whole(&file, &path, &facts, most)?.ok_or_else(damaged)?;
        let end = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(damaged)?;
        let (head, value) = (&bytes[..end], &bytes[end + 1..]);
        let head = serde_json::from_slice(head).map_err(|_| damaged())?;
        Ok((head, Zeroizing::new(value.to_vec())))
    }

    /// Where the versions of a key are kept.
    fn dir(&self, key: &str) -> PathBuf {
        self.root.join(STORE).join(key)
    }
}

/// Which version a live file is, if it is one of these.
pub(crate) fn is_live<'k>(kept: &'k [Kept], facts: &Facts) -> Option<&'k Kept> {
    kept.iter().find(|kept| kept.time == facts.modified())
}

/// The secret whose versions an event is about that was seen below the directory of the versions:
/// one was disabled or enabled there. All else that is seen there concerns nobody.
pub(crate) fn subject(below: &Path) -> Option<&str> {
    let disabled = Kept::parse(below.file_name()?.to_str()?)?.state == VersionState::Disabled;
    below.parent()?.to_str().filter(|_| disabled)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests;
