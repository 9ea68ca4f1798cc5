//! Opening what is inside a directory, and nothing that is not, whatever is renamed meanwhile.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oneiric_core::{Error, ErrorKind, Result, SecretKey};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::store::STORE;

/// How often an open is repeated that met a rename.
const RENAME_ATTEMPTS: usize = 16;

/// A FIFO that nobody writes to must not hang us, and a terminal must not become ours.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Looking into a directory needs no right to list it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC).union(OFlags::DIRECTORY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::DIRECTORY);

/// The path of a key relative to the root.
///
/// Names that start with `..` are refused: Kubernetes keeps its own directories under such names,
/// and so do we the versions of what we write.
pub(crate) fn relative(key: &SecretKey) -> Result<&str> {
    let text = key.as_str();
    let fault = if text.starts_with('/') {
        Some("it is an absolute path, and a path relative to the root is needed")
    } else if text.split('/').next() == Some(STORE) {
        Some("versions are kept there, which are asked for by their ids")
    } else {
        text.split('/').find_map(|name| match name {
            "" => Some("it has an empty path component"),
            "." => Some("it has a `.` component"),
            name if name.starts_with("..") => Some("a path component starts with `..`"),
            _ => None,
        })
    };
    match fault {
        Some(fault) => {
            Err(Error::new(ErrorKind::Invalid, format!("the key `{key}` is not valid: {fault}")))
        }
        None => Ok(text),
    }
}

/// Whether an open may follow symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// As long as they stay inside the directory.
    Followed,
    /// Not at all: the answer is `LOOP`.
    Refused,
}

/// A directory that is held open, so that it stays the same one when its name moves on.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Dir {
    /// Opens a directory by its full path, links and all: the path is the operator's.
    pub(crate) fn open(path: &Path) -> Result<Self, Errno> {
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Opens a directory below this one.
    pub(crate) fn open_dir(&self, relative: &str) -> Result<Self, Errno> {
        let fd = self.open_below(relative, DIRECTORY, Links::Followed)?;
        Ok(Self { fd, path: self.path.join(relative) })
    }

    /// Opens a file below this one. Says also whether a link was followed on the way.
    pub(crate) fn open_file(&self, relative: &str, links: Links) -> Result<(File, bool), Errno> {
        match self.open_below(relative, FILE, Links::Refused) {
            Err(Errno::LOOP) if links == Links::Followed => {
                Ok((self.open_below(relative, FILE, Links::Followed)?.into(), true))
            }
            opened => Ok((opened?.into(), false)),
        }
    }

    /// Where the link of this name points to, or `None` if there is no such link.
    pub(crate) fn link(&self, name: &str) -> Result<Option<String>, Errno> {
        match rustix::fs::readlinkat(&self.fd, name, Vec::new()) {
            // A target that is not UTF-8 is none that an atomic writer makes.
            Ok(target) => Ok(target.into_string().ok()),
            Err(Errno::NOENT | Errno::INVAL | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// The path it had when it was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn open_below(&self, relative: &str, flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
        let mut last = Errno::AGAIN;
        for _ in 0..RENAME_ATTEMPTS {
            match self.open_once(relative, flags, links) {
                Err(errno @ (Errno::AGAIN | Errno::INTR)) => last = errno,
                answer => return answer,
            }
        }
        Err(last)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn open_once(&self, relative: &str, flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
        use rustix::fs::ResolveFlags;
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        if links == Links::Refused {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        match rustix::fs::openat2(&self.fd, relative, flags, Mode::empty(), resolve) {
            // Old kernels do not know the call, and some sandboxes forbid it.
            Err(Errno::NOSYS | Errno::PERM) => self.open_and_compare(relative, flags, links),
            // To it every absolute link is one that leads out. Whatever is not shown to be inside
            // is not said to be missing either: what there is outside is nobody's business.
            Err(Errno::XDEV) => match self.open_and_compare(relative, flags, links) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Err(Errno::XDEV),
                answer => answer,
            },
            answer => answer,
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn open_once(&self, relative: &str, flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
        self.open_and_compare(relative, flags, links)
    }

    /// Resolves the path, opens the result if it is inside, and then makes sure that what was
    /// opened is what stands there with no link in its path; if not, somebody renamed meanwhile.
    fn open_and_compare(
        &self,
        relative: &str,
        flags: OFlags,
        links: Links,
    ) -> Result<OwnedFd, Errno> {
        let base = canonical(&self.path)?;
        let asked = base.join(relative);
        let real = canonical(&asked)?;
        if !real.starts_with(&base) {
            return Err(Errno::XDEV);
        }
        if links == Links::Refused && real != asked {
            return Err(Errno::LOOP);
        }
        let fd = rustix::fs::open(&real, flags | OFlags::NOFOLLOW, Mode::empty())?;
        let (opened, there) = (rustix::fs::fstat(&fd)?, rustix::fs::stat(&real)?);
        let same = (opened.st_dev, opened.st_ino) == (there.st_dev, there.st_ino);
        if same && canonical(&real)? == real { Ok(fd) } else { Err(Errno::AGAIN) }
    }
}

fn canonical(path: &Path) -> Result<PathBuf, Errno> {
    fs::canonicalize(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn keys_that_are_no_paths_inside_are_refused() {
        for (key, part) in [
            ("/etc/passwd", "absolute"),
            ("../a", "starts with `..`"),
            ("a/../b", "starts with `..`"),
            ("..data/a", "starts with `..`"),
            ("a//b", "empty path component"),
            ("a/", "empty path component"),
            ("./a", "`.` component"),
        ] {
            let error = relative(&key.parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(part), "{error}");
        }
        for key in ["a", "a/b.json", ".env", "a..b"] {
            assert_eq!(relative(&key.parse().unwrap()).unwrap(), key);
        }
    }

    /// Both ways to open agree on what is inside.
    #[test]
    fn both_ways_to_open_agree() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(base.path().join("outside"), "x").unwrap();
        fs::write(root.join("sub/file"), "x").unwrap();
        symlink("sub/file", root.join("inside")).unwrap();
        symlink(root.join("sub/file"), root.join("absolute")).unwrap();
        symlink("../outside", root.join("escape")).unwrap();
        symlink(base.path().join("outside"), root.join("far")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        symlink("sub/gone", root.join("dangling")).unwrap();
        let dir = Dir::open(&root).unwrap();
        for (name, links, expected) in [
            ("sub/file", Links::Refused, None),
            ("inside", Links::Followed, None),
            ("inside", Links::Refused, Some(Errno::LOOP)),
            ("absolute", Links::Followed, None),
            ("escape", Links::Followed, Some(Errno::XDEV)),
            ("far", Links::Followed, Some(Errno::XDEV)),
            ("circle", Links::Followed, Some(Errno::LOOP)),
            ("dangling", Links::Followed, Some(Errno::NOENT)),
            ("sub/file/x", Links::Followed, Some(Errno::NOTDIR)),
        ] {
            assert_eq!(dir.open_below(name, FILE, links).err(), expected, "{name}");
            assert_eq!(dir.open_and_compare(name, FILE, links).err(), expected, "{name}, compared");
        }
        assert!(dir.open_file("inside", Links::Followed).unwrap().1);
        assert!(!dir.open_file("sub/file", Links::Followed).unwrap().1);
    }
}
