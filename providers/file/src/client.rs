//! The provider: answers from the tree, each read on a thread that may block.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use oneiric_core::{
    Capabilities, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched, Result,
    SecretKey, SecretLister, SecretProvider, SecretWriter, Stamp, VersionInfo,
};
use tokio::time::{Instant, timeout_at};

use crate::config::Config;
use crate::content;
use crate::error::refused;
use crate::list;
use crate::read::{self, Facts};
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
struct Tree {
    config: Config,
    /// The files that others may read and that were warned of.
    exposed: Mutex<HashSet<PathBuf>>,
    /// Whether a key was read through a link, so that a path says nothing about keys.
    linked: Arc<AtomicBool>,
}

impl FileProvider {
    pub(crate) fn new(config: Config) -> Self {
        let capabilities = Capabilities {
            versions: false,
            stamps: true,
            push: true,
            // A mount is swapped as a whole or it is not; that does not change under a process.
            snapshots: fs::read_link(config.path.join(DATA)).is_ok(),
            binary: config.binary,
            max_value: Some(config.max_bytes),
        };
        let descriptor =
            Descriptor::new("file", format!("file://{}", config.path.display()), capabilities);
        let tree = Tree { config, exposed: Mutex::default(), linked: Arc::default() };
        Self { descriptor, tree: Arc::new(tree) }
    }

    /// Runs blocking work, and stops waiting for it at the deadline.
    async fn blocking<T: Send + 'static>(
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
        ended.map_err(|_| Error::new(ErrorKind::Bug, "reading a file ended in a panic"))
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
        None
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

    async fn versions(&self, _: &SecretKey) -> Result<Vec<VersionInfo>> {
        Err(Error::new(ErrorKind::Unsupported, "a file has no versions but the one it is"))
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
            Ok(facts.stamp(opened.target()))
        })
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
        if request.version.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("a file has no versions but the current one, so `{path}` cannot be pinned"),
            ));
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

    /// Reads one open file, or `None` if it was written to meanwhile.
    fn read(&self, opened: &Opened<'_>, request: &FetchRequest) -> Result<Option<Fetched>> {
        let Opened { file, path, pin, linked } = opened;
        let facts = Facts::of(file, path)?;
        let stamp = facts.stamp(opened.target());
        if request.if_none_match.as_ref() == Some(&stamp) {
            return Err(refused(ErrorKind::NotModified, path, "has not changed"));
        }
        if *linked {
            self.linked.store(true, Ordering::Relaxed);
        }
        self.warn_if_exposed(&facts, path);
        if pin.is_none() {
            facts.settle();
        }
        let Some(bytes) = read::whole(file, path, &facts, self.config.max_bytes)? else {
            return Ok(None);
        };
        let value = content::value(&self.config, path, bytes)?;
        let mut fetched = Fetched::new(value, facts.version(opened.target()));
        fetched.stamp = Some(stamp);
        fetched.snapshot = pin.map(Pin::snapshot);
        Ok(Some(fetched))
    }

    fn warn_if_exposed(&self, facts: &Facts, path: &Path) {
        let mut exposed = self.exposed.lock().unwrap_or_else(PoisonError::into_inner);
        if facts.is_exposed() && exposed.insert(path.to_owned()) {
            let path = path.display();
            tracing::warn!(%path, "the file of a secret may be read by others than its owner");
        }
    }
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
    fn a_file_that_others_may_read_is_warned_of_once() {
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
        assert_eq!(read(0o640), 1);
        assert_eq!(read(0o644), 1);
    }
}
