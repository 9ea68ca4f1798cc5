//! The old one serves until the new one is built and proven; what cannot be proven changes nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{join, join_all};
use oneiric_core::{AdapterId, SecretRef};
use tokio::time::sleep;

use crate::adapter::bench::{Bench, LONG, PATIENCE, Tried};
use crate::adapter::rig::{Credential, ServerFault};
use crate::report::{Check, Stop, ensure};

/// How many users work without pause.
const WORKERS: usize = 4;
const ROTATIONS: usize = 6;

pub(crate) async fn the_id_and_the_secrets_are_constant(bench: &Bench<'_>) -> Check {
    let tried = bench.adapter().await;
    let constant = |tried: &Tried<'_, '_>| -> (AdapterId, Vec<SecretRef>) {
        (tried.hook.id().clone(), tried.hook.secrets().to_vec())
    };
    let before = constant(&tried);
    let first = bench.accepted().await?;
    let given: Vec<_> = first.secrets.versions().map(|(reference, _)| reference).collect();
    for reference in &before.1 {
        ensure(given.contains(&reference), || format!("the rig mints nothing for `{reference}`"))?;
    }
    tried.rotate(&first).await?;
    ensure(constant(&tried) == before, || "they are others after a rotation".into())?;
    drop(tried.prepared(&bench.accepted().await?).await?);
    ensure(constant(&tried) == before, || "they are others after a prepare".into())?;
    let other = constant(&bench.adapter().await);
    ensure(other == before, || "those of another adapter of the rig are others".into())
}

pub(crate) async fn l1_the_old_one_serves_while_the_next_is_prepared(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let next = bench.accepted().await?;
    // It takes a while where that can be had; otherwise what there is has to do.
    match bench.play(ServerFault::Slow(Duration::from_millis(50))).await {
        Err(Stop::Skip(_)) => {}
        played => played?,
    }
    let ready = AtomicBool::new(false);
    let preparing = async {
        let prepared = tried.prepared(&next).await;
        ready.store(true, Ordering::SeqCst);
        prepared
    };
    let working = async {
        while !ready.load(Ordering::SeqCst) {
            tried.works_with(&first).await?;
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    };
    let (prepared, worked) = join(preparing, working).await;
    worked?;
    let prepared = prepared?;
    // It is ready, and nobody has committed it.
    tried.works_at_once(&first, WORKERS).await?;
    drop(prepared);
    tried.works_at_once(&first, WORKERS).await
}

pub(crate) async fn l1_a_next_one_is_proven_before_it_is_committed(bench: &Bench<'_>) -> Check {
    let (tried, _) = bench.serving().await?;
    let next = bench.accepted().await?;
    let before = bench.shown(&next).await?;
    let _prepared = tried.prepared(&next).await?;
    let shown = bench.shown(&next).await?;
    ensure(shown > before, || "it is ready, and the server has not seen its credential".into())
}

pub(crate) async fn l1_a_proof_takes_a_fresh_connection(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    // What is connected goes on; whoever connects anew is refused.
    bench.revoke(&first).await?;
    tried.not_prepared(PATIENCE, &first, true).await
}

pub(crate) async fn l1_a_refused_secret_is_said_so_and_changes_nothing(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let refused = bench.mint(Credential::Refused).await?;
    tried.not_prepared(PATIENCE, &refused, true).await?;
    tried.works_at_once(&first, WORKERS).await?;
    bench.gone_if_told(&refused, "it was refused").await?;
    tried.rotate(&bench.accepted().await?).await?;
    let fresh = bench.adapter().await;
    fresh.not_prepared(PATIENCE, &refused, true).await?;
    fresh.rotate(&bench.accepted().await?).await
}

pub(crate) async fn l1_a_malformed_secret_fails_and_is_not_refused(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let malformed = bench.mint(Credential::Malformed).await?;
    tried.not_prepared(PATIENCE, &malformed, false).await?;
    tried.works_at_once(&first, WORKERS).await?;
    tried.rotate(&bench.accepted().await?).await
}

pub(crate) async fn l1_no_unit_of_work_fails_over_rotations(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let (floor, stop) = (AtomicU64::new(first.number), AtomicBool::new(false));
    let workers = join_all((0..WORKERS).map(async |_| {
        while !stop.load(Ordering::SeqCst) {
            let least = floor.load(Ordering::SeqCst);
            let worked = tried.work().await;
            let number = worked
                .map_err(|error| Stop::Fail(format!("a unit failed in a rotation: {error}")))?;
            ensure(number >= least, || {
                format!("a unit was done with credential {number} after {least} was drained in")
            })?;
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }));
    let rotations = async {
        let mut old = first;
        for _ in 0..ROTATIONS {
            let next = bench.accepted().await?;
            let retired = tried.commit(tried.prepared(&next).await?)?;
            tried.drained(tried.draining(retired, LONG)).await?;
            floor.store(next.number, Ordering::SeqCst);
            match bench.revoke(&old).await {
                Err(Stop::Skip(_)) => {}
                revoked => revoked?,
            }
            sleep(Duration::from_millis(20)).await;
            old = next;
        }
        Ok(())
    };
    let rotations = async {
        let rotated = rotations.await;
        stop.store(true, Ordering::SeqCst);
        rotated
    };
    let (rotated, worked) = join(rotations, workers).await;
    // A unit that failed may be why a rotation did, so it is named first.
    worked.into_iter().collect::<Check>()?;
    rotated
}
