//! The protocol between fetches, reads and invalidations of a few secrets.

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::sync::{Arc, Mutex, MutexGuard};

use crate::epoch::{Bound, Bounds, Epochs};

/// How many times a flight flies again at most, to keep the models finite. Every invalidation
/// causes one more, and no model has as many.
const TRIES: usize = 3;

/// The cache of one provider with some secrets, and the store behind it.
pub struct World {
    epochs: Epochs,
    source: Bounds,
    /// One invalidation at a time, and none while a set is looked at: see [`World::get_set`].
    invalidating: Mutex<()>,
    cells: Vec<Cell>,
    store: Vec<AtomicU64>,
    fetches: AtomicU64,
}

struct Cell {
    fresh: Bound,
    /// An [`Entry`], or zero.
    entry: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    flight: Option<Flight>,
    older_allowed: u64,
    /// What a handle shows.
    shown: Option<Entry>,
}

/// A flight, and where its landing is waited for: an [`Entry`], or zero.
type Flight = Arc<AtomicU64>;

/// A version, and the epoch in which its fetch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub version: u64,
    pub epoch: u64,
}

/// How far an invalidation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Soft,
    Hard,
    Rollback,
}

impl World {
    /// Secrets that the store holds in these versions, none of them read yet.
    pub fn new(versions: &[u64]) -> Arc<Self> {
        let cell = |_: &u64| Cell {
            fresh: Bound::default(),
            entry: AtomicU64::new(0),
            state: Mutex::default(),
        };
        Arc::new(Self {
            epochs: Epochs::default(),
            source: Bounds::default(),
            invalidating: Mutex::default(),
            cells: versions.iter().map(cell).collect(),
            store: versions.iter().map(|version| AtomicU64::new(*version)).collect(),
            fetches: AtomicU64::new(0),
        })
    }

    /// The store holds another version from now on.
    pub fn put(&self, at: usize, version: u64) {
        self.store[at].store(version, Ordering::SeqCst);
    }

    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }

    /// `Shared::fresh`: what is held, if it is fresh.
    pub fn fresh(&self, at: usize) -> Option<Entry> {
        self.usable(at).filter(|entry| self.is_valid(at, entry.epoch))
    }

    /// `Cell::entry`: what is held and not purged, fresh or not.
    pub fn usable(&self, at: usize) -> Option<Entry> {
        let entry = self.held(at)?;
        (entry.epoch >= self.source.usable.epoch()).then_some(entry)
    }

    /// What still lies in memory.
    pub fn held(&self, at: usize) -> Option<Entry> {
        Entry::unpack(self.cells[at].entry.load(Ordering::Acquire))
    }

    /// What a handle shows.
    pub fn shown(&self, at: usize) -> Option<Entry> {
        self.state(at).shown
    }

    /// `Resolver::get`: from the cache, else by a flight, whose leader this thread is if there is
    /// none. Whoever finds a flight of somebody else does not wait for it in a model.
    pub fn get(&self, at: usize) -> Option<Entry> {
        if let Some(entry) = self.fresh(at) {
            return Some(entry);
        }
        let landing = self.board(at);
        let entry = Entry::unpack(landing.load(Ordering::Acquire))?;
        self.is_valid(at, entry.epoch).then_some(entry)
    }

    /// `Shared::board` and `Shared::fly`: the flight that there is, or a new one, flown at once.
    pub fn board(&self, at: usize) -> Flight {
        let mut state = self.state(at);
        if let Some(flight) = &state.flight {
            return Arc::clone(flight);
        }
        if let Some(entry) = self.fresh(at) {
            // It landed since the caller looked.
            return Arc::new(AtomicU64::new(entry.pack()));
        }
        let flight = Arc::new(AtomicU64::new(0));
        state.flight = Some(Arc::clone(&flight));
        drop(state);
        self.fly(at, &flight);
        flight
    }

    fn fly(&self, at: usize, flight: &Flight) {
        for _ in 0..TRIES {
            let epoch = self.epochs.now();
            self.fetches.fetch_add(1, Ordering::SeqCst);
            let version = self.store[at].load(Ordering::SeqCst);
            if let Some(entry) = self.judge(at, Entry { version, epoch }) {
                flight.store(entry.pack(), Ordering::Release);
                return;
            }
        }
        self.state(at).flight = None;
    }

    /// `Shared::judge` and `settle`: installs what was fetched, if it may be.
    fn judge(&self, at: usize, fetched: Entry) -> Option<Entry> {
        let mut state = self.state(at);
        if !self.is_valid(at, fetched.epoch) {
            return None;
        }
        let lags = |held: Entry| {
            fetched.version < held.version && !self.may_be_older(&state, held.epoch, fetched.epoch)
        };
        if self.usable(at).is_some_and(lags) {
            return None;
        }
        if state.older_allowed <= fetched.epoch {
            state.older_allowed = 0;
        }
        self.cells[at].entry.store(fetched.pack(), Ordering::Release);
        state.shown = Some(fetched);
        state.flight = None;
        Some(fetched)
    }

    /// `Resolver::invalidate_secrets` of these secrets.
    pub fn invalidate(&self, ats: &[usize], mode: Mode) {
        let epoch = {
            let _one = self.invalidating.lock().expect("no model panics under the lock");
            let epoch = self.epochs.open();
            for &at in ats {
                if mode == Mode::Rollback {
                    self.state(at).older_allowed = epoch;
                }
                self.cells[at].fresh.raise(epoch);
            }
            epoch
        };
        if mode == Mode::Hard {
            ats.iter().for_each(|&at| self.wipe(at, epoch));
        }
    }

    /// The same of everything.
    pub fn invalidate_all(&self, mode: Mode) {
        let epoch = {
            let _one = self.invalidating.lock().expect("no model panics under the lock");
            let epoch = self.epochs.open();
            match mode {
                Mode::Soft => {}
                Mode::Hard => self.source.usable.raise(epoch),
                Mode::Rollback => self.source.older_allowed.raise(epoch),
            }
            self.source.fresh.raise(epoch);
            epoch
        };
        if mode == Mode::Hard {
            (0..self.cells.len()).for_each(|at| self.wipe(at, epoch));
        }
    }

    /// `Cell::wipe`.
    fn wipe(&self, at: usize, epoch: u64) {
        let mut state = self.state(at);
        if self.held(at).is_none_or(|entry| entry.epoch < epoch) {
            self.cells[at].entry.store(0, Ordering::Release);
            state.shown = None;
        }
    }

    /// One try of `Resolver::get_set`: the secrets, if they were all true at one moment.
    pub fn get_set(&self, ats: &[usize]) -> Option<Vec<Entry>> {
        let read: Vec<Entry> = ats.iter().map(|&at| self.get(at)).collect::<Option<_>>()?;
        let _none = self.invalidating.lock().expect("no model panics under the lock");
        let whole = ats
            .iter()
            .zip(&read)
            .all(|(&at, entry)| self.usable(at) == Some(*entry) && self.is_valid(at, entry.epoch));
        whole.then_some(read)
    }

    fn is_valid(&self, at: usize, epoch: u64) -> bool {
        epoch >= self.cells[at].fresh.epoch().max(self.source.fresh.epoch())
    }

    fn may_be_older(&self, state: &State, known: u64, epoch: u64) -> bool {
        let allowed = state.older_allowed.max(self.source.older_allowed.epoch());
        known < allowed && allowed <= epoch
    }

    fn state(&self, at: usize) -> MutexGuard<'_, State> {
        self.cells[at].state.lock().expect("no model panics under the lock")
    }
}

impl Entry {
    fn pack(self) -> u64 {
        self.version << 32 | self.epoch
    }

    fn unpack(packed: u64) -> Option<Self> {
        (packed != 0).then_some(Self { version: packed >> 32, epoch: packed & 0xffff_ffff })
    }
}
