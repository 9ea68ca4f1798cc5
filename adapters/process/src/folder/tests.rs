//! Folders, their owners, and what is left of dead ones.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use oneiric_core::SecretRef;

use super::*;
use crate::delivery::MARK;

fn place() -> (tempfile::TempDir, Place) {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::at(dir.path().join("oneiric")).unwrap();
    (dir, place)
}

fn config() -> Config {
    let mut config = Config::new(["true".into()]);
    config.files.insert("key".to_owned(), "files:key".parse::<SecretRef>().unwrap());
    config
}

fn folder(place: &Place, orphans: Orphans) -> Folder {
    let (folder, ending) = Folder::create_in(place, &config(), orphans).unwrap();
    ending.into_iter().for_each(|ending| ending.join().unwrap());
    folder
}

fn files() -> Vec<(String, SecretValue)> {
    [("key", "k"), ("tls/cert", "c")]
        .map(|(name, value)| (name.to_owned(), SecretValue::from(value)))
        .to_vec()
}

/// As if the owner had been killed: the lock is gone, and the files are not.
fn kill(folder: Folder) -> PathBuf {
    let path = folder.path.clone();
    let lock = folder._lock.try_clone().unwrap();
    flock(&lock, FlockOperation::Unlock).unwrap();
    std::mem::forget(folder);
    path
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn files_are_for_their_owner_alone() {
    let (_dir, place) = place();
    let folder = folder(&place, Orphans::Stop);
    let staged = folder.stage(1, &files()).unwrap();
    for path in [&place.path, &folder.path, &staged.0, &staged.0.join("tls")] {
        assert_eq!(mode(path), 0o700, "{}", path.display());
    }
    assert_eq!(mode(&staged.0.join("key")), 0o400);
    assert_eq!(fs::read(staged.0.join("tls/cert")).unwrap(), b"c");
}

#[test]
fn a_folder_ends_with_its_owner() {
    let (_dir, place) = place();
    let folder = folder(&place, Orphans::Stop);
    let staged = folder.stage(1, &files()).unwrap();
    let (outer, inner) = (folder.path.clone(), staged.0.clone());
    drop(staged);
    assert!(!inner.exists() && outer.exists());
    drop(folder);
    assert!(!outer.exists());
}

#[test]
fn current_turns_at_one_moment() {
    let (_dir, place) = place();
    let folder = folder(&place, Orphans::Stop);
    let read = || fs::read(folder.current().join("key")).unwrap();
    let one = folder.stage(1, &files()).unwrap();
    folder.turn_to(&one).unwrap();
    assert_eq!(read(), b"k");
    let two = folder.stage(2, &[("key".to_owned(), SecretValue::from("new"))]).unwrap();
    assert_eq!(read(), b"k");
    folder.turn_to(&two).unwrap();
    assert_eq!(read(), b"new");
}

#[test]
fn what_a_dead_owner_left_is_removed_and_what_a_living_one_has_is_not() {
    let (_dir, place) = place();
    let living = folder(&place, Orphans::Stop);
    let dead = kill(folder(&place, Orphans::Stop));
    let unfinished = place.path.join("1-0123456789abcdef");
    let others = place.path.join("data");
    fs::create_dir(&unfinished).unwrap();
    fs::create_dir(&others).unwrap();
    let _next = folder(&place, Orphans::Stop);
    assert!(living.path.exists());
    assert!(!dead.exists());
    assert!(!unfinished.exists());
    assert!(others.exists());
}

#[test]
fn children_of_a_dead_owner_are_stopped_or_kept_with_their_files_as_it_was_said() {
    let (_dir, place) = place();
    let orphan = |folder: &Folder| {
        let mut command = Command::new("sleep");
        command.arg("300").env(MARK, format!("{}1", folder.mark())).stdin(Stdio::null());
        command.spawn().unwrap()
    };
    let (stopped, kept) = (folder(&place, Orphans::Stop), folder(&place, Orphans::Keep));
    let (mut to_stop, mut to_keep) = (orphan(&stopped), orphan(&kept));
    let reaped = thread_that_waits(&mut to_stop);
    let (stopped, kept) = (kill(stopped), kill(kept));
    let _next = folder(&place, Orphans::Stop);
    reaped.join().unwrap();
    assert!(!stopped.exists());
    assert!(kept.exists());
    assert!(to_keep.try_wait().unwrap().is_none());
    to_keep.kill().unwrap();
    to_keep.wait().unwrap();
    let _after = folder(&place, Orphans::Stop);
    assert!(!kept.exists());
}

/// As init would, so that the process is gone when it has ended.
fn thread_that_waits(child: &mut std::process::Child) -> JoinHandle<()> {
    let pid = rustix::process::Pid::from_child(child);
    std::thread::spawn(move || {
        let options = rustix::process::WaitOptions::empty();
        rustix::process::waitpid(Some(pid), options).unwrap();
    })
}

#[test]
fn a_place_of_somebody_else_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let (open, link) = (dir.path().join("open"), dir.path().join("link"));
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let error = Place::at(open.clone()).unwrap_err().to_string();
    assert!(error.contains("is not a folder of this user alone"), "{error}");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o700)).unwrap();
    symlink(&open, &link).unwrap();
    assert!(Place::at(link).is_err());
    assert!(Place::at(open).is_ok());
}
