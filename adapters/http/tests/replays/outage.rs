//! E8: the store is down for hours while requests go on, and then it is back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use oneiric_core::ErrorKind;
use oneiric_testkit::MemoryProvider;
use tokio::time::sleep;

use crate::support::{HOUR, MINUTE, Process, SECOND, Upstream, naive_users};

const PROCESSES: usize = 10;

fn before() -> (Arc<MemoryProvider>, Upstream) {
    let (store, upstream) = (MemoryProvider::new(), Upstream::of(1));
    store.put("token", "first");
    upstream.accept(.., "first");
    (store, upstream)
}

fn calls(store: &MemoryProvider) -> u64 {
    store.fetches() + store.stamp_calls()
}

#[tokio::test(start_paused = true)]
async fn e8_a_store_that_is_down_for_hours_fails_no_request_and_is_not_stormed_after() {
    let (store, upstream) = before();
    let starting = (0..PROCESSES).map(|_| Process::start(&store, &upstream));
    let processes = join_all(starting).await;
    let loads: Vec<_> = processes.iter().map(|process| process.users(&upstream)).collect();
    loads.iter().for_each(|load| load.every(5 * SECOND));
    sleep(MINUTE).await;

    store.fail(Some(ErrorKind::Unavailable));
    loads.iter().for_each(|load| load.every(5 * MINUTE));
    sleep(6 * HOUR).await;
    // It is back, with something new.
    upstream.accept(.., "second");
    let before = calls(&store);
    store.put("token", "second");
    store.fail(None);
    sleep(SECOND).await;
    let at_once = calls(&store) - before;
    sleep(10 * MINUTE).await;
    let in_all = calls(&store) - before;

    // A process asks every half a minute whether anything has changed, and reads it once.
    let fleet = PROCESSES as u64;
    assert!(at_once <= 2 * fleet, "{at_once} calls in the first second");
    assert!(in_all <= (20 + 3) * fleet, "{in_all} calls in ten minutes");
    upstream.revoke("first");
    sleep(10 * MINUTE).await;
    for (process, load) in processes.into_iter().zip(loads) {
        let (sent, failed) = load.stop().await;
        assert!(failed == 0 && sent > 500, "{failed} of {sent} failed");
        assert_eq!(process.status().await.generation, 2);
        assert_eq!(process.proofs.load(Ordering::SeqCst), 2);
        process.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn e8_a_plain_cache_fails_with_its_store() {
    let (store, upstream) = before();
    let load = naive_users(&store, &upstream);
    sleep(MINUTE).await;
    assert_eq!(load.counts().1, 0);
    store.fail(Some(ErrorKind::Unavailable));
    sleep(MINUTE).await;
    let (sent, failed) = load.stop().await;
    assert!(failed > sent / 4, "{failed} of {sent} failed");
}
