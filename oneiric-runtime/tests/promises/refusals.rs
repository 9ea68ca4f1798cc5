//! What follows when the users of an adapter report that its credential is refused.

use std::time::Duration;

use oneiric_core::ErrorKind;
use oneiric_runtime::RotateRequest;
use oneiric_runtime::report::{AdapterOutcome, AdapterStatus, Outcome};
use oneiric_secrets::Mode;
use tokio::time::sleep;

use crate::support::{Adapter, Rig, scope};

const MINUTE: Duration = Duration::from_secs(60);

/// An adapter that was moved from "one" to "two" a moment ago.
async fn just_moved(rig: &Rig) -> Adapter {
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    rig.store.put("a", "two");
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::Done);
    assert_eq!(adapter.serves(), "two");
    adapter
}

async fn refuse(adapter: &Adapter) {
    adapter.managed().load().report_refused();
    sleep(Duration::from_secs(1)).await;
}

async fn status(rig: &Rig) -> AdapterStatus {
    rig.runtime.status().await.unwrap().adapters.remove(0)
}

#[tokio::test(start_paused = true)]
async fn a_refused_credential_makes_the_store_be_read_once_however_many_report_it() {
    let rig = Rig::start(Duration::ZERO);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    rig.store.put("a", "two");
    let before = rig.store.fetches();
    for _ in 0..1000 {
        adapter.managed().load().report_refused();
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(adapter.serves(), "two");
    assert_eq!((rig.store.fetches() - before, adapter.prepares()), (1, 2));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_can_make_refusals_hammer_the_store() {
    let rig = Rig::start(Duration::ZERO);
    rig.store.put("a", "one");
    let adapters = [rig.adapter("one", &["a"]).await, rig.adapter("two", &["a"]).await];
    let before = rig.store.fetches();
    for _ in 0..6000 {
        adapters.iter().for_each(|adapter| adapter.managed().load().report_refused());
        sleep(Duration::from_millis(10)).await;
    }
    let reads = rig.store.fetches() - before;
    assert!((5..=7).contains(&reads), "{reads} reads in a minute");
    assert_eq!(adapters.iter().map(Adapter::prepares).sum::<usize>(), 2);
    let error = status(&rig).await.error.unwrap();
    assert!(error.contains("nothing to go back to") && error.contains("`mem:a`"), "{error}");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_soon_after_a_swap_is_gone_back_from_and_not_taken_unasked() {
    let rig = Rig::start(Duration::from_secs(30));
    let adapter = just_moved(&rig).await;
    refuse(&adapter).await;
    assert_eq!((adapter.serves().as_str(), status(&rig).await.generation), ("one", 3));
    let error = status(&rig).await.error.unwrap();
    assert!(error.contains("version 2 of `mem:a`"), "{error}");

    // No sweep and no retry moves it there again.
    sleep(10 * MINUTE).await;
    assert_eq!((adapter.serves().as_str(), status(&rig).await.generation), ("one", 3));

    // Something newer is taken, and all is well.
    rig.store.put("a", "three");
    sleep(MINUTE).await;
    assert_eq!(adapter.serves(), "three");
    assert_eq!(status(&rig).await.error, None);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_does_not_come_along_with_something_else() {
    let rig = Rig::start(Duration::from_secs(30));
    rig.store.put_all([("a", "a1"), ("b", "b1")]);
    let (of_both, of_b) =
        (rig.adapter("both", &["a", "b"]).await, rig.adapter("of-b", &["b"]).await);
    rig.store.put("a", "a2");
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::Done);
    refuse(&of_both).await;
    assert_eq!(of_both.serves(), "a1,b1");
    rig.store.put("b", "b2");
    sleep(10 * MINUTE).await;
    assert_eq!((of_both.serves().as_str(), of_b.serves().as_str()), ("a1,b1", "b2"));
    assert!(status(&rig).await.error.unwrap().contains("`mem:a`"));
    rig.store.put("a", "a3");
    sleep(10 * MINUTE).await;
    assert_eq!(of_both.serves(), "a3,b2");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_not_answered_by_a_rotation_that_holds_something_back() {
    let rig = Rig::start(Duration::from_secs(30));
    rig.store.put_all([("a", "a1"), ("b", "b1")]);
    let (of_both, of_b) =
        (rig.adapter("both", &["a", "b"]).await, rig.adapter("of-b", &["b"]).await);
    rig.store.put("a", "a2");
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::Done);
    refuse(&of_both).await;
    assert_eq!(of_both.serves(), "a1,b1");
    // A sweep finds this, and prepares one adapter for long while the other is held back.
    of_b.hang.store(true, std::sync::atomic::Ordering::SeqCst);
    rig.store.put("b", "b2");
    while of_b.prepares() < 2 {
        sleep(Duration::from_secs(1)).await;
    }
    of_b.hang.store(false, std::sync::atomic::Ordering::SeqCst);
    let report = rig.rotate(&["b"]).await;
    assert_eq!(report.outcome, Outcome::Done, "{report:?}");
    assert_eq!((of_both.serves().as_str(), of_b.serves().as_str()), ("a2,b2", "b2"));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_what_was_refused_gets_it() {
    let rig = Rig::start(Duration::ZERO);
    let adapter = just_moved(&rig).await;
    refuse(&adapter).await;
    assert_eq!(adapter.serves(), "one");
    let report = rig.rotate(&["a"]).await;
    assert_eq!((report.outcome, adapter.serves().as_str()), (Outcome::Done, "two"));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_generation_is_gone_back_from_more_than_once() {
    let rig = Rig::start(Duration::ZERO);
    let adapter = just_moved(&rig).await;
    refuse(&adapter).await;
    assert_eq!(adapter.serves(), "one");
    // The old one has ended by now, and the other is tried again.
    sleep(Duration::from_secs(20)).await;
    refuse(&adapter).await;
    assert_eq!(adapter.serves(), "two");
    // And that is the end of it.
    for _ in 0..20 {
        sleep(Duration::from_secs(20)).await;
        refuse(&adapter).await;
        assert_eq!((adapter.serves().as_str(), status(&rig).await.generation), ("two", 4));
    }
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l5_a_store_that_is_down_does_not_keep_an_adapter_from_going_back() {
    let rig = Rig::start(Duration::ZERO);
    let adapter = just_moved(&rig).await;
    rig.store.fail(Some(ErrorKind::Unavailable));
    adapter.managed().load().report_refused();
    sleep(MINUTE).await;
    assert_eq!(adapter.serves(), "one");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_work_any_more_is_not_gone_back_to() {
    let rig = Rig::start(Duration::ZERO);
    let adapter = just_moved(&rig).await;
    adapter.refuse.store(true, std::sync::atomic::Ordering::SeqCst);
    refuse(&adapter).await;
    assert_eq!((adapter.serves().as_str(), status(&rig).await.generation), ("two", 2));
    assert!(status(&rig).await.error.unwrap().contains("nothing to go back to"));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_has_leaked_or_is_long_ago_is_not_gone_back_to() {
    let rig = Rig::start(Duration::ZERO);
    let adapter = just_moved(&rig).await;
    sleep(6 * MINUTE).await;
    refuse(&adapter).await;
    assert_eq!(adapter.serves(), "two", "it is long ago");

    rig.store.put("a", "two and a half");
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::Done);
    rig.store.put("a", "three");
    let mut hard = RotateRequest::new(scope(&["a"]));
    hard.mode = Mode::Hard;
    let report = rig.runtime.rotate(hard.clone()).await;
    assert_eq!(report.adapters[0].outcome, AdapterOutcome::Drained);
    sleep(Duration::from_secs(20)).await;
    refuse(&adapter).await;
    assert_eq!(adapter.serves(), "three", "what was before it has leaked");

    rig.store.put("a", "four");
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::Done);
    assert_eq!(rig.runtime.rotate(hard).await.outcome, Outcome::Done);
    sleep(Duration::from_secs(20)).await;
    refuse(&adapter).await;
    assert_eq!(adapter.serves(), "four", "it was said to have leaked since");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_report_about_an_old_generation_has_no_effect() {
    let rig = Rig::start(Duration::ZERO);
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    let old = adapter.managed().load();
    rig.store.put("a", "two");
    let runtime = rig.runtime.clone();
    let rotation =
        tokio::spawn(async move { runtime.rotate(RotateRequest::new(scope(&["a"]))).await });
    sleep(Duration::from_secs(1)).await;
    assert_eq!(adapter.serves(), "two");
    let before = rig.store.fetches();
    old.report_refused();
    sleep(Duration::from_secs(30)).await;
    assert_eq!((rig.store.fetches(), adapter.serves().as_str()), (before, "two"));
    drop(old);
    rotation.await.unwrap();
    rig.stop().await;
}
