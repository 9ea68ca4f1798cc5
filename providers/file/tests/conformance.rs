//! The conformance suite on both kinds of tree: plain files that are replaced by a rename, and a
//! mount whose `..data` link is swapped.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use oneiric_core::{Error, ErrorKind, Result, SecretKey, SecretProvider, SecretValue};
use oneiric_provider_file::Config;
use oneiric_testkit::{Rig, conformance};

mod trees;

use trees::{Mount, Plain};

struct PlainRig {
    tree: Plain,
    binary: bool,
}

#[async_trait]
impl Rig for PlainRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        let mut config = Config::new(self.tree.root());
        config.binary = self.binary;
        Arc::new(config.build().expect("the settings are valid"))
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<()> {
        for (key, value) in secrets {
            self.tree.replace(key.as_str(), value.expose());
        }
        Ok(())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        fs::remove_file(self.tree.root().join(key.as_str())).map_err(not_removed)
    }

    async fn outage(&self, on: bool) -> bool {
        let (here, away) = (self.tree.root(), self.tree.root().with_extension("away"));
        let (from, to) = if on { (here, away) } else { (away, here) };
        fs::rename(from, to).is_ok()
    }
}

struct MountRig {
    mount: Mount,
    held: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl MountRig {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) {
        let mut held = self.held.lock().unwrap();
        change(&mut held);
        let files: Vec<_> = held.iter().map(|(key, value)| (key.as_str(), &value[..])).collect();
        self.mount.swap(&files);
    }
}

#[async_trait]
impl Rig for MountRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        Arc::new(Config::new(self.mount.root()).build().expect("the settings are valid"))
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<()> {
        self.change(|held| {
            let pair = |(key, value): &(SecretKey, SecretValue)| {
                (key.to_string(), value.expose().to_vec())
            };
            held.extend(secrets.iter().map(pair));
        });
        Ok(())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        self.change(|held| _ = held.remove(key.as_str()));
        Ok(())
    }

    async fn outage(&self, on: bool) -> bool {
        let (here, away) = (self.mount.root(), self.mount.root().with_extension("away"));
        let (from, to) = if on { (here, away) } else { (away, here) };
        fs::rename(from, to).is_ok()
    }
}

fn not_removed(error: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Unavailable, "the file cannot be removed", error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_tree_holds_the_contract() {
    for binary in [false, true] {
        conformance(&PlainRig { tree: Plain::new(), binary }).await.assert_passed();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_holds_the_contract() {
    let mount = Mount::new();
    mount.swap(&[]);
    let rig = MountRig { mount, held: Mutex::default() };
    let report = conformance(&rig).await;
    report.assert_passed();
    let skipped: Vec<_> = report
        .cases()
        .filter(|(_, outcome)| matches!(outcome, oneiric_testkit::Outcome::Skipped(_)))
        .collect();
    assert!(skipped.is_empty(), "a mount can do all of it: {skipped:?}");
}
