//! How long a read takes while the provider fails, from the end of the time to live to the end
//! of `stale_if_error`, and what comes then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oneiric_core::{ErrorKind, SecretProvider};
use oneiric_secrets::{Resolver, ResolverOptions};
use oneiric_testkit::MemoryProvider;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::ours::{provider_id, reference};
use crate::report::{Figure, Target, quantile};
use crate::workload::key;

/// How long a value is fresh here.
const TTL: Duration = Duration::from_millis(500);
/// Every so often a read begins, whether those before it have ended or not: who waits for the one
/// before the next does not see how many had to wait.
const PACE: Duration = Duration::from_millis(1);
/// How long a provider takes to say no.
const ANSWER: Duration = Duration::from_millis(5);
/// The target.
const MOST_MICROS: f64 = 1000.0;

/// A way to fail.
struct Failure {
    name: &'static str,
    kind: Option<ErrorKind>,
    latency: Duration,
}

/// The 99th percentile for each way to fail. `window` is `stale_if_error`.
///
/// # Panics
/// If a runtime cannot be built.
pub fn figures(window: Duration) -> Vec<Figure> {
    let throttled = ErrorKind::Throttled { retry_after: Some(Duration::from_secs(1)) };
    let failures = [
        Failure { name: "stale_5xx", kind: Some(ErrorKind::Unavailable), latency: ANSWER },
        Failure { name: "stale_throttled", kind: Some(throttled), latency: ANSWER },
        Failure {
            name: "stale_refused",
            kind: Some(ErrorKind::Unavailable),
            latency: Duration::ZERO,
        },
        Failure { name: "stale_hung", kind: None, latency: Duration::ZERO },
    ];
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime can be built");
    // All four outages at once: what is measured is waiting, not work.
    runtime.block_on(async {
        let outages = failures.map(|failure| tokio::spawn(outage(failure, window)));
        let mut figures = Vec::new();
        for outage in outages {
            figures.push(outage.await.expect("an outage is no panic"));
        }
        figures
    })
}

async fn outage(failure: Failure, window: Duration) -> Figure {
    let provider = MemoryProvider::new();
    provider.put(&key(0), "last good");
    let mut options = ResolverOptions::default();
    options.ttl = TTL;
    options.stale_if_error = window;
    let shared: Arc<dyn SecretProvider> = Arc::clone(&provider) as _;
    let resolver = Resolver::new([(provider_id(), shared)], options);
    let wanted = Arc::new(reference(0));
    resolver.get(&wanted).await.expect("the provider is still there");
    let fetched = Instant::now();
    provider.latency(failure.latency);
    match failure.kind {
        Some(kind) => provider.fail(Some(kind)),
        None => provider.hang(true),
    }
    sleep(TTL).await;
    // A value lives up to a tenth shorter than its time, so all of this is within the window.
    let end = fetched + TTL.mul_f64(0.9) + window - Duration::from_millis(50);
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reads = Vec::new();
    while Instant::now() < end {
        pace.tick().await;
        let (resolver, wanted) = (resolver.clone(), Arc::clone(&wanted));
        reads.push(tokio::spawn(async move {
            let start = Instant::now();
            let secret = resolver.get(&wanted).await;
            let stale = secret.is_ok_and(|secret| secret.stale_for().is_some());
            (start.elapsed().as_secs_f64() * 1e6, stale)
        }));
    }
    let (mut micros, mut not_stale) = (Vec::new(), 0);
    for read in reads {
        let (took, stale) = read.await.expect("a read does not panic");
        micros.push(took);
        not_stale += u32::from(!stale);
    }
    sleep((fetched + TTL + window + PACE).saturating_duration_since(Instant::now())).await;
    let after = resolver.get(&wanted).await;
    let waited = micros.iter().filter(|took| **took > MOST_MICROS).count();
    let figure = Figure::new(failure.name, "µs", vec![quantile(&micros, 0.99)])
        .target(Target::AtMost(MOST_MICROS));
    let worst = quantile(&micros, 1.0) / 1000.0;
    let seen = format!("{waited} of {} reads over 1 ms, the longest {worst:.1} ms", micros.len());
    match after {
        _ if not_stale > 0 => {
            figure.broken(format!("{not_stale} reads got no stale answer; {seen}"))
        }
        Err(error) => figure.note(format!("then `{}`; {seen}", error.kind())),
        Ok(_) => figure.broken(format!("a value after the end of `stale_if_error`; {seen}")),
    }
}
