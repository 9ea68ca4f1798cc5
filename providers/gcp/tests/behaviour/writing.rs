//! Writing: repeated, raced and with replies that are lost.

use std::time::Duration;

use oneiric_core::{ErrorKind, Result, SecretValue, SecretWriter, Version};
use oneiric_gcp_fake::{Fake, Fault};
use oneiric_provider_gcp::GcpProvider;

use crate::{key, provider, read, support};

async fn write(provider: &GcpProvider, value: &str, token: &str) -> Result<Version> {
    provider.create_version(&key("db"), &SecretValue::from(value), token).await
}

#[tokio::test]
async fn a_secret_is_made_once_and_as_the_settings_say() {
    let fake = Fake::start().await;
    let mut config = support::config(&fake);
    config.create = toml::from_str(
        "replicas = ['europe-west1', 'europe-west4']\ntopics = ['projects/demo-project/topics/t']\n\
         labels.team = 'x'\nannotations.'oneiric.owner' = 'y'",
    )
    .unwrap();
    let provider = config.build().unwrap();
    assert_eq!(write(&provider, "one", "t").await.unwrap_err().kind(), ErrorKind::NotFound);
    for _ in 0..2 {
        provider.create_secret(&key("db")).await.unwrap();
    }
    assert_eq!(fake.annotation("db", "oneiric.owner").as_deref(), Some("y"));
    fake.play(Fault::Status(409, "ABORTED", None), Some("CreateSecret"), Some(1));
    let error = provider.create_secret(&key("other")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "it is not that it is there");
    assert_eq!(write(&provider, "one", "t").await.unwrap().id(), "1");
    let mut config = support::config(&fake);
    config.location = Some("europe-west1".into());
    let regional = config.build().unwrap();
    regional.create_secret(&key("db")).await.unwrap();
    assert_eq!(write(&regional, "one", "t").await.unwrap().id(), "1");
    assert_eq!(fake.values("europe-west1/db"), [b"one"]);
}

#[tokio::test]
async fn the_same_token_makes_no_second_version() {
    let fake = Fake::start().await;
    fake.add("db", "zero");
    let provider = provider(&fake, "latest");
    assert_eq!(write(&provider, "one", "a").await.unwrap().id(), "2");
    assert_eq!(write(&provider, "one", "a").await.unwrap().id(), "2");
    // Another attempt is another version, of whatever value.
    assert_eq!(write(&provider, "one", "b").await.unwrap().id(), "3");
    assert_eq!(write(&provider, "one", "a").await.unwrap().id(), "2");
    assert_eq!(fake.values("db"), [&b"zero"[..], b"one", b"one"]);
}

#[tokio::test]
async fn a_lost_reply_is_ambiguous_and_the_repetition_finds_what_was_done() {
    for (fault, versions) in [(Fault::CutAfter, 1), (Fault::HangAfter, 1), (Fault::CutBefore, 0)] {
        let fake = Fake::start().await;
        fake.create("db");
        // What was added shows late in lists and in `latest`.
        fake.freeze(true);
        let mut config = support::config(&fake);
        config.timeout = Duration::from_millis(300);
        let provider = config.build().unwrap();
        fake.play(fault.clone(), Some("AddSecretVersion"), Some(1));
        let error = write(&provider, "one", "a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Ambiguous, "{fault:?}: {}", error.chain());
        assert_eq!(fake.values("db").len(), versions, "{fault:?}");
        // The note of the attempt shows late as well.
        fake.freeze(false);
        fake.freeze(true);
        assert_eq!(write(&provider, "one", "a").await.unwrap().id(), "1", "{fault:?}");
        assert_eq!(fake.values("db"), [b"one"], "{fault:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_a_secret_is_not_sent() {
    let fake = Fake::start().await;
    fake.create("db");
    let provider = provider(&fake, "latest");
    for value in ["", &"x".repeat(65_537)] {
        let error = write(&provider, value, "a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    assert_eq!(fake.books().len(), 0);
    assert_eq!(write(&provider, &"x".repeat(65_536), "a").await.unwrap().id(), "1");
}

#[tokio::test]
async fn a_pointer_is_moved_by_compare_and_swap() {
    for current in ["alias:current", "annotation:oneiric.current"] {
        let fake = Fake::start().await;
        let provider = provider(&fake, current);
        provider.create_secret(&key("db")).await.unwrap();
        for value in ["one", "two", "three"] {
            write(&provider, value, value).await.unwrap();
        }
        let promote = async |version: &str, expected: Option<&str>| {
            provider.promote(&key("db"), version, expected).await.map_err(|error| error.kind())
        };
        assert_eq!(promote("2", Some("1")).await, Err(ErrorKind::Conflict), "nothing is current");
        assert_eq!(promote("1", None).await, Ok(()));
        assert_eq!(promote("2", Some("1")).await, Ok(()));
        assert_eq!(promote("2", Some("1")).await, Ok(()), "it is done already");
        assert_eq!(promote("3", Some("1")).await, Err(ErrorKind::Conflict));
        assert_eq!(promote("3", None).await, Err(ErrorKind::Conflict));
        assert_eq!(promote("9", None).await, Err(ErrorKind::NotFound));
        assert_eq!(promote("latest", None).await, Err(ErrorKind::Invalid));
        assert_eq!(read(&provider, "db").await.1, "2");
        fake.disable("db", 3);
        assert_eq!(promote("3", None).await, Err(ErrorKind::VersionDisabled));
        fake.enable("db", 3);

        // Two at once: both have looked before either has changed anything.
        fake.latency(Duration::from_millis(40));
        let (one, three) =
            futures_util::future::join(promote("1", Some("2")), promote("3", Some("2"))).await;
        let both = [one, three];
        assert!(both.contains(&Ok(())) && both.contains(&Err(ErrorKind::Conflict)), "{both:?}");
        fake.mend();

        let winner = read(&provider, "db").await.1;
        fake.play(Fault::CutAfter, Some("UpdateSecret"), Some(1));
        assert_eq!(promote("2", Some(&winner)).await, Err(ErrorKind::Ambiguous));
        assert_eq!(promote("2", Some(&winner)).await, Ok(()));
        assert_eq!(read(&provider, "db").await, ("two".into(), "2".into()));
        if current.starts_with("annotation") {
            assert!(fake.annotation("db", "oneiric.attempts").is_some(), "others are kept");
        }
    }
}

#[tokio::test]
async fn without_a_pointer_only_the_newest_is_current() {
    let fake = Fake::start().await;
    for value in ["one", "two", "three"] {
        fake.add("db", value);
    }
    // What `latest` says is not believed.
    fake.freeze(true);
    fake.add("db", "four");
    let (latest, enabled) = (provider(&fake, "latest"), provider(&fake, "newest-enabled"));
    for provider in [&latest, &enabled] {
        provider.promote(&key("db"), "4", None).await.unwrap();
        let error = provider.promote(&key("db"), "3", None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    fake.disable("db", 4);
    let kind = async |provider: &GcpProvider| {
        provider.promote(&key("db"), "3", None).await.map_err(|error| error.kind())
    };
    assert_eq!(kind(&latest).await, Err(ErrorKind::Unsupported));
    assert_eq!(kind(&enabled).await, Ok(()));
}

#[tokio::test]
async fn versions_are_turned_off_on_and_ended_and_each_step_can_be_repeated() {
    let fake = Fake::start().await;
    fake.add("db", "one");
    fake.add("db", "two");
    let provider = provider(&fake, "latest");
    let db = key("db");
    for _ in 0..2 {
        provider.disable(&db, "1").await.unwrap();
    }
    assert_eq!(fake.calls("DisableSecretVersion"), 1);
    for _ in 0..2 {
        provider.enable(&db, "1").await.unwrap();
    }
    for _ in 0..2 {
        provider.destroy(&db, "1").await.unwrap();
    }
    for gone in [provider.disable(&db, "1").await, provider.enable(&db, "1").await] {
        assert_eq!(gone.unwrap_err().kind(), ErrorKind::VersionDisabled);
    }
    let error = provider.destroy(&db, "latest").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "an alias may mean another one by now");
    assert_eq!(provider.destroy(&db, "7").await.unwrap_err().kind(), ErrorKind::NotFound);

    fake.play(Fault::CutAfter, Some("DisableSecretVersion"), Some(1));
    assert_eq!(provider.disable(&db, "2").await.unwrap_err().kind(), ErrorKind::Ambiguous);
    provider.disable(&db, "2").await.unwrap();
    provider.enable(&db, "2").await.unwrap();

    fake.latency(Duration::from_millis(40));
    let (one, other) =
        futures_util::future::join(provider.disable(&db, "2"), provider.destroy(&db, "2")).await;
    let kinds = [one, other].map(|done| done.map_err(|error| error.kind()));
    assert!(kinds.contains(&Ok(())) && kinds.contains(&Err(ErrorKind::Conflict)), "{kinds:?}");
}

#[tokio::test]
async fn a_delayed_destruction_is_done_when_it_is_scheduled() {
    let fake = Fake::start().await;
    fake.add("db", "one");
    fake.delay_destruction("db", Duration::from_secs(3600));
    let provider = provider(&fake, "latest");
    for _ in 0..2 {
        provider.destroy(&key("db"), "1").await.unwrap();
    }
    assert_eq!(fake.calls("DestroySecretVersion"), 1);
    assert_eq!(fake.values("db"), [b"one"], "it is there until the delay is over");
    provider.enable(&key("db"), "1").await.unwrap();
    assert_eq!(read(&provider, "db").await.0, "one");
}
