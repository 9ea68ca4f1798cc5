//! The reference model: what the promises say of time, failure and invalidation, and nothing of
//! how it is done. No locks, no tasks: one step after the other, each with all of its effects.

use oneiric_core::ErrorKind;
use oneiric_secrets::Mode;

pub(crate) const TTL: u64 = 600;
pub(crate) const STALE_IF_ERROR: u64 = 3600;
pub(crate) const NEGATIVE_TTL: u64 = 250;
/// From this age on a read refreshes; the exact moment is jittered to somewhat before it.
const REFRESH: u64 = 500;

/// How long after it was due again a store that failed is taken for failing.
const RECENT: u64 = 60;

/// What a read gives: a version that is fresh, one that is marked as stale, or an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Fresh(u64),
    Stale(u64),
    Error(ErrorKind),
}

/// What the store answers for a secret.
pub(crate) type Reply = Result<Stored, ErrorKind>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) version: u64,
    pub(crate) placeholder: bool,
}

/// One secret of the cache. Its handle, if it has one, shows a version or nothing.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) handle: Option<Option<u64>>,
    held: Option<Held>,
    failing: Option<Failing>,
    /// How many invalidations there had been at the last one of this, and at the last roll-back.
    fresh_from: u64,
    older_from: u64,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    version: u64,
    fetched: u64,
    epoch: u64,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    kind: ErrorKind,
    until: u64,
    epoch: u64,
}

/// When a thing happens: the time, and how many invalidations there have been.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Now {
    pub(crate) time: u64,
    pub(crate) epoch: u64,
}

impl Model {
    pub(crate) fn invalidate(&mut self, mode: Mode, epoch: u64) {
        self.fresh_from = epoch;
        match mode {
            Mode::Soft => {}
            Mode::Rollback => self.older_from = epoch,
            Mode::Hard => {
                self.held = None;
                self.handle = self.handle.map(|_| None);
            }
        }
    }

    /// What is given without waiting for the store, if anything is.
    pub(crate) fn at_once(&self, now: Now) -> Option<Answer> {
        if let Some(held) = self.held
            && held.epoch >= self.fresh_from
            && now.time < held.fetched + TTL
        {
            return Some(Answer::Fresh(held.version));
        }
        let Some(failing) = self.left_alone(now) else { return self.at_once_while_tried(now) };
        let believed = matches!(
            failing.kind,
            ErrorKind::NotFound | ErrorKind::Throttled { retry_after: Some(_) }
        );
        let answer = self.instead(failing.kind, now);
        (believed || matches!(answer, Answer::Stale(_))).then_some(answer)
    }

    /// A store that failed a moment ago is tried again behind the backs of those who have a value.
    fn at_once_while_tried(&self, now: Now) -> Option<Answer> {
        let recent = |of: &Failing| now.time < of.until + RECENT && of.epoch >= self.fresh_from;
        let failing = self.failing.filter(recent)?;
        self.held.filter(|held| held.epoch >= self.fresh_from)?;
        let answer = self.instead(failing.kind, now);
        matches!(answer, Answer::Stale(_)).then_some(answer)
    }

    /// Whether a read, or the keeper of handles, asks the store.
    pub(crate) fn is_due(&self, now: Now) -> bool {
        let aged = |held: Held| held.epoch < self.fresh_from || now.time >= held.fetched + REFRESH;
        self.held.is_none_or(aged) && self.left_alone(now).is_none()
    }

    /// The store's reply to a fetch that began in `now.epoch` comes in; what a waiter gets.
    pub(crate) fn land(&mut self, reply: Reply, now: Now) -> Answer {
        let stored = match reply {
            Ok(stored) => stored,
            Err(kind) => return self.fail(kind, now),
        };
        if self.lags(stored, now) {
            // The store is asked again until there is no more time.
            return self.fail(ErrorKind::DeadlineExceeded, now);
        }
        if stored.placeholder {
            return self.fail(ErrorKind::Invalid, now);
        }
        self.held = Some(Held { version: stored.version, fetched: now.time, epoch: now.epoch });
        self.failing = None;
        self.handle = self.handle.map(|_| Some(stored.version));
        Answer::Fresh(stored.version)
    }

    /// Whether this is older than what is held, and no roll-back was asked for in between.
    pub(crate) fn lags(&self, stored: Stored, now: Now) -> bool {
        self.held.is_some_and(|held| {
            let asked_for = held.epoch < self.older_from && self.older_from <= now.epoch;
            stored.version < held.version && !asked_for
        })
    }

    fn fail(&mut self, kind: ErrorKind, now: Now) -> Answer {
        let pause = match kind {
            ErrorKind::NotFound => NEGATIVE_TTL,
            ErrorKind::Throttled { retry_after: Some(wait) } => wait.as_secs(),
            // A back-off that is over before the clock moves the next time.
            _ => 1,
        };
        self.failing = Some(Failing { kind, until: now.time + pause, epoch: now.epoch });
        self.instead(kind, now)
    }

    /// What is given when the store gave this failure.
    fn instead(&self, kind: ErrorKind, now: Now) -> Answer {
        let unanswered = matches!(
            kind,
            ErrorKind::Unavailable
                | ErrorKind::DeadlineExceeded
                | ErrorKind::Throttled { .. }
                | ErrorKind::Invalid
        );
        match self.held {
            Some(held) if unanswered && !self.is_spent(now) => Answer::Stale(held.version),
            _ => Answer::Error(kind),
        }
    }

    /// Whether what is held has outlived even its stale time. (It is jittered too; no step of
    /// time ends within the jitter.)
    pub(crate) fn is_spent(&self, now: Now) -> bool {
        self.held.is_some_and(|held| now.time >= held.fetched + TTL + STALE_IF_ERROR)
    }

    /// A new handle shows what is held.
    pub(crate) fn follow(&mut self) {
        self.handle = Some(self.held.map(|held| held.version));
    }

    /// Whether what is held, if served now, is from before an invalidation that `other` is after.
    pub(crate) fn is_torn_from(&self, other: &Self) -> bool {
        let epoch = |of: &Self| of.held.map_or(u64::MAX, |held| held.epoch);
        epoch(self) < self.fresh_from && epoch(other) >= self.fresh_from
    }

    fn left_alone(&self, now: Now) -> Option<Failing> {
        self.failing.filter(|of| now.time < of.until && of.epoch >= self.fresh_from)
    }
}
