//! A store in memory whose looks at stamps take time, have a price and can be watched, and whose
//! subscriptions can be refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use oneiric_core::{
    Capabilities, ChangeStream, Descriptor, Detection, FetchRequest, Fetched, Result, SecretKey,
    SecretLister, SecretProvider, SecretWriter, Stamp,
};
use oneiric_testkit::MemoryProvider;
use tokio::time::sleep;

#[derive(Debug)]
pub(crate) struct Metered {
    pub(crate) store: Arc<MemoryProvider>,
    descriptor: Descriptor,
    look_millis: AtomicU64,
    deaf: AtomicBool,
    looking: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Metered {
    /// A paid store, which shows its changes some time or other.
    pub(crate) fn new() -> Arc<Self> {
        let detection =
            Detection { settles_within: None, usd_a_million: None, ..Detection::default() };
        Self::with(detection, true)
    }

    pub(crate) fn with(detection: Detection, stamps: bool) -> Arc<Self> {
        let capabilities =
            Capabilities { versions: true, stamps, push: true, ..Capabilities::default() };
        let store = MemoryProvider::with_capabilities(capabilities);
        let descriptor =
            Descriptor::new("metered", "metered:", capabilities).with_detection(detection);
        Arc::new(Self {
            store,
            descriptor,
            look_millis: AtomicU64::new(0),
            deaf: AtomicBool::new(false),
            looking: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        })
    }

    /// Every look that begins from now on takes this long. It shows what was there when it began.
    pub(crate) fn slow_looks(&self, time: Duration) {
        self.look_millis.store(time.as_millis().try_into().unwrap(), Ordering::SeqCst);
    }

    /// Whether subscriptions are refused; those that there are end.
    pub(crate) fn deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
        self.store.hang_up();
    }

    /// Whether somebody is looking.
    pub(crate) fn is_looked_at(&self) -> bool {
        self.looking.load(Ordering::SeqCst) > 0
    }

    /// How many looks there have been at one time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.most_at_once.load(Ordering::SeqCst)
    }
}

/// One more look for as long as it lives.
struct Looking<'a>(&'a AtomicUsize);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl SecretProvider for Metered {
    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched> {
        self.store.fetch(request).await
    }

    async fn fetch_many(&self, requests: &[FetchRequest]) -> Vec<Result<Fetched>> {
        self.store.fetch_many(requests).await
    }

    async fn stamps(&self, keys: &[SecretKey]) -> Vec<Result<Stamp>> {
        let now = self.looking.fetch_add(1, Ordering::SeqCst) + 1;
        let _looking = Looking(&self.looking);
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        let stamps = self.store.stamps(keys).await;
        sleep(Duration::from_millis(self.look_millis.load(Ordering::SeqCst))).await;
        stamps
    }

    fn changes(&self) -> Option<ChangeStream> {
        if self.deaf.load(Ordering::SeqCst) { None } else { self.store.changes() }
    }

    fn writer(&self) -> Option<&dyn SecretWriter> {
        None
    }

    fn lister(&self) -> Option<&dyn SecretLister> {
        None
    }
}
