//! Bad questions, bad times, and what is printed about them.

use std::time::Duration;

use oneiric_core::{ErrorKind, FetchRequest};
use tokio::time::Instant;

use crate::bench::{Bench, Check, Stop, ensure, ensure_error, ensure_value, unexpected};
use crate::canary::scan_for_canary;
use crate::rig::Fault;

pub(crate) async fn a_hostile_key_gets_an_error(bench: &Bench<'_>) -> Check {
    let long = "k".repeat(1024);
    for key in ["../secret", "a/../../etc/passwd", "/etc/passwd", "%2e%2e%2fa", "a b\\c?d&e", &long]
    {
        let key = key.parse().expect("these are keys to the core");
        let answer = bench.fetch(&key).await;
        let kinds = [ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Denied];
        ensure_error(&answer, &kinds)?;
    }
    Ok(())
}

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
    let (key, value) = bench.given("outage").await?;
    bench.fetched(&key).await?;
    bench.play(Fault::Unreachable).await?;
    let mut request = FetchRequest::new(key.clone());
    request.deadline = Some(Instant::now() + Duration::from_secs(10));
    let answer = bench.ask(&request).await;
    let stamp = bench.stamp(&key).await;
    bench.mend().await?;
    let kinds = [
        ErrorKind::Unavailable,
        ErrorKind::DeadlineExceeded,
        ErrorKind::Denied,
        ErrorKind::Unauthenticated,
    ];
    ensure_error(&answer, &kinds)?;
    if bench.capabilities.stamps {
        ensure_error(&stamp?, &kinds)?;
    }
    match bench.fetch(&key).await {
        Ok(fetched) => ensure_value(&fetched, &value),
        Err(error) => Err(unexpected("a value after the outage", &error)),
    }
}

/// The last but one: it looks at everything that the others made the provider print.
pub(crate) async fn nothing_printed_shows_a_value(bench: &Bench<'_>) -> Check {
    let found = scan_for_canary(bench.printed(), &bench.canary);
    ensure(found.is_none(), || {
        format!("a Debug or Display shows a value: {}", found.unwrap_or_default())
    })
}

/// The last: it looks at everything that was logged, by whatever thread.
pub(crate) async fn nothing_logged_shows_a_value(bench: &Bench<'_>) -> Check {
    let Some(capture) = &bench.capture else {
        return Err(Stop::Skip("this process has a tracing subscriber of its own".into()));
    };
    let found = scan_for_canary(capture.lines(), &bench.canary);
    ensure(found.is_none(), || format!("a log line shows a value: {}", found.unwrap_or_default()))
}
