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

/// The first epoch of which something holds: what began before it is out of bounds.
#[derive(Debug, Default)]
pub(crate) struct Bound(AtomicU64);

impl Bound {
    /// From `epoch` on, or from later if that has been said already.
    pub(crate) fn raise(&self, epoch: u64) {
        self.0.fetch_max(epoch, Ordering::SeqCst);
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What has been said about everything of one provider.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    /// Nothing that began before is fresh.
    pub(crate) fresh: Bound,
    /// Nothing that began before may be used at all, not even stale.
    pub(crate) usable: Bound,
    /// What began before must not replace a newer version; what begins from here on may.
    pub(crate) older_allowed: Bound,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fetch_that_began_before_an_invalidation_is_below_its_bound() {
        let (epochs, fresh) = (Epochs::default(), Bound::default());
        let before = epochs.now();
        assert!(before >= fresh.epoch(), "nothing has been said yet");
        let opened = epochs.open();
        fresh.raise(opened);
        assert!(before < fresh.epoch());
        assert!(epochs.now() >= fresh.epoch());
        fresh.raise(opened - 1);
        assert_eq!(fresh.epoch(), opened, "it is never lowered");
    }
}
