//! With reqwest, against a server on the loopback interface: the feature `reqwest`.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::serve::ListenerExt as _;
use futures_util::FutureExt as _;
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderName, StatusCode};
use oneiric_adapter_http::{CredentialLayer, HttpCredential};
use oneiric_core::{
    DrainReport, HookError, LifecycleHook as _, ManagedHook, SecretRef, SecretSet, SecretValue,
    Version,
};
use oneiric_testkit::scan_for_canary;
use reqwest::{Body, Client, ClientBuilder};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

/// What was asked, and by whom: the path, the credential, the body and the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    path: String,
    token: Option<String>,
    body: String,
    peer: SocketAddr,
}

#[derive(Default)]
struct Server {
    accepted: Mutex<Vec<String>>,
    seen: Mutex<Vec<Seen>>,
}

impl Server {
    /// Starts it on a port of its own; it ends with the test's runtime.
    async fn start(accepted: &[&str]) -> (Arc<Self>, String) {
        let server = Arc::new(Self::default());
        *server.accepted.lock().unwrap() = accepted.iter().map(ToString::to_string).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        let app = Router::new().fallback(answer).with_state(Arc::clone(&server));
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, app).await });
        (server, url)
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn tokens(&self) -> Vec<String> {
        self.seen().into_iter().filter_map(|seen| seen.token).collect()
    }
}

/// `/to/<url>` leads there, `/says/<status>` says so, and all else is for who is known.
async fn answer(
    State(server): State<Arc<Server>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let given = request.headers().get(AUTHORIZATION).or(request.headers().get("x-api-key"));
    let given = given.map(|value| value.to_str().unwrap().to_owned());
    let token = given.map(|given| given.trim_start_matches("Bearer ").to_owned());
    let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let seen = Seen { path: path.clone(), token: token.clone(), body, peer };
    server.seen.lock().unwrap().push(seen);
    if let Some(target) = path.strip_prefix("/to/") {
        return (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, target.to_owned())]).into_response();
    }
    if let Some(status) = path.strip_prefix("/says/") {
        return StatusCode::from_bytes(status.as_bytes()).unwrap().into_response();
    }
    let accepted = server.accepted.lock().unwrap();
    if token.is_some_and(|token| accepted.contains(&token)) {
        "the answer".into_response()
    } else {
        StatusCode::UNAUTHORIZED.into_response()
    }
}

/// A client without the certificates of this machine, which nothing here needs.
fn client() -> ClientBuilder {
    // The first one counts.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().tls_certs_only([])
}

fn reference() -> SecretRef {
    "files:token".parse().unwrap()
}

fn set(value: &str) -> SecretSet {
    SecretSet::new([(reference(), SecretValue::from(value), Version::numbered(1))])
}

async fn credential(token: &str) -> ManagedHook<HttpCredential> {
    let hook = HttpCredential::bearer("api".parse().unwrap(), reference());
    hook.prepare(&set(token)).await.unwrap().commit();
    hook
}

#[tokio::test]
async fn a_refused_request_is_sent_once_more_with_the_newer_credential() {
    let (server, url) = Server::start(&["t2"]).await;
    let hook = Arc::new(credential("t1").await);
    let http = client().build().unwrap();
    let api = CredentialLayer::new(hook.managed().unwrap()).over(http.clone());
    let rotating = Arc::clone(&hook);
    tokio::spawn(async move {
        sleep(Duration::from_millis(100)).await;
        rotating.prepare(&set("t2")).await.unwrap().commit();
    });
    let request = http.post(format!("{url}/orders?page=2")).body("an order").build().unwrap();
    let answer = api.send(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.url().as_str(), format!("{url}/orders?page=2"), "the address is not lost");
    assert_eq!(answer.content_length(), Some(10));

    let retired = hook.prepare(&set("t3")).await.unwrap().commit();
    let mut draining = retired.drain(Instant::now() + Duration::from_secs(60));
    assert!((&mut draining).now_or_never().is_none(), "the answer was not read yet");
    assert_eq!(answer.text().await.unwrap(), "the answer");
    assert_eq!(draining.await, DrainReport::drained());
    let bodies: Vec<_> = server.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(
        (server.tokens().join(" "), bodies.join("|")),
        ("t1 t2".to_owned(), "an order|an order".to_owned())
    );
}

#[tokio::test]
async fn a_stream_is_not_sent_again() {
    let (server, url) = Server::start(&["t2"]).await;
    let hook = credential("t1").await;
    let managed = hook.managed().unwrap();
    let http = client().build().unwrap();
    let api = CredentialLayer::new(managed).over(http.clone());
    // Of what reqwest knows nothing, it cannot make a second one.
    let body = Body::wrap(http_body_util::Full::<bytes::Bytes>::from("an order"));
    let answer = api.send(http.post(&url).body(body).build().unwrap());
    let (answer, ()) = tokio::join!(answer, async {
        hook.prepare(&set("t2")).await.unwrap().commit();
    });
    assert_eq!(answer.unwrap().status(), StatusCode::UNAUTHORIZED);
    let [seen] = &server.seen()[..] else { panic!("it was sent more than once") };
    assert_eq!((seen.token.as_deref(), seen.body.as_str()), (Some("t1"), "an order"));
}

#[tokio::test]
async fn the_401_of_somebody_else_says_nothing_of_the_credential() {
    let (server, url) = Server::start(&["t1"]).await;
    let (elsewhere, other) = Server::start(&[]).await;
    let hook = credential("t1").await;
    let mut refusals = hook.refusals().unwrap();
    let http = client().build().unwrap();
    let api = CredentialLayer::new(hook.managed().unwrap()).over(http.clone());
    let start = Instant::now();
    let answer = api.send(http.get(format!("{url}/to/{other}/")).build().unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(start.elapsed() < Duration::from_secs(2), "nobody waits for a newer one");
    assert_eq!((server.tokens(), elsewhere.tokens()), (vec!["t1".to_owned()], Vec::new()));
    assert!(futures_util::StreamExt::next(&mut refusals).now_or_never().is_none());
}

async fn prove(url: &str, token: &str) -> Result<(), HookError> {
    let name = HeaderName::from_static("x-api-key");
    let proof = HttpCredential::proof_by_get(client(), url).unwrap();
    let hook = HttpCredential::named("api".parse().unwrap(), name, reference()).prove(proof);
    let outcome = hook.prepare(&set(token)).await.map(drop);
    assert!(hook.managed().is_none());
    outcome
}

#[tokio::test]
async fn a_proof_tells_what_is_refused_from_what_could_not_be_tried() {
    let canary = "canary-7f3a-b921-55d0";
    let (server, url) = Server::start(&["good"]).await;
    prove(&url, "good").await.unwrap();
    for (path, refused) in [
        ("/", true),
        ("/says/403", true),
        ("/says/404", false),
        ("/says/302", false),
        ("/says/500", false),
    ] {
        let error = prove(&format!("{url}{path}"), canary).await.unwrap_err();
        assert_eq!(error.is_refused(), refused, "{path}: {error}");
        assert_eq!(scan_for_canary(format!("{error} {error:?}"), canary), None);
    }
    assert_eq!(server.seen().len(), 6, "one request each");

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = prove(&format!("http://{nobody}/?key={canary}"), canary).await.unwrap_err();
    assert!(!error.is_refused());
    assert_eq!(scan_for_canary(format!("{error} {error:?}"), canary), None);
    let proof = HttpCredential::proof_by_get(client(), "no address");
    assert!(proof.is_err());
}

#[tokio::test]
async fn a_proof_opens_a_connection_of_its_own_and_follows_nobody() {
    let (server, url) = Server::start(&["t1"]).await;
    let (elsewhere, other) = Server::start(&["t1"]).await;
    let proof = HttpCredential::proof_by_get(client(), &url).unwrap();
    let hook = HttpCredential::bearer("api".parse().unwrap(), reference()).prove(proof);
    for _ in 0..3 {
        hook.prepare(&set("t1")).await.unwrap();
    }
    let mut peers: Vec<_> = server.seen().iter().map(|seen| seen.peer.port()).collect();
    peers.sort_unstable();
    peers.dedup();
    assert_eq!(peers.len(), 3, "a connection that is there proves nothing of the next one");

    let error = prove(&format!("{url}/to/{other}/"), "t1").await.unwrap_err();
    assert!(!error.is_refused(), "{error}");
    assert_eq!(elsewhere.seen(), []);
}
