//! Children that end by themselves.

use oneiric_adapter_process::{Ending, OnChange, OnExit};
use oneiric_core::DrainOutcome;

use crate::common::{Bench, until_async};

#[tokio::test]
async fn a_child_that_ends_is_started_again_with_the_secrets_that_it_had() {
    // No store is asked: there is none here.
    let body = "echo $TOKEN >> log; echo $$ > ready; sleep 0.5";
    let bench = Bench::new(OnChange::Overlap, body, |_| {});
    bench.rotate("one").await;
    until_async("the third", || (bench.read("log").lines().count() >= 3).then_some(())).await;
    bench.release().await;
    assert!(bench.read("log").lines().all(|line| line == "one"));
    assert_eq!(bench.children(), [0; 0]);
}

#[tokio::test]
async fn a_child_that_is_left_tells_how_it_ended_and_stays_so() {
    let body = "echo $TOKEN >> log; echo $$ > ready; sleep 0.2; exit 7";
    let bench = Bench::new(OnChange::Restart, body, |config| config.on_exit = Some(OnExit::Leave));
    bench.rotate("one").await;
    assert_eq!(bench.hook.ended().await, Ending::Exited(7));
    assert_eq!(bench.rotate("two").await.outcome, DrainOutcome::Drained);
    assert_eq!(bench.read("log"), "one\n");
    bench.release().await;
}

#[tokio::test]
async fn signals_are_passed_on_to_every_instance() {
    let body = "trap 'echo got >> log; exit 0' USR1; \
                echo $$ > ready$ONEIRIC_INSTANCE_NUMBER; while :; do sleep 0.02; done";
    let bench = Bench::new(OnChange::Keep, body, |config| {
        config.instances = 2;
        config.on_exit = Some(OnExit::Leave);
        config.ready = Some(crate::common::ready(
            "command = ['sh', '-c', 'test -s ready$ONEIRIC_INSTANCE_NUMBER']",
        ));
    });
    bench.rotate("one").await;
    bench.hook.signal("USR1".parse().unwrap());
    assert_eq!(bench.hook.ended().await.code(), 0);
    assert_eq!(bench.read("log"), "got\ngot\n");
    bench.release().await;
}

#[tokio::test]
async fn a_child_that_keeps_its_secrets_says_so_until_it_has_the_new_ones() {
    let body = "echo $TOKEN >> log; echo $$ > ready; exec sleep 300";
    let bench = Bench::new(OnChange::Keep, body, |_| {});
    bench.rotate("one").await;
    let mut report = bench.rotate("two").await;
    assert_eq!(report.outcome, DrainOutcome::Leaked);
    assert!(report.error.as_ref().unwrap().contains("keeps the secrets"), "{report:?}");
    let pid = bench.read("ready").trim().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    report.take_later().unwrap().await;
    until_async("the new secrets", || (bench.read("log") == "one\ntwo\n").then_some(())).await;
    bench.release().await;
}
