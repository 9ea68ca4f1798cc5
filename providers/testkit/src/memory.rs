//! A store in memory that does what a test tells it to.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream;
use oneiric_core::{
    Capabilities, Change, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched,
    Result, SecretKey, SecretLister, SecretProvider, SecretValue, SecretWriter, Snapshot, Stamp,
    Version, VersionInfo, VersionState,
};
use tokio::sync::{broadcast, watch};

/// How many changes a subscriber may be behind before it is told [`Change::Anything`].
const BACKLOG: usize = 1024;

/// A scriptable [`SecretProvider`]: what it holds, how long it takes and how it fails are set by
/// the test, and its calls are counted.
///
/// The answer to a fetch is decided when the fetch begins and handed out after the latency, so a
/// slow fetch returns what the store held when it was asked. `deadline` is ignored, as a store
/// that hangs would: keeping deadlines is the caller's.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use oneiric_core::{FetchRequest, SecretProvider};
/// use oneiric_testkit::MemoryProvider;
///
/// let store = MemoryProvider::new();
/// store.put("db", "first");
/// store.put("db", "second");
/// let answer = store.fetch(&FetchRequest::new("db".parse().unwrap())).await.unwrap();
/// assert_eq!(answer.version.id(), "2");
/// assert_eq!(store.fetches(), 1);
/// # });
/// ```
pub struct MemoryProvider {
    descriptor: Descriptor,
    state: Mutex<State>,
    hanging: watch::Sender<bool>,
    fetches: AtomicU64,
    stamp_calls: AtomicU64,
}

struct State {
    secrets: HashMap<String, History>,
    /// Counts every change of the store, and so names its moments.
    moment: u64,
    failure: Option<ErrorKind>,
    latency: Duration,
    panic_next: bool,
    changes: broadcast::Sender<Change>,
}

#[derive(Default)]
struct History {
    current: Option<u64>,
    last: u64,
    versions: BTreeMap<u64, Held>,
}

#[derive(Clone)]
struct Held {
    value: SecretValue,
    /// The moment at which it was put: a version that is put again has another stamp.
    stamp: Stamp,
}

impl MemoryProvider {
    /// An empty store with versions, stamps and push.
    pub fn new() -> Arc<Self> {
        Self::with_capabilities(Capabilities {
            versions: true,
            stamps: true,
            push: true,
            binary: true,
            ..Capabilities::default()
        })
    }

    /// An empty store that can do exactly this.
    pub fn with_capabilities(capabilities: Capabilities) -> Arc<Self> {
        Arc::new(Self {
            descriptor: Descriptor::new("memory", "memory:", capabilities),
            state: Mutex::new(State {
                secrets: HashMap::new(),
                moment: 0,
                failure: None,
                latency: Duration::ZERO,
                panic_next: false,
                changes: broadcast::Sender::new(BACKLOG),
            }),
            hanging: watch::Sender::new(false),
            fetches: AtomicU64::new(0),
            stamp_calls: AtomicU64::new(0),
        })
    }

    /// Sets a secret; the number of its version is one more than the highest before. Nobody is
    /// told: see [`announce`](Self::announce).
    pub fn put(&self, key: &str, value: impl Into<SecretValue>) {
        let number = self.state().secrets.get(key).map_or(1, |history| history.last + 1);
        self.put_version(key, value, number);
    }

    /// Sets a secret as this version and makes it the current one, even if a newer one is there.
    pub fn put_version(&self, key: &str, value: impl Into<SecretValue>, number: u64) {
        let mut state = self.state();
        state.moment += 1;
        let stamp = Stamp::from(state.moment.to_string());
        let history = state.secrets.entry(key.to_owned()).or_default();
        history.versions.insert(number, Held { value: value.into(), stamp });
        history.current = Some(number);
        history.last = history.last.max(number);
    }

    /// Sets several secrets at one moment.
    pub fn put_all<'k, V: Into<SecretValue>>(&self, pairs: impl IntoIterator<Item = (&'k str, V)>) {
        let mut state = self.state();
        state.moment += 1;
        let stamp = Stamp::from(state.moment.to_string());
        for (key, value) in pairs {
            let history = state.secrets.entry(key.to_owned()).or_default();
            history.last += 1;
            history.current = Some(history.last);
            let held = Held { value: value.into(), stamp: stamp.clone() };
            history.versions.insert(history.last, held);
        }
    }

    /// Takes a secret away with all its versions. Their numbers are not used again.
    pub fn remove(&self, key: &str) {
        let mut state = self.state();
        state.moment += 1;
        if let Some(history) = state.secrets.get_mut(key) {
            history.current = None;
            history.versions.clear();
        }
    }

    /// Every call fails with this kind, until `None`.
    pub fn fail(&self, kind: Option<ErrorKind>) {
        self.state().failure = kind;
    }

    /// Every fetch that begins from now on takes this long.
    pub fn latency(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// While on, fetches do not end. Those that hang go on when it is turned off.
    pub fn hang(&self, on: bool) {
        self.hanging.send_replace(on);
    }

    /// The next fetch panics.
    pub fn panic_next(&self) {
        self.state().panic_next = true;
    }

    /// Tells every subscriber of a change.
    pub fn announce(&self, change: Change) {
        // Without subscribers nobody hears it, as with a real store.
        let _ = self.state().changes.send(change);
    }

    /// Ends every subscription, as a store does that goes away.
    pub fn hang_up(&self) {
        self.state().changes = broadcast::Sender::new(BACKLOG);
    }

    /// How many subscriptions there are.
    pub fn subscribers(&self) -> usize {
        self.state().changes.receiver_count()
    }

    /// How many secrets were asked for so far, counting each one of a `fetch_many`.
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }

    /// How many times [`SecretProvider::stamps`] was called.
    pub fn stamp_calls(&self) -> u64 {
        self.stamp_calls.load(Ordering::SeqCst)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements, and `panic_next` panics on purpose.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides all answers at one moment, and hands them out when it is time.
    async fn answer(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        self.fetches.fetch_add(requests.len() as u64, Ordering::SeqCst);
        let (answers, latency) = {
            let mut state = self.state();
            assert!(!std::mem::take(&mut state.panic_next), "the double was told to panic");
            let answer = |request| state.answer(request, self.descriptor.capabilities);
            (requests.iter().map(answer).collect(), state.latency)
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let mut hanging = self.hanging.subscribe();
        hanging.wait_for(|on| !on).await.expect("the double outlives its own calls");
        answers
    }
}

impl State {
    fn answer(&self, request: &FetchRequest, capabilities: Capabilities) -> Result<Fetched> {
        self.check_up(&request.key)?;
        let (number, held) = match request.version.as_deref() {
            Some(_) if !capabilities.versions => {
                return Err(Error::new(ErrorKind::Unsupported, "the double has no versions"));
            }
            version => self.find(&request.key, version)?,
        };
        if capabilities.stamps && request.if_none_match.as_ref() == Some(&held.stamp) {
            return Err(Error::new(
                ErrorKind::NotModified,
                format!("`{}` has not changed", request.key),
            ));
        }
        if held.value.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, format!("`{}` is empty", request.key)));
        }
        let mut fetched = Fetched::new(held.value.clone(), Version::numbered(number));
        fetched.stamp = capabilities.stamps.then(|| held.stamp.clone());
        fetched.snapshot = capabilities.snapshots.then(|| Snapshot::from(self.moment.to_string()));
        Ok(fetched)
    }

    fn check_up(&self, key: &SecretKey) -> Result<()> {
        let scripted = |kind| Error::new(kind, format!("`{key}` fails as the test told it to"));
        self.failure.map_or(Ok(()), |kind| Err(scripted(kind)))
    }

    fn find(&self, key: &SecretKey, version: Option<&str>) -> Result<(u64, &Held)> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no secret `{key}`"));
        let history = self.secrets.get(key.as_str()).ok_or_else(missing)?;
        let number = match version {
            Some(version) => version.parse().ok(),
            None => history.current,
        };
        let number = number.ok_or_else(missing)?;
        let held = history.versions.get(&number).ok_or_else(missing)?;
        Ok((number, held))
    }
}

#[async_trait]
impl SecretProvider for MemoryProvider {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        let mut answers = self.answer(std::slice::from_ref(request)).await;
        answers.pop().expect("one request has one answer")
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        self.answer(requests).await
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        self.stamp_calls.fetch_add(1, Ordering::SeqCst);
        let state = self.state();
        let stamp = |key| {
            if !self.descriptor.capabilities.stamps {
                return Err(Error::new(ErrorKind::Unsupported, "the double has no stamps"));
            }
            state.check_up(key)?;
            Ok(state.find(key, None)?.1.stamp.clone())
        };
        keys.iter().map(stamp).collect()
    }

    fn changes(&self) -> Option<ChangeStream> {
        if !self.descriptor.capabilities.push {
            return None;
        }
        let receiver = self.state().changes.subscribe();
        let changes = stream::unfold(receiver, |mut receiver| async move {
            match receiver.recv().await {
                Ok(change) => Some((change, receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Change::Anything, receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        Some(changes.boxed())
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        None
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        Some(self)
    }
}

#[async_trait]
impl SecretLister for MemoryProvider {
    async fn list(&self) -> Result<Vec<SecretKey>> {
        let state = self.state();
        if let Some(kind) = state.failure {
            return Err(Error::new(kind, "the listing fails as the test told it to"));
        }
        let held = state.secrets.iter().filter(|(_, history)| history.current.is_some());
        let mut keys: Vec<SecretKey> =
            held.map(|(key, _)| key.parse().expect("the tests put valid keys")).collect();
        keys.sort();
        Ok(keys)
    }

    async fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>> {
        let state = self.state();
        if let Some(kind) = state.failure {
            return Err(Error::new(kind, "the listing fails as the test told it to"));
        }
        let history = state.secrets.get(key.as_str()).filter(|history| history.current.is_some());
        let history = history.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no secret `{key}`"))
        })?;
        let info = |&number: &u64| {
            let mut info = VersionInfo::new(Version::numbered(number), VersionState::Enabled);
            info.current = history.current == Some(number);
            info
        };
        Ok(history.versions.keys().rev().map(info).collect())
    }
}

impl fmt::Debug for MemoryProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryProvider").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(key: &str) -> FetchRequest {
        FetchRequest::new(key.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_fetch_returns_what_was_held_when_it_began() {
        let store = MemoryProvider::new();
        store.put("a", "old");
        store.latency(Duration::from_secs(1));
        let request = ask("a");
        let (answer, ()) = tokio::join!(store.fetch(&request), async { store.put("a", "new") });
        assert_eq!(answer.unwrap().value.expose(), b"old");
        assert_eq!(store.fetch(&ask("a")).await.unwrap().value.expose(), b"new");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hanging_fetch_goes_on_when_it_may() {
        let store = MemoryProvider::new();
        store.put("a", "value");
        store.hang(true);
        let request = ask("a");
        let mut fetch = store.fetch(&request);
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut fetch).await.is_err());
        store.hang(false);
        assert!(fetch.await.is_ok());
    }

    #[tokio::test]
    async fn numbers_count_up_even_after_a_removal() {
        let store = MemoryProvider::new();
        store.put("a", "1");
        store.put_version("a", "7", 7);
        store.put("a", "8");
        assert_eq!(store.fetch(&ask("a")).await.unwrap().version.id(), "8");
        assert_eq!(store.fetch(&ask("a").at_version("7")).await.unwrap().value.expose(), b"7");
        store.remove("a");
        assert_eq!(store.fetch(&ask("a")).await.unwrap_err().kind(), ErrorKind::NotFound);
        store.put("a", "9");
        assert_eq!(store.fetch(&ask("a")).await.unwrap().version.id(), "9");
    }

    #[tokio::test]
    async fn a_panic_leaves_the_double_usable() {
        let store = MemoryProvider::new();
        store.put("a", "value");
        store.panic_next();
        let shared = Arc::clone(&store);
        assert!(tokio::spawn(async move { shared.fetch(&ask("a")).await }).await.is_err());
        assert!(store.fetch(&ask("a")).await.is_ok());
    }

    #[tokio::test]
    async fn subscriptions_end_when_the_store_hangs_up() {
        let store = MemoryProvider::new();
        let mut changes = store.changes().unwrap();
        store.announce(Change::Anything);
        assert_eq!(changes.next().await, Some(Change::Anything));
        store.hang_up();
        assert_eq!(changes.next().await, None);
        assert_eq!(store.subscribers(), 0);
    }
}
