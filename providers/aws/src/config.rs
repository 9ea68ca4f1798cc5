//! The settings of one `[providers.<id>]` section with `kind = "aws"`.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use oneiric_core::settings::is_this_machine;
use oneiric_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use crate::client::AwsProvider;
use crate::names;

/// How an [`AwsProvider`] is set up.
///
/// ```
/// let mut config = oneiric_provider_aws::Config::default();
/// config.region = Some("eu-west-1".into());
/// let provider = config.build()?;
/// # Ok::<(), oneiric_core::Error>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Config {
    /// The region; that of the environment, the profile or the machine if absent.
    pub region: Option<String>,
    /// The profile of AWS's own files that says who we are. It goes before the environment.
    pub profile: Option<String>,
    /// Another file of credentials than AWS's own; `profile` names the section, or `default`.
    pub credentials_file: Option<PathBuf>,
    /// The role to act as.
    pub role: Option<Role>,
    /// What the names of the secrets begin with that are listed and swept. Others can be read.
    pub prefix: Option<String>,
    /// Whether a sweep looks at each secret by itself, which is dearer and sees a change sooner.
    pub describe: bool,
    /// How long one call may take where the caller sets no deadline (`"10s"`).
    #[serde(deserialize_with = "oneiric_core::settings::duration")]
    pub timeout: Duration,
    /// How many calls may run at once for one sweep or one set of secrets (8).
    pub concurrency: NonZeroU32,
    /// Another address than that of the region, such as a VPC endpoint.
    pub endpoint: Option<String>,
    /// Where change events come from.
    pub push: Option<Push>,
    /// The label that a new version bears until it is promoted (`"ONEIRIC"`).
    pub stage: String,
    /// What a secret is made with.
    pub create: Create,
}

/// The role to act as.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Role {
    /// Its ARN.
    pub arn: String,
    /// What its trust policy asks for, if it does.
    #[serde(default)]
    pub external_id: Option<String>,
    /// The name under which we show in the logs of AWS (`"oneiric"`).
    #[serde(default = "default_session")]
    pub session_name: String,
    /// Another address of STS than that of the region.
    #[serde(default)]
    pub endpoint: Option<String>,
}

/// Where change events come from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Push {
    /// The URL of the SQS queue. Each message goes to one reader of it, so every process needs its
    /// own.
    pub queue_url: String,
    /// Another address than that of the queue's region.
    #[serde(default)]
    pub endpoint: Option<String>,
}

/// What [`create_secret`](oneiric_core::SecretWriter::create_secret) makes a secret with.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Create {
    /// The KMS key; that of the account if absent.
    #[serde(default)]
    pub kms_key_id: Option<String>,
    /// What it is for, in words.
    #[serde(default)]
    pub description: Option<String>,
    /// Tags.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            region: None,
            profile: None,
            credentials_file: None,
            role: None,
            prefix: None,
            describe: false,
            timeout: Duration::from_secs(10),
            concurrency: NonZeroU32::new(8).expect("8 is not 0"),
            endpoint: None,
            push: None,
            stage: "ONEIRIC".into(),
            create: Create::default(),
        }
    }
}

impl Role {
    /// This role, without an external id.
    pub fn new(arn: impl Into<String>) -> Self {
        Self { arn: arn.into(), external_id: None, session_name: default_session(), endpoint: None }
    }
}

impl Push {
    /// This queue, at AWS.
    pub fn new(queue_url: impl Into<String>) -> Self {
        Self { queue_url: queue_url.into(), endpoint: None }
    }
}

impl Config {
    /// Checks the settings and makes the provider. Nothing is read or sent yet: credentials and
    /// the region are looked for by the first call.
    ///
    /// # Errors
    /// `Invalid` if a setting makes no sense.
    pub fn build(self) -> Result<AwsProvider> {
        if let Some(region) = &self.region
            && !names::is_region(region)
        {
            return Err(invalid(format!("`region` is `{region}`, which names none")));
        }
        if self.timeout.is_zero() {
            return Err(invalid("`timeout` is 0, so that no call could end in time"));
        }
        if !names::is_stage(&self.stage) || self.stage.starts_with("AWS") {
            return Err(invalid(format!(
                "`stage` is `{}`, and not a label of your own of 1 to 31 letters, digits and \
                 `+=._-/`",
                self.stage
            )));
        }
        if let Some(prefix) = &self.prefix
            && !names::is_prefix(prefix)
        {
            return Err(invalid(format!("`prefix` is `{prefix}`, which no name begins with")));
        }
        let role = self.role.as_ref();
        if let Some(Role { arn, session_name, .. }) = role {
            if !arn.starts_with("arn:") || !arn.contains(":role/") {
                return Err(invalid(format!("`role.arn` is `{arn}`, which is no role's")));
            }
            if !names::is_session(session_name) {
                return Err(invalid(format!(
                    "`role.session_name` is `{session_name}`, and not 2 to 64 letters, digits \
                     and `+=,.@-_`"
                )));
            }
        }
        let push = self.push.as_ref();
        let addresses = [
            ("endpoint", self.endpoint.as_deref()),
            ("role.endpoint", role.and_then(|role| role.endpoint.as_deref())),
            ("push.endpoint", push.and_then(|push| push.endpoint.as_deref())),
            ("push.queue_url", push.map(|push| push.queue_url.as_str())),
        ];
        for (name, address) in addresses {
            if let Some(address) = address {
                check_address(name, address)?;
            }
        }
        Ok(AwsProvider::new(self))
    }
}

/// Values and credentials go over https, or stay on the machine.
fn check_address(name: &str, address: &str) -> Result<()> {
    let uri: Option<http::Uri> = address.parse().ok();
    // What stands before an `@` would be a password, so such an address is not repeated.
    let parts = uri.as_ref().and_then(|uri| Some((uri.scheme_str()?, uri.authority()?)));
    let Some((scheme, authority)) = parts.filter(|(_, at)| !at.as_str().contains('@')) else {
        return Err(invalid(format!("`{name}` is no URL of a scheme, a host and a path")));
    };
    match scheme {
        "https" => Ok(()),
        "http" if is_this_machine(authority.host()) => Ok(()),
        _ => Err(invalid(format!(
            "`{name}` is not https, and values would be sent in the clear beyond this machine"
        ))),
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

fn default_session() -> String {
    "oneiric".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_read() {
        let text = "region = 'eu-west-1'\nprofile = 'prod'\nprefix = 'team/'\ndescribe = true\n\
                    timeout = '3s'\nendpoint = 'http://[::1]:4566'\n\
                    [role]\narn = 'arn:aws:iam::1:role/r'\nexternal_id = 'x'\n\
                    [push]\nqueue_url = 'https://sqs.eu-west-1.amazonaws.com/1/q'\n\
                    [create.tags]\nteam = 'x'";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.timeout, Duration::from_secs(3));
        assert_eq!(config.role.as_ref().unwrap().session_name, "oneiric");
        assert_eq!((config.stage.as_str(), config.concurrency.get()), ("ONEIRIC", 8));
        config.build().unwrap();
        toml::from_str::<Config>("").unwrap().build().unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (section, part) in [
            ("role_arn = 'x'", "unknown field `role_arn`"),
            ("role.session_name = 'x'", "missing field `arn`"),
            ("concurrency = 0", "nonzero"),
        ] {
            let error = toml::from_str::<Config>(section).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        for (section, part) in [
            ("region = 'eu west'", "`region`"),
            ("timeout = '0s'", "`timeout`"),
            ("stage = 'AWSPENDING'", "`stage`"),
            ("stage = ''", "`stage`"),
            ("prefix = 'a b'", "`prefix`"),
            ("prefix = '../'", "`prefix`"),
            ("role.arn = 'r'", "`role.arn`"),
            (
                "role.arn = 'arn:aws:iam::1:role/r'\nrole.session_name = 'a b'",
                "`role.session_name`",
            ),
            ("endpoint = 'nowhere'", "`endpoint` is no URL"),
            ("endpoint = 'http://10.0.0.1'", "in the clear"),
            ("endpoint = 'http://localhost.evil'", "in the clear"),
            ("push.queue_url = 'q'", "`push.queue_url` is no URL"),
            ("push.queue_url = 'http://sqs.eu-west-1.amazonaws.com/1/q'", "in the clear"),
        ] {
            let config: Config = toml::from_str(section).unwrap();
            let error = config.build().unwrap_err().to_string();
            assert!(error.contains(part), "{section}: {error}");
        }
        let config: Config = toml::from_str("endpoint = 'https://user:canary@host'").unwrap();
        assert!(!config.build().unwrap_err().chain().contains("canary"));
    }
}
