//! The settings of one `[providers.<id>]` section with `kind = "env"`.

use oneiric_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use crate::client::EnvProvider;

/// How an [`EnvProvider`] is set up.
///
/// ```
/// let provider = oneiric_provider_env::Config::default().build()?;
/// # Ok::<(), oneiric_core::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// What stands before the key in the name of a variable (`ONEIRIC_SECRET_`). With an empty
    /// one every variable of the process is a secret.
    #[serde(default = "default_prefix")]
    pub prefix: String,
}

impl Config {
    /// Checks the settings and makes the provider.
    ///
    /// # Errors
    /// `Invalid` if the prefix cannot be part of a variable's name.
    pub fn build(self) -> Result<EnvProvider> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        match self.prefix.chars().find(|&c| !allowed(c)) {
            Some(bad) => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "`prefix` of an env provider has `{}` in it; letters, digits and `_` can be",
                    bad.escape_debug()
                ),
            )),
            None => Ok(EnvProvider::new(self)),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { prefix: default_prefix() }
    }
}

fn default_prefix() -> String {
    "ONEIRIC_SECRET_".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_read() {
        assert_eq!(toml::from_str::<Config>("").unwrap().prefix, "ONEIRIC_SECRET_");
        assert_eq!(toml::from_str::<Config>("prefix = 'APP_'").unwrap().prefix, "APP_");
        assert!(toml::from_str::<Config>("prefixes = 'APP_'").is_err());
    }

    #[test]
    fn a_prefix_that_no_variable_can_have_is_refused() {
        let error = Config { prefix: "A=".into() }.build().unwrap_err();
        assert!(error.to_string().contains("`=`"), "{error}");
    }
}
