//! Writing to a tree. Each operation holds the lock of the tree and is a few changes of the disk,
//! of which one, a rename, makes it true: whoever is killed before it has done nothing, and
//! whoever is killed after it all.

use std::fs::{self, File, TryLockError};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use oneiric_core::{Error, ErrorKind, Result, SecretValue, Version, VersionState};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::disk::{Look, Place};
use super::name::{Kept, Time};
use super::{Head, STORE, Store, is_live};
use crate::error::{no_root, not_opened, not_written, refused, unknown};
use crate::read::{self, Facts};
use crate::tree::{Dir, Links};

/// The lock of the tree, and a file on its way. Only one is ever on its way.
const LOCK: &str = "..lock";
const NEW: &str = "..new";

/// How long another writer may hold the lock, and how often it is tried.
const PATIENCE: Duration = Duration::from_secs(10);
const TRY: Duration = Duration::from_millis(5);

/// The longest token, in bytes.
const MOST_TOKEN: usize = 1024;

/// The mode of every file that is not in the place of another.
const PRIVATE: u32 = 0o600;

impl Store {
    /// Adds a version, once for a token.
    pub(crate) fn create(&self, key: &str, value: &SecretValue, token: &str) -> Result<Version> {
        if token.len() > MOST_TOKEN {
            let message = format!("the token of a write has more than {MOST_TOKEN} bytes");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        self.locked(key)?.create(value, token)
    }

    /// Makes a version the live file, if the expected one is.
    pub(crate) fn promote(&self, key: &str, version: &str, expected: Option<&str>) -> Result<()> {
        self.locked(key)?.promote(version, expected)
    }

    /// Disables a version or enables it again.
    pub(crate) fn switch(&self, key: &str, version: &str, state: VersionState) -> Result<()> {
        self.locked(key)?.switch(version, state)
    }

    /// Ends a version for good.
    pub(crate) fn destroy(&self, key: &str, version: &str) -> Result<()> {
        self.locked(key)?.destroy(version)
    }

    /// Waits for the lock of the tree. It ends with the process that holds it.
    fn locked<'s>(&'s self, key: &'s str) -> Result<Locked<'s>> {
        let root = Dir::open(&self.root).map_err(|errno| no_root(&self.root, errno))?;
        let store = self.root.join(STORE);
        self.disk.make_dir(Place::at(&store)).map_err(|error| not_written(&store, error))?;
        let path = store.join(LOCK);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock: File = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| not_written(&path, errno.into()))?
            .into();
        let started = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => {
                    std::thread::sleep(TRY);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(refused(ErrorKind::Unavailable, &path, "is held by somebody else"));
                }
                Err(TryLockError::Error(error)) => return Err(not_written(&path, error)),
            }
        }
        let locked = Locked { store: self, key, root, kept: Vec::new(), _lock: lock };
        locked.looked()
    }
}

/// The right to write.
struct Locked<'s> {
    store: &'s Store,
    key: &'s str,
    root: Dir,
    /// The versions that there are, the newest first.
    kept: Vec<Kept>,
    _lock: File,
}

/// The file that is read as the secret, and all that is known of it.
struct Live {
    file: File,
    facts: Facts,
}

impl Locked<'_> {
    fn looked(mut self) -> Result<Self> {
        self.kept = self.store.versions(self.key)?;
        Ok(self)
    }

    fn create(&self, value: &SecretValue, token: &str) -> Result<Version> {
        for kept in &self.kept {
            let (head, written) = match self.store.contents(self.key, kept) {
                // A damaged one stands in nobody's way.
                Err(error) if error.kind() == ErrorKind::Invalid => continue,
                contents => contents?,
            };
            if head.token.as_deref() != Some(token) {
                continue;
            }
            return match kept.state {
                VersionState::Destroyed => Err(self.store.not_enabled(self.key, kept)),
                _ if SecretValue::from(&written[..]).same_as(value) => {
                    self.sync(&self.dir())?;
                    Ok(kept.version())
                }
                _ => {
                    let what = "has another value of the same attempt";
                    Err(refused(ErrorKind::Conflict, &self.path(), what))
                }
            };
        }
        let live = self.live()?.map(|live| live.facts.modified());
        let kept = Kept {
            number: self.next_number(),
            time: self.free_time(live),
            found: None,
            state: VersionState::Enabled,
        };
        self.keep(&kept, Some(token), value.expose())?;
        Ok(kept.version())
    }

    fn promote(&self, version: &str, expected: Option<&str>) -> Result<()> {
        let live = self.live()?;
        let current = live.as_ref().map(|live| self.version_of(&live.facts));
        let known = self.kept.iter().find(|kept| kept.version().id() == version);
        let Some(kept) = known else {
            return match current {
                Some(current) if current.id() == version => Ok(()),
                _ => Err(self.missing(version)),
            };
        };
        if kept.state != VersionState::Enabled {
            return Err(self.store.not_enabled(self.key, kept));
        }
        if current.as_ref().is_some_and(|current| current.id() == version) {
            return self.sync_live();
        }
        if current.as_ref().map(Version::id).as_deref() != expected {
            let current = current.map_or("none".to_owned(), |current| current.to_string());
            let what = format!("is at another version than was expected: {current}");
            return Err(refused(ErrorKind::Conflict, &self.path(), &what));
        }
        if let Some(live) = &live {
            self.adopt(live)?;
        }
        let (_, value) = self.store.contents(self.key, kept)?;
        let new = self.dir().join(NEW);
        let look = self.look_of(live.as_ref(), kept.time);
        self.write(&new, &[&value], look)?;
        let (parent, name) = self.parent(true)?;
        let place = Place { dir: parent.as_fd(), name: Path::new(name) };
        self.store.disk.rename(&new, place).map_err(|error| not_written(&self.path(), error))?;
        self.sync_live()
    }

    fn switch(&self, version: &str, state: VersionState) -> Result<()> {
        let kept = self.kept(version)?;
        match kept.state {
            VersionState::Destroyed => return Err(self.store.not_enabled(self.key, &kept)),
            now if now == state => {}
            _ => {
                let (from, to) = (self.file(&kept), self.file(&kept.turned(state)));
                let renamed = self.store.disk.rename(&from, Place::at(&to));
                renamed.map_err(|error| not_written(&from, error))?;
            }
        }
        self.sync(&self.dir())
    }

    fn destroy(&self, version: &str) -> Result<()> {
        let kept = self.kept(version)?;
        if kept.state != VersionState::Destroyed {
            let (head, _) = self.store.contents(self.key, &kept)?;
            let destroyed = kept.turned(VersionState::Destroyed);
            self.keep(&destroyed, head.token.as_deref(), b"")?;
        }
        // From here on it is refused; what is left of it goes.
        let live = self.live()?.filter(|live| live.facts.modified() == kept.time);
        if live.is_some() {
            let (parent, name) = self.parent(false)?;
            let place = Place { dir: parent.as_fd(), name: Path::new(name) };
            let removed = self.store.disk.remove(place);
            removed.map_err(|error| unknown(&self.path(), error))?;
            self.sync_live()?;
        }
        for state in [VersionState::Enabled, VersionState::Disabled] {
            let path = self.file(&kept.turned(state));
            let removed = self.store.disk.remove(Place::at(&path));
            removed.map_err(|error| unknown(&self.path(), error))?;
        }
        self.sync(&self.dir())
    }

    /// A version by its id. A live file that nobody keeps becomes one that is kept.
    fn kept(&self, version: &str) -> Result<Kept> {
        if let Some(kept) = self.kept.iter().find(|kept| kept.version().id() == version) {
            return Ok(kept.clone());
        }
        match self.live()? {
            Some(live) if live.facts.version(None).id() == version => self.adopt(&live),
            _ => Err(self.missing(version)),
        }
    }

    /// Keeps what somebody else has put into the tree, so that there is a way back to it.
    fn adopt(&self, live: &Live) -> Result<Kept> {
        let facts = &live.facts;
        if let Some(kept) = is_live(&self.kept, facts) {
            return Ok(kept.clone());
        }
        let kept = Kept {
            number: self.next_number(),
            time: facts.modified(),
            found: Some(facts.inode()),
            state: VersionState::Enabled,
        };
        let value = self.bytes(live)?;
        self.keep(&kept, None, &value)?;
        Ok(kept)
    }

    fn bytes(&self, live: &Live) -> Result<Zeroizing<Vec<u8>>> {
        let path = self.path();
        let busy = || refused(ErrorKind::Unavailable, &path, "is being written to");
        read::whole(&live.file, &path, &live.facts, self.store.max_bytes)?.ok_or_else(busy)
    }

    /// Writes the file of a version and gives it its name.
    fn keep(&self, kept: &Kept, token: Option<&str>, value: &[u8]) -> Result<()> {
        self.make_dirs()?;
        let head = Head { token: token.map(str::to_owned) };
        let head = serde_json::to_string(&head).expect("a head is a line of JSON");
        let (new, path) = (self.dir().join(NEW), self.file(kept));
        let look = Look { mode: PRIVATE, owner: None, time: kept.time };
        self.write(&new, &[head.as_bytes(), b"\n", value], look)?;
        let renamed = self.store.disk.rename(&new, Place::at(&path));
        renamed.map_err(|error| not_written(&path, error))?;
        self.sync(&self.dir())
    }

    fn write(&self, path: &Path, parts: &[&[u8]], look: Look) -> Result<()> {
        let written = self.store.disk.write(path, parts, look);
        written.map_err(|error| not_written(path, error))?;
        let found = fs::symlink_metadata(path).map_err(|error| not_written(path, error))?;
        if (found.mtime(), found.mtime_nsec()) != look.time {
            let what = "is on a file system whose times are too coarse to tell versions by them";
            return Err(refused(ErrorKind::Unsupported, path, what));
        }
        Ok(())
    }

    /// The live file, if there is one. Nothing is written through a link, or into a mount that is
    /// swapped as a whole.
    fn live(&self) -> Result<Option<Live>> {
        let path = self.path();
        if self.is_mounted() {
            let what =
                "is in a mount that is swapped as a whole, and is written by whoever does it";
            return Err(refused(ErrorKind::Unsupported, &path, what));
        }
        match self.root.open_file(self.key, Links::Refused) {
            Ok((file, _)) => {
                let facts = Facts::of(&file, &path)?;
                Ok(Some(Live { file, facts }))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR) => {
                let what = "has a file in its path where a directory would be";
                Err(refused(ErrorKind::Invalid, &path, what))
            }
            Err(Errno::LOOP) => {
                let what = "has a link in its path, and is written to where that leads";
                Err(refused(ErrorKind::Unsupported, &path, what))
            }
            Err(errno) => Err(not_opened(&path, errno)),
        }
    }

    fn is_mounted(&self) -> bool {
        let linked = |dir: &Dir| dir.link(crate::view::DATA).ok().flatten().is_some();
        let top = self.key.split_once('/').and_then(|(top, _)| self.root.open_dir(top).ok());
        linked(&self.root) || top.is_some_and(|top| linked(&top))
    }

    fn version_of(&self, facts: &Facts) -> Version {
        is_live(&self.kept, facts).map_or_else(|| facts.version(None), Kept::version)
    }

    /// The new live file is for those who could read the old one.
    fn look_of(&self, live: Option<&Live>, time: Time) -> Look {
        match live.map(|live| &live.facts) {
            None => Look { mode: PRIVATE, owner: None, time },
            Some(facts) => {
                let ours =
                    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
                let owner = Some(facts.owner()).filter(|owner| *owner != ours);
                Look { mode: facts.mode(), owner, time }
            }
        }
    }

    /// The directory of the live file and its name there.
    fn parent(&self, make: bool) -> Result<(Dir, &str)> {
        let Some((above, name)) = self.key.rsplit_once('/') else {
            let root = self.root.open_dir(".").map_err(|errno| no_root(&self.store.root, errno))?;
            return Ok((root, self.key));
        };
        let failed = |errno| not_opened(&self.store.root.join(above), errno);
        if make {
            let ends = above.match_indices('/').map(|(at, _)| at).chain([above.len()]);
            for end in ends {
                let path = &above[..end];
                if self.root.open_dir(path).err() == Some(Errno::NOENT) {
                    // What was opened so far is inside, so the new one is.
                    let (up, name) = path.rsplit_once('/').unwrap_or((".", path));
                    let up = self.root.open_dir(up).map_err(failed)?;
                    let place = Place { dir: up.as_fd(), name: Path::new(name) };
                    let made = self.store.disk.make_dir(place);
                    made.map_err(|error| not_written(&self.store.root.join(path), error))?;
                }
            }
        }
        Ok((self.root.open_dir(above).map_err(failed)?, name))
    }

    fn make_dirs(&self) -> Result<()> {
        let mut path = self.store.root.join(STORE);
        for part in self.key.split('/') {
            path.push(part);
            let made = self.store.disk.make_dir(Place::at(&path));
            made.map_err(|error| not_written(&path, error))?;
        }
        Ok(())
    }

    fn next_number(&self) -> u64 {
        self.kept.first().map_or(1, |newest| newest.number + 1)
    }

    /// A time that no version bears and no live file, later than that of all that were made here.
    fn free_time(&self, live: Option<Time>) -> Time {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let made = self.kept.iter().filter(|kept| kept.found.is_none());
        let last = made.map(|kept| kept.time).max();
        let mut time = (seconds, i64::from(now.subsec_nanos()));
        if let Some(last) = last.filter(|last| *last >= time) {
            time = after(last);
        }
        while live == Some(time) || self.kept.iter().any(|kept| kept.time == time) {
            time = after(time);
        }
        time
    }

    /// What was renamed is true; if it is not known to be on the disk, nobody knows for how long.
    fn sync(&self, dir: &Path) -> Result<()> {
        self.store.disk.sync(Place::at(dir)).map_err(|error| unknown(&self.path(), error))
    }

    fn sync_live(&self) -> Result<()> {
        let (parent, _) = self.parent(false)?;
        let place = Place { dir: parent.as_fd(), name: Path::new(".") };
        self.store.disk.sync(place).map_err(|error| unknown(&self.path(), error))
    }

    fn missing(&self, version: &str) -> Error {
        refused(ErrorKind::NotFound, &self.path(), &format!("has no version {version:?}"))
    }

    fn path(&self) -> PathBuf {
        self.store.root.join(self.key)
    }

    fn dir(&self) -> PathBuf {
        self.store.dir(self.key)
    }

    fn file(&self, kept: &Kept) -> PathBuf {
        self.dir().join(kept.name())
    }
}

fn after((seconds, nanos): Time) -> Time {
    if nanos == 999_999_999 { (seconds + 1, 0) } else { (seconds, nanos + 1) }
}
