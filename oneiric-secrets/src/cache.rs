//! The cache: which cell belongs to which `(provider, key)`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use oneiric_core::{Error, ErrorKind, ProviderId, Result, SecretKey, SecretRef};
use papaya::Equivalent;

use crate::cell::{Cell, Source};

/// How many "there is no such secret" are remembered. More are forgotten, oldest first.
const NEGATIVES: usize = 1024;
/// Of how many the least recently used one leaves. More is closer to exact and slower.
const SAMPLE: usize = 16;

/// `(provider, key) → (value, version, fetched at)`, with everything that has been said about it.
#[derive(Debug)]
pub(crate) struct SecretValueCache {
    pub(crate) sources: BTreeMap<ProviderId, Arc<Source>>,
    cells: papaya::HashMap<CellKey, Arc<Cell>>,
    /// The pinned versions of each secret, so that an invalidation of the secret finds them
    /// without looking through the cache.
    pinned: Mutex<HashMap<(ProviderId, SecretKey), Pinned>>,
    negatives: Mutex<VecDeque<Weak<Cell>>>,
    /// Every cell that holds a value, in no order, for eviction.
    roster: Mutex<Roster>,
    capacity: usize,
}

#[derive(Debug)]
struct Roster {
    cells: Vec<Weak<Cell>>,
    random: fastrand::Rng,
}

type Pinned = Vec<Weak<Cell>>;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CellKey {
    provider: ProviderId,
    key: SecretKey,
    pin: Option<Arc<str>>,
}

/// A [`CellKey`] that is looked up without being made. Hashes alike, field by field.
#[derive(Hash)]
struct Lookup<'a> {
    provider: &'a ProviderId,
    key: &'a SecretKey,
    pin: Option<&'a str>,
}

impl Equivalent<CellKey> for Lookup<'_> {
    fn equivalent(&self, key: &CellKey) -> bool {
        *self.key == key.key && *self.provider == key.provider && self.pin == key.pin.as_deref()
    }
}

impl SecretValueCache {
    pub(crate) fn new(
        sources: BTreeMap<ProviderId, Arc<Source>>,
        capacity: usize,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            roster: Mutex::new(Roster { cells: Vec::new(), random }),
            capacity: capacity.max(1),
            sources,
            cells: papaya::HashMap::new(),
            pinned: Mutex::default(),
            negatives: Mutex::default(),
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
        let key = CellKey {
            provider: reference.provider().clone(),
            key: reference.key().clone(),
            pin: pin.clone(),
        };
        let new = Cell::new(source, reference.key().clone(), pin);
        let cells = self.cells.pin();
        let cell = Arc::clone(cells.get_or_insert(key, Arc::clone(&new)));
        if cell.pin.is_some() && Arc::ptr_eq(&cell, &new) {
            self.pinned_of(&cell, |pinned| pinned.push(Arc::downgrade(&cell)));
        }
        Ok(cell)
    }

    /// The cell of a reference, if there is one.
    pub(crate) fn known_cell(&self, reference: &SecretRef) -> Option<Arc<Cell>> {
        let (provider, key, pin) = (reference.provider(), reference.key(), reference.version());
        self.cells.pin().get(&Lookup { provider, key, pin }).cloned()
    }

    /// Every cell of a secret that there is: the current version's and the pinned ones'.
    pub(crate) fn cells_of(&self, provider: &ProviderId, key: &SecretKey) -> Vec<Arc<Cell>> {
        let current = self.cells.pin().get(&Lookup { provider, key, pin: None }).cloned();
        let pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let pinned = pinned.get(&(provider.clone(), key.clone()));
        let pinned = pinned.into_iter().flatten().filter_map(Weak::upgrade);
        current.into_iter().chain(pinned).collect()
    }

    /// Every cell of a provider, by looking through the cache.
    pub(crate) fn cells_of_provider(&self, provider: &ProviderId) -> Vec<Arc<Cell>> {
        let cells = self.cells.pin();
        let of_provider = |cell: &&Arc<Cell>| cell.source.id == *provider;
        cells.values().filter(of_provider).cloned().collect()
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

    /// Takes note of a cell that holds a value now. Beyond the capacity another one leaves: of a
    /// few that chance picks, the one whose last *use* is longest ago and that nobody follows.
    pub(crate) fn enrol(&self, cell: &Arc<Cell>) {
        let mut leaving = None;
        {
            let mut roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
            let Roster { cells, random } = &mut *roster;
            if cells.len() >= self.capacity {
                leaving = pick(cells, random).map(|at| cells.swap_remove(at));
            }
            cells.push(Arc::downgrade(cell));
        }
        if let Some(cell) = leaving.and_then(|cell| cell.upgrade()) {
            if cell.retire(true) {
                self.remove(&cell);
            } else {
                // It came into use meanwhile.
                let mut roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
                roster.cells.push(Arc::downgrade(&cell));
            }
        }
    }

    /// Lets every value go, when the resolver does: references remember their cells.
    pub(crate) fn end(&self) {
        self.cells.pin().values().for_each(|cell| cell.end());
    }

    fn remove(&self, cell: &Arc<Cell>) {
        let lookup = Lookup { provider: &cell.source.id, key: &cell.key, pin: cell.pin.as_deref() };
        self.cells.pin().remove(&lookup);
        if cell.pin.is_some() {
            self.pinned_of(cell, |pinned| {
                pinned.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(cell)));
            });
        }
    }

    fn pinned_of(&self, cell: &Cell, change: impl FnOnce(&mut Pinned)) {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        let of = (cell.source.id.clone(), cell.key.clone());
        let cells = pinned.entry(of.clone()).or_default();
        change(cells);
        if cells.is_empty() {
            pinned.remove(&of);
        }
    }
}

/// Which of a few cells that chance picks was used least recently and may leave.
fn pick(cells: &[Weak<Cell>], random: &mut fastrand::Rng) -> Option<usize> {
    let mut best: Option<(u64, usize)> = None;
    for _ in 0..SAMPLE {
        let at = random.usize(..cells.len());
        match cells[at].upgrade() {
            // Gone already: a free place.
            None => return Some(at),
            Some(cell) if cell.is_followed() => {}
            Some(cell) => {
                let used = cell.last_used();
                if best.is_none_or(|(least, _)| used < least) {
                    best = Some((used, at));
                }
            }
        }
    }
    best.map(|(_, at)| at)
}
