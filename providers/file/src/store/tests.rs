//! Writing to a tree, killed at each change of the disk.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use oneiric_core::SecretValue;
use tempfile::TempDir;

use super::disk::{Look, Place};
use super::*;

const KEY: &str = "db/password";

/// A disk whose process is killed at the n-th change: it is not done, or half of it is where it
/// can be, and nothing after it is.
#[derive(Debug)]
struct Dying {
    left: AtomicUsize,
}

impl Dying {
    fn lives(&self) -> bool {
        let take = |left: usize| left.checked_sub(1);
        self.left.try_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
    }

    fn step(&self, change: impl FnOnce(&RealDisk) -> io::Result<()>) -> io::Result<()> {
        if self.lives() { change(&RealDisk) } else { Err(io::Error::other("killed")) }
    }
}

impl Disk for Dying {
    fn make_dir(&self, place: Place<'_>) -> io::Result<()> {
        self.step(|disk| disk.make_dir(place))
    }

    fn write(&self, path: &Path, parts: &[&[u8]], look: Look) -> io::Result<()> {
        if self.lives() {
            return RealDisk.write(path, parts, look);
        }
        let all = parts.concat();
        fs::write(path, &all[..all.len() / 2])?;
        Err(io::Error::other("killed"))
    }

    fn rename(&self, from: &Path, to: Place<'_>) -> io::Result<()> {
        self.step(|disk| disk.rename(from, to))
    }

    fn remove(&self, place: Place<'_>) -> io::Result<()> {
        self.step(|disk| disk.remove(place))
    }

    fn sync(&self, dir: Place<'_>) -> io::Result<()> {
        self.step(|disk| disk.sync(dir))
    }
}

/// A disk that tells what is done to it, in order.
#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<&'static str>>>);

impl Told {
    fn note(&self, change: &'static str) -> RealDisk {
        self.0.lock().unwrap().push(change);
        RealDisk
    }
}

impl Disk for Told {
    fn make_dir(&self, place: Place<'_>) -> io::Result<()> {
        self.note("make a directory").make_dir(place)
    }

    fn write(&self, path: &Path, parts: &[&[u8]], look: Look) -> io::Result<()> {
        self.note("write").write(path, parts, look)
    }

    fn rename(&self, from: &Path, to: Place<'_>) -> io::Result<()> {
        self.note("rename").rename(from, to)
    }

    fn remove(&self, place: Place<'_>) -> io::Result<()> {
        self.note("remove").remove(place)
    }

    fn sync(&self, dir: Place<'_>) -> io::Result<()> {
        self.note("sync").sync(dir)
    }
}

/// All that can be seen of a tree: the live file, and each version with its state and its value.
#[derive(Debug, Clone, PartialEq)]
struct Sight {
    live: Option<String>,
    versions: BTreeMap<String, (VersionState, Option<String>)>,
}

impl Sight {
    fn of(root: &Path) -> Self {
        let store = store(root, None);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let seen = |kept: Kept| {
            let value = store.value(KEY, &kept).ok().map(|bytes| text(&bytes));
            assert_eq!(value.is_some(), kept.state == VersionState::Enabled, "{kept:?}");
            (kept.version().to_string(), (kept.state, value))
        };
        Self {
            live: fs::read(root.join(KEY)).ok().map(|bytes| text(&bytes)),
            versions: store.versions(KEY).unwrap().into_iter().map(seen).collect(),
        }
    }
}

fn store(root: &Path, changes: Option<usize>) -> Store {
    let disk: Box<dyn Disk> = match changes {
        None => Box::new(RealDisk),
        Some(left) => Box::new(Dying { left: left.into() }),
    };
    Store::new(root.to_owned(), 1024, disk)
}

/// A tree with the version 1 live, and 2 and 3 kept.
fn tree() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), None);
    for (version, value) in [("1", "first"), ("2", "second"), ("3", "third")] {
        let made = store.create(KEY, &SecretValue::from(value), value).unwrap();
        assert_eq!(made.id(), version);
    }
    store.promote(KEY, "1", None).unwrap();
    root
}

/// Kills a change of the tree at each of its steps, looks what is there, and does it again.
fn killed(prepare: impl Fn(&Path), change: impl Fn(&Store) -> Result<()>) {
    let (mut kills, mut ambiguous, mut before_and_after) = (0, 0, 0);
    loop {
        let root = tree();
        let path = root.path();
        prepare(path);
        let old = Sight::of(path);
        let outcome = change(&store(path, Some(kills)));
        let found = Sight::of(path);
        change(&store(path, None)).unwrap();
        let new = Sight::of(path);
        assert!([&old.live, &new.live].contains(&&found.live), "{found:?}");
        match &outcome {
            // Whatever may have happened is said to be so.
            Err(error) if error.kind() == ErrorKind::Ambiguous => ambiguous += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert_eq!(found.live, old.live);
                for (id, version) in &old.versions {
                    assert_eq!(&found.versions[id], version);
                }
            }
            Ok(()) => {}
        }
        for (id, (state, value)) in &found.versions {
            let of = |sight: &Sight| sight.versions.get(id).cloned();
            let known = [of(&old), of(&new)].contains(&Some((*state, value.clone())));
            assert!(known, "{id} is {state:?}, from {old:?} to {new:?}");
        }
        assert!(old.versions.keys().all(|id| found.versions.contains_key(id)), "one is lost");
        if outcome.is_ok() {
            assert_eq!(found, new);
            break;
        }
        before_and_after |= if found == old { 1 } else { 2 };
        kills += 1;
    }
    assert_eq!(before_and_after, 3, "it was killed before it was true, and after");
    assert!(ambiguous > 0, "what is done and may not last is ambiguous");
}

#[test]
fn a_creation_that_is_killed_made_a_version_or_none() {
    let value = SecretValue::from("fourth");
    killed(|_| (), |store| store.create(KEY, &value, "four").map(drop));
}

#[test]
fn a_promotion_that_is_killed_leaves_the_old_or_the_new() {
    killed(|_| (), |store| store.promote(KEY, "2", Some("1")));
}

#[test]
fn a_promotion_over_what_somebody_else_put_there_keeps_it() {
    let put = |root: &Path| {
        let new = root.join("new");
        fs::write(&new, "from outside").unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 7);
        File::options().write(true).open(&new).unwrap().set_modified(time).unwrap();
        fs::rename(new, root.join(KEY)).unwrap();
    };
    let found = |root: &Path| {
        let path = root.join(KEY);
        Facts::of(&File::open(&path).unwrap(), &path).unwrap().version(None).to_string()
    };
    killed(put, |store| {
        let current = found(&store.root);
        match store.promote(KEY, "2", Some(&current)) {
            // The second time it is the current one already.
            Err(error) if error.kind() == ErrorKind::Conflict => panic!("{error}"),
            done => done,
        }
    });
    let root = tree();
    put(root.path());
    let store = store(root.path(), None);
    let current = found(root.path());
    assert_eq!(store.promote(KEY, "2", Some("1")).unwrap_err().kind(), ErrorKind::Conflict);
    store.promote(KEY, "2", Some(&current)).unwrap();
    // And there is a way back.
    store.promote(KEY, &current, Some("2")).unwrap();
    assert_eq!(fs::read(root.path().join(KEY)).unwrap(), b"from outside");
    let next = store.create(KEY, &SecretValue::from("fifth"), "five").unwrap();
    assert_eq!(next.id(), "5", "what was found took a number");
}

#[test]
fn a_version_that_is_disabled_and_killed_is_enabled_or_disabled() {
    killed(|_| (), |store| store.switch(KEY, "1", VersionState::Disabled));
    let disabled = |root: &Path| {
        store(root, None).switch(KEY, "1", VersionState::Disabled).unwrap();
    };
    killed(disabled, |store| store.switch(KEY, "1", VersionState::Enabled));
}

#[test]
fn a_version_that_is_destroyed_and_killed_is_not_half_there() {
    killed(|_| (), |store| store.destroy(KEY, "2"));
    // The current one too, and then there is none.
    killed(|_| (), |store| store.destroy(KEY, "1"));
    let root = tree();
    store(root.path(), None).destroy(KEY, "1").unwrap();
    assert!(!root.path().join(KEY).exists());
    let left: Vec<_> = fs::read_dir(root.path().join(STORE).join(KEY))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert_eq!(left.len(), 3);
    assert!(!left.iter().any(|text| text.contains("\nfirst")), "its value is still there");
}

/// The first write makes the directories, and can be killed between them.
#[test]
fn a_first_write_that_is_killed_is_done_by_the_next() {
    let value = SecretValue::from("value");
    for changes in 0.. {
        let root = tempfile::tempdir().unwrap();
        let done = store(root.path(), Some(changes)).create(KEY, &value, "token");
        let made = store(root.path(), None).create(KEY, &value, "token").unwrap();
        assert_eq!(made.id(), "1");
        assert_eq!(store(root.path(), None).versions(KEY).unwrap().len(), 1);
        if done.is_ok() {
            break;
        }
    }
}

#[test]
fn what_is_kept_is_for_its_owner_alone() {
    let root = tree();
    let mode = |path: &Path| path.symlink_metadata().unwrap().permissions().mode() & 0o777;
    let dir = root.path().join(STORE).join(KEY);
    for dir in [&dir, &root.path().join(STORE), &root.path().join("db")] {
        assert_eq!(mode(dir), 0o700, "{}", dir.display());
    }
    for entry in fs::read_dir(dir).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    assert_eq!(mode(&root.path().join(KEY)), 0o600);
    assert_eq!(mode(&root.path().join(STORE).join("..lock")), 0o600);
    // Whoever could read the old one can read the new one.
    fs::set_permissions(root.path().join(KEY), fs::Permissions::from_mode(0o640)).unwrap();
    store(root.path(), None).promote(KEY, "2", Some("1")).unwrap();
    assert_eq!(mode(&root.path().join(KEY)), 0o640);
}

#[test]
fn nothing_is_written_through_a_link_or_into_a_mount() {
    let root = tree();
    let refused = |key: &str| {
        let store = store(root.path(), None);
        let made = store.create(key, &SecretValue::from("x"), "token");
        match made.and_then(|made| store.promote(key, &made.id(), None)) {
            Err(error) => error.kind(),
            Ok(()) => panic!("{key} was written"),
        }
    };
    std::os::unix::fs::symlink(KEY, root.path().join("link")).unwrap();
    assert_eq!(refused("link"), ErrorKind::Unsupported);
    fs::create_dir_all(root.path().join("mount/..1")).unwrap();
    std::os::unix::fs::symlink("..1", root.path().join("mount/..data")).unwrap();
    assert_eq!(refused("mount/x"), ErrorKind::Unsupported);
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), root.path().join("out")).unwrap();
    assert_eq!(refused("out/x"), ErrorKind::Unsupported);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// A name that is on the disk before its content is half a file after a loss of power; and one
/// that is not is none, whatever the writer was told.
#[test]
fn content_is_on_the_disk_before_its_name_and_the_name_before_the_answer() {
    let root = tree();
    let told = Told::default();
    let store = Store::new(root.path().to_owned(), 1024, Box::new(told.clone()));
    let done = || {
        let changes = std::mem::take(&mut *told.0.lock().unwrap());
        changes.into_iter().filter(|change| *change != "make a directory").collect::<Vec<_>>()
    };
    store.create(KEY, &SecretValue::from("fourth"), "four").unwrap();
    assert_eq!(done(), ["write", "rename", "sync"]);
    store.promote(KEY, "4", Some("1")).unwrap();
    assert_eq!(done(), ["write", "rename", "sync"]);
    store.switch(KEY, "1", VersionState::Disabled).unwrap();
    assert_eq!(done(), ["rename", "sync"]);
    store.destroy(KEY, "1").unwrap();
    assert_eq!(done(), ["write", "rename", "sync", "remove", "remove", "sync"]);
    // A repeat may be there because the answer of the first was lost.
    store.promote(KEY, "4", Some("1")).unwrap();
    store.create(KEY, &SecretValue::from("fourth"), "four").unwrap();
    assert_eq!(done(), ["sync", "sync"]);
}

#[test]
fn a_writer_waits_for_the_other() {
    let root = tree();
    let lock = File::open(root.path().join(STORE).join("..lock")).unwrap();
    lock.lock().unwrap();
    std::thread::scope(|threads| {
        let write = threads.spawn(|| store(root.path(), None).promote(KEY, "2", Some("1")));
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(fs::read(root.path().join(KEY)).unwrap(), b"first");
        lock.unlock().unwrap();
        write.join().unwrap().unwrap();
    });
    assert_eq!(fs::read(root.path().join(KEY)).unwrap(), b"second");
}
