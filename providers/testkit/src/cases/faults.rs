//! Stores out of order, and what is said about them.

use std::time::Duration;

use oneiric_core::{ErrorKind, FetchRequest, Fetched, Result, SecretKey, SecretValue};
use tokio::time::{Instant, timeout};

use super::sets::dropped_at_every_await;
use crate::bench::{Bench, ensure_error, ensure_value, unexpected};
use crate::report::{Check, Stop, ensure};
use crate::rig::Fault;

/// How long a read may take past its deadline. Generous: a slow machine is no defect.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn a_deadline_that_passed_is_said_so(bench: &Bench<'_>) -> Check {
    let (key, value) = bench.given("deadline").await?;
    let mut request = FetchRequest::new(key);
    let now = Instant::now();
    request.deadline = Some(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
    match bench.ask(&request).await {
        // It was quicker than a look at the time.
        Ok(fetched) => ensure_value(&fetched, &value),
        answer => ensure_error(&answer, &[ErrorKind::DeadlineExceeded]).map(drop),
    }
}

pub(crate) async fn an_outage_is_no_absence_and_passes(bench: &Bench<'_>) -> Check {
    let kinds = [
        ErrorKind::Unavailable,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Denied,
        ErrorKind::Unauthenticated,
    ];
    refused(bench, "outage", Fault::Unreachable, &kinds).await
}

pub(crate) async fn a_denial_is_said_so_and_passes(bench: &Bench<'_>) -> Check {
    refused(bench, "denied", Fault::Denied, &[ErrorKind::Denied]).await
}

pub(crate) async fn an_unknown_identity_is_said_so_and_passes(bench: &Bench<'_>) -> Check {
    refused(bench, "unknown", Fault::UnknownIdentity, &[ErrorKind::Unauthenticated]).await
}

pub(crate) async fn a_throttle_is_said_with_the_time_to_wait(bench: &Bench<'_>) -> Check {
    throttled(bench, "throttled", Some(Duration::from_secs(7))).await
}

pub(crate) async fn a_throttle_without_a_time_is_said_so(bench: &Bench<'_>) -> Check {
    throttled(bench, "throttled-plainly", None).await
}

async fn throttled(bench: &Bench<'_>, name: &str, retry_after: Option<Duration>) -> Check {
    let kind = ErrorKind::Throttled { retry_after };
    refused(bench, name, Fault::Throttled { retry_after }, &[kind]).await
}

/// Every way of asking is refused with one of these kinds while the fault lasts, and no longer.
async fn refused(bench: &Bench<'_>, name: &str, fault: Fault, kinds: &[ErrorKind]) -> Check {
    let (key, value) = bench.given(name).await?;
    bench.fetched(&key).await?;
    let fresh = bench.key(&format!("{name}-written"));
    if let Ok(writer) = bench.writer() {
        writer.room(&fresh).await?;
    }
    bench.play(fault).await?;
    let request = soon(&key, Duration::from_secs(10));
    ensure_error(&bench.ask(&request).await, kinds)?;
    for answer in bench.ask_many(&[request.clone(), request]).await? {
        ensure_error(&answer, kinds)?;
    }
    if bench.capabilities.stamps {
        ensure_error(&bench.stamp(&key).await?, kinds)?;
    }
    if let Some(lister) = bench.provider.lister() {
        let keys = lister.list().await;
        bench.note_answer(&keys);
        ensure_error(&keys, kinds)?;
        if bench.capabilities.versions {
            let versions = lister.versions(&key).await;
            bench.note_answer(&versions);
            ensure_error(&versions, kinds)?;
        }
    }
    if let Ok(writer) = bench.writer() {
        let written = writer.create(&fresh, &bench.secret(), "refused").await;
        // Of a write to a store that cannot be reached nobody may know what became.
        let ambiguous = kinds.contains(&ErrorKind::Unavailable).then_some(ErrorKind::Ambiguous);
        ensure_error(&written, &kinds.iter().copied().chain(ambiguous).collect::<Vec<_>>())?;
    }
    bench.mend().await?;
    passed(bench, &key, &value).await
}

pub(crate) async fn a_slow_answer_ends_at_the_deadline(bench: &Bench<'_>) -> Check {
    let (key, value) = bench.given("slow").await?;
    bench.play(Fault::Slow(Duration::from_millis(400))).await?;
    ends(bench.ask(&soon(&key, Duration::from_millis(50)))).await?;
    // Who has time gets it.
    ensure_value(&bench.fetched(&key).await?, &value)
}

pub(crate) async fn a_hanging_store_ends_at_the_deadline(bench: &Bench<'_>) -> Check {
    let (key, value) = bench.given("hanging").await?;
    bench.play(Fault::Hanging).await?;
    let request = soon(&key, Duration::from_millis(200));
    ends(bench.ask(&request)).await?;
    let many = [soon(&key, Duration::from_millis(200)), soon(&key, Duration::from_millis(200))];
    for answer in timeout(PATIENCE, bench.ask_many(&many)).await.map_err(|_| late())?? {
        ensure_error(&answer, &[ErrorKind::DeadlineExceeded])?;
    }
    // A caller who gives up keeps nobody else waiting later.
    let given_up = timeout(Duration::from_millis(100), bench.fetch(&key)).await;
    ensure(given_up.is_err(), || "the store hangs, and an answer came".into())?;
    bench.mend().await?;
    passed(bench, &key, &value).await
}

pub(crate) async fn a_slow_read_may_be_dropped_at_any_await(bench: &Bench<'_>) -> Check {
    let (key, value) = bench.given("slow-dropped").await?;
    bench.play(Fault::Slow(Duration::from_millis(10))).await?;
    dropped_at_every_await(bench, &key, &value).await
}

/// A question for this secret that is given up so soon.
fn soon(key: &SecretKey, after: Duration) -> FetchRequest {
    let mut request = FetchRequest::new(key.clone());
    request.deadline = Some(Instant::now() + after);
    request
}

/// Fails unless the answer is that the deadline has passed, and comes soon after it.
async fn ends(ask: impl Future<Output = Result<Fetched>>) -> Check {
    let answer = timeout(PATIENCE, ask).await.map_err(|_| late())?;
    ensure_error(&answer, &[ErrorKind::DeadlineExceeded]).map(drop)
}

fn late() -> Stop {
    Stop::Fail(format!("the deadline passed, and {PATIENCE:?} later there is no answer"))
}

/// Whether all is well again.
async fn passed(bench: &Bench<'_>, key: &SecretKey, value: &SecretValue) -> Check {
    match bench.fetch(key).await {
        Ok(fetched) => ensure_value(&fetched, value),
        Err(error) => Err(unexpected("a value after it was over", &error)),
    }
}
