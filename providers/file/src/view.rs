//! The tree as one call sees it: `..data` links are resolved once, and all is read through that.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use oneiric_core::{Error, ErrorKind, Result, Snapshot};
use rustix::io::Errno;

use crate::error::{no_root, not_opened};
use crate::tree::{Dir, Links};

/// The link that an atomic writer swaps.
pub(crate) const DATA: &str = "..data";

/// How often the links are read again until none was swapped meanwhile.
const ATTEMPTS: usize = 20;

/// The directories that one call reads from.
pub(crate) struct View<'a> {
    root: Dir,
    /// By the directory that has the link: the root (`""`), or else the first directory of a key.
    pins: BTreeMap<&'a str, Pin>,
}

/// One state of a directory that is swapped as a whole.
pub(crate) struct Pin {
    /// The directory that has the link, and its name in the root.
    home: Dir,
    name: String,
    /// Where the link pointed to, and the directory there.
    target: String,
    dir: Dir,
}

/// A file that was opened through a view.
pub(crate) struct Opened<'v> {
    pub(crate) file: File,
    /// Where it stands, for messages.
    pub(crate) path: PathBuf,
    /// The pin that it was opened through.
    pub(crate) pin: Option<&'v Pin>,
    /// Whether some other link was followed.
    pub(crate) linked: bool,
}

impl<'a> View<'a> {
    /// Opens the root and whatever must be pinned to read these paths. All pins are of one moment.
    pub(crate) fn open(root: &Path, paths: &[&'a str]) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            match Self::open_once(root, paths) {
                // A target that is gone was swapped between two looks.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(not_opened(&root.join(DATA), errno)),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(view)) if view.has_moved() => {}
                Ok(Ok(view)) => return Ok(view),
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("`{}` points to nothing, or changes without end", root.join(DATA).display()),
        ))
    }

    fn open_once(root: &Path, paths: &[&'a str]) -> Result<Result<Self>, Errno> {
        let root = match Dir::open(root) {
            Ok(root) => root,
            Err(errno) => return Ok(Err(no_root(root, errno))),
        };
        let mut pins = BTreeMap::new();
        if let Some(pin) = Pin::open(root.open_dir(".")?, "")? {
            pins.insert("", pin);
            return Ok(Ok(Self { root, pins }));
        }
        for (top, _) in paths.iter().filter_map(|path| path.split_once('/')) {
            if pins.contains_key(top) {
                continue;
            }
            // A directory that cannot be opened is reported by the keys below it.
            if let Ok(home) = root.open_dir(top)
                && let Some(pin) = Pin::open(home, top)?
            {
                pins.insert(top, pin);
            }
        }
        Ok(Ok(Self { root, pins }))
    }

    /// Whether a link was swapped since the view was opened.
    pub(crate) fn has_moved(&self) -> bool {
        self.pins.values().any(Pin::has_moved)
    }

    /// Opens the file at a path that [`relative`](crate::tree::relative) has accepted.
    pub(crate) fn file(&self, path: &str) -> Result<Opened<'_>> {
        let full = self.root.path().join(path);
        let Some((pin, inner)) = self.pin_of(path) else {
            let (file, linked) = self
                .root
                .open_file(path, Links::Followed)
                .map_err(|errno| not_opened(&full, errno))?;
            return Ok(Opened { file, path: full, pin: None, linked });
        };
        match pin.dir.open_file(inner, Links::Followed) {
            Ok((file, _)) => Ok(Opened { file, path: full, pin: Some(pin), linked: false }),
            // A file may stand beside the link. A link there would lead around the pin.
            Err(Errno::NOENT) => {
                let (file, _) = pin.home.open_file(inner, Links::Refused).map_err(|errno| {
                    let errno = if errno == Errno::LOOP { Errno::NOENT } else { errno };
                    not_opened(&full, errno)
                })?;
                Ok(Opened { file, path: full, pin: None, linked: false })
            }
            Err(errno) => Err(not_opened(&full, errno)),
        }
    }

    fn pin_of<'p>(&self, path: &'p str) -> Option<(&Pin, &'p str)> {
        if let Some(pin) = self.pins.get("") {
            return Some((pin, path));
        }
        let (top, inner) = path.split_once('/')?;
        Some((self.pins.get(top)?, inner))
    }
}

impl Opened<'_> {
    /// Where the `..data` link pointed to that it was opened through.
    pub(crate) fn target(&self) -> Option<&str> {
        self.pin.map(|pin| pin.target.as_str())
    }
}

impl Pin {
    /// Pins the directory that the `..data` link in `home` points to, if there is such a link.
    fn open(home: Dir, name: &str) -> Result<Option<Self>, Errno> {
        let Some(target) = home.link(DATA)? else { return Ok(None) };
        let dir = home.open_dir(&target)?;
        Ok(Some(Self { home, name: name.to_owned(), target, dir }))
    }

    /// The state as a moment of its part of the tree.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::within(self.name.as_str(), self.target.as_str())
    }

    fn has_moved(&self) -> bool {
        self.home.link(DATA).ok().flatten().as_ref() != Some(&self.target)
    }
}
