//! A login that stops working behind our back: the pool meets it when it connects anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oneiric_adapter_postgres::acquire;
use oneiric_runtime::RuntimeOptions;
use oneiric_secrets::{Resolver, ResolverOptions};
use oneiric_testkit::MemoryProvider;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::kinds::{Kind, Make, SIZE, who};
use crate::server::{sql, with_roles};

const LONG: Duration = Duration::from_secs(20);

crate::with_both_pools!(a_password_that_was_changed_behind_our_back_is_fetched_once);

async fn a_password_that_was_changed_behind_our_back_is_fetched_once<K: Kind>() {
    let Some(server) = with_roles() else { return };
    let store = MemoryProvider::new();
    store.put("db", r#"{"user": "app_a", "password": "a"}"#);
    let resolver = Resolver::new(
        [("files".parse().unwrap(), Arc::clone(&store) as _)],
        ResolverOptions::default(),
    );
    let mut options = RuntimeOptions::new("test".parse().unwrap());
    // Nobody looks at the store by himself.
    options.watch_interval = Duration::ZERO;
    let (runtime, task) = options.build(resolver).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone()));
    let lifetime = Duration::from_millis(300);
    let hook = K::hook(Make { lifetime, ..Make::at(server.port()) });
    let managed = runtime.manage(hook).await.unwrap();
    assert_eq!(who(&managed).await.unwrap().0, "app_a");
    let before = store.fetches();

    sql(&server, "ALTER ROLE app_a PASSWORD 'changed'");
    store.put("db", r#"{"user": "app_a", "password": "changed"}"#);
    let refused = Arc::<AtomicU64>::default();
    let users = (0..2 * SIZE).map(|_| {
        let (managed, refused) = (managed.clone(), Arc::clone(&refused));
        tokio::spawn(async move {
            let began = Instant::now();
            loop {
                assert!(began.elapsed() < LONG, "it does not recover");
                match acquire(&managed).await {
                    Ok(lease) if lease.generation() == 2 => return,
                    Ok(_) => {}
                    Err(error) => {
                        assert!(K::is_refusal(&error), "{error}");
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
    });
    for user in users.collect::<Vec<_>>() {
        user.await.unwrap();
    }
    assert!(refused.load(Ordering::Relaxed) > 0, "it was changed, and nobody noticed");
    assert_eq!(store.fetches() - before, 1);
    // Long enough for every connection to be made anew.
    for _ in 0..20 {
        who(&managed).await.unwrap();
        sleep(lifetime / 10).await;
    }
    assert_eq!((managed.load().generation(), store.fetches() - before), (2, 1));
    stop.cancel();
    task.await.unwrap();
}
