//! Programs that break the rules, one for each, and what becomes of those who asked.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use oneiric_core::{Change, Error, ErrorKind, FetchRequest, SecretProvider as _, SecretValue};
use oneiric_provider_exec::{Capability, Config, ExecProvider};
use oneiric_testkit::scan_for_canary;

/// A hello of a program in `sh`: the first request is always the one that asks for it.
const HELLO: &str = r#"read -r line; id=${line#*:}; id=${id%%,*}
  echo "{\"id\":$id,\"oneiric\":1,\"kind\":\"sh\",\"capabilities\":[\"versions\",\"write\",\"push\"]}"
  next() { read -r line || exit 0; id=${line#*:}; id=${id%%,*}; }
"#;

/// What a program says for any secret.
const ANSWER: &str = r#"echo "{\"id\":$id,\"value\":\"v1\",\"version\":1}""#;

fn sh(script: &str) -> Config {
    let mut config = Config::new(["sh", "-c", script]);
    config.timeout = Duration::from_secs(20);
    config.max_restart_pause = Duration::from_millis(50);
    config
}

/// One that says hello first.
fn greeting(script: &str) -> Config {
    sh(&format!("{HELLO}{script}"))
}

async fn ask(provider: &ExecProvider) -> Result<String, Error> {
    let fetched = provider.fetch(&FetchRequest::new("a".parse().unwrap())).await?;
    Ok(fetched.value.expose_str().unwrap().to_owned())
}

/// Fails unless a question ends as an outage for this reason.
async fn is_broken(config: Config, why: &str) {
    let error = ask(&config.build().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    assert!(error.chain().contains(why), "{}", error.chain());
}

#[tokio::test]
async fn a_program_that_is_not_there() {
    is_broken(Config::new(["/nowhere/program"]), "`/nowhere/program` cannot be started").await;
}

#[tokio::test]
async fn garbage() {
    let garbage = greeting("next; echo 'password is hunter2'; sleep 60");
    let provider = garbage.build().unwrap();
    let error = ask(&provider).await.unwrap_err();
    assert!(error.chain().contains("not of the protocol"), "{}", error.chain());
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn no_hello() {
    let mut config = sh("cat > /dev/null");
    config.timeout = Duration::from_millis(300);
    let error = ask(&config.build().unwrap()).await.unwrap_err();
    let kinds = [ErrorKind::Unavailable, ErrorKind::DeadlineExceeded];
    assert!(kinds.contains(&error.kind()), "{}", error.chain());
    is_broken(sh("read -r line; echo '{\"id\":2}'; sleep 60"), "no `oneiric`").await;
}

#[tokio::test]
async fn a_wrong_version() {
    let script = HELLO.replace("\\\"oneiric\\\":1", "\\\"oneiric\\\":2");
    is_broken(sh(&format!("{script} sleep 60")), "it speaks version 2 of the protocol").await;
}

#[tokio::test]
async fn a_capability_that_is_not_offered() {
    let mut config = greeting("sleep 60");
    config.capabilities = vec![Capability::Stamps];
    is_broken(config, "have `stamps`, and the program, of the kind `sh`, offers `versions").await;
}

#[tokio::test]
async fn a_wrong_id() {
    is_broken(greeting("next; echo '{\"id\":999,\"value\":\"x\"}'; sleep 60"), "not made").await;
}

#[tokio::test]
async fn a_line_that_is_too_long() {
    let long = "next; head -c 1100000 /dev/zero | tr '\\0' x; sleep 60";
    is_broken(greeting(long), "longer than 1048576 bytes").await;
}

#[tokio::test]
async fn an_end_in_the_middle_of_an_answer() {
    is_broken(greeting("next; printf '{\"id\":2,\"val'; exit 3"), "middle of a line").await;
    is_broken(greeting("next; exit 3"), "ended with exit status: 3").await;
}

#[tokio::test]
async fn a_program_that_never_answers_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let once = dir.path().join("once").display().to_string();
    let script = format!("[ -e {once} ] || {{ : > {once}; sleep 60; }}; next; {ANSWER}; next");
    let mut config = greeting(&script);
    config.timeout = Duration::from_millis(500);
    let provider = config.build().unwrap();
    assert_eq!(ask(&provider).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(ask(&provider).await.unwrap(), "v1");
}

#[tokio::test]
async fn a_write_that_may_have_arrived_is_ambiguous() {
    let mut config = greeting("next; exit 1");
    config.capabilities = vec![Capability::Versions, Capability::Write];
    let provider = config.build().unwrap();
    let (key, value) = ("a".parse().unwrap(), SecretValue::from("v"));
    let written = provider.writer().unwrap().create_version(&key, &value, "t").await;
    assert_eq!(written.unwrap_err().kind(), ErrorKind::Ambiguous);
}

#[tokio::test]
async fn nothing_is_started_before_it_is_wanted_and_nothing_outlives_it() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script =
        format!("sleep 300 & echo $$ $! >> {}; while next; do {ANSWER}; done", pids.display());
    let provider = greeting(&script).build().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!pids.exists());
    for _ in 0..3 {
        assert_eq!(ask(&provider).await.unwrap(), "v1");
    }
    let started = fs::read_to_string(&pids).unwrap();
    assert_eq!(started.lines().count(), 1, "one process serves all");
    drop(provider);
    let begun = Instant::now();
    while started.split_whitespace().any(is_alive) {
        assert!(begun.elapsed() < Duration::from_secs(20), "{started} outlive the provider");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether there is such a process that is no zombie: its parent may be slow to hear of it.
fn is_alive(pid: &str) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(pid).join("status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

#[tokio::test]
async fn a_listener_starts_it_and_is_told_of_each_start() {
    let mut config =
        greeting("echo '{\"change\":{\"key\":\"a\",\"version\":8}}'; sleep 0.2; exit 0");
    config.capabilities = vec![Capability::Push];
    let provider = config.build().unwrap();
    let mut changes = provider.changes().unwrap();
    for _ in 0..2 {
        assert_eq!(changes.next().await, Some(Change::Anything));
        let Some(Change::Secret { key, version }) = changes.next().await else { panic!() };
        assert_eq!((key.as_str(), version.unwrap().id().as_ref()), ("a", "8"));
    }
    drop(provider);
    let end = async { while changes.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), end).await.unwrap();
}

#[tokio::test]
async fn the_environment_is_clean() {
    let list = "next; names=$(env | cut -d= -f1 | tr '\\n' ' '); \
                echo \"{\\\"id\\\":$id,\\\"value\\\":\\\"$names\\\",\\\"version\\\":1}\"; next";
    let names = ask(&greeting(list).build().unwrap()).await.unwrap();
    // Those that a shell sets for itself, and those that are inherited anyway.
    let known = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"];
    assert!(names.split_whitespace().all(|name| known.contains(&name)), "{names}");
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let mut named = greeting(list);
    named.env = vec!["CARGO_MANIFEST_DIR".to_owned()];
    assert!(ask(&named.build().unwrap()).await.unwrap().contains("CARGO_MANIFEST_DIR"));
}

/// All that is logged in this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Everything that this thread logs until the guard is dropped.
fn logged() -> (Log, tracing::subscriber::DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // The test has one thread, and so has its runtime.
    (log, tracing::subscriber::set_default(subscriber))
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

#[tokio::test]
async fn that_it_is_started_again_is_said_once() {
    let (log, _guard) = logged();
    let provider = greeting("next; echo garbage; sleep 60").build().unwrap();
    for _ in 0..4 {
        assert_eq!(ask(&provider).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    assert_eq!(log.text().matches("has to be started again").count(), 1, "{}", log.text());
}

#[tokio::test]
async fn a_program_is_told_when_nobody_waits_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let heard = dir.path().join("heard");
    // It answers the first request only when it was told of the end of it, and the other at once.
    let script = format!(
        "next; first=$id; read -r line; echo \"$line\" > {}; \
         echo \"{{\\\"id\\\":$first,\\\"error\\\":{{\\\"kind\\\":\\\"unavailable\\\"}}}}\"; \
         next; {ANSWER}; next",
        heard.display()
    );
    let provider = greeting(&script).build().unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(200), ask(&provider)).await;
    assert!(given_up.is_err());
    assert_eq!(ask(&provider).await.unwrap(), "v1", "it was not started again");
    assert!(fs::read_to_string(heard).unwrap().starts_with("{\"cancel\":"));
}

#[tokio::test]
async fn a_flood_on_stderr_is_cut_and_shows_no_value_even_before_it_is_sent() {
    let (log, _guard) = logged();
    let canary = "canary-7f3a-b921-c55e";
    let script = format!(
        "next; echo 'about to send {canary}' >&2; sleep 0.2; \
         echo \"{{\\\"id\\\":$id,\\\"value\\\":\\\"{canary}\\\",\\\"version\\\":1}}\"; \
         i=0; while [ $i -lt 20000 ]; do echo 'login with {canary}'; i=$((i+1)); done >&2; \
         next; {ANSWER}; exit 0"
    );
    let provider = greeting(&script).build().unwrap();
    assert_eq!(ask(&provider).await.unwrap(), canary);
    assert_eq!(ask(&provider).await.unwrap(), "v1", "the flood stops nobody");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let logged = log.text();
    assert!(logged.contains("about to send [secret]"), "{logged}");
    assert_eq!(scan_for_canary(&logged, canary), None);
    assert!(logged.contains("too much to be repeated"));
    assert!(logged.lines().count() < 2000, "{} lines", logged.lines().count());
}

/// The answer to the request `$id`, or to a part of it, with these members besides.
fn answering(members: &str) -> String {
    format!("echo \"{{\\\"id\\\":$id,{}}}\"; ", members.replace('"', "\\\""))
}

#[tokio::test]
async fn no_answer_speaks_of_the_value_in_it_or_in_another_part_of_it() {
    let canary = "canary-7f3a-b921-c55e";
    let error = format!("\"error\":{{\"kind\":\"invalid\",\"message\":\"not {canary}\"}}");
    let both = answering(&format!("\"value\":\"{canary}\",{error}"));
    let provider = greeting(&format!("while next; do {both} done")).build().unwrap();
    let beside = ask(&provider).await.unwrap_err();
    assert!(beside.chain().contains("not [secret]"), "{}", beside.chain());

    let parts = [
        answering(&format!("\"at\":0,{error}")),
        answering(&format!("\"at\":1,\"value\":\"{canary}\",\"version\":1")),
    ];
    let provider = greeting(&format!("next; {} next", parts.concat())).build().unwrap();
    let asked = ["a", "b"].map(|key| FetchRequest::new(key.parse().unwrap()));
    let answers = provider.fetch_many(&asked).await;
    let before = answers[0].as_ref().unwrap_err();
    assert!(before.chain().contains("not [secret]"), "{}", before.chain());
    assert_eq!(answers[1].as_ref().unwrap().value.expose_str(), Some(canary));
}

#[tokio::test]
async fn a_value_in_an_answer_that_is_refused_is_hidden_all_the_same() {
    let canary = "canary-7f3a-b921-c55e";
    for members in [
        format!("\"id\":999,\"value\":\"{canary}\""),
        format!("\"value\":\"{canary}\",\"base64\":\"eA==\""),
        format!("\"base64\":\"{canary}\""),
    ] {
        let (log, _guard) = logged();
        // The first of them answers nobody.
        let line = match members.starts_with("\"id\"") {
            true => format!("echo '{{{members}}}'; "),
            false => answering(&members),
        };
        let script = format!("next; echo 'about to send {canary}' >&2; sleep 0.2; {line} exit 0");
        let provider = greeting(&script).build().unwrap();
        ask(&provider).await.unwrap_err();
        drop(provider);
        let began = Instant::now();
        while !log.text().contains("about to send") && began.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(log.text().contains("about to send [secret]"), "{members}: {}", log.text());
        assert_eq!(scan_for_canary(log.text(), canary), None);
    }
}
