//! Handles: a reference that was resolved once, for hot paths.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Cache};
use oneiric_core::{Error, ErrorKind, Result, SecretRef, SecretValue, Version};
use tokio::sync::watch;

use crate::cell::Cell;
use crate::entry::{Entry, Name};

/// A reference that was resolved once and then follows changes. Reading it is one atomic load:
/// no lock, no look-up, no allocation.
///
/// Clones follow together. While one lives, the secret is kept fresh in the background.
#[derive(Debug, Clone)]
pub struct Handle {
    /// The follower's, without the way to it.
    current: Arc<ArcSwapOption<Current>>,
    follower: Arc<Follower>,
    changes: watch::Receiver<u64>,
    /// A handle keeps its secret in the cache.
    _cell: Arc<Cell>,
}

impl Handle {
    pub(crate) fn new(follower: Arc<Follower>, cell: Arc<Cell>) -> Self {
        let current = Arc::clone(&follower.current);
        let changes = follower.serial.subscribe();
        Self { current, follower, changes, _cell: cell }
    }

    /// What it refers to.
    pub fn reference(&self) -> &SecretRef {
        &self.follower.reference
    }

    /// The current value. A handle never shows an older version than one it has shown, unless a
    /// roll-back was asked for.
    ///
    /// # Errors
    /// `Unavailable` if the value was purged, or has outlived `stale_if_error`, and no newer one
    /// could be had yet.
    #[inline]
    pub fn load(&self) -> Result<HandleGuard> {
        let guard = self.current.load();
        if guard.is_some() { Ok(HandleGuard(guard)) } else { Err(self.follower.gone()) }
    }

    /// A reader of its own for one thread or task, which keeps hold of the current value and
    /// only looks whether there is a newer one. The old value lives until the next read.
    pub fn reader(&self) -> HandleReader {
        HandleReader { cache: Cache::new(Arc::clone(&self.current)), handle: self.clone() }
    }

    /// Waits for a version that this handle has not been told of yet. Dropping the future loses
    /// nothing: the next call returns at once if there was a change in between.
    ///
    /// # Errors
    /// `Unavailable` once the resolver is gone.
    pub async fn changed(&mut self) -> Result<()> {
        self.changes.changed().await.map_err(|_| self.follower.gone())
    }
}

/// A reader of a handle for one thread or task: see [`Handle::reader`].
#[derive(Debug)]
pub struct HandleReader {
    cache: Cache<Arc<ArcSwapOption<Current>>, Option<Arc<Current>>>,
    handle: Handle,
}

impl HandleReader {
    /// The current value.
    ///
    /// # Errors
    /// As [`Handle::load`].
    #[inline]
    pub fn load(&mut self) -> Result<&SecretValue> {
        match self.cache.load() {
            Some(current) => Ok(&current.value),
            None => Err(self.handle.follower.gone()),
        }
    }
}

/// The current value of a handle. The bytes live at least as long as the guard.
pub struct HandleGuard(arc_swap::Guard<Option<Arc<Current>>>);

impl HandleGuard {
    /// The version it is of.
    pub fn version(&self) -> &Version {
        &self.current().version
    }

    #[inline]
    fn current(&self) -> &Current {
        self.0.as_ref().expect("a guard is made only of a value that is there")
    }
}

impl Deref for HandleGuard {
    type Target = SecretValue;

    #[inline]
    fn deref(&self) -> &SecretValue {
        &self.current().value
    }
}

impl fmt::Debug for HandleGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HandleGuard").field(self.version()).finish()
    }
}

#[derive(Debug)]
struct Current {
    value: SecretValue,
    version: Version,
}

/// What all handles of one reference share.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) reference: SecretRef,
    /// Shared with handles and readers.
    current: Arc<ArcSwapOption<Current>>,
    serial: watch::Sender<u64>,
}

impl Follower {
    /// # Errors
    /// If the entry does not have the field that is asked for.
    pub(crate) fn new(reference: SecretRef, entry: &Entry) -> Result<Arc<Self>> {
        let value = entry.part(reference.field(), &Name(&reference))?;
        let current = Current { value, version: entry.version.clone() };
        Ok(Arc::new(Self {
            reference,
            current: Arc::new(ArcSwapOption::new(Some(Arc::new(current)))),
            serial: watch::channel(0).0,
        }))
    }

    /// Shows a new entry. One that lacks the field is reported and the last good value stays.
    pub(crate) fn follow(&self, entry: &Entry) {
        let value = match entry.part(self.reference.field(), &Name(&self.reference)) {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(reference = %self.reference, error = %error, "the new version is not taken over");
                return;
            }
        };
        let known = self.current.load();
        if known.as_ref().is_some_and(|c| c.version == entry.version && c.value.same_as(&value)) {
            return;
        }
        self.current.store(Some(Arc::new(Current { value, version: entry.version.clone() })));
        self.serial.send_modify(|serial| *serial += 1);
    }

    pub(crate) fn purge(&self) {
        self.current.store(None);
    }

    #[cold]
    fn gone(&self) -> Error {
        let message = format!("`{}` has no value that may be used now", self.reference);
        Error::new(ErrorKind::Unavailable, message)
    }
}
