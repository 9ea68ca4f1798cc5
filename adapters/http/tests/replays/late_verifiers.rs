//! E15: verifiers keep what they know for a day, so for a day some accept the old token alone.

use std::sync::Arc;

use oneiric_runtime::report::Outcome;
use oneiric_testkit::MemoryProvider;
use tokio::time::sleep;

use crate::support::{HOUR, Load, MINUTE, Process, SECOND, Upstream, naive_users};

const VERIFIERS: usize = 5;
/// The first that learns late.
const LATE: usize = 3;

/// Both tokens are valid from here to the revocation; the store has the new one at once.
async fn a_day(store: &MemoryProvider, upstream: &Upstream, load: &Load) {
    upstream.accept(..LATE, "new");
    store.put("token", "new");
    sleep(2 * MINUTE).await;
    load.every(2 * MINUTE);
    sleep(24 * HOUR).await;
    load.every(SECOND / 4);
    upstream.accept(LATE.., "new");
}

fn before() -> (Arc<MemoryProvider>, Upstream) {
    let (store, upstream) = (MemoryProvider::new(), Upstream::of(VERIFIERS));
    store.put("token", "old");
    upstream.accept(.., "old");
    (store, upstream)
}

#[tokio::test(start_paused = true)]
async fn e15_while_some_verifiers_know_the_old_token_alone_the_client_goes_back_to_it_once() {
    let (store, upstream) = before();
    let process = Process::start(&store, &upstream).await;
    let load = process.users(&upstream);
    sleep(MINUTE).await;
    a_day(&store, &upstream, &load).await;
    // It went to the new one, was refused, and went back, and that was all in a day.
    let status = process.status().await;
    assert_eq!((status.generation, load.counts().1), (3, 0), "{:?}", status.error);
    assert!(status.error.unwrap().contains("was refused where it is used"));

    // Everybody knows the new one by now, and the operator says so.
    assert_eq!(process.rotate().await.outcome, Outcome::Done);
    upstream.revoke("old");
    sleep(2 * MINUTE).await;
    let status = process.status().await;
    assert_eq!((status.generation, status.error), (4, None));
    let (sent, failed) = load.stop().await;
    assert!(failed == 0 && sent > 10_000, "{failed} of {sent} failed");
    let refused = upstream.refused();
    assert!((1..=8).contains(&refused), "{refused} were refused, and sent once more");
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn e15_a_plain_cache_fails_at_each_verifier_that_learns_late() {
    let (store, upstream) = before();
    let load = naive_users(&store, &upstream);
    sleep(MINUTE).await;
    assert_eq!(load.counts().1, 0);
    a_day(&store, &upstream, &load).await;
    let (sent, failed) = load.stop().await;
    assert!(failed > sent / 4, "{failed} of {sent} failed");
}
