//! The old child is stopped, and then a new one is started.

use std::time::Duration;

use oneiric_adapter_process::OnChange;
use oneiric_core::DrainOutcome;

use crate::common::{Bench, PATIENCE, ready, runs, until_async};

const SERVER: &str = "echo $TOKEN up >> log; [ $TOKEN != bad ] || exit 3; echo $$ > ready; \
                      trap 'echo $TOKEN down >> log; exit 0' TERM; while :; do sleep 0.02; done";

#[tokio::test]
async fn one_is_stopped_before_the_next_is_started() {
    let bench = Bench::new(OnChange::Restart, SERVER, |_| {});
    bench.rotate("one").await;
    assert_eq!(bench.rotate("two").await.outcome, DrainOutcome::Drained);
    assert_eq!(bench.read("log"), "one up\none down\ntwo up\n");
    bench.release().await;
    assert_eq!(bench.read("log"), "one up\none down\ntwo up\ntwo down\n");
    assert_eq!(bench.children(), [0; 0]);
}

#[tokio::test]
async fn if_the_new_one_does_not_come_up_the_old_secrets_serve_again() {
    let bench = Bench::new(OnChange::Restart, SERVER, |_| {});
    bench.rotate("one").await;
    let mut report = bench.rotate("bad").await;
    assert_eq!(report.outcome, DrainOutcome::Leaked);
    assert_eq!(
        report.error.as_deref(),
        Some(
            "the new process did not come up, so one with the old secrets was started again: the \
             process exited with code 3 before it was ready"
        )
    );
    let log = "one up\none down\nbad up\none up\n";
    until_async("the old one", || bench.read("log").starts_with(log).then_some(())).await;
    // A newer generation takes the matter over, and the older one is told so.
    let later = report.take_later().unwrap();
    assert_eq!(bench.rotate("two").await.outcome, DrainOutcome::Drained);
    tokio::time::timeout(PATIENCE, later).await.unwrap();
    assert!(bench.read("log").ends_with("two up\n"));
    bench.release().await;
}

#[tokio::test]
async fn what_did_not_come_up_is_tried_again() {
    let body = "[ $TOKEN = one ] || [ -e allowed ] || exit 75; echo $TOKEN >> log; echo $$ > ready; \
                exec sleep 300";
    let bench = Bench::new(OnChange::Restart, body, |_| {});
    bench.rotate("one").await;
    let mut report = bench.rotate("two").await;
    assert_eq!(report.outcome, DrainOutcome::Leaked);
    std::fs::write(bench.path("allowed"), "").unwrap();
    tokio::time::timeout(PATIENCE, report.take_later().unwrap()).await.unwrap();
    assert!(bench.read("log").ends_with("two\n"));
    bench.release().await;
}

#[tokio::test]
async fn a_child_that_exits_while_a_restart_is_under_way_comes_back_once() {
    let bench = Bench::new(OnChange::Restart, SERVER, |config| {
        config.quiet = Duration::from_millis(200);
    });
    bench.rotate("one").await;
    let pid: i32 = bench.read("ready").trim().parse().unwrap();
    let kill = || {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    let prepared = bench.prepare("two").await.unwrap();
    kill();
    let retired = prepared.commit();
    let report = retired.drain(tokio::time::Instant::now() + PATIENCE).await;
    assert_ne!(report.outcome, DrainOutcome::Forced);
    let up = || bench.read("log").ends_with("two up\n").then_some(());
    until_async("the new child", up).await;
    until_async("one child", || (servers(&bench) == 1).then_some(())).await;
    assert!(!runs(pid));
    bench.release().await;
    assert_eq!(bench.children(), [0; 0]);
}

/// The shells, without their sleepers.
fn servers(bench: &Bench) -> usize {
    let is_shell = |pid: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name != "sleep\n")
    };
    bench.children().into_iter().filter(is_shell).count()
}

#[tokio::test]
async fn a_child_that_ignores_its_stop_signal_is_killed_and_replaced() {
    let body = "trap '' TERM; echo $$ > ready; while :; do sleep 0.02; done";
    let bench = Bench::new(OnChange::Restart, body, |config| {
        config.kill_timeout = Duration::from_millis(300);
        config.ready = Some(ready("file = 'ready'"));
    });
    bench.rotate("one").await;
    let old: i32 = bench.read("ready").trim().parse().unwrap();
    let report = bench.rotate("two").await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Forced, 1));
    assert!(!runs(old));
    bench.release().await;
}

#[tokio::test]
async fn a_move_goes_on_if_nobody_waits_for_it() {
    let body = "[ $TOKEN = one ] || sleep 1; echo $TOKEN > log; echo $$ > ready; exec sleep 300";
    let bench = Bench::new(OnChange::Restart, body, |_| {});
    bench.rotate("one").await;
    let retired = bench.prepare("two").await.unwrap().commit();
    let drain = retired.drain(tokio::time::Instant::now() + PATIENCE);
    let _ = tokio::time::timeout(Duration::from_millis(200), drain).await;
    until_async("the new child", || (bench.read("log") == "two\n").then_some(())).await;
    bench.release().await;
    assert_eq!(bench.children(), [0; 0]);
}
