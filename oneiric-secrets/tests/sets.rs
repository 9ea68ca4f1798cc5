//! Sets are whole (P5), and handles follow.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oneiric_core::{Clock, ErrorKind, SecretRef};
use oneiric_secrets::{Mode, Resolver, ResolverOptions, Scope};
use oneiric_testkit::MemoryProvider;

fn reference(key: &str) -> SecretRef {
    format!("mem:{key}").parse().unwrap()
}

fn pair_scope() -> Scope {
    Scope::Keys("mem".parse().unwrap(), vec!["user".parse().unwrap(), "password".parse().unwrap()])
}

fn resolver(store: &Arc<MemoryProvider>, clock: &Clock) -> Resolver {
    let mut options = ResolverOptions::default();
    options.clock = clock.clone();
    Resolver::new([("mem".parse().unwrap(), Arc::clone(store) as _)], options)
}

fn put_pair(store: &MemoryProvider, n: u32) {
    store.put_all([("user", format!("user-{n}")), ("password", format!("password-{n}"))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p5_a_rotated_pair_is_never_read_torn() {
    let (store, clock) = (MemoryProvider::new(), Clock::system());
    put_pair(&store, 0);
    let resolver = resolver(&store, &clock);
    let pair = [reference("user"), reference("password")];
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (resolver, pair, done) = (resolver.clone(), pair.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let mut reads = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    let set = resolver.get_set(&pair).await.unwrap();
                    let text = |at: usize| set.get(&pair[at]).unwrap().expose_str().unwrap();
                    let (user, password) = (text(0), text(1));
                    assert_eq!(user.strip_prefix("user-"), password.strip_prefix("password-"));
                    reads += 1;
                    tokio::task::yield_now().await;
                }
                reads
            })
        })
        .collect();
    for n in 1..=300 {
        put_pair(&store, n);
        resolver.invalidate_secrets(&pair_scope(), Mode::Soft).unwrap();
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 100);
    }
}

#[tokio::test(start_paused = true)]
async fn p5_half_a_rotated_pair_is_an_error_not_a_mixture() {
    let (store, clock) = (MemoryProvider::new(), Clock::held());
    put_pair(&store, 0);
    let resolver = resolver(&store, &clock);
    let pair = [reference("user"), reference("password")];
    resolver.get_set(&pair).await.unwrap();
    // The new user can be read and the new password is a placeholder: the old password must not
    // be paired with the new user.
    store.put("user", "user-1");
    store.put("password", "REDACTED");
    resolver.invalidate_secrets(&pair_scope(), Mode::Soft).unwrap();
    let error = resolver.get_set(&pair).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("mem:password"), "{error}");
    // One by one each has its own answer.
    let alone = resolver.get_many(&pair).await;
    assert_eq!(alone[0].as_ref().unwrap().value().expose(), b"user-1");
    assert!(alone[1].as_ref().unwrap().stale_for().is_some());
}

#[tokio::test(start_paused = true)]
async fn p5_an_old_set_is_served_whole_while_the_provider_is_down() {
    let (store, clock) = (MemoryProvider::new(), Clock::held());
    put_pair(&store, 0);
    let resolver = resolver(&store, &clock);
    let pair = [reference("user"), reference("password")];
    resolver.get_set(&pair).await.unwrap();
    store.fail(Some(ErrorKind::Unavailable));
    resolver.invalidate_secrets(&pair_scope(), Mode::Soft).unwrap();
    let set = resolver.get_set(&pair).await.unwrap();
    assert_eq!(set.get(&pair[0]).unwrap().expose(), b"user-0");
}

#[tokio::test(start_paused = true)]
async fn fields_of_one_value_are_of_one_version() {
    let (store, clock) = (MemoryProvider::new(), Clock::held());
    store.put("db", r#"{"user":"u","password":"p"}"#);
    let resolver = resolver(&store, &clock);
    let fields = [reference("db#/user"), reference("db#/password")];
    let set = resolver.get_set(&fields).await.unwrap();
    assert_eq!(set.get(&fields[0]).unwrap().expose(), b"u");
    assert_eq!(set.get(&fields[1]).unwrap().expose(), b"p");
    assert_eq!(store.fetches(), 1, "one value is fetched once, whatever is asked of it");
    let error = resolver.get(&reference("db#/nope")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), "the field `/nope` of `mem:db` does not exist");
}

#[tokio::test(start_paused = true)]
async fn a_handle_follows_and_tells_of_every_change() {
    let (store, clock) = (MemoryProvider::new(), Clock::held());
    store.put("db", r#"{"password":"one"}"#);
    let resolver = resolver(&store, &clock);
    let mut handle = resolver.handle(&reference("db#/password")).await.unwrap();
    assert_eq!(handle.load().unwrap().expose(), b"one");
    store.put("db", r#"{"password":"two"}"#);
    resolver.invalidate_secrets(&Scope::All, Mode::Soft).unwrap();
    let mut reader = handle.reader();
    handle.changed().await.unwrap();
    assert_eq!(handle.load().unwrap().expose(), b"two");
    assert_eq!(reader.load().unwrap().expose(), b"two");
    assert_eq!(handle.load().unwrap().version().id(), "2");
    // A version without the field is not taken over.
    store.put("db", r#"{"other":"three"}"#);
    resolver.invalidate_secrets(&Scope::All, Mode::Soft).unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(handle.load().unwrap().expose(), b"two");
}

#[tokio::test(start_paused = true)]
async fn a_handle_is_kept_fresh_without_being_read() {
    let (store, clock) = (MemoryProvider::new(), Clock::held());
    store.put("a", "one");
    let resolver = resolver(&store, &clock);
    let mut handle = resolver.handle(&reference("a")).await.unwrap();
    store.put("a", "two");
    clock.advance(Duration::from_secs(500));
    handle.changed().await.unwrap();
    assert_eq!(handle.load().unwrap().expose(), b"two");
}

#[tokio::test(start_paused = true)]
async fn p4_a_handle_ends_with_the_stale_time_and_comes_back() {
    let (store, clock) = (MemoryProvider::new(), Clock::held());
    store.put("a", "one");
    let resolver = resolver(&store, &clock);
    let mut handle = resolver.handle(&reference("a")).await.unwrap();
    store.fail(Some(ErrorKind::Unavailable));
    clock.advance(Duration::from_secs(4000));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(handle.load().unwrap().expose(), b"one", "stale, and within its bound");
    clock.advance(Duration::from_secs(300));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(handle.load().unwrap_err().kind(), ErrorKind::Unavailable);
    store.fail(None);
    clock.advance(Duration::from_secs(60));
    handle.changed().await.unwrap();
    assert_eq!(handle.load().unwrap().expose(), b"one");
}

#[tokio::test(start_paused = true)]
async fn a_hard_invalidation_takes_the_value_from_handles_until_it_is_read_again() {
    let (store, clock) = (MemoryProvider::new(), Clock::held());
    store.put("a", "leaked");
    let resolver = resolver(&store, &clock);
    let mut handle = resolver.handle(&reference("a")).await.unwrap();
    resolver
        .invalidate_secrets(
            &Scope::Keys("mem".parse().unwrap(), vec!["a".parse().unwrap()]),
            Mode::Hard,
        )
        .unwrap();
    assert!(handle.load().is_err());
    store.put("a", "new");
    handle.changed().await.unwrap();
    assert_eq!(handle.load().unwrap().expose(), b"new");
}
