//! An old one ends with its last user or at the drain deadline, and nothing that goes wrong there
//! touches the new one.

use std::iter::once;
use std::time::Duration;

use oneiric_core::DrainOutcome;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::adapter::bench::{Bench, LONG, SHORT, SOON, awaits, ensure_finishes, ensure_reached};
use crate::adapter::rig::{Habit, Manner, ServerFault};
use crate::poll::poll_at_most;
use crate::report::{Check, Stop, ensure};

/// Of how many awaits of a drain it is dropped at each.
const EACH_AWAIT: usize = 12;
/// In which order the users of three old ones end.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
/// Long enough to see that something does not end.
const A_WHILE: Duration = Duration::from_millis(500);

pub(crate) async fn l4_a_drain_waits_for_the_last_user(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let user = tried.begin(Manner::Yielding).await?;
    let next = bench.accepted().await?;
    let retired = tried.commit(tried.prepared(&next).await?)?;
    let draining = tried.draining(retired, LONG);
    tried.moved(&next).await?;
    sleep(A_WHILE).await;
    draining.goes_on("a user of the old one is at work")?;
    ensure_finishes(user, &first).await?;
    tried.report(draining).await?;
    tried.works_with(&next).await
}

pub(crate) async fn l4_a_drain_ends_with_the_last_user(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    tried.rotate(&next).await?;
    bench.gone_if_told(&first, "it was drained").await?;
    let (one, other) = (tried.begin(Manner::Yielding).await?, tried.begin(Manner::Yielding).await?);
    let newest = bench.accepted().await?;
    let retired = tried.commit(tried.prepared(&newest).await?)?;
    let draining = tried.draining(retired, LONG);
    tried.moved(&newest).await?;
    // One is abandoned, the other comes to its end.
    drop(one);
    sleep(A_WHILE).await;
    draining.goes_on("one of two users of the old one is at work")?;
    ensure_finishes(other, &next).await?;
    tried.drained(draining).await?;
    bench.gone_if_told(&next, "it was drained").await?;
    tried.works_with(&newest).await
}

pub(crate) async fn l4_users_that_remain_are_cut_off_at_the_deadline(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let user = tried.begin(Manner::Yielding).await?;
    let next = bench.accepted().await?;
    let retired = tried.commit(tried.prepared(&next).await?)?;
    let mut report = tried.report(tried.draining(retired, SHORT)).await?;
    let later = report.take_later().map(tokio::spawn);
    match report.outcome {
        DrainOutcome::Drained => {
            return Err(Stop::Fail("it is said to be drained, over a user at work".into()));
        }
        DrainOutcome::Forced => {
            bench.gone_if_told(&first, "its users were cut off").await?;
            let finished = timeout(SOON, user.finish()).await;
            ensure(matches!(finished, Ok(Err(_))), || {
                format!("it is said to be forced, and its user came to {finished:?}")
            })?;
        }
        // Nothing can cut it off, and that is said.
        _ => ensure_finishes(user, &first).await?,
    }
    tried.moved(&next).await?;
    tried.works_at_once(&next, 4).await?;
    later.iter().for_each(JoinHandle::abort);
    Ok(())
}

pub(crate) async fn l4_a_user_that_holds_on_is_leaked_until_it_ends(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let user = tried.begin(Manner::Stubborn).await?;
    let next = bench.accepted().await?;
    let retired = tried.commit(tried.prepared(&next).await?)?;
    let mut report = tried.report(tried.draining(retired, SHORT)).await?;
    ensure(report.outcome == DrainOutcome::Leaked && report.in_flight > 0, || {
        format!("a user holds on, and the report is {report:?}")
    })?;
    let Some(later) = report.take_later() else {
        return Err(Stop::Skip("the adapter does not tell of the end of what leaked".into()));
    };
    let mut later = tokio::spawn(later);
    tried.moved(&next).await?;
    tried.works_at_once(&next, 4).await?;
    let early = timeout(A_WHILE, &mut later).await;
    ensure(early.is_err(), || "what leaked is said to have ended, and its user holds on".into())?;
    ensure_finishes(user, &first).await?;
    match timeout(SOON, &mut later).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Stop::Fail(format!("its late end panicked: {error}"))),
        Err(_) => {
            later.abort();
            return Err(Stop::Fail("its user is done, and its end is not told".into()));
        }
    }
    bench.gone_if_told(&first, "what leaked has ended").await?;
    tried.works_with(&next).await
}

pub(crate) async fn l4_a_deadline_that_passed_is_a_deadline(bench: &Bench<'_>) -> Check {
    let (tried, _) = bench.serving().await?;
    let next = bench.accepted().await?;
    let retired = tried.commit(tried.prepared(&next).await?)?;
    tried.report(tried.draining_until(retired, passed())).await?;
    tried.moved(&next).await?;
    let user = tried.begin(Manner::Yielding).await?;
    let newest = bench.accepted().await?;
    let retired = tried.commit(tried.prepared(&newest).await?)?;
    let report = tried.report(tried.draining_until(retired, passed())).await?;
    ensure(report.outcome != DrainOutcome::Drained && report.in_flight > 0, || {
        format!("a user is at work, and the report is {report:?}")
    })?;
    drop(user);
    tried.moved(&newest).await
}

fn passed() -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(1)).unwrap_or(now)
}

pub(crate) async fn l4_old_ones_drain_side_by_side(bench: &Bench<'_>) -> Check {
    bench.only_with(Habit::DrainsApart)?;
    let (tried, mut serving) = bench.serving().await?;
    for order in ORDERS {
        let mut old = Vec::new();
        for place in 0..order.len() {
            let user = tried.begin(Manner::Yielding).await?;
            let next = bench.accepted().await?;
            let retired = tried.commit(tried.prepared(&next).await?)?;
            let draining = tried.draining(retired, LONG);
            tried.moved(&next).await?;
            old.push((place, user, serving, draining));
            serving = next;
        }
        for ending in order {
            let at = old.iter().position(|(place, ..)| *place == ending);
            let at = at.expect("each place ends once");
            let (_, user, credential, draining) = old.remove(at);
            draining.goes_on("its user is at work")?;
            ensure_finishes(user, &credential).await?;
            tried.drained(draining).await?;
            bench.gone_if_told(&credential, "it was drained").await?;
            for (_, _, _, draining) in &old {
                draining.goes_on("it was another one's user that ended")?;
            }
        }
        tried.works_at_once(&serving, 4).await?;
    }
    Ok(())
}

pub(crate) async fn l4_a_drain_may_be_dropped_at_each_await(bench: &Bench<'_>) -> Check {
    let (tried, _) = bench.serving().await?;
    let mut over = None;
    for polls in once(0).chain(awaits(EACH_AWAIT)) {
        let next = bench.accepted().await?;
        let retired = tried.commit(tried.prepared(&next).await?)?;
        let drain = poll_at_most(polls, retired.drain(Instant::now() + LONG));
        over = timeout(SOON, drain).await.map_err(|_| {
            let limit = SOON.as_secs();
            Stop::Fail(format!("nobody uses the old one, and it drains for more than {limit} s"))
        })?;
        if bench.moves_at_commit() {
            tried.works_with(&next).await?;
        }
        if over.is_some() {
            break;
        }
    }
    ensure_reached(over.is_some(), "a drain")?;
    ensure(over.as_ref().is_some_and(|of| of.outcome == DrainOutcome::Drained), || {
        format!("nobody uses the old one, and the report is {over:?}")
    })?;
    tried.rotate(&bench.accepted().await?).await
}

/// A user of what was leaked is none of the new one's concern, nor the other way round.
pub(crate) async fn l4_a_dropped_drain_leaves_users_alone(bench: &Bench<'_>) -> Check {
    bench.only_with(Habit::MovesAtCommit)?;
    let (tried, first) = bench.serving().await?;
    let user = tried.begin(Manner::Yielding).await?;
    let next = bench.accepted().await?;
    let retired = tried.commit(tried.prepared(&next).await?)?;
    let drained = poll_at_most(1, retired.drain(Instant::now() + LONG)).await;
    ensure(drained.is_none(), || "a drain is over at once, and a user is at work".into())?;
    tried.works_at_once(&next, 4).await?;
    ensure_finishes(user, &first).await?;
    tried.works_at_once(&next, 4).await?;
    tried.rotate(&bench.accepted().await?).await
}

pub(crate) async fn l4_a_close_that_fails_leaves_the_new_one(bench: &Bench<'_>) -> Check {
    close_meets(bench, ServerFault::Down).await
}

pub(crate) async fn l4_a_close_that_hangs_ends_after_the_deadline(bench: &Bench<'_>) -> Check {
    close_meets(bench, ServerFault::Hanging).await
}

/// What an old one would say to the server when it ends comes to nothing.
async fn close_meets(bench: &Bench<'_>, fault: ServerFault) -> Check {
    close_without_users_meets(bench, fault).await?;
    bench.mended().await?;
    let (tried, first) = bench.serving().await?;
    // It may end by the fault, by the deadline or not at all: its drain ends.
    let user = tried.begin(Manner::Yielding).await?;
    let next = bench.accepted().await?;
    let retired = tried.commit(tried.prepared(&next).await?)?;
    bench.play(fault).await?;
    let mut report = tried.report(tried.draining(retired, SHORT)).await?;
    bench.mended().await?;
    let later = report.take_later().map(tokio::spawn);
    drop(user);
    ensure_ends(later).await?;
    bench.gone_if_told(&first, "its user is gone").await?;
    tried.rotate(&bench.accepted().await?).await
}

/// What could not be done in time is done now.
async fn ensure_ends(later: Option<JoinHandle<()>>) -> Check {
    let Some(later) = later else { return Ok(()) };
    let ended = timeout(SOON, later).await;
    ensure(matches!(ended, Ok(Ok(()))), || "what leaked does not end after all".into())
}

async fn close_without_users_meets(bench: &Bench<'_>, fault: ServerFault) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    let retired = tried.commit(tried.prepared(&next).await?)?;
    bench.play(fault).await?;
    let mut report = tried.report(tried.draining(retired, SHORT)).await?;
    bench.mended().await?;
    // What could not be done in time may be done now.
    let later = report.take_later().map(tokio::spawn);
    match bench.moves_at_commit() {
        true => tried.recovers(&next).await?,
        false => tried.moved(&next).await?,
    }
    tried.works_at_once(&next, 4).await?;
    ensure_ends(later).await?;
    bench.gone_if_told(&first, "it was drained when the server was out of order").await?;
    tried.rotate(&bench.accepted().await?).await
}
