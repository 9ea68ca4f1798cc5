//! The conformance suite on both kinds of tree: plain files that are replaced by a rename, and a
//! mount whose `..data` link is swapped.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use oneiric_core::{
    Error, ErrorKind, Result, SecretKey, SecretProvider, SecretValue, SecretWriter,
};
use oneiric_provider_file::{Config, FileProvider};
use oneiric_testkit::{Ability, Fault, Outcome, Report, Rig, conformance};

mod trees;

use trees::{Mount, Plain, unprivileged};

struct PlainRig {
    tree: Plain,
    binary: bool,
    disorder: Disorder,
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
            let path = self.tree.root().join(key.as_str());
            match self.disorder.of() {
                Some(Fault::PushLost) => self.disorder.write_unseen(&path, value.expose()),
                // A write in place is told late, and the rename after it at once.
                Some(Fault::PushReordered) => {
                    fs::write(path, value.expose()).unwrap();
                    self.tree.replace(key.as_str(), value.expose());
                }
                Some(Fault::PushDoubled) => {
                    self.tree.replace(key.as_str(), value.expose());
                    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
                }
                _ => self.tree.replace(key.as_str(), value.expose()),
            }
        }
        Ok(Vec::new())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        fs::remove_file(self.tree.root().join(key.as_str())).map_err(not_removed)
    }

    async fn fault(&self, fault: Fault) -> Ability {
        self.disorder.begin(fault)
    }

    async fn mend(&self) -> Result<()> {
        self.disorder.end();
        Ok(())
    }
}

struct MountRig {
    mount: Mount,
    held: Mutex<BTreeMap<String, Vec<u8>>>,
    disorder: Disorder,
}

impl MountRig {
    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) {
        let mut held = self.held.lock().unwrap();
        change(&mut held);
        if let Some(Fault::PushLost) = self.disorder.of() {
            for (key, value) in held.iter() {
                self.disorder.write_unseen(&self.mount.root().join(key), value);
            }
            return;
        }
        let files: Vec<_> = held.iter().map(|(key, value)| (key.as_str(), &value[..])).collect();
        self.mount.swap(&files);
        if let Some(Fault::PushDoubled) = self.disorder.of() {
            self.mount.swap(&files);
        }
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
        // The events of a swap name nothing, so that no order of them is a wrong one.
        self.disorder.begin(fault)
    }

    async fn mend(&self) -> Result<()> {
        self.disorder.end();
        Ok(())
    }
}

/// A tree that is written to by one provider and read by another.
struct WrittenRig {
    tree: Plain,
    writer: FileProvider,
    count: AtomicUsize,
    disabled: Mutex<Option<(SecretKey, String)>>,
    disorder: Disorder,
}

impl WrittenRig {
    fn new() -> Self {
        let tree = Plain::new();
        let (writer, disorder) = (Self::build(&tree), Disorder::new(tree.root()));
        Self { tree, writer, count: AtomicUsize::new(0), disabled: Mutex::default(), disorder }
    }

    fn build(tree: &Plain) -> FileProvider {
        let mut config = Config::new(tree.root());
        (config.binary, config.write) = (true, true);
        config.build().expect("the settings are valid")
    }

    fn store(&self) -> &dyn SecretWriter {
        self.writer.writer().expect("`write` is on")
    }

    async fn current(&self, key: &SecretKey) -> Result<Option<String>> {
        match self.writer.lister().expect("files are listed").versions(key).await {
            Ok(versions) => {
                let current = versions.into_iter().find(|info| info.current);
                Ok(current.map(|info| info.version.to_string()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Rig for WrittenRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        Arc::new(Self::build(&self.tree))
    }

    fn stages(&self) -> bool {
        true
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        let mut versions = Vec::new();
        for (key, value) in secrets {
            let path = self.tree.root().join(key.as_str());
            if let Some(Fault::PushLost) = self.disorder.of() {
                self.disorder.write_unseen(&path, value.expose());
                versions.extend(self.current(key).await?);
                continue;
            }
            let token = format!("rig-{}", self.count.fetch_add(1, Ordering::Relaxed));
            let version = match self.store().create_version(key, value, &token).await {
                // What it does not write somebody else may.
                Err(error) if error.kind() == ErrorKind::Invalid => {
                    self.tree.replace(key.as_str(), value.expose());
                    versions.extend(self.current(key).await?);
                    continue;
                }
                version => version?,
            };
            let current = self.current(key).await?;
            self.store().promote(key, &version.id(), current.as_deref()).await?;
            if let Some(Fault::PushDoubled) = self.disorder.of() {
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            }
            versions.push(version.to_string());
        }
        Ok(versions)
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        let kept = self.tree.root().join(".oneiric").join(key.as_str());
        let live = fs::remove_file(self.tree.root().join(key.as_str()));
        fs::remove_dir_all(kept).or(live).map_err(not_removed)
    }

    async fn fault(&self, fault: Fault) -> Ability {
        match fault {
            Fault::Disabled(key) => {
                let current = self.current(&key).await.unwrap().expect("it is there");
                self.store().disable(&key, &current).await.unwrap();
                *self.disabled.lock().unwrap() = Some((key, current));
                Ability::Done
            }
            Fault::LostReply => {
                Ability::cannot("a write to a file system has no reply that could be lost")
            }
            fault => self.disorder.begin(fault),
        }
    }

    async fn mend(&self) -> Result<()> {
        self.disorder.end();
        let disabled = self.disabled.lock().unwrap().take();
        match disabled {
            Some((key, version)) => self.store().enable(&key, &version).await,
            None => Ok(()),
        }
    }
}

/// What a tree can be made to do wrong.
struct Disorder {
    root: PathBuf,
    fault: Mutex<Option<Fault>>,
}

impl Disorder {
    fn new(root: PathBuf) -> Self {
        Self { root, fault: Mutex::default() }
    }

    fn of(&self) -> Option<Fault> {
        self.fault.lock().unwrap().clone()
    }

    fn begin(&self, fault: Fault) -> Ability {
        match fault {
            Fault::Unreachable => fs::rename(&self.root, self.away()).unwrap(),
            Fault::Denied => self.set_mode(0o000),
            Fault::PushLost | Fault::PushDoubled | Fault::PushReordered => {}
            Fault::UnknownIdentity => {
                return Ability::cannot("to a file system every user is known");
            }
            Fault::Throttled { .. } => {
                return Ability::cannot("a file system has no quota of reads");
            }
            Fault::Slow(_) | Fault::Hanging => {
                return Ability::cannot("a file system cannot be told to be slow");
            }
            Fault::Lagging => return Ability::cannot("what a file system has taken it shows"),
            Fault::Disabled(_) => return Ability::cannot("files that are not written by it"),
            _ => return Ability::cannot("a file system cannot be told to do that"),
        }
        *self.fault.lock().unwrap() = Some(fault);
        Ability::Done
    }

    fn end(&self) {
        match self.fault.lock().unwrap().take() {
            Some(Fault::Unreachable) => fs::rename(self.away(), &self.root).unwrap(),
            Some(Fault::Denied) => self.set_mode(0o700),
            _ => {}
        }
    }

    /// Writes to a file by a name that it has outside the root, where nobody watches.
    fn write_unseen(&self, path: &Path, value: &[u8]) {
        let outside = self.root.with_file_name("outside");
        let _ = fs::create_dir(&outside);
        let link = outside.join("link");
        fs::hard_link(fs::canonicalize(path).unwrap(), &link).unwrap();
        fs::write(&link, value).unwrap();
        fs::remove_file(link).unwrap();
    }

    fn set_mode(&self, mode: u32) {
        fs::set_permissions(&self.root, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn away(&self) -> PathBuf {
        self.root.with_extension("away")
    }
}

fn not_removed(error: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Unavailable, "the file cannot be removed", error)
}

/// The cases that were left out.
fn skipped(report: &Report) -> Vec<&'static str> {
    let skipped = report.cases().filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(_)));
    skipped.map(|(name, _)| name).collect()
}

/// What no file system can be told to do.
const NOT_OF_FILES: [&str; 7] = [
    "an_older_value_never_bears_a_newer_version",
    "an_unknown_identity_is_said_so_and_passes",
    "a_throttle_is_said_with_the_time_to_wait",
    "a_throttle_without_a_time_is_said_so",
    "a_slow_answer_ends_at_the_deadline",
    "a_hanging_store_ends_at_the_deadline",
    "a_slow_read_may_be_dropped_at_any_await",
];

/// All of the suite's cases that are about writing.
const WRITES: usize = 10;

#[test]
fn a_plain_tree_holds_the_contract() {
    for binary in [false, true] {
        let report = unprivileged(move || async move {
            let tree = Plain::new();
            let disorder = Disorder::new(tree.root());
            conformance(&PlainRig { tree, binary, disorder }).await
        });
        report.assert_passed();
        let mut expected = NOT_OF_FILES.to_vec();
        expected.insert(0, "a_disabled_current_version_is_said_so");
        expected.insert(2, "a_set_is_of_one_moment");
        assert_eq!(skipped(&report)[..expected.len()], expected);
        assert_eq!(skipped(&report).len(), expected.len() + WRITES);
    }
}

#[test]
fn a_mount_holds_the_contract() {
    let report = unprivileged(|| async {
        let mount = Mount::new();
        mount.swap(&[]);
        let disorder = Disorder::new(mount.root());
        conformance(&MountRig { mount, held: Mutex::default(), disorder }).await
    });
    report.assert_passed();
    let skipped = skipped(&report);
    assert_eq!(skipped[0], "a_disabled_current_version_is_said_so");
    assert_eq!(skipped[1..=NOT_OF_FILES.len()], NOT_OF_FILES);
    assert_eq!(skipped.len(), 1 + NOT_OF_FILES.len() + WRITES);
}

#[test]
fn a_tree_that_is_written_to_holds_the_contract() {
    let report = unprivileged(|| async { conformance(&WrittenRig::new()).await });
    report.assert_passed();
    let mut expected = NOT_OF_FILES.to_vec();
    expected.insert(1, "a_set_is_of_one_moment");
    expected.push("a_lost_reply_is_ambiguous_and_a_repeat_is_no_second_write");
    assert_eq!(skipped(&report), expected);
}
