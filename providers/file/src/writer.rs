//! The provider as a store that can be written to, where its settings allow it.

use async_trait::async_trait;
use oneiric_core::{
    Error, ErrorKind, Result, SecretKey, SecretValue, SecretWriter, Version, VersionState,
};
use zeroize::Zeroizing;

use crate::client::{FileProvider, Tree};
use crate::content;
use crate::error::refused;
use crate::store::Store;
use crate::tree::relative;

impl FileProvider {
    async fn write<T: Send + 'static>(
        &self,
        key: &SecretKey,
        write: impl FnOnce(&Tree, &Store, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let key = key.clone();
        let work = move |tree: &Tree| write(tree, tree.store()?, relative(&key)?);
        self.blocking(None, work).await?
    }
}

#[async_trait]
impl SecretWriter for FileProvider {
    /// Does nothing: the first version makes the secret.
    async fn create_secret(&self, key: &SecretKey) -> Result<()> {
        relative(key).map(drop)
    }

    async fn create_version(
        &self,
        key: &SecretKey,
        value: &SecretValue,
        token: &str,
    ) -> Result<Version> {
        let (value, token) = (value.clone(), token.to_owned());
        self.write(key, move |tree, store, key| {
            tree.check_readable(key, &value)?;
            store.create(key, &value, &token)
        })
        .await
    }

    async fn promote(&self, key: &SecretKey, version: &str, expected: Option<&str>) -> Result<()> {
        let (version, expected) = (version.to_owned(), expected.map(str::to_owned));
        self.write(key, move |_, store, key| store.promote(key, &version, expected.as_deref()))
            .await
    }

    async fn disable(&self, key: &SecretKey, version: &str) -> Result<()> {
        let version = version.to_owned();
        let state = VersionState::Disabled;
        self.write(key, move |_, store, key| store.switch(key, &version, state)).await
    }

    async fn enable(&self, key: &SecretKey, version: &str) -> Result<()> {
        let version = version.to_owned();
        let state = VersionState::Enabled;
        self.write(key, move |_, store, key| store.switch(key, &version, state)).await
    }

    async fn destroy(&self, key: &SecretKey, version: &str) -> Result<()> {
        let version = version.to_owned();
        self.write(key, move |_, store, key| store.destroy(key, &version)).await
    }
}

impl Tree {
    fn store(&self) -> Result<&Store> {
        let off = || Error::new(ErrorKind::Unsupported, "`write` of this file provider is off");
        self.store.as_ref().ok_or_else(off)
    }

    /// Refuses what could not be read again, or not as it is.
    fn check_readable(&self, key: &str, value: &SecretValue) -> Result<()> {
        let path = self.config.path.join(key);
        let (most, bytes) = (self.config.max_bytes, value.expose());
        if bytes.len() as u64 > most {
            let what = format!("would be larger than {most} bytes, the most that is read");
            return Err(refused(ErrorKind::Invalid, &path, &what));
        }
        let read = content::value(&self.config, &path, Zeroizing::new(bytes.to_vec()))?;
        if content::is_plain(&self.config, &path) && !read.same_as(value) {
            let what = "would be read without the line end at its end (`keep_newline`)";
            return Err(refused(ErrorKind::Invalid, &path, what));
        }
        Ok(())
    }
}
