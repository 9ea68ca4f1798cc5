//! What all clones of a resolver share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oneiric_core::{AliasId, Moment, ProviderId, SecretProvider};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::alias::{Alias, aliases};
use crate::cache::SecretValueCache;
use crate::cell::Source;
use crate::courtesy::Courtesy;
use crate::entry::Times;
use crate::epoch::{Bounds, Epochs};
use crate::event::SecretEvent;
use crate::keeper::Keeper;
use crate::options::ResolverOptions;
use crate::sync::{Mutex, MutexGuard, PoisonError};
use crate::tally::Tally;
use crate::ticker::Ticker;
use crate::verify::Kinds;

/// How many events a slow listener may be behind before it misses some.
const EVENTS: usize = 1024;

#[derive(Debug)]
pub(crate) struct Shared {
    /// Tells the cells of this resolver from those of others, in what references remember.
    pub(crate) home: u64,
    pub(crate) ticker: Ticker,
    pub(crate) cache: SecretValueCache,
    pub(crate) aliases: BTreeMap<AliasId, Arc<Alias>>,
    pub(crate) kinds: Kinds,
    pub(crate) epochs: Epochs,
    saying: Mutex<()>,
    pub(crate) options: ResolverOptions,
    pub(crate) tally: Tally,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) events: broadcast::Sender<SecretEvent>,
    random: Mutex<fastrand::Rng>,
    pub(crate) keeper: Keeper,
}

impl Shared {
    pub(crate) fn new(
        providers: impl IntoIterator<Item = (ProviderId, Arc<dyn SecretProvider>)>,
        options: ResolverOptions,
    ) -> Self {
        static HOMES: AtomicU64 = AtomicU64::new(0);
        let home = HOMES.fetch_add(1, Ordering::Relaxed);
        let source = |(id, provider): (ProviderId, _)| {
            let courtesy = Courtesy::new(options.calls_at_once, options.calls_a_second);
            let bounds = Bounds::default();
            (id.clone(), Arc::new(Source { home, bounds, id, provider, courtesy }))
        };
        let sources: BTreeMap<_, _> = providers.into_iter().map(source).collect();
        let mut random = options.seed.map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        let ticker = Ticker::new(&options.clock);
        Self {
            home,
            ticker,
            cache: SecretValueCache::new(sources, options.capacity, random.fork()),
            aliases: aliases(&options.aliases),
            kinds: Kinds::new(&options.aliases),
            epochs: Epochs::default(),
            saying: Mutex::default(),
            options,
            tally: Tally::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            events: broadcast::Sender::new(EVENTS),
            random: Mutex::new(random),
            keeper: Keeper::default(),
        }
    }

    /// Held while an invalidation is said of one secret after the other, and while a set is looked
    /// at, so that a set is from before all of it or from after all of it.
    pub(crate) fn saying(&self) -> MutexGuard<'_, ()> {
        self.saying.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, event: SecretEvent) {
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }

    pub(crate) fn random(&self) -> f64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).f64()
    }

    pub(crate) fn times(&self, fetched: Moment) -> Times {
        self.options.times(fetched, self.random())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.cache.end();
    }
}
