//! However often it is prepared, and whatever became of the times before.

use crate::adapter::bench::{Bench, LONG, ensure_finishes};
use crate::adapter::rig::Manner;
use crate::poll::poll_at_most;
use crate::report::{Check, Stop};

/// At how many of its awaits a prepare is dropped.
const MOST_POLLS: usize = 12;

pub(crate) async fn l3_a_dropped_prepare_makes_room_for_a_newer_one(bench: &Bench<'_>) -> Check {
    let (tried, first) = bench.serving().await?;
    let (old, new) = (bench.accepted().await?, bench.accepted().await?);
    for polls in 1..=MOST_POLLS {
        let dropped = poll_at_most(polls, tried.prepare(&old)).await.transpose()?;
        let ready = dropped.is_some();
        drop(dropped);
        drop(tried.prepared(&new).await?);
        tried.works_with(&first).await?;
        if ready {
            break;
        }
    }
    tried.rotate(&new).await?;
    tried.works_at_once(&new, 4).await?;
    bench.gone_if_told(&old, "a newer one was committed").await
}

pub(crate) async fn l3_the_first_one_may_be_prepared_again(bench: &Bench<'_>) -> Check {
    let (tried, first) = (bench.adapter().await, bench.accepted().await?);
    for polls in 1..=MOST_POLLS {
        if poll_at_most(polls, tried.prepare(&first)).await.transpose()?.is_some() {
            break;
        }
    }
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
