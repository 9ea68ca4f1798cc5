//! What is committed serves at once, and what is not leaves nothing: that is what lets a rotation
//! commit all of its adapters or none.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use crate::adapter::bench::{Bench, LONG, PATIENCE, SOON};
use crate::adapter::rig::{Credential, Habit, ServerFault};
use crate::report::{Check, Stop, message};

/// How often a next one is prepared in vain.
const MANY: usize = 20;

pub(crate) async fn l2_a_commit_serves_at_once(bench: &Bench<'_>) -> Check {
    bench.only_with(Habit::MovesAtCommit)?;
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    let prepared = tried.prepared(&next).await?;
    tried.works_at_once(&first, 4).await?;
    let retired = tried.commit(prepared)?;
    tried.works_with(&next).await?;
    tried.works_at_once(&next, 8).await?;
    tried.drained(tried.draining(retired, LONG)).await?;
    tried.works_at_once(&next, 8).await
}

pub(crate) async fn l2_reconnects_take_the_new_secret(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    tried.rotate(&next).await?;
    bench.revoke(&first).await?;
    // Everything that is connected is cut off.
    bench.play(ServerFault::Down).await?;
    bench.mended().await?;
    tried.recovers(&next).await?;
    tried.works_at_once(&next, 4).await
}

pub(crate) async fn l2_a_next_one_that_is_dropped_leaves_nothing(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    drop(tried.prepared(&next).await?);
    tried.works_with(&first).await?;
    bench.gone(&next, "it was dropped uncommitted").await?;
    tried.works_at_once(&first, 4).await?;
    tried.rotate(&next).await
}

pub(crate) async fn l2_many_that_are_dropped_leave_nothing(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = [bench.accepted().await?, bench.accepted().await?];
    for credential in next.iter().cycle().take(MANY) {
        drop(tried.prepared(credential).await?);
        tried.works_with(&first).await?;
    }
    for credential in &next {
        bench.gone(credential, &format!("{MANY} were dropped uncommitted")).await?;
    }
    tried.works_at_once(&first, 4).await
}

pub(crate) async fn l2_a_commit_needs_no_runtime(bench: &Bench<'_>) -> Check {
    let (tried, _) = bench.serving().await?;
    let next = bench.accepted().await?;
    let prepared = tried.prepared(&next).await?;
    let retired = elsewhere(move || prepared.commit())?;
    tried.drained(tried.draining(retired, LONG)).await?;
    tried.works_at_once(&next, 4).await
}

pub(crate) async fn l2_a_drop_needs_no_runtime(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    let prepared = tried.prepared(&next).await?;
    elsewhere(move || drop(prepared))?;
    tried.works_with(&first).await?;
    bench.gone_if_told(&next, "it was dropped on a thread without a runtime").await?;
    tried.works_with(&first).await
}

/// Does something on a thread that knows of no runtime. It is at once, so this waits for it in
/// place, and by the clock on the wall: a paused one would not wait for another thread.
fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Check<T> {
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || {
        // Nobody hears it if the case has given up.
        let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
    });
    match outcome.recv_timeout(SOON) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(panic)) => {
            Err(Stop::Fail(format!("it panicked there: {}", message(panic.as_ref()))))
        }
        Err(_) => Err(Stop::Fail("it does not end there".into())),
    }
}

pub(crate) async fn l2_a_refusal_by_one_adapter_leaves_both_as_they_were(
    bench: &Bench<'_>,
) -> Check {
    let refused = bench.mint(Credential::Refused).await?;
    let (first, next) = (bench.accepted().await?, bench.accepted().await?);
    let (one, other) = (bench.adapter().await, bench.adapter().await);
    one.rotate(&first).await?;
    other.rotate(&first).await?;
    let prepared = one.prepared(&next).await?;
    other.not_prepared(PATIENCE, &refused, true).await?;
    drop(prepared);
    bench.gone_if_told(&next, "the other adapter refused").await?;
    one.works_at_once(&first, 4).await?;
    other.works_at_once(&first, 4).await?;
    // The one moves on, and that is none of the other's concern.
    one.rotate(&next).await?;
    other.works_at_once(&first, 4).await?;
    one.works_with(&next).await?;
    other.rotate(&next).await
}
