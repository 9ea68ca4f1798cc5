//! The sweep: how often, how long, beside what, and what the status says of it.

use std::num::NonZeroU32;
use std::time::Duration;

use oneiric_core::{Change, Detection};
use tokio::time::{Instant, sleep};

use crate::metered::Metered;
use crate::support::Rig;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn a_sweep_does_not_make_deaf_to_push() {
    let metered = Metered::new();
    let rig = Rig::metered(&metered, 30 * SECOND);
    rig.store.put("a", "one");
    rig.store.put("b", "one");
    let adapter = rig.adapter("pool", &["a", "b"]).await;
    metered.slow_looks(50 * SECOND);
    while !metered.is_looked_at() {
        sleep(SECOND).await;
    }
    rig.store.put("a", "two");
    rig.announce("a", 2);
    sleep(SECOND).await;
    assert_eq!(adapter.serves(), "two,one");
    assert!(metered.is_looked_at(), "the sweep is still running");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_sweep_and_leaves_none_behind() {
    let metered = Metered::new();
    let rig = Rig::metered(&metered, 30 * SECOND);
    rig.store.put("a", "one");
    let _adapter = rig.adapter("pool", &["a"]).await;
    metered.slow_looks(50 * SECOND);
    while !metered.is_looked_at() {
        sleep(SECOND).await;
    }
    let stopping = Instant::now();
    rig.stop().await;
    assert!(stopping.elapsed() < SECOND, "{:?}", stopping.elapsed());
    assert!(!metered.is_looked_at());
}

#[tokio::test(start_paused = true)]
async fn a_sweep_may_take_as_long_as_the_quota_of_the_store_makes_of_it() {
    // Twenty keys at six a minute: 200 seconds.
    let detection = Detection {
        calls_a_minute: NonZeroU32::new(6),
        settles_within: None,
        ..Detection::default()
    };
    let metered = Metered::with(detection, true);
    let rig = Rig::metered(&metered, 30 * SECOND);
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    keys.iter().for_each(|key| rig.store.put(key, "one"));
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let adapter = rig.adapter("pool", &keys).await;
    metered.slow_looks(200 * SECOND);
    rig.store.put("k7", "two");
    sleep(240 * SECOND).await;
    assert!(adapter.serves().contains("two"));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_look_that_hangs_ends_some_time_and_the_next_one_sees() {
    let metered = Metered::new();
    let rig = Rig::metered(&metered, 30 * SECOND);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    metered.slow_looks(HOUR);
    sleep(40 * SECOND).await;
    metered.slow_looks(Duration::ZERO);
    rig.store.put("a", "two");
    sleep(120 * SECOND).await;
    assert_eq!(adapter.serves(), "two");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn sweeps_never_run_side_by_side_however_many_want_one() {
    let metered = Metered::new();
    let rig = Rig::metered(&metered, 10 * SECOND);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(SECOND).await;
    metered.slow_looks(20 * SECOND);
    let looks = rig.store.stamp_calls();
    for _ in 0..10 {
        rig.store.announce(Change::Anything);
        sleep(SECOND).await;
    }
    // What changes after the look that is running has begun is found by one more.
    rig.store.put("a", "two");
    rig.store.announce(Change::Anything);
    sleep(35 * SECOND).await;
    assert_eq!(metered.most_at_once(), 1);
    assert_eq!(rig.store.stamp_calls() - looks, 2);
    assert_eq!(adapter.serves(), "two");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn behind_push_a_store_with_a_price_is_swept_seldom_and_without_it_often() {
    let metered = Metered::new();
    let rig = Rig::metered(&metered, 30 * SECOND);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    // The first sweeps also find what the young subscription has not told.
    sleep(120 * SECOND).await;
    let looks = rig.store.stamp_calls();
    sleep(1800 * SECOND).await;
    assert_eq!(rig.store.stamp_calls() - looks, 0);
    let status = rig.watched().await;
    assert_eq!((status.mode.as_str(), status.push_lost), ("push+sweep", false));
    // Its own time to live brings a value anew before so rare a sweep would.
    assert_eq!((status.calls_a_day, status.at_least_s), (24.0, Some(600.0)));

    metered.deaf(true);
    sleep(300 * SECOND).await;
    let often = rig.store.stamp_calls() - looks;
    assert!((8..=12).contains(&often), "{often} looks in five minutes");
    let status = rig.watched().await;
    assert_eq!((status.mode.as_str(), status.push_lost), ("sweep", true));
    assert_eq!((status.worst_case_s, status.at_least_s), (None, Some(33.0)));

    // Once the subscription is back, what happened without it is found at once.
    rig.store.put("a", "two");
    metered.deaf(false);
    sleep(62 * SECOND).await;
    assert_eq!(adapter.serves(), "two");
    assert!(!rig.watched().await.push_lost);
    sleep(120 * SECOND).await;
    let looks = rig.store.stamp_calls();
    sleep(1800 * SECOND).await;
    assert_eq!(rig.store.stamp_calls() - looks, 0);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_local_store_is_swept_as_often_behind_push() {
    let metered = Metered::with(Detection::default(), true);
    let rig = Rig::metered(&metered, 30 * SECOND);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(600 * SECOND).await;
    rig.store.put("a", "two");
    sleep(34 * SECOND).await;
    assert_eq!(adapter.serves(), "two");
    let status = rig.watched().await;
    assert_eq!((status.keys, status.worst_case_s, status.usd_a_month), (1, Some(33.0), Some(0.0)));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_comes_back_is_followed_by_a_sweep_at_once() {
    let metered = Metered::new();
    let rig = Rig::metered(&metered, HOUR);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(120 * SECOND).await;
    rig.store.put("a", "two");
    rig.store.hang_up();
    sleep(2 * SECOND).await;
    assert_eq!(adapter.serves(), "two");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_was_refused_at_first_is_asked_for_again() {
    let metered = Metered::new();
    metered.deaf(true);
    let rig = Rig::metered(&metered, HOUR);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(10 * SECOND).await;
    assert!(rig.watched().await.push_lost);
    metered.deaf(false);
    sleep(62 * SECOND).await;
    assert!(!rig.watched().await.push_lost);
    rig.store.put("a", "two");
    rig.announce("a", 2);
    sleep(SECOND).await;
    assert_eq!(adapter.serves(), "two");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_interval_beyond_all_measure_is_a_long_one() {
    let rig = Rig::start(Duration::MAX);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    sleep(SECOND).await;
    rig.store.put("a", "two");
    rig.announce("a", 2);
    sleep(SECOND).await;
    assert_eq!(adapter.serves(), "two");
    assert_eq!(rig.watched().await.mode, "push+sweep");
    rig.stop().await;
}
