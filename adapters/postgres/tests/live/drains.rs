//! How an old pool ends, and what of it is opened and closed when.

use std::time::Duration;

use oneiric_adapter_postgres::acquire;
use oneiric_core::{DrainOutcome, DrainReport, LifecycleHook as _, Managed};
use oneiric_testkit::live::Postgres;
use tokio::time::{Instant, sleep, timeout};

use crate::kinds::{Kind, Make, SIZE, first, rotate, serving};
use crate::server::{login, sessions, until_gone, with_roles};

/// Longer than any step that is not waited for.
const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);

crate::with_both_pools!(
    a_connection_that_outlives_its_guard_is_waited_for,
    a_connection_that_is_never_returned_is_cut_or_reported,
    a_user_that_ends_when_cut_off_was_forced,
    the_next_pool_is_warm_and_the_old_one_is_closed_at_a_pace,
    who_waits_for_a_pool_that_ends_gets_a_connection_of_the_next,
    who_waits_for_a_pool_that_is_in_use_gets_a_connection_of_the_next,
);

async fn a_connection_that_outlives_its_guard_is_waited_for<K: Kind>() {
    let Some(server) = with_roles() else { return };
    let hook = K::hook(Make::at(server.port()));
    let managed = first(&hook, "app_a", "a").await;

    let mut checked_out = managed.load().connection().await.unwrap();
    let retired = hook.prepare(&login("app_b", "b")).await.unwrap().commit();
    let drain = tokio::spawn(retired.drain(Instant::now() + LONG));
    sleep(SHORT).await;
    assert_eq!(K::who(&mut checked_out).await.unwrap().0, "app_a");
    assert!(!drain.is_finished());
    drop(checked_out);
    assert_eq!(drain.await.unwrap(), DrainReport::drained());
    until_gone(&server, "app_a").await;
}

async fn a_connection_that_is_never_returned_is_cut_or_reported<K: Kind>() {
    let Some(server) = with_roles() else { return };
    let hook = K::hook(Make::at(server.port()));
    let managed = first(&hook, "app_a", "a").await;

    let mut kept = managed.load().connection().await.unwrap();
    let mut other = managed.load().connection().await.unwrap();
    let mut report = rotate(&hook, "app_b", "b", SHORT).await;
    assert_eq!(serving(&managed).await, "app_b");
    assert_eq!(report.in_flight, 2, "{report:?}");
    if K::CUTS {
        assert_eq!(report.outcome, DrainOutcome::Forced, "{report:?}");
        K::who(&mut kept).await.unwrap_err();
        until_gone(&server, "app_a").await;
    } else {
        assert_eq!(report.outcome, DrainOutcome::Leaked, "{report:?}");
        let error = report.error.as_deref().unwrap();
        assert!(error.starts_with("2 connections are in use"), "{error}");
        // The runtime waits for its late end, which closes what the first attempt left open.
        let mut later = tokio::spawn(report.take_later().unwrap());
        K::who(&mut other).await.unwrap();
        drop(other);
        assert!(timeout(SHORT, &mut later).await.is_err());
        drop(kept);
        later.await.unwrap();
        until_gone(&server, "app_a").await;
    }
}

async fn a_user_that_ends_when_cut_off_was_forced<K: Kind>() {
    let Some(server) = with_roles() else { return };
    let hook = K::hook(Make::at(server.port()));
    let managed = first(&hook, "app_a", "a").await;

    let lease = acquire(&managed).await.unwrap();
    assert_eq!(lease.generation(), 1);
    let user = tokio::spawn(async move { lease.cut_off().await });
    let report = rotate(&hook, "app_b", "b", SHORT).await;
    assert_eq!(report, DrainReport::forced(1));
    user.await.unwrap();
    until_gone(&server, "app_a").await;
}

/// Opens all connections that the pool may have.
async fn fill<K: Kind>(managed: &Managed<K>, server: &Postgres, role: &str) {
    let mut open = Vec::new();
    for _ in 0..SIZE {
        open.push(acquire(managed).await.unwrap());
    }
    assert_eq!(sessions(server, role), SIZE);
    drop(open);
    // They go back in tasks of their own.
    while managed.load().in_use() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

async fn the_next_pool_is_warm_and_the_old_one_is_closed_at_a_pace<K: Kind>() {
    let Some(server) = with_roles() else { return };
    let hook = K::hook(Make { pace: 2, ..Make::at(server.port()) });
    let managed = first(&hook, "app_a", "a").await;
    fill(&managed, &server, "app_a").await;

    let user = acquire(&managed).await.unwrap();
    let prepared = hook.prepare(&login("app_b", "b")).await.unwrap();
    assert_eq!((sessions(&server, "app_a"), sessions(&server, "app_b")), (SIZE, SIZE));
    let committed = Instant::now();
    let drain = tokio::spawn(prepared.commit().drain(committed + LONG));
    // The first at once, then one each half second, down to the one that is in use.
    let mut left = SIZE;
    while left > 1 {
        let now = sessions(&server, "app_a");
        assert!(left - now <= 1, "{} were closed at once", left - now);
        if now < left {
            let turns = u32::try_from(SIZE - left).unwrap();
            assert!(committed.elapsed() >= turns * Duration::from_millis(500), "{left} are left");
        }
        left = now;
        assert!(committed.elapsed() < LONG, "idle connections are kept open");
        sleep(Duration::from_millis(5)).await;
    }
    assert!(!drain.is_finished());
    drop(user);
    assert_eq!(drain.await.unwrap(), DrainReport::drained());
    until_gone(&server, "app_a").await;

    // At the deadline, and when it was given up, nothing is paced.
    fill(&managed, &server, "app_b").await;
    let given_up = hook.prepare(&login("app_a", "a")).await.unwrap();
    let started = Instant::now();
    drop(given_up);
    until_gone(&server, "app_a").await;
    rotate(&hook, "app_a", "a", SHORT).await;
    until_gone(&server, "app_b").await;
    assert!(started.elapsed() < Duration::from_millis(1500), "it took {:?}", started.elapsed());
}

async fn who_waits_for_a_pool_that_ends_gets_a_connection_of_the_next<K: Kind>() {
    let Some(server) = with_roles() else { return };
    let hook = K::hook(Make::at(server.port()));
    let managed = first(&hook, "app_a", "a").await;
    let mut all = Vec::new();
    for _ in 0..SIZE {
        all.push(managed.load().connection().await.unwrap());
    }
    let (waiting, old) = (managed.clone(), managed.load().clone());
    let waits = tokio::spawn(async move { acquire(&waiting).await.map(|of| of.generation()) });
    // It comes to ask when the pool has ended.
    let late = acquire(&managed);
    sleep(SHORT).await;
    let drain = hook.prepare(&login("app_b", "b")).await.unwrap().commit();
    let drain = tokio::spawn(drain.drain(Instant::now() + SHORT));
    assert_eq!(timeout(LONG, waits).await.unwrap().unwrap().unwrap(), 2);
    while !old.is_stopped() {
        sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(late.await.unwrap().generation(), 2);
    drop(all);
    drain.await.unwrap();
}

async fn who_waits_for_a_pool_that_is_in_use_gets_a_connection_of_the_next<K: Kind>() {
    let Some(server) = with_roles() else { return };
    let hook = K::hook(Make { patience: 3 * LONG, ..Make::at(server.port()) });
    let managed = first(&hook, "app_a", "a").await;
    let mut all = Vec::new();
    for _ in 0..SIZE {
        all.push(acquire(&managed).await.unwrap());
    }
    let waiting = managed.clone();
    let waits = tokio::spawn(async move { acquire(&waiting).await.map(|of| of.generation()) });
    sleep(SHORT).await;
    assert!(!waits.is_finished(), "every connection is in use");
    // Nobody drains the old one, and none of its connections comes back.
    let _retired = hook.prepare(&login("app_b", "b")).await.unwrap().commit();
    assert_eq!(timeout(LONG, waits).await.unwrap().unwrap().unwrap(), 2);
    assert!(all.iter().all(|of| of.generation() == 1));
}
