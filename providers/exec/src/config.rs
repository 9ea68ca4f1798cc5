//! The settings of one `[providers.<id>]` section with `kind = "exec"`.

use std::time::Duration;

use oneiric_core::{Capabilities, Error, ErrorKind, Result};
use serde::Deserialize;

use crate::client::ExecProvider;
use crate::protocol::MOST_VALUE;

/// How an [`ExecProvider`] is set up.
///
/// ```
/// let config: oneiric_provider_exec::Config = toml::from_str(r#"
///     command = ["/usr/local/bin/our-secrets", "--realm", "shop"]
///     capabilities = ["stamps", "list"]
///     env = ["OUR_REALM"]
///     timeout = "10s"
/// "#)?;
/// let provider = config.build().unwrap();
/// # Ok::<(), toml::de::Error>(())
/// ```
///
/// What a provider can do must be known before anything is started, and stay true however often
/// the program is replaced. So it is said here, and each start of the program is held to it: one
/// that does not offer what is said here is not used, and the error names both.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The program and its arguments. No shell reads them, and no secret belongs into them.
    pub command: Vec<String>,
    /// What is asked of the program besides the current value of a secret (nothing).
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    /// The largest value in bytes that is read or written (64 KiB; 512 KiB at most).
    #[serde(default = "default_max_value")]
    pub max_value: u64,
    /// The names of more environment variables that the program inherits (none). `PATH`, `HOME`,
    /// `LANG`, `LC_ALL`, `TZ` and `TMPDIR` it inherits anyway, and nothing else.
    #[serde(default)]
    pub env: Vec<String>,
    /// How long the program may take to say hello, and to answer where the caller has no deadline
    /// (`"30s"`). A request that is not answered for this long after its deadline is taken for a
    /// program that is stuck: it is started again.
    #[serde(default = "default_timeout", deserialize_with = "oneiric_core::settings::duration")]
    pub timeout: Duration,
    /// The longest pause before a program that ended is started again (`"30s"`). Pauses grow from
    /// 100 ms and are drawn at random below their bound.
    #[serde(default = "default_pause", deserialize_with = "oneiric_core::settings::duration")]
    pub max_restart_pause: Duration,
}

/// Something that a program may be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Capability {
    /// It keeps versions, and reads and lists them.
    Versions,
    /// It tells whether a secret is still the same without reading it.
    Stamps,
    /// It tells of changes by itself.
    Push,
    /// The answers to one `fetch_many` are of one moment.
    Snapshots,
    /// Its values may be no text.
    Binary,
    /// It lists its keys.
    List,
    /// It writes.
    Write,
}

impl Capability {
    /// The word for it in settings and in the protocol.
    pub(crate) fn token(self) -> &'static str {
        match self {
            Self::Versions => "versions",
            Self::Stamps => "stamps",
            Self::Push => "push",
            Self::Snapshots => "snapshots",
            Self::Binary => "binary",
            Self::List => "list",
            Self::Write => "write",
        }
    }
}

impl Config {
    /// The defaults, with this command.
    pub fn new<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            capabilities: Vec::new(),
            max_value: default_max_value(),
            env: Vec::new(),
            timeout: default_timeout(),
            max_restart_pause: default_pause(),
        }
    }

    /// Checks the settings and makes the provider. The program is started by the first question.
    ///
    /// # Errors
    /// `Invalid` if a setting makes no sense.
    pub fn build(self) -> Result<ExecProvider> {
        let invalid = |message: &str| Err(Error::new(ErrorKind::Invalid, message));
        if self.command.first().is_none_or(String::is_empty) {
            return invalid("`command` of an exec provider does not name a program");
        }
        if self.command.iter().any(|part| part.contains('\0')) {
            return invalid("`command` of an exec provider has a NUL character in it");
        }
        if self.max_value == 0 || self.max_value > MOST_VALUE {
            return invalid("`max_value` of an exec provider is not between 1 and 524288");
        }
        if self.timeout.is_zero() || self.timeout > MOST_TIME {
            return invalid("`timeout` of an exec provider is 0 or more than 1h");
        }
        if self.max_restart_pause > MOST_TIME {
            return invalid("`max_restart_pause` of an exec provider is more than 1h");
        }
        // With `NAME=value` a secret would stand in the settings, which are printed.
        if self.env.iter().any(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return invalid(
                "`env` of an exec provider has names of variables, whose values are inherited",
            );
        }
        if self.has(Capability::Write) && !self.has(Capability::Versions) {
            return invalid("`write` of an exec provider needs `versions`, which it makes");
        }
        Ok(ExecProvider::new(self))
    }

    pub(crate) fn has(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities {
            versions: self.has(Capability::Versions),
            stamps: self.has(Capability::Stamps),
            push: self.has(Capability::Push),
            snapshots: self.has(Capability::Snapshots),
            binary: self.has(Capability::Binary),
            max_value: Some(self.max_value),
            batch: None,
        }
    }
}

const MOST_TIME: Duration = Duration::from_secs(3600);

fn default_max_value() -> u64 {
    64 * 1024
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

fn default_pause() -> Duration {
    Duration::from_secs(30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let command = "command = ['x']";
        for (section, part) in [
            ("command = []".to_owned(), "does not name a program"),
            ("command = ['', 'a']".to_owned(), "does not name a program"),
            ("command = ['a', \"b\\u0000\"]".to_owned(), "NUL"),
            (format!("{command}\nmax_value = 0"), "`max_value`"),
            (format!("{command}\nmax_value = 524289"), "`max_value`"),
            (format!("{command}\ntimeout = '0s'"), "`timeout`"),
            (format!("{command}\ntimeout = '2h'"), "`timeout`"),
            (format!("{command}\nmax_restart_pause = '2h'"), "`max_restart_pause`"),
            (format!("{command}\nenv = ['TOKEN=hunter2']"), "names of variables"),
            (format!("{command}\ncapabilities = ['write']"), "needs `versions`"),
        ] {
            let config: Config = toml::from_str(&section).unwrap();
            let error = config.build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(part) && !error.to_string().contains("hunter2"));
        }
        for (section, part) in [
            (format!("{command}\nargs = []"), "unknown field `args`"),
            (format!("{command}\ncapabilities = ['fly']"), "unknown variant `fly`"),
            ("command = 'x'".to_owned(), "expected a sequence"),
            ("timeout = '1s'".to_owned(), "missing field `command`"),
        ] {
            let error = toml::from_str::<Config>(&section).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
