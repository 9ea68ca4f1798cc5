//! What is written, and how attempts are told apart.

use futures_util::future::join_all;
use oneiric_core::{ErrorKind, SecretProvider, SecretWriter};
use serde_json::json;

use crate::support::{Admin, openbao, with_token};
use crate::{key, read};

#[tokio::test]
async fn an_object_becomes_entries_and_text_one_entry() {
    let Some(bao) = openbao("vault-written") else { return };
    let admin = Admin::new(&bao);
    let provider = with_token(&bao.address(), bao.root_token()).build().unwrap();
    let object = r#"{"user":"u","password":"p"}"#;
    for (name, text, data) in [
        ("app/db", object, json!({ "user": "u", "password": "p" })),
        ("app/plain", "s3cr3t\n", json!({ "value": "s3cr3t\n" })),
    ] {
        let version = provider.create_version(&key(name), &text.into(), "one").await.unwrap();
        assert_eq!(version.id(), "1");
        let stored = admin.get(&format!("secret/data/{name}")).await;
        assert_eq!(stored["data"]["data"], data);
        // The server orders the entries anew, and yet it is the same attempt.
        let again = provider.create_version(&key(name), &text.into(), "one").await.unwrap();
        assert_eq!(again, version);
    }
    assert_eq!(read(&provider, "app/plain").await, "s3cr3t\n");
    let binary = provider.create_version(&key("b"), &vec![0xff_u8].into(), "one").await;
    assert_eq!(binary.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn metadata_of_others_stays_and_old_attempts_go() {
    let Some(bao) = openbao("vault-attempts") else { return };
    let admin = Admin::new(&bao);
    let own = json!({ "custom_metadata": { "owner": "team" } });
    admin.post("secret/metadata/a", own).await;
    let provider = with_token(&bao.address(), bao.root_token()).build().unwrap();
    for number in 0..12 {
        let (value, token) = (format!("v{number}").into(), format!("token-{number}"));
        provider.create_version(&key("a"), &value, &token).await.unwrap();
    }
    let metadata = admin.get("secret/metadata/a").await;
    let entries = metadata["data"]["custom_metadata"].as_object().unwrap();
    assert_eq!(entries["owner"], "team");
    assert_eq!(entries.len(), 9);
    assert_eq!(metadata["data"]["current_version"], 12);
}

#[tokio::test]
async fn of_those_who_write_at_once_each_is_told_what_became_of_it() {
    let Some(bao) = openbao("vault-raced") else { return };
    let admin = Admin::new(&bao);
    admin.put("a", json!({ "value": "old" })).await;
    let provider = with_token(&bao.address(), bao.root_token()).build().unwrap();
    let (provider, key) = (&provider, &key("a"));
    let write = |number: u32| async move {
        let value = format!("v{number}").into();
        provider.create_version(key, &value, &format!("writer-{number}")).await
    };
    let outcomes = join_all((0..8).map(write)).await;
    let mut made: Vec<_> = outcomes.iter().flatten().map(|version| version.id()).collect();
    for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::Conflict, "{}", error.chain());
    }
    let metadata = admin.get("secret/metadata/a").await;
    let current = metadata["data"]["current_version"].as_u64().unwrap();
    made.sort_unstable();
    made.dedup();
    assert_eq!(u64::try_from(made.len()).unwrap(), current - 1, "{made:?}");
    assert!(!made.is_empty());
}

#[tokio::test]
async fn an_older_version_is_not_promoted() {
    let Some(bao) = openbao("vault-promoted") else { return };
    let admin = Admin::new(&bao);
    admin.put("a", json!({ "value": "1" })).await;
    admin.put("a", json!({ "value": "2" })).await;
    let provider = with_token(&bao.address(), bao.root_token()).build().unwrap();
    let writer = provider.writer().unwrap();
    let promote = async |version, expected| writer.promote(&key("a"), version, expected).await;
    promote("2", Some("1")).await.unwrap();
    assert_eq!(promote("1", Some("2")).await.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(promote("1", None).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(promote("x", None).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(read(&provider, "a").await, "2");
}
