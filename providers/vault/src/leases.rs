//! Credentials that are ours for a time: taken when they are asked for, renewed while they are in
//! use, replaced before they end, kept for a while for those who still use the old one, and given
//! back in the end.

mod calls;
mod keeper;
mod lease;
mod term;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt, StreamExt, stream};
use oneiric_core::{
    Change, ChangeStream, Error, ErrorKind, FetchRequest, Fetched, Result, SecretKey, Stamp,
};
use tokio::sync::broadcast;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::api::Api;
use crate::error::{about, late};
use calls::{Issued, Word, say_left};
use lease::{Fixed, Lease, Stage};
use term::pause;

/// How many changes a slow listener may be behind before it is told to look at everything.
const CHANGES: usize = 256;
/// A static role that is to be changed this soon is read again after it.
const NEAR: Duration = Duration::from_secs(1);
/// How often it is, before what there is has to do.
const NEAR_READS: u32 = 2;

/// The leases of one engine.
pub(crate) struct Leases {
    api: Arc<Api>,
    /// How long a lease that has a successor is kept.
    overlap: Duration,
    changes: broadcast::Sender<Change>,
    /// Whether we were ever told of a lease that we looked up.
    may_look: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: HashMap<SecretKey, Slot>,
    /// What keeps the leases; it ends with us.
    keepers: JoinSet<()>,
    released: bool,
    /// How many leases that nobody wanted could not be revoked.
    unwanted: usize,
}

/// What there is of one key.
#[derive(Default)]
struct Slot {
    held: Option<Held>,
    /// Those that have a successor and are still alive.
    old: Vec<Arc<Lease>>,
    /// Whoever needs a new one while it is being taken waits for that one.
    flight: Option<Flight>,
    follower: Option<AbortHandle>,
}

/// What a read is answered with.
#[derive(Debug, Clone)]
enum Held {
    Lease(Arc<Lease>),
    Fixed(Arc<Fixed>),
}

type Flight = Shared<BoxFuture<'static, Result<Held>>>;

/// What a wish for a credential comes to at first.
enum Boarded {
    Held(Held),
    Flight {
        flight: Flight,
        /// Whether somebody else has begun it.
        joined: bool,
    },
}

impl Held {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lease(one), Self::Lease(other)) => Arc::ptr_eq(one, other),
            (Self::Fixed(one), Self::Fixed(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Whether it can be given without asking the server for another one.
    fn serves(&self) -> bool {
        match self {
            Self::Lease(lease) => lease.serves(),
            // Reading it takes nothing.
            Self::Fixed(_) => false,
        }
    }

    fn give(&self, known: Option<&Stamp>) -> Option<Fetched> {
        match self {
            Self::Lease(lease) => lease.give(known),
            Self::Fixed(fixed) => fixed.give(known),
        }
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.state();
        let held: Vec<_> = slots.slots.values().filter_map(|slot| slot.held.as_ref()).collect();
        f.debug_struct("Leases")
            .field("api", &self.api)
            .field("held", &held)
            .finish_non_exhaustive()
    }
}

impl Leases {
    pub(crate) fn new(api: Arc<Api>, overlap: Duration) -> Arc<Self> {
        let (changes, state) = (broadcast::Sender::new(CHANGES), Mutex::default());
        let may_look = AtomicBool::new(false);
        Arc::new(Self { api, overlap, changes, may_look, state })
    }

    /// The current credential. A lease that was given before is looked up first, since whoever
    /// asks wants to know whether it is still good; one that has never been given is a new one.
    pub(crate) async fn fetch(self: &Arc<Self>, request: &FetchRequest) -> Result<Fetched> {
        let FetchRequest { key, version, if_none_match, deadline, .. } = request;
        let what = self.api.name(key);
        if version.is_some() {
            let message = format!("`{what}` cannot be pinned: a lease is had once");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(late(&what));
        }
        let held = match self.held(key) {
            Some(held) if !self.is_good(&held, *deadline).await? => {
                self.take(key, Some(&held), *deadline).await?
            }
            Some(held) => held,
            None => self.take(key, None, *deadline).await?,
        };
        held.give(if_none_match.as_ref())
            .ok_or_else(|| Error::new(ErrorKind::NotModified, format!("`{what}` has not changed")))
    }

    /// Whether what is held is good, by the server's word.
    async fn is_good(&self, held: &Held, deadline: Option<Instant>) -> Result<bool> {
        let Held::Lease(lease) = held else { return Ok(false) };
        if !lease.serves() {
            return Ok(false);
        }
        if !lease.state().given {
            return Ok(true);
        }
        match self.ask(lease, deadline).await {
            // Who was never allowed to look believes that it is, as long as it can be renewed. A
            // denial of what was allowed before is access that was taken away.
            Err(error)
                if error.kind() == ErrorKind::Denied && !self.may_look.load(Ordering::Relaxed) => {}
            word => _ = word?,
        }
        Ok(lease.serves())
    }

    async fn ask(&self, lease: &Lease, deadline: Option<Instant>) -> Result<Word> {
        let what = self.api.name(&lease.key);
        let word = self.api.look_up(&lease.id, &what, deadline).await?;
        self.may_look.store(true, Ordering::Relaxed);
        if word == Word::Gone {
            Self::lost(lease);
        }
        Ok(word)
    }

    /// Notes that the server knows a lease no more.
    fn lost(lease: &Lease) {
        let (key, version) = (&lease.key, lease.version());
        tracing::warn!(%key, %version, "the server knows a lease of ours no more");
        lease.lose();
    }

    /// Whether the lease that is held is still there. It takes none.
    pub(crate) async fn stamp(&self, key: &SecretKey) -> Result<Stamp> {
        match self.held(key) {
            None => {
                let message = format!("no lease of `{}` is held", self.api.name(key));
                Err(Error::new(ErrorKind::NotFound, message))
            }
            Some(Held::Fixed(fixed)) => {
                Ok(self.api.rotated(key).await?.map_or_else(|| fixed.stamp(), Stamp::from))
            }
            Some(Held::Lease(lease)) => match self.ask(&lease, None).await? {
                Word::Lives => Ok(lease.stamp()),
                Word::Gone => Ok(format!("{}, gone", lease.version()).into()),
            },
        }
    }

    /// A new subscription to what becomes of the leases.
    pub(crate) fn changes(&self) -> ChangeStream {
        let listener = self.changes.subscribe();
        let told = stream::unfold(listener, |mut listener| async move {
            match listener.recv().await {
                Ok(change) => Some((change, listener)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Change::Anything, listener)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        told.boxed()
    }

    /// Whether somebody listens, who will read what is new.
    fn is_watched(&self) -> bool {
        self.changes.receiver_count() > 0
    }

    fn held(&self, key: &SecretKey) -> Option<Held> {
        self.state().slots.get(key)?.held.clone()
    }

    /// What takes the place of `refused`, or of nothing. Taking it belongs to a task of its own, so
    /// that no lease is lost with whoever gives up waiting.
    async fn take(
        self: &Arc<Self>,
        key: &SecretKey,
        refused: Option<&Held>,
        deadline: Option<Instant>,
    ) -> Result<Held> {
        let mut joined_before = false;
        loop {
            let (flight, joined) = match self.board(key, refused)? {
                Boarded::Held(held) => return Ok(held),
                Boarded::Flight { flight, joined } => (flight, joined),
            };
            let landed = match deadline {
                None => flight.await,
                Some(deadline) => {
                    let late = |_| late(&self.api.name(key));
                    timeout_at(deadline, flight).await.map_err(late)?
                }
            };
            match landed {
                // It may have begun when the store was away, and we came when it was back.
                Err(error) if joined && !joined_before && error.kind().may_serve_stale() => {
                    joined_before = true;
                }
                landed => return landed,
            }
        }
    }

    /// What is there by now, or the flight that brings it.
    fn board(self: &Arc<Self>, key: &SecretKey, refused: Option<&Held>) -> Result<Boarded> {
        let mut state = self.state();
        if state.released {
            let message = format!("`{}` was given back, as all leases were", self.api.name(key));
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        let slot = state.slots.entry(key.clone()).or_default();
        if let Some(held) = &slot.held
            && held.serves()
            && refused.is_none_or(|refused| !refused.is(held))
        {
            return Ok(Boarded::Held(held.clone()));
        }
        if let Some(flight) = slot.flight.as_ref().filter(|flight| flight.peek().is_none()) {
            return Ok(Boarded::Flight { flight: flight.clone(), joined: true });
        }
        let flight = depart(Arc::downgrade(self), Arc::clone(&self.api), key.clone());
        slot.flight = Some(flight.clone());
        Ok(Boarded::Flight { flight, joined: false })
    }

    /// Puts a new credential in place. `None` if nobody wants any more.
    fn install(self: &Arc<Self>, key: &SecretKey, new: Held) -> Option<Held> {
        let mut state = self.state();
        let State { slots, keepers, released, .. } = &mut *state;
        if *released {
            return None;
        }
        while keepers.try_join_next().is_some() {}
        let slot = slots.entry(key.clone()).or_default();
        slot.flight = None;
        let news = match (&slot.held, &new) {
            (Some(Held::Fixed(old)), Held::Fixed(new)) if old.rotated == new.rotated => {
                return slot.held.clone();
            }
            (old, _) => old.is_some(),
        };
        let keeper = match &new {
            Held::Lease(lease) => {
                keepers.spawn(keeper::keep(Arc::downgrade(self), Arc::clone(lease)))
            }
            Held::Fixed(fixed) => {
                let (leases, fixed) = (Arc::downgrade(self), Arc::clone(fixed));
                keepers.spawn(keeper::follow(leases, key.clone(), fixed))
            }
        };
        // A lease's keeper sees it through; that of a static role is done with its last credential.
        let follower = matches!(new, Held::Fixed(_)).then_some(keeper);
        if let Some(done) = std::mem::replace(&mut slot.follower, follower) {
            done.abort();
        }
        let version = match &new {
            Held::Lease(lease) => lease.version(),
            Held::Fixed(fixed) => fixed.version(),
        };
        if let Some(Held::Lease(old)) = slot.held.replace(new.clone()) {
            let ended = old.has_ended();
            let until = Instant::now() + self.overlap;
            let stage = if ended { Stage::Released } else { Stage::Superseded { until } };
            old.state().stage = stage;
            old.wake.notify_one();
            if !ended {
                slot.old.push(old);
            }
        }
        drop(state);
        tracing::debug!(%key, %version, "a credential was leased");
        if news {
            let change = Change::Secret { key: key.clone(), version: Some(version) };
            // Nobody listening is fine.
            let _ = self.changes.send(change);
        }
        Some(new)
    }

    /// Notes that no credential could be had.
    fn fail(&self, key: &SecretKey) {
        self.change(key, |slot| slot.flight = None);
    }

    /// Lets go of a lease that has ended.
    fn forget(&self, lease: &Arc<Lease>) {
        self.change(&lease.key, |slot| {
            slot.old.retain(|old| !Arc::ptr_eq(old, lease));
            if matches!(&slot.held, Some(Held::Lease(held)) if Arc::ptr_eq(held, lease)) {
                slot.held = None;
            }
        });
    }

    /// Changes what there is of a key, and forgets it if that is nothing.
    fn change(&self, key: &SecretKey, change: impl FnOnce(&mut Slot)) {
        let mut state = self.state();
        let Some(slot) = state.slots.get_mut(key) else { return };
        change(slot);
        if slot.held.is_none() && slot.old.is_empty() && slot.flight.is_none() {
            state.slots.remove(key);
        }
    }

    /// Revokes every lease, and takes no more. Returns whether none is left.
    pub(crate) async fn release(&self, deadline: Instant) -> bool {
        let (slots, mut keepers) = {
            let mut state = self.state();
            state.released = true;
            (std::mem::take(&mut state.slots), std::mem::take(&mut state.keepers))
        };
        keepers.abort_all();
        let (mut leases, mut flights) = (Vec::new(), Vec::new());
        for slot in slots.into_values() {
            leases.extend(slot.old);
            if let Some(Held::Lease(lease)) = slot.held {
                leases.push(lease);
            }
            flights.extend(slot.flight);
        }
        leases.retain(|lease| !lease.has_ended());
        for lease in &leases {
            lease.state().stage = Stage::Released;
        }
        let number = leases.len();
        // What is just being taken is revoked by whoever takes it.
        let landed = timeout_at(deadline, futures_util::future::join_all(flights));
        let (landed, failed) = tokio::join!(landed, self.revoke_all(leases, deadline));
        let left = self.give_up_tokens(failed, deadline).await;
        left.iter().for_each(|(_, error)| say_left(error));
        tracing::info!(leases = number, failed = left.len(), "leases were given back");
        let unwanted = self.state().unwanted;
        left.is_empty() && landed.is_ok() && unwanted == 0
    }

    /// A token that is ours alone can be ended where its leases may not be, and takes them along.
    /// Answers with the leases that are left.
    async fn give_up_tokens(
        &self,
        mut failed: Vec<(Arc<Lease>, Error)>,
        deadline: Instant,
    ) -> Vec<(Arc<Lease>, Error)> {
        if !self.api.session.logs_in() {
            return failed;
        }
        // Not all need be by the token of today.
        let denied = failed.iter().filter(|(_, error)| error.kind() == ErrorKind::Denied);
        let tokens: HashMap<_, _> =
            denied.map(|(lease, _)| (lease.token.generation, lease.token.clone())).collect();
        for (generation, token) in tokens {
            let given_up = timeout_at(deadline, self.api.give_up(&token, deadline)).await;
            if let Ok(Ok(())) = given_up {
                failed.retain(|(lease, _)| lease.token.generation != generation);
            }
        }
        failed
    }

    /// Revokes these leases, and tries again until the deadline where that fails and nothing is
    /// denied. Answers with those that are left.
    async fn revoke_all(
        &self,
        mut leases: Vec<Arc<Lease>>,
        deadline: Instant,
    ) -> Vec<(Arc<Lease>, Error)> {
        let at_once = usize::try_from(self.api.config.concurrency.get()).unwrap_or(usize::MAX);
        let time = deadline.saturating_duration_since(Instant::now());
        let mut denied = Vec::new();
        let mut rounds = 0;
        loop {
            // All have their turn before one has its second: they may be of several databases.
            let each = leases.into_iter().map(|lease| async move {
                let revoked = self.api.revoke(&lease.id, Some(deadline));
                let late = |_| Err(late("a lease of ours"));
                let revoked = timeout_at(deadline, revoked).await.unwrap_or_else(late);
                revoked.err().map(|error| (lease, error))
            });
            let answers = stream::iter(each).buffer_unordered(at_once);
            let failed: Vec<_> = answers.filter_map(std::future::ready).collect().await;
            let (refused, failed): (Vec<_>, Vec<_>) =
                failed.into_iter().partition(|(_, error)| error.kind() == ErrorKind::Denied);
            denied.extend(refused);
            let again = Instant::now() + pause(rounds, time, fastrand::f64());
            if failed.is_empty() || again >= deadline {
                denied.extend(failed);
                return denied;
            }
            rounds += 1;
            sleep_until(again).await;
            leases = failed.into_iter().map(|(lease, _)| lease).collect();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a credential in a task of its own.
fn depart(leases: Weak<Leases>, api: Arc<Api>, key: SecretKey) -> Flight {
    let task = tokio::spawn(async move {
        let issued = issue(&api, &key).await;
        let leases = leases.upgrade();
        let unwanted = match (issued, &leases) {
            (Ok(held), Some(leases)) => match leases.install(&key, held.clone()) {
                Some(held) => return Ok(held),
                None => Unwanted::of(&held, about(ErrorKind::Unavailable, &api.name(&key))),
            },
            (Ok(held), None) => Unwanted::of(&held, about(ErrorKind::Unavailable, &api.name(&key))),
            (Err(unwanted), _) => unwanted,
        };
        let left = match unwanted.lease {
            Some(id) => api.revoke(&id, None).await.inspect_err(say_left).is_err(),
            None => false,
        };
        if let Some(leases) = leases {
            leases.state().unwanted += usize::from(left);
            leases.fail(&key);
        }
        Err(unwanted.why)
    });
    let landed = task.map(|landed| {
        landed.unwrap_or_else(|_| Err(Error::new(ErrorKind::Bug, "a lease ended in a panic")))
    });
    landed.boxed().shared()
}

/// Why there is no credential, and the lease that there is all the same.
struct Unwanted {
    lease: Option<String>,
    why: Error,
}

impl Unwanted {
    fn of(held: &Held, why: Error) -> Self {
        let lease = match held {
            Held::Lease(lease) => Some(lease.id.clone()),
            Held::Fixed(_) => None,
        };
        Self { lease, why }
    }
}

impl From<Error> for Unwanted {
    fn from(why: Error) -> Self {
        Self { lease: None, why }
    }
}

async fn issue(api: &Api, key: &SecretKey) -> std::result::Result<Held, Unwanted> {
    let mut reads = 0;
    loop {
        let asked = Instant::now();
        match api.issue(key).await? {
            Issued::Lease { id, value, token, term } => {
                return Ok(Held::Lease(Lease::new(key.clone(), id, value, token, term)));
            }
            Issued::Useless { id, why } => return Err(Unwanted { lease: Some(id), why }),
            Issued::Fixed { left, .. } if left <= NEAR && reads < NEAR_READS => {
                reads += 1;
                sleep(left + NEAR).await;
            }
            Issued::Fixed { value, rotated, left } => {
                let boundary = asked + left;
                return Ok(Held::Fixed(Arc::new(Fixed { value, rotated, boundary })));
            }
        }
    }
}
