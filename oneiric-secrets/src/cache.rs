//! The cache: which cell belongs to which `(provider, key)`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Arc, Weak};

use hashbrown::{DefaultHashBuilder, HashTable};
use oneiric_core::{Error, ErrorKind, ProviderId, Result, SecretKey, SecretRef};

use crate::cell::{Cell, Source};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How many "there is no such secret" are remembered. More are forgotten, oldest first.
const NEGATIVES: usize = 1024;
/// Of how many the least recently used one leaves. More is closer to exact and slower.
const SAMPLE: usize = 16;
/// A shard for so many secrets, so that writers seldom meet and none holds readers up for long.
const SHARD: usize = 1024;
/// The most shards.
const SHARDS: usize = 128;

/// `(provider, key) → (value, version, fetched at)`, with everything that has been said about it.
#[derive(Debug)]
pub(crate) struct SecretValueCache {
    pub(crate) sources: BTreeMap<ProviderId, Arc<Source>>,
    /// As many as a power of two.
    shards: Box<[RwLock<Shard>]>,
    hasher: DefaultHashBuilder,
    /// The pinned versions of each secret, so that an invalidation of the secret finds them
    /// without looking through the cache.
    pinned: Mutex<HashMap<(ProviderId, SecretKey), Pinned>>,
    negatives: Mutex<VecDeque<Weak<Cell>>>,
    /// How many cells hold a value, or have.
    enrolled: AtomicUsize,
    capacity: usize,
    random: Mutex<fastrand::Rng>,
}

/// The cells whose names hash alike: one after the other, and where each is.
#[derive(Debug, Default)]
struct Shard {
    cells: Vec<Arc<Cell>>,
    places: HashTable<u32>,
}

type Pinned = Vec<Weak<Cell>>;

/// What a cell is found by.
#[derive(Clone, Copy)]
struct Name<'a> {
    provider: &'a ProviderId,
    key: &'a SecretKey,
    pin: Option<&'a str>,
}

impl<'a> Name<'a> {
    fn of(cell: &'a Cell) -> Self {
        Self { provider: &cell.source.id, key: cell.key(), pin: cell.pin().map(|pin| &**pin) }
    }

    fn is_of(self, cell: &Cell) -> bool {
        *self.key == *cell.key()
            && *self.provider == cell.source.id
            && self.pin == cell.pin().map(|pin| &**pin)
    }

    fn hash(self, hasher: &DefaultHashBuilder) -> u64 {
        hasher.hash_one((self.provider, self.key, self.pin))
    }
}

impl SecretValueCache {
    pub(crate) fn new(
        sources: BTreeMap<ProviderId, Arc<Source>>,
        capacity: usize,
        random: fastrand::Rng,
    ) -> Self {
        let shards = (capacity / SHARD).next_power_of_two().min(SHARDS);
        Self {
            sources,
            shards: (0..shards).map(|_| RwLock::default()).collect(),
            hasher: DefaultHashBuilder::default(),
            pinned: Mutex::default(),
            negatives: Mutex::default(),
            enrolled: AtomicUsize::new(0),
            capacity: capacity.max(1),
            random: Mutex::new(random),
        }
    }

    /// The provider of this name.
    ///
    /// # Errors
    /// `Invalid`, naming those that there are.
    pub(crate) fn source(&self, id: &ProviderId) -> Result<&Arc<Source>> {
        self.sources.get(id).ok_or_else(|| {
            let known: Vec<_> = self.sources.keys().map(ProviderId::as_str).collect();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            let message = format!("there is no provider `{id}`; configured: {known}");
            Error::new(ErrorKind::Invalid, message)
        })
    }

    /// The cell of a reference, made if there is none.
    ///
    /// # Errors
    /// If there is no such provider.
    pub(crate) fn cell(&self, reference: &SecretRef) -> Result<Arc<Cell>> {
        if let Some(cell) = self.known_cell(reference) {
            return Ok(cell);
        }
        let source = Arc::clone(self.source(reference.provider())?);
        let pin: Option<Arc<str>> = reference.version().map(Into::into);
        let is_pinned = pin.is_some();
        let new = Cell::new(source, reference.key().clone(), pin);
        let hash = Name::of(&new).hash(&self.hasher);
        let cell = self.write(hash).find_or_insert(hash, &new, &self.hasher);
        if is_pinned && Arc::ptr_eq(&cell, &new) {
            self.pinned_of(&cell, |pinned| pinned.push(Arc::downgrade(&cell)));
        }
        Ok(cell)
    }

    /// The cell of a reference, if there is one.
    pub(crate) fn known_cell(&self, reference: &SecretRef) -> Option<Arc<Cell>> {
        let (provider, key, pin) = (reference.provider(), reference.key(), reference.version());
        self.find(Name { provider, key, pin })
    }

    /// Every cell of a secret that there is: the current version's and the pinned ones'.
    pub(crate) fn cells_of(&self, provider: &ProviderId, key: &SecretKey) -> Vec<Arc<Cell>> {
        let current = self.find(Name { provider, key, pin: None });
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = pinned.get(&(provider.clone(), key.clone()));
        let pinned = pinned.into_iter().flatten().filter_map(Weak::upgrade);
        current.into_iter().chain(pinned).collect()
    }

    /// Every cell of a provider, by looking through the cache.
    pub(crate) fn cells_of_provider(&self, provider: &ProviderId) -> Vec<Arc<Cell>> {
        let mut cells = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            cells.extend(shard.cells.iter().filter(|cell| cell.source.id == *provider).cloned());
        }
        cells
    }

    /// Remembers that a secret does not exist. What is remembered beyond the limit is forgotten,
    /// its cell with it, so that asking for a million missing names fills no memory.
    pub(crate) fn remember_missing(&self, cell: &Arc<Cell>) {
        let forgotten = {
            let mut negatives = self.negatives.lock().unwrap_or_else(PoisonError::into_inner);
            negatives.push_back(Arc::downgrade(cell));
            if negatives.len() > NEGATIVES { negatives.pop_front() } else { None }
        };
        if let Some(cell) = forgotten.and_then(|cell| cell.upgrade())
            && cell.retire(false)
        {
            self.remove(&cell);
        }
    }

    /// Takes note of a cell that holds a value for the first time. Beyond the capacity another
    /// one leaves: of a few that chance picks, the one whose last *use* is longest ago and that
    /// nobody follows.
    pub(crate) fn enrol(&self, cell: &Arc<Cell>) {
        if self.enrolled.fetch_add(1, Ordering::Relaxed) < self.capacity {
            return;
        }
        // One that came into use meanwhile stays, and the next one that comes makes up for it.
        if let Some(leaving) = self.pick(cell)
            && leaving.retire(true)
        {
            self.remove(&leaving);
        }
    }

    /// Lets every value go, when the resolver does: references remember their cells.
    pub(crate) fn end(&self) {
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            shard.cells.iter().for_each(|cell| cell.end());
        }
    }

    /// Which of a few cells beside this one was used least recently and may leave.
    fn pick(&self, beside: &Arc<Cell>) -> Option<Arc<Cell>> {
        let may_leave = |cell: &Arc<Cell>| {
            cell.is_enrolled() && !Arc::ptr_eq(cell, beside) && !cell.is_followed()
        };
        if let [only] = &*self.shards {
            let only = only.read().unwrap_or_else(PoisonError::into_inner);
            if only.cells.len() <= 2 * SAMPLE {
                let leaving = only.cells.iter().filter(|cell| may_leave(cell));
                return leaving.min_by_key(|cell| cell.last_used()).cloned();
            }
        }
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let by_chance = |_| {
            let shard = self.read(random.u64(..));
            (!shard.cells.is_empty())
                .then(|| Arc::clone(&shard.cells[random.usize(..shard.cells.len())]))
        };
        // Some are passed over; a cache of those alone has none that may leave.
        let tries = (0..4 * SAMPLE).filter_map(by_chance);
        tries.filter(may_leave).take(SAMPLE).min_by_key(|cell| cell.last_used())
    }

    fn find(&self, name: Name<'_>) -> Option<Arc<Cell>> {
        let hash = name.hash(&self.hasher);
        self.read(hash).find(hash, name).cloned()
    }

    fn remove(&self, cell: &Arc<Cell>) {
        let hash = Name::of(cell).hash(&self.hasher);
        if self.write(hash).remove(hash, cell, &self.hasher) && cell.is_enrolled() {
            self.enrolled.fetch_sub(1, Ordering::Relaxed);
        }
        if cell.pin().is_some() {
            self.pinned_of(cell, |pinned| {
                pinned.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(cell)));
            });
        }
    }

    fn read(&self, hash: u64) -> RwLockReadGuard<'_, Shard> {
        self.shard(hash).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, hash: u64) -> RwLockWriteGuard<'_, Shard> {
        self.shard(hash).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// By bits in the middle of the hash: a table goes by both ends.
    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        let at = (hash >> 32) as usize & (self.shards.len() - 1);
        &self.shards[at]
    }

    fn pinned_of(&self, cell: &Cell, change: impl FnOnce(&mut Pinned)) {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let of = (cell.source.id.clone(), cell.key().clone());
        let cells = pinned.entry(of.clone()).or_default();
        change(cells);
        if cells.is_empty() {
            pinned.remove(&of);
        }
    }
}

impl Shard {
    fn find(&self, hash: u64, name: Name<'_>) -> Option<&Arc<Cell>> {
        let at = self.places.find(hash, |&at| name.is_of(&self.cells[at as usize]))?;
        Some(&self.cells[*at as usize])
    }

    /// The cell of the same name, or this one if there was none.
    fn find_or_insert(
        &mut self,
        hash: u64,
        new: &Arc<Cell>,
        hasher: &DefaultHashBuilder,
    ) -> Arc<Cell> {
        if let Some(known) = self.find(hash, Name::of(new)) {
            return Arc::clone(known);
        }
        let at = u32::try_from(self.cells.len()).expect("a shard has fewer than 2^32 secrets");
        self.cells.push(Arc::clone(new));
        let cells = &self.cells;
        self.places.insert_unique(hash, at, |&at| Name::of(&cells[at as usize]).hash(hasher));
        Arc::clone(new)
    }

    /// Removes this very cell; `false` if it is not there.
    fn remove(&mut self, hash: u64, cell: &Arc<Cell>, hasher: &DefaultHashBuilder) -> bool {
        let cells = &self.cells;
        let found = self.places.find_entry(hash, |&at| Arc::ptr_eq(&cells[at as usize], cell));
        let Ok(found) = found else { return false };
        let (at, _) = found.remove();
        // The last one takes its place.
        let last = u32::try_from(cells.len() - 1).expect("a shard has fewer than 2^32 secrets");
        if at != last {
            let hash = Name::of(&cells[last as usize]).hash(hasher);
            let moved = self.places.find_mut(hash, |&place| place == last);
            *moved.expect("each cell of a shard has a place in its table") = at;
        }
        self.cells.swap_remove(at as usize);
        true
    }
}
