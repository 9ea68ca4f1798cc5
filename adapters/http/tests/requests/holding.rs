//! How long a generation is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{iter, pending};
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Full, StreamBody};
use oneiric_adapter_http::HeldBody;
use oneiric_core::DrainReport;
use oneiric_testkit::poll_at_most;
use tokio::time::{Instant, timeout};
use tower::service_fn;

use crate::support::{Api, Credential, SECOND, order};

/// Draining the generation that is replaced now.
async fn draining(credential: &Credential) -> BoxFuture<'static, DrainReport> {
    let retired = credential.change("newer").await;
    retired.drain(Instant::now() + Duration::from_secs(60))
}

/// The answer to a request whose body comes in these parts, and what waits for its end.
async fn streamed(
    parts: Vec<Result<&'static str, String>>,
) -> (
    HeldBody<impl http_body::Body<Data = Bytes, Error = String> + Unpin>,
    BoxFuture<'static, DrainReport>,
) {
    let credential = Credential::of("t1").await;
    let client = service_fn(move |_: Request<Full<Bytes>>| {
        let frames =
            parts.clone().into_iter().map(|part| part.map(|part| Frame::data(part.into())));
        async move { Ok::<_, String>(Response::new(StreamBody::new(iter(frames)))) }
    });
    let answer = credential.layer().over(client).send(order()).await.unwrap();
    let mut draining = draining(&credential).await;
    assert!((&mut draining).now_or_never().is_none(), "the answer was not read yet");
    (answer.into_body(), draining)
}

#[tokio::test(start_paused = true)]
async fn a_generation_is_in_use_until_the_answer_was_read_to_its_end() {
    let (mut body, mut draining) = streamed(vec![Ok("a"), Ok("b")]).await;
    for _ in 0..2 {
        assert!(body.frame().await.unwrap().is_ok());
        assert!((&mut draining).now_or_never().is_none(), "there may be more to read");
    }
    assert!(body.frame().await.is_none());
    assert_eq!((&mut draining).now_or_never(), Some(DrainReport::drained()));
    assert!(body.frame().await.is_none(), "an end stays an end");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_or_is_dropped_is_not_in_use() {
    let (mut body, mut draining) = streamed(vec![Ok("a"), Err("it broke off".to_owned())]).await;
    assert!(body.frame().await.unwrap().is_ok());
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!((&mut draining).now_or_never(), Some(DrainReport::drained()));

    let (body, draining) = streamed(vec![Ok("a")]).await;
    drop(body);
    assert_eq!(draining.now_or_never(), Some(DrainReport::drained()));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_still_read_at_the_deadline_ends_with_an_error() {
    let credential = Credential::of("t1").await;
    let dropped = Arc::<AtomicBool>::default();
    let server = Arc::clone(&dropped);
    let client = service_fn(move |_: Request<Full<Bytes>>| {
        // One part, and nothing more.
        let parts = iter([Ok::<_, String>(Frame::data(Bytes::from("a")))]);
        let held = SetsOnDrop(Arc::clone(&server));
        let parts = parts.chain(pending()).inspect(move |_| _ = &held);
        async move { Ok::<_, String>(Response::new(StreamBody::new(parts))) }
    });
    let answer = credential.layer().over(client).send(order()).await.unwrap();
    let mut body = answer.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    let draining = tokio::spawn(draining(&credential).await);
    let frame = timeout(Duration::from_secs(3600), body.frame()).await;
    let error = frame.expect("it goes on").unwrap().unwrap_err();
    assert!(error.to_string().contains("not read to its end"), "{error}");
    assert!(dropped.load(Ordering::Relaxed), "its connection is not closed");
    assert_eq!(draining.await.unwrap(), DrainReport::forced(1));
    assert!(body.is_end_stream() && body.frame().await.is_none(), "an end stays an end");
}

struct SetsOnDrop(Arc<AtomicBool>);

impl Drop for SetsOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_whose_end_is_known_is_let_go_of_with_its_last_part() {
    let (api, credential) = (Api::accepting(&["t1"]), Credential::of("t1").await);
    let answer = credential.layer().over(api.client()).send(order()).await.unwrap();
    let mut body = answer.into_body();
    let mut ending = draining(&credential).await;
    assert!((&mut ending).now_or_never().is_none());
    assert!(body.frame().await.unwrap().is_ok());
    assert_eq!(ending.now_or_never(), Some(DrainReport::drained()));

    // Nobody reads an empty one.
    let client = service_fn(async |_| Ok::<_, String>(Response::new(Full::<Bytes>::default())));
    let answer = credential.layer().over(client).send(order()).await.unwrap();
    let ending = draining(&credential).await;
    assert_eq!(ending.now_or_never(), Some(DrainReport::drained()));
    drop(answer);
}

#[tokio::test(start_paused = true)]
async fn a_retried_request_holds_the_newer_generation_alone() {
    let (api, credential) = (Api::accepting(&["t2"]), Credential::of("t1").await);
    let client = credential.layer().over(api.client());
    let request = tokio::spawn(async move { client.send(order()).await });
    tokio::time::sleep(SECOND).await;
    let retired = credential.change("t2").await;
    let mut first = retired.drain(Instant::now() + Duration::from_secs(60));
    assert!((&mut first).now_or_never().is_none(), "the 401 may still have to be read");
    let answer = request.await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(first.now_or_never(), Some(DrainReport::drained()));
    let mut second = draining(&credential).await;
    assert!((&mut second).now_or_never().is_none());
    drop(answer);
    assert_eq!(second.now_or_never(), Some(DrainReport::drained()));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cancelled_leaves_nothing_behind() {
    // Before it is sent, while it is answered, while it waits, and while it is answered again.
    for polls in 0.. {
        let (api, credential) = (Api::accepting(&["t2"]), Credential::of("t1").await);
        api.slow();
        let client = credential.layer().over(api.client());
        credential.change_in(2 * SECOND, "t2");
        let answer = poll_at_most(polls, client.send(order())).await;
        let sent = api.tokens().len();
        let first = draining(&credential).await;
        if answer.is_some() {
            assert_eq!((polls, sent), (4, 2), "it was cancelled at each of its awaits");
            break;
        }
        assert_eq!(first.now_or_never(), Some(DrainReport::drained()), "after {polls} polls");
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(api.tokens().len(), sent, "nothing goes on without the caller");
    }
}
