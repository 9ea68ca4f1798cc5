//! Whose files are served, and what is said about the others.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use oneiric_core::{ErrorKind, SecretProvider, SecretValue};
use oneiric_provider_file::{Config, Permissions};

use crate::trees::Plain;
use crate::{ask, fetch};

fn set_mode(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn what_others_may_read_or_change_can_be_refused() {
    let tree = Plain::new();
    tree.replace("secret", b"x");
    let path = tree.root().join("secret");
    let mut config = Config::new(tree.root());
    config.permissions = Permissions::Refuse;
    let provider = config.build().unwrap();
    let us = rustix::process::geteuid().as_raw();
    for mode in [0o600, 0o400, 0o640] {
        set_mode(&path, mode);
        assert!(fetch(&provider, "secret").await.is_ok(), "{mode:o}");
    }
    for (mode, what, better) in [
        (0o644, "may be read by every user", "0640"),
        (0o666, "may be changed by others than its owner", "0640"),
        (0o620, "may be changed by others than its owner", "0600"),
    ] {
        set_mode(&path, mode);
        let error = fetch(&provider, "secret").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        let shown = path.display();
        let expected = format!(
            "`{shown}` {what} (mode {mode:04o}, owner {us}), and such files are refused \
             (`permissions`): chmod {better} {shown}"
        );
        assert_eq!(error.to_string(), expected);
    }
    for permissions in [Permissions::Warn, Permissions::Ignore] {
        let mut config = Config::new(tree.root());
        config.permissions = permissions;
        assert!(fetch(&config.build().unwrap(), "secret").await.is_ok());
    }
}

/// Asking for it by its version is no way around.
#[tokio::test]
async fn an_exact_version_is_refused_like_the_file_that_it_is_in() {
    let tree = Plain::new();
    let mut config = Config::new(tree.root());
    (config.permissions, config.write) = (Permissions::Refuse, true);
    let provider = config.build().unwrap();
    let (key, writer) = ("secret".parse().unwrap(), provider.writer().unwrap());
    for token in ["one", "two"] {
        writer.create_version(&key, &SecretValue::from(token), token).await.unwrap();
    }
    writer.promote(&key, "1", None).await.unwrap();
    set_mode(&tree.root().join("secret"), 0o644);
    for (version, refused) in [("1", true), ("2", false)] {
        let answer = provider.fetch(&ask("secret").at_version(version)).await;
        assert_eq!(answer.is_err_and(|error| error.kind() == ErrorKind::Denied), refused);
    }
}
