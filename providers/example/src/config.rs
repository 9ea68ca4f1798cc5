//! The settings of one `[providers.<id>]` section with `kind = "example"`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use oneiric_core::{Error, ErrorKind, Result, SecretValue};
use serde::Deserialize;

use crate::client::ExampleProvider;

/// How an [`ExampleProvider`] is set up.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Where the shelf is, such as `http://127.0.0.1:8200`. It has no credential in it.
    pub url: String,
    /// The file with the token that the shelf knows us by.
    pub token_file: PathBuf,
    /// How long a call may take whose caller has no deadline (`"10s"`).
    #[serde(default = "default_timeout", deserialize_with = "oneiric_core::settings::duration")]
    pub timeout: Duration,
}

impl Config {
    /// The defaults, with this shelf and this token.
    pub fn new(url: impl Into<String>, token_file: impl Into<PathBuf>) -> Self {
        Self { url: url.into(), token_file: token_file.into(), timeout: default_timeout() }
    }

    /// Checks the settings, reads the token and makes the provider. The shelf is not asked yet.
    ///
    /// # Errors
    /// `Invalid` if a setting makes no sense or the token cannot be read.
    pub fn build(self) -> Result<ExampleProvider> {
        let url = self.url.trim_end_matches('/');
        let uri: Uri = url.parse().map_err(|error| {
            Error::with_source(ErrorKind::Invalid, "`url` of an example provider is no URL", error)
        })?;
        // A credential in a URL would be printed wherever the URL is.
        let plain = uri.scheme_str() == Some("http")
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.query().is_none();
        if !plain {
            let message = "`url` of an example provider has the form http://host:port";
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let token = fs::read_to_string(&self.token_file).map_err(|error| {
            let path = self.token_file.display();
            let message = format!("`token_file` of an example provider, `{path}`, cannot be read");
            Error::with_source(ErrorKind::Invalid, message, error)
        })?;
        let token = SecretValue::from(token.trim_end());
        Ok(ExampleProvider::new(url.to_owned(), token, self.timeout))
    }
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused() {
        for url in ["", "shelf", "https://shelf", "http://user:pass@shelf", "http://shelf?key=a"] {
            let error = Config::new(url, "/dev/null").build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!error.chain().contains("pass"), "{}", error.chain());
        }
        let error = Config::new("http://shelf", "/nowhere/token").build().unwrap_err();
        assert!(error.to_string().contains("/nowhere/token"), "{error}");
    }
}
