//! Against an upstream that enforces credentials: a token is revoked as soon as its generation
//! has drained, under requests that never pause, and none of them fails.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use oneiric_adapter_http::HttpCredential;
use oneiric_core::{
    DrainReport, HookError, LifecycleHook, ManagedHook, SecretRef, SecretSet, SecretValue, Version,
};
use tokio::time::{Instant, sleep};

const CLIENTS: usize = 8;
const ROTATIONS: usize = 20;

type Accepted = Arc<Mutex<HashSet<String>>>;

async fn upstream(accepted: Accepted) -> String {
    let answer = async |State(accepted): State<Accepted>, headers: HeaderMap| {
        // The answer takes a moment, so that requests are always under way.
        sleep(Duration::from_millis(1)).await;
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let known = given.is_some_and(|given| accepted.lock().unwrap().contains(given));
        if known { StatusCode::OK } else { StatusCode::UNAUTHORIZED }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/", get(answer)).with_state(accepted);
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}/")
}

fn client() -> Client<HttpConnector, Empty<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn ask(
    client: &Client<HttpConnector, Empty<Bytes>>,
    url: &str,
    credential: &HttpCredential,
) -> StatusCode {
    let mut request = Request::get(url).body(Empty::new()).unwrap();
    credential.add_to(request.headers_mut());
    let response = client.request(request).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}

fn token() -> SecretRef {
    "files:token".parse().unwrap()
}

fn set(value: &str) -> SecretSet {
    SecretSet::new([(token(), SecretValue::from(value), Version::numbered(1))])
}

fn hook(url: &str) -> ManagedHook<HttpCredential> {
    let url = url.to_owned();
    HttpCredential::bearer("api".parse().unwrap(), token()).prove(move |credential| {
        let url = url.clone();
        async move {
            match ask(&client(), &url, &credential).await {
                StatusCode::OK => Ok(()),
                _ => Err(HookError::refused("the upstream does not accept the token")),
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_change_under_load_and_no_request_fails() {
    let accepted: Accepted = Arc::new(Mutex::new(HashSet::from(["Bearer t0".to_owned()])));
    let url = upstream(accepted.clone()).await;
    let hook = hook(&url);
    hook.prepare(&set("t0")).await.unwrap().commit();
    let managed = hook.managed().unwrap();

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (managed, url) = (managed.clone(), url.clone());
            let (stop, served) = (stop.clone(), served.clone());
            tokio::spawn(async move {
                let client = client();
                while !stop.load(Ordering::Relaxed) {
                    let credential = managed.load();
                    assert_eq!(ask(&client, &url, &credential).await, StatusCode::OK);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    for round in 1..=ROTATIONS {
        let (old, new) = (format!("Bearer t{}", round - 1), format!("t{round}"));
        accepted.lock().unwrap().insert(format!("Bearer {new}"));
        let before = served.load(Ordering::Relaxed);
        let retired = hook.prepare(&set(&new)).await.unwrap().commit();
        let report = retired.drain(Instant::now() + Duration::from_secs(20)).await;
        assert_eq!(report, DrainReport::drained());
        assert!(accepted.lock().unwrap().remove(&old));
        while served.load(Ordering::Relaxed) < before + CLIENTS as u64 {
            assert!(clients.iter().all(|client| !client.is_finished()), "a request failed");
            sleep(Duration::from_millis(1)).await;
        }
    }

    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(managed.load().generation(), ROTATIONS as u64 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_the_upstream_refuses_never_serves() {
    let accepted: Accepted = Arc::new(Mutex::new(HashSet::from(["Bearer t0".to_owned()])));
    let url = upstream(accepted).await;
    let hook = hook(&url);
    hook.prepare(&set("t0")).await.unwrap().commit();
    let error = hook.prepare(&set("t1")).await.err().unwrap();
    assert!(error.is_refused(), "{error}");
    let credential = hook.managed().unwrap().load().clone();
    assert_eq!(ask(&client(), &url, &credential).await, StatusCode::OK);
}
