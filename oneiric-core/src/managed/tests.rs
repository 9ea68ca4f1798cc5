//! A generation serves until its last guard is gone; a candidate that is given up is closed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, timeout};

use super::hook::RELEASE_GRACE;
use super::*;
use crate::hook::{DrainOutcome, DrainReport, HookError, LifecycleHook as _, Refusal, SecretSet};
use crate::provider::Version;
use crate::reference::SecretRef;
use crate::value::SecretValue;

fn reference() -> SecretRef {
    "files:a".parse().unwrap()
}

fn set(value: &str) -> SecretSet {
    SecretSet::new([(reference(), SecretValue::from(value), Version::numbered(1))])
}

fn hook(closed: &Arc<AtomicUsize>) -> ManagedHook<String> {
    let closed = Arc::clone(closed);
    ManagedHook::new("a".parse().unwrap(), [reference()], |secrets| async move {
        let value = secrets.get(&reference()).and_then(|value| value.expose_str());
        Ok(value.unwrap_or_default().to_owned())
    })
    .prove(|value| async move {
        if value.starts_with("bad") { Err(HookError::refused("bad")) } else { Ok(()) }
    })
    .close(move |_| {
        let closed = Arc::clone(&closed);
        async move {
            closed.fetch_add(1, Ordering::SeqCst);
        }
    })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

#[tokio::test(start_paused = true)]
async fn the_old_generation_ends_with_its_last_guard() {
    let closed = Arc::new(AtomicUsize::new(0));
    let hook = hook(&closed);
    assert!(hook.managed().is_none());
    let first = hook.prepare(&set("one")).await.unwrap().commit();
    assert_eq!(first.drain(soon()).await, DrainReport::drained());
    let managed = hook.managed().unwrap();
    let guard = managed.load();
    let retired = hook.prepare(&set("two")).await.unwrap().commit();
    assert_eq!((guard.as_str(), guard.generation()), ("one", 1));
    assert_eq!((managed.load().as_str(), managed.load().generation()), ("two", 2));

    let drain = tokio::spawn(retired.drain(soon()));
    tokio::task::yield_now().await;
    assert!(!drain.is_finished());
    assert_eq!(closed.load(Ordering::SeqCst), 0);
    drop(guard);
    assert_eq!(drain.await.unwrap(), DrainReport::drained());
    assert_eq!(closed.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_proof_changes_nothing_and_closes_the_candidate() {
    let closed = Arc::new(AtomicUsize::new(0));
    let hook = hook(&closed);
    hook.prepare(&set("one")).await.unwrap().commit();
    let error = hook.prepare(&set("bad")).await.err().unwrap();
    assert!(error.is_refused());
    tokio::task::yield_now().await;
    assert_eq!(closed.load(Ordering::SeqCst), 1);
    assert_eq!(hook.managed().unwrap().load().as_str(), "one");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_candidate_is_closed_and_never_serves() {
    let closed = Arc::new(AtomicUsize::new(0));
    let hook = hook(&closed);
    hook.prepare(&set("one")).await.unwrap().commit();
    drop(hook.prepare(&set("two")).await.unwrap());
    tokio::task::yield_now().await;
    assert_eq!(closed.load(Ordering::SeqCst), 1);
    assert_eq!(hook.managed().unwrap().load().as_str(), "one");
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_stays_past_the_deadline_is_counted_as_leaked() {
    let closed = Arc::new(AtomicUsize::new(0));
    let hook = hook(&closed);
    hook.prepare(&set("one")).await.unwrap().commit();
    let guard = hook.managed().unwrap().load();
    let retired = hook.prepare(&set("two")).await.unwrap().commit();
    let mut report = retired.drain(soon()).await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Leaked, 1));
    assert_eq!(guard.as_str(), "one");
    assert_eq!(closed.load(Ordering::SeqCst), 1);
    // It tells when the last one has let go after all.
    let mut later = tokio::spawn(report.take_later().unwrap());
    assert!(timeout(Duration::from_secs(3600), &mut later).await.is_err());
    drop(guard);
    later.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_user_that_ends_when_it_is_closed_is_counted_as_forced() {
    let ended = Arc::new(tokio::sync::Notify::new());
    let end = Arc::clone(&ended);
    let hook = ManagedHook::new("a".parse().unwrap(), [reference()], |_| async { Ok(()) }).close(
        move |_| {
            end.notify_one();
            async {}
        },
    );
    hook.prepare(&set("one")).await.unwrap().commit();
    let managed = hook.managed().unwrap();
    let user = tokio::spawn(async move {
        let _guard = managed.load();
        ended.notified().await;
    });
    tokio::task::yield_now().await;
    let report = hook.prepare(&set("two")).await.unwrap().commit().drain(soon()).await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Forced, 1));
    user.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_close_that_does_not_end_is_a_leak_though_every_guard_is_gone() {
    let hook = ManagedHook::new("a".parse().unwrap(), [reference()], |_| async { Ok(()) })
        .close(|_| std::future::pending());
    hook.prepare(&set("one")).await.unwrap().commit();
    let report = hook.prepare(&set("two")).await.unwrap().commit().drain(soon()).await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Leaked, 1));
    assert!(report.error.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_close_has_the_time_of_the_drain() {
    let hook = ManagedHook::new("a".parse().unwrap(), [reference()], |_| async { Ok(()) })
        .close(|_| tokio::time::sleep(Duration::from_secs(20)));
    hook.prepare(&set("one")).await.unwrap().commit();
    let retired = hook.prepare(&set("two")).await.unwrap().commit();
    let report = retired.drain(Instant::now() + Duration::from_secs(30)).await;
    assert_eq!(report, DrainReport::drained());
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_leaked_is_named_with_the_place_where_it_was_taken() {
    let hook = hook(&Arc::default());
    hook.prepare(&set("one")).await.unwrap().commit();
    let managed = hook.managed().unwrap();
    let (kept, line) = (managed.load(), line!());
    drop(managed.load());
    let retired = hook.prepare(&set("two")).await.unwrap().commit();
    let report = retired.drain(soon()).await;
    let error = report.error.unwrap();
    assert!(error.contains(&format!("managed/tests.rs:{line}:")), "{error}");
    assert_eq!(error.matches("tests.rs").count(), 1, "only those that are held: {error}");
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn a_long_user_hears_that_it_is_replaced_and_then_that_it_is_cut_off() {
    let hook = ManagedHook::new("a".parse().unwrap(), [reference()], |_| async { Ok(()) });
    hook.prepare(&set("one")).await.unwrap().commit();
    let guard = hook.managed().unwrap().load();
    let (mut retired, mut cut_off) = (guard.retired(), guard.cut_off());
    assert!((&mut retired).now_or_never().is_none());
    let drain = hook.prepare(&set("two")).await.unwrap().commit();
    retired.await;
    assert!((&mut cut_off).now_or_never().is_none());
    let user = tokio::spawn(async move {
        cut_off.await;
        drop(guard);
    });
    let report = drain.drain(soon()).await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Forced, 1));
    user.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_retirement_does_not_hold_the_generation() {
    let hook = ManagedHook::new("a".parse().unwrap(), [reference()], |_| async { Ok(()) });
    hook.prepare(&set("one")).await.unwrap().commit();
    let cut_off = hook.managed().unwrap().load().cut_off();
    let drain = hook.prepare(&set("two")).await.unwrap().commit();
    assert_eq!(drain.drain(soon()).await, DrainReport::drained());
    cut_off.await;
}

#[tokio::test(start_paused = true)]
async fn an_adapter_may_give_its_users_less_time_than_the_rotation() {
    let hook = hook(&Arc::default()).drain_within(Duration::from_secs(2));
    hook.prepare(&set("one")).await.unwrap().commit();
    let guard = hook.managed().unwrap().load();
    let retired = hook.prepare(&set("two")).await.unwrap().commit();
    let began = Instant::now();
    let report = retired.drain(began + Duration::from_secs(600)).await;
    assert_eq!(report.outcome, DrainOutcome::Leaked);
    assert_eq!(began.elapsed(), Duration::from_secs(2) + RELEASE_GRACE);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_heard_once_and_only_of_what_serves() {
    let hook = hook(&Arc::default());
    hook.prepare(&set("one")).await.unwrap().commit();
    let mut refusals = hook.refusals().unwrap();
    assert!(hook.refusals().is_none(), "one listens");
    let managed = hook.managed().unwrap();
    let old = managed.load();
    for _ in 0..1000 {
        old.report_refused();
    }
    let refusal = refusals.next().await.unwrap();
    assert_eq!(refusal, Refusal::new([(reference(), Version::numbered(1))]));
    let _retired = hook.prepare(&set("two")).await.unwrap().commit();
    old.report_refused();
    assert!(timeout(Duration::from_secs(1), refusals.next()).await.is_err());
}

#[tokio::test]
async fn a_candidate_that_is_dropped_outside_of_the_runtime_is_closed() {
    let closed = Arc::new(AtomicUsize::new(0));
    let hook = hook(&closed);
    let candidate = hook.prepare(&set("one")).await.unwrap();
    std::thread::spawn(move || drop(candidate)).join().unwrap();
    let close = async {
        while closed.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), close).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_close_that_panics_is_a_leak_that_may_end_some_time() {
    let panics = Arc::new(AtomicUsize::new(2));
    let hook = ManagedHook::new("a".parse().unwrap(), [reference()], |_| async { Ok(()) }).close(
        move |_| {
            let panics = Arc::clone(&panics);
            async move {
                let left = panics.fetch_sub(1, Ordering::SeqCst);
                assert!(left < 2, "it cannot be closed yet, as it was told to");
            }
        },
    );
    hook.prepare(&set("one")).await.unwrap().commit();
    let mut report = hook.prepare(&set("two")).await.unwrap().commit().drain(soon()).await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Leaked, 1));
    assert!(report.error.as_deref().unwrap().contains("came to no end"));
    report.take_later().unwrap().await;
}
