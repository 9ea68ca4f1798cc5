//! A service under load whose credential is rotated: what the rehearsals with a store of their own
//! have in common.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_core::{Managed, ManagedHook, SecretProvider, SecretRef, SecretSet};
use oneiric_runtime::{Runtime, RuntimeOptions};
use oneiric_secrets::{Resolver, ResolverOptions};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long a change may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);

/// The server behind the service: it takes the newest credential and the one before.
#[derive(Default)]
struct Server {
    accepted: Mutex<HashSet<u64>>,
    failed: AtomicU64,
    served: AtomicU64,
}

impl Server {
    fn request(&self, credential: u64) {
        let accepted = self.accepted.lock().unwrap().contains(&credential);
        let count = if accepted { &self.served } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// A service that sends requests with its credential, from four tasks, until it ends.
pub(crate) struct Service {
    runtime: Runtime,
    server: Arc<Server>,
    managed: Managed<u64>,
    load: Vec<JoinHandle<()>>,
    done: Arc<AtomicBool>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

/// The number at the end of each part of a credential; a mixed one has none.
fn number(set: &SecretSet, parts: &[SecretRef]) -> u64 {
    let numbers = parts.iter().map(|part| {
        let text = set.get(part).unwrap().expose_str().unwrap();
        text.rsplit('-').next().unwrap().parse::<u64>().unwrap()
    });
    let numbers: HashSet<u64> = numbers.collect();
    assert_eq!(numbers.len(), 1, "a mixed credential");
    numbers.into_iter().next().unwrap()
}

impl Service {
    /// A service over this store, which is swept in this interval. It begins with credential 1,
    /// whose parts are read together, with others besides that stay as they are.
    pub(crate) async fn over(
        provider: Arc<dyn SecretProvider>,
        watch_interval: Duration,
        credential: &[&str],
        others: &[&str],
    ) -> Self {
        let name = provider.descriptor().kind.parse().unwrap();
        let resolver = Resolver::new([(name, provider)], ResolverOptions::default());
        let mut options = RuntimeOptions::new("test".parse().unwrap());
        options.watch_interval = watch_interval;
        let (runtime, task) = options.build(resolver).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(task.run(stop.clone()));

        let parse = |text: &&str| text.parse::<SecretRef>().unwrap();
        let parts: Vec<SecretRef> = credential.iter().map(parse).collect();
        let all: Vec<SecretRef> = credential.iter().chain(others).map(parse).collect();
        let hook = ManagedHook::new("client".parse().unwrap(), all, move |set: SecretSet| {
            let number = number(&set, &parts);
            async move { Ok(number) }
        });
        let managed = runtime.manage(hook).await.unwrap();

        let (server, done) = (Arc::new(Server::default()), Arc::new(AtomicBool::new(false)));
        let service = Self { runtime, server, managed, load: Vec::new(), done, stop, running };
        service.take(1);
        let load = (0..4).map(|_| {
            let (server, managed, done) =
                (Arc::clone(&service.server), service.managed.clone(), Arc::clone(&service.done));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    server.request(*managed.load());
                    sleep(Duration::from_micros(500)).await;
                }
            })
        });
        let load = load.collect();
        Self { load, ..service }
    }

    /// From now on the server takes this credential, and the one before it; no other.
    pub(crate) fn take(&self, credential: u64) {
        *self.server.accepted.lock().unwrap() = HashSet::from([credential, credential - 1]);
    }

    /// Waits until the service uses this credential, and nobody in it the one before any more:
    /// whoever revokes a credential may go by that alone. To be called when the credential has been
    /// written; answers with how long it took from then until it was used.
    pub(crate) async fn uses(&self, credential: u64) -> Duration {
        let written = Instant::now();
        let used = async {
            while *self.managed.load() != credential {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = timeout(ARRIVAL, used).await;
        assert!(in_time.is_ok(), "credential {credential} was not noticed");
        let took = written.elapsed();
        let drained = async {
            while self.runtime.status().await.unwrap().adapters.iter().any(|of| of.draining > 0) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = timeout(ARRIVAL, drained).await;
        assert!(in_time.is_ok(), "the credential before {credential} is still in use");
        took
    }

    /// Ends it, and says what it came to; no request may have failed.
    pub(crate) async fn end(self, name: &str, mut took: Vec<Duration>) {
        self.done.store(true, Ordering::Relaxed);
        for task in self.load {
            task.await.unwrap();
        }
        took.sort();
        let at = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1e3;
        let (served, failed) = (&self.server.served, &self.server.failed);
        let (served, failed) = (served.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
        say(&format!(
            "{name}: {} rotations, {served} requests, {failed} failed, write to use p50 {:.1} ms, \
             p99 {:.1} ms",
            took.len(),
            at(50),
            at(99),
        ));
        assert_eq!(failed, 0, "{name}");
        assert!(served > 1000, "{name}: the service was under load");
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

#[expect(clippy::print_stderr, reason = "a measurement is to be seen and is not asserted")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}
