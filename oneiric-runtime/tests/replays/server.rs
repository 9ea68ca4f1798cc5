//! A server that accepts some credentials, and consumers that use theirs all the time.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_core::{HookError, Managed, ManagedHook, SecretRef};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Between two requests of one consumer.
const PACE: Duration = Duration::from_millis(50);

/// Accepts what it was told to, and counts.
#[derive(Debug, Default)]
pub(crate) struct Server {
    accepted: Mutex<BTreeSet<String>>,
    served: AtomicU64,
    refused: AtomicU64,
}

impl Server {
    pub(crate) fn accept(&self, credential: &str) {
        self.accepted.lock().unwrap().insert(credential.to_owned());
    }

    pub(crate) fn revoke(&self, credential: &str) {
        self.accepted.lock().unwrap().remove(credential);
    }

    /// Whether a credential is good, without counting.
    fn accepts(&self, credential: &str) -> bool {
        self.accepted.lock().unwrap().contains(credential)
    }

    fn request(&self, credential: &str) {
        let count = if self.accepts(credential) { &self.served } else { &self.refused };
        count.fetch_add(1, Ordering::SeqCst);
    }

    /// How many requests were served, and how many refused.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.served.load(Ordering::SeqCst), self.refused.load(Ordering::SeqCst))
    }

    /// An adapter that proves its credential here.
    pub(crate) fn adapter(self: &Arc<Self>, id: &str, secret: &SecretRef) -> ManagedHook<String> {
        let (server, secret) = (Arc::clone(self), secret.clone());
        ManagedHook::new(id.parse().unwrap(), [secret.clone()], move |secrets| {
            let value = secrets.get(&secret).and_then(|value| value.expose_str());
            let value = value.map(str::to_owned);
            async move { value.ok_or(HookError::failed("it is no text")) }
        })
        .prove(move |credential| {
            let accepted = server.accepts(&credential);
            async move { accepted.then_some(()).ok_or(HookError::refused("it is not accepted")) }
        })
    }

    /// A consumer of an adapter.
    pub(crate) fn consumer(self: &Arc<Self>, managed: Managed<String>) -> JoinHandle<()> {
        self.load(move || managed.load().clone())
    }

    /// A consumer of whatever this gives.
    pub(crate) fn load(
        self: &Arc<Self>,
        credential: impl Fn() -> String + Send + 'static,
    ) -> JoinHandle<()> {
        let server = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                server.request(&credential());
                sleep(PACE).await;
            }
        })
    }
}
