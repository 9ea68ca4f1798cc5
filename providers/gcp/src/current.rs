//! Which version of a secret is current, as the settings say.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use futures_util::{FutureExt, StreamExt, stream};
use google_cloud_secretmanager_v1::model::secret_version::State;
use google_cloud_secretmanager_v1::model::{Secret, SecretVersion};
use oneiric_core::{Error, ErrorKind, Result};
use serde_json::Value;

use crate::api::{Api, Patience};
use crate::config::Current;
use crate::names::{self, SecretName};

/// From how many secrets on one list is cheaper than a look at each.
const WORTH_A_LIST: usize = 5;

impl Current {
    /// The number that the pointer of a secret names, if there is a pointer and it names one.
    pub(crate) fn pointed(&self, secret: &Secret) -> Option<u64> {
        match self {
            Self::Latest | Self::NewestEnabled => None,
            Self::Alias(name) => secret.version_aliases.get(name)?.to_owned().try_into().ok(),
            Self::Annotation(key) => secret.annotations.get(key)?.parse().ok(),
        }
    }

    /// The same from the JSON of an event. Numbers of aliases are texts there, but need not be.
    pub(crate) fn pointed_in(&self, secret: &Value) -> Option<u64> {
        let value = match self {
            Self::Latest | Self::NewestEnabled => return None,
            Self::Alias(name) => secret.get("versionAliases")?.get(name)?,
            Self::Annotation(key) => secret.get("annotations")?.get(key)?,
        };
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    fn no_pointer(&self, secret: &SecretName) -> Error {
        let what = match self {
            Self::Annotation(key) => format!("no annotation `{key}` with a number"),
            Self::Latest | Self::NewestEnabled => "no version".into(),
            Self::Alias(name) => format!("no alias `{name}`"),
        };
        Error::new(ErrorKind::NotFound, format!("`{secret}` has {what}, so none is current"))
    }
}

impl Api {
    /// The number of the current version, if it can be read. No value is read for it.
    pub(crate) async fn current(&self, secret: &SecretName, patience: Patience) -> Result<u64> {
        match &self.config.current {
            Current::Latest => {
                let version = self.version(secret, "latest", patience).await?;
                enabled(&version, &secret.version("latest"))
            }
            Current::NewestEnabled => match self.newest_enabled(secret, patience).await? {
                Some(version) => number_of(&version, &secret.to_string()),
                None => {
                    let message = format!("`{secret}` has no version that is enabled");
                    Err(Error::new(ErrorKind::VersionDisabled, message))
                }
            },
            pointer => {
                let found = self.secret(secret, patience).await?;
                pointer.pointed(&found).ok_or_else(|| pointer.no_pointer(secret))
            }
        }
    }

    /// The same for several. With a pointer one list shows all of them.
    pub(crate) async fn currents(
        &self,
        secrets: &[&SecretName],
        patience: Patience,
    ) -> Vec<Result<u64>> {
        if !self.config.current.is_pointer() || secrets.len() < WORTH_A_LIST {
            let mut each = Vec::with_capacity(secrets.len());
            for secret in secrets {
                each.push(self.current(secret, patience).boxed());
            }
            return stream::iter(each).buffered(self.concurrency()).collect().await;
        }
        let mut lists: HashMap<String, Result<HashMap<String, Secret>>> = HashMap::new();
        for secret in secrets {
            if let Entry::Vacant(entry) = lists.entry(secret.parent()) {
                let list = self.secrets(entry.key(), patience).await;
                entry.insert(list.map(|list| self.by_id(secret, list)));
            }
        }
        let look = |secret: &&SecretName| match &lists[&secret.parent()] {
            Err(error) => Err(error.clone()),
            Ok(list) => {
                let pointer = &self.config.current;
                let found = list.get(&secret.id).ok_or_else(|| {
                    Error::new(ErrorKind::NotFound, format!("there is no `{secret}`"))
                })?;
                pointer.pointed(found).ok_or_else(|| pointer.no_pointer(secret))
            }
        };
        secrets.iter().map(look).collect()
    }

    pub(crate) fn concurrency(&self) -> usize {
        usize::try_from(self.config.concurrency.get()).unwrap_or(usize::MAX)
    }

    fn by_id(&self, asked: &SecretName, list: Vec<Secret>) -> HashMap<String, Secret> {
        let pair = |secret: Secret| {
            let (name, _) = SecretName::parse(&secret.name)?;
            let asked = SecretName { id: name.id.clone(), ..asked.clone() };
            self.place.learn(&asked, &secret.name);
            Some((name.id, secret))
        };
        list.into_iter().filter_map(pair).collect()
    }
}

/// The number of a version.
pub(crate) fn number_of(version: &SecretVersion, of: &str) -> Result<u64> {
    names::number(&version.name).ok_or_else(|| {
        Error::new(ErrorKind::Invalid, format!("a version of `{of}` was answered without a number"))
    })
}

/// The number of a version that must be enabled.
pub(crate) fn enabled(version: &SecretVersion, asked: &str) -> Result<u64> {
    if version.state != State::Enabled {
        let message = format!("`{asked}` is disabled or destroyed");
        return Err(Error::new(ErrorKind::VersionDisabled, message));
    }
    number_of(version, asked)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pointer_is_a_number_or_nothing() {
        let alias: Current = "alias:current".parse().unwrap();
        let annotation: Current = "annotation:oneiric.current".parse().unwrap();
        let secret = Secret::new()
            .set_version_aliases([("current", 7_i64), ("bad", -1)])
            .set_annotations([("oneiric.current", "8"), ("bad", "eight")]);
        assert_eq!(alias.pointed(&secret), Some(7));
        assert_eq!(annotation.pointed(&secret), Some(8));
        for wrong in ["alias:bad", "alias:gone", "annotation:bad", "latest"] {
            assert_eq!(wrong.parse::<Current>().unwrap().pointed(&secret), None, "{wrong}");
        }
        for event in [
            json!({"versionAliases": {"current": "7"}, "annotations": {"oneiric.current": "7"}}),
            json!({"versionAliases": {"current": 7}, "annotations": {"oneiric.current": "7"}}),
        ] {
            assert_eq!(alias.pointed_in(&event), Some(7));
            assert_eq!(annotation.pointed_in(&event), Some(7));
        }
        assert_eq!(alias.pointed_in(&json!([])), None);
    }
}
