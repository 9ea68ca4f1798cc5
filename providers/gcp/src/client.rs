//! The provider: what is asked of it, put into calls of Secret Manager.

use std::num::NonZeroU32;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, stream};
use oneiric_core::{
    Capabilities, ChangeStream, Descriptor, Detection, Error, ErrorKind, FetchRequest, Fetched,
    Result, SecretKey, SecretLister, SecretProvider, SecretWriter, Stamp, Version,
};

use crate::api::{Api, Patience, endpoint};
use crate::config::{Config, Current};
use crate::current::enabled;
use crate::names::{self, SecretName};
use crate::pace::Pace;
use crate::payload::MAX_BYTES;
use crate::push;
use crate::stamps::stamp;

/// A [`SecretProvider`] over Google Cloud Secret Manager; [`Config::build`] makes one.
///
/// # Keys
/// The id of a secret in the configured project and location, or the full name of a secret in any
/// project, in the configured location.
///
/// # Versions
/// Numbers. A request may name a number, an alias or `latest`; what an alias or `latest` means
/// spreads slowly, so after a change ask for the number. Without a version the current one is
/// answered, as [`Current`](crate::Current) says; behind a pointer it is read by its number.
///
/// # Stamps
/// The name of the secret and the number of its current version. A secret that is deleted and made
/// again starts at 1 and looks unchanged if it is at the same number as before.
///
/// # Writing
/// A version that is added is current at once where the settings say `latest` or `newest-enabled`.
/// With a pointer it is not until it is promoted.
#[derive(Debug)]
pub struct GcpProvider {
    descriptor: Descriptor,
    pub(crate) api: Arc<Api>,
}

impl GcpProvider {
    pub(crate) fn new(config: Config) -> Self {
        let capabilities = Capabilities {
            versions: true,
            stamps: true,
            push: config.push.is_some(),
            snapshots: false,
            binary: true,
            max_value: u64::try_from(MAX_BYTES).ok(),
            // With a pointer, one list serves all that are asked for together.
            batch: (!config.current.is_pointer()).then_some(NonZeroU32::MIN),
        };
        let a_minute = Pace::of_a_sweep(config.metadata_reads_a_minute.get());
        let detection = Detection {
            // One page has room for 25,000 secrets.
            keys_a_call: (!config.current.is_pointer()).then_some(NonZeroU32::MIN),
            calls_a_minute: NonZeroU32::new(a_minute),
            // "Within minutes, but may take a few hours" is no bound.
            settles_within: None,
            usd_a_million: Some(0.0),
        };
        let parent = names::parent(&config.project, config.location.as_deref());
        let uri = format!("{}/v1/{parent}/secrets", endpoint(&config));
        let descriptor = Descriptor::new("gcp", uri, capabilities).with_detection(detection);
        Self { descriptor, api: Arc::new(Api::new(config)) }
    }

    /// Answers one request, for which the current version may be known already.
    async fn answer(
        &self,
        request: &FetchRequest,
        current: Option<Result<u64>>,
    ) -> Result<Fetched> {
        let secret = self.api.place.secret(&request.key)?;
        let patience = Patience::until(request.deadline);
        let version: Arc<str> = match (&request.version, current) {
            (Some(version), _) if names::is_version(version) => Arc::clone(version),
            (Some(version), _) => {
                let message = format!("`{version}` names no version of `{secret}`");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
            (None, Some(current)) => current?.to_string().into(),
            // It need not be looked up to be read.
            (None, None) if self.api.config.current == Current::Latest => "latest".into(),
            (None, None) => self.api.current(&secret, patience).await?.to_string().into(),
        };
        if let Some(known) = &request.if_none_match
            && self.is_still(&secret, &version, known, patience).await?
        {
            let message = format!("`{secret}` has not changed");
            return Err(Error::new(ErrorKind::NotModified, message));
        }
        let (value, number) = self.api.access(&secret, &version, patience).await?;
        let mut fetched = Fetched::new(value, Version::numbered(number));
        fetched.stamp = Some(stamp(&secret, number));
        Ok(fetched)
    }

    /// Whether the version is the one that is known, and may still be read.
    ///
    /// Who may read a value need not have the right to look at its metadata, and the quota for
    /// looks is the smaller one. So where there can be no look, the value is read.
    async fn is_still(
        &self,
        secret: &SecretName,
        version: &str,
        known: &Stamp,
        patience: Patience,
    ) -> Result<bool> {
        if version.parse().is_ok_and(|number| stamp(secret, number) != *known) {
            return Ok(false);
        }
        let found = match self.api.version(secret, version, patience.saving()).await {
            Err(error)
                if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Throttled { .. }) =>
            {
                return Ok(false);
            }
            found => found?,
        };
        Ok(stamp(secret, enabled(&found, &secret.version(version))?) == *known)
    }
}

#[async_trait]
impl SecretProvider for GcpProvider {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        self.answer(request, None).await
    }

    /// Secret Manager has no batches of values. Pointers of many are read by one list.
    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        let mut known: Vec<Option<Result<u64>>> = vec![None; requests.len()];
        if self.api.config.current.is_pointer() {
            let named = requests.iter().enumerate().filter_map(|(index, request)| {
                let secret = self.api.place.secret(&request.key).ok()?;
                request.version.is_none().then_some((index, secret))
            });
            let named: Vec<(usize, SecretName)> = named.collect();
            let secrets: Vec<&SecretName> = named.iter().map(|(_, secret)| secret).collect();
            let deadline = requests.iter().filter_map(|request| request.deadline).min();
            let numbers = self.api.currents(&secrets, Patience::until(deadline)).await;
            for ((index, _), number) in named.iter().zip(numbers) {
                known[*index] = Some(number);
            }
        }
        let mut answers = Vec::with_capacity(requests.len());
        for (request, known) in requests.iter().zip(known) {
            answers.push(self.answer(request, known).boxed());
        }
        stream::iter(answers).buffered(self.api.concurrency()).collect().await
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        self.api.stamps(keys).await
    }

    fn changes(&self) -> Option<ChangeStream> {
        push::changes(&self.api)
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        Some(self)
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        Some(self)
    }
}
