//! Success is said only of what is so: a rotator takes the old credential away on the strength of
//! these reports.

use oneiric_core::DrainOutcome;

use crate::adapter::bench::{Bench, LONG, SHORT, ensure_finishes};
use crate::adapter::rig::{Credential, Habit, Manner};
use crate::report::{Check, Stop, ensure};

/// How many users are cut off at once.
const USERS: usize = 3;

pub(crate) async fn l6_drained_is_said_when_the_server_sees_no_use(bench: &Bench<'_>) -> Check {
    let (tried, mut old) = bench.serving().await?;
    for _ in 0..3 {
        tried.works_at_once(&old, 6).await?;
        let next = bench.accepted().await?;
        let retired = tried.commit(tried.prepared(&next).await?)?;
        tried.drained(tried.draining(retired, LONG)).await?;
        bench.gone(&old, "it is said to be drained").await?;
        old = next;
    }
    Ok(())
}

pub(crate) async fn l6_what_is_drained_may_be_revoked(bench: &Bench<'_>) -> Check {
    let (tried, mut old) = bench.serving().await?;
    for _ in 0..3 {
        let next = bench.accepted().await?;
        tried.rotate(&next).await?;
        bench.revoke(&old).await?;
        for _ in 0..3 {
            tried.works_at_once(&next, 8).await?;
        }
        old = next;
    }
    Ok(())
}

pub(crate) async fn l6_drained_is_never_said_over_a_user(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let (one, other) = (tried.begin(Manner::Yielding).await?, tried.begin(Manner::Yielding).await?);
    let next = bench.accepted().await?;
    let retired = tried.commit(tried.prepared(&next).await?)?;
    let draining = tried.draining(retired, SHORT);
    // The one is done long before the deadline.
    ensure_finishes(one, &first).await?;
    let report = tried.report(draining).await?;
    ensure(report.outcome != DrainOutcome::Drained && report.in_flight > 0, || {
        format!("one of two users was at work at the deadline, and the report is {report:?}")
    })?;
    drop(other);
    tried.moved(&next).await
}

pub(crate) async fn l6_users_that_were_cut_off_are_counted(bench: &Bench<'_>) -> Check {
    bench.only_with(Habit::CountsUsers)?;
    let (tried, _) = bench.serving().await?;
    let mut users = Vec::new();
    for _ in 0..USERS {
        users.push(tried.begin(Manner::Yielding).await?);
    }
    let next = bench.accepted().await?;
    let retired = tried.commit(tried.prepared(&next).await?)?;
    let report = tried.report(tried.draining(retired, SHORT)).await?;
    ensure(report.in_flight == USERS, || {
        format!("there were {USERS} users at the deadline, and the report is {report:?}")
    })?;
    drop(users);
    tried.moved(&next).await
}

pub(crate) async fn l6_what_was_given_up_is_in_no_report(bench: &Bench<'_>) -> Check {
    let (tried, _) = bench.serving().await?;
    drop(tried.prepared(&bench.accepted().await?).await?);
    match bench.mint(Credential::Refused).await {
        Err(Stop::Skip(_)) => {}
        refused => drop(tried.prepare(&refused?).await?),
    }
    let next = bench.accepted().await?;
    let retired = tried.commit(tried.prepared(&next).await?)?;
    let report = tried.drained(tried.draining(retired, LONG)).await?;
    ensure(report.in_flight == 0 && report.error.is_none(), || {
        format!("the old one had no users, and the report is {report:?}")
    })
}
