//! What a resolver tells those who listen.

use oneiric_core::{AliasId, Error, ProviderId, SecretKey, Version};

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
    /// An alias is answered for by another of its candidates than before.
    Moved {
        /// The alias.
        alias: AliasId,
        /// The provider that answers now.
        provider: ProviderId,
        /// Whether it does so in the place of the first candidate.
        fallback: bool,
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
