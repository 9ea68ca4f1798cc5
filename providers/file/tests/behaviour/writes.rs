//! Writing, beyond what the suite tries.

use std::fs;
use std::time::Duration;

use futures_util::StreamExt;
use oneiric_core::{Change, ErrorKind, SecretKey, SecretProvider, SecretValue};
use oneiric_provider_file::{Config, FileProvider};
use tokio::time::timeout;

use crate::trees::{Mount, Plain};
use crate::{ask, fetch, text};

fn writable(tree: &Plain) -> FileProvider {
    let mut config = Config::new(tree.root());
    config.write = true;
    config.build().unwrap()
}

fn key(name: &str) -> SecretKey {
    name.parse().unwrap()
}

async fn write(provider: &FileProvider, name: &str, value: &str, current: Option<&str>) -> String {
    let writer = provider.writer().unwrap();
    let value = SecretValue::from(value);
    let token = value.expose_str().unwrap();
    let version = writer.create_version(&key(name), &value, token).await.unwrap();
    writer.promote(&key(name), &version.id(), current).await.unwrap();
    version.to_string()
}

#[tokio::test]
async fn without_consent_nothing_is_written() {
    let tree = Plain::new();
    tree.replace("secret", b"x");
    let provider = Config::new(tree.root()).build().unwrap();
    assert!(provider.writer().is_none());
    assert!(!provider.descriptor().capabilities.versions);
    fetch(&provider, "secret").await.unwrap();
    let versions = provider.lister().unwrap().versions(&key("secret")).await;
    assert_eq!(versions.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(fs::read_dir(tree.root()).unwrap().count(), 1, "there is the file alone");
}

#[tokio::test]
async fn reading_writes_nothing_either() {
    let tree = Plain::new();
    tree.replace("secret", b"x");
    let provider = writable(&tree);
    fetch(&provider, "secret").await.unwrap();
    assert_eq!(provider.lister().unwrap().versions(&key("secret")).await.unwrap().len(), 1);
    assert_eq!(fs::read_dir(tree.root()).unwrap().count(), 1);
}

#[tokio::test]
async fn what_is_kept_is_no_secret_of_its_own() {
    let tree = Plain::new();
    let provider = writable(&tree);
    write(&provider, "db/password", "one", None).await;
    let listed = provider.lister().unwrap().list().await.unwrap();
    assert_eq!(listed, [key("db/password")]);
    let plain = Config::new(tree.root()).build().unwrap();
    let mut found = 0;
    for entry in fs::read_dir(tree.root().join(".oneiric/db/password")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = format!(".oneiric/db/password/{name}");
        for provider in [&provider, &plain] {
            assert_eq!(fetch(provider, &path).await.unwrap_err().kind(), ErrorKind::Invalid);
        }
        found += 1;
    }
    assert_eq!(found, 1);
    let below = provider.writer().unwrap();
    let refused = below.create_version(&key(".oneiric/x"), &SecretValue::from("x"), "t").await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
}

/// One key may be a directory of others only as long as it is no file itself.
#[tokio::test]
async fn keys_below_one_another_have_their_own_versions() {
    let tree = Plain::new();
    let provider = writable(&tree);
    let writer = provider.writer().unwrap();
    for name in ["a", "a/b", "a/1"] {
        let value = SecretValue::from(name);
        writer.create_version(&key(name), &value, "token").await.unwrap();
    }
    for name in ["a", "a/b", "a/1"] {
        let request = ask(name).at_version("1");
        assert_eq!(provider.fetch(&request).await.unwrap().value.expose_str(), Some(name));
    }
    writer.promote(&key("a"), "1", None).await.unwrap();
    for refused in [
        writer.promote(&key("a/b"), "1", None).await,
        writer.create_version(&key("a/c"), &SecretValue::from("x"), "token").await.map(drop),
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains("has a file in its path"), "{refused}");
    }
}

#[tokio::test]
async fn what_somebody_else_puts_there_is_a_version_and_is_kept() {
    let tree = Plain::new();
    tree.replace("secret", b"theirs");
    let provider = writable(&tree);
    let theirs = fetch(&provider, "secret").await.unwrap().version;
    let writer = provider.writer().unwrap();
    let ours = SecretValue::from("ours");
    let version = writer.create_version(&key("secret"), &ours, "token").await.unwrap();
    for expected in [None, Some("7")] {
        let refused = writer.promote(&key("secret"), &version.id(), expected).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        assert!(refused.to_string().contains(&*theirs.id()), "{refused}");
    }
    writer.promote(&key("secret"), &version.id(), Some(&theirs.id())).await.unwrap();
    assert_eq!(text(&provider, "secret").await, "ours");
    let exact = provider.fetch(&ask("secret").at_version(theirs.id())).await.unwrap();
    assert_eq!(exact.value.expose_str(), Some("theirs"));
    // A rename by somebody else is noticed as ever.
    tree.replace("secret", b"theirs again");
    let again = fetch(&provider, "secret").await.unwrap();
    assert_eq!(again.value.expose_str(), Some("theirs again"));
    assert!(again.version != theirs && again.version != version);
    let refused = writer.promote(&key("secret"), &theirs.id(), Some(&version.id())).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    writer.disable(&key("secret"), &again.version.id()).await.unwrap();
    assert_eq!(fetch(&provider, "secret").await.unwrap_err().kind(), ErrorKind::VersionDisabled);
}

#[tokio::test]
async fn what_could_not_be_read_back_is_not_written() {
    let tree = Plain::new();
    let provider = writable(&tree);
    let writer = provider.writer().unwrap();
    for (name, value, part) in [
        ("secret", "", "is empty"),
        ("secret", "x\n", "without the line end"),
        ("db.json", "{\"user\": \"canary", "is not valid JSON"),
        ("db.toml", "user = ", "is not valid TOML"),
    ] {
        let refused = writer.create_version(&key(name), &SecretValue::from(value), "t").await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains(part), "{refused}");
        assert!(!refused.chain().contains("canary"), "{refused}");
    }
    let version = write(&provider, "db.toml", "user = 'u'", None).await;
    for request in [ask("db.toml"), ask("db.toml").at_version(version)] {
        let fetched = provider.fetch(&request).await.unwrap();
        assert_eq!(fetched.value.expose_str(), Some(r#"{"user":"u"}"#));
    }
}

#[tokio::test]
async fn a_mount_is_not_written_to() {
    let mount = Mount::new();
    mount.swap(&[("user", b"u")]);
    let mut config = Config::new(mount.root());
    config.write = true;
    let error = config.build().unwrap_err();
    assert!(error.to_string().contains("swapped as a whole"), "{error}");
}

#[tokio::test]
async fn disabling_is_told_and_seen_by_a_look() {
    let tree = Plain::new();
    let provider = writable(&tree);
    let version = write(&provider, "secret", "one", None).await;
    let mut changes = provider.changes().unwrap();
    while timeout(Duration::from_millis(300), changes.next()).await.is_ok() {}
    let stamp = async || provider.stamps(&[key("secret")]).await.pop().unwrap().unwrap();
    let before = stamp().await;
    let writer = provider.writer().unwrap();
    writer.disable(&key("secret"), &version).await.unwrap();
    let told = timeout(Duration::from_secs(20), changes.next()).await.unwrap().unwrap();
    assert_eq!(told, Change::Secret { key: key("secret"), version: None });
    assert_ne!(stamp().await, before);
    writer.enable(&key("secret"), &version).await.unwrap();
    let told = timeout(Duration::from_secs(20), changes.next()).await.unwrap().unwrap();
    assert_eq!(told, Change::Secret { key: key("secret"), version: None });
    assert_eq!(stamp().await, before);
}

/// A version that waits is nobody's business yet.
#[tokio::test]
async fn a_version_that_waits_is_not_told() {
    let tree = Plain::new();
    let provider = writable(&tree);
    let version = write(&provider, "secret", "one", None).await;
    let mut changes = provider.changes().unwrap();
    while timeout(Duration::from_millis(300), changes.next()).await.is_ok() {}
    let writer = provider.writer().unwrap();
    let two = SecretValue::from("two");
    let next = writer.create_version(&key("secret"), &two, "two").await.unwrap();
    assert!(timeout(Duration::from_millis(300), changes.next()).await.is_err());
    writer.promote(&key("secret"), &next.id(), Some(&version)).await.unwrap();
    let told = timeout(Duration::from_secs(20), changes.next()).await.unwrap().unwrap();
    assert_eq!(told, Change::Secret { key: key("secret"), version: None });
}
