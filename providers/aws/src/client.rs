//! The provider: what is asked of it, put into calls of Secrets Manager.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt, stream};
use oneiric_core::{
    Capabilities, ChangeStream, Descriptor, Detection, Error, ErrorKind, FetchRequest, Fetched,
    Result, SecretKey, SecretLister, SecretProvider, SecretWriter, Stamp, Version,
};

use crate::api::{Api, BATCH, Got, Patience, name_of, no_current};
use crate::config::Config;
use crate::error::about;
use crate::known::Verdict;
use crate::names::{self, CURRENT, PENDING, Wanted};
use crate::payload::MAX_BYTES;
use crate::{batch, push};

/// A [`SecretProvider`] over AWS Secrets Manager; [`Config::build`] makes one.
///
/// # Keys
/// The name of a secret, or its ARN with or without the six characters that AWS adds to the name.
///
/// # Versions
/// The ids that AWS gives, which stand in no order. A request may also name a label, such as
/// `AWSPREVIOUS`. Without a version the one with the label `AWSCURRENT` is answered. One that only
/// a rotation under way has, with the label `AWSPENDING`, is never answered, and neither is one
/// without a value.
///
/// # Stamps
/// The id of the current version.
///
/// # Consistency
/// An answer that is older than what was seen before is not believed: what is known to be current
/// is read by its id instead.
///
/// # Writing
/// A version that is added is not current until it is promoted, but for the first of a secret,
/// which AWS makes current at once. A version cannot be disabled, enabled or destroyed.
#[derive(Debug)]
pub struct AwsProvider {
    descriptor: Descriptor,
    pub(crate) api: Arc<Api>,
}

impl AwsProvider {
    pub(crate) fn new(config: Config) -> Self {
        let capabilities = Capabilities {
            versions: true,
            stamps: true,
            push: config.push.is_some(),
            snapshots: false,
            binary: true,
            max_value: u64::try_from(MAX_BYTES).ok(),
            batch: u32::try_from(BATCH).ok().and_then(NonZeroU32::new),
        };
        let detection = Detection {
            // The first page of the list has all that has changed lately.
            keys_a_call: config.describe.then_some(NonZeroU32::MIN),
            calls_a_minute: None,
            // Of lists the manual says how long they lag, of a look at one secret it does not.
            settles_within: (!config.describe).then_some(Duration::from_secs(300)),
            usd_a_million: Some(5.0),
        };
        let uri = match (&config.endpoint, &config.region) {
            (Some(endpoint), _) => endpoint.clone(),
            (None, Some(region)) => format!("aws-secretsmanager:{region}"),
            (None, None) => "aws-secretsmanager:".into(),
        };
        let descriptor = Descriptor::new("aws", uri, capabilities).with_detection(detection);
        Self { descriptor, api: Arc::new(Api::new(config)) }
    }
}

impl Api {
    /// Answers one request.
    pub(crate) async fn answer(&self, request: &FetchRequest) -> Result<Fetched> {
        let id = names::secret_id(&request.key)?;
        let patience = Patience::until(request.deadline);
        match names::wanted(request.version.as_deref())? {
            Wanted::Current => self.current(id, request, patience).await,
            wanted => {
                let got = self.get(id, wanted, patience).await?;
                let what = name_of(id, wanted);
                if got.bears(CURRENT) {
                    // Of what an event has told, this is the proof.
                    self.books.see(&request.key, &got.sight);
                    self.books.forget_named(&request.key, &got.sight.version);
                } else if matches!(wanted, Wanted::Version(of) if self.books.is_named(&request.key, of))
                {
                    self.prove(id, &request.key, &got, &what, patience).await?;
                } else {
                    self.is_served(&request.key, &got, &what)?;
                }
                fetched(got, &what)
            }
        }
    }

    /// The current version.
    async fn current(
        &self,
        id: &str,
        request: &FetchRequest,
        patience: Patience,
    ) -> Result<Fetched> {
        if let Some(stamp) = &request.if_none_match {
            match self.look(&request.key, patience).await {
                Ok(version) if *stamp == Stamp::from(Arc::clone(&version)) => {
                    return Err(about(ErrorKind::NotModified, id));
                }
                Ok(version) => return self.exact(id, &request.key, &version, patience).await,
                // Who may read a value need not have the right to look at a secret.
                Err(error)
                    if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Throttled { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let got = self.get(id, Wanted::Current, patience).await?;
        self.believe(id, &request.key, got, patience).await
    }

    /// Takes what was read as current, or what is known to be newer.
    pub(crate) async fn believe(
        &self,
        id: &str,
        key: &SecretKey,
        got: Got,
        patience: Patience,
    ) -> Result<Fetched> {
        if !got.bears(CURRENT) {
            return Err(no_current(id));
        }
        let current = match self.books.see(key, &got.sight) {
            Verdict::Same | Verdict::Newer => return fetched(got, id),
            Verdict::Older | Verdict::Unclear => match self.look(key, patience).await {
                Ok(current) => current,
                Err(error) => match self.books.current(key) {
                    // An old answer is likelier than a way back, for a while.
                    Some((current, true)) => current,
                    Some((_, false)) | None if error.kind() == ErrorKind::Denied => {
                        self.books.learn(key, &got.sight);
                        return fetched(got, id);
                    }
                    _ => return Err(error),
                },
            },
        };
        if current == got.sight.version {
            return fetched(got, id);
        }
        self.exact(id, key, &current, patience).await
    }

    /// What is known to be current, by its id: that answer cannot be an older one.
    async fn exact(
        &self,
        id: &str,
        key: &SecretKey,
        version: &str,
        patience: Patience,
    ) -> Result<Fetched> {
        let wanted = Wanted::Version(version);
        let not_yet = |why| format!("`{}` is current and cannot be {why} yet", name_of(id, wanted));
        match self.get(id, wanted, patience).await {
            Ok(got) if got.bears(CURRENT) => {
                // Of what an event has told, this is the proof.
                self.books.see(key, &got.sight);
                fetched(got, id)
            }
            Ok(_) if self.books.is_told(key, version) => {
                Err(Error::new(ErrorKind::Unavailable, not_yet("seen to be so")))
            }
            Ok(got) => fetched(got, id),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Error::with_source(ErrorKind::Unavailable, not_yet("read"), error))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a version that is not current may be served, which was asked for by its id or label.
    fn is_served(&self, key: &SecretKey, got: &Got, what: &str) -> Result<()> {
        if !got.bears(PENDING) {
            return Ok(());
        }
        // It was seen to be current, and the answer does not know it yet.
        let lags = self.books.current(key).is_some_and(|(known, _)| known == got.sight.version);
        let message = format!(
            "`{what}` is not served: it has the label {PENDING}, so the rotation that made it has \
             not ended"
        );
        Err(Error::new(not_served(lags), message))
    }

    /// Looks for a proof of what an event has named: it must show to be current, since an event can
    /// be wrong, or overtaken by another change.
    async fn prove(
        &self,
        id: &str,
        key: &SecretKey,
        got: &Got,
        what: &str,
        patience: Patience,
    ) -> Result<()> {
        let version = &got.sight.version;
        let seen = self.describe(id, patience).await.and_then(|state| state.sight(id));
        let (is_current, lags) = match seen {
            Ok(sight) => {
                let known = self.books.settle(key, &sight);
                (sight.version == *version, known == *version)
            }
            // Who may read a value need not have the right to look at a secret.
            Err(error) if error.kind() == ErrorKind::Denied => {
                let known = self.books.current(key);
                (false, known.is_some_and(|(known, is_young)| is_young && known == *version))
            }
            Err(error) => return Err(error),
        };
        if is_current || !lags {
            self.books.forget_named(key, version);
        }
        if is_current {
            return Ok(());
        }
        let message = format!("`{what}` is not served: only an event says that it is current");
        Err(Error::new(not_served(lags), message))
    }
}

/// Absence is what passes: whoever asks for what an event has told tries again. What is refused for
/// good is not asked for again.
fn not_served(lags: bool) -> ErrorKind {
    if lags { ErrorKind::NotFound } else { ErrorKind::VersionDisabled }
}

/// The answer that a version becomes.
pub(crate) fn fetched(got: Got, what: &str) -> Result<Fetched> {
    let version = got.sight.version;
    let mut fetched = Fetched::new(got.payload.take(what)?, Version::opaque(Arc::clone(&version)));
    fetched.stamp = Some(Stamp::from(version));
    Ok(fetched)
}

#[async_trait]
impl SecretProvider for AwsProvider {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        self.api.answer(request).await
    }

    /// Twenty current versions a call. What names a version is read by itself.
    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        let mut answers = batch::fetch(&self.api, requests).await;
        let mut rest = Vec::new();
        for (index, answer) in answers.iter().enumerate() {
            if answer.is_none() {
                let request = &requests[index];
                let read = async move { (index, self.api.answer(request).await) };
                rest.push(read.boxed());
            }
        }
        let mut rest = stream::iter(rest).buffer_unordered(self.api.concurrency());
        while let Some((index, answer)) = rest.next().await {
            answers[index] = Some(answer);
        }
        let none = || Err(Error::new(ErrorKind::Bug, "a request was left without an answer"));
        answers.into_iter().map(|answer| answer.unwrap_or_else(none)).collect()
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
