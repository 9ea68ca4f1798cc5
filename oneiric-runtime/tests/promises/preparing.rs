//! What comes while adapters are being prepared, and how many are at a time.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_core::{ErrorKind, HookError, ManagedHook, SecretRef};
use oneiric_runtime::report::{InstanceReport, Outcome};
use oneiric_runtime::{RotateRequest, RuntimeOptions};
use oneiric_secrets::{Resolver, ResolverOptions};
use oneiric_testkit::MemoryProvider;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::support::{Rig, scope};

/// How often each value was tried.
type Tried = Arc<Mutex<BTreeMap<String, usize>>>;

/// An adapter whose proof takes this long for values that begin with "slow", and which counts what
/// it tries.
fn slow(takes: Duration, tried: &Tried) -> ManagedHook<String> {
    let secret: SecretRef = "mem:a".parse().unwrap();
    let tried = Arc::clone(tried);
    ManagedHook::new("slow".parse().unwrap(), [secret.clone()], move |secrets| {
        let value = secrets.get(&secret).and_then(|value| value.expose_str()).unwrap().to_owned();
        *tried.lock().unwrap().entry(value.clone()).or_default() += 1;
        async move { Ok(value) }
    })
    .prove(move |value| async move {
        if value.starts_with("slow") {
            sleep(takes).await;
        }
        Ok::<(), HookError>(())
    })
}

fn rotate(rig: &Rig) -> JoinHandle<InstanceReport> {
    let runtime = rig.runtime.clone();
    tokio::spawn(async move { runtime.rotate(RotateRequest::new(scope(&["a"]))).await })
}

#[tokio::test(start_paused = true)]
async fn l3_a_key_that_changes_during_a_prepare_restarts_it_once_with_the_newer_set() {
    let rig = Rig::start(Duration::ZERO);
    let tried = Tried::default();
    rig.store.put("a", "one");
    let managed = rig.runtime.manage(slow(Duration::from_secs(20), &tried)).await.unwrap();

    rig.store.put("a", "slow-two");
    let (first, began) = (rotate(&rig), Instant::now());
    sleep(Duration::from_secs(1)).await;
    rig.store.put("a", "three");
    let others: Vec<_> = (0..100).map(|_| rotate(&rig)).collect();
    let first = first.await.unwrap();
    assert_eq!(first.outcome, Outcome::Done, "{first:?}");
    assert_eq!(first.keys[0].to_version.as_deref(), Some("3"));
    for other in others {
        assert_eq!(other.await.unwrap().keys[0].to_version.as_deref(), Some("3"));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(managed.load().as_str(), "three");
    let tried: Vec<_> = tried.lock().unwrap().clone().into_iter().collect();
    let once = |value: &str| (value.to_owned(), 1);
    assert_eq!(tried, [once("one"), once("slow-two"), once("three")]);
    rig.stop().await;
}

/// The cache learns of a new version by the very read of a rotation, and tells those who watch.
#[tokio::test(start_paused = true)]
async fn l3_what_a_rotation_has_read_itself_does_not_use_up_its_restart() {
    let rig = Rig::start(Duration::from_secs(300));
    let tried = Tried::default();
    rig.store.put("a", "one");
    let managed = rig.runtime.manage(slow(Duration::from_secs(20), &tried)).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    rig.store.put("a", "slow-two");
    let (first, began) = (rotate(&rig), Instant::now());
    sleep(Duration::from_secs(1)).await;
    rig.store.put("a", "three");
    let second = rotate(&rig);
    for rotation in [first, second] {
        assert_eq!(rotation.await.unwrap().outcome, Outcome::Done);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!((managed.load().as_str(), tried.lock().unwrap().len()), ("three", 3));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l3_a_prepare_is_restarted_no_second_time() {
    let rig = Rig::start(Duration::ZERO);
    let tried = Tried::default();
    rig.store.put("a", "one");
    let managed = rig.runtime.manage(slow(Duration::from_secs(10), &tried)).await.unwrap();
    let mut rotations = Vec::new();
    for round in 0..5 {
        rig.store.put("a", format!("slow-{round}"));
        rotations.push(rotate(&rig));
        sleep(Duration::from_secs(1)).await;
    }
    for rotation in rotations {
        assert_eq!(rotation.await.unwrap().outcome, Outcome::Done);
    }
    assert_eq!(managed.load().as_str(), "slow-4");
    let tried = tried.lock().unwrap().clone();
    let of = |round: usize| tried.get(&format!("slow-{round}")).copied().unwrap_or_default();
    assert_eq!([0, 1, 2, 3, 4].map(of), [1, 1, 0, 0, 1], "{tried:?}");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l3_a_trigger_without_news_leaves_a_prepare_alone() {
    let rig = Rig::start(Duration::ZERO);
    let tried = Tried::default();
    rig.store.put("a", "one");
    rig.runtime.manage(slow(Duration::from_secs(10), &tried)).await.unwrap();
    rig.store.put("a", "slow-two");
    let (first, before) = (rotate(&rig), rig.store.fetches());
    sleep(Duration::from_secs(1)).await;
    let others: Vec<_> = (0..1000).map(|_| rotate(&rig)).collect();
    assert_eq!(first.await.unwrap().outcome, Outcome::Done);
    for other in others {
        assert_eq!(other.await.unwrap().outcome, Outcome::Done);
    }
    assert_eq!(tried.lock().unwrap()["slow-two"], 1);
    assert_eq!(rig.store.fetches() - before, 2);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_may_be_overtaken_and_cannot_be_read_anew_changes_nothing() {
    let rig = Rig::start(Duration::ZERO);
    rig.store.put("a", "one");
    let hook = slow(Duration::from_secs(10), &Tried::default());
    let managed = rig.runtime.manage(hook).await.unwrap();
    rig.store.put("a", "slow-two");
    let first = rotate(&rig);
    sleep(Duration::from_secs(1)).await;
    rig.store.fail(Some(ErrorKind::Unavailable));
    let second = rotate(&rig);
    for rotation in [first, second] {
        let report = rotation.await.unwrap();
        assert_eq!(report.outcome, Outcome::Failed, "{report:?}");
    }
    assert_eq!(managed.load().as_str(), "one");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_adapters_are_prepared_at_a_time_than_the_options_say() {
    const AT_ONCE: usize = 4;
    let store = MemoryProvider::new();
    store.put("a", "one");
    let providers = [("mem".parse().unwrap(), Arc::clone(&store) as _)];
    let mut options = RuntimeOptions::new("test".parse().unwrap());
    options.watch_interval = Duration::ZERO;
    options.prepares_at_once = NonZeroUsize::new(AT_ONCE).unwrap();
    // Enough for one turn each and not for all: it begins with the turn.
    options.prepare_timeout = Duration::from_secs(3);
    let resolver = Resolver::new(providers, ResolverOptions::default());
    let (runtime, task) = options.build(resolver).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone()));

    let running = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
    for adapter in 0..50 {
        let running = Arc::clone(&running);
        let secret: SecretRef = "mem:a".parse().unwrap();
        let hook =
            ManagedHook::new(format!("of-{adapter}").parse().unwrap(), [secret], move |_| {
                let running = Arc::clone(&running);
                async move {
                    let now = running.0.fetch_add(1, Ordering::SeqCst) + 1;
                    running.1.fetch_max(now, Ordering::SeqCst);
                    sleep(Duration::from_secs(2)).await;
                    running.0.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                }
            });
        runtime.manage(hook).await.unwrap();
    }
    store.put("a", "two");
    let report = runtime.rotate(RotateRequest::new(scope(&["a"]))).await;
    assert_eq!((report.outcome, report.adapters.len()), (Outcome::Done, 50));
    assert_eq!(running.1.load(Ordering::SeqCst), AT_ONCE);
    stop.cancel();
    task.await.unwrap();
}
