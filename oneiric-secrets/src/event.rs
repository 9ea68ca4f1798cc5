//! What a resolver tells those who listen.

use oneiric_core::{Error, ProviderId, SecretKey, Version};

use crate::resolver::Mode;

/// Something happened to cached secrets. Events carry names and versions, never values.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SecretEvent {
    /// Nothing of this that was fetched before is served as fresh any more
    /// (`secrets-cache-invalidated`).
    Invalidated {
        /// The provider.
        provider: ProviderId,
        /// The keys, or all of the provider's if `None`.
        keys: Option<Vec<SecretKey>>,
        /// Soft or hard.
        mode: Mode,
    },
    /// Another version is held than before.
    Changed {
        /// The provider.
        provider: ProviderId,
        /// The key.
        key: SecretKey,
        /// The version that is held now.
        version: Version,
    },
    /// A value was read and refused, and the last good one serves on.
    Refused {
        /// The provider.
        provider: ProviderId,
        /// The key.
        key: SecretKey,
        /// Why.
        error: Error,
    },
}
