//! Which secrets there are, and which versions of each.

use async_trait::async_trait;
use oneiric_core::{
    Error, ErrorKind, Result, SecretKey, SecretLister, Version, VersionInfo, VersionState,
};

use crate::client::VaultProvider;
use crate::config::Kv;

#[async_trait]
impl SecretLister for VaultProvider {
    /// Folder by folder, with one call for each. What no key can name is passed over.
    async fn list(&self) -> Result<Vec<SecretKey>> {
        let mut keys = Vec::new();
        let mut folders = vec![Vec::new()];
        while let Some(folder) = folders.pop() {
            for name in self.api.folder(&folder).await? {
                let mut path = folder.clone();
                match name.strip_suffix('/') {
                    Some(name) => {
                        path.push(name.to_owned());
                        folders.push(path);
                    }
                    None => {
                        path.push(name);
                        keys.extend(path.join("/").parse::<SecretKey>());
                    }
                }
            }
        }
        keys.sort();
        keys.dedup();
        Ok(keys)
    }

    /// As many as the mount keeps.
    async fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>> {
        if self.api.config.kv == Kv::V1 {
            let message = format!("KV version 1 has no versions of `{}`", self.api.name(key));
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let metadata = self.api.metadata(key, None).await?;
        let info = |(number, about): (u64, &crate::kv::About)| {
            let mut info = VersionInfo::new(Version::numbered(number), about.state());
            // While the newest is deleted, there is none.
            let enabled = info.state == VersionState::Enabled;
            info.current = number == metadata.current_version && enabled;
            info.created = about.created();
            info
        };
        Ok(metadata.newest_first().into_iter().map(info).collect())
    }
}
