//! Change events, from the message to the stream.

use std::time::Duration;

use futures_util::StreamExt;
use oneiric_core::{Change, ChangeStream, SecretProvider, Version};
use oneiric_gcp_fake::{Fake, Feed, PushFault};
use oneiric_provider_gcp::GcpProvider;
use tokio::time::{sleep, timeout};

use crate::support::{SUBSCRIPTION, TOPIC};
use crate::{key, support};

const ARRIVAL: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_millis(300);

fn pushed(fake: &Fake, current: &str) -> GcpProvider {
    let mut config = support::config(fake);
    config.current = current.parse().unwrap();
    config.project_number = Some(Fake::NUMBER.into());
    support::push(&mut config, fake);
    config.build().unwrap()
}

async fn next(changes: &mut ChangeStream) -> Change {
    timeout(ARRIVAL, changes.next()).await.unwrap().unwrap()
}

async fn is_quiet(changes: &mut ChangeStream) -> bool {
    timeout(QUIET, changes.next()).await.is_err()
}

/// The change of a secret under each of its keys.
async fn assert_change(changes: &mut ChangeStream, id: &str, version: Option<u64>) {
    let version = version.map(Version::numbered);
    for text in [
        id.to_owned(),
        format!("projects/{}/secrets/{id}", Fake::PROJECT),
        format!("projects/{}/secrets/{id}", Fake::NUMBER),
    ] {
        let change = Change::Secret { key: key(&text), version: version.clone() };
        assert_eq!(next(changes).await, change);
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let until = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(ARRIVAL, until).await.is_ok(), "{what}");
}

#[tokio::test]
async fn an_event_names_the_version_in_both_shapes() {
    for feed in [Feed::Topic(TOPIC.into()), Feed::AuditLog] {
        let fake = Fake::start().await;
        fake.topic("db", TOPIC);
        fake.subscribe(SUBSCRIPTION, feed);
        fake.add("db", "one");
        let provider = pushed(&fake, "latest");
        let mut changes = provider.changes().unwrap();
        assert_change(&mut changes, "db", Some(1)).await;
        fake.add("db", "two");
        assert_change(&mut changes, "db", Some(2)).await;
        fake.disable("db", 2);
        assert_change(&mut changes, "db", None).await;
        fake.delete("db");
        assert_change(&mut changes, "db", None).await;
        assert!(is_quiet(&mut changes).await);
    }
}

#[tokio::test]
async fn with_a_pointer_the_move_is_the_event() {
    for feed in [Feed::Topic(TOPIC.into()), Feed::AuditLog] {
        let fake = Fake::start().await;
        fake.add("db", "one");
        fake.topic("db", TOPIC);
        fake.subscribe(SUBSCRIPTION, feed);
        let mut changes = pushed(&fake, "alias:current").changes().unwrap();
        fake.add("db", "two");
        assert!(is_quiet(&mut changes).await, "it is not current yet");
        fake.alias("db", "current", 2);
        assert_change(&mut changes, "db", Some(2)).await;
        assert!(is_quiet(&mut changes).await);
    }
}

#[tokio::test]
async fn a_message_is_acknowledged_when_it_was_seen_through() {
    let fake = Fake::start().await;
    fake.topic("db", TOPIC);
    fake.subscribe(SUBSCRIPTION, Feed::Topic(TOPIC.into()));
    fake.ack_deadline(Duration::from_millis(200));
    let provider = pushed(&fake, "latest");
    fake.add("db", "one");
    let mut changes = provider.changes().unwrap();
    assert_change(&mut changes, "db", Some(1)).await;
    assert_eq!((fake.backlog(SUBSCRIPTION), fake.calls("Acknowledge")), (1, 0));
    // Who goes away without coming back for more has not seen it through: it comes again.
    drop(changes);
    sleep(Duration::from_millis(250)).await;
    let mut changes = provider.changes().unwrap();
    assert_change(&mut changes, "db", Some(1)).await;
    assert!(is_quiet(&mut changes).await);
    assert_eq!(fake.backlog(SUBSCRIPTION), 0);
}

#[tokio::test]
async fn what_is_not_understood_is_acknowledged_and_everything_compared() {
    let fake = Fake::start().await;
    fake.subscribe(SUBSCRIPTION, Feed::Topic(TOPIC.into()));
    let mut changes = pushed(&fake, "latest").changes().unwrap();
    fake.publish(TOPIC, "e30=", &[("eventType", "TOPIC_CONFIGURED")]);
    assert!(is_quiet(&mut changes).await);
    eventually("it is acknowledged", || fake.backlog(SUBSCRIPTION) == 0).await;
    for (data, attributes) in [
        ("not base64", &[][..]),
        ("e30=", &[]),
        ("", &[("eventType", "SECRET_VERSION_ADD"), ("secretId", "???")]),
    ] {
        fake.publish(TOPIC, data, attributes);
        assert_eq!(next(&mut changes).await, Change::Anything, "{data}");
        assert!(is_quiet(&mut changes).await);
        eventually("it is acknowledged", || fake.backlog(SUBSCRIPTION) == 0).await;
    }
}

#[tokio::test]
async fn doubled_and_reordered_messages_are_handed_on() {
    let fake = Fake::start().await;
    fake.subscribe(SUBSCRIPTION, Feed::Topic(TOPIC.into()));
    fake.topic("db", TOPIC);
    let mut changes = pushed(&fake, "latest").changes().unwrap();
    assert!(is_quiet(&mut changes).await);
    fake.play_push(PushFault::Doubled);
    fake.add("db", "one");
    assert_change(&mut changes, "db", Some(1)).await;
    assert!(is_quiet(&mut changes).await, "of one pull, each is told once");
    fake.mend();
    fake.play_push(PushFault::Reordered);
    fake.add("db", "two");
    fake.add("db", "three");
    fake.mend();
    assert_change(&mut changes, "db", Some(3)).await;
    assert_change(&mut changes, "db", Some(2)).await;
}

#[tokio::test]
async fn a_lost_subscription_ends_the_stream_and_a_new_one_goes_on() {
    let fake = Fake::start().await;
    fake.topic("db", TOPIC);
    let provider = pushed(&fake, "latest");
    let mut changes = provider.changes().unwrap();
    let none = timeout(ARRIVAL, changes.next()).await.unwrap();
    assert_eq!(none, None, "there is no such subscription");
    fake.subscribe(SUBSCRIPTION, Feed::Topic(TOPIC.into()));
    let mut changes = provider.changes().unwrap();
    assert!(is_quiet(&mut changes).await);
    fake.play_push(PushFault::Cut);
    assert_eq!(timeout(ARRIVAL, changes.next()).await.unwrap(), None);
    fake.mend();
    let mut changes = provider.changes().unwrap();
    fake.add("db", "one");
    assert_change(&mut changes, "db", Some(1)).await;
    // A dropped future of `next` loses nothing.
    for _ in 0..3 {
        assert!(is_quiet(&mut changes).await);
    }
    fake.add("db", "two");
    assert_change(&mut changes, "db", Some(2)).await;
}

#[tokio::test]
async fn without_a_subscription_there_is_no_stream() {
    let fake = Fake::start().await;
    let provider = crate::provider(&fake, "latest");
    assert!(provider.changes().is_none());
    assert!(!provider.descriptor().capabilities.push);
}
