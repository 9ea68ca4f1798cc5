//! Children that end by themselves.

use oneiric_adapter_process::{Ending, OnChange, OnExit, ProcessHook};
use oneiric_core::{DrainOutcome, LifecycleHook as _};

use crate::common::{Bench, PATIENCE, number_in, runs, until_async};

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

#[tokio::test]
async fn a_child_that_ends_while_the_next_is_prepared_makes_way_for_it() {
    let body = "echo $TOKEN >> log; [ $TOKEN = one ] || sleep 0.5; echo $$ > pid; \
                echo $TOKEN is ready >> log; exec sleep 300";
    let bench = Bench::new(OnChange::Overlap, body, |config| {
        let asks = "grep -q \"^$TOKEN is ready\" log";
        config.ready = Some(crate::common::ready(&format!("command = ['sh', '-c', '{asks}']")));
    });
    bench.rotate("one").await;
    let pid = bench.read("pid").trim().parse().unwrap();
    let prepare = bench.prepare("two");
    let kill = async {
        until_async("the next one", || bench.read("log").contains("two").then_some(())).await;
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    let (prepared, ()) = tokio::join!(prepare, kill);
    let retired = prepared.unwrap().commit();
    let report = retired.drain(tokio::time::Instant::now() + PATIENCE).await;
    assert_eq!(report.outcome, DrainOutcome::Drained);
    assert_eq!(bench.children().len(), 1);
    bench.release().await;
    assert_eq!(bench.children(), [0; 0]);
}

#[tokio::test]
async fn an_end_of_the_program_during_a_move_leaves_nothing() {
    let body = "echo $TOKEN >> log; [ $TOKEN = one ] || sleep 300; echo $$ > ready; exec sleep 300";
    let bench = Bench::new(OnChange::Restart, body, |_| {});
    bench.rotate("one").await;
    let retired = bench.prepare("two").await.unwrap().commit();
    let drain = tokio::spawn(retired.drain(tokio::time::Instant::now() + PATIENCE));
    until_async("the next one", || bench.read("log").contains("two").then_some(())).await;
    bench.release().await;
    assert_eq!(bench.children(), [0; 0]);
    assert_eq!(bench.read("log"), "one\ntwo\n");
    assert!(bench.prepare("three").await.is_err());
    drain.abort();
}

#[tokio::test]
async fn a_hook_that_is_dropped_without_a_word_kills_its_children() {
    let body = "trap '' TERM; echo $$ > ready; while :; do sleep 0.02; done";
    let Bench { dir, hook } = Bench::new(OnChange::Overlap, body, |_| {});
    let prepared = hook.prepare(&crate::common::secrets("one")).await.unwrap();
    prepared.commit().drain(tokio::time::Instant::now() + PATIENCE).await;
    let pid = number_in(&dir.path().join("ready"));
    drop(hook);
    until_async("its end", || (!runs(pid)).then_some(())).await;
}

#[tokio::test]
async fn what_needs_a_launcher_says_so_where_there_is_none() {
    for (set, part) in [
        ("orphans = 'stop'", "`orphans = \"stop\"` needs a launcher"),
        ("orphans = 'keep'\numask = '077'", "`umask` needs a launcher"),
        ("orphans = 'keep'\nlisten = ['127.0.0.1:0']", "`listen` needs a launcher"),
    ] {
        let text =
            format!("command = ['true']\nenv = {{ T = 'files:token' }}\non_change = 'keep'\n{set}");
        let config = toml::from_str(&text).unwrap();
        let hook = ProcessHook::new("shop".parse().unwrap(), config).unwrap();
        let error = hook.prepare(&crate::common::secrets("one")).await.err().unwrap().to_string();
        assert!(error.starts_with(part), "{error}");
    }
}
