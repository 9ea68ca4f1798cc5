//! One secret of the cache: its current entry, what has been said about it, and the one fetch
//! that may be running for it.

use std::fmt;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use oneiric_core::{Error, Moment, ProviderId, Result, SecretKey, SecretProvider, Version};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::courtesy::Courtesy;
use crate::entry::{Entry, EntryGuard};
use crate::epoch::Bounds;
use crate::handle::Follower;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard, PoisonError};

/// A configured provider, and what has been said about all of its secrets.
#[derive(Debug)]
pub(crate) struct Source {
    /// The resolver that it belongs to.
    pub(crate) home: u64,
    pub(crate) id: ProviderId,
    pub(crate) provider: Arc<dyn SecretProvider>,
    pub(crate) courtesy: Courtesy,
    pub(crate) bounds: Bounds,
}

/// One secret, or one pinned version of one.
#[derive(Debug)]
pub(crate) struct Cell {
    pub(crate) source: Arc<Source>,
    pub(crate) key: SecretKey,
    pub(crate) pin: Option<Arc<str>>,
    pub(crate) bounds: Bounds,
    entry: ArcSwapOption<Entry>,
    /// When it was read last, as seconds on the clock of reads; not exact, so that readers do not
    /// fight for it.
    used: AtomicU64,
    /// Set once the cell has left the cache, without an entry for ever after; whoever still holds
    /// it looks the secret up again.
    dead: AtomicBool,
    state: Mutex<CellState>,
}

/// What is looked at only when a fetch begins or ends.
#[derive(Debug, Default)]
pub(crate) struct CellState {
    /// The fetch that is running.
    pub(crate) flight: Option<Flight>,
    /// The version that an event has spoken of: nothing older will do.
    pub(crate) expected: Option<Expected>,
    /// The newest version that was ever heard of, also if it was rolled back since.
    newest: Option<Version>,
    /// After failures: how many in a row, what the last one was, and until when the provider is
    /// left alone as long as there is a value to serve.
    pub(crate) failing: Option<Failing>,
    /// Whether it has ever held a value.
    pub(crate) enrolled: bool,
    /// The handles that follow this secret.
    pub(crate) followers: Vec<Weak<Follower>>,
}

/// How a fetch that is running is waited for.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) landing: watch::Receiver<Landing>,
    pub(crate) began: Instant,
}

/// What a fetch has brought, once it has.
pub(crate) type Landing = Option<Result<Arc<Entry>>>;

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

impl CellState {
    /// Notes that a version exists. Whether that is news: an event that is replayed is none, and
    /// does not undo a roll-back.
    pub(crate) fn learn(&mut self, version: &Version) -> bool {
        let known = |newest: &Version| version == newest || version.is_older_than(newest);
        let news = !self.newest.as_ref().is_some_and(known);
        if news {
            self.newest = Some(version.clone());
        }
        news
    }
}

impl Cell {
    pub(crate) fn new(source: Arc<Source>, key: SecretKey, pin: Option<Arc<str>>) -> Arc<Self> {
        Arc::new(Self {
            source,
            key,
            pin,
            bounds: Bounds::default(),
            entry: ArcSwapOption::empty(),
            used: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, CellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fast path: what is held, if it is fresh and need not be refreshed yet.
    pub(crate) fn hit(&self, now: Moment) -> Option<EntryGuard> {
        let guard = self.entry.load();
        let entry = guard.as_ref()?;
        (now < entry.times.refresh && self.is_valid(entry.epoch)).then_some(guard)
    }

    /// Notes that it is in use.
    pub(crate) fn touch(&self, second: u64) {
        if self.used.load(Ordering::Relaxed) != second {
            self.used.store(second, Ordering::Relaxed);
        }
    }

    pub(crate) fn last_used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Whatever is held that may be used at all: a hard invalidation hides what came before it.
    pub(crate) fn entry(&self) -> Option<Arc<Entry>> {
        let entry = self.entry.load_full()?;
        let usable_from = self.bounds.usable_from().max(self.source.bounds.usable_from());
        (entry.epoch >= usable_from).then_some(entry)
    }

    /// Whether a value whose fetch began in `epoch` has not been invalidated since.
    pub(crate) fn is_valid(&self, epoch: u64) -> bool {
        epoch >= self.bounds.fresh_from().max(self.source.bounds.fresh_from())
    }

    /// Whether a fetch that began in `epoch` may bring an older version than one known since
    /// `known`: only if a roll-back was asked for in between.
    pub(crate) fn may_be_older(&self, known: u64, epoch: u64) -> bool {
        let allowed = self.bounds.older_allowed_from().max(self.source.bounds.older_allowed_from());
        known < allowed && allowed <= epoch
    }

    /// Puts an entry in place and shows it to those who follow. The caller holds the state's
    /// lock, which is what puts installs in an order. Returns whether it is the first.
    pub(crate) fn install(&self, state: &mut CellState, entry: &Arc<Entry>) -> bool {
        // A cell that has left the cache stays without an entry.
        if self.is_dead() {
            return false;
        }
        self.entry.store(Some(Arc::clone(entry)));
        let first = !state.enrolled;
        state.enrolled = true;
        state.followers.retain(|follower| match follower.upgrade() {
            Some(follower) => {
                follower.follow(entry);
                true
            }
            None => false,
        });
        first
    }

    /// Lets go of the value, so that it is wiped with its last user.
    pub(crate) fn wipe(&self) {
        let mut state = self.state();
        // An entry that a fetch brought in after the purge stays.
        if self.entry().is_none() {
            self.entry.store(None);
            state.followers.retain(|follower| match follower.upgrade() {
                Some(follower) => {
                    follower.purge();
                    true
                }
                None => false,
            });
        }
    }

    /// Whether a handle follows this secret.
    pub(crate) fn is_followed(&self) -> bool {
        self.state().followers.iter().any(|follower| follower.strong_count() > 0)
    }

    /// Ends what handles show, once it has outlived even its stale time.
    pub(crate) fn expire_followers(&self, now: Moment) {
        let state = self.state();
        if self.entry().is_some_and(|entry| now >= entry.times.followed_until) {
            state.followers.iter().filter_map(Weak::upgrade).for_each(|follower| follower.purge());
        }
    }

    /// Takes a cell out of service that nobody follows and that is not being fetched; `false` if
    /// it is in use. `with_value` says whether one that holds a value may go.
    pub(crate) fn retire(&self, with_value: bool) -> bool {
        let state = self.state();
        let idle = state.flight.is_none()
            && state.followers.iter().all(|follower| follower.strong_count() == 0)
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
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source.id, self.key)
    }
}
