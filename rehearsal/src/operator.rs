//! The operator: writes the new secret and calls the real command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use oneiric_runtime::report::{AdapterOutcome, Outcome, RotationReport};
use tokio::process::Command;
use tokio::time::Instant;

use crate::report::Spread;

/// Rotates one service, and keeps the times.
pub(crate) struct Operator {
    binary: OsString,
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
        Ok(Self { binary, socket, secrets, swap: vec![], drain: vec![], command: vec![] })
    }

    /// Puts a secret into the store, by a rename.
    pub(crate) fn store(&self, key: &str, value: &str) -> Result<(), String> {
        put(&self.secrets, key, value)
    }

    /// `oneiric secrets rotate`: succeeds only if every adapter acknowledged the new version and
    /// has let the old one go.
    pub(crate) async fn rotate(&mut self, key: &str) -> Result<(), String> {
        let started = Instant::now();
        let output = Command::new(&self.binary)
            .args(["secrets", "rotate", "--provider", "files", "--keys", key, "--json"])
            .arg("--target")
            .arg(&self.socket)
            .current_dir(&self.secrets)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| format!("the `oneiric` binary cannot be run: {error}"))?;
        self.command.push(started.elapsed().as_secs_f64() * 1e3);
        let said = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if !output.status.success() {
            return Err(format!(
                "`oneiric secrets rotate` ended with {}: {}",
                output.status,
                said()
            ));
        }
        let report: RotationReport = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("`oneiric secrets rotate --json` is not a report: {error}"))?;
        let adapters: Vec<_> = report.instances.iter().flat_map(|of| &of.adapters).collect();
        let drained = |of: &&_| -> bool {
            let of: &oneiric_runtime::report::AdapterReport = of;
            of.outcome == AdapterOutcome::Drained
        };
        if report.outcome != Outcome::Done || adapters.is_empty() || !adapters.iter().all(drained) {
            return Err(format!("the rotation was not acknowledged: {report:?}"));
        }
        for adapter in adapters {
            self.swap.extend(adapter.prepare_ms);
            self.drain.extend(adapter.drain_ms);
        }
        Ok(())
    }

    /// The times of `prepare` to commit, of commit to drained, and of the whole command.
    pub(crate) fn times(self) -> (Spread, Spread, Spread) {
        (Spread::of(self.swap), Spread::of(self.drain), Spread::of(self.command))
    }
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
