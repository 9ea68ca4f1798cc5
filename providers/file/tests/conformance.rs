//! The conformance suite on both kinds of tree: plain files that are replaced by a rename, and a
//! mount whose `..data` link is swapped.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use oneiric_core::{Error, ErrorKind, Result, SecretKey, SecretProvider, SecretValue};
use oneiric_provider_file::Config;
use oneiric_testkit::{Ability, Fault, Rig, conformance};

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

    fn stages(&self) -> bool {
        false
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        for (key, value) in secrets {
            self.tree.replace(key.as_str(), value.expose());
        }
        Ok(Vec::new())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        fs::remove_file(self.tree.root().join(key.as_str())).map_err(not_removed)
    }

    async fn fault(&self, fault: Fault) -> Ability {
        fault_of_files(&self.tree.root(), &fault)
    }

    async fn mend(&self) -> Result<()> {
        mended_files(&self.tree.root())
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

    fn stages(&self) -> bool {
        false
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        self.change(|held| {
            let pair = |(key, value): &(SecretKey, SecretValue)| {
                (key.to_string(), value.expose().to_vec())
            };
            held.extend(secrets.iter().map(pair));
        });
        Ok(Vec::new())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        self.change(|held| _ = held.remove(key.as_str()));
        Ok(())
    }

    async fn fault(&self, fault: Fault) -> Ability {
        fault_of_files(&self.mount.root(), &fault)
    }

    async fn mend(&self) -> Result<()> {
        mended_files(&self.mount.root())
    }
}

fn away(root: &Path) -> PathBuf {
    root.with_extension("away")
}

fn fault_of_files(root: &Path, fault: &Fault) -> Ability {
    match fault {
        Fault::Unreachable => fs::rename(root, away(root)).unwrap(),
        _ => return Ability::cannot("a file system cannot be told to do that"),
    }
    Ability::Done
}

fn mended_files(root: &Path) -> Result<()> {
    if away(root).exists() {
        fs::rename(away(root), root).unwrap();
    }
    Ok(())
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
