//! The names of signals.

use std::fmt;
use std::str::FromStr;

use oneiric_core::{Error, ErrorKind};
use rustix::process::Signal;
use serde::{Deserialize, Deserializer, de};

/// A signal by its name, with or without `SIG`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SignalName(pub(crate) Signal);

/// Those that one sends to a service.
const NAMES: [(&str, Signal); 12] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ABRT", Signal::ABORT),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("CONT", Signal::CONT),
    ("URG", Signal::URG),
    ("WINCH", Signal::WINCH),
];

impl SignalName {
    /// Its number on this system.
    pub fn number(self) -> i32 {
        self.0.as_raw()
    }
}

/// `TERM`.
impl Default for SignalName {
    fn default() -> Self {
        Self(Signal::TERM)
    }
}

impl FromStr for SignalName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let name = text.strip_prefix("SIG").unwrap_or(text);
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, signal)| Self(*signal)).ok_or_else(|| {
            let names = NAMES.map(|(name, _)| name).join(", ");
            Error::new(ErrorKind::Invalid, format!("`{text}` is none of the signals {names}"))
        })
    }
}

impl fmt::Display for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = NAMES.iter().find(|(_, signal)| *signal == self.0);
        f.write_str(found.map(|(name, _)| *name).expect("only named signals are made"))
    }
}

impl fmt::Debug for SignalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for SignalName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
