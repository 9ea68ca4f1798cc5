//! A prepare that meets a server out of order, or is dropped: the old one serves every time, and
//! nothing of what was given up stays behind.

use std::time::Duration;

use oneiric_core::HookError;
use tokio::time::sleep;

use crate::adapter::bench::{Bench, PATIENCE, SHORT, Tried, awaits, ensure_reached};
use crate::adapter::rig::{Minted, ServerFault};
use crate::poll::poll_at_most;
use crate::report::{Check, Stop, ensure};

/// Of how many awaits of a prepare it is dropped at each.
const EACH_AWAIT: usize = 64;
/// After how many exchanges at most a connection is cut off. A prepare needs no more of them.
const MOST_EXCHANGES: usize = 32;
/// Longer than a time limit by far.
const SLOW: Duration = Duration::from_secs(1);

pub(crate) async fn l1_an_unreachable_server_is_no_refusal(bench: &Bench<'_>) -> Check {
    is_no_refusal(bench, ServerFault::Down).await
}

pub(crate) async fn l1_a_busy_server_is_no_refusal(bench: &Bench<'_>) -> Check {
    is_no_refusal(bench, ServerFault::Busy).await
}

async fn is_no_refusal(bench: &Bench<'_>, fault: ServerFault) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    bench.play(fault).await?;
    tried.not_prepared(PATIENCE, &next, false).await?;
    as_before(&tried, &first, &next).await
}

pub(crate) async fn l1_a_prepare_that_hangs_is_given_up(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    bench.play(ServerFault::Hanging).await?;
    tried.not_prepared(SHORT, &next, false).await?;
    as_before(&tried, &first, &next).await
}

pub(crate) async fn l1_a_prepare_that_is_too_slow_never_serves(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    bench.play(ServerFault::Slow(SLOW)).await?;
    tried.not_prepared(SHORT, &next, false).await?;
    bench.mended().await?;
    // By now it would have been ready.
    sleep(3 * SLOW).await;
    as_before(&tried, &first, &next).await
}

/// After the server is mended the old one serves, nothing is left of the next one, and it can
/// still be had.
async fn as_before(tried: &Tried<'_, '_>, old: &Minted, next: &Minted) -> Check {
    let bench = tried.bench;
    bench.mended().await?;
    tried.recovers(old).await?;
    bench.gone_if_told(next, "it was given up").await?;
    tried.works_with(old).await?;
    tried.rotate(next).await
}

pub(crate) async fn l1_a_prepare_may_be_dropped_at_each_await(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    let mut ready = false;
    for polls in awaits(EACH_AWAIT) {
        let prepared = poll_at_most(polls, tried.prepared(&next)).await.transpose()?;
        ready = prepared.is_some();
        drop(prepared);
        tried.works_with(&first).await?;
        bench.gone_if_told(&next, &format!("dropped at its await {polls}")).await?;
        if ready {
            break;
        }
    }
    ensure_reached(ready, "a prepare")?;
    tried.rotate(&next).await
}

pub(crate) async fn l1_a_prepare_may_be_cut_off_after_any_exchange(bench: &Bench<'_>) -> Check {
    stops_after_any_exchange(bench, PATIENCE, |after| ServerFault::CutOff { after }).await
}

pub(crate) async fn l1_a_prepare_may_hang_after_any_exchange(bench: &Bench<'_>) -> Check {
    stops_after_any_exchange(bench, SHORT, |after| ServerFault::Stalled { after }).await
}

/// Lets a prepare come to every exchange that it needs, and no further.
async fn stops_after_any_exchange(
    bench: &Bench<'_>,
    limit: Duration,
    fault: impl Fn(usize) -> ServerFault,
) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    let mut ready = false;
    for after in 0..=MOST_EXCHANGES {
        match bench.play(fault(after)).await {
            // What was tried went well, and it is not all.
            Err(Stop::Skip(why)) if after > 0 => {
                return Err(Stop::Skip(format!("after {after} exchanges: {why}")));
            }
            played => played?,
        }
        let before = bench.shown(&next).await;
        // By the last one it must be ready, however slow it is.
        let limit = if after == MOST_EXCHANGES { PATIENCE } else { limit };
        let outcome = tried.prepare_within(limit, &next).await?;
        let refused = outcome.as_ref().is_err_and(HookError::is_refused);
        ready = outcome.is_ok();
        drop(outcome);
        let when = format!("after {after} exchanges there were no more");
        ensure(!refused, || format!("{when}, and it is said to be refused"))?;
        bench.mended().await?;
        tried.recovers(&first).await?;
        bench.gone_if_told(&next, &when).await?;
        ensure(!ready || after > 0, || "it was ready without any answer".into())?;
        // Where the server cannot tell, that has to do.
        if let (true, Ok(before)) = (ready, before) {
            let shown = bench.shown(&next).await?;
            ensure(shown > before, || {
                format!("{when}, and it was ready before the server had seen its credential")
            })?;
        }
        if ready {
            break;
        }
    }
    ensure(ready, || {
        format!("a prepare has more than {MOST_EXCHANGES} exchanges, so that its end was not tried")
    })?;
    tried.rotate(&next).await
}
