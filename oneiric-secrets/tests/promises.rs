//! The promises of the cache and the resolver, each by its name in the design.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use oneiric_core::{Clock, ErrorKind, SecretRef, Version};
use oneiric_secrets::{Mode, Resolver, ResolverOptions, Scope, SecretEvent};
use oneiric_testkit::MemoryProvider;
use tokio::time::{Instant, timeout};

const FETCH: Duration = Duration::from_millis(100);

struct Rig {
    store: Arc<MemoryProvider>,
    resolver: Resolver,
    clock: Clock,
}

fn rig() -> Rig {
    rig_with(ResolverOptions::default())
}

fn rig_with(mut options: ResolverOptions) -> Rig {
    let (store, clock) = (MemoryProvider::new(), Clock::held());
    options.clock = clock.clone();
    options.seed = Some(1);
    let providers = [("mem".parse().unwrap(), Arc::clone(&store) as _)];
    Rig { resolver: Resolver::new(providers, options), store, clock }
}

fn reference(key: &str) -> SecretRef {
    format!("mem:{key}").parse().unwrap()
}

fn only(key: &str) -> Scope {
    Scope::Keys("mem".parse().unwrap(), vec![key.parse().unwrap()])
}

impl Rig {
    async fn get(&self, key: &str) -> String {
        let secret = self.resolver.get(&reference(key)).await.unwrap();
        assert!(secret.stale_for().is_none(), "{key} is stale");
        secret.value().expose_str().unwrap().to_owned()
    }

    async fn stale(&self, key: &str) -> Option<String> {
        let secret = self.resolver.get(&reference(key)).await.ok()?;
        secret.stale_for().map(|_| secret.value().expose_str().unwrap().to_owned())
    }

    async fn refused(&self, key: &str) -> ErrorKind {
        self.resolver.get(&reference(key)).await.unwrap_err().kind()
    }

    fn get_later(&self, key: &str) -> tokio::task::JoinHandle<String> {
        let (resolver, reference) = (self.resolver.clone(), reference(key));
        tokio::spawn(async move {
            let secret = resolver.get(&reference).await.unwrap();
            secret.value().expose_str().unwrap().to_owned()
        })
    }
}

#[tokio::test(start_paused = true)]
async fn p1_no_resurrection_of_a_value_whose_fetch_began_before_the_invalidation() {
    for scope in [only("a"), Scope::Provider("mem".parse().unwrap()), Scope::All] {
        for mode in [Mode::Soft, Mode::Hard, Mode::Rollback] {
            let rig = rig();
            rig.store.put("a", "old");
            rig.store.latency(FETCH);
            let waiter = rig.get_later("a");
            tokio::time::sleep(FETCH / 2).await;
            // The fetch has read "old" by now and is on its way back.
            rig.store.put("a", "new");
            rig.resolver.invalidate_secrets(&scope, mode).unwrap();
            assert_eq!(waiter.await.unwrap(), "new", "the waiter gets the refetched value");
            assert_eq!(rig.get("a").await, "new", "{scope:?} {mode:?}");
            assert_eq!(rig.store.fetches(), 2);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn p1_a_cached_value_is_not_fresh_after_an_invalidation() {
    let rig = rig();
    rig.store.put("a", "old");
    rig.store.put("b", "other");
    assert_eq!((rig.get("a").await, rig.get("b").await), ("old".into(), "other".into()));
    rig.store.put("a", "new");
    assert_eq!(rig.get("a").await, "old", "nobody has said anything yet");
    rig.resolver.invalidate_secrets(&only("a"), Mode::Soft).unwrap();
    assert_eq!(rig.get("a").await, "new");
    rig.get("b").await;
    assert_eq!(rig.store.fetches(), 3, "an invalidation of one key leaves the others");
}

#[tokio::test(start_paused = true)]
async fn p1_a_pinned_version_is_invalidated_with_its_secret() {
    let rig = rig();
    rig.store.put("a", "one");
    assert_eq!(rig.get("a@1").await, "one");
    rig.resolver.invalidate_secrets(&only("a"), Mode::Hard).unwrap();
    rig.store.fail(Some(ErrorKind::Unavailable));
    assert_eq!(rig.refused("a@1").await, ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn p2_one_flight_for_any_number_of_callers() {
    let rig = rig();
    rig.store.put("a", "v");
    rig.store.latency(FETCH);
    let callers: Vec<_> = (0..200).map(|_| rig.get_later("a")).collect();
    for caller in callers {
        assert_eq!(caller.await.unwrap(), "v");
    }
    assert_eq!(rig.store.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn p2_impatient_callers_neither_kill_the_fetch_nor_lose_it() {
    let rig = rig();
    rig.store.put("a", "v");
    rig.store.latency(FETCH);
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let (resolver, reference) = (rig.resolver.clone(), reference("a"));
            tokio::spawn(
                async move { timeout(FETCH * 8 / 10, resolver.get(&reference)).await.is_err() },
            )
        })
        .collect();
    for caller in callers {
        assert!(caller.await.unwrap(), "the deadline was shorter than the fetch");
    }
    tokio::time::sleep(FETCH).await;
    rig.store.hang(true);
    assert_eq!(rig.get("a").await, "v", "what was fetched is cached");
    assert_eq!(rig.store.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn p2_a_panic_of_the_provider_is_an_error_and_the_next_fetch_works() {
    let rig = rig();
    rig.store.put("a", "v");
    rig.store.panic_next();
    assert_eq!(rig.refused("a").await, ErrorKind::Bug);
    assert_eq!(rig.get("a").await, "v");
}

#[tokio::test(start_paused = true)]
async fn p2_a_provider_that_hangs_is_cut_by_the_deadline() {
    let rig = rig();
    rig.store.put("a", "v");
    rig.store.hang(true);
    let started = Instant::now();
    assert_eq!(rig.refused("a").await, ErrorKind::DeadlineExceeded);
    assert_eq!(started.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn p3_an_older_version_never_replaces_a_newer_one() {
    let rig = rig();
    rig.store.put_version("a", "seven", 7);
    assert_eq!(rig.get("a").await, "seven");
    rig.store.put_version("a", "six", 6);
    rig.resolver.invalidate_secrets(&only("a"), Mode::Soft).unwrap();
    // The store goes on answering with the older one: the newer one serves, and says it is stale.
    assert_eq!(rig.stale("a").await.as_deref(), Some("seven"));
    // Until somebody asks for the roll-back.
    rig.resolver.invalidate_secrets(&only("a"), Mode::Rollback).unwrap();
    assert_eq!(rig.get("a").await, "six");
}

#[tokio::test(start_paused = true)]
async fn p3_an_older_read_after_an_event_is_retried_not_cached() {
    let rig = rig();
    rig.store.put_version("a", "one", 1);
    assert_eq!(rig.get("a").await, "one");
    // The event is here before the data.
    let (mem, key) = ("mem".parse().unwrap(), "a".parse().unwrap());
    rig.resolver.expect_version(&mem, &key, Version::numbered(2)).unwrap();
    rig.resolver.invalidate_secrets(&only("a"), Mode::Soft).unwrap();
    let waiter = rig.get_later("a");
    let late = Arc::clone(&rig.store);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        late.put_version("a", "two", 2);
    });
    let got = timeout(Duration::from_secs(60), waiter).await;
    // Asked for by its number, a version that is not there yet is either awaited or reported,
    // and never answered with the old one as fresh.
    match got.unwrap() {
        Ok(value) => assert_eq!(value, "two"),
        Err(panic) => panic!("the read failed instead of waiting: {panic}"),
    }
    assert_eq!(rig.get("a").await, "two");
}

#[tokio::test(start_paused = true)]
async fn p4_a_value_is_fresh_for_its_time_and_then_fetched_again() {
    let rig = rig();
    rig.store.put("a", "one");
    rig.get("a").await;
    rig.store.put("a", "two");
    rig.clock.advance(Duration::from_secs(400));
    assert_eq!(rig.get("a").await, "one");
    rig.clock.advance(Duration::from_secs(201));
    assert_eq!(rig.get("a").await, "two");
}

#[tokio::test(start_paused = true)]
async fn p4_a_value_in_use_is_refreshed_ahead_of_its_end() {
    let rig = rig();
    rig.store.put("a", "one");
    rig.get("a").await;
    rig.store.put("a", "two");
    rig.clock.advance(Duration::from_secs(500));
    assert_eq!(rig.get("a").await, "one", "the reader does not wait for it");
    tokio::time::sleep(Duration::from_millis(1)).await;
    rig.store.hang(true);
    assert_eq!(rig.get("a").await, "two");
    assert_eq!(rig.store.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn p4_stale_is_served_only_while_the_provider_cannot_answer_and_only_so_long() {
    for kind in [
        ErrorKind::Unavailable,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Throttled { retry_after: Some(Duration::from_secs(7)) },
    ] {
        let rig = rig();
        rig.store.put("a", "last good");
        rig.get("a").await;
        rig.store.fail(Some(kind));
        rig.clock.advance(Duration::from_secs(601));
        for _ in 0..100 {
            assert_eq!(rig.stale("a").await.as_deref(), Some("last good"), "{kind}");
            // Time for a try behind the reader's back, if there is one.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(rig.store.fetches() <= 3, "a failing provider is left alone for a while");
        // Failing renews nothing.
        for _ in 0..60 {
            rig.clock.advance(Duration::from_secs(59));
            rig.stale("a").await;
        }
        rig.clock.advance(Duration::from_secs(60));
        assert_eq!(rig.refused("a").await.token(), kind.token());
    }
}

#[tokio::test(start_paused = true)]
async fn p4_no_read_waits_for_another_try_of_a_provider_that_has_just_failed() {
    let rig = rig();
    rig.store.put("a", "last good");
    rig.get("a").await;
    rig.store.latency(Duration::from_millis(5));
    rig.store.fail(Some(ErrorKind::Unavailable));
    rig.clock.advance(Duration::from_secs(601));
    let waited = async || {
        let begun = Instant::now();
        assert_eq!(rig.stale("a").await.as_deref(), Some("last good"));
        begun.elapsed()
    };
    assert!(waited().await >= Duration::from_millis(5), "nobody knows yet that it fails");
    for tries in 2..10 {
        // However long it is left alone by now, it is over.
        rig.clock.advance(Duration::from_secs(31));
        assert_eq!(waited().await, Duration::ZERO);
        tokio::time::sleep(Duration::from_millis(6)).await;
        assert_eq!(rig.store.fetches(), 1 + tries, "the try goes on behind the readers' backs");
    }
    // The try that finds it back brings the value to those who come after.
    rig.store.fail(None);
    rig.clock.advance(Duration::from_secs(31));
    assert_eq!(waited().await, Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(6)).await;
    assert_eq!(rig.get("a").await, "last good");
}

#[tokio::test(start_paused = true)]
async fn p4_a_failure_of_long_ago_is_no_reason_not_to_wait() {
    let rig = rig();
    rig.store.put("a", "one");
    rig.get("a").await;
    rig.store.fail(Some(ErrorKind::Unavailable));
    rig.clock.advance(Duration::from_secs(601));
    rig.stale("a").await.unwrap();
    rig.store.fail(None);
    rig.store.put("a", "two");
    rig.store.latency(Duration::from_millis(5));
    rig.clock.advance(Duration::from_secs(300));
    assert_eq!(rig.get("a").await, "two");
}

#[tokio::test(start_paused = true)]
async fn p4_a_reader_waits_a_few_times_as_long_as_the_provider_usually_takes() {
    for (usual, least, most) in [(0, 10, 11), (15, 50, 65), (60, 100, 101)] {
        let rig = rig();
        rig.store.latency(Duration::from_millis(usual));
        for n in 0..60 {
            rig.store.put(&format!("k{n}"), "v");
            rig.get(&format!("k{n}")).await;
        }
        rig.store.hang(true);
        rig.clock.advance(Duration::from_secs(601));
        let begun = Instant::now();
        assert!(rig.stale("k0").await.is_some());
        let waited = begun.elapsed().as_millis();
        assert!((least..=most).contains(&waited), "{waited} ms where {usual} ms are usual");
        let begun = Instant::now();
        assert!(rig.stale("k0").await.is_some());
        assert_eq!(begun.elapsed(), Duration::ZERO, "one wait for all");
    }
}

#[tokio::test(start_paused = true)]
async fn p4_denied_is_never_answered_with_a_stale_value() {
    let kinds = [ErrorKind::Denied, ErrorKind::Unauthenticated, ErrorKind::NotFound];
    for kind in kinds.into_iter().chain([ErrorKind::VersionDisabled]) {
        let rig = rig();
        rig.store.put("a", "v");
        rig.get("a").await;
        rig.store.fail(Some(kind));
        rig.clock.advance(Duration::from_secs(601));
        assert_eq!(rig.refused("a").await, kind);
    }
}

#[tokio::test(start_paused = true)]
async fn p4_a_soft_invalidation_keeps_the_last_good_value_and_a_hard_one_does_not() {
    let rig = rig();
    rig.store.put("a", "v");
    rig.get("a").await;
    rig.store.fail(Some(ErrorKind::Unavailable));
    rig.resolver.invalidate_secrets(&only("a"), Mode::Soft).unwrap();
    assert_eq!(rig.stale("a").await.as_deref(), Some("v"));
    rig.resolver.invalidate_secrets(&only("a"), Mode::Hard).unwrap();
    assert_eq!(rig.refused("a").await, ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn p4_a_time_to_live_of_zero_keeps_nothing() {
    let store = MemoryProvider::new();
    let mut options = ResolverOptions::default();
    options.ttl = Duration::ZERO;
    let resolver = Resolver::new([("mem".parse().unwrap(), Arc::clone(&store) as _)], options);
    // Kept, as those are that find their secrets without looking.
    let reference = reference("a");
    for n in 1..=3 {
        store.put("a", format!("v{n}"));
        let secret = resolver.get(&reference).await.unwrap();
        assert_eq!(secret.value().expose_str(), Some(format!("v{n}").as_str()));
    }
    store.fail(Some(ErrorKind::Unavailable));
    assert!(resolver.get(&reference).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn p6_a_missing_secret_is_believed_missing_shortly() {
    let rig = rig();
    for _ in 0..100 {
        assert_eq!(rig.refused("a").await, ErrorKind::NotFound);
    }
    assert_eq!(rig.store.fetches(), 1);
    rig.store.put("a", "v");
    assert_eq!(rig.refused("a").await, ErrorKind::NotFound);
    rig.clock.advance(Duration::from_secs(6));
    assert_eq!(rig.get("a").await, "v");
}

#[tokio::test(start_paused = true)]
async fn p6_a_negative_answer_dies_with_an_invalidation() {
    let rig = rig();
    assert_eq!(rig.refused("a").await, ErrorKind::NotFound);
    rig.store.put("a", "v");
    rig.resolver.invalidate_secrets(&only("a"), Mode::Soft).unwrap();
    assert_eq!(rig.get("a").await, "v");
}

#[tokio::test(start_paused = true)]
async fn p6_only_absence_is_cached_negatively() {
    for kind in [ErrorKind::Denied, ErrorKind::Unavailable, ErrorKind::Invalid] {
        let rig = rig();
        rig.store.put("a", "v");
        rig.store.fail(Some(kind));
        assert_eq!(rig.refused("a").await, kind);
        rig.store.fail(None);
        assert_eq!(rig.get("a").await, "v", "{kind}");
    }
}

#[tokio::test]
async fn p6_negative_answers_are_bounded_in_number() {
    let mut options = ResolverOptions::default();
    options.calls_a_second = u32::MAX;
    let rig = rig_with(options);
    for n in 0..3_000 {
        assert_eq!(rig.refused(&format!("k{n}")).await, ErrorKind::NotFound);
    }
    let before = rig.store.fetches();
    assert_eq!(rig.refused("k2999").await, ErrorKind::NotFound);
    assert_eq!(rig.store.fetches(), before, "the newest are remembered");
    assert_eq!(rig.refused("k0").await, ErrorKind::NotFound);
    assert_eq!(rig.store.fetches(), before + 1, "the oldest are forgotten");
}

#[tokio::test(start_paused = true)]
async fn p8_what_an_invalidation_overtook_is_not_installed_by_a_shutdown() {
    // Which of the two a flight sees first, its answer or the end, is chance.
    for _ in 0..32 {
        let rig = rig();
        rig.store.put("a", "leaked");
        rig.store.latency(FETCH);
        let waiter = {
            let (resolver, reference) = (rig.resolver.clone(), reference("a"));
            tokio::spawn(async move { resolver.get(&reference).await.map(drop) })
        };
        tokio::time::sleep(FETCH / 2).await;
        rig.resolver.invalidate_secrets(&only("a"), Mode::Hard).unwrap();
        // The answer and the end come at one moment.
        tokio::time::sleep(FETCH / 2).await;
        assert!(rig.resolver.shutdown(Instant::now() + FETCH * 10).await);
        assert_eq!(waiter.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(rig.resolver.held_version(&reference("a")), None);
    }
}

#[tokio::test(start_paused = true)]
async fn p8_shutdown_during_a_fetch_answers_the_waiters_and_leaks_no_task() {
    let rig = rig();
    rig.store.put("a", "v");
    rig.store.put("held", "v");
    let handle = rig.resolver.handle(&reference("held")).await.unwrap();
    rig.store.hang(true);
    let (resolver, waited) = (rig.resolver.clone(), reference("a"));
    let waiter = tokio::spawn(async move { resolver.get(&waited).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(rig.resolver.shutdown(Instant::now() + Duration::from_secs(1)).await);
    assert_eq!(waiter.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(rig.get("held").await, "v", "what is cached can still be read");
    assert_eq!(handle.load().unwrap().expose(), b"v");
    assert_eq!(rig.refused("b").await, ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn p9_a_placeholder_is_refused_and_the_last_good_value_serves_on() {
    let rig = rig();
    let mut events = rig.resolver.subscribe();
    rig.store.put("a", "good");
    rig.get("a").await;
    rig.store.put("a", "REDACTED");
    rig.resolver.invalidate_secrets(&only("a"), Mode::Soft).unwrap();
    assert_eq!(rig.stale("a").await.as_deref(), Some("good"));
    let mut refused = false;
    while let Ok(event) = events.try_recv() {
        refused |= matches!(event, SecretEvent::Refused { ref key, .. } if key.as_str() == "a");
    }
    assert!(refused, "the refusal is reported");
}

#[tokio::test]
async fn p2_a_thousand_invalidations_at_once_cause_at_most_two_fetches() {
    let rig = rig();
    rig.store.put("a", "one");
    let mut handle = rig.resolver.handle(&reference("a")).await.unwrap();
    rig.store.put("a", "two");
    rig.store.latency(Duration::from_millis(200));
    let before = rig.store.fetches();
    let calls: Vec<_> = (0..1_000)
        .map(|_| {
            let resolver = rig.resolver.clone();
            tokio::spawn(async move { resolver.invalidate_secrets(&only("a"), Mode::Soft) })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    handle.changed().await.unwrap();
    assert_eq!(rig.get("a").await, "two");
    assert!(rig.store.fetches() - before <= 2, "{}", rig.store.fetches() - before);
}

#[tokio::test(start_paused = true)]
async fn p10_a_cold_start_is_no_herd() {
    let mut options = ResolverOptions::default();
    options.calls_a_second = 100;
    let rig = rig_with(options);
    rig.store.latency(FETCH);
    for n in 0..400 {
        rig.store.put(&format!("k{n}"), "v");
    }
    let started = Instant::now();
    let readers: Vec<_> = (0..400).map(|n| rig.get_later(&format!("k{n}"))).collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), "v");
    }
    // 100 may be made at once, and then it is 100 a second; 32 at a time would allow 320 a second.
    let took = started.elapsed().as_millis();
    assert!((2900..=4500).contains(&took), "{took} ms");
}

#[tokio::test(start_paused = true)]
async fn p10_a_throttled_secret_is_left_alone_for_as_long_as_the_provider_said() {
    let rig = rig();
    rig.store.put("a", "v");
    let retry_after = Some(Duration::from_secs(20));
    rig.store.fail(Some(ErrorKind::Throttled { retry_after }));
    for _ in 0..10 {
        assert_eq!(rig.refused("a").await, ErrorKind::Throttled { retry_after });
    }
    assert_eq!(rig.store.fetches(), 1);
    rig.store.fail(None);
    rig.clock.advance(Duration::from_secs(21));
    assert_eq!(rig.get("a").await, "v");
}

#[tokio::test]
async fn a_secret_in_use_is_not_evicted_before_one_that_is_not() {
    let (store, clock) = (MemoryProvider::new(), Clock::held());
    let mut options = ResolverOptions::default();
    options.clock = clock.clone();
    options.capacity = 64;
    options.calls_a_second = u32::MAX;
    options.seed = Some(7);
    let resolver = Resolver::new([("mem".parse().unwrap(), Arc::clone(&store) as _)], options);
    for key in ["hot", "followed"] {
        store.put(key, "v");
    }
    let hot = reference("hot");
    let followed = resolver.handle(&reference("followed")).await.unwrap();
    for n in 0..2_000 {
        clock.advance(Duration::from_millis(100));
        store.put(&format!("k{n}"), "v");
        resolver.get(&reference(&format!("k{n}"))).await.unwrap();
        assert_eq!(resolver.get(&hot).await.unwrap().value().expose(), b"v");
    }
    let mem = "mem".parse().unwrap();
    assert_eq!(resolver.cached(&mem).len(), 64, "it is bounded");
    // Hot and followed were fetched once each, and all others once each.
    assert_eq!(store.fetches(), 2_002);
    assert_eq!(followed.load().unwrap().expose(), b"v");
}

#[tokio::test]
async fn what_a_reference_remembers_is_of_its_own_resolver() {
    let (one, other) = (rig(), rig());
    one.store.put("a", "one");
    other.store.put("a", "other");
    let shared = reference("a");
    for _ in 0..3 {
        assert_eq!(one.resolver.get(&shared).await.unwrap().value().expose(), b"one");
        assert_eq!(other.resolver.get(&shared).await.unwrap().value().expose(), b"other");
    }
    assert_eq!(one.store.fetches() + other.store.fetches(), 2);
}

#[tokio::test]
async fn an_unknown_provider_is_named_with_those_there_are() {
    let error = rig().resolver.get(&"other:a".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.to_string(), "there is no provider `other`; configured: mem");
}
