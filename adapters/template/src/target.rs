//! A file that is replaced as a whole: looked at, written beside, and renamed over.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use oneiric_core::HookError;
use zeroize::Zeroizing;

/// What the names of our temporary files end with.
const TEMPORARY: &str = ".oneiric";
/// What the names of our staging folders end with.
const FOLDER: &str = ".oneiric-staged";
/// What a kept file ends with.
const BACKUP: &str = ".bak";

/// Where a rendered file is put, and whose it is.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    pub(crate) mode: u32,
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) backup: bool,
    /// Whose file it is while it is temporary.
    pub(crate) adapter: String,
}

impl Target {
    /// The folder that it is in.
    pub(crate) fn dir(&self) -> &Path {
        match self.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        }
    }

    fn file_name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or("file")
    }

    /// Whether a file with this content, mode and owner is there already.
    ///
    /// # Errors
    /// If something is there that is no file and must not be replaced, or nothing can be there.
    pub(crate) fn holds(&self, content: &[u8]) -> Result<bool, HookError> {
        let facts = match fs::symlink_metadata(&self.path) {
            Ok(facts) => facts,
            Err(error) if error.kind() == ErrorKind::NotFound && self.dir().is_dir() => {
                return Ok(false);
            }
            Err(error) => return Err(self.cannot("look at", &error)),
        };
        let path = self.path.display();
        if facts.file_type().is_symlink() {
            return Err(HookError::failed(format!(
                "`{path}` is a symbolic link, which would be replaced itself; name the file that \
                 it leads to as the `target`"
            )));
        }
        if facts.is_dir() {
            return Err(HookError::failed(format!("`{path}` is a directory, and not a file")));
        }
        if !facts.is_file() {
            return Err(HookError::failed(format!("`{path}` is there, and is no regular file")));
        }
        let its_own = facts.mode() & 0o7777 == self.mode
            && self.owner.is_none_or(|owner| owner == facts.uid())
            && self.group.is_none_or(|group| group == facts.gid());
        if !its_own || facts.len() != content.len() as u64 {
            return Ok(false);
        }
        // What cannot be read is written anew.
        Ok(fs::read(&self.path).map(Zeroizing::new).is_ok_and(|held| *held == content))
    }

    /// Writes it beside the target: with owner and mode before any content, and safe from a crash
    /// once this returns.
    pub(crate) fn write_beside(&self, content: &[u8]) -> Result<Temporary, HookError> {
        let path = self.dir().join(self.temporary_name(TEMPORARY));
        let written = self.write(&path, content);
        written.map_err(|error| self.cannot("write beside", &error))
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<Temporary> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let temporary = Temporary(Some(path.to_owned()));
        if self.owner.is_some() || self.group.is_some() {
            fchown(&file, self.owner, self.group)?;
        }
        file.set_permissions(Permissions::from_mode(self.mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        Ok(temporary)
    }

    /// Puts what was written beside it in its place, and keeps what was there if that is wanted.
    pub(crate) fn replace(&self, temporary: Temporary) -> Result<(), HookError> {
        if self.backup && self.path.exists() {
            self.keep().map_err(|error| self.cannot("keep a copy of", &error))?;
        }
        temporary.rename_to(&self.path).map_err(|error| self.cannot("replace", &error))
    }

    /// A second name for what is there: it has the same owner and mode, and is never half there.
    fn keep(&self) -> io::Result<()> {
        let link = Temporary(Some(self.dir().join(self.temporary_name(TEMPORARY))));
        fs::hard_link(&self.path, link.path())?;
        let mut kept = self.path.clone().into_os_string();
        kept.push(BACKUP);
        link.rename_to(Path::new(&kept))
    }

    /// Makes the renames in its folder safe from a crash.
    pub(crate) fn sync_dir(&self) -> Result<(), HookError> {
        let synced = File::open(self.dir()).and_then(|dir| dir.sync_all());
        synced.map_err(|error| self.cannot("make safe the folder of", &error))
    }

    /// A folder beside it that nobody else may look into.
    pub(crate) fn staging_folder(&self) -> Result<StagingFolder, HookError> {
        let path = self.dir().join(format!(".{}{FOLDER}", self.tag()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| self.cannot("make a folder beside", &error))?;
        let path = std::path::absolute(&path).unwrap_or(path);
        Ok(StagingFolder(path))
    }

    /// The same file in that folder, under its own name.
    pub(crate) fn write_into(
        &self,
        folder: &StagingFolder,
        content: &[u8],
    ) -> Result<(), HookError> {
        let name = self.path.file_name().unwrap_or_default();
        let written = self.write(&folder.0.join(name), content);
        // The folder is removed as a whole.
        written.map(Temporary::leave).map_err(|error| self.cannot("write beside", &error))
    }

    /// Removes what an agent left beside it that ended in the middle.
    pub(crate) fn clean_up(&self) {
        let Ok(entries) = fs::read_dir(self.dir()) else { return };
        let (adapter, file) = (&self.adapter, self.file_name());
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            // What is not there any more is as good as removed.
            if is_left(name, &format!(".{file}.{adapter}."), TEMPORARY) {
                let _ = fs::remove_file(entry.path());
            } else if is_left(name, &format!(".{adapter}."), FOLDER) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    fn temporary_name(&self, ending: &str) -> String {
        format!(".{}.{}{ending}", self.file_name(), self.tag())
    }

    /// What nobody else has: the adapter, the process, and a number.
    fn tag(&self) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        format!("{}.{}-{number}", self.adapter, std::process::id())
    }

    fn cannot(&self, what: &str, error: &io::Error) -> HookError {
        let path = self.path.display();
        if error.kind() == ErrorKind::NotFound && !self.dir().is_dir() {
            let dir = self.dir().display();
            return HookError::failed(format!("the folder `{dir}` of `{path}` is not there"));
        }
        HookError::failed(format!("cannot {what} `{path}` ({error})"))
    }
}

/// Whether a name is this beginning, `<number>-<number>` and this ending.
fn is_left(name: &str, beginning: &str, ending: &str) -> bool {
    let tag = name.strip_prefix(beginning).and_then(|rest| rest.strip_suffix(ending));
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    tag.and_then(|tag| tag.split_once('-'))
        .is_some_and(|(process, count)| number(process) && number(count))
}

/// A file that is removed unless it gets its name.
#[derive(Debug)]
pub(crate) struct Temporary(Option<PathBuf>);

impl Temporary {
    fn path(&self) -> &Path {
        self.0.as_deref().expect("a temporary file has a path until it is gone")
    }

    fn rename_to(mut self, name: &Path) -> io::Result<()> {
        let path = self.0.take().expect("a temporary file has a path until it is gone");
        fs::rename(&path, name).inspect_err(|_| self.0 = Some(path))
    }

    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // What cannot be removed now is removed at the next start.
            let _ = fs::remove_file(path);
        }
    }
}

/// A folder that is removed with all that is in it.
#[derive(Debug)]
pub(crate) struct StagingFolder(PathBuf);

impl StagingFolder {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for StagingFolder {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        let _ = fs::remove_dir_all(&self.0);
    }
}
