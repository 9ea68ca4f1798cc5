//! Epochs: how it is told whether a fetch began before or after an invalidation.
//!
//! One counter serves a whole resolver. A fetch notes the counter when it begins; an invalidation
//! raises the counter and then the bound of what it invalidates. A value is fresh only while the
//! epoch that its fetch began in is not below any bound over it, so a fetch that began before an
//! invalidation can never be taken for a fresh one after it, however late it arrives (the lease
//! of "Scaling Memcache at Facebook", NSDI 2013, without the token).

use crate::sync::atomic::{AtomicU64, Ordering};

/// The counter of a resolver.
#[derive(Debug, Default)]
pub(crate) struct Epochs(AtomicU64);

impl Epochs {
    /// The epoch in which a fetch that begins now begins.
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// The epoch that an invalidation opens: every fetch that began before it has a smaller one.
    pub(crate) fn open(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// What has been said about everything below one point (a key, or a whole provider).
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    fresh_from: AtomicU64,
    usable_from: AtomicU64,
    older_allowed_from: AtomicU64,
}

impl Bounds {
    /// Nothing that began before `epoch` is fresh.
    pub(crate) fn invalidate(&self, epoch: u64) {
        self.fresh_from.fetch_max(epoch, Ordering::SeqCst);
    }

    /// Nothing that began before `epoch` may be used at all, not even stale.
    pub(crate) fn purge(&self, epoch: u64) {
        self.invalidate(epoch);
        self.usable_from.fetch_max(epoch, Ordering::SeqCst);
    }

    /// What begins from `epoch` on may replace a newer version.
    pub(crate) fn allow_older(&self, epoch: u64) {
        self.older_allowed_from.fetch_max(epoch, Ordering::SeqCst);
    }

    pub(crate) fn fresh_from(&self) -> u64 {
        self.fresh_from.load(Ordering::SeqCst)
    }

    pub(crate) fn usable_from(&self) -> u64 {
        self.usable_from.load(Ordering::SeqCst)
    }

    pub(crate) fn older_allowed_from(&self) -> u64 {
        self.older_allowed_from.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_that_began_before_an_invalidation_is_below_its_bound() {
        let (epochs, bounds) = (Epochs::default(), Bounds::default());
        let before = epochs.now();
        bounds.invalidate(epochs.open());
        assert!(before < bounds.fresh_from());
        assert!(epochs.now() >= bounds.fresh_from());
        assert!(before >= bounds.usable_from(), "a soft invalidation leaves it usable");
        bounds.purge(epochs.open());
        assert!(before < bounds.usable_from());
    }
}
