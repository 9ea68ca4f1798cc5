//! The operator: writes the new secret and calls the real command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use oneiric_runtime::report::{AdapterOutcome, AdapterReport, Outcome, RotationReport};
use tokio::process::Command;
use tokio::time::Instant;

use crate::report::Spread;

/// Rotates one service, and keeps the times.
pub(crate) struct Operator {
    binary: OsString,
    provider: &'static str,
    socket: PathBuf,
    secrets: PathBuf,
    swap: Vec<f64>,
    drain: Vec<f64>,
    command: Vec<f64>,
}

impl Operator {
    /// An operator of the service behind this admin socket, whose secrets are in this directory.
    pub(crate) fn new(socket: &Path, secrets: &Path) -> Result<Self, String> {
        let binary = std::env::var_os("ONEIRIC_BIN").ok_or(
            "ONEIRIC_BIN does not say where the `oneiric` binary is; use `cargo xtask rotate`",
        )?;
        let (socket, secrets) = (socket.to_owned(), secrets.to_owned());
        let (swap, drain, command) = (vec![], vec![], vec![]);
        Ok(Self { binary, provider: "files", socket, secrets, swap, drain, command })
    }

    /// The same for secrets of another provider.
    #[cfg(feature = "postgres-vault")]
    pub(crate) fn of(self, provider: &'static str) -> Self {
        Self { provider, ..self }
    }

    /// Puts a secret into the store, by a rename.
    pub(crate) fn store(&self, key: &str, value: &str) -> Result<(), String> {
        put(&self.secrets, key, value)
    }

    /// `oneiric secrets rotate`: succeeds only if every adapter acknowledged the new version and
    /// has let the old one go. Gives the version that was acknowledged.
    pub(crate) async fn rotate(&mut self, key: &str) -> Result<String, String> {
        let started = Instant::now();
        let Attempt { exit_code, report, said } = self.attempt(key, None).await?;
        self.command.push(started.elapsed().as_secs_f64() * 1e3);
        if exit_code != Some(0) {
            return Err(format!("`oneiric secrets rotate` ended with {exit_code:?}: {said}"));
        }
        let adapters: Vec<_> = report.instances.iter().flat_map(|of| &of.adapters).collect();
        let drained = |of: &&AdapterReport| of.outcome == AdapterOutcome::Drained;
        if report.outcome != Outcome::Done || adapters.is_empty() || !adapters.iter().all(drained) {
            return Err(format!("the rotation was not acknowledged: {report:?}"));
        }
        for adapter in adapters {
            self.swap.extend(adapter.prepare_ms);
            self.drain.extend(adapter.drain_ms);
        }
        let version = report.keys.iter().find_map(|key| key.to_version.clone());
        version.ok_or_else(|| format!("the report names no version: {report:?}"))
    }

    /// The same, however it ends. Old generations get this long to end, where it is said.
    pub(crate) async fn attempt(
        &self,
        key: &str,
        drain: Option<Duration>,
    ) -> Result<Attempt, String> {
        let drain = drain.map(|within| format!("--timeout={}ms", within.as_millis()));
        let output = Command::new(&self.binary)
            .args(["secrets", "rotate", "--provider", self.provider, "--keys", key, "--json"])
            .args(drain)
            .arg("--target")
            .arg(&self.socket)
            .current_dir(self.socket.parent().unwrap_or(Path::new("/")))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| format!("the `oneiric` binary cannot be run: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let report = serde_json::from_slice(&output.stdout).map_err(|error| {
            format!("`oneiric secrets rotate --json` printed no report: {error}; {said}")
        })?;
        Ok(Attempt { exit_code: output.status.code(), report, said })
    }

    /// Takes the whole store away, as an unmounted volume is.
    pub(crate) fn lose_store(&self) -> Result<(), String> {
        std::fs::rename(&self.secrets, self.secrets.with_extension("lost"))
            .map_err(|error| format!("the store cannot be taken away: {error}"))
    }

    /// Brings it back.
    pub(crate) fn find_store(&self) -> Result<(), String> {
        std::fs::rename(self.secrets.with_extension("lost"), &self.secrets)
            .map_err(|error| format!("the store cannot be brought back: {error}"))
    }

    /// The times of `prepare` to commit, of commit to drained, and of the whole command.
    pub(crate) fn times(self) -> (Spread, Spread, Spread) {
        (Spread::of(self.swap), Spread::of(self.drain), Spread::of(self.command))
    }
}

/// How one rotation ended.
pub(crate) struct Attempt {
    /// `None` if a signal ended the command.
    pub(crate) exit_code: Option<i32>,
    pub(crate) report: RotationReport,
    /// On stderr.
    pub(crate) said: String,
}

/// Writes a file as a careful writer does: beside, then renamed over.
pub(crate) fn put(dir: &Path, key: &str, value: &str) -> Result<(), String> {
    let beside = dir.join(format!(".{key}.new"));
    let written = std::fs::write(&beside, value).and_then(|()| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&beside, dir.join(key))
    });
    written.map_err(|error| format!("the secret `{key}` cannot be written: {error}"))
}

/// A new credential that nobody can guess from an old one.
pub(crate) fn new_credential() -> String {
    (0..32).map(|_| fastrand::alphanumeric()).collect()
}
