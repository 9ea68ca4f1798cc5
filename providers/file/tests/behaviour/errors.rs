//! Every way in which a file cannot be a secret has its own error, and passes with its cause.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use oneiric_core::{ErrorKind, SecretProvider};
use oneiric_provider_file::Config;

use crate::trees::{Plain, unprivileged};
use crate::{ask, fetch, provider, text};

/// Expects an error of this kind that names the file and says this; then a good file in its
/// place, which is served.
async fn refused(make: impl FnOnce(&Path), kind: ErrorKind, part: &str) {
    let tree = Plain::new();
    let provider = provider(tree.root());
    tree.replace("other", b"fine");
    let path = tree.root().join("secret");
    make(&path);
    let answers = provider.fetch_many(&[ask("secret"), ask("other")]).await;
    let error = answers[0].as_ref().unwrap_err();
    assert_eq!(error.kind(), kind, "{}", error.chain());
    assert!(error.to_string().contains(part), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(!error.chain().contains("canary"), "{}", error.chain());
    assert!(answers[1].is_ok(), "the others are not concerned");
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir(&path).unwrap();
    }
    tree.replace("secret", b"good again");
    assert_eq!(text(&provider, "secret").await, "good again");
}

#[tokio::test]
async fn missing() {
    refused(|_| (), ErrorKind::NotFound, "does not exist").await;
    refused(|path| symlink("gone", path).unwrap(), ErrorKind::NotFound, "does not exist").await;
}

#[tokio::test]
async fn empty() {
    refused(|path| fs::write(path, "").unwrap(), ErrorKind::Invalid, "is empty").await;
}

#[tokio::test]
async fn not_utf8() {
    let make = |path: &Path| fs::write(path, b"canary\xff").unwrap();
    refused(make, ErrorKind::Invalid, "is not UTF-8").await;
}

#[tokio::test]
async fn huge() {
    let make = |path: &Path| fs::write(path, vec![b'x'; 70_001]).unwrap();
    refused(make, ErrorKind::Invalid, "is larger than 65536 bytes").await;
    let tree = Plain::new();
    tree.replace("secret", &[b'x'; 70_001]);
    let error = fetch(&provider(tree.root()), "secret").await.unwrap_err();
    assert!(!error.chain().contains("70001"), "the size of a secret is nobody's business: {error}");
    let mut config = Config::new(tree.root());
    config.max_bytes = 70_001;
    assert!(fetch(&config.build().unwrap(), "secret").await.is_ok());
}

#[test]
fn unreadable() {
    unprivileged(|| async {
        let make = |path: &Path| {
            fs::write(path, "canary").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
        };
        refused(make, ErrorKind::Denied, "may not be read").await;
    });
}

#[tokio::test]
async fn a_directory() {
    let make = |path: &Path| fs::create_dir(path).unwrap();
    refused(make, ErrorKind::Invalid, "is a directory").await;
}

/// Opening it would wait for a writer.
#[tokio::test]
async fn a_fifo() {
    let make = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    refused(make, ErrorKind::Invalid, "is not a regular file").await;
}

#[tokio::test]
async fn a_socket() {
    let make = |path: &Path| drop(UnixListener::bind(path).unwrap());
    refused(make, ErrorKind::Invalid, "is not a regular file").await;
}

#[tokio::test]
async fn a_link_that_leads_out() {
    let make = |path: &Path| {
        let outside = path.parent().unwrap().parent().unwrap().join("outside");
        fs::write(&outside, "canary").unwrap();
        symlink("../outside", path).unwrap();
    };
    refused(make, ErrorKind::Denied, "leads out of the root").await;
    let make = |path: &Path| symlink("/etc/hostname", path).unwrap();
    refused(make, ErrorKind::Denied, "leads out of the root").await;
}

#[tokio::test]
async fn a_circle_of_links() {
    let make = |path: &Path| symlink("secret", path).unwrap();
    refused(make, ErrorKind::Invalid, "too many symbolic links").await;
}

#[tokio::test]
async fn a_directory_that_leads_out() {
    let tree = Plain::new();
    symlink("..", tree.root().join("up")).unwrap();
    fs::write(tree.root().with_file_name("outside"), "canary").unwrap();
    // Whether it is there or not: what there is outside is nobody's business.
    for key in ["up/outside", "up/missing", "up/outside/x"] {
        let error = fetch(&provider(tree.root()), key).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    }
    symlink("../..", tree.root().join("..data")).unwrap();
    let error = fetch(&provider(tree.root()), "root/x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn half_written() {
    for (name, half, whole) in [
        ("a.json", "{\"user\": \"canary", "{\"user\":\"u\"}"),
        ("a.toml", "user = \"canary", "user = \"u\""),
        ("a.yaml", "user: \"canary", "user: u"),
        ("a.env", "USER=\"canary", "user=u"),
    ] {
        let tree = Plain::new();
        let provider = provider(tree.root());
        tree.replace(name, half.as_bytes());
        let error = fetch(&provider, name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let chain = error.chain();
        assert!(chain.contains(name) && chain.contains("line"), "{chain}");
        assert!(!chain.contains("canary"), "{chain}");
        tree.replace(name, whole.as_bytes());
        assert_eq!(text(&provider, name).await, r#"{"user":"u"}"#);
    }
}

#[tokio::test]
async fn no_root() {
    let tree = Plain::new();
    let provider = provider(tree.root());
    tree.replace("secret", b"x");
    let away = tree.root().with_extension("away");
    fs::rename(tree.root(), &away).unwrap();
    let error = fetch(&provider, "secret").await.unwrap_err();
    // It may not be mounted yet, which says nothing about the secret.
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("root directory"), "{error}");
    fs::rename(&away, tree.root()).unwrap();
    assert_eq!(text(&provider, "secret").await, "x");
}
