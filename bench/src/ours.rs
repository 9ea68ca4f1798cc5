//! Resolvers of ours, filled through the public interface.

use std::sync::Arc;

use async_trait::async_trait;
use oneiric_core::{
    Capabilities, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched, ProviderId,
    Result, SecretKey, SecretLister, SecretProvider, SecretRef, SecretValue, SecretWriter, Stamp,
    Version, fetch_each,
};
use oneiric_secrets::{Handle, Resolver, ResolverOptions};
use tokio::runtime::Runtime;

use crate::workload::{PROVIDER, TTL, key, value};

/// How many are fetched in one call while filling.
const BATCH: usize = 1024;

/// A resolver with secrets in it, and references to them that have been used.
#[derive(Debug)]
pub struct Filled {
    /// What its background work runs on.
    pub runtime: Runtime,
    /// The resolver.
    pub resolver: Resolver,
    /// References that remember where their secrets are, as those of a program do that keeps
    /// them.
    pub kept: Vec<SecretRef>,
    /// References that have never been used.
    pub fresh: Vec<SecretRef>,
}

/// A provider that answers at once and remembers nothing.
#[derive(Debug)]
struct Prompt(Descriptor);

impl Filled {
    /// So many secrets, read once each.
    pub fn with_references(entries: usize) -> Self {
        let (runtime, resolver) = empty(entries);
        let fresh: Vec<_> = (0..entries).map(reference).collect();
        let kept: Vec<_> = (0..entries).map(reference).collect();
        fill(&runtime, &resolver, entries);
        runtime.block_on(async {
            for reference in &kept {
                resolver.get(reference).await.expect("the provider answers");
            }
        });
        Self { runtime, resolver, kept, fresh }
    }

    /// So many secrets and no reference to them.
    pub fn without_references(entries: usize) -> Self {
        let (runtime, resolver) = empty(entries);
        fill(&runtime, &resolver, entries);
        Self { runtime, resolver, kept: Vec::new(), fresh: Vec::new() }
    }

    /// A handle for each secret that is referred to.
    pub fn handles(&self) -> Vec<Handle> {
        let handle = |reference| self.runtime.block_on(self.resolver.handle(reference));
        self.kept.iter().map(|reference| handle(reference).expect("it is there")).collect()
    }
}

/// A reference to the secret of this number.
pub fn reference(at: usize) -> SecretRef {
    SecretRef::new(provider_id(), secret_key(at))
}

/// Its key.
pub fn secret_key(at: usize) -> SecretKey {
    key(at).parse().expect("it is a key")
}

/// The id of the one provider.
pub fn provider_id() -> ProviderId {
    PROVIDER.parse().expect("it is an id")
}

/// What a provider of a cloud tells: the value, and a version of its own.
pub fn fetched(at: usize) -> Fetched {
    Fetched::new(SecretValue::from(value(at).as_slice()), Version::numbered(1))
}

/// Reads this many secrets that are not in the cache yet, in batches.
pub fn fill(runtime: &Runtime, resolver: &Resolver, entries: usize) {
    for first in (0..entries).step_by(BATCH) {
        let references: Vec<_> = (first..entries.min(first + BATCH)).map(reference).collect();
        let answers = runtime.block_on(resolver.get_many(&references));
        assert!(answers.iter().all(Result::is_ok), "the provider answers");
    }
}

fn empty(entries: usize) -> (Runtime, Resolver) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be built");
    let mut options = ResolverOptions::default();
    options.ttl = TTL;
    options.capacity = entries * 2;
    // What is measured is the cache, not how considerate it is.
    options.calls_at_once = 1 << 20;
    options.calls_a_second = 1 << 30;
    let descriptor = Descriptor::new("prompt", "prompt:", Capabilities::default());
    let provider: Arc<dyn SecretProvider> = Arc::new(Prompt(descriptor));
    let resolver = Resolver::new([(provider_id(), provider)], options);
    (runtime, resolver)
}

#[async_trait]
impl SecretProvider for Prompt {
    fn descriptor(&self) -> &Descriptor {
        &self.0
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let number = request.key.as_str().rsplit('-').next().and_then(|text| text.parse().ok());
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no `{}`", request.key));
        number.map(fetched).ok_or_else(missing)
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        fetch_each(self, requests).await
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        keys.iter().map(|_| Err(Error::new(ErrorKind::Unsupported, "there are none"))).collect()
    }

    fn changes(&self) -> Option<ChangeStream> {
        None
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        None
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::variant::at_once;

    #[test]
    fn what_is_filled_is_hit() {
        let filled = Filled::with_references(2000);
        for (at, (kept, fresh)) in filled.kept.iter().zip(&filled.fresh).enumerate() {
            let hit = filled.resolver.try_get(kept).expect("a kept reference finds it");
            assert_eq!(hit.value().expose(), value(at));
            let fresh = fresh.clone();
            assert!(at_once(pin!(filled.resolver.get(&fresh))).is_ok(), "so does a fresh one");
        }
    }
}
