//! Changes as the file system tells them.
//!
//! The root directory is watched, with all below it, and never a file: a watch on a file goes
//! deaf when the file is replaced. The directory above is watched too, for the root itself may
//! be moved, deleted or made again; and every few seconds it is checked that what is watched
//! still is what stands at the path, since whatever lies further up is watched by nobody.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use oneiric_core::{Change, ChangeStream, SecretKey};
use tokio::time::{sleep, timeout};

use crate::pending::{Pace, Pending, Subject};
use crate::store::{self, STORE};
use crate::view::DATA;

/// How often it is checked that the watched directory is the one at the path.
const CHECK: Duration = Duration::from_secs(5);

/// The first and the longest wait before another attempt to watch.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));

/// A stream of changes below `root`. It lives as long as it is held, also while there is no root.
pub(crate) fn changes(root: PathBuf, debounce: Duration, linked: Arc<AtomicBool>) -> ChangeStream {
    let subscription = Subscription { place: Place { root, debounce, linked }, watch: None };
    stream::unfold(subscription, |mut subscription| async move {
        let change = subscription.next().await;
        Some((change, subscription))
    })
    .boxed()
}

#[derive(Debug, Clone)]
struct Place {
    root: PathBuf,
    debounce: Duration,
    /// Whether keys are read through links, so that the path of an event is not enough.
    linked: Arc<AtomicBool>,
}

struct Subscription {
    place: Place,
    watch: Option<Watch>,
}

impl Subscription {
    async fn next(&mut self) -> Change {
        loop {
            let Some(watch) = &self.watch else {
                // Whatever happened until now was not seen.
                self.watch = Some(self.place.watch().await);
                return Change::Anything;
            };
            match timeout(CHECK, watch.pending.next()).await {
                Ok(Some(change)) => return change,
                Ok(None) => self.watch = None,
                Err(_) if self.place.identity().await.ok() == Some(watch.identity) => {}
                Err(_) => self.watch = None,
            }
        }
    }
}

impl Place {
    /// Watches, as soon as that is possible.
    async fn watch(&self) -> Watch {
        let mut wait = BACK_OFF.0;
        let mut warned = false;
        loop {
            let place = self.clone();
            let error = match tokio::task::spawn_blocking(move || Watch::start(&place)).await {
                Ok(Ok(watch)) => return watch,
                Ok(Err(error)) => error,
                Err(error) => notify::Error::io(io::Error::other(error)),
            };
            if !std::mem::replace(&mut warned, true) {
                let root = self.root.display();
                tracing::warn!(%root, %error, "changes are not noticed at once: no watch yet");
            }
            sleep(wait).await;
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }

    async fn identity(&self) -> io::Result<Identity> {
        let root = self.root.clone();
        let looked = tokio::task::spawn_blocking(move || Identity::of(&root)).await;
        looked.map_err(io::Error::other)?
    }
}

/// Which directory it is, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = path.metadata()?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// A running watch. Dropping it ends its thread.
struct Watch {
    pending: Arc<Pending>,
    identity: Identity,
    _watcher: RecommendedWatcher,
}

impl Watch {
    fn start(place: &Place) -> notify::Result<Self> {
        let identity = Identity::of(&place.root)?;
        let root = place.root.canonicalize()?;
        // The name under which the root stands, which can be that of a link.
        let entry = match (place.root.parent(), place.root.file_name()) {
            (Some(above), Some(name)) => Some(above.canonicalize()?.join(name)),
            _ => None,
        };
        let pending = Arc::new(Pending::new(place.debounce));
        let eye = Eye {
            root: root.clone(),
            entry: entry.clone(),
            linked: Arc::clone(&place.linked),
            pending: Arc::clone(&pending),
        };
        // Links are not followed: one could lead to the root of the file system.
        let settings = notify::Config::default().with_follow_symlinks(false);
        let mut watcher = RecommendedWatcher::new(move |event| eye.see(event), settings)?;
        watcher.watch(&root, RecursiveMode::Recursive)?;
        if let Some(above) = entry.as_deref().and_then(Path::parent) {
            // Without the right to look there, the check has to do.
            let _ = watcher.watch(above, RecursiveMode::NonRecursive);
        }
        if Identity::of(&place.root)? != identity {
            return Err(notify::Error::generic("the root was replaced meanwhile"));
        }
        Ok(Self { pending, identity, _watcher: watcher })
    }
}

/// Makes changes of events, on the watcher's own thread.
struct Eye {
    root: PathBuf,
    entry: Option<PathBuf>,
    linked: Arc<AtomicBool>,
    pending: Arc<Pending>,
}

impl Eye {
    fn see(&self, event: notify::Result<Event>) {
        let Ok(event) = event else {
            return self.pending.note(Subject::Anything, Pace::Ongoing);
        };
        if event.need_rescan() {
            return self.pending.note(Subject::Anything, Pace::Complete);
        }
        let Some(pace) = pace(event.kind) else { return };
        for path in &event.paths {
            if *path == self.root || self.entry.as_ref() == Some(path) {
                self.see_root(event.kind);
            } else if let Some(subject) = self.subject(event.kind, path) {
                self.pending.note(subject, pace);
            }
        }
    }

    fn see_root(&self, kind: EventKind) {
        match kind {
            EventKind::Create(_)
            | EventKind::Remove(_)
            | EventKind::Modify(ModifyKind::Name(_)) => {
                self.pending.lose();
            }
            _ => self.pending.note(Subject::Anything, Pace::Ongoing),
        }
    }

    /// What an event at this path is about, if it is about a secret.
    fn subject(&self, kind: EventKind, path: &Path) -> Option<Subject> {
        let relative = path.strip_prefix(&self.root).ok()?;
        if relative.file_name().is_some_and(|name| name == DATA) {
            return Some(Subject::Anything);
        }
        if let Ok(below) = relative.strip_prefix(STORE) {
            return store::subject(below)?.parse().ok().map(Subject::Key);
        }
        // The inside of a mount is of interest when `..data` points to it.
        let inner = |part: Component<'_>| part.as_os_str().as_encoded_bytes().starts_with(b"..");
        if relative.components().any(inner) {
            return None;
        }
        let is_folder = matches!(
            kind,
            EventKind::Create(CreateKind::Folder)
                | EventKind::Remove(notify::event::RemoveKind::Folder)
        );
        let many = is_folder
            || self.linked.load(Ordering::Relaxed)
            || path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file());
        if many {
            return Some(Subject::Anything);
        }
        // A name that no key can have cannot be asked for.
        relative.to_str()?.parse::<SecretKey>().ok().map(Subject::Key)
    }
}

/// Whether an event of this kind tells of a complete change, of one that may be going on, or of
/// none: reading a file makes events too.
fn pace(kind: EventKind) -> Option<Pace> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Pace::Complete),
        // Both sides of a rename have had events of their own.
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => None,
        _ => Some(Pace::Ongoing),
    }
}

#[cfg(test)]
mod tests;
