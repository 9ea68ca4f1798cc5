//! Real files, replaced under real readers, with small shell scripts for the reader's commands.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

mod placing;
mod readers;
mod telling;
mod sql;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oneiric_adapter_template::{Config, FileConfig, TemplateHook};
use oneiric_core::{
    DrainOutcome, DrainReport, HookError, LifecycleHook, SecretRef, SecretSet, SecretValue, Version,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// What nothing but a rendered file may show.
const CANARY: &str = "canary-7f3a\"b921-0c4d";
/// How long anything may take on a busy machine before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

fn token() -> SecretRef {
    "files:token".parse().unwrap()
}

fn set(value: impl AsRef<[u8]>) -> SecretSet {
    SecretSet::new([(token(), SecretValue::from(value.as_ref()), Version::numbered(1))])
}

fn script(body: &str) -> Option<Vec<String>> {
    Some(["sh", "-c", body].map(str::to_owned).to_vec())
}

/// A hook that renders `conf` in this folder, where its commands run too.
fn hook(dir: &TempDir, settings: impl FnOnce(&mut Config)) -> TemplateHook {
    let mut config = Config::new([("token".to_owned(), token())]);
    config.working_dir = Some(dir.path().to_owned());
    config.files.push(FileConfig::new("token={{ token }}\n", dir.path().join("conf")));
    settings(&mut config);
    TemplateHook::new("shop".parse().unwrap(), config).unwrap()
}

async fn error_of(hook: &TemplateHook, value: impl AsRef<[u8]>) -> HookError {
    hook.prepare(&set(value)).await.err().unwrap()
}

async fn rotate(hook: &TemplateHook, value: impl AsRef<[u8]>) -> DrainReport {
    rotate_within(hook, value, PATIENCE).await
}

async fn rotate_within(
    hook: &TemplateHook,
    value: impl AsRef<[u8]>,
    patience: Duration,
) -> DrainReport {
    let retired = hook.prepare(&set(value)).await.unwrap().commit();
    retired.drain(Instant::now() + patience).await
}

fn read(dir: &TempDir, name: &str) -> String {
    fs::read_to_string(dir.path().join(name)).unwrap_or_default()
}

/// The names in a folder, hidden ones too.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn path(dir: &TempDir, name: &str) -> PathBuf {
    dir.path().join(name)
}

/// Waits for something that another task or process brings about.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "{what}");
        sleep(Duration::from_millis(10)).await;
    }
}
