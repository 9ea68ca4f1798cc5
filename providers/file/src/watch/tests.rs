//! What is made of each kind of event.

use std::fs;

use notify::event::{DataChange, Flag, MetadataKind, RemoveKind};

use super::*;

struct Scene {
    root: tempfile::TempDir,
    eye: Eye,
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), "x").unwrap();
        fs::create_dir(root.path().join("folder")).unwrap();
        let eye = Eye {
            root: root.path().to_owned(),
            entry: None,
            linked: Arc::default(),
            pending: Arc::new(Pending::new(Duration::from_millis(50))),
        };
        Self { root, eye }
    }

    fn see(&self, kind: EventKind, name: &str) {
        let path =
            if name.is_empty() { self.root.path().to_owned() } else { self.root.path().join(name) };
        self.eye.see(Ok(Event::new(kind).add_path(path)));
    }

    /// What is told of one event, if anything is, and after how long.
    async fn told(&self) -> Option<(Option<Change>, Duration)> {
        let start = tokio::time::Instant::now();
        let next = timeout(Duration::from_secs(1), self.eye.pending.next()).await.ok()?;
        Some((next, start.elapsed()))
    }
}

const RENAMED: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
const OPENED: EventKind = EventKind::Access(AccessKind::Open(AccessMode::Any));
const CREATED: EventKind = EventKind::Create(CreateKind::File);
const REMOVED: EventKind = EventKind::Remove(RemoveKind::Folder);
const TOUCHED: EventKind = EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any));
const MOVED: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::From));
const BOTH: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::Both));

#[tokio::test(start_paused = true)]
async fn events_become_changes() {
    let key = |name: &str| Change::Secret { key: name.parse().unwrap(), version: None };
    let (now, later) = (Duration::ZERO, Duration::from_millis(50));
    for (kind, name, expected) in [
        (RENAMED, "file", Some((key("file"), now))),
        (CLOSED, "file", Some((key("file"), now))),
        (WRITTEN, "file", Some((key("file"), later))),
        (CREATED, "folder/new", Some((key("folder/new"), later))),
        (MOVED, "gone", Some((key("gone"), later))),
        (OPENED, "file", None),
        (BOTH, "file", None),
        // Keys below it are concerned.
        (RENAMED, "folder", Some((Change::Anything, now))),
        (REMOVED, "gone", Some((Change::Anything, later))),
        // A mount.
        (RENAMED, "..data", Some((Change::Anything, now))),
        (RENAMED, "folder/..data", Some((Change::Anything, now))),
        (RENAMED, "..data_tmp", None),
        (WRITTEN, "..2026/file", None),
        (REMOVED, "..2026", None),
        // The root itself.
        (TOUCHED, "", Some((Change::Anything, later))),
    ] {
        let scene = Scene::new();
        scene.see(kind, name);
        let told = scene.told().await.map(|(change, after)| (change.unwrap(), after));
        let near = |after: Duration| if after < later / 2 { now } else { later };
        let told = told.map(|(change, after)| (change, near(after)));
        assert_eq!(told, expected, "{kind:?} {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn lost_events_mean_anything() {
    let scene = Scene::new();
    scene.eye.see(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
    assert_eq!(scene.told().await.unwrap().0, Some(Change::Anything));
    let scene = Scene::new();
    scene.eye.see(Err(notify::Error::generic("whatever")));
    assert_eq!(scene.told().await.unwrap().0, Some(Change::Anything));
}

#[tokio::test(start_paused = true)]
async fn a_root_that_goes_away_ends_the_watch() {
    for kind in [MOVED, REMOVED, CREATED] {
        let scene = Scene::new();
        scene.see(kind, "");
        assert_eq!(scene.told().await.unwrap().0, None);
    }
}

#[tokio::test(start_paused = true)]
async fn behind_links_every_change_may_be_of_any_key() {
    let scene = Scene::new();
    scene.eye.linked.store(true, Ordering::Relaxed);
    scene.see(RENAMED, "file");
    assert_eq!(scene.told().await.unwrap().0, Some(Change::Anything));
}
