//! E13: a store's events are lost, doubled and reordered. Where events are believed alone, a lost
//! one leaves a consumer on a credential that is revoked, and one that comes late takes it back to
//! an older one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use oneiric_core::{Change, FetchRequest, SecretProvider, SecretRef, Version};
use oneiric_runtime::RuntimeOptions;
use oneiric_secrets::{Resolver, ResolverOptions};
use oneiric_testkit::MemoryProvider;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::server::Server;

const CONSUMERS: usize = 5;
/// How often the store is swept, and how long the old credential is good beside the new one.
const SWEEP: Duration = Duration::from_secs(30);
const OVERLAP: Duration = Duration::from_secs(90);

/// The same rotations for both sides: what becomes of the event of each.
async fn script(store: &MemoryProvider, server: &Server) {
    // Whoever watches is there by then.
    sleep(Duration::from_secs(1)).await;
    let announce = |version: u64| {
        let key = "token".parse().unwrap();
        store.announce(Change::Secret { key, version: Some(Version::numbered(version)) });
    };
    let publish = |version: u64| {
        server.accept(&credential(version));
        store.put_version("token", credential(version), version);
    };
    let retire = |version: u64| server.revoke(&credential(version));

    // Lost.
    publish(2);
    sleep(OVERLAP).await;
    retire(1);

    // Doubled, the second time much later.
    publish(3);
    announce(3);
    sleep(OVERLAP).await;
    retire(2);
    announce(3);
    sleep(OVERLAP).await;

    // Reordered: the event of the fifth comes before that of the fourth.
    publish(4);
    publish(5);
    announce(5);
    sleep(Duration::from_secs(1)).await;
    announce(4);
    sleep(OVERLAP).await;
    retire(3);
    retire(4);
    sleep(OVERLAP).await;
}

fn credential(version: u64) -> String {
    format!("credential-{version}")
}

fn start() -> (Arc<MemoryProvider>, Arc<Server>) {
    let (store, server) = (MemoryProvider::new(), Arc::<Server>::default());
    store.put_version("token", credential(1), 1);
    server.accept(&credential(1));
    (store, server)
}

#[tokio::test(start_paused = true)]
async fn e13_events_that_are_lost_doubled_and_reordered_fail_no_request() {
    let (store, server) = start();
    let providers = [("mem".parse().unwrap(), Arc::clone(&store) as _)];
    let mut options = RuntimeOptions::new("service".parse().unwrap());
    options.watch_interval = SWEEP;
    let resolver = Resolver::new(providers, ResolverOptions::default());
    let (runtime, task) = options.build(resolver).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(task.run(stop.clone()));
    let secret: SecretRef = "mem:token".parse().unwrap();
    let mut consumers = Vec::new();
    for consumer in 0..CONSUMERS {
        let hook = server.adapter(&format!("of-{consumer}"), &secret);
        consumers.push(server.consumer(runtime.manage(hook).await.unwrap()));
    }
    script(&store, &server).await;
    let (served, refused) = server.counts();
    assert_eq!(refused, 0, "of {served}");
    assert!(served > 10_000, "{served}");
    let missed = runtime.status().await.unwrap().providers[0].missed_events;
    assert!(missed >= 1, "the sweep found what push had lost");
    consumers.iter().for_each(tokio::task::JoinHandle::abort);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn e13_who_believes_events_alone_fails_in_the_same_replay() {
    let (store, server) = start();
    let held = Arc::new(Mutex::new(credential(1)));
    let (shown, provider) = (Arc::clone(&held), Arc::clone(&store));
    // Reads what each event names, when it comes, and keeps it until the next.
    let follower = tokio::spawn(async move {
        let mut changes = provider.changes().unwrap();
        while let Some(change) = changes.next().await {
            let Change::Secret { key, version: Some(version) } = change else { continue };
            let request = FetchRequest::new(key).at_version(version.id().into_owned());
            let fetched = provider.fetch(&request).await.unwrap();
            *shown.lock().unwrap() = fetched.value.expose_str().unwrap().to_owned();
        }
    });
    let consumers: Vec<_> = (0..CONSUMERS)
        .map(|_| {
            let held = Arc::clone(&held);
            server.load(move || held.lock().unwrap().clone())
        })
        .collect();
    script(&store, &server).await;
    let (_, refused) = server.counts();
    assert!(refused > 0, "the replay is harmless");
    assert_eq!(*held.lock().unwrap(), credential(4), "the late event took it back");
    consumers.iter().chain([&follower]).for_each(tokio::task::JoinHandle::abort);
}
