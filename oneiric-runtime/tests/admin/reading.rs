//! What can be read: how things stand, and what happens to secrets.

use std::sync::Arc;

use futures_util::StreamExt;
use oneiric_runtime::RuntimeOptions;
use oneiric_runtime::admin::{AdminClient, ClientError, WatchEvent};
use oneiric_secrets::{Mode, Resolver, ResolverOptions, Scope};
use oneiric_testkit::MemoryProvider;
use tokio_util::sync::CancellationToken;

use crate::support::{Ask, Rig, bind, in_time, options_in};

#[tokio::test]
async fn the_status_names_adapters_and_versions() {
    let rig = Rig::start();
    let (_pool, _gate) = rig.gated().await;
    let status = rig.client().status().await.unwrap();
    assert_eq!((status.instance.as_str(), status.pid), ("test", std::process::id()));
    let adapter = &status.adapters[0];
    assert_eq!((adapter.adapter.as_str(), adapter.generation), ("pool", 1));
    assert_eq!((&*adapter.versions[0].reference, &*adapter.versions[0].version), ("mem:db", "1"));
    rig.stop().await;
}

#[tokio::test]
async fn what_happens_to_secrets_is_told_without_values() {
    let rig = Rig::start();
    rig.store.put("db", "first");
    let resolver = rig.runtime.resolver().clone();
    resolver.get(&"mem:db".parse().unwrap()).await.unwrap();
    let mut events = rig.client().events().await.unwrap();
    rig.store.put("db", "second");
    let scope = Scope::Keys("mem".parse().unwrap(), vec!["db".parse().unwrap()]);
    resolver.invalidate_secrets(&scope, Mode::Hard).unwrap();
    resolver.get(&"mem:db".parse().unwrap()).await.unwrap();
    let (provider, key) = ("mem".parse().unwrap(), String::from("db"));
    let invalidated =
        WatchEvent::Invalidated { provider, keys: Some(vec![key.clone()]), mode: "hard".into() };
    assert_eq!(in_time(events.next()).await.unwrap().unwrap(), invalidated);
    let provider = "mem".parse().unwrap();
    let changed = WatchEvent::Changed { provider, key, version: "2".into() };
    assert_eq!(in_time(events.next()).await.unwrap().unwrap(), changed);
    rig.stop().await;
    assert!(in_time(events.next()).await.is_none(), "the stream ends with the endpoint");
}

#[tokio::test]
async fn an_instance_whose_runtime_has_ended_is_live_and_not_ready() {
    let home = tempfile::tempdir().unwrap();
    let admin = bind(options_in(home.path())).unwrap();
    let unix = admin.endpoints().remove(0);
    let providers = [("mem".parse().unwrap(), MemoryProvider::new() as Arc<_>)];
    let resolver = Resolver::new(providers, ResolverOptions::default());
    let (runtime, task) = RuntimeOptions::new("test".parse().unwrap()).build(resolver).unwrap();
    drop(task);
    let stop = CancellationToken::new();
    let serving = tokio::spawn(admin.run(runtime, stop.clone()));
    assert_eq!(Ask::get("/v1/health/live").send(&unix).await.status, 200);
    assert_eq!(Ask::get("/v1/health/ready").send(&unix).await.status, 503);
    let error = AdminClient::new(unix).status().await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { status: 503, .. }), "{error:?}");
    stop.cancel();
    in_time(serving).await.unwrap();
}

#[tokio::test]
async fn an_instance_that_runs_is_live_and_ready() {
    let rig = Rig::start();
    for route in ["/v1/health/live", "/v1/health/ready"] {
        assert_eq!(Ask::get(route).send(&rig.unix).await.status, 200);
    }
    rig.stop().await;
}
