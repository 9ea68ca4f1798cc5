//! What watching costs: calls are counted in the fake's books.

use std::time::Duration;

use oneiric_core::{SecretKey, SecretProvider, Stamp};
use oneiric_gcp_fake::{Fake, Quota};
use tokio::time::Instant;

use crate::{key, provider};

const SECRETS: usize = 1000;

fn filled(fake: &Fake) -> Vec<SecretKey> {
    let id = |number| format!("watched-{number}");
    for number in 0..SECRETS {
        fake.add(&id(number), "value");
        fake.alias(&id(number), "current", 1);
    }
    (0..SECRETS).map(|number| key(&id(number))).collect()
}

fn all(stamps: Vec<oneiric_core::Result<Stamp>>) -> Vec<Stamp> {
    stamps.into_iter().map(|stamp| stamp.unwrap()).collect()
}

#[tokio::test]
async fn with_a_pointer_a_sweep_of_a_thousand_is_one_call() {
    let fake = Fake::start().await;
    let keys = filled(&fake);
    let provider = provider(&fake, "alias:current");
    let first = all(provider.stamps(&keys).await);
    for sweeps in 2..=5 {
        assert_eq!(all(provider.stamps(&keys).await), first);
        assert_eq!(fake.books().len(), sweeps, "one call for each sweep");
    }
    assert_eq!(fake.calls("ListSecrets"), 5);
    fake.add("watched-500", "new");
    assert_eq!(all(provider.stamps(&keys).await), first, "it is not current yet");
    fake.alias("watched-500", "current", 2);
    let after = all(provider.stamps(&keys).await);
    let changed: Vec<usize> = (0..SECRETS).filter(|&index| first[index] != after[index]).collect();
    assert_eq!(changed, [500]);
    assert_eq!(fake.calls("AccessSecretVersion"), 0);
    let detection = provider.descriptor().detection;
    assert_eq!((detection.keys_a_call, detection.usd_a_million), (None, Some(0.0)));
}

/// The time is the test's own: minutes pass as fast as calls are answered.
#[tokio::test(start_paused = true)]
async fn without_a_pointer_no_minute_sees_more_than_the_quota() {
    let fake = Fake::start().await;
    let keys = filled(&fake);
    // Calls overlap, and arrive a while after they were let pass.
    fake.latency(Duration::from_millis(50));
    let provider = provider(&fake, "latest");
    let start = Instant::now();
    let first = all(provider.stamps(&keys).await);
    for _ in 0..3 {
        assert_eq!(all(provider.stamps(&keys).await), first);
    }
    let took = start.elapsed();
    assert_eq!(fake.calls("GetSecretVersion"), 4 * SECRETS);
    assert_eq!(fake.books().len(), 4 * SECRETS, "no other calls");
    assert!(fake.books().iter().all(|entry| entry.status == 200));
    let busiest = fake.busiest_minute(Quota::Read);
    assert!((400..=540).contains(&busiest), "{busiest} calls in one minute");
    assert!(took < Duration::from_secs(600), "the quota is made use of: {took:?}");
    let detection = provider.descriptor().detection;
    assert_eq!(detection.keys_a_call.unwrap().get(), 1);
    assert_eq!(detection.calls_a_minute.unwrap().get(), 486);
}
