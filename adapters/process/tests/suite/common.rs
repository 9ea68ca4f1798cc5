//! What the tests share.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oneiric_adapter_process::{Config, Launcher, OnChange, ProcessHook, Ready};
use oneiric_core::{
    DrainReport, HookError, LifecycleHook as _, Prepared, SecretRef, SecretSet, SecretValue,
    Version,
};
use rustix::process::Pid;
use tempfile::TempDir;

/// More than anything here takes, on a busy machine as well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program of ours, in this role.
pub(crate) fn rig<S: AsRef<OsStr>>(role: &str, settings: &[S], command: &[S]) -> Command {
    let mut rig = Command::new(env!("CARGO_BIN_EXE_oneiric-process-rig"));
    rig.arg(role).args(settings).arg("--").args(command).stdin(Stdio::null());
    rig
}

/// What it printed, and how it ended.
pub(crate) fn once(settings: &[&str], body: &str) -> Output {
    rig("once", settings, &["sh", "-c", body]).output().unwrap()
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Waits for something to be so.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "{what}: it did not come to be");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The number that a script wrote into this file.
#[track_caller]
pub(crate) fn number_in(path: &Path) -> i32 {
    until("a number in a file", || std::fs::read_to_string(path).ok()?.trim().parse().ok())
}

/// A process that nobody has reaped yet is gone too.
pub(crate) fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// Ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn of(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn code(&mut self) -> Option<i32> {
        until("the end of a process", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Programs of ours start children by this.
pub(crate) fn launcher() -> Launcher {
    Launcher::new(env!("CARGO_BIN_EXE_oneiric-process-rig"), ["launch"])
}

pub(crate) fn token() -> SecretRef {
    "files:token".parse().unwrap()
}

pub(crate) fn secrets(value: &str) -> SecretSet {
    SecretSet::new([(token(), SecretValue::from(value), Version::numbered(1))])
}

/// An adapter with a folder that its children write into.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) hook: Arc<ProcessHook>,
}

impl Bench {
    /// One whose child has the token in its environment, in a file and on a descriptor where that
    /// can be.
    pub(crate) fn new(on_change: OnChange, body: &str, set: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(["sh", "-c", body].map(Into::into));
        config.on_change = Some(on_change);
        config.files.insert("token".to_owned(), token());
        if on_change == OnChange::Signal {
            config.signal = Some("HUP".parse().unwrap());
        } else {
            config.env.insert("TOKEN".to_owned(), token());
            config.fds.insert("TOKEN_FD".to_owned(), token());
        }
        config.ready = Some(ready("file = 'ready'"));
        config.working_dir = Some(dir.path().to_owned());
        set(&mut config);
        let hook = ProcessHook::new("shop".parse().unwrap(), config).unwrap();
        Self { dir, hook: Arc::new(hook.with_launcher(launcher())) }
    }

    pub(crate) async fn prepare(&self, value: &str) -> Result<Box<dyn Prepared>, HookError> {
        self.hook.prepare(&secrets(value)).await
    }

    /// A whole rotation to this value.
    pub(crate) async fn rotate(&self, value: &str) -> DrainReport {
        self.rotate_within(value, PATIENCE).await
    }

    pub(crate) async fn rotate_within(&self, value: &str, within: Duration) -> DrainReport {
        let retired = self.prepare(value).await.unwrap().commit();
        retired.drain(tokio::time::Instant::now() + within).await
    }

    pub(crate) async fn release(&self) {
        self.hook.release(tokio::time::Instant::now() + PATIENCE).await;
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// What is marked as this adapter's and runs, by its environment.
    pub(crate) fn children(&self) -> Vec<i32> {
        let dir = format!("PWD={}", self.dir.path().display());
        let is_of = |pid: &i32| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|variable| variable == dir.as_bytes())
                || std::fs::read_link(format!("/proc/{pid}/cwd"))
                    .is_ok_and(|cwd| cwd == self.dir.path())
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid: &i32| runs(*pid)).filter(is_of).collect()
    }
}

pub(crate) fn ready(text: &str) -> Ready {
    toml::from_str(text).unwrap()
}

/// Children of ours that have ended and were not buried.
pub(crate) fn zombies() -> usize {
    let me = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter(|stat| {
            let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
            rest.starts_with(&format!("Z {me} "))
        })
        .count()
}

/// Waits for something to be so, where others have to go on meanwhile.
pub(crate) async fn until_async<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "{what}: it did not come to be");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Bench {
    /// Ends what would take its time.
    pub(crate) async fn hook_kill(&self) {
        self.hook.release(tokio::time::Instant::now()).await;
    }
}

/// What nobody else ends. It ends with the test, however that ends.
pub(crate) struct Orphan(pub(crate) i32);

impl Drop for Orphan {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0).filter(|_| runs(self.0)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
