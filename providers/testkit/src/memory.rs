//! A store in memory that does what a test tells it to.

mod limit;
mod state;
mod writer;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream;
use oneiric_core::{
    Capabilities, Change, ChangeStream, Descriptor, Error, ErrorKind, FetchRequest, Fetched,
    Result, SecretKey, SecretLister, SecretProvider, SecretValue, SecretWriter, Stamp, VersionInfo,
};
use tokio::sync::{broadcast, watch};
use tokio::time::timeout_at;

use crate::rig::Fault;
use limit::Limit;
use state::State;

/// A scriptable [`SecretProvider`]: what it holds, how long it takes and how it fails are set by
/// the test, and its calls are counted.
///
/// The answer to a fetch is decided when the fetch begins and handed out after the latency, so a
/// slow fetch returns what the store held when it was asked. `deadline` is ignored, as a provider
/// would that forgot it, unless it is told to [`keep_deadlines`](Self::keep_deadlines).
///
/// With [`play`](Self::play) it goes out of order in every way that the suite knows.
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
    writable: bool,
    state: Mutex<State>,
    /// Whether fetches hang, and whether everything does.
    hanging: watch::Sender<bool>,
    stuck: watch::Sender<bool>,
    keeps_deadlines: AtomicBool,
    fetches: AtomicU64,
    stamp_calls: AtomicU64,
    calls: AtomicU64,
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
        Self::build(capabilities, false)
    }

    /// The same with a writer. What it writes waits to be promoted, and promoting it tells every
    /// subscriber.
    pub fn writable(capabilities: Capabilities) -> Arc<Self> {
        Self::build(capabilities, true)
    }

    fn build(capabilities: Capabilities, writable: bool) -> Arc<Self> {
        Arc::new(Self {
            descriptor: Descriptor::new("memory", "memory:", capabilities),
            writable,
            state: Mutex::new(State::new()),
            hanging: watch::Sender::new(false),
            stuck: watch::Sender::new(false),
            keeps_deadlines: AtomicBool::new(false),
            fetches: AtomicU64::new(0),
            stamp_calls: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        })
    }

    /// Sets a secret; the number of its version is one more than the highest before. Nobody is
    /// told: see [`announce`](Self::announce).
    pub fn put(&self, key: &str, value: impl Into<SecretValue>) {
        self.put_all([(key, value)]);
    }

    /// Sets a secret as this version and makes it the current one, even if a newer one is there.
    pub fn put_version(&self, key: &str, value: impl Into<SecretValue>, number: u64) {
        let mut state = self.state();
        state.advance();
        state.hold(key, value.into(), Some(number));
        state.make_current(key, number);
    }

    /// Sets several secrets at one moment. Answers with the numbers of their versions.
    pub fn put_all<'k, V: Into<SecretValue>>(
        &self,
        pairs: impl IntoIterator<Item = (&'k str, V)>,
    ) -> Vec<u64> {
        let mut state = self.state();
        state.advance();
        let put = |(key, value): (&str, V)| {
            let number = state.hold(key, value.into(), None);
            state.make_current(key, number);
            number
        };
        pairs.into_iter().map(put).collect()
    }

    /// Takes a secret away with all its versions. Their numbers are not used again.
    pub fn remove(&self, key: &str) {
        let mut state = self.state();
        state.advance();
        state.remove(key);
    }

    /// Goes out of order in this way, until [`mend`](Self::mend).
    ///
    /// # Panics
    /// If a secret is to be disabled that is not there.
    pub fn play(&self, fault: Fault) {
        if fault == Fault::Hanging {
            self.stuck.send_replace(true);
        }
        self.state().play(fault);
    }

    /// Ends every fault that was played.
    pub fn mend(&self) {
        self.stuck.send_replace(false);
        self.state().mend();
    }

    /// From now on a fetch ends at its deadline.
    pub fn keep_deadlines(&self) {
        self.keeps_deadlines.store(true, Ordering::SeqCst);
    }

    /// Every call fails with this kind, until `None`.
    pub fn fail(&self, kind: Option<ErrorKind>) {
        self.state().failure = kind;
    }

    /// From now on so many calls of fetches are answered in any second, and those beyond are
    /// throttled, each with the time after which it may come again.
    ///
    /// # Panics
    /// If there are to be none.
    pub fn limit_calls(&self, a_second: usize) {
        assert!(a_second > 0, "a store that is never asked is not a store");
        self.state().limit = Some(Limit::new(a_second));
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
        self.state().announce(change);
    }

    /// Ends every subscription, as a store does that goes away.
    pub fn hang_up(&self) {
        self.state().changes = State::channel();
    }

    /// How many subscriptions there are.
    pub fn subscribers(&self) -> usize {
        self.state().changes.receiver_count()
    }

    /// How many secrets were asked for so far, counting each one of a `fetch_many`.
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }

    /// How many calls of the store all fetches took so far: one for each, or as many as
    /// [`Capabilities::batch`] makes of a `fetch_many`.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// How many of them were throttled, by [`limit_calls`](Self::limit_calls).
    pub fn throttled(&self) -> u64 {
        self.state().limit.as_ref().map_or(0, Limit::refused)
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
        let batch = self
            .descriptor
            .capabilities
            .batch
            .map_or(usize::MAX, |batch| usize::try_from(batch.get()).unwrap_or(usize::MAX));
        let mut throttled = None;
        for _ in requests.chunks(batch) {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let mut state = self.state();
            throttled = throttled.or(state.limit.as_mut().and_then(Limit::refuse));
        }
        if let Some(wait) = throttled {
            let kind = ErrorKind::Throttled { retry_after: Some(wait) };
            let error = Error::new(kind, "the double is called too often");
            return requests.iter().map(|_| Err(error.clone())).collect();
        }
        self.fetches.fetch_add(requests.len() as u64, Ordering::SeqCst);
        let (answers, latency) = {
            let mut state = self.state();
            assert!(!std::mem::take(&mut state.panic_next), "the double was told to panic");
            let answer = |request| state.answer(request, self.descriptor.capabilities);
            (requests.iter().map(answer).collect(), state.latency.max(state.pace))
        };
        let deadline = requests.iter().filter_map(|request| request.deadline).min();
        let keeps = self.keeps_deadlines.load(Ordering::SeqCst);
        match deadline.filter(|_| keeps) {
            None => self.wait(latency, true).await,
            Some(deadline) => {
                if timeout_at(deadline, self.wait(latency, true)).await.is_err() {
                    let late = Error::new(ErrorKind::DeadlineExceeded, "the double took too long");
                    return requests.iter().map(|_| Err(late.clone())).collect();
                }
            }
        }
        answers
    }

    /// Takes its time, and hangs where it was told to.
    async fn wait(&self, latency: Duration, is_fetch: bool) {
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        for (hangs, concerns) in [(&self.hanging, is_fetch), (&self.stuck, true)] {
            if concerns {
                let mut hangs = hangs.subscribe();
                hangs.wait_for(|on| !on).await.expect("the double outlives its own calls");
            }
        }
    }

    /// What every call does that is no fetch: it takes its time where a slow store is played.
    async fn wait_as_played(&self) {
        let pace = self.state().pace;
        self.wait(pace, false).await;
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
        self.wait_as_played().await;
        if !self.descriptor.capabilities.stamps {
            let none = Error::new(ErrorKind::Unsupported, "the double has no stamps");
            return keys.iter().map(|_| Err(none.clone())).collect();
        }
        let state = self.state();
        keys.iter().map(|key| state.stamp(key)).collect()
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
        self.writable.then_some(self as _)
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        Some(self)
    }
}

#[async_trait]
impl SecretLister for MemoryProvider {
    async fn list(&self) -> Result<Vec<SecretKey>> {
        self.wait_as_played().await;
        let state = self.state();
        state.check_up(&"a listing")?;
        Ok(state.keys())
    }

    async fn versions(&self, key: &SecretKey) -> Result<Vec<VersionInfo>> {
        self.wait_as_played().await;
        let state = self.state();
        state.check_up(key)?;
        if !self.descriptor.capabilities.versions {
            return Err(Error::new(ErrorKind::Unsupported, "the double has no versions"));
        }
        state.versions(key)
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
    async fn a_limit_counts_what_a_batch_takes() {
        let batch = std::num::NonZeroU32::new(2);
        let store = MemoryProvider::with_capabilities(Capabilities { batch, ..Default::default() });
        store.put("a", "v");
        store.limit_calls(3);
        let answers = store.fetch_many(&vec![ask("a"); 5]).await;
        assert_eq!((answers.iter().all(Result::is_ok), store.calls()), (true, 3));
        let error = store.fetch(&ask("a")).await.unwrap_err();
        let ErrorKind::Throttled { retry_after: Some(wait) } = error.kind() else { panic!() };
        assert_eq!((store.calls(), store.throttled(), store.fetches()), (4, 1, 5));
        tokio::time::sleep(wait).await;
        assert!(store.fetch(&ask("a")).await.is_ok());
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
