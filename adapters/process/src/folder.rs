//! The private folder with the files of a child.
//!
//! One who runs children has one folder. It lies in memory where that is possible, and is removed
//! with its owner. A lock in it is held for the owner's life, so that who comes next can tell what
//! was left behind from what is in use.

mod place;
mod sweep;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use oneiric_core::SecretValue;
use rustix::fs::{FlockOperation, flock};

use self::place::Place;
use self::sweep::Leftovers;
use crate::config::{Config, Orphans};

/// What it is called that always leads to the files of the current generation.
const CURRENT: &str = "current";
/// The file in a folder that its owner has locked.
const LOCK: &str = "lock";

/// The folder of one who runs children. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// A new one. What dead owners have left is removed, which may take until the handle ends where
    /// their children are still being stopped.
    pub(crate) fn create(
        config: &Config,
        orphans: Orphans,
    ) -> io::Result<(Self, Option<JoinHandle<()>>)> {
        Self::create_in(&Place::find()?, config, orphans)
    }

    fn create_in(
        place: &Place,
        config: &Config,
        orphans: Orphans,
    ) -> io::Result<(Self, Option<JoinHandle<()>>)> {
        let guard = place.lock()?;
        let leftovers = Leftovers::find(place);
        let name = format!("{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = place.path.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        let mut lock = new_file(&path.join(LOCK), 0o600)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        lock.write_all(sweep::will(config, orphans).as_bytes())?;
        drop(guard);
        Ok((Self { path, _lock: lock }, leftovers.remove()))
    }

    /// What marks the processes that use it: the beginning of their marks.
    pub(crate) fn mark(&self) -> String {
        mark_of(&self.path)
    }

    /// The path that leads to the files of whichever generation is the current one.
    pub(crate) fn current(&self) -> PathBuf {
        self.path.join(CURRENT)
    }

    /// Writes the files of one generation. Nobody sees the folder before all of it is there.
    pub(crate) fn stage(&self, number: u64, files: &[(String, SecretValue)]) -> io::Result<Staged> {
        let staging = Staged(self.path.join(format!(".{number}")));
        let folder = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        folder(&staging.0)?;
        for (name, value) in files {
            let path = staging.0.join(name);
            path.parent().map(folder).transpose()?;
            new_file(&path, 0o400)?.write_all(value.expose())?;
        }
        let staged = Staged(self.path.join(number.to_string()));
        fs::rename(&staging.0, &staged.0)?;
        std::mem::forget(staging);
        Ok(staged)
    }

    /// Makes this generation the current one, at one moment.
    pub(crate) fn turn_to(&self, staged: &Staged) -> io::Result<()> {
        let next = self.path.join(".current");
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let name = staged.0.file_name().expect("a staged folder has a name");
        symlink(name, &next)?;
        fs::rename(&next, self.current())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next one who comes.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The files of one generation. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct Staged(PathBuf);

impl Staged {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mark_of(folder: &Path) -> String {
    let name = folder.file_name().expect("a folder has a name");
    format!("{}/", name.display())
}

fn new_file(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

#[cfg(test)]
mod tests;
