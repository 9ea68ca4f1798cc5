//! Clients that are built anew for each generation.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use oneiric_adapter_http::ManagedService;
use oneiric_core::{
    DrainReport, LifecycleHook as _, ManagedHook, SecretRef, SecretSet, SecretValue, Version,
};
use tokio::time::Instant;
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt as _, service_fn};

type Client = BoxCloneSyncService<Request<()>, Response<Full<Bytes>>, String>;

/// A client whose identity is fixed in it, and which says it in each answer.
fn client(identity: String) -> Client {
    BoxCloneSyncService::new(service_fn(move |_| {
        let answer = Response::new(Full::from(identity.clone()));
        async move { Ok(answer) }
    }))
}

#[tokio::test(start_paused = true)]
async fn each_call_takes_the_client_that_serves_and_holds_it_until_the_answer_was_read() {
    let key: SecretRef = "files:key".parse().unwrap();
    let hook = ManagedHook::new("billing".parse().unwrap(), [key.clone()], {
        let key = key.clone();
        move |secrets| {
            let identity = secrets.get(&key).unwrap().expose_str().unwrap().to_owned();
            async move { Ok(client(identity)) }
        }
    });
    let set = |value: &str| {
        SecretSet::new([(key.clone(), SecretValue::from(value), Version::numbered(1))])
    };
    hook.prepare(&set("one")).await.unwrap().commit();
    let channel = ManagedService::new(hook.managed().unwrap());

    let first = channel.clone().oneshot(Request::new(())).await.unwrap();
    let retired = hook.prepare(&set("two")).await.unwrap().commit();
    let mut draining = retired.drain(Instant::now() + Duration::from_secs(60));
    let second = channel.clone().oneshot(Request::new(())).await.unwrap();
    assert_eq!(second.into_body().collect().await.unwrap().to_bytes(), "two");

    assert!((&mut draining).now_or_never().is_none(), "the first answer was not read yet");
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "one");
    assert_eq!(draining.now_or_never(), Some(DrainReport::drained()));

    // A call that was cancelled before it was sent holds nothing.
    drop(channel.clone().oneshot(Request::new(())));
    let retired = hook.prepare(&set("three")).await.unwrap().commit();
    assert_eq!(retired.drain(Instant::now()).now_or_never(), Some(DrainReport::drained()));
    assert_eq!(format!("{channel:?}"), "ManagedService(Managed { generation: 3 })");
}
