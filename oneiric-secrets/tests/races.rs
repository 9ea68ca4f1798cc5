//! The races that caches are known to lose, each by its number in `docs/consistency.md`. Those
//! that a promise covers are tested with it in `promises.rs` and `sets.rs`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oneiric_core::{Capabilities, Clock, ErrorKind, SecretRef, Version};
use oneiric_secrets::{Mode, Resolver, ResolverOptions, Scope};
use oneiric_testkit::MemoryProvider;

const FETCH: Duration = Duration::from_millis(100);

struct Rig {
    store: Arc<MemoryProvider>,
    resolver: Resolver,
    clock: Clock,
}

fn rig() -> Rig {
    rig_over(MemoryProvider::new())
}

fn rig_over(store: Arc<MemoryProvider>) -> Rig {
    let clock = Clock::held();
    let mut options = ResolverOptions::default();
    options.clock = clock.clone();
    // Here the store is rotated as fast as it goes.
    options.calls_a_second = u32::MAX;
    let providers = [("mem".parse().unwrap(), Arc::clone(&store) as _)];
    Rig { resolver: Resolver::new(providers, options), store, clock }
}

fn reference(key: &str) -> SecretRef {
    format!("mem:{key}").parse().unwrap()
}

impl Rig {
    /// The value, and whether it is fresh.
    async fn get(&self, key: &str) -> Result<(String, bool), ErrorKind> {
        let secret = self.resolver.get(&reference(key)).await.map_err(|error| error.kind())?;
        let text = secret.value().expose_str().unwrap().to_owned();
        Ok((text, secret.stale_for().is_none()))
    }

    async fn fresh(&self, key: &str) -> String {
        let (text, fresh) = self.get(key).await.unwrap();
        assert!(fresh, "{key} is stale");
        text
    }

    async fn set(&self, keys: [&str; 2]) -> [String; 2] {
        let references = keys.map(reference);
        let set = self.resolver.get_set(&references).await.unwrap();
        references.map(|of| set.get(&of).unwrap().expose_str().unwrap().to_owned())
    }

    fn get_later(&self, key: &str) -> tokio::task::JoinHandle<String> {
        let (resolver, reference) = (self.resolver.clone(), reference(key));
        tokio::spawn(async move {
            let secret = resolver.get(&reference).await.unwrap();
            secret.value().expose_str().unwrap().to_owned()
        })
    }

    fn invalidate(&self, keys: &[&str], mode: Mode) {
        let keys = keys.iter().map(|key| key.parse().unwrap()).collect();
        let scope = Scope::Keys("mem".parse().unwrap(), keys);
        self.resolver.invalidate_secrets(&scope, mode).unwrap();
    }

    fn expect(&self, key: &str, version: u64) {
        let (mem, key) = ("mem".parse().unwrap(), key.parse().unwrap());
        self.resolver.expect_version(&mem, &key, Version::numbered(version)).unwrap();
    }
}

fn without_versions() -> Arc<MemoryProvider> {
    MemoryProvider::with_capabilities(Capabilities { stamps: true, ..Capabilities::default() })
}

#[tokio::test(start_paused = true)]
async fn r1_a_handle_never_shows_again_what_was_purged() {
    // Without stamps, so that the refresh brings the value itself.
    let rig = rig_over(MemoryProvider::with_capabilities(Capabilities::default()));
    rig.store.put("a", "leaked");
    let handle = rig.resolver.handle(&reference("a")).await.unwrap();
    rig.clock.advance(Duration::from_secs(500));
    rig.store.latency(FETCH);
    assert_eq!(rig.fresh("a").await, "leaked", "and a refresh begins");
    tokio::time::sleep(FETCH / 2).await;
    rig.store.put("a", "new");
    rig.invalidate(&["a"], Mode::Hard);
    // From here on no fetch ends, so that only the overtaken one could bring something.
    tokio::time::sleep(FETCH / 4).await;
    rig.store.latency(Duration::from_secs(5));
    for _ in 0..100 {
        tokio::time::sleep(FETCH / 10).await;
        if let Ok(shown) = handle.load() {
            assert_ne!(shown.expose(), b"leaked");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn r2_a_slow_old_answer_does_not_win_over_a_new_version() {
    let rig = rig_over(without_versions());
    rig.store.put("a", "one");
    rig.store.latency(FETCH);
    let waiter = rig.get_later("a");
    tokio::time::sleep(FETCH / 2).await;
    // The answer with the old one is on its way when the new one is made known.
    rig.store.put("a", "two");
    rig.expect("a", 2);
    assert_eq!(waiter.await.unwrap(), "two");
    assert_eq!(rig.fresh("a").await, "two");
}

#[tokio::test(start_paused = true)]
async fn r3_an_event_before_its_data_is_waited_for_where_versions_cannot_be_named() {
    let rig = rig_over(without_versions());
    rig.store.put("a", "one");
    rig.fresh("a").await;
    rig.expect("a", 2);
    rig.invalidate(&["a"], Mode::Soft);
    let waiter = rig.get_later("a");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiter.is_finished(), "the old one is no answer");
    rig.store.put("a", "two");
    assert_eq!(waiter.await.unwrap(), "two");
}

#[tokio::test(start_paused = true)]
async fn r4_doubled_reordered_and_replayed_events_change_nothing() {
    let rig = rig();
    rig.store.put_version("a", "three", 3);
    for version in [3, 2, 3, 1, 3] {
        rig.expect("a", version);
    }
    assert_eq!(rig.fresh("a").await, "three");
    let fetches = rig.store.fetches();
    for version in [3, 1, 2, 3] {
        rig.expect("a", version);
        assert_eq!(rig.fresh("a").await, "three");
    }
    assert_eq!(rig.store.fetches(), fetches);
    // Nor do they hold the next refresh down to the version that they named.
    rig.store.put_version("a", "four", 4);
    rig.clock.advance(Duration::from_secs(600));
    assert_eq!(rig.fresh("a").await, "four");
}

#[tokio::test(start_paused = true)]
async fn r4_a_replayed_event_does_not_undo_a_roll_back() {
    let rig = rig();
    rig.store.put_version("a", "two", 2);
    rig.expect("a", 2);
    assert_eq!(rig.fresh("a").await, "two");
    rig.store.put_version("a", "one", 1);
    rig.invalidate(&["a"], Mode::Rollback);
    assert_eq!(rig.fresh("a").await, "one");
    rig.expect("a", 2);
    rig.invalidate(&["a"], Mode::Soft);
    assert_eq!(rig.fresh("a").await, "one");
    rig.store.put_version("a", "three", 3);
    rig.expect("a", 3);
    rig.invalidate(&["a"], Mode::Soft);
    assert_eq!(rig.fresh("a").await, "three");
}

#[tokio::test(start_paused = true)]
async fn r7_neither_absence_nor_refusal_takes_the_last_good_value_away() {
    for kind in [ErrorKind::NotFound, ErrorKind::Denied] {
        let rig = rig();
        rig.store.put("a", "good");
        rig.fresh("a").await;
        rig.store.fail(Some(kind));
        rig.clock.advance(Duration::from_secs(600));
        assert_eq!(rig.get("a").await, Err(kind));
        rig.clock.advance(Duration::from_secs(60));
        rig.store.fail(Some(ErrorKind::Unavailable));
        assert_eq!(rig.get("a").await, Ok(("good".into(), false)), "after {kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn r8_a_change_between_load_and_changed_is_not_lost() {
    let rig = rig();
    rig.store.put("a", "one");
    let mut handle = rig.resolver.handle(&reference("a")).await.unwrap();
    assert_eq!(handle.load().unwrap().expose(), b"one");
    rig.store.put("a", "two");
    rig.invalidate(&["a"], Mode::Soft);
    rig.fresh("a").await;
    rig.store.hang(true);
    handle.changed().await.unwrap();
    assert_eq!(handle.load().unwrap().expose(), b"two");
}

#[tokio::test(start_paused = true)]
async fn r10_a_roll_back_is_allowed_once_and_never_by_a_smaller_number_alone() {
    let one = Scope::Keys("mem".parse().unwrap(), vec!["a".parse().unwrap()]);
    for scope in [one, Scope::Provider("mem".parse().unwrap())] {
        let rig = rig();
        rig.store.put_version("a", "seven", 7);
        assert_eq!(rig.fresh("a").await, "seven");
        rig.store.put_version("a", "six", 6);
        rig.resolver.invalidate_secrets(&scope, Mode::Rollback).unwrap();
        assert_eq!(rig.fresh("a").await, "six");
        rig.store.put_version("a", "five", 5);
        rig.expect("a", 5);
        rig.resolver.invalidate_secrets(&scope, Mode::Soft).unwrap();
        assert_eq!(rig.get("a").await, Ok(("six".into(), false)), "{scope:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn r11_a_set_is_looked_at_twice() {
    let rig = rig();
    rig.store.put_all([("user", "user-0"), ("password", "password-0")]);
    rig.fresh("user").await;
    rig.store.put_all([("user", "user-1"), ("password", "password-1")]);
    // Nobody has said anything; the old user is fresh, and refreshed behind its back while the
    // new password is fetched.
    rig.clock.advance(Duration::from_secs(500));
    assert_eq!(rig.set(["user", "password"]).await, ["user-1", "password-1"]);
}

#[tokio::test(start_paused = true)]
async fn r11_a_store_that_changes_as_a_whole_is_read_as_a_whole() {
    let capabilities = Capabilities { snapshots: true, ..Capabilities::default() };
    let rig = rig_over(MemoryProvider::with_capabilities(capabilities));
    rig.store.put_all([("user", "user-0"), ("password", "password-0")]);
    rig.fresh("user").await;
    rig.store.put_all([("user", "user-1"), ("password", "password-1")]);
    assert_eq!(rig.set(["user", "password"]).await, ["user-1", "password-1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_no_read_of_a_rotated_pair_is_torn() {
    let deep = std::env::var_os("ONEIRIC_DEEP").is_some_and(|deep| deep == "1");
    let wanted = if deep { 1_000_000 } else { 10_000 };
    let rig = Arc::new(rig());
    let put = |n: u64| {
        rig.store.put_all([("user", format!("user-{n}")), ("password", format!("password-{n}"))]);
    };
    put(0);
    let (reads, done) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (rig, reads, done) = (Arc::clone(&rig), Arc::clone(&reads), Arc::clone(&done));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let [user, password] = rig.set(["user", "password"]).await;
                    assert_eq!(user.strip_prefix("user-"), password.strip_prefix("password-"));
                    reads.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let mut rotations = 0;
    while reads.load(Ordering::Relaxed) < wanted {
        rotations += 1;
        put(rotations);
        rig.invalidate(&["user", "password"], Mode::Soft);
        tokio::time::sleep(Duration::from_micros(200)).await;
        assert!(!readers.iter().any(tokio::task::JoinHandle::is_finished), "a reader has failed");
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(rotations > 10);
}

#[tokio::test(start_paused = true)]
async fn r13_what_was_fresh_before_a_suspend_is_not_fresh_after_it() {
    let rig = rig();
    rig.store.put("a", "old");
    rig.fresh("a").await;
    rig.store.put("a", "new");
    // The machine sleeps: the clock of ages goes on, and no timer has fired.
    rig.clock.advance(Duration::from_secs(8 * 3600));
    assert_eq!(rig.fresh("a").await, "new");
    rig.store.fail(Some(ErrorKind::Unavailable));
    rig.clock.advance(Duration::from_secs(8 * 3600));
    assert_eq!(rig.get("a").await, Err(ErrorKind::Unavailable), "the bound is in real time");
}

#[tokio::test(start_paused = true)]
async fn r13_a_value_is_as_old_as_its_fetch_however_long_the_answer_took() {
    let rig = rig();
    rig.store.put("a", "old");
    rig.store.latency(FETCH);
    let waiter = rig.get_later("a");
    tokio::time::sleep(FETCH / 2).await;
    // The machine sleeps while the answer is on its way.
    rig.store.put("a", "new");
    rig.clock.advance(Duration::from_secs(8 * 3600));
    waiter.await.unwrap();
    assert_eq!(rig.fresh("a").await, "new");
}

#[tokio::test(start_paused = true)]
async fn r16_a_secret_made_anew_with_smaller_numbers_is_taken_when_somebody_says_so() {
    for mode in [Mode::Rollback, Mode::Hard] {
        let rig = rig();
        rig.store.put_version("a", "five", 5);
        rig.fresh("a").await;
        rig.store.remove("a");
        rig.invalidate(&["a"], Mode::Soft);
        assert_eq!(rig.get("a").await, Err(ErrorKind::NotFound));
        rig.store.put_version("a", "anew", 1);
        rig.invalidate(&["a"], Mode::Soft);
        // By its number alone it is an old read.
        assert_eq!(rig.get("a").await, Ok(("five".into(), false)));
        rig.invalidate(&["a"], mode);
        assert_eq!(rig.fresh("a").await, "anew");
    }
}
