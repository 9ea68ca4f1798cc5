//! Small shell scripts in the place of a service's own commands.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use oneiric_adapter_command::{CommandHook, Config};
use oneiric_core::{
    DrainOutcome, DrainReport, HookError, LifecycleHook, SecretRef, SecretSet, SecretValue, Version,
};
use oneiric_testkit::scan_for_canary;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const CANARY: &str = "canary-7f3a\"b921-0c4d";
const PATIENCE: Duration = Duration::from_secs(20);

fn token() -> SecretRef {
    "files:token".parse().unwrap()
}

fn set(value: impl AsRef<[u8]>) -> SecretSet {
    SecretSet::new([(token(), SecretValue::from(value.as_ref()), Version::numbered(1))])
}

fn script(body: &str) -> Option<Vec<String>> {
    Some(["sh", "-c", body].map(str::to_owned).to_vec())
}

fn hook(dir: &TempDir, settings: impl FnOnce(&mut Config)) -> CommandHook {
    let mut config = Config::new([("token".to_owned(), token())]);
    config.working_dir = Some(dir.path().to_owned());
    settings(&mut config);
    CommandHook::new("shop".parse().unwrap(), config).unwrap()
}

/// A hook that only proves.
fn proving(dir: &TempDir, body: &str) -> CommandHook {
    hook(dir, |config| config.prove = script(body))
}

async fn error_of(hook: &CommandHook, value: impl AsRef<[u8]>) -> HookError {
    hook.prepare(&set(value)).await.err().unwrap()
}

async fn rotate(hook: &CommandHook, value: &str, patience: Duration) -> DrainReport {
    let retired = hook.prepare(&set(value)).await.unwrap().commit();
    retired.drain(Instant::now() + patience).await
}

fn read(dir: &TempDir, name: &str) -> String {
    fs::read_to_string(dir.path().join(name)).unwrap()
}

/// The process whose id a script wrote into the file `pid`, once it has.
async fn started(dir: &TempDir) -> u32 {
    loop {
        let text = fs::read_to_string(dir.path().join("pid")).unwrap_or_default();
        if let Ok(pid) = text.trim_end().parse() {
            return pid;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// A process that nobody has reaped yet is gone too.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

async fn until_gone(pid: u32) {
    let give_up = Instant::now() + PATIENCE;
    while is_running(pid) {
        assert!(Instant::now() < give_up, "{pid} is still there");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_new_secrets_arrive_on_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let hook = proving(&dir, "cat > given; echo $ONEIRIC_ADAPTER $ONEIRIC_GENERATION > told");
    hook.prepare(&set(CANARY)).await.unwrap();
    let given: BTreeMap<String, String> = serde_json::from_str(&read(&dir, "given")).unwrap();
    assert_eq!(given, BTreeMap::from([("token".to_owned(), CANARY.to_owned())]));
    assert_eq!(read(&dir, "told"), "shop 1\n");
}

#[tokio::test]
async fn an_apply_that_failed_is_tried_again_until_it_works() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| config.apply = script("test -e ready && cat > applied"));
    let mut report = rotate(&hook, "one", PATIENCE).await;
    assert_eq!(report.outcome, DrainOutcome::Leaked);
    let later = tokio::spawn(report.take_later().unwrap());
    fs::write(dir.path().join("ready"), "").unwrap();
    tokio::time::timeout(PATIENCE, later).await.unwrap().unwrap();
    assert_eq!(read(&dir, "applied"), r#"{"token":"one"}"#);
}

#[tokio::test]
async fn nothing_secret_is_in_the_arguments_or_the_environment() {
    let name = "nothing_secret_is_in_the_arguments_or_the_environment";
    if std::env::var_os("ONEIRIC_SECRET_TOKEN").is_none() {
        // Once more, as an agent that has a secret in its own environment.
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", name]).env("ONEIRIC_SECRET_TOKEN", CANARY);
        // Under a name that does not say what it is.
        again.env("APP_TOKEN", CANARY).env("APP_REGION", "eu-west-1");
        assert!(again.status().unwrap().success());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.prove = script("cat /proc/$$/cmdline /proc/$$/environ > seen; env >> seen");
        config.pass_env = vec!["APP_REGION".to_owned()];
    });
    hook.prepare(&set(CANARY)).await.unwrap();
    let seen = read(&dir, "seen");
    assert!(seen.contains("APP_REGION=eu-west-1"), "{seen}");
    assert!(seen.contains("ONEIRIC_ADAPTER=shop"), "{seen}");
    assert_eq!(scan_for_canary(&seen, CANARY), None, "{seen}");
}

#[tokio::test]
async fn another_exit_code_refuses_and_its_words_are_redacted() {
    let dir = tempfile::tempdir().unwrap();
    for body in ["printf 'no: ' >&2; cat >&2; exit 3", "sed 's/.*:/no: /' >&2; exit 3"] {
        let hook = proving(&dir, body);
        let error = error_of(&hook, CANARY).await;
        assert!(error.is_refused());
        let printed = format!("{error} {error:?} {hook:?}");
        assert!(printed.contains("`prove` exited with code 3: no: "), "{printed}");
        assert!(printed.contains("[secret]"), "{printed}");
        assert_eq!(scan_for_canary(&printed, CANARY), None, "{printed}");
    }
}

#[tokio::test]
async fn a_proof_that_could_not_be_tried_is_no_refusal() {
    let dir = tempfile::tempdir().unwrap();
    let absent = hook(&dir, |config| config.prove = Some(vec!["no-such-program".to_owned()]));
    let signalled = proving(&dir, "kill -9 $$");
    let down = proving(&dir, "echo the server is down >&2; exit 75");
    for (hook, value, part) in [
        (&absent, b"a".as_slice(), "`prove` cannot run `no-such-program`"),
        (&signalled, b"a", "signal: 9"),
        (&down, b"a", "`prove` exited with code 75, so it could not try: the server is down"),
        (&signalled, b"canary\xff", "`files:token` is not UTF-8"),
    ] {
        let error = error_of(hook, value).await;
        assert!(!error.is_refused() && error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_big_secret_goes_through_whether_it_is_read_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let big = "x".repeat(256 * 1024);
    proving(&dir, "exit 0").prepare(&set(&big)).await.unwrap();
    assert!(error_of(&proving(&dir, "exit 1"), &big).await.is_refused());
    proving(&dir, "wc -c > length").prepare(&set(&big)).await.unwrap();
    let json = big.len() + r#"{"token":""}"#.len();
    assert_eq!(read(&dir, "length").trim(), json.to_string());
    // Far more than a pipe holds comes back, and the command does not block.
    let error = error_of(&proving(&dir, "cat >&2; echo >&2; echo enough >&2; exit 1"), &big).await;
    assert_eq!(error.to_string(), "`prove` exited with code 1: enough");
}

#[tokio::test]
async fn the_timeout_ends_a_command_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.prove = script("sleep 300 & echo $! > pid; wait");
        config.timeout = Duration::from_secs(2);
    });
    let error = error_of(&hook, CANARY).await;
    assert!(!error.is_refused());
    assert_eq!(error.to_string(), "`prove` was killed after 2s");
    until_gone(started(&dir).await).await;
}

#[tokio::test]
async fn a_prepare_that_is_dropped_ends_its_command_with_all_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let hook = proving(&dir, "sleep 300 & echo $! > pid; wait");
    let set = set(CANARY);
    let pid = tokio::select! {
        _ = hook.prepare(&set) => panic!("the proof has no end"),
        pid = started(&dir) => pid,
    };
    until_gone(pid).await;
}

#[tokio::test]
async fn the_service_gets_its_secrets_at_start_and_in_every_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.apply = script("cat > given; echo $ONEIRIC_GENERATION >> applied");
        config.drain = script(r#"test -z "$(cat)" && echo $ONEIRIC_GENERATION >> drained"#);
    });
    // Given up: nothing of it reaches the service.
    drop(hook.prepare(&set("zero")).await.unwrap());
    for value in ["one", "two"] {
        assert_eq!(rotate(&hook, value, PATIENCE).await, DrainReport::drained());
        assert_eq!(read(&dir, "given"), format!(r#"{{"token":"{value}"}}"#));
    }
    assert_eq!((read(&dir, "applied").as_str(), read(&dir, "drained").as_str()), ("1\n2\n", "2\n"));
}

#[tokio::test]
async fn an_apply_that_fails_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.apply = script("printf 'cannot reload: ' >&2; cat >&2; exit 7");
        config.drain = script("touch asked");
    });
    let report = rotate(&hook, CANARY, PATIENCE).await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Leaked, 1));
    let error = report.error.unwrap();
    assert!(error.starts_with("`apply` exited with code 7: cannot reload: "), "{error}");
    assert_eq!(scan_for_canary(&error, CANARY), None, "{error}");
    assert!(!dir.path().join("asked").exists());
}

#[tokio::test]
async fn drain_is_asked_until_it_agrees_or_time_is_up() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.apply = script("cat > /dev/null");
        config.drain = script("echo >> asked; echo \"$(cat left) left\" >&2; test -e quiet");
    });
    fs::write(dir.path().join("left"), "3").unwrap();
    rotate(&hook, "one", PATIENCE).await;

    let report = rotate(&hook, "two", Duration::from_secs(2)).await;
    assert_eq!((report.outcome, report.in_flight), (DrainOutcome::Leaked, 1));
    assert_eq!(report.error.as_deref(), Some("`drain` exited with code 1: 3 left"));
    assert!(read(&dir, "asked").len() > 1, "it was asked once only");

    let retired = hook.prepare(&set("three")).await.unwrap().commit();
    let drain = tokio::spawn(retired.drain(Instant::now() + PATIENCE));
    fs::write(dir.path().join("quiet"), "").unwrap();
    assert_eq!(drain.await.unwrap(), DrainReport::drained());
}

#[tokio::test]
async fn a_late_apply_never_undoes_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| config.apply = script("cat > given"));
    let older = hook.prepare(&set("one")).await.unwrap().commit();
    let newer = hook.prepare(&set("two")).await.unwrap().commit();
    let deadline = Instant::now() + PATIENCE;
    assert_eq!(newer.drain(deadline).await, DrainReport::drained());
    assert_eq!(older.drain(deadline).await, DrainReport::drained());
    assert_eq!(read(&dir, "given"), r#"{"token":"two"}"#);
}

#[tokio::test]
async fn a_process_that_apply_leaves_behind_stays_and_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| config.apply = script("sleep 300 & echo $! > pid"));
    assert_eq!(rotate(&hook, "one", PATIENCE).await, DrainReport::drained());
    let pid = started(&dir).await;
    assert!(is_running(pid));
    let killed = Command::new("sh").args(["-c", &format!("kill {pid}")]).status().unwrap();
    assert!(killed.success());
}

#[test]
fn one_secret_under_two_names_is_asked_for_once() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.secrets.insert("the-same".to_owned(), token());
        config.apply = script("true");
    });
    assert_eq!(hook.secrets(), [token()]);
}
