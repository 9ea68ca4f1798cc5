//! A new child is started beside the old one.

use std::time::Duration;

use oneiric_adapter_process::OnChange;
use oneiric_core::DrainOutcome;

use crate::common::{Bench, Orphan, PATIENCE, ready, runs, until_async};

/// Says who it is once it has all of its secrets, and serves until it is asked to end.
const SERVER: &str = "echo $TOKEN $(cat $ONEIRIC_SECRETS_DIR/token) $(cat /dev/fd/$TOKEN_FD) $$ >> log; \
                      [ $TOKEN != bad ] || exit 3; [ $TOKEN != down ] || exit 75; \
                      [ $TOKEN = slow ] || echo $$ > ready; \
                      trap 'exit 0' TERM; while :; do sleep 0.02; done";

fn bench() -> Bench {
    Bench::new(OnChange::Overlap, SERVER, |_| {})
}

fn serving(bench: &Bench) -> i32 {
    bench.read("ready").trim().parse().unwrap()
}

#[tokio::test]
async fn a_child_has_its_secrets_in_every_way() {
    let bench = bench();
    assert_eq!(bench.rotate("one").await.outcome, DrainOutcome::Drained);
    let pid = serving(&bench);
    assert_eq!(bench.read("log"), format!("one one one {pid}\n"));
    bench.release().await;
}

#[tokio::test]
async fn the_old_child_runs_until_the_new_one_is_ready_and_counts() {
    let bench = bench();
    bench.rotate("one").await;
    let old = serving(&bench);
    let prepared = bench.prepare("two").await.unwrap();
    let new = serving(&bench);
    assert!(old != new && runs(old) && runs(new));
    let retired = prepared.commit();
    assert!(runs(old));
    let report = retired.drain(tokio::time::Instant::now() + PATIENCE).await;
    assert_eq!(report.outcome, DrainOutcome::Drained);
    assert!(!runs(old) && runs(new));
    bench.release().await;
    assert!(!runs(new));
    assert_eq!(bench.children(), [0; 0]);
}

#[tokio::test]
async fn a_child_that_does_not_come_up_changes_nothing_and_leaves_nothing() {
    let bench = Bench::new(OnChange::Overlap, SERVER, |config| {
        config.ready = Some(ready("file = 'ready'\ntimeout = '1s'"));
    });
    bench.rotate("one").await;
    let old = serving(&bench);
    for (value, refused, part) in [
        ("bad", true, "the process exited with code 3 before it was ready"),
        ("down", false, "the process exited with code 75 before it was ready"),
        ("slow", false, "the process is not ready after 1s"),
    ] {
        let error = bench.prepare(value).await.err().unwrap();
        assert_eq!((error.is_refused(), error.to_string().as_str()), (refused, part));
        until_async("the end of the new child", || (bench.children().len() <= 2).then_some(()))
            .await;
    }
    assert!(runs(old));
    let folders = |bench: &Bench| {
        let environ = std::fs::read(format!("/proc/{old}/environ")).unwrap();
        let environ = String::from_utf8(environ).unwrap();
        let own = environ.split('\0').find_map(|v| v.strip_prefix("ONEIRIC_SECRETS_DIR=")).unwrap();
        assert!(bench.dir.path().exists());
        std::fs::read_dir(std::path::Path::new(own).parent().unwrap()).unwrap().count()
    };
    // The lock, and the files of the one that serves.
    until_async("the end of the files", || (folders(&bench) == 2).then_some(())).await;
    bench.release().await;
}

#[tokio::test]
async fn a_prepared_child_that_is_dropped_is_asked_to_end() {
    let body = "trap 'echo asked > asked; exit 0' TERM; echo $$ > ready; \
                while :; do sleep 0.02; done";
    let bench = Bench::new(OnChange::Overlap, body, |_| {});
    drop(bench.prepare("one").await.unwrap());
    until_async("its last words", || (bench.read("asked") == "asked\n").then_some(())).await;
    until_async("its end", || bench.children().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_prepare_that_is_dropped_ends_its_child() {
    let bench = bench();
    let prepare = bench.prepare("slow");
    tokio::select! {
        _ = prepare => panic!("it is never ready"),
        () = until_async("a child", || bench.read("log").contains("slow").then_some(())) => {}
    }
    until_async("its end", || bench.children().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_child_that_ignores_its_stop_signal_is_killed() {
    let body = "trap '' TERM; echo $$ > ready; while :; do sleep 0.02; done";
    let bench = Bench::new(OnChange::Overlap, body, |config| {
        config.kill_timeout = Duration::from_millis(300);
    });
    bench.rotate("one").await;
    let old = serving(&bench);
    let report = bench.rotate("two").await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Forced, 1));
    assert!(!runs(old));
    bench.release().await;
    assert_eq!(bench.children(), [0; 0]);
}

#[tokio::test]
async fn the_drain_deadline_kills_before_the_time_of_the_child_is_over() {
    let body = "trap '' TERM; echo $$ > ready; while :; do sleep 0.02; done";
    let bench = Bench::new(OnChange::Overlap, body, |config| config.kill_timeout = PATIENCE);
    bench.rotate("one").await;
    let report = bench.rotate_within("two", Duration::from_millis(300)).await;
    assert_eq!(report.outcome, DrainOutcome::Forced);
    bench.hook_kill().await;
}

#[tokio::test]
async fn all_that_a_child_has_started_ends_with_it() {
    let body = "sleep 300 & setsid sh -c 'echo $$ > stray; exec sleep 300' & \
                while [ ! -s stray ]; do sleep 0.01; done; echo $$ > ready; wait";
    let bench = Bench::new(OnChange::Overlap, body, |_| {});
    bench.rotate("one").await;
    let stray = || Orphan(bench.read("stray").trim().parse().unwrap());
    let first = stray();
    std::fs::remove_file(bench.path("stray")).unwrap();
    assert!(runs(first.0));
    bench.rotate("two").await;
    let _second = stray();
    assert!(!runs(first.0));
    // The shell and its two sleepers.
    assert_eq!(bench.children().len(), 3);
    bench.release().await;
    assert_eq!(bench.children(), [0; 0]);
}

#[tokio::test]
async fn a_proof_has_the_new_secrets_and_decides() {
    let bench = Bench::new(OnChange::Overlap, SERVER, |config| {
        let proof = "echo $TOKEN $(cat $ONEIRIC_SECRETS_DIR/token) $(cat /dev/fd/$TOKEN_FD) > proof; \
                     echo no $TOKEN >&2; case $TOKEN in bad) exit 1;; down) exit 75;; esac";
        config.prove = Some(["sh", "-c", proof].map(str::to_owned).to_vec());
    });
    bench.rotate("one").await;
    assert_eq!(bench.read("proof"), "one one one\n");
    let error = bench.prepare("bad").await.err().unwrap();
    assert!(error.is_refused());
    assert_eq!(error.to_string(), "`prove` exited with code 1: no [secret]");
    assert!(!bench.prepare("down").await.err().unwrap().is_refused());
    assert_eq!(bench.read("log").lines().count(), 1);
    bench.release().await;
}

#[tokio::test]
async fn at_most_so_many_instances_move_at_a_time() {
    let body = "echo $ONEIRIC_INSTANCE_NUMBER $TOKEN up >> log; echo $$ > ready$ONEIRIC_INSTANCE_NUMBER; \
                trap 'echo $ONEIRIC_INSTANCE_NUMBER $TOKEN down >> log; exit 0' TERM; \
                while :; do sleep 0.02; done";
    let bench = Bench::new(OnChange::Overlap, body, |config| {
        config.instances = 5;
        config.at_once = 2;
        config.ready = Some(ready(
            "command = ['sh', '-c', 'grep -q \"$ONEIRIC_INSTANCE_NUMBER $TOKEN up\" log']",
        ));
    });
    bench.rotate("one").await;
    assert_eq!(bench.rotate("two").await.outcome, DrainOutcome::Drained);
    let log = bench.read("log");
    let mut extra = 0;
    for line in log.lines().skip(5) {
        extra += if line.ends_with("up") { 1 } else { -1 };
        assert!((0..=2).contains(&extra), "{log}");
    }
    assert_eq!(log.lines().filter(|line| line.ends_with("two up")).count(), 5);
    assert_eq!(log.lines().filter(|line| line.ends_with("one down")).count(), 5);
    bench.release().await;
    assert_eq!(bench.children(), [0; 0]);
}

#[tokio::test]
async fn where_somebody_else_has_the_port_only_the_childs_own_socket_counts() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let bench = Bench::new(OnChange::Overlap, "exec sleep 300", |config| {
        config.ready = Some(ready(&format!("port = {port}\ntimeout = '1s'")));
    });
    let error = bench.prepare("one").await.err().unwrap();
    assert_eq!(error.to_string(), "the process is not ready after 1s");
}
