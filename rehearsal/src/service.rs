//! A service built on the library, as an embedder would: settings, a file provider, a runtime
//! with an admin socket.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use oneiric_core::settings::{Section, Settings, Sources};
use oneiric_core::{Error, ErrorKind, ProviderId, Result, SecretProvider};
use oneiric_runtime::{Assembly, Registry, Runtime};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running service without adapters yet.
pub(crate) struct Service {
    pub(crate) runtime: Runtime,
    stop: CancellationToken,
    task: JoinHandle<()>,
    dir: TempDir,
}

impl Service {
    /// Starts it over an empty store.
    pub(crate) fn start() -> std::result::Result<Self, String> {
        let registry = Registry::default().provider("file", file);
        Self::over(&registry, |secrets| {
            vec![
                // Here only the operator says when.
                ("secrets_watch_interval", "0s".to_owned()),
                ("providers.files.kind", "file".to_owned()),
                ("providers.files.path", secrets.display().to_string()),
            ]
        })
    }

    /// Starts it over another store, by settings that may name files in a directory of its own.
    pub(crate) fn over(
        registry: &Registry,
        store: impl FnOnce(&Path) -> Vec<(&'static str, String)>,
    ) -> std::result::Result<Self, String> {
        let dir = TempDir::new().map_err(|error| format!("no temporary directory: {error}"))?;
        let secrets = secrets_of(dir.path());
        std::fs::create_dir(&secrets).map_err(|error| format!("no directory: {error}"))?;
        let say = |error: &dyn std::error::Error| error.to_string();
        let mut flags = store(&secrets);
        flags.push(("agent.instance", "rehearsal".to_owned()));
        flags.push(("admin.socket", socket_of(dir.path()).display().to_string()));
        let sources = Sources::new().with_flags(flags);
        let settings = Settings::load(&sources).map_err(|error| say(&error))?;
        let assembly =
            Assembly::from_settings(&settings, registry).map_err(|error| error.chain())?;
        let (runtime, task) =
            assembly.options.build(assembly.resolver).map_err(|error| error.chain())?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        Ok(Self { runtime, stop, task, dir })
    }

    /// Where its secrets are.
    pub(crate) fn secrets(&self) -> PathBuf {
        secrets_of(self.dir.path())
    }

    /// Where rotations are asked for.
    pub(crate) fn socket(&self) -> PathBuf {
        socket_of(self.dir.path())
    }

    /// Ends it and waits until all its tasks have ended.
    pub(crate) async fn stop(self) -> std::result::Result<(), String> {
        self.stop.cancel();
        self.task.await.map_err(|error| format!("the runtime did not end well: {error}"))
    }
}

fn secrets_of(dir: &Path) -> PathBuf {
    dir.join("secrets")
}

fn socket_of(dir: &Path) -> PathBuf {
    dir.join("admin.sock")
}

fn file(_: &ProviderId, section: &Section) -> Result<Arc<dyn SecretProvider>> {
    let config: oneiric_provider_file::Config =
        section.parse().map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))?;
    Ok(Arc::new(config.build()?))
}
