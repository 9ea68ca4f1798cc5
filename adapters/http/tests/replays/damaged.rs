//! E6: a buggy peer writes back what it read, redacted or empty.

use std::sync::Arc;

use oneiric_runtime::report::Outcome;
use oneiric_testkit::MemoryProvider;
use tokio::time::sleep;

use crate::support::{MINUTE, Process, Upstream, naive_users};

const DAMAGED: [&str; 4] = ["REDACTED", "", "********", "  \n"];

fn before() -> (Arc<MemoryProvider>, Upstream) {
    let (store, upstream) = (MemoryProvider::new(), Upstream::of(1));
    store.put("token", "good");
    upstream.accept(.., "good");
    (store, upstream)
}

#[tokio::test(start_paused = true)]
async fn e6_what_a_buggy_peer_writes_is_refused_and_the_last_good_token_serves_on() {
    let (store, upstream) = before();
    let process = Process::start(&store, &upstream).await;
    let load = process.users(&upstream);
    for damaged in DAMAGED {
        store.put("token", damaged);
        sleep(MINUTE).await;
        let report = process.rotate().await;
        assert_ne!(report.outcome, Outcome::Done, "{damaged:?}");
        sleep(MINUTE).await;
        assert_eq!((process.status().await.generation, load.counts().1), (1, 0), "{damaged:?}");
    }
    assert_eq!(process.proofs.load(std::sync::atomic::Ordering::SeqCst), 1, "none is tried");

    upstream.accept(.., "better");
    store.put("token", "better");
    assert_eq!(process.rotate().await.outcome, Outcome::Done);
    upstream.revoke("good");
    sleep(MINUTE).await;
    let (sent, failed) = load.stop().await;
    assert!(failed == 0 && sent > 1_000, "{failed} of {sent} failed");
    process.stop().await;
}

#[tokio::test(start_paused = true)]
async fn e6_a_plain_cache_serves_whatever_was_written() {
    for damaged in DAMAGED.into_iter().filter(|damaged| !damaged.contains('\n')) {
        let (store, upstream) = before();
        let load = naive_users(&store, &upstream);
        sleep(MINUTE).await;
        assert_eq!(load.counts().1, 0);
        store.put("token", damaged);
        sleep(MINUTE).await;
        let (sent, failed) = load.stop().await;
        assert!(failed > sent / 4, "{damaged:?}: {failed} of {sent} failed");
    }
}
