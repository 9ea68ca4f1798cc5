//! How long a change takes to reach adapters: asked for, noticed in a file, and in a thousand of
//! them at once.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use oneiric_core::{
    AdapterId, DrainReport, HookError, LifecycleHook, Managed, ManagedHook, Prepared,
    RefusalStream, Retired, SecretRef, SecretSet,
};
use oneiric_runtime::report::{AdapterOutcome, Progress};
use oneiric_runtime::{RotateRequest, Runtime, RuntimeOptions};
use oneiric_secrets::{Resolver, ResolverOptions, Scope};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::report::{Figure, Target, quantile};

const KEY: &str = "token";
/// How many adapters share one secret where many do.
const MANY: usize = 1000;
/// How many changes a burst has.
const BURST: usize = 100;
/// Longer than any change should take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two changes, so that each is one by itself.
const APART: Duration = Duration::from_millis(60);

/// All figures of swaps, from so many changes each. A run of the first two is the 99th percentile
/// of that many changes.
///
/// # Panics
/// If a runtime or a folder cannot be made, or a change does not arrive.
pub fn figures(runs: usize, changes: usize) -> Vec<Figure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    runtime.block_on(async {
        let mut triggers = Vec::new();
        let mut renames = Vec::new();
        let mut spreads = Vec::new();
        let mut bursts = Vec::new();
        for _ in 0..runs {
            triggers.push(trigger_to_commit(changes).await);
            renames.push(rename_to_commit(changes).await);
            bursts.push(burst().await);
            spreads.push(spread().await);
        }
        let halves = |of: &[(f64, f64)]| {
            let (half, most): (Vec<_>, Vec<_>) = of.iter().copied().unzip();
            let note = format!("p50 {:.2} ms", quantile(&half, 0.5));
            (most, note)
        };
        let (trigger, trigger_note) = halves(&triggers);
        let (rename, rename_note) = halves(&renames);
        vec![
            Figure::new("trigger_to_commit_ms", "ms, p99", trigger)
                .target(Target::AtMost(10.0))
                .note(trigger_note),
            Figure::new("rename_to_commit_ms", "ms, p99", rename)
                .target(Target::AtMost(5.0))
                .note(rename_note),
            Figure::new("burst_of_100_prepares", "prepares", bursts).target(Target::AtMost(2.0)),
            Figure::new("commit_spread_1000_ms", "ms", spreads).target(Target::AtMost(50.0)),
        ]
    })
}

/// A service over a folder of secrets.
struct Service {
    dir: TempDir,
    runtime: Runtime,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Service {
    fn start(watch_interval: Duration) -> Self {
        let dir = TempDir::new().expect("a folder can be made");
        put(dir.path(), "0");
        let provider = oneiric_provider_file::Config::new(dir.path()).build().expect("a folder");
        let providers = [("files".parse().expect("an id"), Arc::new(provider) as _)];
        let resolver = Resolver::new(providers, ResolverOptions::default());
        let mut options = RuntimeOptions::new("bench".parse().expect("an id"));
        options.watch_interval = watch_interval;
        let (runtime, task) = options.build(resolver).expect("nothing is bound");
        let stop = CancellationToken::new();
        let task = tokio::spawn(task.run(stop.clone()));
        Self { dir, runtime, stop, task }
    }

    /// An adapter that holds a copy of its secret, and counts what it prepares.
    async fn copy(&self, prepares: &Arc<Mutex<usize>>) -> Managed<String> {
        let prepares = Arc::clone(prepares);
        let hook = ManagedHook::new("copy".parse().expect("an id"), [secret()], move |secrets| {
            *prepares.lock().expect("no panic holds it") += 1;
            let value = secrets.get(&secret()).and_then(|value| value.expose_str());
            let value = value.map(str::to_owned);
            async move { value.ok_or(HookError::failed("it is text")) }
        });
        self.runtime.manage(hook).await.expect("the secret is there")
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("the runtime does not panic");
    }
}

fn secret() -> SecretRef {
    format!("files:{KEY}").parse().expect("a reference")
}

/// Renames a file over the one that is there, and says when.
fn put(dir: &Path, value: &str) -> Instant {
    let beside = dir.join(".new");
    std::fs::write(&beside, value).expect("a file can be written");
    let now = Instant::now();
    std::fs::rename(&beside, dir.join(KEY)).expect("a file can be renamed");
    now
}

fn request() -> RotateRequest {
    let keys = vec![KEY.parse().expect("a key")];
    RotateRequest::new(Scope::Keys("files".parse().expect("an id"), keys))
}

/// From a trigger until the adapter serves the new secret: half and 99 percent of them.
async fn trigger_to_commit(changes: usize) -> (f64, f64) {
    let service = Service::start(Duration::ZERO);
    let managed = service.copy(&Arc::default()).await;
    let mut took = Vec::new();
    for change in 1..=changes {
        put(service.dir.path(), &change.to_string());
        let committed = managed.load().retired();
        let start = Instant::now();
        let mut steps = service.runtime.rotate_with_progress(request());
        timeout(PATIENCE, committed).await.expect("it is committed");
        took.push(millis(start.elapsed()));
        while let Some(step) = steps.recv().await {
            if let Progress::Finished(report) = step {
                assert_eq!(report.adapters[0].outcome, AdapterOutcome::Drained);
            }
        }
        assert_eq!(*managed.load(), change.to_string());
    }
    service.stop().await;
    (quantile(&took, 0.5), quantile(&took, 0.99))
}

/// From the rename of a file until the adapter serves what is in it.
async fn rename_to_commit(changes: usize) -> (f64, f64) {
    let service = Service::start(Duration::from_secs(30));
    let managed = service.copy(&Arc::default()).await;
    // The watch is there some time after the adapter.
    sleep(Duration::from_millis(200)).await;
    let mut took = Vec::new();
    for change in 1..=changes {
        let committed = managed.load().retired();
        let start = put(service.dir.path(), &change.to_string());
        timeout(PATIENCE, committed).await.expect("it is noticed");
        took.push(millis(start.elapsed()));
        assert_eq!(*managed.load(), change.to_string());
        sleep(APART).await;
    }
    service.stop().await;
    (quantile(&took, 0.5), quantile(&took, 0.99))
}

/// How often an adapter is prepared when a file is replaced a hundred times in a row.
async fn burst() -> f64 {
    let service = Service::start(Duration::from_secs(30));
    let prepares = Arc::default();
    let managed = service.copy(&prepares).await;
    sleep(Duration::from_millis(200)).await;
    *prepares.lock().expect("no panic holds it") = 0;
    for change in 1..=BURST {
        put(service.dir.path(), &change.to_string());
    }
    let arrived = async {
        while *managed.load() != BURST.to_string() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, arrived).await.expect("the last one arrives");
    sleep(Duration::from_millis(300)).await;
    let prepares = *prepares.lock().expect("no panic holds it");
    service.stop().await;
    prepares as f64
}

/// Notes when each of many adapters was committed.
#[derive(Debug, Clone)]
struct Noting {
    id: AdapterId,
    secrets: [SecretRef; 1],
    committed: Arc<Mutex<Vec<Instant>>>,
}

#[async_trait]
impl LifecycleHook for Noting {
    fn id(&self) -> &AdapterId {
        &self.id
    }

    fn secrets(&self) -> &[SecretRef] {
        &self.secrets
    }

    async fn prepare(&self, _: &SecretSet) -> Result<Box<dyn Prepared>, HookError> {
        Ok(Box::new(self.clone()))
    }

    fn refusals(&self) -> Option<RefusalStream> {
        None
    }

    async fn release(&self, _deadline: tokio::time::Instant) {}
}

impl Prepared for Noting {
    fn commit(self: Box<Self>) -> Box<dyn Retired> {
        self.committed.lock().expect("no panic holds it").push(Instant::now());
        self
    }
}

#[async_trait]
impl Retired for Noting {
    async fn drain(self: Box<Self>, _: tokio::time::Instant) -> DrainReport {
        DrainReport::drained()
    }
}

/// The time between the first and the last commit of a thousand adapters on one secret.
async fn spread() -> f64 {
    let service = Service::start(Duration::ZERO);
    let committed: Arc<Mutex<Vec<Instant>>> = Arc::default();
    for adapter in 0..MANY {
        let id = format!("of-{adapter}").parse().expect("an id");
        let hook = Noting { id, secrets: [secret()], committed: Arc::clone(&committed) };
        service.runtime.register(Arc::new(hook)).await.expect("the secret is there");
    }
    committed.lock().expect("no panic holds it").clear();
    put(service.dir.path(), "next");
    let report = service.runtime.rotate(request()).await;
    assert_eq!(report.adapters.len(), MANY);
    service.stop().await;
    let committed = committed.lock().expect("no panic holds it");
    assert_eq!(committed.len(), MANY);
    let first = committed.iter().min().expect("there are many");
    let last = committed.iter().max().expect("there are many");
    millis(*last - *first)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
