//! What the author of a provider brings along to be tested.

use std::sync::Arc;

use async_trait::async_trait;
use oneiric_core::{Result, SecretKey, SecretProvider, SecretValue};

/// A store that the suite may change, and the provider that is tested on it.
#[async_trait]
pub trait Rig: Send + Sync {
    /// A provider of the store. It is asked for once per run.
    fn provider(&self) -> Arc<dyn SecretProvider>;

    /// Sets secrets, all at one moment if the provider declares snapshots. When it returns, the
    /// provider can see them.
    ///
    /// # Errors
    /// `Invalid` if the store does not take such a value, so that there is nothing to test; any
    /// other kind is a failure of the case.
    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<()>;

    /// Takes a secret away.
    ///
    /// # Errors
    /// Any is a failure of the case.
    async fn remove(&self, key: &SecretKey) -> Result<()>;

    /// Makes the store unreachable for the provider, or reachable again. False if it cannot be.
    async fn outage(&self, on: bool) -> bool;
}
