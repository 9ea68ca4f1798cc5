//! Sweeps: what they cost, and what they find.

use oneiric_core::{ErrorKind, SecretProvider};

use super::support::fake::{Fake, arn, now};
use super::{faked, key, keys, read, stamp, stamps};

/// Long before all that happens in a test.
const LONG_AGO: f64 = 86_400.0;

#[tokio::test]
async fn a_thousand_secrets_cost_one_call_a_sweep() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let keys = keys(1000);
    for (number, key) in keys.iter().enumerate() {
        fake.put_at(key.as_str(), "v1", now() - LONG_AGO - 60.0 * number as f64);
    }
    let first = stamps(&provider, &keys).await;
    assert_eq!(fake.calls("ListSecrets"), 10, "the first sweep walks through all");
    // An hour of sweeps every 60 s.
    for sweep in 0..60 {
        let calls = fake.all_calls();
        match sweep {
            // What starts nothing.
            10 => fake.touch("app/s0500"),
            20 => {
                let pending = fake.add("app/s0501", "v2", now());
                fake.label("app/s0501", "AWSPENDING", &pending, now());
            }
            _ => {}
        }
        assert_eq!(stamps(&provider, &keys).await, first, "sweep {sweep}");
        assert_eq!(fake.all_calls() - calls, 1, "sweep {sweep}");
    }
    // The cost does not grow with what is changed, either.
    let calls = fake.all_calls();
    let new = fake.put("app/s0999", "v2");
    let found = stamps(&provider, &keys).await;
    assert_eq!(fake.all_calls() - calls, 1);
    assert_eq!(found[999], stamp(&new));
    assert_eq!(found[..999], first[..999]);
    assert_eq!(fake.calls("DescribeSecret") + fake.calls("GetSecretValue"), 0);
    let detection = provider.descriptor().detection;
    assert_eq!((detection.keys_a_call, detection.usd_a_million), (None, Some(5.0)));
}

#[tokio::test]
async fn a_few_among_many_are_looked_at_and_then_listed() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    for number in 0..2000 {
        fake.put_at(&format!("other/{number}"), "v", now() - f64::from(number));
    }
    let ids: Vec<String> =
        (0..3).map(|number| fake.put_at(&format!("few/{number}"), "v", now() - LONG_AGO)).collect();
    let few: Vec<_> = (0..3).map(|number| key(&format!("few/{number}"))).collect();
    let expected: Vec<_> = ids.iter().map(|id| stamp(id)).collect();
    assert_eq!(stamps(&provider, &few).await, expected);
    assert_eq!((fake.calls("ListSecrets"), fake.calls("DescribeSecret")), (3, 3));
    // One secret is looked at, which costs as much as a list and sees more.
    stamps(&provider, &few[..1]).await;
    assert_eq!((fake.calls("ListSecrets"), fake.calls("DescribeSecret")), (3, 4));
    let new = fake.put("few/2", "w");
    let found = stamps(&provider, &few).await;
    assert_eq!(found[2], stamp(&new));
    // 600 of the others have changed within ten minutes, so the walk goes so far.
    assert_eq!((fake.calls("ListSecrets"), fake.calls("DescribeSecret")), (3 + 7, 4));
}

#[tokio::test]
async fn equal_dates_do_not_end_a_walk() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let keys = keys(350);
    // The newest date is a thousand seconds ago; the floor of walks lies 600 before it.
    let newest = now() - 1000.0;
    fake.put_at("app/newest", "v", newest);
    for key in &keys {
        fake.put_at(key.as_str(), "v1", newest - 600.0);
    }
    stamps(&provider, &keys).await;
    assert_eq!(fake.calls("ListSecrets"), 4);
    // Changed within the second of the floor, and listed last among its equals.
    let new = fake.put_at("app/s0349", "v2", newest - 600.0);
    assert_eq!(stamps(&provider, &keys).await[349], stamp(&new));
    assert_eq!(fake.calls("ListSecrets"), 8);
}

#[tokio::test]
async fn what_shows_late_with_an_old_date_is_found() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let keys = keys(250);
    for (number, key) in keys.iter().enumerate() {
        fake.put_at(key.as_str(), "v1", now() - LONG_AGO - 60.0 * number as f64);
    }
    stamps(&provider, &keys).await;
    // It changes 299 seconds before another, and the list shows it after the other.
    fake.hold("app/s0007");
    let late = fake.put_at("app/s0007", "v2", now() - 299.0);
    let early = fake.put_at("app/s0008", "v2", now());
    let found = stamps(&provider, &keys).await;
    assert_eq!(found[8], stamp(&early));
    assert_ne!(found[7], stamp(&late));
    fake.release("app/s0007");
    let calls = fake.all_calls();
    assert_eq!(stamps(&provider, &keys).await[7], stamp(&late));
    assert_eq!(fake.all_calls() - calls, 1);
}

/// Secrets of others that changed so long ago that a later walk ends at them.
fn crowd(fake: &Fake) {
    for number in 0..150 {
        fake.put_at(&format!("other/{number}"), "v", now() - 1000.0);
    }
}

/// A walk ends where walks have been before, so what one of them has passed it does not show.
#[tokio::test]
async fn what_the_walk_for_others_has_passed_is_known() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let keys = keys(5);
    for key in &keys {
        fake.put_at(key.as_str(), "v1", now() - LONG_AGO);
    }
    stamps(&provider, &keys).await;
    crowd(&fake);
    let third = fake.put_at("app/s0003", "v2", now() - 3000.0);
    fake.put("app/s0000", "v2");
    // Nobody asks for the third now.
    stamps(&provider, &keys[..2]).await;
    let calls = fake.calls("ListSecrets");
    assert_eq!(stamps(&provider, &keys).await[3], stamp(&third));
    assert_eq!(fake.calls("ListSecrets") - calls, 1, "this walk does not come so far");
}

#[tokio::test]
async fn what_could_not_be_looked_at_is_looked_at_again() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let keys = keys(3);
    for key in &keys {
        fake.put_at(key.as_str(), "v1", now() - LONG_AGO);
    }
    stamps(&provider, &keys[..2]).await;
    crowd(&fake);
    // All that is known of the third is when its version was made, and another is as old.
    let date = now() - 3000.0;
    fake.put_at("app/s0002", "v2", date);
    read(&provider, "app/s0002").await.unwrap();
    let new = fake.put_at("app/s0002", "v3", date);
    fake.put("app/s0000", "v2");
    fake.deny("DescribeSecret");
    let found = provider.stamps(&keys).await;
    assert_eq!(found[2].as_ref().unwrap_err().kind(), ErrorKind::Denied);
    fake.allow("DescribeSecret");
    let calls = fake.calls("ListSecrets");
    assert_eq!(stamps(&provider, &keys).await[2], stamp(&new));
    assert_eq!(fake.calls("ListSecrets") - calls, 1, "this walk does not come so far");
}

#[tokio::test]
async fn without_the_right_to_list_each_is_looked_at() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let keys = keys(30);
    for key in &keys {
        fake.put(key.as_str(), "v1");
    }
    fake.deny("ListSecrets");
    for sweep in 1..=2 {
        let new = fake.put("app/s0003", "v");
        assert_eq!(stamps(&provider, &keys).await[3], stamp(&new));
        assert_eq!((fake.calls("ListSecrets"), fake.calls("DescribeSecret")), (sweep, 30 * sweep));
    }
    fake.deny("DescribeSecret");
    for answer in provider.stamps(&keys).await {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Denied);
    }
}

#[tokio::test]
async fn each_is_looked_at_where_that_is_asked_for() {
    let (fake, provider, _folder) = faked(|config| config.describe = true).await;
    let keys = keys(20);
    for key in &keys {
        fake.put(key.as_str(), "v1");
    }
    stamps(&provider, &keys).await;
    assert_eq!((fake.calls("ListSecrets"), fake.calls("DescribeSecret")), (0, 20));
    let detection = provider.descriptor().detection;
    assert_eq!(detection.keys_a_call.map(std::num::NonZero::get), Some(1));
    assert_eq!(detection.settles_within, None);
}

#[tokio::test]
async fn what_the_list_does_not_have_is_looked_at_in_each_sweep() {
    let (fake, provider, _folder) = faked(|config| config.prefix = Some("app/".into())).await;
    let mut keys = keys(150);
    for key in &keys {
        fake.put_at(key.as_str(), "v1", now() - LONG_AGO);
    }
    let outside = fake.put_at("other/db", "v1", now() - LONG_AGO);
    keys.extend([key("other/db"), key("app/missing")]);
    for _ in 0..3 {
        let found = provider.stamps(&keys).await;
        assert_eq!(found[150].clone().unwrap(), stamp(&outside));
        assert_eq!(found[151].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert_eq!(fake.calls("DescribeSecret"), 6);
    let changed = fake.put("other/db", "v2");
    let found = stamps(&provider, &keys[..151]).await;
    assert_eq!(found[150], stamp(&changed));
    let listed = provider.lister().unwrap().list().await.unwrap();
    assert_eq!(listed.len(), 150, "others are not listed");
}

#[tokio::test]
async fn each_spelling_of_a_secret_has_its_stamp() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let id = fake.put("app/db", "v1");
    let arn = arn("app/db");
    let spelled = [key("app/db"), key(&arn), key(&arn[..arn.len() - 7])];
    assert_eq!(stamps(&provider, &spelled).await, [stamp(&id), stamp(&id), stamp(&id)]);
    assert_eq!(fake.all_calls(), 1);
}
