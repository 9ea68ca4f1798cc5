//! The provider: answers from the tree, each read on a thread that may block.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use oneiric_core::{
    Capabilities, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched, Result,
    SecretKey, SecretLister, SecretProvider, SecretWriter, Stamp, VersionInfo, VersionState,
};
use tokio::time::{Instant, timeout_at};

use crate::config::Config;
use crate::content;
use crate::error::refused;
use crate::list;
use crate::permissions::Warned;
use crate::read::{self, Facts};
use crate::store::{Kept, RealDisk, Store, is_live};
use crate::tree::relative;
use crate::view::{DATA, Opened, Pin, View};
use crate::watch;

/// How often a set is read again because the directory it was read from was taken away.
const SET_ATTEMPTS: usize = 10;

/// How often a file is read again because it was written to meanwhile.
const FILE_ATTEMPTS: usize = 5;

/// A [`SecretProvider`] over a directory tree; [`Config::build`] makes one.
///
/// # Keys
/// Paths relative to the root. Absolute paths, empty components, and components that are `.` or
/// start with `..` are `Invalid`. Links are followed inside the root; one that leads out is
/// `Denied`.
///
/// # Versions
/// A file has only its current one. Its id is the name of the `..data` target without the dots
/// or, in a plain tree, the time of the last modification and the inode. The stamp has the
/// device, the size and the time of the last change of status besides.
///
/// With `write` the versions that were written are numbered and kept, and each can be read. A
/// file that somebody else puts into the tree is a version too, under the id that it has anyway;
/// it is kept from the moment at which another takes its place.
///
/// # Sets
/// Where the root, or the first directory of a key, has a `..data` link, all answers of one call
/// are from one target of it, and say so in their snapshot.
///
/// # Changes
/// The stream begins with [`Change::Anything`](oneiric_core::Change::Anything) once it watches,
/// and says it again whenever changes may have been missed, such as when the root was replaced.
#[derive(Debug)]
pub struct FileProvider {
    descriptor: Descriptor,
    tree: Arc<Tree>,
}

#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) config: Config,
    /// The versions that are kept, if this tree may be written to.
    pub(crate) store: Option<Store>,
    warned: Warned,
    /// Whether a key was read through a link, so that a path says nothing about keys.
    linked: Arc<AtomicBool>,
}

impl FileProvider {
    pub(crate) fn new(config: Config) -> Self {
        let capabilities = Capabilities {
            versions: config.write,
            stamps: true,
            push: true,
            // A mount is swapped as a whole or it is not; that does not change under a process.
            snapshots: fs::read_link(config.path.join(DATA)).is_ok(),
            binary: config.binary,
            max_value: Some(config.max_bytes),
            batch: None,
        };
        let descriptor =
            Descriptor::new("file", format!("file://{}", config.path.display()), capabilities);
        let store = config
            .write
            .then(|| Store::new(config.path.clone(), config.max_bytes, Box::new(RealDisk)));
        let warned = Warned::default();
        let tree = Tree { config, store, warned, linked: Arc::default() };
        Self { descriptor, tree: Arc::new(tree) }
    }

    /// Runs blocking work, and stops waiting for it at the deadline.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        deadline: Option<Instant>,
        work: impl FnOnce(&Tree) -> T + Send + 'static,
    ) -> Result<T> {
        let tree = Arc::clone(&self.tree);
        let task = tokio::task::spawn_blocking(move || work(&tree));
        let ended = match deadline {
            None => task.await,
            Some(deadline) => timeout_at(deadline, task).await.map_err(|_| {
                let message = format!("`{}` did not answer in time", self.descriptor.uri);
                Error::new(ErrorKind::DeadlineExceeded, message)
            })?,
        };
        // The panic itself could quote what was read.
        ended.map_err(|_| Error::new(ErrorKind::Bug, "the work on a file ended in a panic"))
    }
}

#[async_trait]
impl SecretProvider for FileProvider {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let mut answers = self.fetch_many(std::slice::from_ref(request)).await;
        answers.pop().expect("one request has one answer")
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        let deadline = requests.iter().filter_map(|request| request.deadline).min();
        let asked = requests.to_vec();
        match self.blocking(deadline, move |tree| tree.fetch_set(&asked)).await {
            Ok(answers) => answers,
            Err(error) => requests.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        let asked = keys.to_vec();
        match self.blocking(None, move |tree| tree.stamp_set(&asked)).await {
            Ok(answers) => answers,
            Err(error) => keys.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn changes(&self) -> Option<ChangeStream> {
        let Config { path, debounce, .. } = &self.tree.config;
        Some(watch::changes(path.clone(), *debounce, Arc::clone(&self.tree.linked)))
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        self.tree.config.write.then_some(self as _)
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        Some(self)
    }
}

#[async_trait]
impl SecretLister for FileProvider {
    async fn list(&self) -> Result<Vec<SecretKey>> {
        self.blocking(None, |tree| list::keys(&tree.config.path)).await?
    }

    async fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>> {
        let key = key.clone();
        self.blocking(None, move |tree| tree.versions(&key)).await?
    }
}

impl Tree {
    fn fetch_set(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        let keys: Vec<&SecretKey> = requests.iter().map(|request| &request.key).collect();
        self.read_set(&keys, |view, index| self.fetch(view, &requests[index]))
    }

    fn stamp_set(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        let keys: Vec<&SecretKey> = keys.iter().collect();
        self.read_set(&keys, |view, index| {
            let opened = view.file(relative(keys[index])?)?;
            let facts = Facts::of(&opened.file, &opened.path)?;
            let kept = self.kept(relative(keys[index])?, &opened, &facts)?;
            Ok(stamp(&facts, &opened, kept.as_ref()))
        })
    }

    /// Which of the kept versions a file is that was opened as the secret.
    fn kept(&self, path: &str, opened: &Opened<'_>, facts: &Facts) -> Result<Option<Kept>> {
        match &self.store {
            Some(store) if opened.pin.is_none() => {
                // Later than the file was opened: a version is kept before it is current.
                Ok(is_live(&store.versions(path)?, facts).cloned())
            }
            _ => Ok(None),
        }
    }

    fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>> {
        let path = relative(key)?;
        let Some(store) = &self.store else {
            let message = "a file has no versions but the one it is, unless `write` is on";
            return Err(Error::new(ErrorKind::Unsupported, message));
        };
        let view = View::open(&self.config.path, &[path])?;
        let live = match view.file(path) {
            Ok(opened) => Some((Facts::of(&opened.file, &opened.path)?, opened)),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let kept = store.versions(path)?;
        let current = live.as_ref().and_then(|(facts, _)| is_live(&kept, facts));
        let mut versions: Vec<VersionInfo> =
            kept.iter().map(|kept| kept.info(Some(kept) == current)).collect();
        if let (Some((facts, opened)), None) = (&live, current) {
            // Whoever put it there did so last.
            let version = facts.version(opened.target());
            let mut found = VersionInfo::new(version, VersionState::Enabled);
            found.current = true;
            versions.insert(0, found);
        }
        if versions.is_empty() {
            let path = self.config.path.join(path);
            return Err(refused(ErrorKind::NotFound, &path, "does not exist, in no version"));
        }
        Ok(versions)
    }

    /// Answers for every key from one view. If that fails because what the view has pinned was
    /// swapped and is being deleted, all of it is done again with the new one.
    fn read_set<T>(
        &self,
        keys: &[&SecretKey],
        read: impl Fn(&View<'_>, usize) -> Result<T>,
    ) -> Vec<Result<T>> {
        let root = &self.config.path;
        let all = |error: Error| keys.iter().map(|_| Err(error.clone())).collect();
        // A key that is not valid gets its own answer below.
        let paths: Vec<&str> = keys.iter().filter_map(|key| relative(key).ok()).collect();
        for _ in 0..SET_ATTEMPTS {
            let view = match View::open(root, &paths) {
                Ok(view) => view,
                Err(error) => return all(error),
            };
            let answers: Vec<_> = (0..keys.len()).map(|index| read(&view, index)).collect();
            if answers.iter().all(Result::is_ok) || !view.has_moved() {
                return answers;
            }
        }
        all(refused(ErrorKind::Unavailable, root, "is swapped faster than it can be read"))
    }

    fn fetch(&self, view: &View<'_>, request: &FetchRequest) -> Result<Fetched> {
        let path = relative(&request.key)?;
        if let Some(version) = &request.version {
            return self.fetch_exact(view, request, path, version);
        }
        for _ in 0..FILE_ATTEMPTS {
            let opened = view.file(path)?;
            if let Some(fetched) = self.read(&opened, request)? {
                return Ok(fetched);
            }
        }
        let full = self.config.path.join(path);
        Err(refused(ErrorKind::Unavailable, &full, "is being written to all the time"))
    }

    fn fetch_exact(
        &self,
        view: &View<'_>,
        request: &FetchRequest,
        path: &str,
        version: &str,
    ) -> Result<Fetched> {
        let Some(store) = &self.store else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("a file has no versions but the current one, so `{path}` cannot be pinned"),
            ));
        };
        let full = self.config.path.join(path);
        for _ in 0..FILE_ATTEMPTS {
            let kept = store.versions(path)?;
            let live = match view.file(path) {
                Ok(opened) => Some((Facts::of(&opened.file, &opened.path)?, opened)),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let Some(kept) = kept.into_iter().find(|kept| kept.version().id() == version) else {
                // What somebody else has put there is a version for as long as it is there.
                let is_it =
                    |live: &(Facts, Opened<'_>)| live.0.version(live.1.target()).id() == version;
                let read = match live.filter(is_it) {
                    Some((_, opened)) => self.read(&opened, request)?,
                    None => None,
                };
                let what = format!("has no version {version:?}");
                return read.ok_or_else(|| refused(ErrorKind::NotFound, &full, &what));
            };
            let live = live.filter(|(facts, _)| facts.modified() == kept.time);
            let stamp = match live {
                Some((facts, opened)) => {
                    self.config.permissions.check(&facts, &opened.path, &self.warned)?;
                    stamp(&facts, &opened, Some(&kept))
                }
                None => Stamp::from(format!("kept:{}", kept.name())),
            };
            let bytes = match store.value(path, &kept) {
                // It was disabled or enabled meanwhile, and has another name.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                bytes => bytes?,
            };
            if request.if_none_match.as_ref() == Some(&stamp) {
                return Err(refused(ErrorKind::NotModified, &full, "has not changed"));
            }
            let value = content::value(&self.config, &full, bytes)?;
            let mut fetched = Fetched::new(value, kept.version());
            fetched.stamp = Some(stamp);
            return Ok(fetched);
        }
        Err(refused(ErrorKind::Unavailable, &full, "is being written to all the time"))
    }

    /// Reads one open file, or `None` if it was written to meanwhile.
    fn read(&self, opened: &Opened<'_>, request: &FetchRequest) -> Result<Option<Fetched>> {
        let Opened { file, path, pin, linked } = opened;
        let facts = Facts::of(file, path)?;
        let key = relative(&request.key)?;
        let kept = self.kept(key, opened, &facts)?;
        if let (Some(store), Some(kept)) = (&self.store, &kept)
            && kept.state != VersionState::Enabled
        {
            return Err(store.not_enabled(key, kept));
        }
        let stamp = stamp(&facts, opened, kept.as_ref());
        if request.if_none_match.as_ref() == Some(&stamp) {
            return Err(refused(ErrorKind::NotModified, path, "has not changed"));
        }
        if *linked {
            self.linked.store(true, Ordering::Relaxed);
        }
        self.config.permissions.check(&facts, path, &self.warned)?;
        if pin.is_none() {
            facts.settle(file);
        }
        let Some(bytes) = read::whole(file, path, &facts, self.config.max_bytes)? else {
            return Ok(None);
        };
        let value = content::value(&self.config, path, bytes)?;
        let version = kept.map_or_else(|| facts.version(opened.target()), |kept| kept.version());
        let mut fetched = Fetched::new(value, version);
        fetched.stamp = Some(stamp);
        fetched.snapshot = pin.map(Pin::snapshot);
        Ok(Some(fetched))
    }
}

/// All that tells two states of an open file apart: that it is disabled is not in the file.
fn stamp(facts: &Facts, opened: &Opened<'_>, kept: Option<&Kept>) -> Stamp {
    let state = kept.map(|kept| kept.state).filter(|state| *state != VersionState::Enabled);
    facts.stamp(state.map(VersionState::token).or(opened.target()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::AtomicUsize;

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    /// Counts events.
    #[derive(Clone, Default)]
    struct Count(Arc<AtomicUsize>);

    impl Subscriber for Count {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_file_that_lets_others_in_is_warned_of_once() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("secret");
        fs::write(&path, "x").unwrap();
        let provider = Config::new(root.path()).build().unwrap();
        let warnings = Count::default();
        let read = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let request = FetchRequest::new("secret".parse().unwrap());
            let answers = tracing::subscriber::with_default(warnings.clone(), || {
                provider.tree.fetch_set(&[request])
            });
            assert!(answers[0].is_ok());
            warnings.0.load(Ordering::Relaxed)
        };
        assert_eq!(read(0o600), 0);
        assert_eq!(read(0o640), 0);
        assert_eq!(read(0o644), 1);
        assert_eq!(read(0o666), 1);
    }
}
