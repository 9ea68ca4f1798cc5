//! How secrets reach a child: its environment, files, descriptors.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use command_fds::{CommandFdExt as _, FdMapping};
use oneiric_core::{HookError, SecretRef, SecretSet, SecretValue};
use oneiric_subprocess::{PASSED_ON, Redactor};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::config::Config;

/// The first descriptor after the standard ones, where the protocol of systemd begins.
const FIRST: i32 = 3;
/// The longest that one variable may be on Linux, with its name.
const LONGEST: usize = 128 * 1024;
/// What a child must not inherit: secrets and the identities that fetch them, and what was meant
/// for the one who runs it.
const WITHHELD_PREFIXES: [&str; 2] = ["ONEIRIC_SECRET_", "ONEIRIC_PROVIDERS__"];
const WITHHELD: [&str; 9] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    SECRETS_DIR,
    MARK,
    "ONEIRIC_INSTANCE_NUMBER",
];

/// The variable with the path of the private folder.
pub(crate) const SECRETS_DIR: &str = "ONEIRIC_SECRETS_DIR";
/// The variable by which everything that a child has started is found again.
pub(crate) const MARK: &str = "ONEIRIC_PROCESS";

/// The secrets of one generation, by the ways in which they are delivered.
#[derive(Debug)]
pub(crate) struct Delivery {
    env: Vec<(String, SecretValue)>,
    pub(crate) files: Vec<(String, SecretValue)>,
    fds: Vec<(String, SecretValue)>,
}

impl Delivery {
    pub(crate) fn new(config: &Config, secrets: &SecretSet) -> Result<Self, HookError> {
        let env = pick(&config.env, secrets)?;
        for (name, value) in &env {
            if value.expose().contains(&0) {
                let reference = &config.env[name];
                return Err(HookError::failed(format!(
                    "`{reference}` holds a zero byte, which no variable can: give it `files` or \
                     `fds`"
                )));
            }
            if name.len() + value.expose().len() + 2 > LONGEST {
                let reference = &config.env[name];
                return Err(HookError::failed(format!(
                    "`{reference}` is longer than the 128 KiB of a variable: give it `files` or \
                     `fds`"
                )));
            }
        }
        let (files, fds) = (pick(&config.files, secrets)?, pick(&config.fds, secrets)?);
        Ok(Self { env, files, fds })
    }

    /// What hides them.
    pub(crate) fn redactor(&self) -> Redactor {
        let all = [&self.env, &self.files, &self.fds].into_iter().flatten();
        Redactor::new(all.map(|(_, value)| value.expose()))
    }

    /// Gives them to a command that is about to be started, after these sockets.
    ///
    /// What comes back has to live until it was started.
    pub(crate) fn dress(
        &self,
        command: &mut Command,
        sockets: &[OwnedFd],
        folder: Option<&Path>,
    ) -> io::Result<Fillers> {
        for (name, value) in &self.env {
            command.env(name, OsStr::from_bytes(value.expose()));
        }
        if let Some(folder) = folder {
            command.env(SECRETS_DIR, folder);
        }
        let mut passed = Vec::new();
        for socket in sockets {
            passed.push(socket.try_clone()?);
        }
        let mut number = FIRST + i32::try_from(sockets.len()).map_err(io::Error::other)?;
        for (name, value) in &self.fds {
            command.env(name, number.to_string());
            passed.push(sealed(name, value)?);
            number += 1;
        }
        if passed.is_empty() {
            return Ok(Fillers(Vec::new()));
        }
        let fillers = Fillers::up_to(number)?;
        let numbered = passed.into_iter().zip(FIRST..);
        let mappings = numbered.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
        command.fd_mappings(mappings.collect()).map_err(io::Error::other)?;
        Ok(fillers)
    }
}

/// What a child inherits of the environment.
pub(crate) fn surroundings(config: &Config, command: &mut Command) {
    if config.inherit_env {
        for (name, _) in std::env::vars_os() {
            let text = name.to_str().unwrap_or_default();
            if WITHHELD.contains(&text)
                || WITHHELD_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
            {
                command.env_remove(&name);
            }
        }
        return;
    }
    command.env_clear();
    let passed = PASSED_ON.into_iter().chain(config.pass_env.iter().map(String::as_str));
    for name in passed {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// Descriptors that occupy the numbers which a child is given, so that nothing that the standard
/// library opens on the way gets one of them and is replaced.
pub(crate) struct Fillers(Vec<File>);

impl Fillers {
    fn up_to(end: i32) -> io::Result<Self> {
        let mut fillers = Self(Vec::new());
        loop {
            let file = File::open("/dev/null")?;
            if file.as_raw_fd() >= end {
                return Ok(fillers);
            }
            fillers.0.push(file);
        }
    }
}

/// A file in memory that holds this and can be read only.
fn sealed(name: &str, value: &SecretValue) -> io::Result<OwnedFd> {
    let memory = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(value.expose())?;
    file.rewind()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

fn pick(
    names: &BTreeMap<String, SecretRef>,
    secrets: &SecretSet,
) -> Result<Vec<(String, SecretValue)>, HookError> {
    let one = |(name, reference): (&String, &SecretRef)| {
        let value = secrets.get(reference);
        let value =
            value.ok_or_else(|| HookError::failed(format!("`{reference}` was not given")))?;
        Ok((name.clone(), value.clone()))
    };
    names.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use oneiric_core::Version;

    use super::*;

    fn delivery(way: &str, value: &[u8]) -> Result<Delivery, HookError> {
        let text = format!("command = ['true']\n{way} = {{ TOKEN = 'files:token' }}");
        let config: Config = toml::from_str(&text).unwrap();
        let reference: SecretRef = "files:token".parse().unwrap();
        let part = (reference, SecretValue::from(value), Version::numbered(1));
        Delivery::new(&config, &SecretSet::new([part]))
    }

    #[test]
    fn what_no_variable_can_hold_is_said_and_fits_elsewhere() {
        for (value, part) in [
            (b"canary\0".to_vec(), "`files:token` holds a zero byte"),
            (vec![b'c'; LONGEST], "`files:token` is longer than the 128 KiB"),
        ] {
            let error = delivery("env", &value).unwrap_err();
            assert!(!error.is_refused());
            let error = error.to_string();
            assert!(error.contains(part) && !error.contains("canary"), "{error}");
            delivery("files", &value).unwrap();
            delivery("fds", &value).unwrap();
        }
        // The longest that the system takes, with its name, the sign between and the end.
        let longest = vec![b'c'; LONGEST - "TOKEN".len() - 2];
        let made = delivery("env", &longest).unwrap();
        let mut command = Command::new("true");
        let _fillers = made.dress(&mut command, &[], None).unwrap();
        assert!(command.status().unwrap().success());
    }

    #[test]
    fn nothing_printed_shows_a_value() {
        let made = delivery("files", b"canary").unwrap();
        assert!(!format!("{made:?} {:?}", made.redactor()).contains("canary"));
    }
}
