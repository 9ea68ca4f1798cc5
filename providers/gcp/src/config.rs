//! The settings of one `[providers.<id>]` section with `kind = "gcp"`.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use oneiric_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Deserializer};

use crate::client::GcpProvider;
use crate::names;

/// How a [`GcpProvider`] is set up.
///
/// ```
/// let mut config = oneiric_provider_gcp::Config::new("my-project");
/// config.current = "alias:current".parse()?;
/// let provider = config.build()?;
/// # Ok::<(), oneiric_core::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The id of the project.
    pub project: String,
    /// Its number, which events carry instead of the id. Learned from the first answer if absent.
    #[serde(default)]
    pub project_number: Option<String>,
    /// The location of regional secrets; without one the secrets are global.
    #[serde(default)]
    pub location: Option<String>,
    /// Which version is current (`"latest"`).
    #[serde(default)]
    pub current: Current,
    /// How long one call may take where the caller sets no deadline (`"10s"`).
    #[serde(default = "default_timeout", deserialize_with = "oneiric_core::settings::duration")]
    pub timeout: Duration,
    /// How many reads of metadata this process makes in any minute at most (540). The quota of a
    /// project is 600, for all who read it together.
    #[serde(default = "default_metadata_reads")]
    pub metadata_reads_a_minute: NonZeroU32,
    /// How many calls may run at once for one sweep or one set of secrets (8).
    #[serde(default = "default_concurrency")]
    pub concurrency: NonZeroU32,
    /// Another address than Google's.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Who we are.
    #[serde(default)]
    pub identity: Identity,
    /// Where change events come from.
    #[serde(default)]
    pub push: Option<Push>,
    /// What a secret is made with.
    #[serde(default)]
    pub create: Create,
}

/// Who we are: application default credentials, unless something else is said.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Identity {
    /// A file with the key of a service account, or with any other kind of credential that
    /// Google's tools write.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// The service account to act as, by its address.
    #[serde(default)]
    pub impersonate: Option<String>,
    /// The service accounts in between, where one may only act as the next.
    #[serde(default)]
    pub delegates: Vec<String>,
    /// The project whose quota is used.
    #[serde(default)]
    pub quota_project: Option<String>,
    /// Sends no credential at all; for tests, with an `endpoint`.
    #[serde(default)]
    pub anonymous: bool,
}

/// Where change events come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Push {
    /// The Pub/Sub subscription, `projects/P/subscriptions/S`. Each message goes to one reader of
    /// it, so every process needs its own.
    pub subscription: String,
    /// Another address than Google's.
    #[serde(default)]
    pub endpoint: Option<String>,
}

/// What [`create_secret`](oneiric_core::SecretWriter::create_secret) makes a secret with.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Create {
    /// Where the payload is kept. Google decides if empty. Not for regional secrets.
    #[serde(default)]
    pub replicas: Vec<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The Pub/Sub topics to which changes are published, `projects/P/topics/T`.
    #[serde(default)]
    pub topics: Vec<String>,
}

/// Which version of a secret is the current one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Current {
    /// The one that was added last. While it is disabled, there is none.
    #[default]
    Latest,
    /// The newest that is enabled.
    NewestEnabled,
    /// The one that this alias of the secret names.
    Alias(String),
    /// The one whose number stands in this annotation of the secret.
    Annotation(String),
}

impl Current {
    /// Whether the metadata of a secret names the version.
    pub(crate) fn is_pointer(&self) -> bool {
        matches!(self, Self::Alias(_) | Self::Annotation(_))
    }
}

impl fmt::Display for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::NewestEnabled => f.write_str("newest-enabled"),
            Self::Alias(name) => write!(f, "alias:{name}"),
            Self::Annotation(key) => write!(f, "annotation:{key}"),
        }
    }
}

impl FromStr for Current {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let current = match (text, text.split_once(':')) {
            ("latest", _) => Self::Latest,
            ("newest-enabled", _) => Self::NewestEnabled,
            (_, Some(("alias", name))) if names::is_alias(name) => Self::Alias(name.into()),
            (_, Some(("annotation", key))) if names::is_annotation(key) => {
                Self::Annotation(key.into())
            }
            _ => {
                return Err(invalid(format!(
                    "`{text}` is none of \"latest\", \"newest-enabled\", \"alias:NAME\" and \
                     \"annotation:KEY\", with a name that Secret Manager takes"
                )));
            }
        };
        Ok(current)
    }
}

impl<'de> Deserialize<'de> for Current {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Push {
    /// This subscription, at Google.
    pub fn new(subscription: impl Into<String>) -> Self {
        Self { subscription: subscription.into(), endpoint: None }
    }
}

impl Config {
    /// The defaults, for the global secrets of this project.
    pub fn new(project: impl Into<String>) -> Self {
        Self {
            project: project.into(),
            project_number: None,
            location: None,
            current: Current::default(),
            timeout: default_timeout(),
            metadata_reads_a_minute: default_metadata_reads(),
            concurrency: default_concurrency(),
            endpoint: None,
            identity: Identity::default(),
            push: None,
            create: Create::default(),
        }
    }

    /// Checks the settings and makes the provider. Nothing is read or sent yet: credentials are
    /// looked for by the first call.
    ///
    /// # Errors
    /// `Invalid` if a setting makes no sense.
    pub fn build(self) -> Result<GcpProvider> {
        if !names::is_project(&self.project) {
            return Err(invalid(format!("`project` is `{}`, which names none", self.project)));
        }
        if let Some(number) = &self.project_number
            && !(number.len() <= 20 && number.parse::<u64>().is_ok())
        {
            return Err(invalid(format!("`project_number` is `{number}`, which is no number")));
        }
        if let Some(location) = &self.location
            && !names::is_location(location)
        {
            return Err(invalid(format!("`location` is `{location}`, which names none")));
        }
        if self.timeout.is_zero() {
            return Err(invalid("`timeout` is 0, so that no call could end in time"));
        }
        if self.location.is_some() && !self.create.replicas.is_empty() {
            return Err(invalid("`create.replicas` is not for the secrets of one location"));
        }
        let identity = &self.identity;
        if !identity.delegates.is_empty() && identity.impersonate.is_none() {
            return Err(invalid("`identity.delegates` needs `identity.impersonate`"));
        }
        if identity.anonymous && (identity.file.is_some() || self.endpoint.is_none()) {
            return Err(invalid(
                "`identity.anonymous` is for an `endpoint` of your own, without a `file`",
            ));
        }
        let push = self.push.as_ref();
        if let Some(Push { subscription, .. }) = push
            && !names::is_subscription(subscription)
        {
            return Err(invalid(format!(
                "`push.subscription` is `{subscription}` and not of the form \
                 `projects/P/subscriptions/S`"
            )));
        }
        let endpoints = [
            ("endpoint", self.endpoint.as_deref()),
            ("push.endpoint", push.and_then(|push| push.endpoint.as_deref())),
        ];
        for (name, endpoint) in endpoints {
            let Some(endpoint) = endpoint else { continue };
            let url = reqwest::Url::parse(endpoint)
                .map_err(|_| invalid(format!("`{name}` is `{endpoint}`, which is no URL")))?;
            if url.scheme() != "https" && !(url.scheme() == "http" && identity.anonymous) {
                return Err(invalid(format!(
                    "`{name}` is not https, and a credential would be sent in the clear"
                )));
            }
        }
        if identity.anonymous && push.is_some_and(|push| push.endpoint.is_none()) {
            return Err(invalid("`identity.anonymous` needs a `push.endpoint` beside `push`"));
        }
        Ok(GcpProvider::new(self))
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_metadata_reads() -> NonZeroU32 {
    NonZeroU32::new(540).expect("540 is not 0")
}

fn default_concurrency() -> NonZeroU32 {
    NonZeroU32::new(8).expect("8 is not 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_read() {
        let text = "project = 'p-1'\nproject_number = '42'\nlocation = 'europe-west1'\n\
                    current = 'annotation:oneiric.current'\ntimeout = '3s'\n\
                    [identity]\nimpersonate = 'a@b'\nquota_project = 'q'\n\
                    [push]\nsubscription = 'projects/p/subscriptions/s'\n\
                    [create.labels]\nteam = 'x'";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.current, Current::Annotation("oneiric.current".into()));
        assert_eq!(config.current.to_string(), "annotation:oneiric.current");
        assert_eq!(config.timeout, Duration::from_secs(3));
        assert_eq!(config.metadata_reads_a_minute.get(), 540);
        config.build().unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (section, part) in [
            ("project = 'p'\nselect = 'x'", "unknown field `select`"),
            ("current = 'latest'", "missing field `project`"),
            ("project = 'p'\ncurrent = 'alias:latest'", "`alias:latest` is none of"),
            ("project = 'p'\ncurrent = 'annotation:oneiric/current'", "is none of"),
            ("project = 'p'\nmetadata_reads_a_minute = 0", "nonzero"),
        ] {
            let error = toml::from_str::<Config>(section).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        for (section, part) in [
            ("project = 'a/b'", "`project`"),
            ("project = 'p'\nproject_number = 'p'", "`project_number`"),
            ("project = 'p'\nlocation = 'a/b'", "`location`"),
            ("project = 'p'\ntimeout = '0s'", "`timeout`"),
            ("project = 'p'\nendpoint = 'nowhere'", "no URL"),
            ("project = 'p'\nendpoint = 'http://127.0.0.1:1'", "in the clear"),
            ("project = 'p'\nidentity.anonymous = true", "`identity.anonymous`"),
            ("project = 'p'\nidentity.delegates = ['a']", "`identity.impersonate`"),
            ("project = 'p'\npush.subscription = 's'", "`push.subscription`"),
            ("project = 'p'\nlocation = 'l'\ncreate.replicas = ['a']", "`create.replicas`"),
        ] {
            let config: Config = toml::from_str(section).unwrap();
            let error = config.build().unwrap_err().to_string();
            assert!(error.contains(part), "{section}: {error}");
        }
    }
}
