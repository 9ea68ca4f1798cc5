//! Reading much at a start: in how many calls, and how patiently.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use oneiric_core::{Capabilities, ErrorKind, SecretRef};
use oneiric_secrets::{Resolver, ResolverOptions};
use oneiric_testkit::MemoryProvider;
use tokio::time::Instant;

const KEYS: usize = 1000;

/// A store that reads 20 secrets in a call, with a thousand of them.
fn store() -> Arc<MemoryProvider> {
    let batch = NonZeroU32::new(20);
    let store = MemoryProvider::with_capabilities(Capabilities { batch, ..Default::default() });
    let keys: Vec<_> = (0..KEYS).map(|at| format!("key-{at}")).collect();
    store.put_all(keys.iter().map(|key| (key.as_str(), "value")));
    store
}

fn resolver(store: &Arc<MemoryProvider>, options: ResolverOptions) -> Resolver {
    Resolver::new([("mem".parse().unwrap(), Arc::clone(store) as _)], options)
}

fn all() -> Vec<SecretRef> {
    (0..KEYS).map(|at| format!("mem:key-{at}").parse().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_with_a_thousand_keys_takes_fifty_calls_and_no_throttle() {
    let store = store();
    store.limit_calls(100);
    store.latency(Duration::from_millis(20));
    let resolver = resolver(&store, ResolverOptions::default());
    let answers = resolver.prefetch(&all()).await;
    assert!(answers.iter().all(Result::is_ok) && answers.len() == KEYS);
    assert_eq!((store.calls(), store.throttled()), (50, 0));
    let set = resolver.get_set(&all()).await.unwrap();
    assert_eq!((set.values().count(), store.calls()), (KEYS, 50), "everything is there");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_keys_at_once_are_as_many_calls_without_a_prefetch() {
    let store = store();
    let resolver = resolver(&store, ResolverOptions::default());
    assert!(resolver.get_many(&all()).await.iter().all(Result::is_ok));
    assert_eq!(store.calls(), 50);
}

#[tokio::test(start_paused = true)]
async fn each_call_of_a_batch_is_paid_for() {
    let store = store();
    let mut options = ResolverOptions::default();
    options.calls_a_second = 10;
    let resolver = resolver(&store, options);
    let start = Instant::now();
    assert!(resolver.prefetch(&all()).await.iter().all(Result::is_ok));
    let took = start.elapsed().as_millis();
    assert!((3900..=4300).contains(&took), "{took} ms for fifty calls at ten a second");
}

#[tokio::test(start_paused = true)]
async fn doubles_and_order_make_no_difference() {
    let store = store();
    let resolver = resolver(&store, ResolverOptions::default());
    let mut twice = all();
    twice.extend(all().into_iter().rev());
    assert_eq!(resolver.prefetch(&twice).await.len(), 2 * KEYS);
    assert_eq!((store.calls(), store.fetches()), (50, KEYS as u64));
    resolver.prefetch(&twice).await;
    assert_eq!(store.calls(), 50, "what is there is not read again");
}

#[tokio::test(start_paused = true)]
async fn a_throttled_batch_is_asked_for_again_as_a_whole_when_the_store_says_so() {
    let store = store();
    store.limit_calls(10);
    let resolver = resolver(&store, ResolverOptions::default());
    let start = Instant::now();
    let answers = resolver.prefetch(&all()).await;
    assert!(answers.iter().all(Result::is_ok), "{:?}", answers.iter().find(|of| of.is_err()));
    assert_eq!(store.calls() - store.throttled(), 50, "no batch is torn by being throttled");
    assert!(store.throttled() > 0);
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_throttles_for_ever_is_given_up() {
    let store = store();
    store.fail(Some(ErrorKind::Throttled { retry_after: Some(Duration::from_secs(3)) }));
    let resolver = resolver(&store, ResolverOptions::default());
    let start = Instant::now();
    let answers = resolver.prefetch(&all()).await;
    assert!(answers.iter().all(Result::is_err));
    assert!(start.elapsed() <= Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_missing_alone() {
    let store = store();
    store.remove("key-7");
    let resolver = resolver(&store, ResolverOptions::default());
    let answers = resolver.prefetch(&all()).await;
    let failed: Vec<_> = (0..KEYS).filter(|&at| answers[at].is_err()).collect();
    assert_eq!((failed, store.calls()), (vec![7], 50));
    assert_eq!(answers[7].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
    let field: SecretRef = "mem:key-1#nope".parse().unwrap();
    assert!(resolver.prefetch(&[field]).await[0].is_err(), "so is a field");
}

#[tokio::test(start_paused = true)]
async fn only_what_cannot_be_had_is_read_from_fallbacks_and_in_batches_as_well() {
    let (down, up) = (store(), store());
    let mut options = ResolverOptions::default();
    let alias = |at: usize| {
        let candidates = ["down", "up"].map(|id| format!("{id}:key-{at}").parse().unwrap());
        (format!("alias-{at}").parse().unwrap(), candidates.to_vec().into())
    };
    options.aliases = (0..KEYS).map(alias).collect();
    let providers = [
        ("down".parse().unwrap(), Arc::clone(&down) as _),
        ("up".parse().unwrap(), Arc::clone(&up) as _),
    ];
    let resolver = Resolver::new(providers, options);
    let aliases: Vec<SecretRef> =
        (0..KEYS).map(|at| format!("alias-{at}").parse().unwrap()).collect();
    assert!(resolver.prefetch(&aliases[..20]).await.iter().all(Result::is_ok));
    assert_eq!((down.calls(), up.calls()), (1, 0));
    down.fail(Some(ErrorKind::Unavailable));
    assert!(resolver.prefetch(&aliases).await.iter().all(Result::is_ok));
    assert_eq!((down.calls(), up.calls()), (50, 49));
}
