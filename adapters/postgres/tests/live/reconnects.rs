//! The incident that shows late: a pool looks well after a bad swap, because its connections are
//! open, and fails when all of them reach their lifetime. Here that is right after the swap.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oneiric_core::DrainReport;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::kinds::{Kind, Make, SIZE, first, rotate, who};
use crate::server::{sql, until_gone, with_roles};

const LIFETIME: Duration = Duration::from_secs(2);
/// How long the plain service believes what it has read. It is what the incident is about that
/// this is longer than what is left of a lifetime.
const TTL: Duration = Duration::from_secs(10);

crate::with_both_pools!(
    a_pool_at_its_max_lifetime_after_a_swap_connects_with_the_new_login,
    a_plain_pool_at_its_max_lifetime_after_a_swap_fails,
);

#[derive(Default)]
struct Counts {
    served: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

impl Counts {
    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Loads it without pause.
    fn load<F>(self: &Arc<Self>, work: impl Fn() -> F + Clone + Send + 'static) -> JoinSet<()>
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        (0..2 * SIZE)
            .map(|_| {
                let (counts, work) = (Arc::clone(self), work.clone());
                async move {
                    while !counts.stop.load(Ordering::Relaxed) {
                        let of = match work().await {
                            Ok(()) => &counts.served,
                            Err(_) => &counts.failed,
                        };
                        of.fetch_add(1, Ordering::Relaxed);
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            })
            .collect()
    }
}

async fn a_pool_at_its_max_lifetime_after_a_swap_connects_with_the_new_login<K: Kind>() {
    let Some(server) = with_roles() else { return };
    let hook = K::hook(Make { lifetime: LIFETIME, ..Make::at(server.port()) });
    let managed = first(&hook, "app_a", "a").await;
    let counts = Arc::<Counts>::default();
    let load = {
        let managed = managed.clone();
        counts.load(move || {
            let managed = managed.clone();
            async move { who(&managed).await.map(drop) }
        })
    };
    sleep(LIFETIME).await;

    let report = rotate(&hook, "app_b", "b", Duration::from_secs(20)).await;
    assert_eq!(report, DrainReport::drained());
    until_gone(&server, "app_a").await;
    sql(&server, "ALTER ROLE app_a NOLOGIN");
    let mut sessions = BTreeSet::new();
    let at_the_swap = counts.served();
    for _ in 0..40 {
        let (name, session) = who(&managed).await.unwrap();
        assert_eq!(name, "app_b");
        sessions.insert(session);
        sleep(2 * LIFETIME / 40).await;
    }
    counts.stop.store(true, Ordering::Relaxed);
    load.join_all().await;
    assert!(sessions.len() > SIZE, "they did not connect anew: {sessions:?}");
    assert!(counts.served() > at_the_swap);
    assert_eq!(counts.failed(), 0);
}

async fn a_plain_pool_at_its_max_lifetime_after_a_swap_fails<K: Kind>() {
    let Some(server) = with_roles() else { return };
    let make = Make { lifetime: LIFETIME, ..Make::at(server.port()) };
    let pool = K::plain(make, "app_a", "a");
    let counts = Arc::<Counts>::default();
    let load = {
        let pool = pool.clone();
        counts.load(move || {
            let pool = pool.clone();
            async move { K::plain_user(&pool).await.map(drop) }
        })
    };
    // Most of the life of its connections is left, more than a busy machine needs for the swap.
    sleep(LIFETIME / 4).await;
    assert_eq!(counts.failed(), 0);

    // The store has the new login. The service will look at it when its cache is old.
    let told = tokio::spawn(async move {
        sleep(TTL).await;
        K::tell(&pool, make, "app_b", "b");
    });
    sql(&server, "ALTER ROLE app_a NOLOGIN");
    let at_the_swap = counts.served();
    sleep(2 * LIFETIME).await;
    counts.stop.store(true, Ordering::Relaxed);
    load.join_all().await;
    told.abort();
    assert!(counts.served() > at_the_swap, "it did not even look well at first");
    assert!(counts.failed() > 0, "the replay of the incident is too kind");
}
