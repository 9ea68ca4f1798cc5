//! A start with many adapters: in how many calls, and what is said if something is missing.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use oneiric_core::{Capabilities, ErrorKind, InstanceId, LifecycleHook, ManagedHook, SecretRef};
use oneiric_runtime::{Runtime, RuntimeOptions};
use oneiric_secrets::{Resolver, ResolverOptions};
use oneiric_testkit::MemoryProvider;
use tokio_util::sync::{CancellationToken, DropGuard};

const KEYS: usize = 1000;

/// A store that reads 20 secrets in a call and answers 100 calls a second, with a thousand of them.
fn start() -> (Arc<MemoryProvider>, Runtime, DropGuard) {
    let batch = NonZeroU32::new(20);
    let store = MemoryProvider::with_capabilities(Capabilities { batch, ..Default::default() });
    let keys: Vec<_> = (0..KEYS).map(|at| format!("key-{at}")).collect();
    store.put_all(keys.iter().map(|key| (key.as_str(), "value")));
    store.limit_calls(100);
    let providers = [("mem".parse().unwrap(), Arc::clone(&store) as _)];
    let resolver = Resolver::new(providers, ResolverOptions::default());
    let mut options = RuntimeOptions::new("test".parse::<InstanceId>().unwrap());
    options.watch_interval = Duration::ZERO;
    let (runtime, task) = options.build(resolver).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(task.run(stop.clone()));
    (store, runtime, stop.drop_guard())
}

/// An adapter of these keys that counts what it is built from.
fn adapter(
    id: &str,
    keys: impl IntoIterator<Item = usize>,
    built: &Arc<AtomicUsize>,
) -> Arc<dyn LifecycleHook> {
    let secrets: Vec<SecretRef> =
        keys.into_iter().map(|at| format!("mem:key-{at}").parse().unwrap()).collect();
    let built = Arc::clone(built);
    Arc::new(ManagedHook::new(id.parse().unwrap(), secrets, move |secrets| {
        built.fetch_add(secrets.values().count(), Ordering::SeqCst);
        async { Ok(()) }
    }))
}

#[tokio::test(start_paused = true)]
async fn a_start_reads_a_thousand_secrets_in_fifty_calls_whoever_needs_them() {
    let (store, runtime, _stop) = start();
    let built = Arc::default();
    // Each secret is needed by two adapters, in another order.
    let up = (0..100).map(|at| adapter(&format!("up-{at}"), at * 10..at * 10 + 10, &built));
    let down = (0..10).map(|at| adapter(&format!("down-{at}"), (0..KEYS).rev().skip(at), &built));
    runtime.register_all(up.chain(down)).await.unwrap();
    assert_eq!((store.calls(), store.throttled()), (50, 0));
    assert_eq!(built.load(Ordering::SeqCst), KEYS + (0..10).map(|at| KEYS - at).sum::<usize>());
    assert_eq!(runtime.status().await.unwrap().adapters.len(), 110);
}

#[tokio::test(start_paused = true)]
async fn all_that_is_missing_is_said_with_who_needs_it_and_nothing_is_started() {
    let (store, runtime, _stop) = start();
    store.remove("key-1");
    store.remove("key-2");
    let built = Arc::default();
    let adapters =
        [adapter("a", [0], &built), adapter("b", [1, 3], &built), adapter("c", [2, 1], &built)];
    let error = runtime.register_all(adapters).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    for part in [
        "adapter `b` needs `mem:key-1`: ",
        "adapter `c` needs `mem:key-2`: ",
        "adapter `c` needs `mem:key-1`: ",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(!error.to_string().contains("adapter `a`"), "{error}");
    assert_eq!(built.load(Ordering::SeqCst), 0);
    assert!(runtime.status().await.unwrap().adapters.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_cannot_start_names_those_that_serve_already() {
    let (_store, runtime, _stop) = start();
    let built = Arc::default();
    let adapters = [adapter("a", [0], &built), adapter("a", [1], &built)];
    let error = runtime.register_all(adapters).await.unwrap_err();
    assert_eq!(error.to_string(), "adapter `a` cannot start, while `a` serve already");
}
