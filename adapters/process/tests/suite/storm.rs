//! Many rotations, and rotations during rotations.

use futures_util::future::join_all;
use oneiric_adapter_process::OnChange;
use oneiric_core::DrainOutcome;
use tokio::time::Instant;

use crate::common::{Bench, PATIENCE, ready, until_async, zombies};

const SERVER: &str = "echo $TOKEN >> starts; echo $TOKEN > last; echo $$ > ready; trap 'exit 0' TERM; while :; do sleep 0.02; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_while_another_drains_moves_on_to_the_newest() {
    let body = "echo $TOKEN > last; echo $$ > ready; trap 'sleep 0.3; exit 0' TERM; \
                while :; do sleep 0.02; done";
    for on_change in [OnChange::Overlap, OnChange::Restart] {
        let bench = Bench::new(on_change, body, |_| {});
        bench.rotate("one").await;
        let deadline = Instant::now() + PATIENCE;
        let two = tokio::spawn(bench.prepare("two").await.unwrap().commit().drain(deadline));
        let three = bench.prepare("three").await.unwrap().commit().drain(deadline).await;
        assert_eq!(three.outcome, DrainOutcome::Drained, "{on_change:?}: {three:?}");
        assert_eq!(two.await.unwrap().outcome, DrainOutcome::Drained);
        assert_eq!(bench.read("last"), "three\n");
        bench.release().await;
        assert_eq!(bench.children(), [0; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_rotations_in_a_second_the_last_wins_and_nothing_is_left() {
    for on_change in [OnChange::Restart, OnChange::Signal, OnChange::Overlap] {
        let body = match on_change {
            OnChange::Signal => {
                "load() { cat $ONEIRIC_SECRETS_DIR/token > last; echo >> last; echo $$ > ready; }; \
                 trap load HUP; load; while :; do sleep 0.01; done"
            }
            _ => SERVER,
        };
        let bench = Bench::new(on_change, body, |config| {
            config.ready = Some(ready("file = 'ready'\ninterval = '5ms'"));
        });
        bench.rotate("0").await;
        let deadline = Instant::now() + PATIENCE;
        let mut drains = Vec::new();
        for number in 1..=100 {
            let retired = bench.prepare(&number.to_string()).await.unwrap().commit();
            drains.push(tokio::spawn(retired.drain(deadline)));
        }
        for drained in join_all(drains).await {
            let drained = drained.unwrap();
            assert_eq!(drained.outcome, DrainOutcome::Drained, "{on_change:?}: {drained:?}");
        }
        assert_eq!(bench.read("last"), "100\n");
        if on_change == OnChange::Restart {
            // Those that were overtaken while they waited were skipped.
            let starts = bench.read("starts").lines().count();
            assert!(starts <= 50, "{starts} children were started");
        }
        bench.release().await;
        assert_eq!(bench.children(), [0; 0], "{on_change:?}");
    }
    until_async("the last burial", || (zombies() == 0).then_some(())).await;
}
