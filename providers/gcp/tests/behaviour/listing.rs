//! Lists: pages, order, states, labels.

use oneiric_core::{SecretProvider, VersionState};
use oneiric_gcp_fake::Fake;

use crate::{key, provider};

#[tokio::test]
async fn pages_are_turned() {
    let fake = Fake::start().await;
    for number in 0..7 {
        fake.add(&format!("s-{number}"), "value");
        fake.alias(&format!("s-{number}"), "current", 1);
    }
    fake.page_limit(3);
    let provider = provider(&fake, "alias:current");
    let keys = provider.lister().unwrap().list().await.unwrap();
    assert_eq!(keys, (0..7).map(|number| key(&format!("s-{number}"))).collect::<Vec<_>>());
    assert_eq!(fake.calls("ListSecrets"), 3);
    let stamps = provider.stamps(&keys).await;
    assert!(stamps.iter().all(Result::is_ok), "{stamps:?}");
    assert_eq!(fake.calls("ListSecrets"), 6);
}

#[tokio::test]
async fn versions_have_states_labels_and_one_that_is_current() {
    let fake = Fake::start().await;
    for number in 1..=12 {
        fake.add("db", format!("value-{number}"));
    }
    fake.page_limit(5);
    fake.alias("db", "current", 3);
    fake.alias("db", "canary", 11);
    fake.alias("db", "blue", 11);
    fake.disable("db", 12);
    fake.destroy("db", 1);
    for (current, expected) in
        [("latest", None), ("newest-enabled", Some("11")), ("alias:current", Some("3"))]
    {
        let provider = provider(&fake, current);
        let versions = provider.lister().unwrap().versions(&key("db")).await.unwrap();
        let numbers: Vec<String> = versions.iter().map(|info| info.version.to_string()).collect();
        assert_eq!(numbers, ["12", "11", "10", "9", "8", "7", "6", "5", "4", "3", "2", "1"]);
        assert_eq!(versions[0].state, VersionState::Disabled);
        assert_eq!(versions[1].state, VersionState::Enabled);
        assert_eq!(versions[11].state, VersionState::Destroyed);
        assert_eq!(versions[1].labels, ["blue", "canary"]);
        assert!(versions.iter().all(|info| info.created.is_some()));
        let marked = versions.iter().filter(|info| info.current);
        let marked: Vec<String> = marked.map(|info| info.version.to_string()).collect();
        assert_eq!(marked, expected.into_iter().collect::<Vec<&str>>(), "{current}");
    }
    assert_eq!(fake.calls("AccessSecretVersion"), 0);
}
