//! However often it is prepared, and whatever became of the times before.

use crate::adapter::bench::{Bench, LONG, awaits, ensure_finishes, ensure_reached};
use crate::adapter::rig::Manner;
use crate::poll::poll_at_most;
use crate::report::{Check, Stop};

/// Of how many awaits of a prepare it is dropped at each.
const EACH_AWAIT: usize = 12;

pub(crate) async fn l3_a_dropped_prepare_makes_room_for_a_newer_one(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let (old, new) = (bench.accepted().await?, bench.accepted().await?);
    let mut ready = false;
    for polls in awaits(EACH_AWAIT) {
        let dropped = poll_at_most(polls, tried.prepared(&old)).await.transpose()?;
        ready = dropped.is_some();
        drop(dropped);
        drop(tried.prepared(&new).await?);
        tried.works_with(&first).await?;
        if ready {
            break;
        }
    }
    ensure_reached(ready, "a prepare")?;
    tried.rotate(&new).await?;
    tried.works_at_once(&new, 4).await?;
    bench.gone_if_told(&old, "a newer one was committed").await
}

pub(crate) async fn l3_the_first_one_may_be_prepared_again(bench: &Bench<'_>) -> Check {
    let (tried, first) = (bench.adapter().await, bench.accepted().await?);
    let mut ready = false;
    for polls in awaits(EACH_AWAIT) {
        ready = poll_at_most(polls, tried.prepared(&first)).await.transpose()?.is_some();
        if ready {
            break;
        }
    }
    ensure_reached(ready, "a prepare")?;
    drop(tried.prepared(&first).await?);
    tried.rotate(&first).await?;
    tried.works_at_once(&first, 4).await?;
    tried.rotate(&bench.accepted().await?).await
}

pub(crate) async fn l3_the_same_secret_again_is_harmless(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let user = match tried.begin(Manner::Yielding).await {
        Err(Stop::Skip(_)) => None,
        begun => Some(begun?),
    };
    drop(tried.prepared(&first).await?);
    tried.works_at_once(&first, 4).await?;
    let retired = tried.commit(tried.prepared(&first).await?)?;
    let draining = tried.draining(retired, LONG);
    tried.works_at_once(&first, 4).await?;
    if let Some(user) = user {
        ensure_finishes(user, &first).await?;
    }
    tried.drained(draining).await?;
    tried.works_at_once(&first, 4).await
}
