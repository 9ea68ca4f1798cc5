//! Tokens that are given to us: refused, replaced in their file, and kept alive.

use std::time::Duration;

use oneiric_core::{ErrorKind, FetchRequest, SecretProvider};
use serde_json::json;
use tokio::time::sleep;

use crate::support::{ALL, Admin, openbao, with_auth, with_token, write};
use crate::{key, read, refused};

#[tokio::test]
async fn a_refusal_is_told_from_a_token_that_is_not_known() {
    let Some(bao) = openbao("vault-refused") else { return };
    let admin = Admin::new(&bao);
    admin.put("a", json!({ "value": "v" })).await;
    admin.policy("none", "secret/data/other", &ALL).await;
    let token = admin.token("none", "1h").await;
    let provider = with_token(&bao.address(), &token).build().unwrap();
    assert_eq!(refused(&provider, "a").await, ErrorKind::Denied);
    admin.revoke(&token).await;
    assert_eq!(refused(&provider, "a").await, ErrorKind::Unauthenticated);
    let nonsense = with_token(&bao.address(), "not a\ntoken").build().unwrap();
    assert_eq!(refused(&nonsense, "a").await, ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_refusal_in_a_namespace_is_told_for_a_token_from_above_it() {
    let Some(bao) = openbao("vault-refused-in-namespace") else { return };
    let admin = Admin::new(&bao);
    bao.bao(&["namespace", "create", "team"]).unwrap();
    bao.bao(&["secrets", "enable", "-namespace=team", "-path=secret", "-version=2", "kv"]).unwrap();
    admin.policy("none", "secret/data/other", &ALL).await;
    let token = admin.token("none", "1h").await;
    let mut config = with_token(&bao.address(), &token);
    config.namespace = Some("team".into());
    let provider = config.build().unwrap();
    assert_eq!(refused(&provider, "a").await, ErrorKind::Denied);
    admin.revoke(&token).await;
    assert_eq!(refused(&provider, "a").await, ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_token_file_is_read_again_when_it_changes() {
    let Some(bao) = openbao("vault-token-file") else { return };
    let admin = Admin::new(&bao);
    admin.put("a", json!({ "value": "v" })).await;
    admin.policy("reads", "secret/*", &ALL).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let auth = format!("token_file = '{}'", path.display());
    let provider = with_auth(&bao.address(), &auth).build().unwrap();
    let error = provider.fetch(&FetchRequest::new(key("a"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(error.chain().contains("token"), "{}", error.chain());

    let first = admin.token("reads", "1h").await;
    write(dir.path(), "token", &first);
    assert_eq!(read(&provider, "a").await, "v");
    // Gone for a moment, or written half: the one that we have still works.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(read(&provider, "a").await, "v");
    write(dir.path(), "token", "\n");
    assert_eq!(read(&provider, "a").await, "v");
    admin.revoke(&first).await;
    assert_eq!(refused(&provider, "a").await, ErrorKind::Unauthenticated);
    let second = admin.token("reads", "1h").await;
    write(dir.path(), "token", &second);
    assert_eq!(read(&provider, "a").await, "v");
}

#[tokio::test]
async fn a_token_that_is_given_to_us_is_kept_alive() {
    let Some(bao) = openbao("vault-renewed") else { return };
    let admin = Admin::new(&bao);
    admin.put("a", json!({ "value": "v" })).await;
    admin.policy("reads", "secret/*", &ALL).await;
    let token = admin.token("reads", "3s").await;
    let provider = with_token(&bao.address(), &token).build().unwrap();
    assert_eq!(read(&provider, "a").await, "v");
    // Nobody asks for anything meanwhile.
    sleep(Duration::from_secs(7)).await;
    assert_eq!(read(&provider, "a").await, "v");
    // With the provider its keeper goes.
    drop(provider);
    sleep(Duration::from_secs(4)).await;
    let lookup = json!({ "token": token });
    let (status, _) = admin.send(reqwest::Method::POST, "auth/token/lookup", lookup).await;
    assert!(status.is_client_error(), "{status}");
}
