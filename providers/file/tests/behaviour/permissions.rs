//! Whose files are served, and what is said about the others.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use oneiric_core::ErrorKind;
use oneiric_provider_file::{Config, Permissions};

use crate::fetch;
use crate::trees::Plain;

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
