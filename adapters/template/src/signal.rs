//! A signal to the process that a file names.

use std::fs;
use std::path::Path;
use std::str::FromStr;

use oneiric_core::HookError;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Deserializer, de};

use crate::config::SignalConfig;

/// The signals that make readers read again, or end so that somebody starts them anew.
const KNOWN: [(&str, Signal); 8] = [
    ("HUP", Signal::HUP),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("INT", Signal::INT),
    ("TERM", Signal::TERM),
    ("QUIT", Signal::QUIT),
    ("WINCH", Signal::WINCH),
    ("CONT", Signal::CONT),
];

/// The name of a signal, as in `HUP` or `SIGHUP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalName {
    name: &'static str,
    signal: Signal,
}

impl FromStr for SignalName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix("SIG").unwrap_or(text);
        let known = KNOWN.into_iter().find(|(name, _)| *name == bare);
        known.map(|(name, signal)| Self { name, signal }).ok_or_else(|| {
            let names = KNOWN.map(|(name, _)| name).join(", ");
            format!("`{text}` is no signal that is sent here; there are {names}")
        })
    }
}

impl<'de> Deserialize<'de> for SignalName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Sends it. A process that is not there is an error: nobody was told.
pub(crate) fn send(config: &SignalConfig) -> Result<(), HookError> {
    let file = config.pid_file.display();
    let pid = pid_in(&config.pid_file)?;
    let name = config.signal.name;
    kill_process(pid, config.signal.signal).map_err(|error| {
        let pid = pid.as_raw_nonzero();
        HookError::failed(match error {
            Errno::SRCH => format!("`{file}` names the process {pid}, and there is none"),
            _ => format!("SIG{name} cannot be sent to the process {pid} of `{file}` ({error})"),
        })
    })
}

fn pid_in(path: &Path) -> Result<Pid, HookError> {
    let file = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| HookError::failed(format!("`{file}` cannot be read ({error})")))?;
    // Some write more than the number, on lines of their own.
    let number = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok());
    // Below 1 are groups and everybody.
    let pid = number.filter(|number| *number > 0).and_then(Pid::from_raw);
    pid.ok_or_else(|| {
        HookError::failed(format!("`{file}` has no process number on its first line"))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn config(pid_file: &Path) -> SignalConfig {
        SignalConfig { pid_file: pid_file.to_owned(), signal: "SIGTERM".parse().unwrap() }
    }

    #[test]
    fn the_process_gets_the_signal() {
        use std::os::unix::process::ExitStatusExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(&file, format!("{}\nmore\n", child.id())).unwrap();
        send(&config(&file)).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
        let error = send(&config(&file)).unwrap_err().to_string();
        assert!(error.contains("and there is none"), "{error}");
    }

    #[test]
    fn a_group_or_everybody_is_never_signalled() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        for text in ["", "0", "-1", "-4711", "nginx", "\n42"] {
            fs::write(&file, text).unwrap();
            let error = send(&config(&file)).unwrap_err().to_string();
            assert!(error.contains("has no process number"), "{text:?}: {error}");
        }
        fs::remove_file(&file).unwrap();
        assert!(send(&config(&file)).unwrap_err().to_string().contains("cannot be read"));
    }
}
