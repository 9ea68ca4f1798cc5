//! What is noticed, and what is not told twice.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use oneiric_core::{Change, ChangeStream, SecretProvider};
use oneiric_provider_file::{Config, FileProvider};
use tokio::time::timeout;

use crate::trees::{Mount, Plain};
use crate::{ask, provider, text};

/// How long anything may take to arrive. Generous: a slow machine is no defect.
const ARRIVAL: Duration = Duration::from_secs(20);

/// Subscribes, and takes the event that says that the watch is there.
async fn subscribe(provider: &FileProvider) -> ChangeStream {
    let mut changes = provider.changes().unwrap();
    assert_eq!(next(&mut changes).await, Change::Anything);
    changes
}

async fn next(changes: &mut ChangeStream) -> Change {
    timeout(ARRIVAL, changes.next()).await.expect("a change arrives").expect("it does not end")
}

/// Waits for a change of this key or of anything.
async fn of(changes: &mut ChangeStream, key: &str) -> Change {
    loop {
        match next(changes).await {
            Change::Secret { key: other, .. } if other.as_str() != key => {}
            change => return change,
        }
    }
}

/// Looks whenever a change is told, and at no other time, until this value is there.
async fn seen(provider: &FileProvider, changes: &mut ChangeStream, key: &str, value: &str) {
    while text(provider, key).await != value {
        of(changes, key).await;
    }
}

/// All that is told until it has been quiet for a while.
async fn rest(changes: &mut ChangeStream, quiet: Duration) -> Vec<Change> {
    let mut told = Vec::new();
    while let Ok(Some(change)) = timeout(quiet, changes.next()).await {
        told.push(change);
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_one_of_fifty_swaps_is_noticed_and_no_pair_is_mixed() {
    let mount = Mount::new();
    let swap = |number: i32| {
        let value = format!("value {number}");
        mount.swap(&[("user", value.as_bytes()), ("password", value.as_bytes())]);
    };
    swap(0);
    let provider = provider(mount.root());
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (provider, done) = (Arc::clone(&provider), Arc::clone(&done));
            tokio::spawn(async move {
                let mut pairs = 0;
                while !done.load(Ordering::SeqCst) {
                    let answers = provider.fetch_many(&[ask("user"), ask("password")]).await;
                    let [user, password] = answers.try_into().unwrap();
                    let (user, password) = (user.unwrap(), password.unwrap());
                    assert!(user.value.same_as(&password.value), "a mixed pair");
                    assert_eq!(user.snapshot, password.snapshot);
                    pairs += 1;
                }
                pairs
            })
        })
        .collect();
    let mut changes = subscribe(&provider).await;
    for number in 1..=50 {
        swap(number);
        assert_eq!(next(&mut changes).await, Change::Anything);
        seen(&provider, &mut changes, "password", &format!("value {number}")).await;
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn every_rename_is_told_with_its_key() {
    let tree = Plain::new();
    fs::create_dir(tree.root().join("db")).unwrap();
    let provider = provider(tree.root());
    let mut changes = subscribe(&provider).await;
    for number in 0..20 {
        let value = format!("value {number}");
        tree.replace("db/password", value.as_bytes());
        let key = "db/password".parse().unwrap();
        assert_eq!(of(&mut changes, "db/password").await, Change::Secret { key, version: None });
        seen(&provider, &mut changes, "db/password", &value).await;
    }
}

#[tokio::test]
async fn writes_in_place_and_removals_are_told() {
    let tree = Plain::new();
    tree.replace("secret", b"old");
    let provider = provider(tree.root());
    let mut changes = subscribe(&provider).await;
    fs::write(tree.root().join("secret"), "new").unwrap();
    of(&mut changes, "secret").await;
    seen(&provider, &mut changes, "secret", "new").await;
    rest(&mut changes, Duration::from_millis(300)).await;
    fs::remove_file(tree.root().join("secret")).unwrap();
    of(&mut changes, "secret").await;
}

#[tokio::test]
async fn new_directories_are_watched_too() {
    let tree = Plain::new();
    tree.replace("placeholder", b"x");
    let provider = provider(tree.root());
    let mut changes = subscribe(&provider).await;
    fs::create_dir_all(tree.root().join("a/b")).unwrap();
    tree.replace("a/b/secret", b"one");
    of(&mut changes, "a/b/secret").await;
    seen(&provider, &mut changes, "a/b/secret", "one").await;
    rest(&mut changes, Duration::from_millis(300)).await;
    tree.replace("a/b/secret", b"two");
    seen(&provider, &mut changes, "a/b/secret", "two").await;
}

#[tokio::test]
async fn a_burst_is_told_a_few_times() {
    let tree = Plain::new();
    tree.replace("secret", b"start");
    let mut config = Config::new(tree.root());
    config.debounce = Duration::from_secs(1);
    let provider = config.build().unwrap();
    let mut changes = subscribe(&provider).await;
    let started = Instant::now();
    for number in 0..100 {
        tree.replace("secret", format!("value {number}").as_bytes());
    }
    let windows = usize::try_from(started.elapsed().as_secs()).unwrap() + 1;
    let told = rest(&mut changes, Duration::from_secs(3)).await;
    let of_it = told
        .iter()
        .filter(|change| matches!(change, Change::Secret { key, .. } if key.as_str() == "secret"));
    // At its beginning, once in each window, and at its end.
    assert!((1..=windows + 2).contains(&of_it.count()), "{told:?}");
    assert_eq!(text(&provider, "secret").await, "value 99");
}

#[tokio::test]
async fn reading_tells_nothing() {
    let tree = Plain::new();
    tree.replace("secret", b"x");
    let provider = provider(tree.root());
    let mut changes = subscribe(&provider).await;
    rest(&mut changes, Duration::from_millis(300)).await;
    for _ in 0..10 {
        text(&provider, "secret").await;
    }
    assert_eq!(rest(&mut changes, Duration::from_millis(300)).await, []);
}

#[tokio::test]
async fn a_root_that_is_made_again_is_watched_again() {
    let tree = Plain::new();
    tree.replace("secret", b"one");
    let provider = provider(tree.root());
    let mut changes = subscribe(&provider).await;
    for (value, later) in [("two", "three"), ("four", "five")] {
        fs::remove_dir_all(tree.root()).unwrap();
        fs::create_dir(tree.root()).unwrap();
        tree.replace("secret", value.as_bytes());
        while of(&mut changes, "secret").await != Change::Anything {}
        seen(&provider, &mut changes, "secret", value).await;
        rest(&mut changes, Duration::from_millis(300)).await;
        tree.replace("secret", later.as_bytes());
        seen(&provider, &mut changes, "secret", later).await;
    }
}

#[tokio::test]
async fn a_root_that_comes_later_is_watched_then() {
    let tree = Plain::new();
    fs::remove_dir(tree.root()).unwrap();
    let provider = provider(tree.root());
    let mut changes = provider.changes().unwrap();
    assert!(timeout(Duration::from_millis(100), changes.next()).await.is_err());
    fs::create_dir(tree.root()).unwrap();
    assert_eq!(next(&mut changes).await, Change::Anything);
    tree.replace("secret", b"x");
    of(&mut changes, "secret").await;
}

#[tokio::test]
async fn a_root_that_is_a_link_is_followed_when_it_is_swapped() {
    let tree = Plain::new();
    for (release, value) in [("1", "one"), ("2", "two")] {
        fs::create_dir(tree.root().join(release)).unwrap();
        tree.replace(&format!("{release}/secret"), value.as_bytes());
    }
    let current = tree.root().join("current");
    symlink("1", &current).unwrap();
    let provider = provider(&current);
    let mut changes = subscribe(&provider).await;
    assert_eq!(text(&provider, "secret").await, "one");
    symlink("2", tree.root().join("next")).unwrap();
    fs::rename(tree.root().join("next"), &current).unwrap();
    assert_eq!(next(&mut changes).await, Change::Anything);
    assert_eq!(text(&provider, "secret").await, "two");
    tree.replace("2/secret", b"three");
    seen(&provider, &mut changes, "secret", "three").await;
}

/// The path of the file that changes says nothing about the keys that lead to it.
#[tokio::test]
async fn a_change_behind_a_link_is_told_as_anything() {
    let tree = Plain::new();
    tree.replace("real", b"one");
    symlink("real", tree.root().join("alias")).unwrap();
    let provider = provider(tree.root());
    assert_eq!(text(&provider, "alias").await, "one");
    let mut changes = subscribe(&provider).await;
    tree.replace("real", b"two");
    assert_eq!(next(&mut changes).await, Change::Anything);
}

/// The kernel lists every watch, by inode, with the descriptor that holds it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_dropped_stream_leaves_no_watch_behind() {
    let tree = Plain::new();
    let inode = fs::metadata(tree.root()).unwrap().ino();
    let watched = || {
        let wanted = format!(" ino:{inode:x} ");
        let descriptors = fs::read_dir("/proc/self/fdinfo").unwrap();
        descriptors
            .filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok())
            .any(|info| info.contains("inotify wd:") && info.contains(&wanted))
    };
    let provider = provider(tree.root());
    let changes = subscribe(&provider).await;
    assert!(watched());
    drop(changes);
    let deadline = Instant::now() + ARRIVAL;
    while watched() {
        assert!(Instant::now() < deadline, "the watch outlives its stream");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
