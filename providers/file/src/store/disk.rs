//! The changes of a disk, one by one: between any two of them the process may be killed.

use std::fmt::Debug;
use std::fs::{File, FileTimes, Permissions};
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};

use super::name::Time;

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a Path,
}

impl<'a> Place<'a> {
    /// A place by its full path.
    pub(crate) fn at(path: &'a Path) -> Self {
        Self { dir: CWD, name: path }
    }
}

/// What a file looks like from outside.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) mode: u32,
    /// The user and the group, where they are not those of this process.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) time: Time,
}

/// Who changes the disk. There is one besides the real one: a test's, which dies on the way.
pub(crate) trait Disk: Debug + Send + Sync {
    /// Makes a directory for the owner alone, unless it is there.
    fn make_dir(&self, place: Place<'_>) -> io::Result<()>;

    /// Writes a new file, in place of one that was left behind, and sees to it that it is on the
    /// disk.
    fn write(&self, path: &Path, parts: &[&[u8]], look: Look) -> io::Result<()>;

    /// Gives a file another name, in place of the file that had it.
    fn rename(&self, from: &Path, to: Place<'_>) -> io::Result<()>;

    /// Takes a name away, if it is there.
    fn remove(&self, place: Place<'_>) -> io::Result<()>;

    /// Sees to it that the names of a directory are on the disk.
    fn sync(&self, dir: Place<'_>) -> io::Result<()>;
}

/// The disk of this machine.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn make_dir(&self, Place { dir, name }: Place<'_>) -> io::Result<()> {
        match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            made => Ok(made?),
        }
    }

    fn write(&self, path: &Path, parts: &[&[u8]], look: Look) -> io::Result<()> {
        self.remove(Place::at(path))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file: File = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into();
        for part in parts {
            file.write_all(part)?;
        }
        if let Some((user, group)) = look.owner {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            rustix::fs::fchown(&file, Some(user), Some(group))?;
        }
        file.set_permissions(Permissions::from_mode(look.mode))?;
        file.set_times(FileTimes::new().set_modified(system_time(look.time)?))?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: Place<'_>) -> io::Result<()> {
        Ok(rustix::fs::renameat(CWD, from, to.dir, to.name)?)
    }

    fn remove(&self, Place { dir, name }: Place<'_>) -> io::Result<()> {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }

    fn sync(&self, Place { dir, name }: Place<'_>) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::fsync(rustix::fs::openat(dir, name, flags, Mode::empty())?)?)
    }
}

fn system_time((seconds, nanos): Time) -> io::Result<SystemTime> {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let start = match seconds {
        ..0 => SystemTime::UNIX_EPOCH.checked_sub(whole),
        0.. => SystemTime::UNIX_EPOCH.checked_add(whole),
    };
    let nanos = Duration::from_nanos(nanos.unsigned_abs());
    let time = start.and_then(|start| start.checked_add(nanos));
    time.ok_or_else(|| io::Error::other("a time that the clock does not know"))
}
