//! The failures of files, each with its path. What a file holds appears in none of them.

use std::io;
use std::path::Path;

use oneiric_core::{Error, ErrorKind};
use rustix::io::Errno;

/// A failure that is told by one sentence about one path.
pub(crate) fn refused(kind: ErrorKind, path: &Path, what: &str) -> Error {
    Error::new(kind, format!("`{}` {what}", path.display()))
}

/// What the system said when `path` was opened.
pub(crate) fn not_opened(path: &Path, errno: Errno) -> Error {
    let (kind, what) = match errno {
        Errno::NOENT | Errno::NOTDIR => (ErrorKind::NotFound, "does not exist"),
        Errno::ACCESS | Errno::PERM => (ErrorKind::Denied, "may not be read by this process"),
        Errno::XDEV => (ErrorKind::Denied, "leads out of the root directory by a symbolic link"),
        Errno::LOOP => (ErrorKind::Invalid, "has too many symbolic links in it"),
        Errno::NAMETOOLONG => (ErrorKind::Invalid, "is longer than a path may be"),
        Errno::NXIO | Errno::NODEV => (ErrorKind::Invalid, "is not a regular file"),
        _ => (ErrorKind::Unavailable, "cannot be opened"),
    };
    Error::with_source(
        kind,
        format!("`{}` {what}", path.display()),
        io::Error::from_raw_os_error(errno.raw_os_error()),
    )
}

/// What the system said about the root directory. That it is missing says nothing about any
/// secret: it may not be mounted yet.
pub(crate) fn no_root(path: &Path, errno: Errno) -> Error {
    let (kind, what) = match errno {
        Errno::ACCESS | Errno::PERM => (ErrorKind::Denied, "may not be read by this process"),
        Errno::NOTDIR => (ErrorKind::Unavailable, "is not a directory"),
        Errno::NOENT => (ErrorKind::Unavailable, "does not exist"),
        _ => (ErrorKind::Unavailable, "cannot be opened"),
    };
    Error::with_source(
        kind,
        format!("the root directory `{}` {what}", path.display()),
        io::Error::from_raw_os_error(errno.raw_os_error()),
    )
}

/// What the system said while `path` was read.
pub(crate) fn not_read(path: &Path, errno: Errno) -> Error {
    Error::with_source(
        ErrorKind::Unavailable,
        format!("`{}` cannot be read", path.display()),
        io::Error::from_raw_os_error(errno.raw_os_error()),
    )
}

/// What the system said when `path` was written, and nothing had come of it yet.
pub(crate) fn not_written(path: &Path, error: io::Error) -> Error {
    let (kind, what) = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::Denied, "may not be written by this process")
        }
        _ => (ErrorKind::Unavailable, "cannot be written"),
    };
    Error::with_source(kind, format!("`{}` {what}", path.display()), error)
}

/// What the system said when a change of `path` was true already, and was to be made to last or to
/// be cleaned up after.
pub(crate) fn unknown(path: &Path, error: io::Error) -> Error {
    let message = format!("`{}` was changed, and not all of it is known to last", path.display());
    Error::with_source(ErrorKind::Ambiguous, message, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those that a test which may read everything cannot bring about.
    #[test]
    fn refusals_and_failures_of_the_system_are_told_apart() {
        for (errno, kind) in [
            (Errno::ACCESS, ErrorKind::Denied),
            (Errno::IO, ErrorKind::Unavailable),
            (Errno::STALE, ErrorKind::Unavailable),
            (Errno::MFILE, ErrorKind::Unavailable),
        ] {
            assert_eq!(not_opened(Path::new("/root/a"), errno).kind(), kind);
            let error = no_root(Path::new("/root"), errno);
            assert_eq!(error.kind(), kind);
            assert!(error.chain().contains("os error"), "{}", error.chain());
        }
    }
}
