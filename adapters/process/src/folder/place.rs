//! Where private folders lie.

use std::env;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open, statfs};
use rustix::process::geteuid;

/// What the place is called: nobody else keeps anything in it.
const NAME: &str = "oneiric-processes";
/// What the system says of a file system in memory: tmpfs and ramfs.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];

/// The folder that holds those of all owners of one user.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) path: PathBuf,
}

impl Place {
    /// The first of those in memory that can be used, or else one among the temporary files.
    pub(super) fn find() -> io::Result<Self> {
        let user = geteuid().as_raw();
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let runtime = runtime.filter(|path| path.is_absolute());
        let runtime = runtime.map(|path| (path, NAME.to_owned()));
        let system = [("/run", NAME.to_owned()), ("/dev/shm", format!("{NAME}-{user}"))];
        let system = system.map(|(parent, name)| (PathBuf::from(parent), name));
        for (parent, name) in runtime.into_iter().chain(system) {
            if is_in_memory(&parent)
                && let Ok(place) = Self::at(parent.join(name))
            {
                return Ok(place);
            }
        }
        let place = Self::at(env::temp_dir().join(format!("{NAME}-{user}")))?;
        let path = place.path.display();
        tracing::warn!(target: "oneiric", %path, "the files of child processes are not in memory");
        Ok(place)
    }

    /// The one at this path, which is made if need be and must be ours alone.
    pub(super) fn at(path: PathBuf) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let seen = fstat(open(&path, flags, Mode::empty())?)?;
        if seen.st_uid != geteuid().as_raw() || seen.st_mode & 0o077 != 0 {
            let message = format!("`{}` is not a folder of this user alone", path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
        Ok(Self { path })
    }

    /// Keeps others from making and removing folders until it is dropped.
    pub(super) fn lock(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let path = self.path.join(".lock");
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
        flock(&lock, FlockOperation::LockExclusive)?;
        Ok(lock)
    }
}

fn is_in_memory(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| {
        IN_MEMORY.iter().any(|kind| i128::from(*kind) == i128::from(found.f_type))
    })
}
