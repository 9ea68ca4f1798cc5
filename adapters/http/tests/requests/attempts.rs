//! When a request is sent once more, and when it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::iter;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use oneiric_adapter_http::{CredentialLayer, IncomingResponse, OutgoingRequest};
use oneiric_core::ManagedGuard;
use oneiric_testkit::scan_for_canary;
use tokio::time::{Instant, sleep};
use tower::service_fn;

use crate::support::{Api, Credential, SECOND, answer, order};

#[tokio::test(start_paused = true)]
async fn each_request_carries_the_current_credential_and_no_other() {
    let (api, credential) = (Api::accepting(&["t1", "t2"]), Credential::of("t1").await);
    let client = credential.layer().over(api.client());
    let mut request = order();
    request.headers_mut().append(AUTHORIZATION, "Bearer own".parse().unwrap());
    request.headers_mut().append(AUTHORIZATION, "Bearer another".parse().unwrap());
    assert_eq!(client.send(request).await.unwrap().status(), StatusCode::OK);
    credential.change("t2").await;
    assert_eq!(client.send(order()).await.unwrap().status(), StatusCode::OK);
    assert_eq!(api.tokens(), ["t1", "t2"]);
    assert!(!credential.was_reported());
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_waits_for_the_newer_credential_and_is_sent_once_more() {
    let (api, credential) = (Api::accepting(&["t2"]), Credential::of("t1").await);
    let client = credential.layer().over(api.client());
    credential.change_in(SECOND, "t2");
    let start = Instant::now();
    assert_eq!(client.send(order()).await.unwrap().status(), StatusCode::OK);
    assert_eq!(start.elapsed(), SECOND, "it waits for it, and no longer");
    let whole = |token: &str| (token.to_owned(), "an order".to_owned());
    assert_eq!(api.seen(), [whole("t1"), whole("t2")]);
    assert!(credential.was_reported());
}

#[tokio::test(start_paused = true)]
async fn one_that_was_overtaken_does_not_wait_and_reports_nothing() {
    let (api, credential) = (Api::accepting(&["t2"]), Credential::of("t1").await);
    api.slow();
    let client = credential.layer().over(api.client());
    credential.change_in(SECOND / 2, "t2");
    let start = Instant::now();
    assert_eq!(client.send(order()).await.unwrap().status(), StatusCode::OK);
    assert_eq!((api.tokens().join(" ").as_str(), start.elapsed()), ("t1 t2", 2 * SECOND));
    assert!(!credential.was_reported(), "what was refused does not serve any more");
}

#[tokio::test(start_paused = true)]
async fn without_a_newer_credential_the_401_is_passed_through_as_it_came() {
    let (api, credential) = (Api::accepting(&[]), Credential::of("t1").await);
    let client = credential.layer().wait_at_most(3 * SECOND).over(api.client());
    let start = Instant::now();
    let answer = client.send(order()).await.unwrap();
    assert_eq!(start.elapsed(), 3 * SECOND);
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!((&body[..], api.tokens()), (&b"the answer"[..], vec!["t1".to_owned()]));
    assert!(credential.was_reported());
}

#[tokio::test(start_paused = true)]
async fn there_is_no_third_attempt() {
    let (api, credential) = (Api::accepting(&["t3"]), Credential::of("t1").await);
    let client = credential.layer().over(api.client());
    credential.change_in(SECOND, "t2");
    credential.change_in(SECOND + SECOND / 2, "t3");
    assert_eq!(client.send(order()).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(api.tokens(), ["t1", "t2"]);
    // That the second one was refused as well is reported, too.
    assert!(credential.was_reported() && credential.managed().load().generation() == 2);
    sleep(SECOND).await;
    assert_eq!(client.send(order()).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_sent_whole_and_once() {
    type Stream = UnsyncBoxBody<Bytes, String>;
    let (api, credential) = (Api::accepting(&["t2"]), Credential::of("t1").await);
    let never = |_: &Request<Stream>| None;
    let client = CredentialLayer::with_replay(credential.managed(), never).over(api.client());
    credential.change_in(SECOND, "t2");
    let parts = ["an ", "order"].map(|part| Ok(Frame::data(Bytes::from(part))));
    let body = StreamBody::new(iter(parts)).boxed_unsync();
    let start = Instant::now();
    let request = Request::post("http://api.internal/orders").body(body).unwrap();
    let answer = client.send(request).await.unwrap();
    assert_eq!((answer.status(), start.elapsed()), (StatusCode::UNAUTHORIZED, Duration::ZERO));
    assert_eq!(api.seen(), [("t1".to_owned(), "an order".to_owned())]);
    assert!(credential.was_reported(), "the next one may be luckier");
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_of_the_credential_is_not_repeated() {
    let rights = "Bearer error=\"insufficient_scope\"";
    let about_rights = Ok(answer(StatusCode::UNAUTHORIZED, rights));
    let said = [403, 407, 429, 500, 503].map(|status| {
        Ok(answer(StatusCode::from_u16(status).unwrap(), "Bearer error=\"invalid_token\""))
    });
    for said in said.into_iter().chain([about_rights, Err("it broke off".to_owned())]) {
        let (api, credential) = (Api::answering(said.clone()), Credential::of("t1").await);
        api.slow();
        let client = credential.layer().over(api.client());
        credential.change_in(SECOND / 2, "t2");
        let got = client.send(order()).await.map(|answer| answer.status());
        assert_eq!(got, said.map(|answer| answer.status()));
        assert_eq!((api.tokens(), credential.was_reported()), (vec!["t1".to_owned()], false));
    }
}

/// An answer that counts how often it is asked whose it is.
struct Signed(Response<Full<Bytes>>, Arc<AtomicU32>);

impl IncomingResponse for Signed {
    type Held = StatusCode;

    fn status(&self) -> StatusCode {
        self.0.status()
    }

    fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    fn origin(&self) -> Option<String> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Some("https://elsewhere.internal".to_owned())
    }

    fn hold<T: Send + Sync + 'static>(self, _: ManagedGuard<T>) -> StatusCode {
        self.status()
    }
}

/// A request that says whom it asks.
struct Addressed(HeaderMap);

impl OutgoingRequest for Addressed {
    fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.0
    }

    fn origin(&self) -> Option<String> {
        Some("https://api.internal".to_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_asked_whose_it_is_only_where_it_refuses() {
    let credential = Credential::of("t1").await;
    for (status, times) in [(200, 0), (403, 0), (500, 0), (401, 1)] {
        let asked = Arc::<AtomicU32>::default();
        let counted = Arc::clone(&asked);
        let client = service_fn(move |_: Addressed| {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Signed(answer(status, "Bearer"), Arc::clone(&counted));
            async move { Ok::<_, String>(answer) }
        });
        let layer = CredentialLayer::with_replay(credential.managed(), |_: &Addressed| None);
        let got = layer.over(client).send(Addressed(HeaderMap::new())).await.unwrap();
        assert_eq!((got.as_u16(), asked.load(Ordering::Relaxed)), (status, times));
        assert!(!credential.was_reported(), "it is the answer of somebody else");
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_credential_stays_refused_not_every_request_waits() {
    let (api, credential) = (Api::accepting(&["t2"]), Credential::of("t1").await);
    let client = credential.layer().over(api.client());
    let start = Instant::now();
    let refused = join_all((0..10).map(|_| client.send(order()))).await;
    assert!(refused.iter().all(|answer| answer.as_ref().unwrap().status() == 401));
    assert_eq!(start.elapsed(), 2 * SECOND, "all wait at the same time");
    for _ in 0..10 {
        assert_eq!(client.send(order()).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(start.elapsed(), 2 * SECOND, "it was waited for in vain");

    // When the store may be asked again, it is waited for again.
    sleep(8 * SECOND).await;
    credential.change_in(SECOND, "t2");
    assert_eq!(client.send(order()).await.unwrap().status(), StatusCode::OK);
    assert_eq!(start.elapsed(), 11 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn nothing_shows_a_credential() {
    let canary = "canary-7f3a-b921-55d0";
    let (api, credential) = (Api::accepting(&[]), Credential::of(canary).await);
    let layer = credential.layer().wait_at_most(Duration::ZERO);
    let client = layer.over(api.client());
    let answer = client.send(order()).await.unwrap();
    let shown = format!("{layer:?} {client:?} {answer:?} {:?}", answer.body());
    assert!(shown.contains("CredentialLayer") && shown.contains("HeldBody"), "{shown}");
    assert_eq!(scan_for_canary(shown, canary), None);

    let broken = Api::answering(Err("it broke off".to_owned()));
    let error = layer.over(broken.client()).send(order()).await.unwrap_err();
    assert_eq!(scan_for_canary(format!("{error} {error:?}"), canary), None);
}
