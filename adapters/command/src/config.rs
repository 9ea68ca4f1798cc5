//! The settings of one `[adapters.<id>]` section with `kind = "command"`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use oneiric_core::{Error, ErrorKind, Result, SecretRef};
use serde::{Deserialize, Deserializer, de};

/// How a [`CommandHook`](crate::CommandHook) is set up.
///
/// ```
/// let config: oneiric_adapter_command::Config = toml::from_str(r#"
///     secrets = { user = "files:db.json#user", password = "files:db.json#password" }
///     prove = ["/usr/local/bin/try-login", "--host", "db"]
///     apply = ["/usr/local/bin/reload-shop"]
///     drain = ["/usr/local/bin/old-sessions-gone"]
///     timeout = "10s"
/// "#)?;
/// # let _ = config;
/// # Ok::<(), toml::de::Error>(())
/// ```
///
/// # What a command gets
/// `prove` and `apply` read `{"user": "…", "password": "…"}` from standard input. All of them
/// find the adapter's name in `ONEIRIC_ADAPTER` and the number of the new generation in
/// `ONEIRIC_GENERATION`. Of the agent's own environment, which may hold secrets, they inherit
/// `PATH`, `HOME` and a few more that hold none, and what `pass_env` names.
///
/// # What a command says
/// Success with exit code 0, and anything else with another; `prove` exits with 75 where it could
/// not try the secrets, as when the server is down, so that they are not blamed. The last line of its standard error
/// goes into the report. Values are redacted there, as they were given, trimmed, as JSON, line by
/// line and as parts of a JSON value; but not in other encodings, so a command should not print
/// them. Standard output is ignored.
///
/// A command that leaves a process behind redirects its standard error, which ends with the
/// command. A command that takes longer than `timeout` is killed with its whole process group.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The secrets, by the names under which the commands get them.
    pub secrets: BTreeMap<String, SecretRef>,
    /// Tries the new secrets: 0 if they work, 75 if they could not be tried. Without it they are believed.
    pub prove: Option<Vec<String>>,
    /// Gives the new secrets to the service, at start and in every rotation. If it fails it is
    /// tried again until it works or there are newer secrets.
    pub apply: Option<Vec<String>>,
    /// Says whether the old secrets are out of use: 0 if nobody uses them any more. Asked again
    /// and again until the drain deadline, and not at start.
    pub drain: Option<Vec<String>>,
    /// How long one run of a command may take (`"30s"`).
    #[serde(default = "default_timeout", deserialize_with = "duration")]
    pub timeout: Duration,
    /// Where the commands run; by default where the agent does.
    pub working_dir: Option<PathBuf>,
    /// The names of more environment variables that the commands inherit (none).
    #[serde(default)]
    pub pass_env: Vec<String>,
}

impl Config {
    /// The defaults, with these secrets, and no command yet.
    pub fn new(secrets: impl IntoIterator<Item = (String, SecretRef)>) -> Self {
        Self {
            secrets: secrets.into_iter().collect(),
            prove: None,
            apply: None,
            drain: None,
            timeout: default_timeout(),
            working_dir: None,
            pass_env: Vec::new(),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |message| Err(Error::new(ErrorKind::Invalid, message));
        if self.secrets.is_empty() {
            return invalid("`secrets` of a command adapter is empty, so that it would never run");
        }
        if self.prove.is_none() && self.apply.is_none() {
            return invalid("a command adapter needs `prove` or `apply`, or it would do nothing");
        }
        let commands = [&self.prove, &self.apply, &self.drain];
        if commands.into_iter().flatten().any(|argv| argv.first().is_none_or(String::is_empty)) {
            return invalid("a command of a command adapter does not name a program");
        }
        if self.timeout.is_zero() {
            return invalid("`timeout` of a command adapter is 0, so that no command could run");
        }
        Ok(())
    }
}

fn default_timeout() -> Duration {
    Duration::from_secs(30)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        de::Error::custom(format!("`{text}` is not a duration such as \"30s\": {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        let secrets = "secrets = { token = 'files:token' }";
        for (section, part) in [
            ("secrets = {}\napply = ['true']".to_owned(), "`secrets` of a command adapter"),
            (secrets.to_owned(), "needs `prove` or `apply`"),
            (format!("{secrets}\ndrain = ['true']"), "needs `prove` or `apply`"),
            (format!("{secrets}\nprove = []"), "does not name a program"),
            (format!("{secrets}\napply = ['true']\ndrain = ['']"), "does not name a program"),
            (format!("{secrets}\napply = ['true']\ntimeout = '0s'"), "`timeout`"),
        ] {
            let error = toml::from_str::<Config>(&section).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
        }
        for (section, part) in [
            (format!("{secrets}\ntimeout = 'soon'"), "`soon` is not a duration"),
            (format!("{secrets}\napplied = ['true']"), "unknown field `applied`"),
            (format!("{secrets}\napply = 'true'"), "expected a sequence"),
            ("apply = ['true']".to_owned(), "missing field `secrets`"),
        ] {
            let error = toml::from_str::<Config>(&section).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_command_has_30_seconds_unless_told_otherwise() {
        let config: Config = toml::from_str("secrets = { token = 'files:token' }").unwrap();
        assert_eq!(config.timeout, Duration::from_secs(30));
    }
}
