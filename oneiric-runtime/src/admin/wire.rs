//! What goes over the wire besides the reports.

use std::time::Duration;

use bytes::Bytes;
use oneiric_core::{ProviderId, RotationId, SecretKey, SecretRef};
use oneiric_secrets::{Mode, Scope, SecretEvent};
use serde::{Deserialize, Serialize};

use crate::runtime::{RotateRequest, new_rotation_id};

/// The header that no forged request has, and its value.
pub(super) const REQUEST_HEADER: (&str, &str) = ("x-oneiric-request", "1");
/// How long users of an old generation may be given at most.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
const MODES: [Mode; 3] = [Mode::Soft, Mode::Hard, Mode::Rollback];

/// The body of `POST /v1/rotate`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateBody {
    rotation_id: Option<RotationId>,
    provider: Option<ProviderId>,
    keys: Option<Vec<String>>,
    /// References, of any providers, and aliases.
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets: Option<Vec<SecretRef>>,
    #[serde(default)]
    all: bool,
    mode: Option<String>,
    timeout_ms: Option<u64>,
}

impl RotateBody {
    /// What is asked for, or one sentence about what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<RotateRequest, String> {
        let body: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("the body is not a request to rotate: {error}"))?;
        let scope = match (body.provider, body.keys, body.all) {
            (None, None, false) if body.secrets.is_some() => parse_secrets(body.secrets)?,
            _ if body.secrets.is_some() => {
                return Err("`secrets` stands alone, without `provider`, `keys` and `all`".into());
            }
            (_, Some(_), true) => return Err("`keys` and `all` exclude each other".into()),
            (_, None, false) => return Err("either `keys` or `all` is needed".into()),
            (None, Some(_), false) => return Err("`keys` needs a `provider`".into()),
            (None, None, true) => Scope::All,
            (Some(provider), None, true) => Scope::Provider(provider),
            (Some(provider), Some(keys), false) => Scope::Keys(provider, parse_keys(&keys)?),
        };
        let mode = match body.mode.as_deref() {
            None => Mode::Soft,
            Some(token) => MODES
                .into_iter()
                .find(|mode| mode.token() == token)
                .ok_or_else(|| "`mode` is none of soft, hard, rollback".to_owned())?,
        };
        let drain_timeout = body.timeout_ms.map(Duration::from_millis);
        if drain_timeout.is_some_and(|timeout| timeout > LONGEST_TIMEOUT) {
            return Err("`timeout_ms` is more than a day".into());
        }
        let rotation = body.rotation_id.unwrap_or_else(new_rotation_id);
        Ok(RotateRequest { rotation, scope, mode, drain_timeout })
    }
}

impl From<&RotateRequest> for RotateBody {
    fn from(request: &RotateRequest) -> Self {
        let (provider, keys, secrets) = match &request.scope {
            Scope::All => (None, None, None),
            Scope::Provider(provider) => (Some(provider.clone()), None, None),
            Scope::Keys(provider, keys) => (Some(provider.clone()), Some(names(keys)), None),
            Scope::Secrets(references) => (None, None, Some(references.clone())),
        };
        let millis = |timeout: Duration| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Self {
            rotation_id: Some(request.rotation.clone()),
            all: keys.is_none() && secrets.is_none(),
            provider,
            keys,
            secrets,
            mode: Some(request.mode.token().to_owned()),
            timeout_ms: request.drain_timeout.map(millis),
        }
    }
}

/// What happened to cached secrets: one line of `GET /v1/events`. Names and versions, never
/// values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event")]
#[non_exhaustive]
pub enum WatchEvent {
    /// Nothing of this that was fetched before is served as fresh any more.
    #[serde(rename = "secrets-cache-invalidated")]
    Invalidated {
        /// The provider.
        provider: ProviderId,
        /// The keys, or all of the provider's if `None`.
        keys: Option<Vec<String>>,
        /// `soft`, `hard` or `rollback`.
        mode: String,
    },
    /// Another version is held than before.
    #[serde(rename = "secret-changed")]
    Changed {
        /// The provider.
        provider: ProviderId,
        /// The key.
        key: String,
        /// The version that is held now.
        version: String,
    },
    /// A value was read and refused, and the last good one serves on.
    #[serde(rename = "secret-refused")]
    Refused {
        /// The provider.
        provider: ProviderId,
        /// The key.
        key: String,
        /// Why.
        error: String,
    },
    /// The listener was too slow, and this many events are lost to it.
    #[serde(rename = "lagged")]
    Lagged {
        /// How many.
        missed: u64,
    },
}

impl WatchEvent {
    /// The same event for the wire, or `None` for a kind that it has no word for yet.
    pub(super) fn new(event: SecretEvent) -> Option<Self> {
        Some(match event {
            SecretEvent::Invalidated { provider, keys, mode } => Self::Invalidated {
                provider,
                keys: keys.as_deref().map(names),
                mode: mode.token().to_owned(),
            },
            SecretEvent::Changed { provider, key, version } => Self::Changed {
                provider,
                key: key.as_str().to_owned(),
                version: version.to_string(),
            },
            SecretEvent::Refused { provider, key, error } => {
                Self::Refused { provider, key: key.as_str().to_owned(), error: error.chain() }
            }
            _ => return None,
        })
    }
}

/// One line of `application/x-ndjson`.
pub(super) fn line(item: &impl Serialize) -> serde_json::Result<Bytes> {
    let mut line = serde_json::to_vec(item)?;
    line.push(b'\n');
    Ok(line.into())
}

fn parse_keys(keys: &[String]) -> Result<Vec<SecretKey>, String> {
    if keys.is_empty() {
        return Err("`keys` is empty; `all` means all".into());
    }
    keys.iter().map(|key| key.parse().map_err(|error| format!("`keys`: {error}"))).collect()
}

fn parse_secrets(references: Option<Vec<SecretRef>>) -> Result<Scope, String> {
    match references {
        Some(references) if !references.is_empty() => Ok(Scope::Secrets(references)),
        _ => Err("`secrets` is empty; `all` means all".into()),
    }
}

fn names(keys: &[SecretKey]) -> Vec<String> {
    keys.iter().map(|key| key.as_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use oneiric_core::telemetry::event;
    use oneiric_core::{Error, ErrorKind, Version};

    use super::*;

    #[test]
    fn a_request_survives_the_wire() {
        let provider: ProviderId = "files".parse().unwrap();
        let keys = vec!["a".parse().unwrap(), "b/c".parse().unwrap()];
        let secrets = ["db-password", "aws:db"].map(|text| text.parse().unwrap()).to_vec();
        for scope in [
            Scope::All,
            Scope::Provider(provider.clone()),
            Scope::Keys(provider, keys),
            Scope::Secrets(secrets),
        ] {
            for mode in MODES {
                let mut request = RotateRequest::new(scope.clone());
                request.mode = mode;
                request.drain_timeout = Some(Duration::from_millis(1500));
                let bytes = serde_json::to_vec(&RotateBody::from(&request)).unwrap();
                let parsed = RotateBody::parse(&bytes).unwrap();
                assert_eq!(parsed.rotation, request.rotation);
                assert_eq!(parsed.scope, request.scope);
                assert_eq!(parsed.mode, request.mode);
                assert_eq!(parsed.drain_timeout, request.drain_timeout);
            }
        }
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let request = RotateBody::parse(br#"{"all":true}"#).unwrap();
        assert_eq!((request.scope, request.mode), (Scope::All, Mode::Soft));
        assert_eq!(request.drain_timeout, None);
    }

    #[test]
    fn a_refusal_says_what_is_wrong() {
        for (body, why) in [
            ("", "not a request to rotate"),
            ("[]", "not a request to rotate"),
            ("{}", "either `keys` or `all`"),
            (r#"{"provider":"files"}"#, "either `keys` or `all`"),
            (r#"{"keys":["a"],"all":true}"#, "exclude each other"),
            (r#"{"keys":["a"]}"#, "needs a `provider`"),
            (r#"{"provider":"files","keys":[]}"#, "`keys` is empty"),
            (r#"{"provider":"files","keys":[""]}"#, "`keys`: secret key"),
            (r#"{"provider":"FILES","all":true}"#, "provider id"),
            (r#"{"secrets":[]}"#, "`secrets` is empty"),
            (r#"{"secrets":["a"],"all":true}"#, "`secrets` stands alone"),
            (r#"{"secrets":["A"]}"#, "alias"),
            (r#"{"all":true,"mode":"gentle"}"#, "none of soft, hard, rollback"),
            (r#"{"all":true,"timeout_ms":-1}"#, "expected u64"),
            (r#"{"all":true,"timeout_ms":86400001}"#, "more than a day"),
            (r#"{"all":true,"force":true}"#, "unknown field `force`"),
            (r#"{"all":true,"rotation_id":"a b"}"#, "rotation id"),
        ] {
            let error = RotateBody::parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{body}: {error}");
        }
    }

    #[test]
    fn events_are_lines_with_names_and_versions() {
        let provider: ProviderId = "files".parse().unwrap();
        let key: SecretKey = "db".parse().unwrap();
        let invalidated = SecretEvent::Invalidated {
            provider: provider.clone(),
            keys: Some(vec![key.clone()]),
            mode: Mode::Hard,
        };
        let (of, at) = (provider.clone(), key.clone());
        let changed = SecretEvent::Changed { provider: of, key: at, version: Version::numbered(7) };
        let error = Error::new(ErrorKind::Invalid, "it is a placeholder");
        let refused = SecretEvent::Refused { provider, key, error };
        for (event, expected) in [
            (
                invalidated,
                format!(
                    r#"{{"event":"{}","provider":"files","keys":["db"],"mode":"hard"}}"#,
                    event::CACHE_INVALIDATED
                ),
            ),
            (
                changed,
                r#"{"event":"secret-changed","provider":"files","key":"db","version":"7"}"#.into(),
            ),
            (
                refused,
                r#"{"event":"secret-refused","provider":"files","key":"db","error":"it is a placeholder"}"#
                    .into(),
            ),
        ] {
            let line = line(&WatchEvent::new(event).unwrap()).unwrap();
            assert_eq!(line, expected + "\n");
        }
        let lagged = line(&WatchEvent::Lagged { missed: 3 }).unwrap();
        assert_eq!(lagged, "{\"event\":\"lagged\",\"missed\":3}\n");
    }
}
