//! What is put in place, when, and whose it is.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

#[tokio::test]
async fn a_file_is_there_once_the_generation_is_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |_| {});
    let prepared = hook.prepare(&set("one")).await.unwrap();
    assert!(!path(&dir, "conf").exists());
    let retired = prepared.commit();
    assert_eq!(retired.drain(Instant::now() + PATIENCE).await, DrainReport::drained());
    assert_eq!(read(&dir, "conf"), "token=one\n");
    assert_eq!(rotate(&hook, "two").await, DrainReport::drained());
    assert_eq!(read(&dir, "conf"), "token=two\n");
    assert_eq!(names(dir.path()), ["conf"], "nothing is left beside it");
}

#[tokio::test]
async fn a_generation_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |_| {});
    rotate(&hook, "one").await;
    let before = fs::metadata(path(&dir, "conf")).unwrap();
    let prepared = hook.prepare(&set("two")).await.unwrap();
    assert_eq!(names(dir.path()).len(), 2, "it is staged beside the target");
    drop(prepared);
    assert_eq!(names(dir.path()), ["conf"]);
    assert_eq!(fs::metadata(path(&dir, "conf")).unwrap().ino(), before.ino());
}

#[tokio::test]
async fn mode_and_owner_are_there_before_any_content() {
    let dir = tempfile::tempdir().unwrap();
    let ours = fs::metadata(dir.path()).unwrap();
    // Whoever is root can give a file away, and others can name themselves.
    let owner = if ours.uid() == 0 { 4711 } else { ours.uid() };
    let hook = hook(&dir, |config| {
        config.files[0].mode = 0o640;
        config.files[0].owner = Some(owner.to_string());
        config.files[0].group = Some(ours.gid().to_string());
        config.check = script("stat -c '%a %u %g' .conf.* > staged");
    });
    rotate(&hook, "one").await;
    let expected = format!("640 {owner} {}\n", ours.gid());
    assert_eq!(read(&dir, "staged"), expected);
    let facts = fs::metadata(path(&dir, "conf")).unwrap();
    assert_eq!((facts.mode() & 0o7777, facts.uid(), facts.gid()), (0o640, owner, ours.gid()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_finds_content_in_a_file_that_is_not_its_owners_yet() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        // Long enough that it is seen being written.
        config.files[0].content = Some("x".repeat(64 << 20));
        config.files[0].mode = 0o640;
    });
    let stop = Arc::new(AtomicBool::new(false));
    let (done, folder) = (Arc::clone(&stop), dir.path().to_owned());
    let watcher = thread::spawn(move || {
        let mut seen = 0;
        while !done.load(Ordering::Relaxed) {
            for entry in fs::read_dir(&folder).unwrap().flatten() {
                let facts = fs::symlink_metadata(entry.path());
                let Some(facts) = facts.ok().filter(|facts| facts.len() > 0) else { continue };
                assert_eq!(facts.mode() & 0o7777, 0o640);
                seen += 1;
            }
        }
        seen
    });
    rotate(&hook, "one").await;
    stop.store(true, Ordering::Relaxed);
    assert!(watcher.join().unwrap() > 0, "nothing was seen");
}

#[tokio::test]
async fn every_secret_is_tracked() {
    let dir = tempfile::tempdir().unwrap();
    let other: SecretRef = "vault:other#field".parse().unwrap();
    let hook = hook(&dir, |config| {
        config.secrets.insert("other".to_owned(), other.clone());
        config.secrets.insert("again".to_owned(), token());
    });
    assert_eq!(hook.secrets(), [token(), other], "each once, used or not");
}

#[tokio::test]
async fn a_file_is_private_whatever_the_umask_and_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(path(&dir, "conf"), "token=one\n").unwrap();
    fs::set_permissions(path(&dir, "conf"), fs::Permissions::from_mode(0o644)).unwrap();
    rotate(&hook(&dir, |_| {}), "one").await;
    let facts = fs::metadata(path(&dir, "conf")).unwrap();
    assert_eq!(facts.mode() & 0o7777, 0o600, "the right content in a public file is not right");
}

#[tokio::test]
async fn a_file_that_is_what_it_should_be_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.files.push(FileConfig::new("always the same\n", path(&dir, "same")));
    });
    rotate(&hook, "one").await;
    let before = ["conf", "same"].map(|name| fs::metadata(path(&dir, name)).unwrap().ino());
    rotate(&hook, "two").await;
    let after = ["conf", "same"].map(|name| fs::metadata(path(&dir, name)).unwrap().ino());
    assert!(before[0] != after[0] && before[1] == after[1], "{before:?} {after:?}");
}

#[tokio::test]
async fn what_is_replaced_is_kept_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| config.files[0].backup = true);
    rotate(&hook, "one").await;
    assert_eq!(names(dir.path()), ["conf"], "there was nothing to keep");
    rotate(&hook, "two").await;
    rotate(&hook, "three").await;
    assert_eq!(read(&dir, "conf"), "token=three\n");
    assert_eq!(read(&dir, "conf.bak"), "token=two\n");
    assert_eq!(fs::metadata(path(&dir, "conf.bak")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(names(dir.path()), ["conf", "conf.bak"]);
}

#[tokio::test]
async fn a_template_that_cannot_be_rendered_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.files.push(FileConfig::new("\n{{ token.field }}", path(&dir, "other")));
        config.reload = script("echo told >> told");
    });
    rotate(&hook, r#"{"field": "x"}"#).await;
    let before = names(dir.path());
    let error = error_of(&hook, CANARY).await;
    let expected = format!(
        "the content of {}:2: in `token.field`: `token.field` is undefined",
        path(&dir, "other").display()
    );
    assert_eq!(error.to_string(), expected, "and it shows no value");
    assert!(!error.is_refused(), "the secret was not tried");
    assert_eq!(names(dir.path()), before);
    assert_eq!(read(&dir, "conf"), "token={\"field\": \"x\"}\n");
    assert_eq!(read(&dir, "told"), "told\n");
}

#[tokio::test]
async fn a_target_that_cannot_be_is_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(path(&dir, "folder")).unwrap();
    fs::write(path(&dir, "real"), "untouched").unwrap();
    symlink("real", path(&dir, "link")).unwrap();
    symlink("nowhere", path(&dir, "dangling")).unwrap();
    for (target, reason) in [
        (path(&dir, "folder"), "is a directory, and not a file"),
        (path(&dir, "link"), "is a symbolic link, which would be replaced itself"),
        (path(&dir, "dangling"), "is a symbolic link"),
        (path(&dir, "missing/conf"), "missing` of `"),
        (path(&dir, "real/conf"), "`"),
        ("/dev/null".into(), "is no regular file"),
        // Nobody makes files here, not even root.
        ("/proc/self/conf".into(), "cannot write beside `/proc/self/conf` ("),
    ] {
        let hook = hook(&dir, |config| config.files[0].target = target.clone());
        let error = error_of(&hook, CANARY).await;
        let said = error.to_string();
        assert!(said.contains(reason) && !error.is_refused(), "{said}");
        assert!(said.contains(&target.display().to_string()), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
    assert_eq!(read(&dir, "real"), "untouched");
    assert_eq!(names(dir.path()), ["dangling", "folder", "link", "real"]);
    let hook = hook(&dir, |config| config.files[0].owner = Some("no-such-user".to_owned()));
    assert_eq!(error_of(&hook, "one").await.to_string(), "there is no user `no-such-user`");
}

#[tokio::test]
async fn if_one_file_of_several_cannot_be_staged_none_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.files.push(FileConfig::new("{{ token }}", path(&dir, "missing/other")));
    });
    error_of(&hook, "one").await;
    assert!(names(dir.path()).is_empty());
}

#[tokio::test]
async fn what_a_crash_left_is_removed_at_the_next_start_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let kept =
        [".conf.other.1-2.oneiric", ".conf.shop.1.oneiric", ".conf.shop.oneiric", "conf.bak"];
    let left = [".conf.shop.1-0.oneiric", ".conf.shop.4711-12.oneiric"];
    for name in kept.iter().chain(&left) {
        fs::write(path(&dir, name), CANARY).unwrap();
    }
    fs::create_dir(path(&dir, ".shop.7-1.oneiric-staged")).unwrap();
    fs::write(path(&dir, ".shop.7-1.oneiric-staged/conf"), CANARY).unwrap();
    let hook = hook(&dir, |_| {});
    rotate(&hook, "one").await;
    let mut expected = [&kept[..], &["conf"]].concat();
    expected.sort_unstable();
    assert_eq!(names(dir.path()), expected);
}

#[tokio::test]
async fn files_that_cannot_be_put_in_place_are_leaked_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| config.reload = script("cat conf >> told"));
    rotate(&hook, "one").await;
    let prepared = hook.prepare(&set("two")).await.unwrap();
    // After it was looked at, somebody puts something in the way.
    fs::rename(path(&dir, "conf"), path(&dir, "away")).unwrap();
    fs::create_dir(path(&dir, "conf")).unwrap();
    let mut report = prepared.commit().drain(Instant::now() + PATIENCE).await;
    assert_eq!(report.outcome, DrainOutcome::Leaked);
    assert!(report.error.as_deref().is_some_and(|said| said.contains("is a directory")));
    assert_eq!(read(&dir, "told"), "token=one\n", "nobody is told of what is not there");
    let later = report.take_later().unwrap();
    fs::remove_dir(path(&dir, "conf")).unwrap();
    tokio::time::timeout(PATIENCE, later).await.unwrap();
    assert_eq!(read(&dir, "conf"), "token=two\n");
    assert_eq!(read(&dir, "told"), "token=one\ntoken=two\n");
}

#[tokio::test]
async fn an_older_generation_never_comes_after_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |_| {});
    rotate(&hook, "one").await;
    let older = hook.prepare(&set("two")).await.unwrap().commit();
    assert_eq!(rotate(&hook, "three").await, DrainReport::drained());
    assert_eq!(older.drain(Instant::now() + PATIENCE).await, DrainReport::drained());
    assert_eq!(read(&dir, "conf"), "token=three\n");
}

#[tokio::test]
async fn what_changed_between_prepare_and_commit_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |_| {});
    rotate(&hook, "one").await;
    let same = hook.prepare(&set("one")).await.unwrap();
    assert_eq!(names(dir.path()), ["conf"], "there is nothing to stage");
    fs::write(path(&dir, "conf"), "somebody was here").unwrap();
    same.commit().drain(Instant::now() + PATIENCE).await;
    assert_eq!(read(&dir, "conf"), "token=one\n");
}
