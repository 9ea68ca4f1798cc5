//! The refresh watcher: how a change in a store is noticed without being told by a person.
//!
//! Push is for speed and the sweep is for truth: where a store has change events they start a
//! rotation at once, and in intervals, with jitter, the stamps of everything that is cached are
//! compared, so that a lost event costs one interval and is counted. A sweep may take minutes, by
//! the store's quota; events are heard and followed meanwhile.

mod ledger;

use std::collections::BTreeSet;
use std::future::{pending, ready};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::Fuse;
use futures_util::{FutureExt, StreamExt};
use oneiric_core::{
    Change, ChangeStream, ErrorKind, ProviderId, SecretKey, SecretProvider, SecretRef,
};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::manager::Event;
use crate::outlook::{JITTER, Pace, Watching};
use crate::runtime::Runtime;
use crate::tally::Tally;
use ledger::{Held, Holding, Ledger, Look, Told};

/// The longest pause before a lost subscription is taken up again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How many events are taken together at most, so that no stream keeps us from everything else.
const BURST: usize = 4096;

/// What is seen of one provider, for whoever wants to know.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// Whether the subscription to its changes is there.
    pub(crate) live: AtomicBool,
    /// How many changes only the sweep found.
    pub(crate) missed: AtomicU64,
}

/// Watches one provider.
pub(crate) struct SecretRefreshWatcher {
    id: ProviderId,
    provider: Arc<dyn SecretProvider>,
    runtime: Runtime,
    pace: Pace,
    tally: Arc<Tally>,
    sight: Arc<Sight>,
    ledger: Ledger,
    push: Push,
    /// The look at everything that is running, if one is; there is never a second.
    sweep: Looking,
    next_sweep: Instant,
    /// Whether everything is to be looked at as soon as nothing of that kind is running.
    sweep_wanted: bool,
    /// The same two for the secrets that events have named.
    look: Looking,
    look_wanted: BTreeSet<SecretKey>,
    /// Whether something went wrong with the last sweep, so that a long outage is said once.
    failing: bool,
    /// Whether the last sweep saw nothing at all.
    blind: bool,
}

/// A look at the store under way. It belongs to the watcher and ends with it.
type Looking = Option<Pin<Box<dyn Future<Output = Option<Look>> + Send>>>;

/// How it stands with the store's own events.
enum Push {
    /// It has none.
    None,
    Live {
        changes: Fuse<ChangeStream>,
        since: Instant,
        lost_before: u32,
    },
    Lost {
        times: u32,
        again: Instant,
    },
}

/// What wakes the watcher.
enum Wake {
    Stop,
    /// Events, and whether they are the last of the subscription.
    Told(Vec<Change>, bool),
    Subscribe,
    SweepDue,
    RetryDue,
    Swept(Option<Look>),
    Looked(Option<Look>),
}

impl SecretRefreshWatcher {
    pub(crate) fn new(
        id: ProviderId,
        provider: Arc<dyn SecretProvider>,
        runtime: Runtime,
        pace: Pace,
        tally: Arc<Tally>,
        sight: Arc<Sight>,
    ) -> Self {
        Self {
            id,
            provider,
            runtime,
            pace,
            tally,
            sight,
            ledger: Ledger::new(pace.interval),
            push: Push::None,
            sweep: None,
            next_sweep: Instant::now(),
            sweep_wanted: false,
            look: None,
            look_wanted: BTreeSet::new(),
            failing: false,
            blind: false,
        }
    }

    /// Watches until `stop`. No error of the provider ends it, and nothing of it outlives it.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        self.subscribe(0);
        // Also where push is there: what was read before the subscription was is found soon.
        self.next_sweep = Instant::now() + jittered(self.pace.interval);
        loop {
            self.start_looks();
            let wake = self.wake(&stop).await;
            match wake {
                Wake::Stop => break,
                Wake::Told(changes, last) => {
                    self.notice(changes);
                    if last {
                        self.lose_subscription();
                    }
                }
                Wake::Subscribe => {
                    if let Push::Lost { times, .. } = self.push {
                        self.subscribe(times);
                    }
                }
                Wake::SweepDue => {
                    self.next_sweep = Instant::now() + jittered(self.pace.interval);
                    self.start_sweep();
                }
                Wake::RetryDue => {
                    let due = self.ledger.due(&self.held(), Instant::now());
                    self.look_wanted.extend(due);
                }
                Wake::Swept(look) => {
                    self.sweep = None;
                    self.judge(look, true);
                    self.next_sweep = Instant::now() + jittered(self.interval());
                }
                Wake::Looked(look) => {
                    self.look = None;
                    self.judge(look, false);
                }
            }
        }
        self.sight.live.store(false, Ordering::Relaxed);
    }

    async fn wake(&mut self, stop: &CancellationToken) -> Wake {
        let has_stamps = self.has_stamps();
        let (subscribe_at, changes) = match &mut self.push {
            Push::None => (None, None),
            Push::Live { changes, .. } => (None, Some(changes)),
            Push::Lost { again, .. } => (Some(*again), None),
        };
        // One sweep at a time: the next is due when this one is over.
        let sweep_at = self.sweep.is_none().then_some(self.next_sweep);
        let retry_at = self.ledger.next_due().filter(|_| has_stamps);
        tokio::select! {
            () = stop.cancelled() => Wake::Stop,
            (told, last) = burst(changes) => Wake::Told(told, last),
            look = finished(&mut self.sweep) => Wake::Swept(look),
            look = finished(&mut self.look) => Wake::Looked(look),
            () = at(subscribe_at) => Wake::Subscribe,
            () = at(sweep_at) => Wake::SweepDue,
            () = at(retry_at) => Wake::RetryDue,
        }
    }

    /// Takes up a subscription, where the provider has such and its making does not panic. What
    /// happened while there was none is looked for.
    fn subscribe(&mut self, lost_before: u32) {
        if !self.provider.descriptor().capabilities.push {
            return;
        }
        let provider = AssertUnwindSafe(&self.provider);
        match std::panic::catch_unwind(|| provider.changes()).ok().flatten() {
            Some(changes) => {
                let unpanicking = AssertUnwindSafe(changes).catch_unwind();
                let changes = unpanicking.scan((), |(), change| ready(change.ok())).boxed().fuse();
                self.push = Push::Live { changes, since: Instant::now(), lost_before };
                self.sweep_wanted |= lost_before > 0;
                self.sight.live.store(true, Ordering::Relaxed);
            }
            None => self.resubscribe_later(lost_before + 1),
        }
    }

    fn lose_subscription(&mut self) {
        let times = match self.push {
            // One that has held for long was a good one: it is taken up again at once.
            Push::Live { since, lost_before, .. } if since.elapsed() < LONGEST_PAUSE => lost_before,
            _ => 0,
        };
        self.resubscribe_later(times + 1);
        tracing::warn!(
            target: "oneiric",
            provider = %self.id,
            "the change subscription is lost; sweeping until it is back"
        );
    }

    fn resubscribe_later(&mut self, times: u32) {
        let bound = Duration::from_millis(100).saturating_mul(1 << times.min(12));
        let pause = bound.min(LONGEST_PAUSE).mul_f64(0.5 + fastrand::f64() / 2.0);
        self.push = Push::Lost { times, again: Instant::now() + pause };
        self.sight.live.store(false, Ordering::Relaxed);
        // The long interval was for as long as push is there.
        self.next_sweep = self.next_sweep.min(Instant::now() + jittered(self.pace.interval));
    }

    /// How long until the next sweep. A subscription that is young may not have begun to tell yet,
    /// and a sweep that saw nothing backs no push.
    fn interval(&self) -> Duration {
        let live = match &self.push {
            Push::Live { since, .. } => since.elapsed() >= self.pace.interval / 2,
            _ => false,
        };
        self.watching(0, live && !self.blind).interval()
    }

    fn watching(&self, keys: usize, live: bool) -> Watching {
        let of = self.provider.descriptor();
        let (capabilities, detection) = (of.capabilities, of.detection);
        Watching { capabilities, detection, keys, pace: self.pace, live }
    }

    fn has_stamps(&self) -> bool {
        self.provider.descriptor().capabilities.stamps
    }

    /// What the cache holds of this provider.
    fn held(&self) -> Held {
        let cached = self.runtime.resolver().cached(&self.id).into_iter();
        cached.map(|of| (of.key, Holding { version: of.version, stamp: of.stamp })).collect()
    }

    /// Follows up events, each secret once however many speak of it. Only what somebody has asked
    /// for is looked at.
    fn notice(&mut self, changes: Vec<Change>) {
        let now = Instant::now();
        let mut follow = BTreeSet::new();
        // Seldom needed, and not for nothing.
        let mut awaited = None;
        for change in changes {
            let Change::Secret { key, version } = change else {
                self.sweep_wanted = true;
                continue;
            };
            let reference = SecretRef::new(self.id.clone(), key.clone());
            let Some(held) = self.runtime.resolver().held_version(&reference) else {
                let awaited: &Vec<SecretKey> =
                    awaited.get_or_insert_with(|| self.runtime.resolver().awaited(&self.id));
                if awaited.contains(&key) {
                    follow.insert(key);
                }
                continue;
            };
            match self.ledger.tell(&key, version.as_ref(), &held, now) {
                Told::NoNews => {}
                Told::Follow => {
                    if let Some(version) = version {
                        // It is this provider's own id, so it is known.
                        let _ = self.runtime.resolver().expect_version(&self.id, &key, version);
                    }
                    follow.insert(key);
                }
                Told::Look if self.has_stamps() => _ = self.look_wanted.insert(key),
                // Without stamps, an event is all there is to go by.
                Told::Look => _ = follow.insert(key),
            }
        }
        for key in follow {
            self.trigger(vec![key]);
        }
    }

    /// Starts the looks that somebody wants, if none of the kind is running.
    fn start_looks(&mut self) {
        if self.sweep_wanted && self.sweep.is_none() {
            self.sweep_wanted = false;
            if self.has_stamps() {
                self.start_sweep();
            } else {
                // Without stamps, what the store may have told must be read to be known.
                let awaited = self.runtime.resolver().awaited(&self.id);
                let keys: Vec<_> = self.held().into_keys().chain(awaited).collect();
                if !keys.is_empty() {
                    self.trigger(keys);
                }
            }
        }
        if !self.look_wanted.is_empty() && self.look.is_none() {
            let keys = std::mem::take(&mut self.look_wanted);
            let mut held = self.held();
            held.retain(|key, _| keys.contains(key));
            self.look = self.look_at(held, false);
        }
    }

    fn start_sweep(&mut self) {
        if self.has_stamps() {
            self.sweep = self.look_at(self.held(), true);
        }
    }

    /// Asks for the stamps of what is held; `None` where nothing is.
    fn look_at(&self, before: Held, sweep: bool) -> Looking {
        // What is not there yet is looked for with everything else.
        let awaited = if sweep { self.runtime.resolver().awaited(&self.id) } else { Vec::new() };
        if before.is_empty() && awaited.is_empty() {
            return None;
        }
        let provider = Arc::clone(&self.provider);
        let patience = self.watching(before.len() + awaited.len(), false).patience();
        Some(Box::pin(async move {
            let began = Instant::now();
            let keys: Vec<_> = before.keys().cloned().chain(awaited).collect();
            let asked = AssertUnwindSafe(provider.stamps(&keys)).catch_unwind();
            match timeout(patience, asked).await {
                Ok(Ok(stamps)) if stamps.len() == keys.len() => {
                    let stamps = keys.into_iter().zip(stamps).collect();
                    Some(Look { began, before, sweep, stamps })
                }
                _ => None,
            }
        }))
    }

    /// Follows up what a look has shown.
    fn judge(&mut self, look: Option<Look>, sweep: bool) {
        if sweep {
            self.blind = look.as_ref().is_none_or(|look| !look.saw_anything());
        }
        let Some(look) = look else {
            return self.say_failing("the provider did not say how its secrets stand");
        };
        let held = self.held();
        let is_new = |key: &SecretKey| !look.before.contains_key(key) && !held.contains_key(key);
        let stamps = look.stamps.iter().filter(|(key, stamp)| stamp.is_ok() && is_new(key));
        let appeared: Vec<_> = stamps.map(|(key, _)| key.clone()).collect();
        if !appeared.is_empty() {
            self.trigger(appeared);
        }
        let findings = self.ledger.compare(look, &held, Instant::now());
        match findings.failed {
            Some(error) if error.kind() != ErrorKind::Unsupported => {
                self.say_failing(&error.chain());
            }
            // One secret that can be looked at does not mean that all can.
            _ => self.failing &= !sweep,
        }
        self.look_wanted.extend(findings.unclear);
        if findings.missed > 0 && self.provider.descriptor().capabilities.push {
            self.tally.missed(&self.id, findings.missed);
            self.sight.missed.fetch_add(findings.missed, Ordering::Relaxed);
        }
        if sweep && !findings.changed.is_empty() {
            self.trigger(findings.changed);
        } else {
            findings.changed.into_iter().for_each(|key| self.trigger(vec![key]));
        }
    }

    /// Starts a rotation and does not wait for it: a slow adapter must not make us deaf.
    fn trigger(&self, keys: Vec<SecretKey>) {
        tracing::debug!(target: "oneiric", provider = %self.id, ?keys, "secrets have changed");
        // A runtime that has stopped carries nothing through any more.
        let _ = self.runtime.send(Event::Noticed { provider: self.id.clone(), keys });
    }

    fn say_failing(&mut self, why: &str) {
        if !self.failing {
            self.failing = true;
            tracing::warn!(
                target: "oneiric",
                provider = %self.id,
                error = why,
                "changes cannot be seen; what is cached serves on"
            );
        }
    }
}

/// The next event with all that follow at once, and whether the subscription has ended.
async fn burst(changes: Option<&mut Fuse<ChangeStream>>) -> (Vec<Change>, bool) {
    let Some(changes) = changes else { return pending().await };
    let mut told = Vec::new();
    let mut next = changes.next().await;
    loop {
        match next {
            None => return (told, true),
            Some(change) => told.push(change),
        }
        if told.len() >= BURST {
            return (told, false);
        }
        match changes.next().now_or_never() {
            Some(following) => next = following,
            None => return (told, false),
        }
    }
}

async fn finished(looking: &mut Looking) -> Option<Look> {
    match looking {
        Some(looking) => looking.await,
        None => pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// An interval, give or take a tenth, so that a fleet does not ask in step.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - JITTER + fastrand::f64() * 2.0 * JITTER)
}
