//! A provider that is broken on purpose, in one way at a time.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use oneiric_core::{
    Change, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched, Result, SecretKey,
    SecretLister, SecretProvider, SecretValue, SecretWriter, Snapshot, Stamp, Version, VersionInfo,
    fetch_each,
};
use oneiric_testkit::MemoryProvider;
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::rig::EVERYTHING;

/// The ways in which a provider is broken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    // What it prints.
    LeaksInDebug,
    LeaksInLog,
    LeaksInSpan,
    LeaksInError,
    LeaksInUri,
    LeaksInWriteError,
    // What it reads.
    ChangesItsDescriptor,
    Truncates,
    FailsForMissing,
    Remembers,
    ServesEmpty,
    Mangles,
    LossyText,
    DeclaresTooLarge,
    Unsorted,
    PanicsOnPath,
    Panics,
    // What tells states apart.
    OneVersion,
    StampOfNothing,
    StampOfTime,
    SendsAgain,
    LatestForExact,
    RelabelsLatest,
    OldestFirst,
    DisabledIsMissing,
    // What it hears.
    NoStream,
    Deaf,
    TrustsPush,
    EndsOnRepeat,
    FollowsPush,
    // Several at once.
    WrongOrder,
    CommonError,
    OneAtATime,
    StaysBusy,
    Mixture,
    TornSet,
    // What it says of a store out of order.
    LateIsUnavailable,
    IgnoresDeadlines,
    AbsentInOutage,
    DeniedIsMissing,
    UnknownIsDenied,
    ForgetsRetryAfter,
    InventsRetryAfter,
    // What it writes.
    IgnoresTokens,
    CutsToFit,
    PromotesAtOnce,
    SwapsWithoutComparing,
    ComparesTooEarly,
    NeverDisables,
    DestroysForNow,
    WritesToNothing,
    LostIsUnavailable,
    StaysBusyWriting,
}

use Defect::{
    AbsentInOutage, ChangesItsDescriptor, CommonError, ComparesTooEarly, CutsToFit, Deaf,
    DeclaresTooLarge, DeniedIsMissing, DestroysForNow, DisabledIsMissing, EndsOnRepeat,
    FailsForMissing, FollowsPush, ForgetsRetryAfter, IgnoresDeadlines, IgnoresTokens,
    InventsRetryAfter, LateIsUnavailable, LatestForExact, LeaksInDebug, LeaksInError, LeaksInLog,
    LeaksInSpan, LeaksInUri, LeaksInWriteError, LossyText, LostIsUnavailable, Mangles, Mixture,
    NeverDisables, NoStream, OldestFirst, OneAtATime, OneVersion, Panics, PanicsOnPath,
    PromotesAtOnce, RelabelsLatest, Remembers, SendsAgain, ServesEmpty, StampOfNothing,
    StampOfTime, StaysBusy, StaysBusyWriting, SwapsWithoutComparing, TornSet, Truncates,
    TrustsPush, UnknownIsDenied, Unsorted, WritesToNothing, WrongOrder,
};

pub(crate) struct Broken {
    defect: Defect,
    store: Arc<MemoryProvider>,
    descriptors: [Descriptor; 2],
    /// What it read last, to leak it, and where it says that it is then.
    seen: Mutex<String>,
    leaking: OnceLock<Descriptor>,
    /// What it read, and what it heard of, by key.
    kept: Arc<Mutex<HashMap<SecretKey, Fetched>>>,
    heard: Arc<Mutex<HashMap<SecretKey, Version>>>,
    busy: AtomicBool,
    count: AtomicU64,
}

impl Broken {
    pub(crate) fn new(defect: Defect, store: Arc<MemoryProvider>) -> Self {
        if defect != IgnoresDeadlines {
            store.keep_deadlines();
        }
        let mut capabilities = EVERYTHING;
        if defect == DeclaresTooLarge {
            capabilities.max_value = EVERYTHING.max_value.map(|most| most * 2);
        }
        let descriptors =
            ["broken:", "broken:again"].map(|uri| Descriptor::new("broken", uri, capabilities));
        Self {
            defect,
            store,
            descriptors,
            seen: Mutex::default(),
            leaking: OnceLock::new(),
            kept: Arc::default(),
            heard: Arc::default(),
            busy: AtomicBool::new(false),
            count: AtomicU64::new(0),
        }
    }

    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    /// Does one thing at a time, and says so to whoever comes in between. Without a guard, whoever
    /// is dropped meanwhile leaves it busy for good.
    async fn alone<T>(&self, guarded: bool, work: impl Future<Output = Result<T>>) -> Result<T> {
        struct Free<'a>(&'a AtomicBool);
        impl Drop for Free<'_> {
            fn drop(&mut self) {
                self.0.store(false, Ordering::SeqCst);
            }
        }
        if self.busy.swap(true, Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "it does something else"));
        }
        let guard = guarded.then(|| Free(&self.busy));
        yield_now().await;
        let done = work.await;
        drop(guard);
        self.busy.store(false, Ordering::SeqCst);
        done
    }

    /// The error as this provider tells it.
    fn told(&self, error: Error) -> Error {
        let kind = match (self.defect, error.kind()) {
            (FailsForMissing, ErrorKind::NotFound) => ErrorKind::Unavailable,
            (DisabledIsMissing, ErrorKind::VersionDisabled) => ErrorKind::NotFound,
            (AbsentInOutage, ErrorKind::Unavailable) => ErrorKind::NotFound,
            (DeniedIsMissing, ErrorKind::Denied) => ErrorKind::NotFound,
            (UnknownIsDenied, ErrorKind::Unauthenticated) => ErrorKind::Denied,
            (LostIsUnavailable, ErrorKind::Ambiguous) => ErrorKind::Unavailable,
            (ForgetsRetryAfter, ErrorKind::Throttled { .. }) => {
                ErrorKind::Throttled { retry_after: None }
            }
            (InventsRetryAfter, ErrorKind::Throttled { retry_after: None }) => {
                ErrorKind::Throttled { retry_after: Some(Duration::from_secs(1)) }
            }
            (_, kind) => kind,
        };
        if kind == error.kind() { error } else { Error::new(kind, error.chain()) }
    }

    async fn read(&self, request: &FetchRequest) -> Result<Fetched> {
        match self.defect {
            OneAtATime => self.alone(true, self.store.fetch(request)).await,
            StaysBusy => self.alone(false, self.store.fetch(request)).await,
            _ => self.store.fetch(request).await,
        }
    }

    async fn broken_fetch(&self, asked: &FetchRequest) -> Result<Fetched> {
        let mut request = asked.clone();
        let key = &request.key;
        let is_exact = request.version.is_some();
        match self.defect {
            PanicsOnPath => assert!(!key.as_str().contains(".."), "it is no key"),
            LateIsUnavailable if request.deadline.is_some_and(|late| late < Instant::now()) => {
                return Err(Error::new(ErrorKind::Unavailable, "there is no time"));
            }
            TrustsPush if !is_exact => {
                if let Some(kept) = self.kept.lock().unwrap().get(key) {
                    return Ok(kept.clone());
                }
            }
            FollowsPush if !is_exact => {
                let heard = self.heard.lock().unwrap().get(key).cloned();
                request.version = heard.map(|version| version.to_string().into());
            }
            LatestForExact | RelabelsLatest => request.version = None,
            SendsAgain => request.if_none_match = None,
            _ => {}
        }
        let mut fetched = match self.read(&request).await {
            Err(error) if error.kind() == ErrorKind::Invalid => {
                assert!(!self.is(Panics), "an empty value");
                if self.is(ServesEmpty) {
                    return Ok(Fetched::new(SecretValue::from(""), Version::numbered(1)));
                }
                return Err(error);
            }
            Err(error) if self.is(Remembers) && error.kind() == ErrorKind::NotFound => {
                return self.kept.lock().unwrap().get(&request.key).cloned().ok_or(error);
            }
            answer => answer.map_err(|error| self.told(error))?,
        };
        self.spoil(&request, &mut fetched).await?;
        if let (RelabelsLatest, Some(version)) = (self.defect, &asked.version) {
            fetched.version = Version::opaque(Arc::clone(version));
        }
        if !is_exact {
            self.kept.lock().unwrap().insert(request.key, fetched.clone());
        }
        Ok(fetched)
    }

    /// Does to an answer what it should not.
    async fn spoil(&self, request: &FetchRequest, fetched: &mut Fetched) -> Result<()> {
        let bytes = fetched.value.expose().to_vec();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match self.defect {
            LeaksInLog if text.len() < 100 => tracing::trace!(?text, "read"),
            LeaksInSpan if text.len() < 100 => drop(tracing::trace_span!("read", ?text)),
            LeaksInUri if text.len() < 100 => {
                let capabilities = self.descriptors[0].capabilities;
                let uri = format!("broken:?last={text}");
                let _ = self.leaking.set(Descriptor::new("broken", uri, capabilities));
            }
            LeaksInError if request.key.as_str().ends_with("large") => {
                return Err(Error::new(ErrorKind::Invalid, format!("{text:?} is too long")));
            }
            LeaksInError if request.key.as_str().ends_with("unicode") => {
                let source = format!("cannot parse {text:?}");
                return Err(Error::with_source(ErrorKind::Invalid, "it is damaged", source));
            }
            Mixture => {
                yield_now().await;
                let second = self.store.fetch(request).await?.value.expose().to_vec();
                let half = bytes.len() / 2;
                let mixed = [&bytes[..half], &second[half.min(second.len())..]].concat();
                fetched.value = SecretValue::from(mixed);
            }
            OneVersion => fetched.version = Version::opaque("current"),
            StampOfNothing => fetched.stamp = Some(Stamp::from("same")),
            Truncates => fetched.value = SecretValue::from(&bytes[..bytes.len() - 1]),
            Mangles => fetched.value = SecretValue::from(text.trim_end_matches('é')),
            LossyText => fetched.value = SecretValue::from(text.as_str()),
            _ => {}
        }
        *self.seen.lock().unwrap() = text;
        Ok(())
    }

    fn writer_of_store(&self) -> &dyn SecretWriter {
        self.store.writer().expect("the double can be written to")
    }

    /// The id of the current version, by way of the list.
    async fn current(&self, key: &SecretKey) -> Result<Option<String>> {
        let listed = self.store.lister().expect("the double lists").versions(key).await?;
        Ok(listed.iter().find(|info| info.current).map(|info| info.version.id().into_owned()))
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.defect {
            LeaksInDebug => f.debug_tuple("Broken").field(&self.seen).finish(),
            _ => f.write_str("Broken"),
        }
    }
}

#[async_trait]
impl SecretProvider for Broken {
    fn descriptor(&self) -> &Descriptor {
        if let Some(leaking) = self.leaking.get() {
            return leaking;
        }
        let late = self.is(ChangesItsDescriptor) && !self.seen.lock().unwrap().is_empty();
        &self.descriptors[usize::from(late)]
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        self.broken_fetch(request).await
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        match self.defect {
            WrongOrder => {
                let mut requests = requests.to_vec();
                requests.sort_by(|a, b| a.key.cmp(&b.key));
                fetch_each(self, &requests).await
            }
            CommonError => {
                let answers = fetch_each(self, requests).await;
                match answers.iter().find_map(|answer| answer.as_ref().err()) {
                    Some(error) => requests.iter().map(|_| Err(error.clone())).collect(),
                    None => answers,
                }
            }
            TornSet => {
                let mut answers = Vec::new();
                for request in requests {
                    yield_now().await;
                    let mut answer = self.fetch(request).await;
                    if let Ok(fetched) = &mut answer {
                        fetched.snapshot = Some(Snapshot::from("now"));
                    }
                    answers.push(answer);
                }
                answers
            }
            Mixture => fetch_each(self, requests).await,
            _ => {
                let answers = self.store.fetch_many(requests).await;
                answers.into_iter().map(|answer| answer.map_err(|error| self.told(error))).collect()
            }
        }
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        let stamp = |stamp: Result<Stamp>| {
            let stamp = stamp.map_err(|error| self.told(error))?;
            Ok(match self.defect {
                StampOfNothing => Stamp::from("same"),
                StampOfTime => Stamp::from(format!("{:?}", std::time::Instant::now())),
                _ => stamp,
            })
        };
        self.store.stamps(keys).await.into_iter().map(stamp).collect()
    }

    fn changes(&self) -> Option<ChangeStream> {
        let changes = self.store.changes()?;
        match self.defect {
            NoStream => None,
            // It hears the first change and no other, as a watch on a replaced file does.
            Deaf => Some(changes.take(1).chain(stream::pending()).boxed()),
            EndsOnRepeat => {
                let mut last = None;
                let repeats = move |change: &Change| {
                    let repeats = last.as_ref() == Some(change);
                    last = Some(change.clone());
                    std::future::ready(!repeats)
                };
                Some(changes.take_while(repeats).boxed())
            }
            _ => {
                let (kept, heard) = (Arc::clone(&self.kept), Arc::clone(&self.heard));
                let hear = move |change: &Change| {
                    if let Change::Secret { key, version } = change {
                        kept.lock().unwrap().remove(key);
                        let version = version.clone();
                        heard.lock().unwrap().extend(version.map(|version| (key.clone(), version)));
                    }
                };
                Some(changes.inspect(hear).boxed())
            }
        }
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        Some(self)
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        Some(self)
    }
}

#[async_trait]
impl SecretLister for Broken {
    async fn list(&self) -> Result<Vec<SecretKey>> {
        let listed = self.store.lister().expect("the double lists").list().await;
        let mut keys = listed.map_err(|error| self.told(error))?;
        if self.is(Unsorted) {
            keys.reverse();
        }
        Ok(keys)
    }

    async fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>> {
        let listed = self.store.lister().expect("the double lists").versions(key).await;
        let mut versions = listed.map_err(|error| self.told(error))?;
        if self.is(OldestFirst) {
            versions.reverse();
        }
        Ok(versions)
    }
}

#[async_trait]
impl SecretWriter for Broken {
    async fn create_secret(&self, key: &SecretKey) -> Result<()> {
        self.writer_of_store().create_secret(key).await
    }

    async fn create_version(
        &self,
        key: &SecretKey,
        value: &SecretValue,
        token: &str,
    ) -> Result<Version> {
        let most = usize::try_from(EVERYTHING.max_value.unwrap()).unwrap();
        let (mut value, mut token) = (value.clone(), token.to_owned());
        match self.defect {
            IgnoresTokens => token = self.count.fetch_add(1, Ordering::SeqCst).to_string(),
            CutsToFit if value.expose().len() > most => {
                value = SecretValue::from(&value.expose()[..most]);
            }
            _ => {}
        }
        let write = self.writer_of_store().create_version(key, &value, &token);
        let written = match self.defect {
            StaysBusyWriting => self.alone(false, write).await,
            _ => write.await,
        };
        let version = match written {
            Err(error) if self.is(LeaksInWriteError) => {
                let text = String::from_utf8_lossy(value.expose());
                return Err(Error::with_source(error.kind(), format!("{text} was refused"), error));
            }
            written => written.map_err(|error| self.told(error))?,
        };
        if self.is(PromotesAtOnce) {
            let current = self.current(key).await?;
            self.writer_of_store().promote(key, &version.id(), current.as_deref()).await?;
        }
        Ok(version)
    }

    async fn promote(&self, key: &SecretKey, version: &str, expected: Option<&str>) -> Result<()> {
        let store = self.writer_of_store();
        let current = match self.defect {
            SwapsWithoutComparing => self.current(key).await?,
            ComparesTooEarly => {
                let before = self.current(key).await?;
                yield_now().await;
                let now = self.current(key).await?;
                if before.as_deref() == expected { now } else { expected.map(str::to_owned) }
            }
            _ => expected.map(str::to_owned),
        };
        match store.promote(key, version, current.as_deref()).await {
            Err(error) if self.is(WritesToNothing) && error.kind() == ErrorKind::NotFound => Ok(()),
            done => done.map_err(|error| self.told(error)),
        }
    }

    async fn disable(&self, key: &SecretKey, version: &str) -> Result<()> {
        match self.defect {
            NeverDisables => Ok(()),
            _ => {
                let disabled = self.writer_of_store().disable(key, version).await;
                disabled.map_err(|error| self.told(error))
            }
        }
    }

    async fn enable(&self, key: &SecretKey, version: &str) -> Result<()> {
        self.writer_of_store().enable(key, version).await
    }

    async fn destroy(&self, key: &SecretKey, version: &str) -> Result<()> {
        match self.defect {
            DestroysForNow => self.disable(key, version).await,
            _ => self.writer_of_store().destroy(key, version).await,
        }
    }
}
