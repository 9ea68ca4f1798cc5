//! Events that are lost, doubled, reordered, late or many: what is read because of them, and what
//! counts as missed.

use std::time::Duration;

use oneiric_core::{Change, Detection, ErrorKind};
use tokio::time::sleep;

use crate::metered::Metered;
use crate::support::Rig;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn an_event_of_an_older_version_than_held_is_no_news() {
    let rig = Rig::start(HOUR);
    rig.store.put_version("a", "five", 5);
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(SECOND).await;
    let (fetches, prepares) = (rig.store.fetches(), adapter.prepares());
    rig.announce("a", 3);
    rig.announce("a", 5);
    sleep(SECOND).await;
    assert_eq!((rig.store.fetches(), adapter.prepares()), (fetches, prepares));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_events_is_one_read_and_one_prepare() {
    let rig = Rig::start(HOUR);
    rig.store.put("a", "v1");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(SECOND).await;
    let (fetches, prepares) = (rig.store.fetches(), adapter.prepares());
    rig.store.latency(SECOND / 20);
    rig.store.put_version("a", "v101", 101);
    for version in 2..=101 {
        rig.announce("a", version);
    }
    sleep(5 * SECOND).await;
    assert_eq!(adapter.serves(), "v101");
    assert_eq!((rig.store.fetches() - fetches, adapter.prepares() - prepares), (1, 1));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_that_comes_again_while_it_is_followed_causes_no_second_read() {
    let rig = Rig::start(HOUR);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(SECOND).await;
    let fetches = rig.store.fetches();
    rig.store.latency(SECOND);
    rig.store.put("a", "two");
    for _ in 0..10 {
        rig.announce("a", 2);
        sleep(SECOND / 20).await;
    }
    sleep(10 * SECOND).await;
    assert_eq!((adapter.serves().as_str(), rig.store.fetches() - fetches), ("two", 1));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn events_in_the_wrong_order_end_at_the_newest() {
    let rig = Rig::start(HOUR);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(SECOND).await;
    let prepares = adapter.prepares();
    rig.store.put("a", "two");
    rig.store.put("a", "three");
    for version in [3, 2] {
        rig.announce("a", version);
        sleep(SECOND).await;
    }
    assert_eq!((adapter.serves().as_str(), adapter.prepares() - prepares), ("three", 1));
    assert_eq!(rig.watched().await.missed_events, 0);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_without_a_version_reads_only_what_has_another_stamp() {
    let rig = Rig::start(HOUR);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(SECOND).await;
    let (fetches, looks) = (rig.store.fetches(), rig.store.stamp_calls());
    for _ in 0..100 {
        rig.announce("a", None);
    }
    sleep(SECOND).await;
    assert_eq!((rig.store.fetches(), rig.store.stamp_calls() - looks), (fetches, 1));
    rig.store.put("a", "two");
    rig.announce("a", None);
    sleep(SECOND).await;
    assert_eq!(adapter.serves(), "two");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_stamps_an_event_is_followed_and_the_time_alone_reads_nothing() {
    let metered = Metered::with(Detection::default(), false);
    let rig = Rig::metered(&metered, 30 * SECOND);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(SECOND).await;
    let fetches = rig.store.fetches();
    sleep(300 * SECOND).await;
    assert_eq!(rig.store.fetches(), fetches, "nothing has changed");
    rig.store.put("a", "two");
    rig.announce("a", None);
    sleep(SECOND).await;
    assert_eq!(adapter.serves(), "two");
    rig.store.put("a", "three");
    rig.store.announce(Change::Anything);
    sleep(SECOND).await;
    assert_eq!(adapter.serves(), "three");
    assert_eq!(rig.watched().await.mode, "push+ttl");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_read_failed_is_followed_again_after_the_short_interval() {
    let metered = Metered::new();
    let rig = Rig::metered(&metered, 30 * SECOND);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    // By now the sweep is the slow one.
    sleep(60 * SECOND).await;
    rig.store.put("a", "two");
    rig.store.fail(Some(ErrorKind::Denied));
    rig.announce("a", 2);
    sleep(SECOND).await;
    rig.store.fail(None);
    assert_eq!(adapter.serves(), "one");
    sleep(60 * SECOND).await;
    assert_eq!(adapter.serves(), "two");
    assert_eq!(rig.watched().await.missed_events, 0);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_push_has_told_is_not_missed() {
    let rig = Rig::start(10 * SECOND);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    for version in 2..=20 {
        rig.store.put("a", format!("v{version}"));
        rig.announce("a", version);
        sleep(9 * SECOND).await;
    }
    assert_eq!(adapter.serves(), "v20");
    assert_eq!(rig.watched().await.missed_events, 0);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_push_has_not_told_is_missed_once_each() {
    let rig = Rig::start(10 * SECOND);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(SECOND).await;
    for (number, value) in ["two", "three"].into_iter().enumerate() {
        rig.store.put("a", value);
        sleep(60 * SECOND).await;
        assert_eq!(adapter.serves(), value);
        assert_eq!(rig.watched().await.missed_events, number as u64 + 1);
    }
    rig.store.put("a", "four");
    rig.announce("a", 4);
    sleep(60 * SECOND).await;
    assert_eq!((adapter.serves().as_str(), rig.watched().await.missed_events), ("four", 2));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_carried_through_is_missed_once_and_not_at_each_sweep() {
    let rig = Rig::start(10 * SECOND);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(SECOND).await;
    rig.store.put("a", "changeme");
    sleep(120 * SECOND).await;
    assert_eq!((adapter.serves().as_str(), rig.watched().await.missed_events), ("one", 1));
    rig.store.put("a", "three");
    sleep(30 * SECOND).await;
    assert_eq!(adapter.serves(), "three");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_push_tells_while_the_sweep_is_looking_is_not_missed() {
    let metered = Metered::new();
    let rig = Rig::metered(&metered, 30 * SECOND);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(SECOND).await;
    metered.slow_looks(5 * SECOND);
    rig.store.latency(8 * SECOND);
    rig.store.put("a", "two");
    while !metered.is_looked_at() {
        sleep(SECOND / 10).await;
    }
    rig.announce("a", 2);
    // The sweep ends before the read.
    sleep(6 * SECOND).await;
    assert_eq!((adapter.serves().as_str(), rig.watched().await.missed_events), ("one", 0));
    sleep(30 * SECOND).await;
    assert_eq!((adapter.serves().as_str(), rig.watched().await.missed_events), ("two", 0));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_look_from_before_a_change_is_no_change_back() {
    let metered = Metered::new();
    let rig = Rig::metered(&metered, 30 * SECOND);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(SECOND).await;
    metered.slow_looks(5 * SECOND);
    while !metered.is_looked_at() {
        sleep(SECOND / 10).await;
    }
    let fetches = rig.store.fetches();
    // Read while the sweep is on its way with the old stamp.
    rig.store.put("a", "two");
    rig.announce("a", 2);
    sleep(20 * SECOND).await;
    assert_eq!((adapter.serves().as_str(), rig.watched().await.missed_events), ("two", 0));
    assert_eq!(rig.store.fetches() - fetches, 1);
    rig.stop().await;
}
