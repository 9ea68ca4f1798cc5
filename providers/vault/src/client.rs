//! The provider: what is asked of it, put into calls of the key-value engine.

use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, stream};
use oneiric_core::{
    Capabilities, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched, Result,
    SecretKey, SecretLister, SecretProvider, SecretWriter, Stamp, Version,
};
use reqwest::Url;
use tokio::time::Instant;

use crate::api::{Api, readable};
use crate::config::{Config, Engine, Kv};
use crate::error::{Call, Seen, about, failed};
use crate::kv::{self, Raw};
use crate::leases::Leases;
use crate::payload::{self, MAX_BYTES};

/// The key of the hashes that tell values of KV version 1 apart. It is drawn once per process and
/// never leaves it, so that a hash says nothing to anybody who tries out values.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A [`SecretProvider`] over one mount of a key-value engine, or of one that leases credentials;
/// [`Config::build`] makes one.
///
/// # Keys
/// The path of a secret in the mount, without slashes at its ends.
///
/// # Values
/// A secret is a JSON object, and so is its value; but one whose only entry is called `value` and
/// is text is that text ([`Config::value_key`]).
///
/// # Versions
/// Of KV version 2 they are numbers, and the newest is current; while it is deleted, there is
/// none. Of KV version 1 there is only what is there now; its id is a hash with a random key of
/// this process, equal as long as the value is.
///
/// # Stamps
/// Of KV version 2: the number and the time of the current version, from the metadata. KV version
/// 1 has none, since nothing but the value tells a change.
///
/// # Leases
/// A key is the path that is read to get one, and the value is the JSON object of the credential.
/// The version is the last part of the lease's id. One lease of each key is current, whoever asks;
/// [`changes`](SecretProvider::changes) tells when it has a successor, and an answer carries when
/// it ends. [`release`](SecretProvider::release) revokes all of them.
///
/// # Writing
/// KV version 2 alone. A version is added only if the one that we have looked at is still the
/// newest, and is current at once; an older one cannot be promoted.
#[derive(Debug)]
pub struct VaultProvider {
    descriptor: Descriptor,
    pub(crate) api: Arc<Api>,
    /// Where the engine is one of leases.
    leases: Option<Arc<Leases>>,
}

impl VaultProvider {
    /// There is at least one address.
    pub(crate) fn new(config: Config, urls: Vec<Url>) -> Self {
        let leased = config.engine == Engine::Leases;
        let v2 = !leased && config.kv == Kv::V2;
        let capabilities = Capabilities {
            versions: v2,
            stamps: v2 || leased,
            push: leased,
            snapshots: false,
            binary: false,
            max_value: u64::try_from(MAX_BYTES).ok(),
            batch: Some(NonZeroU32::MIN),
        };
        let base = urls[0].as_str().trim_end_matches('/');
        let namespace =
            config.namespace.as_deref().map(|name| format!("{name}/")).unwrap_or_default();
        let uri = format!("{base}/v1/{namespace}{}", config.mount);
        // One secret a call, no quota that we know of, and for nothing.
        let descriptor = Descriptor::new("vault", uri, capabilities);
        let overlap = config.lease_overlap;
        let api = Arc::new(Api::new(config, urls));
        let leases = leased.then(|| Leases::new(Arc::clone(&api), overlap));
        Self { descriptor, api, leases }
    }

    async fn fetch_v1(&self, request: &FetchRequest) -> Result<Fetched> {
        let what = self.api.name(&request.key);
        if request.version.is_some() {
            let message = format!("KV version 1 has no versions: `{what}` cannot be pinned");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let reply = self.api.read(&request.key, request.deadline).await?;
        let raw = reply.read::<Raw<'_>>();
        let raw = raw.ok_or_else(|| failed(Seen::Garbled, Call::Read, &what, &[]))?;
        let value = payload::value(raw.data, &self.api.config.value_key, &what)?;
        let hash = HASHER.hash_one(value.expose());
        Ok(Fetched::new(value, Version::opaque(format!("{hash:016x}"))))
    }

    async fn fetch_v2(&self, request: &FetchRequest) -> Result<Fetched> {
        let FetchRequest { key, version, deadline, .. } = request;
        let version = version.as_deref();
        let number = version.map(kv::number).transpose()?;
        if let Some(known) = &request.if_none_match
            && self.is_still(key, number, known, *deadline).await?
        {
            let message = format!("`{}` has not changed", self.api.name(key));
            return Err(Error::new(ErrorKind::NotModified, message));
        }
        let what = self.api.name(key);
        let take = |object: &_, about: &kv::About| {
            let value = payload::value(object, &self.api.config.value_key, &what)?;
            let mut fetched = Fetched::new(value, Version::numbered(about.version));
            fetched.stamp = Some(about.stamp(about.version));
            fetched.expires_at = about.ends();
            Ok(fetched)
        };
        self.api.version(key, version, *deadline, take).await
    }

    /// Whether the version is the one that is known, and may still be read. Who may read a value
    /// need not have the right to look at its metadata; then the value is read.
    async fn is_still(
        &self,
        key: &SecretKey,
        number: Option<u64>,
        known: &Stamp,
        deadline: Option<Instant>,
    ) -> Result<bool> {
        match self.look(key, number, deadline).await {
            Err(error) if error.kind() == ErrorKind::Denied => Ok(false),
            found => Ok(found? == *known),
        }
    }

    /// The stamp of a version that may be read, of the current one if none is named.
    async fn look(
        &self,
        key: &SecretKey,
        number: Option<u64>,
        deadline: Option<Instant>,
    ) -> Result<Stamp> {
        let metadata = self.api.metadata(key, deadline).await?;
        let number = number.unwrap_or(metadata.current_version);
        let found = metadata.version(number);
        let what = self.api.name(key);
        readable(found, &what)?;
        found.map(|found| found.stamp(number)).ok_or_else(|| about(ErrorKind::NotFound, &what))
    }
}

#[async_trait]
impl SecretProvider for VaultProvider {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        match (&self.leases, self.api.config.kv) {
            (Some(leases), _) => leases.fetch(request).await,
            (None, Kv::V1) => self.fetch_v1(request).await,
            (None, Kv::V2) => self.fetch_v2(request).await,
        }
    }

    /// The engine has no batches, so several are read at a time.
    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        let answers: Vec<_> = requests.iter().map(|request| self.fetch(request).boxed()).collect();
        stream::iter(answers).buffered(self.concurrency()).collect().await
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        if let Some(leases) = &self.leases {
            let answers: Vec<_> = keys.iter().map(|key| leases.stamp(key).boxed()).collect();
            return stream::iter(answers).buffered(self.concurrency()).collect().await;
        }
        if self.api.config.kv == Kv::V1 {
            let message = "KV version 1 says nothing of a secret but its value";
            let none = Error::new(ErrorKind::Unsupported, message);
            return keys.iter().map(|_| Err(none.clone())).collect();
        }
        let answers: Vec<_> = keys.iter().map(|key| self.look(key, None, None).boxed()).collect();
        stream::iter(answers).buffered(self.concurrency()).collect().await
    }

    /// Of leases alone: what has a successor is told by us, since the server tells of nothing.
    fn changes(&self) -> Option<ChangeStream> {
        self.leases.as_ref().map(|leases| leases.changes())
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        (self.leases.is_none() && self.api.config.kv == Kv::V2).then_some(self)
    }

    /// Which leases could be had, no two engines say in the same way, so nothing is listed of them.
    fn lister(&self) -> Option<&dyn SecretLister> {
        self.leases.is_none().then_some(self)
    }

    async fn release(&self, deadline: Instant) -> bool {
        match &self.leases {
            Some(leases) => leases.release(deadline).await,
            None => true,
        }
    }
}

impl VaultProvider {
    fn concurrency(&self) -> usize {
        usize::try_from(self.api.config.concurrency.get()).unwrap_or(usize::MAX)
    }
}
