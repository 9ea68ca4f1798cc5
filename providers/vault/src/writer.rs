//! Writing: each step can be repeated, and a version is added only after the one that we saw.

use async_trait::async_trait;
use oneiric_core::{
    Error, ErrorKind, Result, SecretKey, SecretValue, SecretWriter, Version, VersionState,
};
use serde_json::value::RawValue;

use crate::api::{Turn, or_default, readable};
use crate::attempts;
use crate::client::VaultProvider;
use crate::error::about;
use crate::kv::{self, Metadata};
use crate::payload;

#[async_trait]
impl SecretWriter for VaultProvider {
    /// The first version makes the secret.
    async fn create_secret(&self, key: &SecretKey) -> Result<()> {
        kv::key_segments(key).map(drop)
    }

    /// `Conflict` if somebody else adds a version at the same time; the same attempt may be made
    /// again.
    async fn create_version(
        &self,
        key: &SecretKey,
        value: &SecretValue,
        token: &str,
    ) -> Result<Version> {
        let object = payload::object(value, &self.api.config.value_key, &self.api.name(key))?;
        let metadata = or_default(self.api.metadata(key, None).await)?;
        let base = match attempts::base(&metadata, token) {
            Some(base) => {
                if let Some(number) = self.made_before(key, &metadata, base, &object).await? {
                    return Ok(Version::numbered(number));
                }
                base
            }
            None => {
                self.note(key, &metadata, token).await?;
                metadata.current_version
            }
        };
        match self.api.add(key, &object, metadata.current_version).await {
            Ok(number) => Ok(Version::numbered(number)),
            // That another version came first looks like any other malformed request.
            Err(error) if error.kind() == ErrorKind::Invalid => {
                let now = or_default(self.api.metadata(key, None).await)?;
                if now.current_version == metadata.current_version {
                    return Err(error);
                }
                // It may be our own, of an attempt that was broken off.
                match self.made_before(key, &now, base, &object).await? {
                    Some(number) => Ok(Version::numbered(number)),
                    None => Err(about(ErrorKind::Conflict, &self.api.name(key))),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The newest version is current, and no other can be made so.
    async fn promote(&self, key: &SecretKey, version: &str, expected: Option<&str>) -> Result<()> {
        let (what, number) = (self.named(key, version), kv::number(version)?);
        let metadata = self.api.metadata(key, None).await?;
        readable(metadata.version(number), &what)?;
        let current = metadata.current_version;
        if number == current {
            return Ok(());
        }
        if expected.map(kv::number).transpose()? != Some(current) {
            let expected = expected.map_or("none".into(), |expected| format!("version {expected}"));
            let name = self.api.name(key);
            let message = format!("version {current} of `{name}` is current, and not {expected}");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let message = format!(
            "`{what}` is not the newest version, and only the newest is current; to go back to \
             its value, add that as a new version"
        );
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    async fn disable(&self, key: &SecretKey, version: &str) -> Result<()> {
        self.turn(key, version, Turn::Disable).await
    }

    async fn enable(&self, key: &SecretKey, version: &str) -> Result<()> {
        self.turn(key, version, Turn::Enable).await
    }

    async fn destroy(&self, key: &SecretKey, version: &str) -> Result<()> {
        self.turn(key, version, Turn::Destroy).await
    }
}

impl VaultProvider {
    /// Notes that an attempt begins.
    async fn note(&self, key: &SecretKey, metadata: &Metadata, token: &str) -> Result<()> {
        match self.api.annotate(key, &attempts::note(metadata, token)).await {
            // No version was added, so nothing is open.
            Err(error) if error.kind() == ErrorKind::Ambiguous => {
                let message = format!("an attempt at `{}` cannot be noted", self.api.name(key));
                Err(Error::with_source(ErrorKind::Unavailable, message, error))
            }
            noted => noted,
        }
    }

    /// The version that an earlier attempt made: the first after `base` that has this value.
    async fn made_before(
        &self,
        key: &SecretKey,
        metadata: &Metadata,
        base: u64,
        object: &RawValue,
    ) -> Result<Option<u64>> {
        for (number, about) in metadata.newest_first().into_iter().rev() {
            // Whose value cannot be seen is not the one.
            if number <= base || about.state() != VersionState::Enabled {
                continue;
            }
            let same = |held: &RawValue, _: &kv::About| Ok(payload::same(held, object));
            match self.api.version(key, Some(&number.to_string()), None, same).await {
                Ok(true) => return Ok(Some(number)),
                Ok(false) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::VersionDisabled) => {
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The engine takes any number, so what there is to change is looked at first.
    async fn turn(&self, key: &SecretKey, version: &str, turn: Turn) -> Result<()> {
        let (what, number) = (self.named(key, version), kv::number(version)?);
        let metadata = self.api.metadata(key, None).await?;
        let state = metadata.version(number).map(kv::About::state);
        match (turn, state) {
            (_, None) => Err(about(ErrorKind::NotFound, &what)),
            (Turn::Disable, Some(VersionState::Disabled))
            | (Turn::Enable, Some(VersionState::Enabled))
            | (Turn::Destroy, Some(VersionState::Destroyed)) => Ok(()),
            (_, Some(VersionState::Destroyed)) => Err(about(ErrorKind::VersionDisabled, &what)),
            _ => self.api.turn(key, number, turn).await,
        }
    }

    fn named(&self, key: &SecretKey, version: &str) -> String {
        format!("{}@{version}", self.api.name(key))
    }
}
