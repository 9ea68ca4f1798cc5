//! How many calls of the provider many callers of one secret make.

use std::sync::Arc;
use std::time::Duration;

use oneiric_core::{Clock, SecretProvider};
use oneiric_secrets::{Mode, Resolver, ResolverOptions, Scope};
use oneiric_testkit::MemoryProvider;
use tokio::sync::Barrier;

use crate::ours::{provider_id, reference, secret_key};
use crate::report::{Figure, Target};
use crate::workload::key;

/// How many read at once.
const CALLERS: usize = 200;
/// How long the provider takes: long enough for all of them to arrive.
const LATENCY: Duration = Duration::from_millis(20);

/// Calls when nothing is cached, when it has expired, and when it was rotated.
///
/// # Panics
/// If a runtime cannot be built or a read fails.
pub fn figures(rounds: usize) -> Vec<Figure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime can be built");
    let (mut cold, mut expiry, mut rotated) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let provider = MemoryProvider::new();
        provider.put(&key(0), "first");
        provider.latency(LATENCY);
        let clock = Clock::held();
        let mut options = ResolverOptions::default();
        options.clock = clock.clone();
        let ttl = options.ttl;
        let shared: Arc<dyn SecretProvider> = Arc::clone(&provider) as _;
        let resolver = Resolver::new([(provider_id(), shared)], options);
        let calls = || runtime.block_on(calls_of_many(&provider, &resolver));
        cold.push(calls());
        clock.advance(ttl);
        expiry.push(calls());
        provider.put(&key(0), "second");
        let scope = Scope::Keys(provider_id(), vec![secret_key(0)]);
        resolver.invalidate_secrets(&scope, Mode::Soft).expect("the provider is there");
        rotated.push(calls());
    }
    let figure = |name, runs, most| Figure::new(name, "calls", runs).target(Target::AtMost(most));
    vec![
        figure("calls_cold", cold, 1.0),
        figure("calls_expiry", expiry, 1.0),
        figure("calls_rotated", rotated, 2.0),
    ]
}

async fn calls_of_many(provider: &MemoryProvider, resolver: &Resolver) -> f64 {
    let before = provider.fetches();
    let start = Arc::new(Barrier::new(CALLERS));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (resolver, start, reference) = (resolver.clone(), start.clone(), reference(0));
            tokio::spawn(async move {
                start.wait().await;
                resolver.get(&reference).await.expect("the provider answers");
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("reads do not panic");
    }
    (provider.fetches() - before) as f64
}
