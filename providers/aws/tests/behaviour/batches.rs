//! Many secrets at once.

use std::time::Duration;

use oneiric_core::{Error, ErrorKind, FetchRequest, SecretProvider};

use super::support::fake::arn;
use super::{faked, key, keys};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_secrets_are_fifty_calls_within_the_quota() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let keys = keys(1000);
    for key in &keys {
        fake.put(key.as_str(), &format!("value of {key}"));
    }
    fake.latency(Duration::from_millis(5));
    let requests: Vec<_> = keys.iter().cloned().map(FetchRequest::new).collect();
    let answers = provider.fetch_many(&requests).await;
    for (key, answer) in keys.iter().zip(&answers) {
        let value = &answer.as_ref().unwrap().value;
        assert_eq!(value.expose_str().unwrap(), format!("value of {key}"));
    }
    assert_eq!((fake.calls("BatchGetSecretValue"), fake.all_calls()), (50, 50));
    let (throttled, at_once) = fake.pressure();
    assert_eq!(throttled, 0);
    assert!((2..=8).contains(&at_once), "{at_once} at once");
    // Four starts of that size one after the other stay within 100 calls a second, too.
    for _ in 0..3 {
        let answers = provider.fetch_many(&requests).await;
        assert!(answers.iter().all(Result::is_ok));
    }
    assert_eq!((fake.calls("BatchGetSecretValue"), fake.pressure().0), (200, 0));
}

/// Of three thousand secrets at once, the last batches have their turn after more than two seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wait_for_a_turn_is_part_of_the_time_that_a_batch_may_take() {
    let (fake, provider, _folder) = faked(|config| {
        config.timeout = Duration::from_secs(1);
        config.concurrency = 200.try_into().unwrap();
    })
    .await;
    let requests: Vec<_> = keys(3000).into_iter().map(FetchRequest::new).collect();
    let answers = provider.fetch_many(&requests).await;
    let is_late = |error: &Error| error.kind() == ErrorKind::DeadlineExceeded;
    let late = answers.iter().filter(|answer| answer.as_ref().is_err_and(is_late)).count();
    // 50 have their turn at once, and 40 in that second.
    assert!(late >= 20 * (150 - 91), "{late} are late");
    assert!(fake.calls("BatchGetSecretValue") <= 91);
}

#[tokio::test]
async fn each_request_has_the_answer_that_is_its_own() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let old = fake.put("a", "a1");
    let new = fake.put("a", "a2");
    fake.put("b", "b1");
    fake.put("empty", "");
    let at = |version: &str| FetchRequest::new(key("a")).at_version(version);
    let mut known = FetchRequest::new(key("a"));
    known.if_none_match = Some(super::stamp(&new));
    let requests = [
        FetchRequest::new(key("b")),
        at(&old),
        FetchRequest::new(key("missing")),
        at("AWSPENDING"),
        FetchRequest::new(key(&arn("a"))),
        known,
        FetchRequest::new(key("b")),
        FetchRequest::new(key("a b")),
        FetchRequest::new(key("empty")),
        at("AWSPREVIOUS"),
    ];
    let answers: Vec<Result<String, ErrorKind>> = provider
        .fetch_many(&requests)
        .await
        .into_iter()
        .map(|answer| match answer {
            Ok(fetched) => Ok(fetched.value.expose_str().unwrap().into()),
            Err(error) => Err(error.kind()),
        })
        .collect();
    let expected = [
        Ok("b1".into()),
        Ok("a1".into()),
        Err(ErrorKind::NotFound),
        Err(ErrorKind::VersionDisabled),
        Ok("a2".into()),
        Err(ErrorKind::NotModified),
        Ok("b1".into()),
        Err(ErrorKind::Invalid),
        Err(ErrorKind::Invalid),
        Ok("a1".into()),
    ];
    assert_eq!(answers, expected);
    assert_eq!((fake.calls("BatchGetSecretValue"), fake.calls("GetSecretValue")), (1, 2));
}

#[tokio::test]
async fn without_the_right_to_batches_each_is_read() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let keys = keys(30);
    for key in &keys {
        fake.put(key.as_str(), "v");
    }
    fake.deny("BatchGetSecretValue");
    let requests: Vec<_> = keys.into_iter().map(FetchRequest::new).collect();
    assert!(provider.fetch_many(&requests).await.iter().all(Result::is_ok));
    assert_eq!((fake.calls("BatchGetSecretValue"), fake.calls("GetSecretValue")), (2, 30));
}
