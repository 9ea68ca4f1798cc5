//! The program as people run it, `oneiric agent` or `oneiric run`, over a settings file and a folder
//! of secrets.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use oneiric_runtime::report::InstanceStatus;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long it may take until it serves, or until it has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a program will run: a folder with settings and secrets, private to us.
pub(crate) struct Place {
    binary: OsString,
    dir: TempDir,
}

impl Place {
    /// A folder with a provider `files` over its own secrets, and no adapter yet.
    pub(crate) fn new() -> Result<Self, String> {
        let binary = std::env::var_os("ONEIRIC_BIN").ok_or(
            "ONEIRIC_BIN does not say where the `oneiric` binary is; use `cargo xtask rotate`",
        )?;
        let dir = TempDir::new().map_err(|error| format!("no temporary directory: {error}"))?;
        let place = Self { binary, dir };
        for folder in [place.secrets(), place.path("run")] {
            use std::os::unix::fs::DirBuilderExt as _;
            let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
            made.map_err(|error| format!("no directory: {error}"))?;
        }
        Ok(place)
    }

    /// Where something of this name is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where its secrets are.
    pub(crate) fn secrets(&self) -> PathBuf {
        self.path("secrets")
    }

    /// Where rotations are asked for.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("admin.sock")
    }

    /// Writes a file that the program or its adapters need.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<PathBuf, String> {
        let path = self.path(name);
        let written = std::fs::write(&path, content);
        written.map_err(|error| format!("`{}` cannot be written: {error}", path.display()))?;
        Ok(path)
    }

    /// Starts it with these settings of adapters, and waits until every adapter serves.
    pub(crate) async fn start(self, adapters: &str, args: &[&str]) -> Result<Program, String> {
        let settings = format!(
            "[agent]\ninstance = \"rehearsal\"\nruntime_dir = {:?}\n\
             [admin]\nsocket = {:?}\n\
             [providers.files]\nkind = \"file\"\npath = {:?}\n{adapters}",
            self.path("run"),
            self.socket(),
            self.secrets(),
        );
        self.write("oneiric.toml", &settings)?;
        let log = self.write("log", "")?;
        let log = std::fs::OpenOptions::new().append(true).open(log);
        let log = log.map_err(|error| format!("there is no log: {error}"))?;
        let child = self
            .command(args)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("the `oneiric` binary cannot be run: {error}"))?;
        let mut program = Program { place: self, child };
        let give_up = Instant::now() + PATIENCE;
        while program.generation().is_none_or(|generation| generation == 0) {
            let ended = program.child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || Instant::now() > give_up {
                return Err(format!("`oneiric` does not serve ({ended:?}): {}", program.log()));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(program)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(args).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

/// A program that is running. Dropping it kills it.
pub(crate) struct Program {
    pub(crate) place: Place,
    child: Child,
}

impl Program {
    /// Which generation of its one adapter serves, as `oneiric status` says.
    pub(crate) fn generation(&self) -> Option<u64> {
        let mut status = std::process::Command::new(&self.place.binary);
        status.args(["status", "--json"]).current_dir(self.place.dir.path());
        let output = status.stdin(Stdio::null()).output().ok()?;
        let statuses: Vec<InstanceStatus> = serde_json::from_slice(&output.stdout).ok()?;
        Some(statuses.first()?.adapters.first()?.generation)
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        let said = std::fs::read(self.place.path("log")).unwrap_or_default();
        String::from_utf8_lossy(&said).trim().to_owned()
    }

    /// Asks it to end, and waits until it has: well, and with nothing left in the folder of its kind.
    pub(crate) async fn stop(mut self) -> Result<(), String> {
        if let Some(id) = self.child.id() {
            let kill = Command::new("kill").args(["-TERM", &id.to_string()]).status().await;
            kill.map_err(|error| format!("it cannot be asked to end: {error}"))?;
        }
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("`oneiric` ended badly ({status}): {}", self.log())),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("`oneiric` does not end: {}", self.log())),
        }
    }
}

/// A port of the loopback that nobody uses at this moment.
pub(crate) fn free_port() -> Result<u16, String> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).map_err(|error| format!("there is no port: {error}"))
}

/// A path as it stands in settings.
pub(crate) fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}
