//! Answers that are older than what was seen before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oneiric_core::{ErrorKind, FetchRequest, SecretProvider};

use super::support::fake::{arn, now};
use super::{faked, key, read, stamp, stamps};

const HOUR: Duration = Duration::from_secs(3600);
const READS: [&str; 3] = ["GetSecretValue", "BatchGetSecretValue", "DescribeSecret"];

#[tokio::test]
async fn a_list_that_lags_takes_nothing_back_and_is_caught_up_with() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let keys = [key("a"), key("b")];
    let old = fake.put_at("a", "old", now() - 60.0);
    fake.put_at("b", "other", now() - 60.0);
    assert_eq!(stamps(&provider, &keys).await[0], stamp(&old));
    fake.lag(&["ListSecrets"], Duration::from_millis(700));
    let new = fake.put("a", "new");
    // Whoever has not read it does not know yet.
    assert_eq!(stamps(&provider, &keys).await[0], stamp(&old));
    assert_eq!(read(&provider, "a").await.unwrap(), ("new".into(), new.clone()));
    for _ in 0..10 {
        assert_eq!(stamps(&provider, &keys).await[0], stamp(&new), "the list shows what was");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(stamps(&provider, &keys).await[0], stamp(&new));
}

#[tokio::test]
async fn a_read_that_lags_behind_the_list_takes_nothing_back() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let keys = [key("a"), key("b")];
    fake.put_at("a", "old", now() - 60.0);
    fake.put_at("b", "other", now() - 60.0);
    stamps(&provider, &keys).await;
    assert_eq!(read(&provider, "a").await.unwrap().0, "old");
    tokio::time::sleep(Duration::from_millis(700)).await;
    let new = fake.put("a", "new");
    assert_eq!(stamps(&provider, &keys).await[0], stamp(&new));
    fake.lag(&READS, Duration::from_millis(600));
    // Even the new version cannot be read by its id yet, so there is no answer.
    assert_eq!(read(&provider, "a").await.unwrap_err().kind(), ErrorKind::Unavailable);
    let requests = keys.each_ref().map(|key| FetchRequest::new(key.clone()));
    let answers = provider.fetch_many(&requests).await;
    assert_eq!(answers[0].as_ref().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(answers[1].as_ref().unwrap().value.expose(), b"other");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(read(&provider, "a").await.unwrap(), ("new".into(), new));
}

#[tokio::test]
async fn what_is_known_to_be_current_is_read_by_its_id() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    fake.put_at("a", "old", now() - 60.0);
    assert_eq!(read(&provider, "a").await.unwrap().0, "old");
    // Made before it becomes current, as rotations do.
    let new = fake.add("a", "new", now() - 30.0);
    fake.label("a", "AWSPENDING", &new, now() - 30.0);
    tokio::time::sleep(Duration::from_millis(600)).await;
    fake.label("a", "AWSCURRENT", &new, now());
    assert_eq!(stamps(&provider, &[key("a")]).await, [stamp(&new)]);
    // By its label the old one is read for a while, and the new one is there by its id.
    fake.lag(&["GetSecretValue"], Duration::from_millis(500));
    let (gets, looks) = (fake.calls("GetSecretValue"), fake.calls("DescribeSecret"));
    assert_eq!(read(&provider, "a").await.unwrap(), ("new".into(), new));
    assert_eq!(fake.calls("GetSecretValue") - gets, 2);
    assert_eq!(fake.calls("DescribeSecret") - looks, 1);
}

#[tokio::test]
async fn a_way_back_is_believed_with_a_later_date() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let first = fake.put_at("a", "first", now() - 60.0);
    assert_eq!(read(&provider, "a").await.unwrap().0, "first");
    fake.put_at("a", "second", now() - 30.0);
    assert_eq!(read(&provider, "a").await.unwrap().0, "second");
    // One look tells when the second became current; the way back is after it.
    stamps(&provider, &[key("a")]).await;
    fake.label("a", "AWSCURRENT", &first, now());
    assert_eq!(read(&provider, "a").await.unwrap(), ("first".into(), first.clone()));
    assert_eq!(stamps(&provider, &[key("a")]).await, [stamp(&first)]);
}

#[tokio::test]
async fn without_the_right_to_look_an_older_version_is_not_believed_for_a_while() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    fake.deny("DescribeSecret");
    fake.put_at("a", "old", now() - 60.0);
    assert_eq!(read(&provider, "a").await.unwrap().0, "old");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let new = fake.put_at("a", "new", now() - 30.0);
    assert_eq!(read(&provider, "a").await.unwrap().0, "new");
    let back = fake.add("a", "unused", now() - 60.0);
    let (label, id) = ("AWSCURRENT", &back);
    fake.label("a", label, id, now());
    assert_eq!(read(&provider, "a").await.unwrap(), ("new".into(), new));
}

#[tokio::test]
async fn what_must_not_be_served_is_not() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    fake.put("a", "current");
    let pending = fake.add("a", "pending", now());
    fake.label("a", "AWSPENDING", &pending, now());
    let at = |version: &str| FetchRequest::new(key("a")).at_version(version);
    for version in ["AWSPENDING", pending.as_str()] {
        let error = provider.fetch(&at(version)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VersionDisabled);
        assert!(error.to_string().contains("rotation"), "{error}");
    }
    // Once it is current it keeps the label for a while.
    fake.label("a", "AWSCURRENT", &pending, now());
    assert_eq!(provider.fetch(&at(&pending)).await.unwrap().value.expose(), b"pending");
    let previous = provider.fetch(&at("AWSPREVIOUS")).await.unwrap();
    assert_eq!(previous.value.expose(), b"current");
    fake.put("empty", "");
    let error = read(&provider, "empty").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    fake.add("unlabelled", "v", now());
    assert_eq!(read(&provider, "unlabelled").await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// Whatever lags by whatever time, nobody who asks in whatever way is given an older version after
/// a newer one, and in the end everybody has the newest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_any_lag_versions_only_go_forward() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let (fake, done) = (Arc::new(fake), Arc::new(AtomicBool::new(false)));
    fake.put("a", "0");
    fake.put("b", "other");
    let mut newest = 0_u32;
    let mut readers = Vec::new();
    for way in 0..3 {
        let (provider, done) = (Arc::clone(&provider), Arc::clone(&done));
        readers.push(tokio::spawn(async move {
            let (mut last, mut reads) = (0_u32, 0_u32);
            while !done.load(Ordering::Relaxed) {
                let name = if way == 2 { arn("a") } else { "a".into() };
                let answer = match way {
                    1 => {
                        let requests = ["a", "b"].map(|name| FetchRequest::new(key(name)));
                        provider.fetch_many(&requests).await.swap_remove(0)
                    }
                    _ => provider.fetch(&FetchRequest::new(key(&name))).await,
                };
                _ = provider.stamps(&[key("a"), key("b")]).await;
                if let Ok(fetched) = answer {
                    let number = fetched.value.expose_str().unwrap().parse().unwrap();
                    assert!(number >= last, "after {last} came {number} by way {way}");
                    (last, reads) = (number, reads + 1);
                }
            }
            reads
        }));
    }
    for _ in 0..60 {
        newest += 1;
        fake.put("a", &newest.to_string());
        for call in ["GetSecretValue", "BatchGetSecretValue", "DescribeSecret", "ListSecrets"] {
            fake.lag(&[call], Duration::from_millis(fastrand::u64(0..200)));
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..80))).await;
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 20, "it was read meanwhile");
    }
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(read(&provider, "a").await.unwrap().0, newest.to_string());
}

/// The lags are those of one secret at one time; nothing of it is the provider's own delay.
#[tokio::test]
async fn a_list_of_long_ago_costs_no_more_calls() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let keys = [key("a"), key("b")];
    for key in &keys {
        fake.put_at(key.as_str(), "v", now() - HOUR.as_secs_f64());
    }
    stamps(&provider, &keys).await;
    fake.hold("a");
    let new = fake.put("a", "w");
    assert_eq!(read(&provider, "a").await.unwrap().1, new);
    let calls = fake.all_calls();
    for _ in 0..5 {
        assert_eq!(stamps(&provider, &keys).await[0], stamp(&new));
    }
    assert_eq!(fake.all_calls() - calls, 5);
}
