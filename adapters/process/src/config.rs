//! The settings of one `[adapters.<id>]` section with `kind = "process"`.

mod parse;
mod signal_name;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use oneiric_core::{Error, ErrorKind, Result, SecretRef};
use serde::Deserialize;

pub use self::signal_name::SignalName;

/// How a child process is run, and how it is moved to new secrets.
///
/// ```
/// let config: oneiric_adapter_process::Config = toml::from_str(r#"
///     command = ["/usr/local/bin/shop", "--port", "8080"]
///     env = { DATABASE_URL = "files:db-url" }
///     files = { "tls.key" = "files:shop.key" }
///     on_change = "overlap"
///     ready = { port = 8080, timeout = "20s" }
/// "#)?;
/// # let _ = config;
/// # Ok::<(), toml::de::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The program and its arguments. No shell: nothing in it is expanded.
    #[serde(deserialize_with = "parse::arguments")]
    pub command: Vec<OsString>,
    /// Secrets that the child finds in its environment, by the names of the variables.
    #[serde(default)]
    pub env: BTreeMap<String, SecretRef>,
    /// Secrets that the child finds as files, by their names within the private folder whose path
    /// is in `ONEIRIC_SECRETS_DIR`.
    #[serde(default)]
    pub files: BTreeMap<String, SecretRef>,
    /// Secrets that the child reads from descriptors that it inherits, by the names of the
    /// variables that hold their numbers.
    #[serde(default)]
    pub fds: BTreeMap<String, SecretRef>,
    /// What happens to the child when a secret has changed. An adapter has to choose.
    pub on_change: Option<OnChange>,
    /// The signal that tells the child of new files, with `on_change = "signal"`.
    pub signal: Option<SignalName>,
    /// How it is known that a child that was started serves, or that one that was signalled has
    /// taken the new secrets.
    pub ready: Option<Ready>,
    /// Tries the new secrets, which it is given as the child is: 0 if they work, 75 if they could
    /// not be tried. Without it they are believed until a child was started with them.
    pub prove: Option<Vec<String>>,
    /// Addresses (`127.0.0.1:8080`) and paths of Unix sockets that are listened on once, and
    /// handed to each child in turn by the protocol of systemd.
    #[serde(default)]
    pub listen: Vec<String>,
    /// How many instances of the command run on this host.
    #[serde(default = "one")]
    pub instances: u32,
    /// How many of them are being moved at a time, at most.
    #[serde(default = "one")]
    pub at_once: u32,
    /// For how long the secrets must not have changed before the child is touched (`"0s"`).
    #[serde(default, deserialize_with = "parse::duration")]
    pub quiet: Duration,
    /// A random pause of up to this much before each move (`"0s"`).
    #[serde(default, deserialize_with = "parse::duration")]
    pub splay: Duration,
    /// What asks the child to end.
    #[serde(default)]
    pub stop_signal: SignalName,
    /// How long after that it is killed (`"10s"`).
    #[serde(default = "ten_seconds", deserialize_with = "parse::duration")]
    pub kill_timeout: Duration,
    /// What happens when the child ends by itself; `restart` if not said.
    pub on_exit: Option<OnExit>,
    /// What becomes of the child when the one who runs it is killed; `stop` if not said, and `keep`
    /// where nothing supervises ([`OneShot`](crate::OneShot)).
    pub orphans: Option<Orphans>,
    /// Where the child runs; by default where the one who runs it does.
    pub working_dir: Option<PathBuf>,
    /// Whether the child inherits the environment, but for `ONEIRIC_SECRET_…`.
    #[serde(default = "yes")]
    pub inherit_env: bool,
    /// With `inherit_env = false`, the names of the variables that it inherits all the same.
    #[serde(default)]
    pub pass_env: Vec<String>,
    /// The file mode creation mask of the child, in octal (`"077"`).
    #[serde(default, deserialize_with = "parse::umask")]
    pub umask: Option<u32>,
}

/// What happens to a child when a secret has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OnChange {
    /// A new one is started beside it; when that is ready, the old one is stopped.
    Overlap,
    /// It is stopped, and a new one is started. There is a gap.
    Restart,
    /// It is sent a signal and reads its files again.
    Signal,
    /// It keeps what it has.
    Keep,
}

/// What happens when a child ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OnExit {
    /// It is started again, with the secrets that it had, after a pause that grows.
    Restart,
    /// It is left.
    Leave,
}

/// What becomes of a child when the one who runs it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Orphans {
    /// The system sends it its stop signal.
    Stop,
    /// It runs on.
    Keep,
}

/// How it is known that a child is ready: by one of `port`, `command` and `file`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Ready {
    /// An address that takes a connection; a number alone is a port of the loopback.
    #[serde(default, deserialize_with = "parse::port")]
    pub port: Option<String>,
    /// A command that exits with 0. It is given the new secrets as the child is.
    pub command: Option<Vec<String>>,
    /// A file that is written anew.
    pub file: Option<PathBuf>,
    /// How long that may take (`"30s"`).
    #[serde(default = "thirty_seconds", deserialize_with = "parse::duration")]
    pub timeout: Duration,
    /// The pause between two looks (`"100ms"`).
    #[serde(default = "tenth_of_a_second", deserialize_with = "parse::duration")]
    pub interval: Duration,
}

impl Config {
    /// The defaults, for this command, with no secret yet.
    pub fn new(command: impl IntoIterator<Item = OsString>) -> Self {
        Self {
            command: command.into_iter().collect(),
            env: BTreeMap::new(),
            files: BTreeMap::new(),
            fds: BTreeMap::new(),
            on_change: None,
            signal: None,
            ready: None,
            prove: None,
            listen: Vec::new(),
            instances: 1,
            at_once: 1,
            quiet: Duration::ZERO,
            splay: Duration::ZERO,
            stop_signal: SignalName::default(),
            kill_timeout: ten_seconds(),
            on_exit: None,
            orphans: None,
            working_dir: None,
            inherit_env: true,
            pass_env: Vec::new(),
            umask: None,
        }
    }

    /// The secrets that the child is given, each once.
    pub fn secrets(&self) -> Vec<SecretRef> {
        let all = [&self.env, &self.files, &self.fds];
        let mut secrets: Vec<_> = all.into_iter().flat_map(BTreeMap::values).cloned().collect();
        secrets.sort();
        secrets.dedup();
        secrets
    }

    /// What makes no sense, wherever a child is run.
    pub(crate) fn check_child(&self) -> Result<()> {
        if self.command.first().is_none_or(|program| program.is_empty()) {
            return invalid("`command` of a process adapter does not name a program");
        }
        for name in self.env.keys().chain(self.fds.keys()) {
            if name.is_empty() || name.contains(['=', '\0']) {
                return invalid(format!("`{name}` cannot be the name of a variable"));
            }
        }
        if let Some(name) = self.fds.keys().find(|name| self.env.contains_key(*name)) {
            return invalid(format!("the variable `{name}` is both in `env` and in `fds`"));
        }
        for name in self.files.keys() {
            if !is_inside(Path::new(name)) {
                let must = "it must be a relative path without `..`";
                return invalid(format!(
                    "`{name}` cannot be the name of a file in `files`: {must}"
                ));
            }
            if self.files.keys().any(|other| {
                Path::new(other) != Path::new(name) && Path::new(other).starts_with(name)
            }) {
                return invalid(format!("`{name}` in `files` is a file and a folder"));
            }
        }
        Ok(())
    }

    /// What makes no sense for an adapter.
    pub(crate) fn check(&self) -> Result<()> {
        self.check_child()?;
        let Some(on_change) = self.on_change else {
            return invalid(
                "a process adapter needs `on_change`: \"overlap\", \"restart\", \"signal\" or \
                 \"keep\"",
            );
        };
        if self.env.is_empty() && self.files.is_empty() && self.fds.is_empty() {
            return invalid("a process adapter needs a secret in `env`, `files` or `fds`");
        }
        if let Some(ready) = &self.ready {
            ready.check(&self.listen)?;
        }
        if self.prove.as_ref().is_some_and(|argv| argv.first().is_none_or(String::is_empty)) {
            return invalid("`prove` of a process adapter does not name a program");
        }
        if self.instances == 0 || self.at_once == 0 || self.at_once > self.instances {
            return invalid("`at_once` must be from 1 to `instances` of a process adapter");
        }
        match (on_change, self.signal) {
            (OnChange::Signal, None) => {
                return invalid("`on_change = \"signal\"` needs `signal`, such as \"HUP\"");
            }
            (OnChange::Signal, Some(_)) => self.check_signalled()?,
            (_, Some(_)) => return invalid("`signal` is only for `on_change = \"signal\"`"),
            (_, None) => {}
        }
        Ok(())
    }

    fn check_signalled(&self) -> Result<()> {
        for (name, secrets) in [("env", &self.env), ("fds", &self.fds)] {
            if !secrets.is_empty() {
                return invalid(format!(
                    "`on_change = \"signal\"` has no use for `{name}`, which cannot change in a \
                     process that runs: give it `files`"
                ));
            }
        }
        if self.ready.is_none() {
            return invalid(
                "`on_change = \"signal\"` needs `ready`, by which the child acknowledges that it \
                 has taken the new secrets",
            );
        }
        Ok(())
    }
}

/// The defaults, with no way to know yet.
impl Default for Ready {
    fn default() -> Self {
        Self {
            port: None,
            command: None,
            file: None,
            timeout: thirty_seconds(),
            interval: tenth_of_a_second(),
        }
    }
}

impl Ready {
    fn check(&self, listen: &[String]) -> Result<()> {
        let said = [self.port.is_some(), self.command.is_some(), self.file.is_some()];
        if said.into_iter().filter(|said| *said).count() != 1 {
            return invalid(
                "`ready` of a process adapter needs one of `port`, `command` and `file`",
            );
        }
        if self.command.as_ref().is_some_and(|argv| argv.first().is_none_or(String::is_empty)) {
            return invalid("`ready.command` of a process adapter does not name a program");
        }
        if self.timeout.is_zero() || self.interval.is_zero() {
            return invalid(
                "`ready.timeout` and `ready.interval` of a process adapter are above 0",
            );
        }
        if let Some(port) = &self.port
            && listen.iter().any(|address| port_of(address) == port_of(port))
        {
            return invalid(format!(
                "`ready.port` says nothing for `{port}`, which is in `listen` and takes connections \
                 before any child runs: use `ready.command` or `ready.file`"
            ));
        }
        Ok(())
    }
}

fn port_of(address: &str) -> Option<&str> {
    address.rsplit_once(':').map(|(_, port)| port)
}

fn is_inside(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    !bytes.is_empty()
        && !bytes.contains(&0)
        && !bytes.ends_with(b"/")
        && path.components().all(|part| matches!(part, Component::Normal(_)))
}

fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::new(ErrorKind::Invalid, message))
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

fn thirty_seconds() -> Duration {
    Duration::from_secs(30)
}

fn tenth_of_a_second() -> Duration {
    Duration::from_millis(100)
}

#[cfg(test)]
mod tests;
