//! Which secrets there are, and which versions of each.

use std::cmp::Reverse;

use async_trait::async_trait;
use oneiric_core::{Result, SecretKey, SecretLister, Version, VersionInfo, VersionState};

use crate::api::{Patience, time, version};
use crate::client::AwsProvider;
use crate::names::{self, CURRENT, PENDING};

#[async_trait]
impl SecretLister for AwsProvider {
    /// The names of the secrets of the account and region that begin with the configured prefix.
    /// Those that are marked for deletion are not listed.
    async fn list(&self) -> Result<Vec<SecretKey>> {
        let (mut keys, mut token) = (Vec::new(), None);
        loop {
            let (entries, next) = self.api.page(token, Patience::until(None)).await?;
            let there = entries.iter().filter(|entry| !entry.is_deleted);
            keys.extend(there.filter_map(|entry| entry.name.parse::<SecretKey>().ok()));
            match next {
                Some(next) => token = Some(next),
                None => break,
            }
        }
        keys.sort();
        keys.dedup();
        Ok(keys)
    }

    /// Labels are their labels. A version that a rotation has begun with is listed as disabled,
    /// since it is not served.
    async fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>> {
        let id = names::secret_id(key)?;
        let mut infos = Vec::new();
        for entry in self.api.versions(id).await? {
            let version = Version::opaque(version(entry.version_id, id)?);
            let mut labels = entry.version_stages.unwrap_or_default();
            labels.sort();
            let bears = |label: &str| labels.iter().any(|of| of == label);
            let state = match bears(PENDING) && !bears(CURRENT) {
                true => VersionState::Disabled,
                false => VersionState::Enabled,
            };
            let mut info = VersionInfo::new(version, state);
            info.current = bears(CURRENT);
            info.labels = labels;
            info.created = entry.created_date.and_then(time);
            infos.push(info);
        }
        sort(&mut infos);
        Ok(infos)
    }
}

/// The newest first. Of those that were made within one second the current one is the newest, and
/// of the others those that are listed later, as far as anybody knows.
fn sort(infos: &mut [VersionInfo]) {
    infos.reverse();
    infos.sort_by_key(|info| Reverse((info.created, info.current)));
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn the_newest_is_first_also_within_one_second() {
        let info = |id: &str, second, current| {
            let mut info = VersionInfo::new(Version::opaque(id), VersionState::Enabled);
            info.created = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
            info.current = current;
            info
        };
        let mut infos =
            [info("a", 1, false), info("d", 2, true), info("b", 2, false), info("c", 2, false)];
        sort(&mut infos);
        let ids: Vec<_> = infos.iter().map(|info| info.version.id()).collect();
        assert_eq!(ids, ["d", "c", "b", "a"]);
    }
}
