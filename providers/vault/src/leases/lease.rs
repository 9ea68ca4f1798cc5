//! One lease that we hold, and the credential of a static role.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use oneiric_core::{Fetched, SecretKey, SecretValue, Stamp, Version};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::term::Term;
use crate::session::{Life, Token};

/// A credential that is ours for a time.
pub(super) struct Lease {
    pub(super) key: SecretKey,
    /// The server's name for it. Who may, can end it by this; it opens nothing.
    pub(super) id: String,
    value: SecretValue,
    /// The token by which it was taken. When that ends, so does the lease.
    pub(super) token: Token,
    state: Mutex<State>,
    /// Told when there is something new for its keeper.
    pub(super) wake: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) term: Term,
    pub(super) stage: Stage,
    /// Whether somebody has been given it.
    pub(super) given: bool,
    /// The end that was told with it.
    told: Option<Instant>,
}

/// Where a lease is in its life.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stage {
    /// It is what a read answers with.
    Current,
    /// It is to be replaced.
    Due,
    /// It has been, and lives for those who still use it.
    Superseded { until: Instant },
    /// We may not revoke it, so it is left to end by itself, or with its token.
    Left,
    /// It was given back, or is to be.
    Released,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("key", &self.key)
            .field("version", &self.version())
            .field("state", &*self.state())
            .finish_non_exhaustive()
    }
}

impl Lease {
    pub(super) fn new(
        key: SecretKey,
        id: String,
        value: SecretValue,
        token: Token,
        term: Term,
    ) -> Arc<Self> {
        let state = State { term, stage: Stage::Current, given: false, told: None };
        Arc::new(Self { key, id, value, token, state: Mutex::new(state), wake: Notify::new() })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last part of its id, by which an operator finds it under the key's path.
    pub(super) fn version(&self) -> Version {
        Version::opaque(self.id.rsplit('/').next().unwrap_or(&self.id))
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.version().id().as_ref().into()
    }

    /// When it ends, by all that is known.
    pub(super) fn ends(&self) -> Instant {
        let token_ends = match self.token.life() {
            Life::Limited { since, ttl, .. } => Some(since + ttl),
            Life::Unknown | Life::Endless => None,
        };
        self.state().term.ends(token_ends)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ends() <= Instant::now()
    }

    /// Whether a read may be answered with it.
    pub(super) fn serves(&self) -> bool {
        let current = self.state().stage == Stage::Current;
        current && !self.has_ended()
    }

    /// Notes that the server does not know it any more.
    pub(super) fn lose(&self) {
        {
            let mut state = self.state();
            state.term.end(Instant::now());
            if state.stage == Stage::Current {
                state.stage = Stage::Due;
            }
        }
        self.wake.notify_one();
    }

    /// The answer to a read, or `None` if whoever asks knows it, and its end, already.
    pub(super) fn give(&self, known: Option<&Stamp>) -> Option<Fetched> {
        let (ends, stamp) = (self.ends(), self.stamp());
        let mut state = self.state();
        state.given = true;
        if known == Some(&stamp) && state.told == Some(ends) {
            return None;
        }
        state.told = Some(ends);
        let mut fetched = Fetched::new(self.value.clone(), self.version());
        fetched.stamp = Some(stamp);
        let left = ends.saturating_duration_since(Instant::now());
        fetched.expires_at = Some(SystemTime::now() + left);
        Some(fetched)
    }
}

/// The credential of a static role. It is nobody's lease: the server changes it in place.
#[derive(Debug)]
pub(super) struct Fixed {
    pub(super) value: SecretValue,
    /// When the server changed it last, in its words.
    pub(super) rotated: String,
    /// When it will be changed.
    pub(super) boundary: Instant,
}

impl Fixed {
    pub(super) fn version(&self) -> Version {
        Version::opaque(self.rotated.as_str())
    }

    pub(super) fn stamp(&self) -> Stamp {
        self.rotated.as_str().into()
    }

    pub(super) fn give(&self, known: Option<&Stamp>) -> Option<Fetched> {
        let stamp = self.stamp();
        (known != Some(&stamp)).then(|| {
            let mut fetched = Fetched::new(self.value.clone(), self.version());
            fetched.stamp = Some(stamp);
            fetched
        })
    }
}
