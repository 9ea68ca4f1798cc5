//! A load that never pauses: clients that use the credential again and again until told to stop.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How many failures are kept in words.
const KEPT: usize = 5;
/// After this long without reaching its number of requests a rehearsal is given up.
const LIMIT: Duration = Duration::from_secs(600);

/// The running load.
pub(crate) struct Load {
    counts: Arc<Counts>,
    clients: JoinSet<()>,
    started: Instant,
}

/// What the clients count.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    requests: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
    failures: Mutex<Vec<String>>,
}

impl Counts {
    /// Whether the client is to go on.
    pub(crate) fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Counts one request.
    pub(crate) fn count(&self, outcome: Result<(), String>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if let Err(failure) = outcome {
            self.failed.fetch_add(1, Ordering::Relaxed);
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            if failures.len() < KEPT {
                failures.push(failure);
            }
        }
    }
}

impl Load {
    /// Starts this many clients.
    pub(crate) fn start<F>(clients: u32, client: impl Fn(Arc<Counts>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let counts = Arc::<Counts>::default();
        let mut running = JoinSet::new();
        for _ in 0..clients {
            running.spawn(client(Arc::clone(&counts)));
        }
        Self { counts, clients: running, started: Instant::now() }
    }

    /// Waits until so many requests were made.
    pub(crate) async fn reach(&self, requests: u64) -> Result<(), String> {
        while self.counts.requests.load(Ordering::Relaxed) < requests {
            if self.started.elapsed() > LIMIT {
                return Err(format!("no {requests} requests within {} s", LIMIT.as_secs()));
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// How many have failed so far.
    #[cfg(feature = "postgres-vault")]
    pub(crate) fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::Relaxed)
    }

    /// Ends every client after its request; gives requests, failed ones, and some of them in
    /// words.
    pub(crate) async fn stop(mut self) -> Result<(u64, u64, Vec<String>), String> {
        self.counts.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.map_err(|error| format!("a client did not end well: {error}"))?;
        }
        let failures = self.counts.failures.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        Ok((count(&self.counts.requests), count(&self.counts.failed), failures))
    }
}
