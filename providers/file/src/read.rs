//! Reading one open file as a whole, and noticing when somebody writes to it meanwhile.

use std::fs::{File, Metadata};
use std::io::{ErrorKind as IoKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use oneiric_core::{ErrorKind, Result, Stamp, Version};
use rustix::io::Errno;
use zeroize::Zeroizing;

use crate::error::{not_read, refused};
use crate::grain;
use crate::store::plain_version;

/// What the file system says of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    device: u64,
    inode: u64,
    size: u64,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Facts {
    /// Looks at an open file, which must be a regular one.
    pub(crate) fn of(file: &File, path: &Path) -> Result<Self> {
        let metadata = metadata(file, path)?;
        if metadata.is_dir() {
            return Err(refused(ErrorKind::Invalid, path, "is a directory, not a file"));
        }
        if !metadata.is_file() {
            return Err(refused(ErrorKind::Invalid, path, "is not a regular file"));
        }
        Ok(Self::from(&metadata))
    }

    /// All that tells two states apart. `besides` is what does so and is not in the file: where
    /// the `..data` link pointed to.
    pub(crate) fn stamp(&self, besides: Option<&str>) -> Stamp {
        let Self { device, inode, size, modified, changed, .. } = self;
        let besides = besides.unwrap_or_default();
        Stamp::from(format!("{device}:{inode}:{size}:{modified:?}:{changed:?}:{besides}"))
    }

    /// A name for reports, where nobody keeps versions.
    pub(crate) fn version(&self, target: Option<&str>) -> Version {
        match target {
            Some(target) => Version::opaque(target.trim_start_matches('.')),
            None => plain_version(self.modified, self.inode),
        }
    }

    /// The time of the last modification, in seconds and nanoseconds.
    pub(crate) fn modified(&self) -> (i64, i64) {
        self.modified
    }

    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// Who may do what.
    pub(crate) fn mode(&self) -> u32 {
        self.mode & 0o777
    }

    /// The user and the group that it belongs to.
    pub(crate) fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// Waits until a further write would bear a later time than the last one did. Without it a
    /// second write in the same step of the clock would leave the stamp as it is.
    pub(crate) fn settle(&self, file: &File) {
        let (Ok(seconds), Ok(nanos)) =
            (u64::try_from(self.changed.0), u32::try_from(self.changed.1))
        else {
            return;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        // A time in the future is another machine's.
        let Ok(age) = SystemTime::now().duration_since(changed) else { return };
        if age < grain::COARSEST {
            std::thread::sleep(grain::of(file).saturating_sub(age));
        }
    }
}

impl From<&Metadata> for Facts {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Reads all of an open file, or `None` if it is no longer what `facts` say. A file that is
/// replaced meanwhile is not concerned: what is open stays what it was.
pub(crate) fn whole(
    mut file: &File,
    path: &Path,
    facts: &Facts,
    max_bytes: u64,
) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let size = usize::try_from(facts.size).unwrap_or(usize::MAX);
    if facts.size > max_bytes || size == usize::MAX {
        let what = format!("is larger than {max_bytes} bytes, the most that is read (`max_bytes`)");
        return Err(refused(ErrorKind::Invalid, path, &what));
    }
    // One byte more than there should be, so that growth is seen, and no buffer is ever moved.
    let mut bytes = Zeroizing::new(vec![0; size + 1]);
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == IoKind::Interrupted => {}
            Err(error) => return Err(not_read(path, errno(&error))),
        }
    }
    let after = Facts::from(&metadata(file, path)?);
    if filled != size || after.size != facts.size || after.modified != facts.modified {
        return Ok(None);
    }
    bytes.truncate(size);
    Ok(Some(bytes))
}

fn metadata(file: &File, path: &Path) -> Result<Metadata> {
    file.metadata().map_err(|error| not_read(path, errno(&error)))
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
