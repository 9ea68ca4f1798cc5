//! What is read, and what is said about it.

use std::fs;
use std::os::unix::fs::symlink;

use oneiric_core::{SecretProvider, Snapshot};

use crate::trees::{Mount, Plain};
use crate::{ask, fetch, provider, text};

#[tokio::test]
async fn links_inside_are_followed() {
    let tree = Plain::new();
    fs::create_dir(tree.root().join("store")).unwrap();
    tree.replace("store/password", b"x");
    symlink("store/password", tree.root().join("relative")).unwrap();
    symlink(tree.root().join("store/password"), tree.root().join("absolute")).unwrap();
    symlink("store", tree.root().join("directory")).unwrap();
    let provider = provider(tree.root());
    for key in ["store/password", "relative", "absolute", "directory/password"] {
        assert_eq!(text(&provider, key).await, "x", "{key}");
    }
}

#[tokio::test]
async fn a_version_of_a_mount_is_the_name_of_its_target() {
    let mount = Mount::new();
    mount.swap(&[("user", b"u"), ("password", b"p")]);
    let fetched = fetch(&provider(mount.root()), "user").await.unwrap();
    assert_eq!(fetched.version.id(), "2026_11_24_00_00_00.000000000");
    assert_eq!(fetched.snapshot, Some(Snapshot::from("..2026_11_24_00_00_00.000000000")));
}

#[tokio::test]
async fn each_of_several_mounts_has_its_own_snapshot() {
    let (tree, mount) = (Plain::new(), Mount::new());
    mount.swap(&[("password", b"p")]);
    fs::rename(mount.root(), tree.root().join("db")).unwrap();
    tree.replace("plain", b"x");
    let provider = provider(tree.root());
    let asked = ["db/password", "plain", "db/..data/password", "db/missing"].map(ask);
    let answers = provider.fetch_many(&asked).await;
    let target = "..2026_11_24_00_00_00.000000000";
    assert_eq!(answers[0].as_ref().unwrap().snapshot, Some(Snapshot::within("db", target)));
    assert_eq!(answers[1].as_ref().unwrap().snapshot, None);
    assert!(answers[2].is_err() && answers[3].is_err());
}

#[tokio::test]
async fn a_file_beside_the_data_link_is_served_alone() {
    let mount = Mount::new();
    mount.swap(&[("user", b"u")]);
    fs::write(mount.root().join("beside"), "b").unwrap();
    // Through this one a file of a later swap would come into the set.
    symlink("..data/user", mount.root().join("around")).unwrap();
    let provider = provider(mount.root());
    assert_eq!(fetch(&provider, "beside").await.unwrap().snapshot, None);
    assert!(fetch(&provider, "around").await.is_err());
}

/// Two writes of the same size within one step of the file system's clock differ in nothing that
/// the file system tells, unless the read between them waits for the step to pass.
#[tokio::test]
async fn a_write_right_after_a_read_changes_the_stamp() {
    let tree = Plain::new();
    let (provider, path) = (provider(tree.root()), tree.root().join("secret"));
    for _ in 0..20 {
        fs::write(&path, "one").unwrap();
        let read = fetch(&provider, "secret").await.unwrap().stamp.unwrap();
        fs::write(&path, "two").unwrap();
        let stamps = provider.stamps(&["secret".parse().unwrap()]).await;
        assert_ne!(stamps[0].as_ref().unwrap(), &read);
    }
}

/// The version is printed in reports, so it must not tell the size.
#[tokio::test]
async fn a_version_of_a_plain_file_is_its_time_and_inode() {
    use std::os::unix::fs::MetadataExt;
    let tree = Plain::new();
    tree.replace("secret", &[b'x'; 4711]);
    let metadata = fs::metadata(tree.root().join("secret")).unwrap();
    let expected = format!("{}.{:09}-{}", metadata.mtime(), metadata.mtime_nsec(), metadata.ino());
    let fetched = fetch(&provider(tree.root()), "secret").await.unwrap();
    assert_eq!(fetched.version.id(), expected);
}
