//! What the resolver counts. Reads only touch atomics; the collector asks for the sums.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use oneiric_core::telemetry::{SCOPE, metric};
use oneiric_core::{ErrorKind, ProviderId};
use opentelemetry::metrics::{Counter, Gauge, Histogram};
use opentelemetry::{KeyValue, global};

/// Bounds for the duration of a call, in seconds: a local file to a cloud that hangs.
const CALL_BOUNDS: [f64; 12] =
    [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// The sums of all resolvers of the process. They outlive each, so that the last export has them.
static SUMS: Sums = Sums { hits: Sharded::new(), misses: Sharded::new(), stale: Sharded::new() };

#[derive(Debug)]
pub(crate) struct Tally {
    invalidations: Counter<u64>,
    upstream_calls: Counter<u64>,
    fetch_duration: Histogram<f64>,
    age: Gauge<f64>,
    fallback_served: Counter<u64>,
}

#[derive(Debug)]
struct Sums {
    hits: Sharded,
    misses: Sharded,
    stale: Sharded,
}

/// A counter that threads do not fight for: each adds on a cache line of its own.
#[derive(Debug)]
struct Sharded([Lane; LANES]);

/// Two cache lines, since processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Lane(AtomicU64);

/// More threads than this share lanes.
const LANES: usize = 16;

impl Sharded {
    const fn new() -> Self {
        Self([const { Lane(AtomicU64::new(0)) }; LANES])
    }

    #[inline]
    fn add_one(&self) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            // Without a lazy start, which every later use would have to look at.
            static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
        }
        let mut own = OWN.get();
        if own == usize::MAX {
            own = NEXT.fetch_add(1, Ordering::Relaxed) % LANES;
            OWN.set(own);
        }
        self.0[own % LANES].0.fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self) -> u64 {
        self.0.iter().map(|lane| lane.0.load(Ordering::Relaxed)).sum()
    }
}

impl Tally {
    /// Instruments of the global meter provider, which the embedder installs first.
    pub(crate) fn new() -> Self {
        let meter = global::meter(SCOPE);
        let observe = |name: &'static str, what: &'static str, of: &'static Sharded| {
            meter
                .u64_observable_counter(name)
                .with_description(what)
                .with_callback(move |observer| observer.observe(of.sum(), &[]))
                .build();
        };
        observe(metric::CACHE_HITS, "Reads answered from the cache", &SUMS.hits);
        observe(metric::CACHE_MISSES, "Reads that waited for the provider", &SUMS.misses);
        observe(metric::STALE_SERVED, "Answers from beyond their time to live", &SUMS.stale);
        Self {
            invalidations: meter
                .u64_counter(metric::INVALIDATE_TOTAL)
                .with_description("Calls of invalidate_secrets")
                .build(),
            upstream_calls: meter
                .u64_counter(metric::UPSTREAM_CALLS)
                .with_description("Calls of a provider")
                .build(),
            fetch_duration: meter
                .f64_histogram(metric::FETCH_DURATION)
                .with_unit("s")
                .with_description("One call of a provider")
                .with_boundaries(CALL_BOUNDS.to_vec())
                .build(),
            age: meter
                .f64_gauge(metric::AGE)
                .with_unit("s")
                .with_description("The age of the oldest value that a handle shows")
                .build(),
            fallback_served: meter
                .u64_counter(metric::FALLBACK_SERVED)
                .with_description("Answers from a fallback, because those before it were failing")
                .build(),
        }
    }

    #[inline]
    pub(crate) fn hit(&self) {
        SUMS.hits.add_one();
    }

    pub(crate) fn miss(&self) {
        SUMS.misses.add_one();
    }

    pub(crate) fn stale(&self) {
        SUMS.stale.add_one();
    }

    /// One answer of a fallback, with its provider.
    pub(crate) fn fallback_served(&self, provider: &[KeyValue]) {
        self.fallback_served.add(1, provider);
    }

    pub(crate) fn invalidated(&self, mode: &'static str, scope: &'static str) {
        self.invalidations.add(1, &[KeyValue::new("mode", mode), KeyValue::new("scope", scope)]);
    }

    /// One call of a provider, with the kind of failure if it failed.
    pub(crate) fn called(
        &self,
        provider: &ProviderId,
        call: &'static str,
        took: Duration,
        failed: Option<ErrorKind>,
    ) {
        let provider = KeyValue::new("provider", provider.to_string());
        self.upstream_calls.add(1, &[provider.clone(), KeyValue::new("call", call)]);
        let mut attributes = vec![provider];
        attributes.extend(failed.map(|kind| KeyValue::new("error.type", kind.token())));
        self.fetch_duration.record(took.as_secs_f64(), &attributes);
    }

    /// How old the oldest value of a provider is that somebody follows.
    pub(crate) fn age(&self, provider: &ProviderId, age: Duration) {
        self.age.record(age.as_secs_f64(), &[KeyValue::new("provider", provider.to_string())]);
    }
}
