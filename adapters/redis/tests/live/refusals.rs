//! A password that stops working behind our back: Redis lets live connections go on, so it is met
//! when one is opened anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oneiric_adapter_redis::acquire;
use oneiric_runtime::{RotateRequest, Runtime, RuntimeOptions};
use oneiric_secrets::{Resolver, ResolverOptions, Scope};
use oneiric_testkit::MemoryProvider;
use oneiric_testkit::live::Redis as Server;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::server::{LONG, acl, ask, hook, server, until, whoami};

const CLIENTS: usize = 8;

struct Service {
    store: Arc<MemoryProvider>,
    runtime: Runtime,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Service {
    fn start() -> Self {
        let store = MemoryProvider::new();
        store.put("redis", "one");
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
        Self { store, runtime, task, stop }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn kill_all(server: &Server) {
    let mut kill = redis::cmd("CLIENT");
    ask::<u64>(server, kill.arg("KILL").arg("USER").arg("app")).await;
    until(server, "app", <[String]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_was_removed_too_early_is_asked_for_anew_once() {
    let Some(server) = server().await else { return };
    let service = Service::start();
    let managed = service.runtime.manage(hook(&server)).await.unwrap();
    let before = service.store.fetches();
    acl(&server, &["app", ">two", "<one"]).await;
    service.store.put("redis", "two");
    // Nobody notices, as long as the connection lives.
    assert_eq!(whoami(&managed).await.unwrap(), "app");
    assert_eq!(service.store.fetches(), before);

    kill_all(&server).await;
    let refused = Arc::<AtomicU64>::default();
    let users = (0..CLIENTS).map(|_| {
        let (managed, refused) = (managed.clone(), Arc::clone(&refused));
        tokio::spawn(async move {
            let began = Instant::now();
            loop {
                assert!(began.elapsed() < LONG, "it does not recover");
                match acquire(&managed).await {
                    Ok(lease) if lease.generation() == 2 => return,
                    Ok(_) => {}
                    Err(error) if error.code() == Some("WRONGPASS") => {
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => panic!("{error}"),
                }
                sleep(Duration::from_millis(5)).await;
            }
        })
    });
    for user in users.collect::<Vec<_>>() {
        user.await.unwrap();
    }
    assert!(refused.load(Ordering::Relaxed) > 0, "it was removed, and nobody noticed");
    assert_eq!(service.store.fetches() - before, 1);
    assert_eq!(whoami(&managed).await.unwrap(), "app");
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_password_that_is_taken_away_is_gone_back_from() {
    let Some(server) = server().await else { return };
    let service = Service::start();
    let managed = service.runtime.manage(hook(&server)).await.unwrap();
    acl(&server, &["app", ">two"]).await;
    service.store.put("redis", "two");
    let scope = Scope::Keys("files".parse().unwrap(), vec!["redis".parse().unwrap()]);
    service.runtime.rotate(RotateRequest::new(scope)).await;
    assert_eq!(managed.load().generation(), 2);

    acl(&server, &["app", "<two"]).await;
    kill_all(&server).await;
    let back = async {
        while acquire(&managed).await.map_or(2, |lease| lease.generation()) == 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, back).await.unwrap();
    assert_eq!(managed.load().generation(), 3);
    assert_eq!(whoami(&managed).await.unwrap(), "app");
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_login_is_not_tried_by_every_request() {
    let Some(server) = server().await else { return };
    let hook = hook(&server);
    let managed = crate::server::first(&hook).await;
    acl(&server, &["app", ">two", "<one"]).await;
    ask::<()>(&server, redis::cmd("ACL").arg("LOG").arg("RESET")).await;
    kill_all(&server).await;
    let began = Instant::now();
    for _ in 0..500 {
        assert_eq!(whoami(&managed).await.unwrap_err().code(), Some("WRONGPASS"));
    }
    let seconds = began.elapsed().as_secs();
    let failures = failed_logins(&server).await;
    assert!((1..=seconds + 1).contains(&failures), "{failures} logins in {seconds} s");
}

/// How many logins have failed, as the server counts them.
async fn failed_logins(server: &Server) -> u64 {
    let log: Vec<std::collections::HashMap<String, redis::Value>> =
        ask(server, redis::cmd("ACL").arg("LOG")).await;
    let counts = log.into_iter().filter_map(|entry| entry.get("count").cloned());
    let count = |of: redis::Value| redis::from_redis_value::<u64>(of).unwrap();
    counts.map(count).sum()
}
