//! The promises of the lifecycle, each by its name in the design.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{Adapter, Rig, scope};
use oneiric_core::ErrorKind;
use oneiric_runtime::RotateRequest;
use oneiric_runtime::report::{AdapterOutcome, Outcome};
use oneiric_secrets::{Mode, Scope};

fn unwatched() -> Rig {
    Rig::start(Duration::ZERO)
}

#[tokio::test(start_paused = true)]
async fn a_rotation_carries_a_change_through_and_reports_it() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    assert_eq!(adapter.serves(), "one");
    rig.store.put("a", "two");
    let report = rig.rotate(&["a"]).await;
    assert_eq!(report.outcome, Outcome::Done, "{report:?}");
    assert_eq!(adapter.serves(), "two");
    let key = &report.keys[0];
    assert_eq!((key.key.as_str(), report.keys.len()), ("a", 1));
    assert_eq!((key.from_version.as_deref(), key.to_version.as_deref()), (Some("1"), Some("2")));
    let of = &report.adapters[0];
    assert_eq!((of.outcome, of.generation), (AdapterOutcome::Drained, 2));
    assert!(of.prepare_ms.is_some() && of.drain_ms.is_some() && of.error.is_none());
    assert_eq!(adapter.closes.load(Ordering::SeqCst), 1, "the old generation was released");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l1_a_failing_prepare_changes_nothing_that_serves() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    rig.store.put("a", "two");
    for (fault, outcome) in [
        (&adapter.refuse, AdapterOutcome::Refused),
        (&adapter.panic, AdapterOutcome::Failed),
        (&adapter.hang, AdapterOutcome::Failed),
    ] {
        fault.store(true, Ordering::SeqCst);
        let report = rig.rotate(&["a"]).await;
        assert_eq!(report.outcome, Outcome::RolledBack, "{report:?}");
        assert_eq!((report.adapters[0].outcome, report.adapters[0].generation), (outcome, 1));
        assert!(report.adapters[0].error.is_some());
        assert_eq!(adapter.serves(), "one");
        fault.store(false, Ordering::SeqCst);
    }
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::Done);
    assert_eq!(adapter.serves(), "two");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l1_what_was_refused_is_tried_again_until_it_is_taken_over() {
    let rig = Rig::start(Duration::from_secs(30));
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    rig.store.put("a", "two");
    adapter.refuse.store(true, Ordering::SeqCst);
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::RolledBack);
    let status = rig.runtime.status().await.unwrap();
    assert!(status.adapters[0].error.as_deref().unwrap().contains("login failed"));
    // The service that the secret is for learns of it a little later.
    tokio::time::sleep(Duration::from_secs(20)).await;
    adapter.refuse.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(adapter.serves(), "two");
    let status = rig.runtime.status().await.unwrap();
    assert_eq!((status.adapters[0].generation, &status.adapters[0].error), (2, &None));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l2_all_adapters_commit_or_none_does() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let mut adapters = Vec::new();
    for id in ["first", "second", "third"] {
        adapters.push(rig.adapter(id, &["a"]).await);
    }
    for failing in 0..3 {
        rig.store.put("a", format!("for-{failing}"));
        adapters[failing].refuse.store(true, Ordering::SeqCst);
        let report = rig.rotate(&["a"]).await;
        assert_eq!(report.outcome, Outcome::RolledBack);
        assert_eq!(report.adapters.len(), 3, "{report:?}");
        let refused = report.adapters.iter().filter(|of| of.outcome == AdapterOutcome::Refused);
        assert_eq!(refused.count(), 1);
        assert!(adapters.iter().all(|adapter| adapter.serves() == "one"));
        adapters[failing].refuse.store(false, Ordering::SeqCst);
    }
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::Done);
    assert!(adapters.iter().all(|adapter| adapter.serves() == "for-2"));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l2_user_password_and_certificate_of_three_adapters_change_together_or_not_at_all() {
    let rig = unwatched();
    let keys = ["user", "password", "certificate"];
    rig.store.put_all(keys.map(|key| (key, "1")));
    let adapters = [
        rig.adapter("pool", &keys[..2]).await,
        rig.adapter("replica", &keys[..2]).await,
        rig.adapter("listener", &keys[2..]).await,
    ];
    let serves = || adapters.each_ref().map(Adapter::serves);
    for failing in &adapters {
        rig.store.put_all(keys.map(|key| (key, "2")));
        failing.refuse.store(true, Ordering::SeqCst);
        let report = rig.rotate(&keys).await;
        assert_eq!((report.outcome, report.adapters.len()), (Outcome::RolledBack, 3));
        assert_eq!(serves(), ["1,1", "1,1", "1"]);
        failing.refuse.store(false, Ordering::SeqCst);
    }
    assert_eq!(rig.rotate(&keys).await.outcome, Outcome::Done);
    assert_eq!(serves(), ["2,2", "2,2", "2"]);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l2_what_was_rolled_back_together_is_not_adopted_piece_by_piece() {
    let rig = Rig::start(Duration::from_secs(30));
    rig.store.put_all([("a", "a1"), ("b", "b1")]);
    let (of_a, of_b) = (rig.adapter("of-a", &["a"]).await, rig.adapter("of-b", &["b"]).await);
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.store.put_all([("a", "a2"), ("b", "b2")]);
    of_b.refuse.store(true, Ordering::SeqCst);
    assert_eq!(rig.rotate(&["a", "b"]).await.outcome, Outcome::RolledBack);
    // Another value of the one that was fine changes nothing about that.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    rig.store.put("a", "a3");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!((of_a.serves().as_str(), of_b.serves().as_str()), ("a1", "b1"));
    of_b.refuse.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!((of_a.serves().as_str(), of_b.serves().as_str()), ("a3", "b2"));
    rig.stop().await;
}

#[tokio::test]
async fn l3_a_thousand_triggers_cause_at_most_two_fetches_and_two_prepares() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    let (fetches, prepares) = (rig.store.fetches(), adapter.prepares());
    rig.store.put("a", "two");
    rig.store.latency(Duration::from_millis(300));
    let triggers: Vec<_> = (0..1_000)
        .map(|_| {
            let runtime = rig.runtime.clone();
            tokio::spawn(async move { runtime.rotate(RotateRequest::new(scope(&["a"]))).await })
        })
        .collect();
    for trigger in triggers {
        assert_eq!(trigger.await.unwrap().outcome, Outcome::Done);
    }
    assert_eq!(adapter.serves(), "two");
    assert!(rig.store.fetches() - fetches <= 2, "{} fetches", rig.store.fetches() - fetches);
    assert_eq!(adapter.prepares() - prepares, 1, "one version is prepared once");
    rig.stop().await;
}

#[tokio::test]
async fn l3_a_thousand_invalidations_cause_at_most_two_fetches_and_two_prepares() {
    let rig = Rig::start(Duration::from_secs(3600));
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    // The adapter's secret is followed once its handle is there.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (fetches, prepares) = (rig.store.fetches(), adapter.prepares());
    rig.store.put("a", "two");
    rig.store.latency(Duration::from_millis(300));
    let calls: Vec<_> = (0..1_000)
        .map(|_| {
            let resolver = rig.runtime.resolver().clone();
            tokio::spawn(async move { resolver.invalidate_secrets(&scope(&["a"]), Mode::Soft) })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    while adapter.serves() != "two" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(rig.store.fetches() - fetches <= 2, "{} fetches", rig.store.fetches() - fetches);
    assert!(adapter.prepares() - prepares <= 2);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l3_an_unchanged_version_causes_no_prepare() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    let prepares = adapter.prepares();
    let report = rig.rotate(&["a"]).await;
    assert_eq!(report.outcome, Outcome::Done);
    assert_eq!(report.adapters[0].outcome, AdapterOutcome::Unchanged);
    // A new version with the same value: its name is taken over, and nothing is built.
    rig.store.put("a", "one");
    let report = rig.rotate(&["a"]).await;
    assert_eq!(report.keys[0].to_version.as_deref(), Some("2"));
    assert_eq!(adapter.prepares(), prepares);
    assert_eq!(rig.runtime.status().await.unwrap().adapters[0].versions[0].version, "2");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l4_an_old_generation_ends_with_its_last_user() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    let user = adapter.managed().load();
    rig.store.put("a", "two");
    let runtime = rig.runtime.clone();
    let rotation =
        tokio::spawn(async move { runtime.rotate(RotateRequest::new(scope(&["a"]))).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((user.as_str(), adapter.serves().as_str()), ("one", "two"));
    assert!(!rotation.is_finished());
    assert_eq!(rig.runtime.status().await.unwrap().adapters[0].draining, 1);
    drop(user);
    assert_eq!(rotation.await.unwrap().outcome, Outcome::Done);
    assert_eq!(rig.runtime.status().await.unwrap().adapters[0].draining, 0);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l4_at_the_deadline_the_old_generation_is_counted_and_the_new_one_serves() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    let user = adapter.managed().load();
    rig.store.put("a", "two");
    let report = rig.rotate(&["a"]).await;
    assert_eq!(report.outcome, Outcome::NotDrained);
    assert_eq!(report.adapters[0].outcome, AdapterOutcome::Leaked);
    assert_eq!(report.adapters[0].in_flight, 1);
    assert_eq!((user.as_str(), adapter.serves().as_str()), ("one", "two"));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l6_done_is_not_said_while_a_generation_from_before_is_held() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    let user = adapter.managed().load();
    rig.store.put("a", "two");
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::NotDrained);
    // It holds the new values already, and somebody else the old ones.
    let report = rig.rotate(&["a"]).await;
    assert_eq!(report.outcome, Outcome::NotDrained, "{report:?}");
    assert_eq!(report.adapters[0].outcome, AdapterOutcome::Leaked);
    // It does not stand in the way of the next version, and is not forgotten over it.
    rig.store.put("a", "three");
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::NotDrained);
    assert_eq!(adapter.serves(), "three");
    let status = rig.runtime.status().await.unwrap();
    assert_eq!(status.adapters[0].draining, 1);
    assert!(status.adapters[0].error.is_some());
    drop(user);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.rotate(&["a"]).await.outcome, Outcome::Done);
    let status = rig.runtime.status().await.unwrap();
    assert_eq!((status.adapters[0].draining, &status.adapters[0].error), (0, &None));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l6_who_finds_nothing_to_change_waits_for_the_drain_of_who_did() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    let user = adapter.managed().load();
    rig.store.put("a", "two");
    let rotate = || {
        let runtime = rig.runtime.clone();
        tokio::spawn(async move { runtime.rotate(RotateRequest::new(scope(&["a"]))).await })
    };
    let first = rotate();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let second = rotate();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!first.is_finished() && !second.is_finished());
    drop(user);
    assert_eq!(first.await.unwrap().outcome, Outcome::Done);
    let second = second.await.unwrap();
    assert_eq!(second.outcome, Outcome::Done);
    assert_eq!(second.adapters[0].outcome, AdapterOutcome::Unchanged);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l5_the_loss_of_the_provider_leaves_adapters_serving() {
    let rig = Rig::start(Duration::from_secs(30));
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    for kind in [ErrorKind::Unavailable, ErrorKind::Denied, ErrorKind::NotFound] {
        rig.store.fail(Some(kind));
        let report = rig.rotate(&["a"]).await;
        assert_eq!(report.outcome, Outcome::Failed, "{report:?}");
        assert!(report.error.as_deref().unwrap().contains("mem:a"), "{report:?}");
        tokio::time::sleep(Duration::from_secs(7200)).await;
        assert_eq!(adapter.serves(), "one");
    }
    rig.store.fail(None);
    rig.store.put("a", "two");
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(adapter.serves(), "two", "what changed during the outage is found after it");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_refused_fails_the_rotation_and_says_why() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    rig.store.put("a", "REDACTED");
    let report = rig.rotate(&["a"]).await;
    assert_eq!(report.outcome, Outcome::Failed);
    let error = report.error.unwrap();
    assert!(error.contains("cannot read `mem:a` anew") && error.contains("placeholder"), "{error}");
    assert_eq!(adapter.serves(), "one");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn l6_a_missing_secret_fails_the_rotation_by_name_and_nothing_changes() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    rig.store.put("a", "two");
    let report = rig.rotate(&["a", "nope"]).await;
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(report.error.unwrap().contains("mem:nope"));
    assert_eq!(adapter.serves(), "one");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_set_is_rotated_whole_and_its_adapter_prepared_once() {
    let rig = unwatched();
    rig.store.put_all([("user", "u1"), ("password", "p1")]);
    let adapter = rig.adapter("pool", &["user", "password"]).await;
    let other = rig.adapter("other", &["password"]).await;
    rig.store.put_all([("user", "u2"), ("password", "p2")]);
    let prepares = adapter.prepares();
    let report = rig.rotate(&["user", "password"]).await;
    assert_eq!((report.outcome, report.adapters.len()), (Outcome::Done, 2));
    assert_eq!((adapter.serves().as_str(), other.serves().as_str()), ("u2,p2", "p2"));
    assert_eq!(adapter.prepares() - prepares, 1);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn everything_can_be_rotated_at_once() {
    let rig = unwatched();
    rig.store.put_all([("a", "a1"), ("b", "b1")]);
    let (of_a, of_b) = (rig.adapter("of-a", &["a"]).await, rig.adapter("of-b", &["b"]).await);
    rig.store.put_all([("a", "a2"), ("b", "b2")]);
    let report = rig.runtime.rotate(RotateRequest::new(Scope::All)).await;
    assert_eq!((report.outcome, report.adapters.len()), (Outcome::Done, 2));
    assert_eq!(report.keys[0].key, "mem:a", "keys of several providers are told apart");
    assert_eq!((of_a.serves().as_str(), of_b.serves().as_str()), ("a2", "b2"));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_cannot_start_is_refused_and_may_come_again() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let adapter = Adapter::new();
    adapter.refuse.store(true, Ordering::SeqCst);
    let error = rig.runtime.manage(adapter.hook("pool", &["a"])).await.unwrap_err();
    assert!(error.to_string().contains("`pool` could not be started: login failed"), "{error}");
    let error = rig.runtime.manage(adapter.hook("pool", &["nope"])).await.unwrap_err();
    assert!(error.to_string().contains("mem:nope"), "{error}");
    adapter.refuse.store(false, Ordering::SeqCst);
    rig.runtime.manage(adapter.hook("pool", &["a"])).await.unwrap();
    let error = rig.runtime.manage(adapter.hook("pool", &["a"])).await.unwrap_err();
    assert!(error.to_string().contains("already"), "{error}");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn p8_shutdown_ends_what_runs_and_what_waits() {
    let rig = unwatched();
    rig.store.put("a", "one");
    let adapter = rig.adapter("pool", &["a"]).await;
    adapter.hang.store(true, Ordering::SeqCst);
    rig.store.put("a", "two");
    let runtime = rig.runtime.clone();
    let rotations: Vec<_> = (0..3)
        .map(|_| {
            let runtime = runtime.clone();
            tokio::spawn(async move { runtime.rotate(RotateRequest::new(scope(&["a"]))).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let managed = adapter.managed().clone();
    rig.stop().await;
    for rotation in rotations {
        assert_ne!(rotation.await.unwrap().outcome, Outcome::Done);
    }
    assert_eq!(managed.load().as_str(), "one", "what serves goes on serving");
    assert_eq!(runtime.rotate(RotateRequest::new(scope(&["a"]))).await.outcome, Outcome::Failed);
}
