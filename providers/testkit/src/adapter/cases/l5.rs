//! An adapter that holds a valid secret goes on by itself when what it uses is back.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use oneiric_core::RefusalStream;
use tokio::time::{Instant, timeout};

use crate::adapter::bench::{Bench, PATIENCE, SHORT, SOON, Tried};
use crate::adapter::rig::{Habit, Minted, ServerFault};
use crate::report::{Check, Stop, ensure};

/// How many units of work meet an outage.
const UNITS: usize = 4;
/// How long a report is waited for after each unit of work.
const A_MOMENT: Duration = Duration::from_millis(50);

pub(crate) async fn l5_it_goes_on_when_the_server_is_back(bench: &Bench<'_>) -> Check {
    goes_on_after(bench, ServerFault::Down).await
}

pub(crate) async fn l5_it_goes_on_after_the_server_hung(bench: &Bench<'_>) -> Check {
    goes_on_after(bench, ServerFault::Hanging).await
}

async fn goes_on_after(bench: &Bench<'_>, fault: ServerFault) -> Check {
    let (tried, first) = bench.serving().await?;
    for _ in 0..2 {
        bench.play(fault).await?;
        // What becomes of them is their users' concern; nobody waits for ever.
        join_all((0..UNITS).map(|_| timeout(SHORT, tried.work()))).await;
        bench.mended().await?;
        tried.recovers(&first).await?;
        tried.works_at_once(&first, 2 * UNITS).await?;
    }
    tried.rotate(&bench.accepted().await?).await
}

pub(crate) async fn l5_what_failed_in_an_outage_is_tried_again(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    for _ in 0..3 {
        bench.play(ServerFault::Down).await?;
        tried.not_prepared(PATIENCE, &next, false).await?;
        bench.mended().await?;
        tried.recovers(&first).await?;
    }
    tried.rotate(&next).await?;
    tried.works_at_once(&next, UNITS).await
}

pub(crate) async fn l5_a_refusal_in_use_is_reported(bench: &Bench<'_>) -> Check {
    let (tried, first, mut refusals) = reporting(bench).await?;
    let versions = first.secrets.versions();
    let expected: Vec<_> = versions.map(|(of, version)| (of.clone(), version.clone())).collect();
    bench.revoke(&first).await?;
    cut_off(bench).await?;
    let late = Instant::now() + SOON;
    let refusal = loop {
        // It is refused, or the server had not forgotten the session yet.
        let _ = tried.work().await;
        match timeout(A_MOMENT, refusals.next()).await {
            Ok(Some(refusal)) => break refusal,
            Ok(None) => return Err(Stop::Fail("the stream of refusals has ended".into())),
            Err(_) => ensure(Instant::now() < late, || {
                "users are refused, and it is not reported".into()
            })?,
        }
    };
    bench.note(&refusal);
    let told = expected.iter().all(|version| refusal.versions.contains(version));
    ensure(told && refusal.versions.len() == expected.len(), || {
        format!("{expected:?} were refused, and the report is {:?}", refusal.versions)
    })?;
    tried.rotate(&bench.accepted().await?).await
}

pub(crate) async fn l5_an_outage_is_not_reported_as_a_refusal(bench: &Bench<'_>) -> Check {
    let (tried, first, mut refusals) = reporting(bench).await?;
    bench.play(ServerFault::Down).await?;
    join_all((0..UNITS).map(|_| timeout(SHORT, tried.work()))).await;
    bench.mended().await?;
    tried.recovers(&first).await?;
    let reported = timeout(SHORT, refusals.next()).await;
    ensure(reported.is_err(), || format!("the server was down, and the report is {reported:?}"))
}

/// An adapter that serves, with what its users report of refusals.
async fn reporting<'b, 'r>(bench: &'b Bench<'r>) -> Check<(Tried<'b, 'r>, Minted, RefusalStream)> {
    bench.only_with(Habit::ReportsRefusals)?;
    let (tried, first) = bench.serving().await?;
    match tried.hook.refusals() {
        Some(refusals) => Ok((tried, first, refusals)),
        None => Err(Stop::Fail("its users report refusals, and it tells of none".into())),
    }
}

/// Cuts off what is connected, so that it connects anew, where that can be played.
async fn cut_off(bench: &Bench<'_>) -> Check {
    match bench.play(ServerFault::Down).await {
        Err(Stop::Skip(_)) => Ok(()),
        played => {
            played?;
            bench.mended().await
        }
    }
}
