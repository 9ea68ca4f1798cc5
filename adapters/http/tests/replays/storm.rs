//! A token is revoked under two hundred requests that are all under way: real connections, real
//! time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use bytes::Bytes;
use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use oneiric_adapter_http::CredentialLayer;
use oneiric_core::Clock;
use oneiric_testkit::MemoryProvider;
use tokio::net::TcpListener;
use tokio::sync::Barrier;

use crate::support::Process;

const REQUESTS: usize = 200;

/// A server that has revoked the old token.
struct Server {
    /// Answers none of those with the old one before all of them are there.
    all_there: Barrier,
    old: AtomicUsize,
    new: AtomicUsize,
}

async fn answer(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    assert_eq!(body, "an order");
    match headers[AUTHORIZATION].as_bytes() {
        b"Bearer old" => {
            server.old.fetch_add(1, Ordering::SeqCst);
            server.all_there.wait().await;
            (StatusCode::UNAUTHORIZED, "who is that?")
        }
        b"Bearer new" => {
            server.new.fetch_add(1, Ordering::SeqCst);
            (StatusCode::OK, "done")
        }
        _ => (StatusCode::BAD_REQUEST, "no credential"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_requests_that_are_refused_at_once_read_the_store_once_and_all_succeed() {
    let (all_there, none) = (Barrier::new(REQUESTS), AtomicUsize::new(0));
    let server = Arc::new(Server { all_there, old: none, new: AtomicUsize::new(0) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/orders", listener.local_addr().unwrap());
    let app = Router::new().fallback(answer).with_state(Arc::clone(&server));
    tokio::spawn(async move { axum::serve(listener, app).await });

    let store = MemoryProvider::new();
    store.put("token", "old");
    let proven = |_| async { StatusCode::OK };
    let process = Process::proving(&store, Duration::ZERO, Clock::system(), proven).await;
    store.put("token", "new");
    let before = (store.fetches(), store.stamp_calls());

    let http = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let layer = CredentialLayer::new(process.credentials.clone());
    let api = layer.wait_at_most(Duration::from_secs(20)).over(http);
    let requests = (0..REQUESTS).map(|_| {
        let (api, url) = (api.clone(), url.clone());
        tokio::spawn(async move {
            let request = Request::post(url).body(Full::from("an order")).unwrap();
            let answer = api.send(request).await.unwrap();
            let status = answer.status();
            (status, answer.into_body().collect().await.unwrap().to_bytes())
        })
    });
    for answer in join_all(requests).await {
        assert_eq!(answer.unwrap(), (StatusCode::OK, Bytes::from("done")));
    }
    let seen = (server.old.load(Ordering::SeqCst), server.new.load(Ordering::SeqCst));
    assert_eq!(seen, (REQUESTS, REQUESTS), "each is sent once more, and no more");
    assert_eq!((store.fetches() - before.0, store.stamp_calls() - before.1), (1, 0));
    assert_eq!(process.proofs.load(Ordering::SeqCst), 2);
    process.stop().await;
}
