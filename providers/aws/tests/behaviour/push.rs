//! Change events from a queue, on both servers. Neither sends any itself: the test puts on the queue
//! what AWS documents.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use oneiric_core::{Change, ChangeStream, ErrorKind, FetchRequest, SecretProvider};
use oneiric_provider_aws::AwsProvider;
use oneiric_testkit::live::{Aws, AwsKind};
use serde_json::json;
use tokio::time::timeout;

use super::support::gate::Gate;
use super::support::{self, Admin, event};
use super::{key, read, stamp, stamps};

const ARRIVAL: Duration = Duration::from_secs(20);

struct Stand {
    aws: Aws,
    admin: Admin,
    gate: Gate,
    queue: String,
    provider: Arc<AwsProvider>,
}

impl Stand {
    async fn new(kind: AwsKind) -> Option<Self> {
        let aws = support::server(&format!("aws-push-{}", kind.name()), kind)?;
        let (admin, gate) = (Admin::new(aws.port()), Gate::before(aws.port()).await);
        let queue = admin.queue().await;
        let mut config = support::config(&aws, &gate.address());
        config.push = Some(support::push(&queue, &gate.address()));
        let provider = Arc::new(config.build().unwrap());
        Some(Self { aws, admin, gate, queue, provider })
    }

    async fn send(&self, body: &str) {
        self.admin.send(&self.queue, body).await;
    }
}

/// The next change: of which key, and to which version where that is said.
async fn next(changes: &mut ChangeStream) -> (String, Option<String>) {
    match timeout(ARRIVAL, changes.next()).await.unwrap().unwrap() {
        Change::Secret { key, version } => {
            (key.to_string(), version.map(|version| version.id().into_owned()))
        }
        other => panic!("{other:?} came"),
    }
}

#[tokio::test]
async fn an_event_that_is_certainly_newer_names_its_version() {
    for kind in [AwsKind::Moto, AwsKind::Ministack] {
        let Some(stand) = Stand::new(kind).await else { continue };
        let (admin, provider) = (&stand.admin, &stand.provider);
        admin.put_text("app/db", "one").await;
        let mut changes = provider.changes().unwrap();
        assert_eq!(stand.gate.calls("ReceiveMessage"), 0, "nothing is sent before it is read");
        // Somebody has read it by its name and by its ARN.
        read(provider, "app/db").await.unwrap();
        let described = json!({ "SecretId": "app/db" });
        let described = admin.secrets("DescribeSecret", described).await.unwrap();
        let arn = described["ARN"].as_str().unwrap();
        read(provider, arn).await.unwrap();
        // Clocks may be five seconds apart.
        tokio::time::sleep(Duration::from_secs(7)).await;
        let two = admin.put_text("app/db", "two").await;
        stand.send(&event("app/db", &two, "AWSCURRENT")).await;
        let mut told = [next(&mut changes).await, next(&mut changes).await];
        told.sort();
        let two = Some(two);
        assert_eq!(told, [("app/db".into(), two.clone()), (arn.to_owned(), two.clone())]);
        // It is not deleted before somebody has come back for more.
        assert_eq!(admin.waiting(&stand.queue).await, 1);
        assert!(changes.next().now_or_never().is_none());
        // One that follows at once is not certain, so it is looked at.
        let three = admin.put_text("app/db", "three").await;
        stand.send(&event("app/db", &three, "AWSCURRENT")).await;
        let mut told = [next(&mut changes).await, next(&mut changes).await];
        told.sort();
        assert_eq!(told, [("app/db".into(), None), (arn.to_owned(), None)]);
        let looks = stand.gate.calls("DescribeSecret");
        let keys = [key("app/db"), key(arn)];
        assert_eq!(stamps(provider, &keys).await, [stamp(&three), stamp(&three)]);
        assert_eq!(stand.gate.calls("DescribeSecret") - looks, 2);
        // And the late repetition of what was replaced names nothing.
        stand.send(&event("app/db", two.as_ref().unwrap(), "AWSCURRENT")).await;
        assert_eq!(next(&mut changes).await.1, None);
        assert_eq!(read(provider, "app/db").await.unwrap().0, "three");
        assert_eq!(stamps(provider, &keys).await, [stamp(&three), stamp(&three)]);
    }
}

/// A stand on which an event has told of a version, later than all that is known, that is not the
/// current one.
async fn told_and_not_current(kind: AwsKind) -> Option<(Stand, ChangeStream, String)> {
    let stand = Stand::new(kind).await?;
    stand.admin.put_text("app/db", "one").await;
    stamps(&stand.provider, &[key("app/db")]).await;
    read(&stand.provider, "app/db").await.unwrap();
    let mut changes = stand.provider.changes().unwrap();
    tokio::time::sleep(Duration::from_secs(7)).await;
    let put = json!({
        "SecretId": "app/db", "SecretString": "aside", "VersionStages": ["ONEIRIC"],
        "ClientRequestToken": "0123456789abcdef0123456789abcdef",
    });
    let put = stand.admin.secrets("PutSecretValue", put).await.unwrap();
    let aside = put["VersionId"].as_str().unwrap().to_owned();
    stand.send(&event("app/db", &aside, "AWSCURRENT")).await;
    assert_eq!(next(&mut changes).await, ("app/db".into(), Some(aside.clone())));
    Some((stand, changes, aside))
}

#[tokio::test]
async fn what_only_an_event_calls_current_is_not_served_as_that() {
    for kind in [AwsKind::Moto, AwsKind::Ministack] {
        let Some((stand, _changes, aside)) = told_and_not_current(kind).await else { continue };
        // Whoever asks for what is current is not given it either, before anything is proven.
        let served = read(&stand.provider, "app/db").await;
        assert!(served.as_ref().map_or(true, |(value, _)| value == "one"), "{served:?}");
        let at_once = FetchRequest::new(key("app/db")).at_version(aside.as_str());
        let refused = stand.provider.fetch(&at_once).await.unwrap_err();
        let known = [ErrorKind::NotFound, ErrorKind::VersionDisabled, ErrorKind::Unavailable];
        assert!(known.contains(&refused.kind()), "{refused}");
    }
}

#[tokio::test]
async fn an_event_that_was_overtaken_brings_nothing_back() {
    for kind in [AwsKind::Moto, AwsKind::Ministack] {
        let Some((stand, _changes, aside)) = told_and_not_current(kind).await else { continue };
        let three = stand.admin.put_text("app/db", "three").await;
        if kind == AwsKind::Moto {
            // Somebody has seen the third already.
            assert_eq!(stamps(&stand.provider, &[key("app/db")]).await, [stamp(&three)]);
        }
        let at_once = FetchRequest::new(key("app/db")).at_version(aside.as_str());
        let refused = stand.provider.fetch(&at_once).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::VersionDisabled, "{refused}");
        let current = ("three".to_owned(), three);
        assert_eq!(read(&stand.provider, "app/db").await.unwrap(), current);
        // By now it is no more than an old version that is named.
        let named = stand.provider.fetch(&at_once).await.unwrap();
        assert_eq!(named.value.expose(), b"aside");
    }
}

#[tokio::test]
async fn what_is_not_understood_blocks_nothing_and_is_deleted() {
    let Some(stand) = Stand::new(AwsKind::Ministack).await else { return };
    let one = stand.admin.put_text("app/db", "one").await;
    read(&stand.provider, "app/db").await.unwrap();
    let mut changes = stand.provider.changes().unwrap();
    let call = json!({
        "detail-type": "AWS API Call via CloudTrail", "source": "aws.secretsmanager",
        "detail": {
            "eventName": "PutSecretValue",
            "responseElements": { "aRN": "arn:aws:secretsmanager:eu-west-1:000000000000:secret:app/db-AbCdEf" },
        },
    });
    for body in ["poison", "{}", "[[[[", &event("app/db", &one, "ONEIRIC"), &call.to_string()] {
        stand.send(body).await;
    }
    assert_eq!(next(&mut changes).await, ("app/db".into(), None));
    // A secret that nobody has read yet is named all the same.
    stand.send(&event("app/new", &one, "AWSCURRENT")).await;
    assert_eq!(next(&mut changes).await, ("app/new".into(), None));
    assert!(timeout(Duration::from_secs(1), changes.next()).await.is_err());
    drop(changes);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(stand.admin.waiting(&stand.queue).await, 0);
}

/// A stand on which an event has told of a version that looks do not show: nothing says whether the
/// event or the look is older.
async fn told_and_not_shown() -> Option<(Stand, ChangeStream, String)> {
    let stand = Stand::new(AwsKind::Ministack).await?;
    stand.admin.put_text("app/db", "one").await;
    // Somebody else has looked, so that the gate has something to show.
    let other = support::config(&stand.aws, &stand.gate.address()).build().unwrap();
    stamps(&other, &[key("app/db")]).await;
    tokio::time::sleep(Duration::from_millis(6500)).await;
    read(&stand.provider, "app/db").await.unwrap();
    let mut changes = stand.provider.changes().unwrap();
    stand.gate.freeze(&["DescribeSecret"]);
    let two = stand.admin.put_text("app/db", "two").await;
    stand.send(&event("app/db", &two, "AWSCURRENT")).await;
    assert_eq!(next(&mut changes).await, ("app/db".into(), None));
    Some((stand, changes, two))
}

#[tokio::test]
async fn a_look_waits_for_what_an_event_has_told() {
    let Some((stand, _changes, two)) = told_and_not_shown().await else { return };
    let thaw = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stand.gate.mend();
    };
    let keys = [key("app/db")];
    let (found, ()) = tokio::join!(stamps(&stand.provider, &keys), thaw);
    assert_eq!(found, [stamp(&two)]);
}

#[tokio::test]
async fn a_look_does_not_wait_for_ever() {
    let Some((stand, mut changes, two)) = told_and_not_shown().await else { return };
    let keys = [key("app/db")];
    let found = stand.provider.stamps(&keys).await.remove(0);
    assert_eq!(found.unwrap_err().kind(), ErrorKind::Unavailable, "it is to be asked again");
    // By now it is known of when the old version is, so that the event is certainly newer.
    stand.send(&event("app/db", &two, "AWSCURRENT")).await;
    assert_eq!(next(&mut changes).await, ("app/db".into(), Some(two.clone())));
    assert_eq!(stamps(&stand.provider, &keys).await, [stamp(&two)], "and nothing is taken back");
}

#[tokio::test]
async fn a_queue_that_is_lost_ends_the_stream() {
    for kind in [AwsKind::Moto, AwsKind::Ministack] {
        let Some(stand) = Stand::new(kind).await else { continue };
        let mut changes = stand.provider.changes().unwrap();
        let gone = json!({ "QueueUrl": stand.queue });
        stand.admin.call("sqs", "DeleteQueue", gone).await.unwrap();
        assert_eq!(timeout(ARRIVAL, changes.next()).await.unwrap(), None);
    }
}
