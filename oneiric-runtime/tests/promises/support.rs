//! What the suites of the runtime share: a store in memory, a runtime over it, and an adapter
//! whose every step can be watched and made to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use oneiric_core::{
    Change, HookError, InstanceId, Managed, ManagedHook, SecretProvider, SecretRef, Version,
};
use oneiric_runtime::report::{InstanceReport, ProviderStatus};
use oneiric_runtime::{RotateRequest, Runtime, RuntimeOptions};
use oneiric_secrets::{Resolver, ResolverOptions, Scope};
use oneiric_testkit::MemoryProvider;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::metered::Metered;

pub(crate) struct Rig {
    pub(crate) store: Arc<MemoryProvider>,
    pub(crate) runtime: Runtime,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Rig {
    /// A runtime that watches only if it is told how often.
    pub(crate) fn start(watch_interval: Duration) -> Self {
        let store = MemoryProvider::new();
        Self::over(Arc::clone(&store) as _, store, watch_interval)
    }

    /// The same over a store that has a price, at an hour's sweep behind push.
    pub(crate) fn metered(metered: &Arc<Metered>, watch_interval: Duration) -> Self {
        Self::over(Arc::clone(metered) as _, Arc::clone(&metered.store), watch_interval)
    }

    fn over(
        provider: Arc<dyn SecretProvider>,
        store: Arc<MemoryProvider>,
        watch_interval: Duration,
    ) -> Self {
        let providers = [("mem".parse().unwrap(), provider)];
        let resolver = Resolver::new(providers, ResolverOptions::default());
        let mut options = RuntimeOptions::new("test".parse::<InstanceId>().unwrap());
        options.watch_interval = watch_interval;
        options.push_sweep_interval = Duration::from_secs(3600);
        options.drain_timeout = Duration::from_secs(2);
        let (runtime, task) = options.build(resolver).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        Self { store, runtime, stop, task }
    }

    pub(crate) async fn adapter(&self, id: &str, keys: &[&str]) -> Adapter {
        let adapter = Adapter::new();
        let managed = self.runtime.manage(adapter.hook(id, keys)).await.unwrap();
        Adapter { managed: Some(managed), ..adapter }
    }

    pub(crate) async fn rotate(&self, keys: &[&str]) -> InstanceReport {
        self.runtime.rotate(RotateRequest::new(scope(keys))).await
    }

    /// How the store is watched.
    pub(crate) async fn watched(&self) -> ProviderStatus {
        self.runtime.status().await.unwrap().providers.remove(0)
    }

    /// Tells of a version, as the store's own events do.
    pub(crate) fn announce(&self, key: &str, version: impl Into<Option<u64>>) {
        let version = version.into().map(Version::numbered);
        self.store.announce(Change::Secret { key: key.parse().unwrap(), version });
    }

    /// Ends the runtime; panics if it does not end by itself.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) fn scope(keys: &[&str]) -> Scope {
    let keys = keys.iter().map(|key| key.parse().unwrap()).collect();
    Scope::Keys("mem".parse().unwrap(), keys)
}

/// An adapter whose generations are the values of its secrets, joined by commas.
#[derive(Clone, Default)]
pub(crate) struct Adapter {
    pub(crate) prepares: Arc<AtomicUsize>,
    pub(crate) closes: Arc<AtomicUsize>,
    /// Whether a proof fails, or panics, or never ends.
    pub(crate) refuse: Arc<AtomicBool>,
    pub(crate) panic: Arc<AtomicBool>,
    pub(crate) hang: Arc<AtomicBool>,
    managed: Option<Managed<String>>,
}

impl Adapter {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn hook(&self, id: &str, keys: &[&str]) -> ManagedHook<String> {
        let secrets: Vec<SecretRef> =
            keys.iter().map(|key| format!("mem:{key}").parse().unwrap()).collect();
        let (prepares, closes) = (Arc::clone(&self.prepares), Arc::clone(&self.closes));
        let (refuse, panic, hang) =
            (Arc::clone(&self.refuse), Arc::clone(&self.panic), Arc::clone(&self.hang));
        ManagedHook::new(id.parse().unwrap(), secrets, move |secrets| {
            prepares.fetch_add(1, Ordering::SeqCst);
            async move {
                let values: Vec<_> =
                    secrets.values().filter_map(|value| value.expose_str()).collect();
                Ok(values.join(","))
            }
        })
        .prove(move |_| {
            let refuse = refuse.load(Ordering::SeqCst);
            let hang = hang.load(Ordering::SeqCst);
            assert!(!panic.load(Ordering::SeqCst), "the proof panics, as it was told to");
            async move {
                if hang {
                    std::future::pending::<()>().await;
                }
                if refuse { Err(HookError::refused("login failed")) } else { Ok(()) }
            }
        })
        .close(move |_| {
            closes.fetch_add(1, Ordering::SeqCst);
            async {}
        })
    }

    pub(crate) fn managed(&self) -> &Managed<String> {
        self.managed.as_ref().expect("the adapter is registered")
    }

    pub(crate) fn serves(&self) -> String {
        self.managed().load().clone()
    }

    pub(crate) fn prepares(&self) -> usize {
        self.prepares.load(Ordering::SeqCst)
    }
}
