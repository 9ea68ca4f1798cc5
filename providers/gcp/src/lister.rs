//! Which secrets there are, and which versions of each.

use std::collections::HashMap;
use std::time::SystemTime;

use async_trait::async_trait;
use google_cloud_secretmanager_v1::model::SecretVersion;
use google_cloud_secretmanager_v1::model::secret_version::State;
use oneiric_core::{
    ErrorKind, Result, SecretKey, SecretLister, Version, VersionInfo, VersionState,
};

use crate::api::Patience;
use crate::client::GcpProvider;
use crate::config::Current;
use crate::current::number_of;
use crate::names::{self, SecretName};

#[async_trait]
impl SecretLister for GcpProvider {
    /// The ids of the secrets of the configured project and location.
    async fn list(&self) -> Result<Vec<SecretKey>> {
        let place = &self.api.place;
        let parent = names::parent(&place.project, place.location.as_deref());
        let secrets = self.api.secrets(&parent, Patience::until(None)).await?;
        let key = |name: &str| SecretName::parse(name)?.0.id.parse().ok();
        let mut keys: Vec<SecretKey> =
            secrets.iter().filter_map(|secret| key(&secret.name)).collect();
        keys.sort();
        keys.dedup();
        Ok(keys)
    }

    /// Aliases are their labels. The list may lag behind what a read by number shows.
    async fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>> {
        let name = self.api.place.secret(key)?;
        let patience = Patience::until(None);
        let secret = self.api.secret(&name, patience).await?;
        let versions = self.api.versions(&name, patience).await?;
        let mut labels: HashMap<u64, Vec<String>> = HashMap::new();
        for (alias, number) in &secret.version_aliases {
            if let Ok(number) = u64::try_from(*number) {
                labels.entry(number).or_default().push(alias.clone());
            }
        }
        let infos: Result<Vec<(u64, VersionInfo)>> = versions
            .iter()
            .map(|version| {
                let number = number_of(version, &name.to_string())?;
                let mut info = VersionInfo::new(Version::numbered(number), state(version));
                info.labels = labels.remove(&number).unwrap_or_default();
                info.labels.sort();
                info.created = version.create_time.and_then(|time| SystemTime::try_from(time).ok());
                Ok((number, info))
            })
            .collect();
        let mut infos = infos?;
        infos.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        let readable = |info: &VersionInfo| info.state == VersionState::Enabled;
        let current = match &self.api.config.current {
            // While the newest is disabled, there is none.
            Current::Latest => {
                infos.first().filter(|(_, info)| readable(info)).map(|(number, _)| *number)
            }
            Current::NewestEnabled => {
                infos.iter().find(|(_, info)| readable(info)).map(|(number, _)| *number)
            }
            pointer => pointer.pointed(&secret),
        };
        for (number, info) in &mut infos {
            info.current = current == Some(*number);
        }
        Ok(infos.into_iter().map(|(_, info)| info).collect())
    }
}

fn state(version: &SecretVersion) -> VersionState {
    match version.state {
        State::Enabled => VersionState::Enabled,
        State::Destroyed => VersionState::Destroyed,
        // What it is not known to be, it cannot be relied on to be.
        _ => VersionState::Disabled,
    }
}

/// Whether an answer says that the thing is not there.
pub(crate) fn is_absent<T>(answer: &Result<T>) -> bool {
    answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}
