//! A service under load whose credential is rotated: what the rehearsals with a store of their own
//! have in common.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oneiric_core::Managed;
use oneiric_runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

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
}

impl Service {
    /// A service that begins with credential 1.
    pub(crate) fn start(runtime: Runtime, managed: Managed<u64>) -> Self {
        let (server, done) = (Arc::new(Server::default()), Arc::new(AtomicBool::new(false)));
        let service = Self { runtime, server, managed, load: Vec::new(), done };
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
    /// whoever revokes a credential may go by that alone. Answers with how long it took since then
    /// until it was used.
    pub(crate) async fn uses(&self, credential: u64, since: Instant) -> Duration {
        let used = async {
            while *self.managed.load() != credential {
                sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = timeout(ARRIVAL, used).await;
        assert!(in_time.is_ok(), "credential {credential} was not noticed");
        let took = since.elapsed();
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
            "{name}: {} rotations, {served} requests, {failed} failed, event to use p50 {:.1} ms, \
             p99 {:.1} ms",
            took.len(),
            at(50),
            at(99),
        ));
        assert_eq!(failed, 0, "{name}");
        assert!(served > 1000, "{name}: the service was under load");
    }
}

#[expect(clippy::print_stderr, reason = "a measurement is to be seen and is not asserted")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}
