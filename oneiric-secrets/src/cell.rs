//! One secret of the cache: its current entry, what has been said about it, and the one fetch
//! that may be running for it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use oneiric_core::{Error, Moment, ProviderId, SecretKey, SecretProvider, Version};

use crate::courtesy::Courtesy;
use crate::entry::{Entry, EntryGuard};
use crate::epoch::{Bound, Bounds};
use crate::flight::Flight;
use crate::handle::Follower;
use crate::resolver::Mode;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard, PoisonError};

/// A configured provider, and what has been said about all of its secrets.
#[derive(Debug)]
pub(crate) struct Source {
    /// The resolver that it belongs to.
    pub(crate) home: u64,
    pub(crate) bounds: Bounds,
    pub(crate) id: ProviderId,
    pub(crate) provider: Arc<dyn SecretProvider>,
    pub(crate) courtesy: Courtesy,
}

impl Source {
    /// How many secrets are asked for in one call.
    pub(crate) fn batch(&self) -> usize {
        let batch = self.provider.descriptor().capabilities.batch;
        batch.map_or(usize::MAX, |batch| usize::try_from(batch.get()).unwrap_or(usize::MAX))
    }
}

/// One secret, or one pinned version of one. There may be a million, so what is seldom needed is
/// set aside, and what every read looks at stands together.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Cell {
    entry: ArcSwapOption<Entry>,
    /// Nothing that began before is fresh.
    fresh: Bound,
    pub(crate) source: Arc<Source>,
    /// When it was read last; not exact, so that readers do not fight for it.
    used: AtomicU32,
    /// Set once the cell has left the cache, without an entry for ever after; whoever still holds
    /// it looks the secret up again.
    dead: AtomicBool,
    /// Whether it has ever held a value. Changes only while the state is locked.
    enrolled: AtomicBool,
    name: Name,
    state: Mutex<Option<Box<CellState>>>,
}

/// What a cell is called within its provider. Few are of a pinned version.
#[derive(Debug)]
enum Name {
    Current(SecretKey),
    Pinned(Box<(SecretKey, Arc<str>)>),
}

/// What there is to know of a secret only while something goes on: a fetch, a failure, a handle
/// that follows it. Gone again when it says nothing.
///
/// What is large and seldom there is boxed. So it is about as large as a cell, an entry and a
/// flight, and when it is gone its place in the heap is one for them: each fetch would leave a hole
/// otherwise.
#[derive(Debug, Default)]
pub(crate) struct CellState {
    /// The fetch that is running.
    pub(crate) flight: Option<Arc<Flight>>,
    /// The version that an event has spoken of: nothing older will do.
    pub(crate) expected: Option<Box<Expected>>,
    /// The newest version that was ever heard of, where that is not the one that is held: it was
    /// rolled back or purged since, or is still to be read.
    newest: Option<Version>,
    /// What begins from this epoch on may bring an older version.
    older_allowed: u64,
    /// After failures: how many in a row, what the last one was, and until when the provider is
    /// left alone as long as there is a value to serve.
    pub(crate) failing: Option<Box<Failing>>,
    /// The handles that follow this secret.
    pub(crate) followers: Vec<Weak<Follower>>,
}

/// The state of a cell, locked.
pub(crate) struct StateGuard<'a>(MutexGuard<'a, Option<Box<CellState>>>);

/// A version that is known to exist, and the epoch in which that became known.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) version: Version,
    pub(crate) epoch: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Failing {
    pub(crate) times: u32,
    pub(crate) error: Error,
    pub(crate) until: Moment,
    pub(crate) epoch: u64,
}

impl Cell {
    pub(crate) fn new(source: Arc<Source>, key: SecretKey, pin: Option<Arc<str>>) -> Arc<Self> {
        let name = match pin {
            None => Name::Current(key),
            Some(pin) => Name::Pinned(Box::new((key, pin))),
        };
        Arc::new(Self {
            entry: ArcSwapOption::empty(),
            fresh: Bound::default(),
            source,
            used: AtomicU32::new(0),
            dead: AtomicBool::new(false),
            enrolled: AtomicBool::new(false),
            name,
            state: Mutex::default(),
        })
    }

    pub(crate) fn key(&self) -> &SecretKey {
        match &self.name {
            Name::Current(key) => key,
            Name::Pinned(name) => &name.0,
        }
    }

    pub(crate) fn pin(&self) -> Option<&Arc<str>> {
        match &self.name {
            Name::Current(_) => None,
            Name::Pinned(name) => Some(&name.1),
        }
    }

    /// Locks the state, to change it.
    pub(crate) fn state(&self) -> StateGuard<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.get_or_insert_default();
        StateGuard(state)
    }

    /// Looks at the state, unless it says nothing.
    pub(crate) fn peek<T>(&self, look: impl FnOnce(&CellState) -> T) -> Option<T> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.as_deref().map(look)
    }

    /// The fast path: what is held, if it is fresh and need not be refreshed yet.
    #[inline]
    pub(crate) fn hit(&self, now: Moment) -> Option<EntryGuard> {
        let guard = self.entry.load();
        let entry = guard.as_ref()?;
        (now < entry.times.refresh && self.is_valid(entry.epoch)).then_some(guard)
    }

    /// Notes that it is in use. Exact to an eighth of a second, so that a hot secret is seldom
    /// written to.
    #[inline]
    pub(crate) fn touch(&self, now: Moment) {
        #[expect(clippy::cast_possible_truncation, reason = "it wraps after 18 years")]
        let now = (now.as_nanos() >> 27) as u32;
        if self.used.load(Ordering::Relaxed) != now {
            self.used.store(now, Ordering::Relaxed);
        }
    }

    pub(crate) fn last_used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whatever is held that may be used at all: what a hard invalidation of the provider has
    /// hidden may not, also before it is wiped.
    pub(crate) fn entry(&self) -> Option<Arc<Entry>> {
        let entry = self.entry.load_full()?;
        (entry.epoch >= self.source.bounds.usable.epoch()).then_some(entry)
    }

    /// Whether a value whose fetch began in `epoch` has not been invalidated since.
    #[inline]
    pub(crate) fn is_valid(&self, epoch: u64) -> bool {
        epoch >= self.fresh_from()
    }

    /// Whether this flight is still under way.
    pub(crate) fn is_flying(&self, flight: &Arc<Flight>) -> bool {
        self.peek(|state| state.flight.as_ref().is_some_and(|of| Arc::ptr_eq(of, flight)))
            .unwrap_or(false)
    }

    /// The first epoch in which a fetch brought a value that has not been invalidated since.
    pub(crate) fn fresh_from(&self) -> u64 {
        self.fresh.epoch().max(self.source.bounds.fresh.epoch())
    }

    /// Says of this secret what an invalidation says. One that is hard is not over before
    /// [`wipe`](Self::wipe).
    pub(crate) fn invalidate(&self, mode: Mode, epoch: u64) {
        if mode == Mode::Rollback {
            self.state().older_allowed = epoch;
        }
        self.fresh.raise(epoch);
    }

    /// Puts an entry in place and shows it to those who follow. Its being under the state's lock
    /// is what puts installs in an order. Returns whether it is the first.
    pub(crate) fn install(&self, state: &mut CellState, entry: &Arc<Entry>) -> bool {
        // A cell that has left the cache stays without an entry.
        if self.is_dead() {
            return false;
        }
        state.newest = self.newest(state).filter(|newest| entry.version.is_older_than(newest));
        if state.older_allowed <= entry.epoch {
            state.older_allowed = 0;
        }
        self.entry.store(Some(Arc::clone(entry)));
        state.each_follower(|follower| follower.follow(entry));
        !self.enrolled.swap(true, Ordering::Relaxed)
    }

    /// Notes that a version exists. Whether that is news: an event that is replayed is none, and
    /// does not undo a roll-back.
    pub(crate) fn learn(&self, state: &mut CellState, version: &Version) -> bool {
        let newest = self.newest(state);
        let news =
            newest.is_none_or(|newest| newest != *version && !version.is_older_than(&newest));
        if news {
            state.newest = Some(version.clone());
        }
        news
    }

    /// The newest version that was ever heard of.
    fn newest(&self, state: &CellState) -> Option<Version> {
        let held = || self.entry.load().as_ref().map(|held| held.version.clone());
        state.newest.clone().or_else(held)
    }

    /// Whether a fetch that began in `epoch` may bring an older version than one known since
    /// `known`: only if a roll-back was asked for in between.
    pub(crate) fn may_be_older(&self, state: &CellState, known: u64, epoch: u64) -> bool {
        let allowed = state.older_allowed.max(self.source.bounds.older_allowed.epoch());
        known < allowed && allowed <= epoch
    }

    /// Lets go of a value whose fetch began before a hard invalidation, so that it is wiped with
    /// its last user. What was brought in after it stays.
    pub(crate) fn wipe(&self, epoch: u64) {
        let mut state = self.state();
        if self.entry.load().as_ref().is_none_or(|entry| entry.epoch < epoch) {
            state.newest = self.newest(&state);
            self.entry.store(None);
            state.each_follower(Follower::purge);
        }
    }

    /// Whether a handle follows this secret.
    pub(crate) fn is_followed(&self) -> bool {
        self.peek(CellState::is_followed).unwrap_or(false)
    }

    /// Whether a handle wants it kept fresh.
    pub(crate) fn is_kept(&self) -> bool {
        self.peek(CellState::is_kept).unwrap_or(false)
    }

    /// Ends what handles show of it, unless it was renewed meanwhile.
    pub(crate) fn expire_followers(&self, is_over: impl FnOnce(&Entry) -> bool) {
        let mut state = self.state();
        if self.entry().is_some_and(|entry| is_over(&entry)) {
            state.each_follower(Follower::purge);
        }
    }

    /// Takes a cell out of service that nobody follows and that is not being fetched; `false` if
    /// it is in use. `with_value` says whether one that holds a value may go.
    pub(crate) fn retire(&self, with_value: bool) -> bool {
        let state = self.state();
        let idle = state.flight.is_none()
            && !state.is_followed()
            && (with_value || self.entry.load().is_none());
        if idle {
            self.dead.store(true, Ordering::SeqCst);
            self.entry.store(None);
        }
        idle
    }

    /// Lets everything go, when the resolver does.
    pub(crate) fn end(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.entry.store(None);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    pub(crate) fn is_enrolled(&self) -> bool {
        self.enrolled.load(Ordering::Relaxed)
    }
}

impl CellState {
    /// Whether it is to be kept fresh: somebody follows it who asks nobody before it.
    pub(crate) fn is_kept(&self) -> bool {
        let mut followers = self.followers.iter().filter_map(Weak::upgrade);
        followers.any(|follower| follower.rank == 0)
    }

    fn is_followed(&self) -> bool {
        self.followers.iter().any(|follower| follower.strong_count() > 0)
    }

    /// Those that are still there; the others are forgotten.
    fn each_follower(&mut self, tell: impl Fn(&Follower)) {
        self.followers.retain(|follower| match follower.upgrade() {
            Some(follower) => {
                tell(&follower);
                true
            }
            None => false,
        });
    }

    fn says_nothing(&self) -> bool {
        let Self { flight, expected, newest, older_allowed, failing, followers } = self;
        flight.is_none()
            && expected.is_none()
            && newest.is_none()
            && *older_allowed == 0
            && failing.is_none()
            && followers.is_empty()
    }
}

impl Deref for StateGuard<'_> {
    type Target = CellState;

    fn deref(&self) -> &CellState {
        self.0.as_ref().expect("a state that is locked to be changed is there")
    }
}

impl DerefMut for StateGuard<'_> {
    fn deref_mut(&mut self) -> &mut CellState {
        self.0.as_mut().expect("a state that is locked to be changed is there")
    }
}

impl Drop for StateGuard<'_> {
    fn drop(&mut self) {
        if self.says_nothing() {
            *self.0 = None;
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source.id, self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the two counts of an `Arc` each takes 88 bytes, so that in the heap one can take the
    /// place of another; a million of them are held.
    #[test]
    fn what_there_is_a_million_of_is_small_and_of_one_size() {
        let places = [
            size_of::<Cell>() + 16,
            size_of::<Entry>() + 16,
            size_of::<Flight>() + 16,
            size_of::<CellState>(),
        ];
        assert!(places.iter().all(|size| (73..=88).contains(size)), "{places:?}");
    }
}
