//! The double as a store that plays every fault.

use std::sync::Arc;

use async_trait::async_trait;
use oneiric_core::{Capabilities, Change, Result, SecretKey, SecretProvider, SecretValue, Version};
use oneiric_testkit::{Ability, Fault, MemoryProvider, Rig};

/// All that a provider can declare.
pub(crate) const EVERYTHING: Capabilities = Capabilities {
    versions: true,
    stamps: true,
    push: true,
    snapshots: true,
    binary: true,
    max_value: Some(64 * 1024),
    batch: None,
};

pub(crate) struct MemoryRig {
    pub(crate) store: Arc<MemoryProvider>,
    pub(crate) provider: Arc<dyn SecretProvider>,
}

#[async_trait]
impl Rig for MemoryRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        Arc::clone(&self.provider)
    }

    fn stages(&self) -> bool {
        true
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        let pairs = secrets.iter().map(|(key, value)| (key.as_str(), value.clone()));
        let numbers = self.store.put_all(pairs);
        for ((key, _), &number) in secrets.iter().zip(&numbers) {
            let version = Some(Version::numbered(number));
            self.store.announce(Change::Secret { key: key.clone(), version });
        }
        Ok(numbers.iter().map(u64::to_string).collect())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        self.store.remove(key.as_str());
        Ok(())
    }

    async fn fault(&self, fault: Fault) -> Ability {
        self.store.play(fault);
        Ability::Done
    }

    async fn mend(&self) -> Result<()> {
        self.store.mend();
        Ok(())
    }
}

/// The same store with a rig that does less than it could.
pub(crate) struct LazyRig {
    pub(crate) rig: MemoryRig,
    pub(crate) names_versions: bool,
    pub(crate) plays: fn(&Fault) -> bool,
}

#[async_trait]
impl Rig for LazyRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        self.rig.provider()
    }

    fn stages(&self) -> bool {
        self.rig.stages()
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        let versions = self.rig.put(secrets).await?;
        Ok(if self.names_versions { versions } else { Vec::new() })
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        self.rig.remove(key).await
    }

    async fn fault(&self, fault: Fault) -> Ability {
        if (self.plays)(&fault) {
            self.rig.fault(fault).await
        } else {
            Ability::cannot("it is too lazy")
        }
    }

    async fn mend(&self) -> Result<()> {
        self.rig.mend().await
    }
}
