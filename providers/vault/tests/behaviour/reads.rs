//! What is read, and from where.

use std::time::{Duration, SystemTime};

use oneiric_core::{ErrorKind, FetchRequest, SecretLister, SecretProvider};
use oneiric_provider_vault::Kv;
use oneiric_testkit::live::OpenBao;
use serde_json::json;

use crate::support::{Admin, openbao, with_token};
use crate::{key, read, refused};

#[tokio::test]
async fn an_object_is_json_and_one_entry_called_value_is_itself() {
    let Some(bao) = openbao("vault-objects") else { return };
    let admin = Admin::new(&bao);
    admin.put("app/db", json!({ "user": "u", "password": "p", "port": 5432 })).await;
    admin.put("app/token", json!({ "value": "plain" })).await;
    let mut config = with_token(&bao.address(), bao.root_token());
    let provider = config.clone().build().unwrap();
    let object: serde_json::Value = serde_json::from_str(&read(&provider, "app/db").await).unwrap();
    assert_eq!(object, json!({ "user": "u", "password": "p", "port": 5432 }));
    assert_eq!(read(&provider, "app/token").await, "plain");
    config.value_key = String::new();
    assert_eq!(read(&config.build().unwrap(), "app/token").await, r#"{"value":"plain"}"#);
    let list = provider.list().await.unwrap();
    assert_eq!(list, [key("app/db"), key("app/token")]);
}

#[tokio::test]
async fn a_namespace_and_a_mount_are_a_place_of_their_own() {
    let Some(bao) = openbao("vault-namespace") else { return };
    bao.bao(&["namespace", "create", "team"]).unwrap();
    bao.bao(&["secrets", "enable", "-namespace=team", "-path=apps/kv", "-version=2", "kv"])
        .unwrap();
    bao.bao(&["kv", "put", "-namespace=team", "-mount=apps/kv", "db/main", "value=inner"]).unwrap();
    let mut config = with_token(&bao.address(), bao.root_token());
    config.mount = "apps/kv".into();
    assert_eq!(refused(&config.clone().build().unwrap(), "db/main").await, ErrorKind::Invalid);
    config.namespace = Some("team".into());
    let provider = config.clone().build().unwrap();
    assert_eq!(read(&provider, "db/main").await, "inner");
    assert_eq!(provider.list().await.unwrap(), [key("db/main")]);
    assert!(provider.descriptor().uri.ends_with("/v1/team/apps/kv"));
    config.namespace = Some("nobody".into());
    assert_eq!(refused(&config.build().unwrap(), "db/main").await, ErrorKind::Invalid);
}

#[tokio::test]
async fn the_server_must_be_vouched_for() {
    let bao = match OpenBao::start_tls() {
        Ok(bao) => bao,
        Err(why) => return oneiric_testkit::live::require("vault-tls", &why),
    };
    bao.bao(&["kv", "put", "-mount=secret", "a", "value=over TLS"]).unwrap();
    let mut config = with_token(&bao.address(), bao.root_token());
    assert_eq!(refused(&config.clone().build().unwrap(), "a").await, ErrorKind::Unavailable);
    config.ca_file = Some(bao.ca_file());
    assert_eq!(read(&config.clone().build().unwrap(), "a").await, "over TLS");
    let other = tempfile::NamedTempFile::new().unwrap();
    config.ca_file = Some(other.path().into());
    assert_eq!(refused(&config.build().unwrap(), "a").await, ErrorKind::Invalid);
}

#[tokio::test]
async fn a_version_that_is_gone_is_no_absence_and_a_stamp_reads_no_value() {
    let Some(bao) = openbao("vault-versions") else { return };
    let admin = Admin::new(&bao);
    for number in 1..=3 {
        admin.put("a", json!({ "value": format!("v{number}") })).await;
    }
    bao.bao(&["kv", "destroy", "-mount=secret", "-versions=1", "a"]).unwrap();
    bao.bao(&["kv", "delete", "-mount=secret", "-versions=2", "a"]).unwrap();
    // Who watches need not be able to read.
    admin.policy("looks", "secret/metadata/*", &["read"]).await;
    let token = admin.token("looks", "1h").await;
    let watcher = with_token(&bao.address(), &token).build().unwrap();
    assert_eq!(refused(&watcher, "a").await, ErrorKind::Denied);
    let before = watcher.stamps(&[key("a"), key("none")]).await;
    assert_eq!(before[1].as_ref().unwrap_err().kind(), ErrorKind::NotFound);

    let provider = with_token(&bao.address(), bao.root_token()).build().unwrap();
    let fetched = provider.fetch(&FetchRequest::new(key("a"))).await.unwrap();
    assert_eq!(fetched.stamp.as_ref(), before[0].as_ref().ok());
    for version in ["1", "2"] {
        let error = provider.fetch(&FetchRequest::new(key("a")).at_version(version)).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::VersionDisabled, "{version}");
    }
    for (version, kind) in [("9", ErrorKind::NotFound), ("0", ErrorKind::Invalid)] {
        let error = provider.fetch(&FetchRequest::new(key("a")).at_version(version)).await;
        assert_eq!(error.unwrap_err().kind(), kind, "{version}");
    }
    let mut still = FetchRequest::new(key("a")).at_version("3");
    still.if_none_match = fetched.stamp;
    let error = provider.fetch(&still).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotModified);

    // Removed with all its versions and made again, it is at a number that was there before.
    admin.delete("secret/metadata/a").await;
    for number in 1..=3 {
        admin.put("a", json!({ "value": format!("w{number}") })).await;
    }
    let after = watcher.stamps(&[key("a")]).await;
    assert_ne!(after[0].as_ref().unwrap(), before[0].as_ref().unwrap());
}

#[tokio::test]
async fn a_version_that_will_be_deleted_says_when_it_ends() {
    let Some(bao) = openbao("vault-ends") else { return };
    let admin = Admin::new(&bao);
    bao.bao(&["kv", "metadata", "put", "-mount=secret", "-delete-version-after=1h", "a"]).unwrap();
    admin.put("a", json!({ "value": "v" })).await;
    let provider = with_token(&bao.address(), bao.root_token()).build().unwrap();
    let fetched = provider.fetch(&FetchRequest::new(key("a"))).await.unwrap();
    let left = fetched.expires_at.unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(3500) && left <= Duration::from_secs(3600), "{left:?}");
    let versions = provider.versions(&key("a")).await.unwrap();
    assert!(versions[0].current && versions[0].created.is_some());
}

#[tokio::test]
async fn kv_version_1_has_a_value_and_nothing_else() {
    let Some(bao) = openbao("vault-old") else { return };
    bao.bao(&["secrets", "enable", "-path=old", "-version=1", "kv"]).unwrap();
    bao.bao(&["kv", "put", "-mount=old", "a", "user=u", "data=d"]).unwrap();
    let mut config = with_token(&bao.address(), bao.root_token());
    config.mount = "old".into();
    config.kv = Kv::V1;
    let provider = config.build().unwrap();
    assert_eq!(read(&provider, "a").await, r#"{"data":"d","user":"u"}"#);
    assert!(provider.writer().is_none());
    assert!(!provider.descriptor().capabilities.stamps);
}
