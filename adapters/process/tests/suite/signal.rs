//! A child that is told to read its files again.

use std::time::Duration;

use oneiric_adapter_process::OnChange;
use oneiric_core::DrainOutcome;

use crate::common::{Bench, PATIENCE, ready, until_async};

const SERVER: &str = "load() { cat $ONEIRIC_SECRETS_DIR/token >> log; echo >> log; echo $$ > ready; }; \
                      trap load HUP; load; while :; do sleep 0.02; done";

#[tokio::test]
async fn a_child_takes_new_files_and_acknowledges() {
    let bench = Bench::new(OnChange::Signal, SERVER, |_| {});
    bench.rotate("one").await;
    let pid = bench.read("ready");
    assert_eq!(bench.rotate("two").await.outcome, DrainOutcome::Drained);
    assert_eq!((bench.read("log"), bench.read("ready")), ("one\ntwo\n".to_owned(), pid));
    bench.release().await;
}

#[tokio::test]
async fn a_rotation_that_is_given_up_changes_no_file() {
    let bench = Bench::new(OnChange::Signal, SERVER, |_| {});
    bench.rotate("one").await;
    drop(bench.prepare("two").await.unwrap());
    let pid = bench.read("ready");
    let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    until_async("another look", || (bench.read("log") == "one\none\n").then_some(())).await;
    bench.release().await;
}

#[tokio::test]
async fn what_is_not_acknowledged_is_not_drained_and_is_tried_again() {
    let body = "trap '[ ! -e awake ] || echo $$ > ready' HUP; echo $$ > ready; \
                while :; do sleep 0.02; done";
    let bench = Bench::new(OnChange::Signal, body, |config| {
        config.ready = Some(ready("file = 'ready'\ntimeout = '500ms'"));
    });
    bench.rotate("one").await;
    let mut report = bench.rotate("two").await;
    assert_eq!(report.outcome, DrainOutcome::Leaked);
    assert_eq!(
        report.error.as_deref(),
        Some("the process has not acknowledged `HUP`: the process is not ready after 500ms")
    );
    std::fs::write(bench.path("awake"), "").unwrap();
    tokio::time::timeout(PATIENCE, report.take_later().unwrap()).await.unwrap();
    bench.release().await;
}

#[tokio::test]
async fn a_health_command_acknowledges_with_the_new_files() {
    let bench = Bench::new(OnChange::Signal, SERVER, |config| {
        let asks = "[ \"$(tail -n 1 log)\" = \"$(cat $ONEIRIC_SECRETS_DIR/token)\" ]";
        config.ready = Some(ready(&format!("command = ['sh', '-c', '''{asks}''']")));
    });
    bench.rotate("one").await;
    assert_eq!(bench.rotate("two").await.outcome, DrainOutcome::Drained);
    assert!(bench.read("log").ends_with("two\n"));
    bench.release().await;
}

#[tokio::test]
async fn a_child_that_ends_by_the_signal_comes_back_with_the_new_files() {
    let body = "cat $ONEIRIC_SECRETS_DIR/token >> log; echo $$ > ready; exec sleep 300";
    let bench = Bench::new(OnChange::Signal, body, |_| {});
    bench.rotate("one").await;
    let mut report = bench.rotate("two").await;
    assert_eq!(report.outcome, DrainOutcome::Leaked);
    assert!(report.error.as_ref().unwrap().contains("was ended by signal 1"), "{report:?}");
    tokio::time::timeout(PATIENCE, report.take_later().unwrap()).await.unwrap();
    until_async("the new files", || (bench.read("log") == "onetwo").then_some(())).await;
    bench.release().await;
}

#[tokio::test]
async fn a_reader_never_sees_a_mix() {
    let body = "trap 'echo $$ > ready' HUP; echo $$ > ready; while :; do sleep 0.02; done";
    let bench = Bench::new(OnChange::Signal, body, |config| {
        config.files.insert("again".to_owned(), crate::common::token());
    });
    bench.rotate("0").await;
    let pid = bench.read("ready").trim().to_owned();
    let environ = std::fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    let dir = environ.split('\0').find_map(|v| v.strip_prefix("ONEIRIC_SECRETS_DIR=")).unwrap();
    let dir = std::path::PathBuf::from(dir);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let reader = {
        let stop = std::sync::Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut seen = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // Whoever wants both from one moment opens the folder once.
                let Ok(folder) = std::fs::canonicalize(&dir) else { panic!("there is no folder") };
                let read = |name| std::fs::read(folder.join(name));
                if let (Ok(one), Ok(two)) = (read("token"), read("again")) {
                    assert_eq!(one, two);
                    seen += 1;
                }
            }
            seen
        })
    };
    for number in 1..=20 {
        bench.rotate(&number.to_string()).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.join().unwrap() > 20);
    bench.release().await;
}

#[tokio::test]
async fn a_child_is_not_touched_before_the_secrets_are_quiet() {
    let bench = Bench::new(OnChange::Signal, SERVER, |config| {
        config.quiet = Duration::from_millis(400);
        config.splay = Duration::from_millis(100);
    });
    bench.rotate("one").await;
    let start = std::time::Instant::now();
    bench.rotate("two").await;
    assert!(start.elapsed() >= Duration::from_millis(400));
    bench.release().await;
}
