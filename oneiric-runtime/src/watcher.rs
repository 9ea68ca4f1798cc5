//! The refresh watcher: how a change in a store is noticed without being told by a person.
//!
//! Push is for speed and the sweep is for truth: where a store has change events they start a
//! rotation at once, and every `secrets_watch_interval`, with jitter, the stamps of everything
//! that is cached are compared, so that a lost event costs one interval and is counted.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use oneiric_core::{
    Change, ChangeStream, ErrorKind, ProviderId, SecretKey, SecretProvider, SecretRef, Stamp,
};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::manager::Event;
use crate::runtime::Runtime;
use crate::tally::Tally;

/// The longest pause before a lost subscription is taken up again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the stamps of everything may take.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Watches one provider.
pub(crate) struct SecretRefreshWatcher {
    id: ProviderId,
    provider: Arc<dyn SecretProvider>,
    runtime: Runtime,
    interval: Duration,
    tally: Arc<Tally>,
    /// The last stamps seen, for secrets whose values came without one.
    seen: HashMap<SecretKey, Stamp>,
    /// Whether the last sweep failed, so that a long outage is said once.
    failing: bool,
}

/// What wakes the watcher.
enum Wake {
    Sweep,
    Change(Change),
    SubscriptionLost,
    Stop,
}

impl SecretRefreshWatcher {
    pub(crate) fn new(
        id: ProviderId,
        provider: Arc<dyn SecretProvider>,
        runtime: Runtime,
        interval: Duration,
        tally: Arc<Tally>,
    ) -> Self {
        Self { id, provider, runtime, interval, tally, seen: HashMap::new(), failing: false }
    }

    /// Watches until `stop`. No error of the provider ends it.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut lost = 0_u32;
        let mut changes = self.subscribe();
        let mut next_sweep = Instant::now() + self.jittered();
        let mut resubscribe_at: Option<Instant> = None;
        loop {
            let wake = {
                let change = async {
                    match &mut changes {
                        Some(changes) => {
                            changes.next().await.map_or(Wake::SubscriptionLost, Wake::Change)
                        }
                        None => std::future::pending().await,
                    }
                };
                let due = resubscribe_at.map_or(next_sweep, |at| at.min(next_sweep));
                tokio::select! {
                    () = stop.cancelled() => Wake::Stop,
                    wake = change => wake,
                    () = sleep_until(due) => Wake::Sweep,
                }
            };
            match wake {
                Wake::Stop => return,
                Wake::Change(change) => {
                    lost = 0;
                    self.notice(change).await;
                }
                Wake::SubscriptionLost => {
                    lost += 1;
                    changes = None;
                    let bound = Duration::from_millis(100).saturating_mul(1 << lost.min(12));
                    let pause = bound.min(LONGEST_PAUSE).mul_f64(0.5 + fastrand::f64() / 2.0);
                    resubscribe_at = Some(Instant::now() + pause);
                    tracing::warn!(
                        target: "oneiric",
                        provider = %self.id,
                        "the change subscription is lost; sweeping until it is back"
                    );
                }
                Wake::Sweep => {
                    if resubscribe_at.is_some_and(|at| at <= Instant::now()) {
                        resubscribe_at = None;
                        changes = self.subscribe();
                    }
                    // Also after a gap in the subscription: what happened in it is found now.
                    let missed = self.sweep().await;
                    if missed > 0 && self.provider.descriptor().capabilities.push {
                        self.tally.missed(&self.id, missed);
                    }
                    next_sweep = Instant::now() + self.jittered();
                }
            }
        }
    }

    /// A subscription, if the provider has such and its making does not panic.
    fn subscribe(&self) -> Option<ChangeStream> {
        if !self.provider.descriptor().capabilities.push {
            return None;
        }
        let provider = AssertUnwindSafe(&self.provider);
        std::panic::catch_unwind(|| provider.changes()).ok().flatten()
    }

    /// Follows up an event. Only what somebody has asked for is looked at.
    async fn notice(&mut self, change: Change) {
        match change {
            Change::Secret { key, version } => {
                let reference = SecretRef::new(self.id.clone(), key.clone());
                let resolver = self.runtime.resolver();
                let Some(held) = resolver.held_version(&reference) else { return };
                if version.as_ref() == Some(&held) {
                    return;
                }
                if let Some(version) = version {
                    // It is this provider's own id, so it is known.
                    let _ = resolver.expect_version(&self.id, &key, version);
                    self.trigger(vec![key]);
                } else {
                    self.sweep_these(vec![key]).await;
                }
            }
            _ => {
                self.sweep().await;
            }
        }
    }

    /// Compares the stamps of everything that is cached; returns how many have changed.
    async fn sweep(&mut self) -> u64 {
        let cached = self.runtime.resolver().cached(&self.id);
        let keys: Vec<_> = cached.into_iter().map(|secret| secret.key).collect();
        self.seen.retain(|key, _| keys.contains(key));
        self.sweep_these(keys).await
    }

    async fn sweep_these(&mut self, keys: Vec<SecretKey>) -> u64 {
        if keys.is_empty() || !self.provider.descriptor().capabilities.stamps {
            // Without stamps, an event is all there is to go by.
            let told = u64::try_from(keys.len()).unwrap_or(u64::MAX);
            if !keys.is_empty() && self.provider.descriptor().capabilities.push {
                self.trigger(keys);
                return told;
            }
            return 0;
        }
        let asked = AssertUnwindSafe(self.provider.stamps(&keys)).catch_unwind();
        let stamps = match timeout(SWEEP_TIMEOUT, asked).await {
            Ok(Ok(stamps)) if stamps.len() == keys.len() => stamps,
            _ => {
                self.say_failing("the provider did not say how its secrets stand");
                return 0;
            }
        };
        let held: HashMap<_, _> = self
            .runtime
            .resolver()
            .cached(&self.id)
            .into_iter()
            .map(|secret| (secret.key, secret.stamp))
            .collect();
        let mut changed = Vec::new();
        let mut failed = None;
        for (key, stamp) in keys.into_iter().zip(stamps) {
            match stamp {
                Ok(stamp) => {
                    let seen = self.seen.insert(key.clone(), stamp.clone());
                    // Held against the value in the cache, so that a change which could not be
                    // carried through is found again at the next sweep.
                    let known = held.get(&key).cloned().flatten().or(seen);
                    if known.is_some_and(|known| known != stamp) {
                        changed.push(key);
                    }
                }
                // What was there and is gone, or is closed to us, serves on until it is asked
                // for; it is said, and nothing is thrown away.
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if error.kind() != ErrorKind::Unsupported => {
                self.say_failing(&error.chain());
            }
            _ => self.failing = false,
        }
        let number = u64::try_from(changed.len()).unwrap_or(u64::MAX);
        if !changed.is_empty() {
            self.trigger(changed);
        }
        number
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

    /// The interval, give or take a tenth, so that a fleet does not ask in step.
    fn jittered(&self) -> Duration {
        self.interval.mul_f64(0.9 + fastrand::f64() / 5.0)
    }
}
