//! What the reader's commands see, and when they run.

use std::process::Command;

use super::*;

#[tokio::test]
async fn check_sees_every_file_in_a_private_folder_and_nothing_is_left_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        let mut other = FileConfig::new("{{ token | json }}", path(&dir, "other"));
        other.mode = 0o644;
        config.files.push(other);
        config.check = script(
            "stat -c %a \"$ONEIRIC_STAGED_DIR\" > seen; cd \"$ONEIRIC_STAGED_DIR\"; \
             stat -c '%n %a' * >> \"$OLDPWD/seen\"; cat conf other > \"$OLDPWD/read\"; \
             echo $ONEIRIC_ADAPTER $ONEIRIC_GENERATION >> \"$OLDPWD/seen\"",
        );
    });
    let prepared = hook.prepare(&set("one")).await.unwrap();
    assert_eq!(read(&dir, "seen"), "700\nconf 600\nother 644\nshop 1\n");
    assert_eq!(read(&dir, "read"), "token=one\n\"one\"");
    drop(prepared);
    assert_eq!(names(dir.path()), ["read", "seen"]);
}

#[tokio::test]
async fn a_check_that_says_no_refuses_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.check = script(
            "value=$(cat \"$ONEIRIC_STAGED_DIR/conf\"); case $value in *bad*) \
             echo \"no: $value\" >&2; exit 1 ;; *busy*) exit 75 ;; esac",
        );
        config.reload = script("echo told >> told");
    });
    rotate(&hook, "one").await;
    for (value, refused) in [(format!("bad{CANARY}"), true), ("busy".to_owned(), false)] {
        let error = error_of(&hook, &value).await;
        assert_eq!(error.is_refused(), refused, "{error}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
    assert_eq!(names(dir.path()), ["conf", "told"]);
    assert_eq!((read(&dir, "conf"), read(&dir, "told")), ("token=one\n".into(), "told\n".into()));
}

#[tokio::test]
async fn what_a_command_repeats_of_a_file_is_hidden_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let value = "canary'\"\\ <&7f3a";
    let json = serde_json::json!({ "field": { "deep": [value] } }).to_string();
    let filters =
        ["shell", "dotenv", "json", "yaml", "toml", "xml", "url", "sql", "sql('mysql')", "b64"];
    for filter in filters {
        for (name, secret) in [("token", value), ("token.field.deep[0]", &json)] {
            let hook = hook(&dir, |config| {
                config.files[0].content = Some(format!("{{{{ {name} | {filter} }}}}"));
                config.check = script("cat \"$ONEIRIC_STAGED_DIR/conf\" >&2; exit 1");
            });
            let said = error_of(&hook, secret).await.to_string();
            assert_eq!(said, "`check` exited with code 1: [secret]", "{name} | {filter}");
        }
    }
}

#[tokio::test]
async fn the_reader_is_told_after_all_files_are_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.files.push(FileConfig::new("other={{ token }}\n", path(&dir, "other")));
        config.reload = script("cat conf other >> told; echo $ONEIRIC_GENERATION >> told");
    });
    rotate(&hook, "one").await;
    rotate(&hook, "two").await;
    let expected = "token=one\nother=one\n1\ntoken=two\nother=two\n2\n";
    assert_eq!(read(&dir, "told"), expected);
}

#[tokio::test]
async fn the_first_generation_after_a_start_tells_the_reader_though_nothing_changed() {
    let dir = tempfile::tempdir().unwrap();
    let reload = |config: &mut Config| config.reload = script("echo told >> told");
    rotate(&hook(&dir, reload), "one").await;
    assert_eq!(read(&dir, "told"), "told\n");

    // The agent is started again: nobody knows whether the reader was told.
    let again = hook(&dir, reload);
    rotate(&again, "one").await;
    assert_eq!(read(&dir, "told"), "told\ntold\n");
    rotate(&again, "one").await;
    assert_eq!(read(&dir, "told"), "told\ntold\n", "after that it is known");

    // And unless it was told otherwise.
    let changed_only = |config: &mut Config| {
        reload(config);
        config.reload_at_start = false;
    };
    rotate(&hook(&dir, changed_only), "one").await;
    assert_eq!(read(&dir, "told"), "told\ntold\n");
    // A secret that was rotated while the agent was down reaches the reader either way.
    rotate(&hook(&dir, changed_only), "two").await;
    assert_eq!(read(&dir, "told"), "told\ntold\ntold\n");
}

#[tokio::test]
async fn a_reader_that_was_not_told_is_told_again_though_nothing_changes() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.reload = script("[ -e ready ] || { echo not yet >&2; exit 1; }; cat conf > told");
    });
    let mut report = rotate(&hook, "one").await;
    assert_eq!(report.outcome, DrainOutcome::Leaked);
    let said = report.error.clone().unwrap();
    assert_eq!(said, "`reload` exited with code 1: not yet");
    assert_eq!(read(&dir, "conf"), "token=one\n");
    // The same secrets come again before the retry.
    fs::write(path(&dir, "ready"), "").unwrap();
    assert_eq!(rotate(&hook, "one").await, DrainReport::drained());
    assert_eq!(read(&dir, "told"), "token=one\n");
    tokio::time::timeout(PATIENCE, report.take_later().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_signal_reaches_the_reader_and_a_reader_that_is_gone_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut reader = Command::new("sh")
        .args(["-c", "trap 'cat conf >> told' HUP; echo $$ > pid; while :; do sleep 0.05; done"])
        .current_dir(dir.path())
        .spawn()
        .unwrap();
    until("the reader has not started", || read(&dir, "pid").ends_with('\n')).await;
    let signal = format!(
        "secrets = {{ token = 'files:token' }}\nsignal = {{ pid_file = {:?}, signal = 'HUP' }}\n\
         [[files]]\ncontent = 'token={{{{ token }}}}'\ntarget = {:?}",
        path(&dir, "pid"),
        path(&dir, "conf"),
    );
    let config: Config = toml::from_str(&signal).unwrap();
    let hook = TemplateHook::new("shop".parse().unwrap(), config).unwrap();
    assert_eq!(rotate(&hook, "one").await, DrainReport::drained());
    until("the signal did not arrive", || read(&dir, "told") == "token=one").await;
    reader.kill().unwrap();
    reader.wait().unwrap();
    let report = rotate(&hook, "two").await;
    assert_eq!(report.outcome, DrainOutcome::Leaked);
    assert!(report.error.unwrap().contains("and there is none"));
}

#[tokio::test]
async fn the_old_content_is_in_use_until_the_reader_acknowledges() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.reload = script("true");
        config.acknowledge = script("cmp -s conf loaded || { echo not yet >&2; exit 1; }");
    });
    let mut report = rotate_within(&hook, "one", Duration::from_millis(300)).await;
    assert_eq!(report.outcome, DrainOutcome::Leaked);
    let said = report.error.clone().unwrap();
    assert!(
        [
            "`acknowledge` exited with code 1: not yet",
            "`acknowledge` has not answered by the deadline"
        ]
        .contains(&said.as_str()),
        "{said}"
    );
    fs::copy(path(&dir, "conf"), path(&dir, "loaded")).unwrap();
    tokio::time::timeout(PATIENCE, report.take_later().unwrap()).await.unwrap();
    fs::write(path(&dir, "loaded"), "token=two\n").unwrap();
    assert_eq!(rotate(&hook, "two").await, DrainReport::drained());
}

#[tokio::test]
async fn templates_are_read_once() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(path(&dir, "conf.j2"), "a={{ token }}\n").unwrap();
    let hook = hook(&dir, |config| {
        config.files[0].content = None;
        config.files[0].template = Some(path(&dir, "conf.j2"));
    });
    fs::write(path(&dir, "conf.j2"), "{{ half").unwrap();
    rotate(&hook, "one").await;
    assert_eq!(read(&dir, "conf"), "a=one\n");

    let mut config = Config::new([("token".to_owned(), token())]);
    let mut file = FileConfig::new("", path(&dir, "conf"));
    file.content = None;
    file.template = Some(path(&dir, "conf.j2"));
    config.files.push(file);
    let error = TemplateHook::new("shop".parse().unwrap(), config.clone()).unwrap_err().chain();
    assert!(error.contains("conf.j2:1: "), "{error}");
    config.files[0].template = Some(path(&dir, "none.j2"));
    let error = TemplateHook::new("shop".parse().unwrap(), config).unwrap_err().chain();
    assert!(error.contains("none.j2` cannot be read"), "{error}");
}
