//! Which version is read, and by which call.

use oneiric_core::{ErrorKind, FetchRequest, SecretProvider};
use oneiric_gcp_fake::{Fake, Fault};

use crate::{fetch, key, provider, read, support};

fn pair(value: &str, version: &str) -> (String, String) {
    (value.into(), version.into())
}

#[tokio::test]
async fn a_number_is_read_at_once_while_latest_and_aliases_lag() {
    let fake = Fake::start().await;
    fake.add("db", "one");
    fake.alias("db", "current", 1);
    fake.freeze(true);
    fake.add("db", "two");
    fake.alias("db", "current", 2);
    for current in ["latest", "newest-enabled", "alias:current"] {
        let provider = provider(&fake, current);
        assert_eq!(read(&provider, "db").await, pair("one", "1"), "{current}");
        assert_eq!(read(&provider, "db@2").await, pair("two", "2"), "{current}");
        assert_eq!(read(&provider, "db@latest").await, pair("one", "1"), "{current}");
        assert_eq!(read(&provider, "db@current").await, pair("one", "1"), "{current}");
    }
    fake.freeze(false);
    for current in ["latest", "newest-enabled", "alias:current"] {
        assert_eq!(read(&provider(&fake, current), "db").await, pair("two", "2"), "{current}");
    }
}

#[tokio::test]
async fn a_pointer_is_data_and_the_version_is_read_by_its_number() {
    let fake = Fake::start().await;
    for value in ["one", "two", "three"] {
        fake.add("db", value);
    }
    fake.alias("db", "current", 2);
    fake.annotate("db", "oneiric.current", "1");
    assert_eq!(read(&provider(&fake, "alias:current"), "db").await, pair("two", "2"));
    assert_eq!(read(&provider(&fake, "annotation:oneiric.current"), "db").await, pair("one", "1"));
    let read_by: Vec<String> = fake
        .books()
        .into_iter()
        .filter(|entry| entry.method == "AccessSecretVersion")
        .map(|entry| entry.resource)
        .collect();
    assert_eq!(
        read_by,
        [
            "projects/demo-project/secrets/db/versions/2",
            "projects/demo-project/secrets/db/versions/1"
        ]
    );
    fake.add("lost", "value");
    let error = fetch(&provider(&fake, "alias:current"), "lost").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("no alias `current`"), "{error}");
}

#[tokio::test]
async fn a_disabled_latest_is_said_so_or_passed_over() {
    let fake = Fake::start().await;
    fake.add("db", "one");
    fake.add("db", "two");
    let (latest, enabled) = (provider(&fake, "latest"), provider(&fake, "newest-enabled"));
    let known = latest.fetch(&FetchRequest::new(key("db"))).await.unwrap().stamp;
    fake.disable("db", 2);
    let disabled = ErrorKind::VersionDisabled;
    assert_eq!(fetch(&latest, "db").await.unwrap_err().kind(), disabled);
    assert_eq!(fetch(&latest, "db@2").await.unwrap_err().kind(), disabled);
    assert_eq!(latest.stamps(&[key("db")]).await[0].as_ref().unwrap_err().kind(), disabled);
    let mut conditional = FetchRequest::new(key("db"));
    conditional.if_none_match = known;
    assert_eq!(latest.fetch(&conditional).await.unwrap_err().kind(), disabled);
    assert_eq!(read(&enabled, "db").await, pair("one", "1"));
    fake.destroy("db", 1);
    assert_eq!(fetch(&enabled, "db@1").await.unwrap_err().kind(), disabled);
    assert_eq!(fetch(&enabled, "db").await.unwrap_err().kind(), disabled);
    fake.enable("db", 2);
    assert_eq!(read(&latest, "db").await, pair("two", "2"));
    assert_eq!(read(&enabled, "db").await, pair("two", "2"));
}

#[tokio::test]
async fn what_is_known_is_looked_at_and_not_read() {
    for current in ["latest", "newest-enabled", "alias:current"] {
        let fake = Fake::start().await;
        fake.add("db", "one");
        fake.alias("db", "current", 1);
        let provider = provider(&fake, current);
        let mut request = FetchRequest::new(key("db"));
        request.if_none_match = fetch(&provider, "db").await.unwrap().stamp;
        fake.forget_calls();
        let error = provider.fetch(&request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotModified, "{current}");
        assert_eq!(fake.calls("AccessSecretVersion"), 0, "{current}");
        fake.add("db", "two");
        fake.alias("db", "current", 2);
        assert_eq!(provider.fetch(&request).await.unwrap().version.id(), "2", "{current}");
    }
}

/// The role that is given to services, Secret Accessor, reads values and nothing else.
#[tokio::test]
async fn who_may_only_read_values_can_still_read_them_anew() {
    let fake = Fake::start().await;
    fake.add("db", "one");
    let provider = provider(&fake, "latest");
    for method in ["GetSecret", "GetSecretVersion", "ListSecrets"] {
        fake.play(Fault::Status(403, "PERMISSION_DENIED", None), Some(method), None);
    }
    let mut request = FetchRequest::new(key("db"));
    request.if_none_match = fetch(&provider, "db").await.unwrap().stamp;
    assert_eq!(provider.fetch(&request).await.unwrap().version.id(), "1");
    let stamp = provider.stamps(&[key("db")]).await.pop().unwrap();
    assert_eq!(stamp.unwrap_err().kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_damaged_value_is_refused() {
    let fake = Fake::start().await;
    fake.add("db", "one");
    fake.play(Fault::WrongChecksum, None, Some(1));
    let provider = provider(&fake, "latest");
    let error = fetch(&provider, "db").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("checksum"), "{error}");
    assert_eq!(read(&provider, "db").await, pair("one", "1"));
}

#[tokio::test]
async fn full_names_and_regional_secrets_are_read() {
    let fake = Fake::start().await;
    fake.add("db", "global");
    fake.add("europe-west1/db", "regional");
    let global = provider(&fake, "latest");
    assert_eq!(read(&global, "projects/demo-project/secrets/db").await.0, "global");
    assert_eq!(read(&global, "projects/471100000042/secrets/db").await.0, "global");
    let mut config = support::config(&fake);
    config.location = Some("europe-west1".into());
    let regional = config.build().unwrap();
    assert_eq!(read(&regional, "db").await.0, "regional");
    let full = "projects/demo-project/locations/europe-west1/secrets/db";
    assert_eq!(read(&regional, full).await.0, "regional");
    for (provider, text) in [(&global, full), (&regional, "projects/demo-project/secrets/db")] {
        assert_eq!(fetch(provider, text).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    for wrong in ["db@7/x", "db@-1", "db@"] {
        assert_eq!(fetch(&global, wrong).await.unwrap_err().kind(), ErrorKind::Invalid, "{wrong}");
    }
    assert!(
        regional
            .descriptor()
            .uri
            .ends_with("/v1/projects/demo-project/locations/europe-west1/secrets")
    );
}

#[tokio::test]
async fn many_are_read_with_one_list_of_their_pointers() {
    let fake = Fake::start().await;
    for number in 0..20 {
        let id = format!("s-{number}");
        fake.add(&id, format!("value-{number}"));
        fake.alias(&id, "current", 1);
    }
    let provider = provider(&fake, "alias:current");
    let mut requests: Vec<_> =
        (0..21).map(|number| FetchRequest::new(key(&format!("s-{number}")))).collect();
    requests[3] = FetchRequest::new(key("s-3")).at_version("9");
    let answers = provider.fetch_many(&requests).await;
    for (number, answer) in answers.iter().enumerate() {
        match number {
            3 | 20 => assert_eq!(answer.as_ref().unwrap_err().kind(), ErrorKind::NotFound),
            _ => {
                let text = format!("value-{number}");
                assert_eq!(answer.as_ref().unwrap().value.expose_str(), Some(text.as_str()));
            }
        }
    }
    assert_eq!((fake.calls("ListSecrets"), fake.calls("GetSecret")), (1, 0));
}
