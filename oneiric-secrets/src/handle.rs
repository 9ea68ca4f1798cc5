//! Handles: a reference that was resolved once, for hot paths.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use arc_swap::{ArcSwapOption, Cache};
use oneiric_core::{Error, ErrorKind, ProviderId, Result, SecretRef, SecretValue, Version};
use tokio::sync::watch;

use crate::alias::Way;
use crate::cell::Cell;
use crate::entry::{Entry, Name};
use crate::sync::{Mutex, PoisonError};

/// A reference that was resolved once and then follows changes. Reading it is one atomic load:
/// no lock, no look-up, no allocation.
///
/// Clones follow together. While one lives, the secret is kept fresh in the background.
#[derive(Debug, Clone)]
pub struct Handle {
    /// What is shown, without the way to it.
    current: Arc<ArcSwapOption<Current>>,
    shown: Arc<Shown>,
    changes: watch::Receiver<u64>,
    _following: Arc<Following>,
}

impl Handle {
    pub(crate) fn new(following: Arc<Following>) -> Self {
        let shown = Arc::clone(&following.parts[0].0.shown);
        let (current, changes) = (Arc::clone(&shown.current), shown.serial.subscribe());
        Self { current, shown, changes, _following: following }
    }

    /// What it refers to.
    pub fn reference(&self) -> &SecretRef {
        &self.shown.reference
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
        if guard.is_some() { Ok(HandleGuard(guard)) } else { Err(self.shown.gone()) }
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
        self.changes.changed().await.map_err(|_| self.shown.gone())
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
            None => Err(self.handle.shown.gone()),
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

    /// The provider that answered in the place of the first candidate of an alias, because those
    /// before it could not.
    pub fn fallback(&self) -> Option<&ProviderId> {
        self.current().fallback.as_ref()
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
    fallback: Option<ProviderId>,
}

/// What all handles of one reference show.
#[derive(Debug)]
pub(crate) struct Shown {
    reference: SecretRef,
    /// Shared with handles and readers.
    current: Arc<ArcSwapOption<Current>>,
    serial: watch::Sender<u64>,
    /// Whose value is shown: only one that stands as early is shown in its place.
    rank: Mutex<usize>,
}

/// What sits with a secret and has it shown: one for a reference, one for each candidate of an
/// alias.
#[derive(Debug)]
pub(crate) struct Follower {
    /// The candidate, or the reference itself.
    reference: SecretRef,
    /// How many stand before it.
    pub(crate) rank: usize,
    pub(crate) shown: Arc<Shown>,
}

/// The followers of one handle, with their secrets, which it keeps in the cache.
#[derive(Debug)]
pub(crate) struct Following {
    parts: Vec<(Arc<Follower>, Arc<Cell>)>,
    /// If it is of an alias.
    pub(crate) way: Option<Arc<Way>>,
}

/// The rank of nobody.
const NOBODY: usize = usize::MAX;

impl Following {
    pub(crate) fn new(parts: Vec<(Arc<Follower>, Arc<Cell>)>, way: Option<Arc<Way>>) -> Arc<Self> {
        Arc::new(Self { parts, way })
    }

    pub(crate) fn parts(&self) -> &[(Arc<Follower>, Arc<Cell>)] {
        &self.parts
    }
}

impl Shown {
    /// What shows nothing yet.
    pub(crate) fn new(reference: SecretRef) -> Arc<Self> {
        Arc::new(Self {
            reference,
            current: Arc::default(),
            serial: watch::channel(0).0,
            rank: Mutex::new(NOBODY),
        })
    }

    pub(crate) fn is_of(&self, reference: &SecretRef) -> bool {
        self.reference == *reference
    }

    /// Shows the default of an alias, until anybody has its secret.
    pub(crate) fn show_default(&self, entry: &Entry, is_change: bool) -> Result<()> {
        let value = entry.part(self.reference.field(), &Name(&self.reference))?;
        let _rank = self.rank.lock().unwrap_or_else(PoisonError::into_inner);
        let current = Current { value, version: entry.version.clone(), fallback: None };
        self.current.store(Some(Arc::new(current)));
        if is_change {
            self.serial.send_modify(|serial| *serial += 1);
        }
        Ok(())
    }

    pub(crate) fn is_there(&self) -> bool {
        self.current.load().is_some()
    }

    #[cold]
    fn gone(&self) -> Error {
        let message = format!("`{}` has no value that may be used now", self.reference);
        Error::new(ErrorKind::Unavailable, message)
    }
}

impl Follower {
    /// One that nobody stands before.
    ///
    /// # Errors
    /// If the entry does not have the field that is asked for.
    pub(crate) fn first(reference: &SecretRef, entry: &Entry) -> Result<Arc<Self>> {
        entry.part(reference.field(), &Name(reference))?;
        let follower = Self::of(reference.clone(), 0, &Shown::new(reference.clone()));
        follower.show(entry, false);
        Ok(follower)
    }

    pub(crate) fn of(reference: SecretRef, rank: usize, shown: &Arc<Shown>) -> Arc<Self> {
        Arc::new(Self { reference, rank, shown: Arc::clone(shown) })
    }

    /// Shows a new entry. One that lacks the field is reported and the last good value stays; what
    /// is shown of somebody who stands before stays as well.
    pub(crate) fn follow(&self, entry: &Entry) {
        self.show(entry, true);
    }

    /// The same, saying whether those who wait for a change are told: who makes a handle sees what
    /// it shows.
    pub(crate) fn show(&self, entry: &Entry, is_change: bool) {
        let shown = &self.shown;
        let mut rank = shown.rank.lock().unwrap_or_else(PoisonError::into_inner);
        if self.rank > *rank {
            return;
        }
        let value = match entry.part(self.reference.field(), &Name(&self.reference)) {
            Ok(value) => value,
            Err(error) => {
                tracing::warn!(reference = %self.reference, error = %error, "the new version is not taken over");
                return;
            }
        };
        let moved = *rank != self.rank;
        *rank = self.rank;
        let known = shown.current.load();
        if !moved
            && known.as_ref().is_some_and(|c| c.version == entry.version && c.value.same_as(&value))
        {
            return;
        }
        let fallback = (self.rank > 0).then(|| self.reference.provider().clone());
        let current = Current { value, version: entry.version.clone(), fallback };
        shown.current.store(Some(Arc::new(current)));
        if is_change {
            shown.serial.send_modify(|serial| *serial += 1);
        }
    }

    /// Shows nothing in the place of what is shown of this one.
    pub(crate) fn purge(&self) {
        let mut rank = self.shown.rank.lock().unwrap_or_else(PoisonError::into_inner);
        if *rank == self.rank {
            *rank = NOBODY;
            self.shown.current.store(None);
        }
    }
}
