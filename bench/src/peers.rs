//! The peers, each filled as its own documentation tells.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use oneiric_core::{SecretValue, Version};
use parking_lot::RwLock;

use crate::variant::{Each, Reads, use_bytes};
use crate::workload::{PROVIDER, TTL, coarse_clock, key, value};

/// How a peer names a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    provider: Box<str>,
    key: Box<str>,
}

/// What a peer keeps of one: as little as a cache of secrets can do with.
#[derive(Debug)]
pub struct Entry {
    value: Box<[u8]>,
    /// Kept, as ours is, for whoever wants to know.
    _version: Box<str>,
    expires: u64,
}

/// The keys, which whoever reads keeps.
pub fn keys(entries: usize) -> Vec<Key> {
    (0..entries).map(Key::at).collect()
}

impl Key {
    /// The key of the secret of this number.
    pub fn at(at: usize) -> Self {
        Self { provider: PROVIDER.into(), key: key(at).into() }
    }
}

impl Entry {
    /// Its entry.
    pub fn at(at: usize) -> Arc<Self> {
        Arc::new(Self {
            value: value(at).as_slice().into(),
            _version: "1".into(),
            expires: TTL.as_secs(),
        })
    }
}

/// moka's sync cache, with its own time to live and its own hasher.
pub fn moka(entries: usize) -> moka::sync::Cache<Key, Arc<Entry>> {
    let capacity = entries as u64 * 2;
    let cache = moka::sync::Cache::builder().max_capacity(capacity).time_to_live(TTL).build();
    for at in 0..entries {
        cache.insert(Key::at(at), Entry::at(at));
    }
    cache.run_pending_tasks();
    cache
}

/// quick_cache, which leaves the time to its user.
pub fn quick_cache(entries: usize) -> quick_cache::sync::Cache<Key, Arc<Entry>> {
    // Room for an uneven spread over its shards, and no more: it sets memory aside for all.
    let cache = quick_cache::sync::Cache::new(entries + entries / 10 + 1000);
    for at in 0..entries {
        cache.insert(Key::at(at), Entry::at(at));
    }
    cache
}

/// Reads of [`moka`].
pub fn moka_reads(entries: usize) -> Box<dyn Reads> {
    let (cache, keys) = (moka(entries), keys(entries));
    Box::new(Each(move |at: usize| {
        let entry = cache.get(&keys[at]).expect("it is there");
        use_bytes(&entry.value);
    }))
}

/// Reads of [`quick_cache`], with the expiry checked against the coarse clock.
pub fn quick_cache_reads(entries: usize) -> Box<dyn Reads> {
    let (cache, keys, clock) = (quick_cache(entries), keys(entries), coarse_clock());
    Box::new(Each(move |at: usize| {
        let entry = cache.get(&keys[at]).expect("it is there");
        assert!(clock.load(Ordering::Relaxed) < entry.expires, "it is fresh");
        use_bytes(&entry.value);
    }))
}

/// A `parking_lot::RwLock<HashMap>` with ahash, with the expiry checked likewise.
pub fn rwlock_reads(entries: usize) -> Box<dyn Reads> {
    let filled = (0..entries).map(|at| (Key::at(at), Entry::at(at)));
    let map: HashMap<Key, Arc<Entry>, ahash::RandomState> = filled.collect();
    let (map, keys, clock) = (RwLock::new(map), keys(entries), coarse_clock());
    Box::new(Each(move |at: usize| {
        let entry = Arc::clone(map.read().get(&keys[at]).expect("it is there"));
        assert!(clock.load(Ordering::Relaxed) < entry.expires, "it is fresh");
        use_bytes(&entry.value);
    }))
}

/// What a handle of ours shows, in a bare `ArcSwap`.
struct Shown {
    value: SecretValue,
    _version: Version,
    expires: u64,
}

fn shown(entries: usize) -> Vec<Arc<ArcSwap<Shown>>> {
    let show = |at| Shown {
        value: value(at).as_slice().into(),
        _version: Version::numbered(1),
        expires: TTL.as_secs(),
    };
    (0..entries).map(|at| Arc::new(ArcSwap::from_pointee(show(at)))).collect()
}

/// The floor of a handle: one `ArcSwap` load of the same payload.
pub fn arc_swap_reads(entries: usize) -> Box<dyn Reads> {
    let swaps = shown(entries);
    Box::new(Each(move |at: usize| use_bytes(swaps[at].load().value.expose())))
}

/// The floor of a reader: `arc_swap::Cache` over the same.
pub fn arc_swap_cache_reads(entries: usize) -> Box<dyn Reads> {
    Box::new(CacheReads { swaps: shown(entries), clock: None })
}

/// The same with the expiry checked against the coarse clock: the row of the reference figures
/// (2.3 ns, 43 instructions) that the target of a reader is taken from.
pub fn arc_swap_cache_coarse_reads(entries: usize) -> Box<dyn Reads> {
    Box::new(CacheReads { swaps: shown(entries), clock: Some(coarse_clock()) })
}

struct CacheReads {
    swaps: Vec<Arc<ArcSwap<Shown>>>,
    clock: Option<Arc<AtomicU64>>,
}

impl Reads for CacheReads {
    fn pass(&self, order: &[u32]) -> Duration {
        let mut caches: Vec<_> = self.swaps.iter().map(|swap| Cache::new(swap.clone())).collect();
        let start = Instant::now();
        match &self.clock {
            None => {
                for &at in order {
                    use_bytes(caches[at as usize].load().value.expose());
                }
            }
            Some(clock) => {
                for &at in order {
                    let shown = caches[at as usize].load();
                    assert!(clock.load(Ordering::Relaxed) < shown.expires, "it is fresh");
                    use_bytes(shown.value.expose());
                }
            }
        }
        start.elapsed()
    }
}

/// The floor of everything: one atomic that nobody else wants.
pub fn atomic_reads(_: usize) -> Box<dyn Reads> {
    let number = AtomicU64::new(7);
    Box::new(Each(move |_: usize| {
        black_box(number.load(Ordering::SeqCst));
    }))
}
