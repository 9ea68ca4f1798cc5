//! The watcher notices changes by push and by sweep, and survives everything.

use std::time::Duration;

use crate::support::Rig;
use oneiric_core::{Change, ErrorKind, Version};

#[tokio::test(start_paused = true)]
async fn a_pushed_change_reaches_the_adapter_at_once() {
    let rig = Rig::start(Duration::from_secs(3600));
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.store.put("a", "two");
    let version = Some(Version::numbered(2));
    rig.store.announce(Change::Secret { key: "a".parse().unwrap(), version });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(adapter.serves(), "two");
    rig.store.put("a", "three");
    rig.store.announce(Change::Anything);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(adapter.serves(), "three");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_event_is_found_by_the_sweep() {
    let rig = Rig::start(Duration::from_secs(30));
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    rig.store.put("a", "two");
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(adapter.serves(), "two");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_before_its_data_waits_for_the_data() {
    let rig = Rig::start(Duration::from_secs(3600));
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let version = Some(Version::numbered(2));
    rig.store.announce(Change::Secret { key: "a".parse().unwrap(), version });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(adapter.serves(), "one");
    rig.store.put("a", "two");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(adapter.serves(), "two");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn doubled_and_foreign_events_cause_no_prepare() {
    let rig = Rig::start(Duration::from_secs(3600));
    rig.store.put("a", "one");
    rig.store.put("foreign", "x");
    let adapter = rig.adapter("pool", &["a"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (fetches, prepares) = (rig.store.fetches(), adapter.prepares());
    for _ in 0..100 {
        let version = Some(Version::numbered(1));
        rig.store.announce(Change::Secret { key: "a".parse().unwrap(), version });
        rig.store.announce(Change::Secret { key: "foreign".parse().unwrap(), version: None });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((rig.store.fetches(), adapter.prepares()), (fetches, prepares));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_changes_causes_at_most_two_prepares() {
    let rig = Rig::start(Duration::from_secs(3600));
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let prepares = adapter.prepares();
    rig.store.latency(Duration::from_millis(50));
    for n in 0..100 {
        rig.store.put("a", format!("v{n}"));
        rig.store.announce(Change::Anything);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(adapter.serves(), "v99");
    assert!(adapter.prepares() - prepares <= 2, "{}", adapter.prepares() - prepares);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_subscription_is_taken_up_again() {
    let rig = Rig::start(Duration::from_secs(3600));
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.store.hang_up();
    // What happens in the gap is found when the subscription is back.
    rig.store.put("a", "two");
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(adapter.serves(), "two");
    rig.store.put("a", "three");
    rig.store.announce(Change::Anything);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(adapter.serves(), "three");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_panicking_failing_or_hanging_provider_does_not_end_the_watch() {
    let rig = Rig::start(Duration::from_secs(10));
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    rig.store.fail(Some(ErrorKind::Bug));
    tokio::time::sleep(Duration::from_secs(100)).await;
    rig.store.fail(None);
    rig.store.put("a", "two");
    rig.store.panic_next();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(adapter.serves(), "two");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_interval_of_zero_watches_nothing() {
    let rig = Rig::start(Duration::ZERO);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    let (fetches, stamps) = (rig.store.fetches(), rig.store.stamp_calls());
    rig.store.put("a", "two");
    rig.store.announce(Change::Anything);
    tokio::time::sleep(Duration::from_secs(7200)).await;
    assert_eq!(adapter.serves(), "one");
    assert_eq!((rig.store.fetches(), rig.store.stamp_calls()), (fetches, stamps));
    assert_eq!(rig.store.subscribers(), 0);
    rig.stop().await;
}
