//! The double as a store that can be written to.

use async_trait::async_trait;
use oneiric_core::{
    Error, ErrorKind, Result, SecretKey, SecretValue, SecretWriter, Version, VersionState,
};

use super::MemoryProvider;
use super::state::State;

impl MemoryProvider {
    /// One write: it is done at one moment, and its reply may be lost.
    async fn write<T>(
        &self,
        key: &SecretKey,
        write: impl FnOnce(&mut State) -> Result<T> + Send,
    ) -> Result<T> {
        let (written, lost) = {
            let mut state = self.state();
            state.check_up(key)?;
            (write(&mut state), state.loses_reply())
        };
        self.wait_as_played().await;
        if lost {
            let message = format!("what became of the write to `{key}` is not known");
            return Err(Error::new(ErrorKind::Ambiguous, message));
        }
        written
    }
}

#[async_trait]
impl SecretWriter for MemoryProvider {
    /// Does nothing: the first version makes the secret.
    async fn create_secret(&self, key: &SecretKey) -> Result<()> {
        self.write(key, |_| Ok(())).await
    }

    async fn create_version(
        &self,
        key: &SecretKey,
        value: &SecretValue,
        token: &str,
    ) -> Result<Version> {
        let most = self.descriptor.capabilities.max_value;
        if most.is_some_and(|most| value.expose().len() as u64 > most) {
            return Err(Error::new(ErrorKind::Invalid, format!("`{key}` would be too large")));
        }
        self.write(key, |state| state.create(key, value, token)).await
    }

    async fn promote(&self, key: &SecretKey, version: &str, expected: Option<&str>) -> Result<()> {
        self.write(key, |state| state.promote(key, version, expected)).await
    }

    async fn disable(&self, key: &SecretKey, version: &str) -> Result<()> {
        self.write(key, |state| state.set_state(key, version, VersionState::Disabled)).await
    }

    async fn enable(&self, key: &SecretKey, version: &str) -> Result<()> {
        self.write(key, |state| state.set_state(key, version, VersionState::Enabled)).await
    }

    async fn destroy(&self, key: &SecretKey, version: &str) -> Result<()> {
        self.write(key, |state| state.set_state(key, version, VersionState::Destroyed)).await
    }
}
