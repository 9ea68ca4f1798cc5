//! Writing, on the servers that can judge it.

use std::time::Duration;

use oneiric_core::{
    ErrorKind, FetchRequest, SecretLister, SecretProvider, SecretValue, SecretWriter,
};
use oneiric_provider_aws::AwsProvider;
use oneiric_testkit::live::{Aws, AwsKind};
use serde_json::json;

use super::support::fake::now;
use super::support::{self, Admin};
use super::{faked, key, read};

fn stand(kind: AwsKind) -> Option<(Aws, Admin, AwsProvider)> {
    let aws = support::server(&format!("aws-writing-{}", kind.name()), kind)?;
    let (admin, address) = (Admin::new(aws.port()), aws.address());
    let mut config = support::config(&aws, &address);
    config.create.description = Some("made by a test".into());
    config.create.tags = [("team".into(), "x".into())].into();
    Some((aws, admin, config.build().unwrap()))
}

#[tokio::test]
async fn a_version_waits_with_a_label_of_its_own() {
    for kind in [AwsKind::Moto, AwsKind::Ministack] {
        let Some((_aws, admin, provider)) = stand(kind) else { continue };
        let key = key("app/db");
        provider.create_secret(&key).await.unwrap();
        let described = admin.secrets("DescribeSecret", json!({ "SecretId": "app/db" })).await;
        let described = described.unwrap();
        assert_eq!(described["Description"], "made by a test");
        assert_eq!(described["Tags"][0]["Key"], "team");
        let first = provider.create_version(&key, &"one".into(), "1").await.unwrap();
        provider.promote(&key, &first.id(), None).await.unwrap();
        let bytes = SecretValue::from(vec![0xff, 0, 1]);
        let second = provider.create_version(&key, &bytes, "2").await.unwrap();
        let versions = provider.versions(&key).await.unwrap();
        let of = |id: &str| versions.iter().find(|info| info.version.id() == id).unwrap();
        assert_eq!(of(&second.id()).labels, ["ONEIRIC"]);
        assert!(of(&first.id()).current && !of(&second.id()).current);
        // Rotations of AWS are not in the way, and we not in theirs.
        assert_eq!(read(&provider, "app/db").await.unwrap().0, "one");
        provider.promote(&key, &second.id(), Some(&first.id())).await.unwrap();
        let fetched = provider.fetch(&FetchRequest::new(key.clone())).await.unwrap();
        assert!(fetched.value.same_as(&bytes));
        let previous = provider.fetch(&FetchRequest::new(key).at_version("AWSPREVIOUS")).await;
        assert_eq!(previous.unwrap().version, first);
    }
}

/// A look that lags shows the version as current that was so before, and it is to be so again.
#[tokio::test]
async fn a_way_back_is_made_although_a_look_says_that_it_was() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let first = fake.put("a", "first");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let second = fake.put("a", "second");
    fake.lag(&["DescribeSecret"], Duration::from_millis(250));
    provider.promote(&key("a"), &first, Some(&second)).await.unwrap();
    assert_eq!(read(&provider, "a").await.unwrap(), ("first".into(), first.clone()));
    // Whatever is expected, what is so already is a success, and nothing is moved for it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for expected in [Some(second.as_str()), Some(first.as_str()), None] {
        provider.promote(&key("a"), &first, expected).await.unwrap();
    }
    assert_eq!(read(&provider, "a").await.unwrap().0, "first");
    // The same look, and the label is on a third by now, as a read has shown.
    let third = fake.put("a", "third");
    assert_eq!(read(&provider, "a").await.unwrap().1, third);
    fake.lag(&["DescribeSecret"], Duration::from_millis(250));
    let error = provider.promote(&key("a"), &first, Some(&first)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn what_cannot_be_written_is_refused_before_it_is_sent() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let arn = key("arn:aws:secretsmanager:eu-west-1:1:secret:db-AbCdEf");
    let made = provider.create_secret(&arn).await.unwrap_err();
    assert_eq!(made.kind(), ErrorKind::Invalid);
    for value in [SecretValue::from(""), SecretValue::from(vec![b'x'; 65_537])] {
        let made = provider.create_version(&key("a"), &value, "t").await.unwrap_err();
        assert_eq!(made.kind(), ErrorKind::Invalid);
    }
    for turned in [
        provider.disable(&key("a"), "v").await,
        provider.enable(&key("a"), "v").await,
        provider.destroy(&key("a"), "v").await,
    ] {
        let error = turned.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("readable until"), "{error}");
    }
    assert_eq!(fake.all_calls(), 0);
}

#[tokio::test]
async fn versions_are_listed_newest_first_and_none_is_made_up() {
    let (fake, provider, _folder) = faked(|_| {}).await;
    let made: Vec<String> =
        (0..4).map(|number| fake.put_at("a", "v", now() - 10.0 + f64::from(number))).collect();
    let pending = fake.add("a", "w", now());
    fake.label("a", "AWSPENDING", &pending, now());
    let versions = provider.versions(&key("a")).await.unwrap();
    let ids: Vec<_> = versions.iter().map(|info| info.version.id().into_owned()).collect();
    assert_eq!(ids[0], pending);
    assert!(ids[1..].iter().eq(made.iter().rev()), "{ids:?}");
    let state = |index: usize| (versions[index].state.token(), versions[index].current);
    assert_eq!(
        (state(0), state(1), state(4)),
        (("disabled", false), ("enabled", true), ("enabled", false))
    );
    let missing = provider.versions(&key("missing")).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_secret_that_is_marked_for_deletion_is_there_and_cannot_be_read() {
    for kind in [AwsKind::Moto, AwsKind::Ministack] {
        let Some((_aws, admin, provider)) = stand(kind) else { continue };
        admin.put_text("a", "v").await;
        admin.put_text("b", "v").await;
        admin.put_text("c", "v").await;
        read(&provider, "a").await.unwrap();
        admin.secrets("DeleteSecret", json!({ "SecretId": "a" })).await.unwrap();
        assert_eq!(read(&provider, "a").await.unwrap_err().kind(), ErrorKind::VersionDisabled);
        let requests = ["a", "b"].map(|name| FetchRequest::new(key(name)));
        let answers = provider.fetch_many(&requests).await;
        assert_eq!(answers[0].as_ref().unwrap_err().kind(), ErrorKind::VersionDisabled);
        assert_eq!(answers[1].as_ref().unwrap().value.expose(), b"v");
        let found = provider.stamps(&[key("a"), key("b")]).await;
        assert_eq!(found[0].as_ref().unwrap_err().kind(), ErrorKind::VersionDisabled);
        assert!(found[1].is_ok());
        let listed = provider.list().await.unwrap();
        assert_eq!(listed, [key("b"), key("c")]);
        admin.secrets("RestoreSecret", json!({ "SecretId": "a" })).await.unwrap();
        assert_eq!(read(&provider, "a").await.unwrap().0, "v");
        assert!(provider.stamps(&[key("a"), key("b")]).await[0].is_ok());
    }
}
