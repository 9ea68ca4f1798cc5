//! The keeper: the one background task of a resolver, which keeps what handles follow fresh.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use oneiric_core::{ErrorKind, ProviderId};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::cell::{Cell, CellState};
use crate::entry::Entry;
use crate::handle::Following;
use crate::shared::Shared;
use crate::sync::{Mutex, PoisonError};

/// How often what handles follow is looked at.
const KEEPER_INTERVAL: Duration = Duration::from_secs(1);
/// How long after an invalidation it leaves the reading to whoever invalidated.
const KEEPER_COURTESY: Duration = Duration::from_millis(5);
/// What the background task that keeps handles fresh works on.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    followed: Mutex<Vec<Weak<Cell>>>,
    /// The handles of aliases, which have others to turn to.
    standing_by: Mutex<Vec<Weak<Following>>>,
    started: OnceLock<()>,
    pub(crate) wake: Arc<Notify>,
}

impl Shared {
    /// Starts the one task that keeps what handles follow fresh. It ends with the resolver.
    pub(crate) fn start_keeper(self: &Arc<Self>) {
        self.keeper.started.get_or_init(|| {
            let shared = Arc::downgrade(self);
            let (stop, wake) = (self.stop.clone(), Arc::clone(&self.keeper.wake));
            self.tasks.spawn(async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        // Whoever invalidated will mostly read by itself, within its own trace.
                        () = wake.notified() => sleep(KEEPER_COURTESY).await,
                        () = sleep(KEEPER_INTERVAL) => {}
                    }
                    let Some(shared) = shared.upgrade() else { return };
                    shared.keep();
                }
            });
        });
    }

    /// Refreshes what is followed and due, and ends what has outlived even its stale time.
    fn keep(self: &Arc<Self>) {
        let now = self.options.clock.now();
        let mut due: BTreeMap<ProviderId, Vec<Arc<Cell>>> = BTreeMap::new();
        let mut oldest: BTreeMap<ProviderId, Duration> = BTreeMap::new();
        for cell in self.keeper.cells() {
            let entry = cell.entry();
            if let Some(entry) = &entry {
                let age = oldest.entry(cell.source.id.clone()).or_default();
                *age = now.since(entry.times.fetched).max(*age);
            }
            let refresh =
                entry.as_ref().is_none_or(|e| !cell.is_valid(e.epoch) || now >= e.times.refresh);
            if refresh && !self.is_left_alone(&cell) && !self.was_absent_lately(&cell) {
                due.entry(cell.source.id.clone()).or_default().push(Arc::clone(&cell));
            }
            self.expire(&cell);
        }
        for following in self.keeper.standing_by() {
            self.keep_fallback(&following, &mut due);
        }
        for (provider, age) in &oldest {
            self.tally.age(provider, *age);
        }
        for cells in due.values() {
            self.board(cells);
        }
    }

    /// Has a handle that shows nothing show the default of its alias, once everybody has said that the
    /// secret is not there.
    fn keep_default(&self, following: &Following) {
        let (follower, _) = &following.parts()[0];
        let Some(way) = following.way.as_ref().filter(|_| !follower.shown.is_there()) else {
            return;
        };
        let absent_since = |cell: &Arc<Cell>| {
            let failing = |state: &CellState| Some(state.failing.as_ref()?.epoch);
            let epoch = cell.peek(failing).flatten()?;
            (self.is_absent(cell) && cell.is_valid(epoch)).then_some(epoch)
        };
        let since: Option<Vec<u64>> =
            following.parts().iter().map(|(_, cell)| absent_since(cell)).collect();
        if let Some(epoch) = since.and_then(|since| since.into_iter().min())
            && let Some(entry) = self.default_of(way, None, epoch)
            && let Err(error) = follower.shown.show_default(&entry, true)
        {
            tracing::warn!(target: "oneiric", %error, "a default is not what a handle wants");
        }
    }

    /// Whether there is nothing, and the store has said so.
    pub(crate) fn is_absent(&self, cell: &Cell) -> bool {
        let is_missing = cell.peek(|state| {
            let failing = state.failing.as_ref();
            failing.is_some_and(|failing| failing.error.kind() == ErrorKind::NotFound)
        });
        is_missing.unwrap_or(false) && cell.entry().is_none()
    }

    /// Whether the store has said so since the last invalidation and within the time for which a
    /// value would be fresh: nobody waits for it, so it is not asked for more often than what is
    /// there.
    fn was_absent_lately(&self, cell: &Cell) -> bool {
        let ttl = self.options.ttl;
        let until = cell.peek(|state| {
            let failing = state.failing.as_ref().filter(|failing| cell.is_valid(failing.epoch))?;
            Some(failing.until.after(ttl))
        });
        let now = self.options.clock.now();
        self.is_absent(cell) && until.flatten().is_some_and(|until| now < until)
    }

    /// Ends what handles show of a secret that has outlived its stale time, or itself.
    fn expire(&self, cell: &Cell) {
        let now = self.options.clock.now();
        let is_over = |entry: &Entry| {
            now >= self.options.followed_until(&entry.times) || entry.has_ended(now)
        };
        if cell.entry().is_some_and(|entry| is_over(&entry)) {
            cell.expire_followers(is_over);
        }
    }

    /// Has a handle of an alias shown what somebody else has, while nobody before them can answer.
    fn keep_fallback(&self, following: &Following, due: &mut BTreeMap<ProviderId, Vec<Arc<Cell>>>) {
        let parts = following.parts();
        parts[1..].iter().for_each(|(_, cell)| self.expire(cell));
        let out = parts.iter().take_while(|(_, cell)| self.is_out(cell).is_some()).count();
        // Where nobody can answer, the last is tried like any other.
        let at = out.min(parts.len() - 1);
        if at == 0 {
            let (_, first) = &parts[0];
            if let Some(way) = &following.way
                && first.entry().is_some_and(|entry| self.is_fresh(first, &entry))
            {
                self.note_return(way);
            }
            self.keep_default(following);
            return;
        }
        let (follower, cell) = &parts[at];
        let fresh = cell.entry().filter(|entry| self.is_fresh(cell, entry));
        if let Some(entry) = &fresh {
            follower.follow(entry);
        }
        let now = self.options.clock.now();
        let is_due = fresh.is_none_or(|entry| now >= entry.times.refresh);
        if is_due && !self.is_left_alone(cell) {
            due.entry(cell.source.id.clone()).or_default().push(Arc::clone(cell));
        }
    }
}

impl Keeper {
    /// Looks after a handle of an alias from now on.
    pub(crate) fn stand_by(&self, following: &Arc<Following>) {
        let mut known = self.standing_by.lock().unwrap_or_else(PoisonError::into_inner);
        known.push(Arc::downgrade(following));
    }

    /// Those that are still there; the others are forgotten.
    fn standing_by(&self) -> Vec<Arc<Following>> {
        let mut known = self.standing_by.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|following| following.strong_count() > 0);
        known.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn follow(&self, cell: &Arc<Cell>) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = followed.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(cell)));
        if !known {
            followed.push(Arc::downgrade(cell));
        }
    }

    /// The cells that somebody follows; the others are forgotten.
    pub(crate) fn cells(&self) -> Vec<Arc<Cell>> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cells = Vec::with_capacity(followed.len());
        followed.retain(|cell| match cell.upgrade() {
            Some(cell) if cell.is_kept() => {
                cells.push(cell);
                true
            }
            _ => false,
        });
        cells
    }
}
