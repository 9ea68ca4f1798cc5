//! Asking for a rotation, and what the client knows of its end.

use std::time::Duration;

use oneiric_runtime::admin::{AdminClient, ClientError, Endpoint};
use oneiric_runtime::report::{Outcome, Progress};
use oneiric_secrets::Scope;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::support::{
    ADMIN_TOKEN, Ask, READ_TOKEN, Rig, in_time, late, rotate_db, token_file, until,
};

#[tokio::test]
async fn a_rotation_is_told_as_it_goes() {
    let rig = Rig::start();
    let (pool, gate) = rig.gated().await;
    rig.store.put("db", "second");
    let (tell, mut told) = mpsc::unbounded_channel();
    let client = rig.client();
    let asked = tokio::spawn(async move {
        client.rotate(&rotate_db(), late(), |step| tell.send(step.clone()).unwrap()).await
    });
    // It is told before the rotation can end.
    until(async || matches!(told.recv().await, Some(Progress::Preparing { .. }))).await;
    assert_eq!(*pool.load(), "first");
    gate.send_replace(true);
    let report = in_time(asked).await.unwrap().unwrap();
    assert_eq!(report.outcome, Outcome::Done, "{report:?}");
    assert_eq!(report.instance.as_str(), "test");
    assert_eq!(report.keys[0].to_version.as_deref(), Some("2"));
    assert_eq!(*pool.load(), "second");
    let mut last = None;
    while let Some(step) = told.recv().await {
        last = Some(step);
    }
    assert!(matches!(last, Some(Progress::Finished(_))), "{last:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_rotation_over_tcp_needs_the_token() {
    let rig = Rig::start();
    rig.store.put("db", "first");
    let client = AdminClient::new(rig.tcp.clone());
    let error = client.rotate(&rotate_db(), late(), |_| {}).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreached { .. }), "{error:?}");
    let path = token_file(rig.home.path(), "mine.token", ADMIN_TOKEN);
    let client = client.with_token_file(&path);
    let report = client.rotate(&rotate_db(), late(), |_| {}).await.unwrap();
    assert_eq!(report.outcome, Outcome::Done, "{report:?}");
    token_file(rig.home.path(), "mine.token", READ_TOKEN);
    let error = client.rotate(&rotate_db(), late(), |_| {}).await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { status: 404, .. }), "{error:?}");
    rig.stop().await;
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_with_the_reason() {
    let rig = Rig::start();
    for (body, why) in [
        ("", "not a request to rotate"),
        ("{}", "either `keys` or `all` is needed"),
        (r#"{"provider":"mem","keys":["a"],"all":true}"#, "exclude each other"),
        (r#"{"all":true,"force":true}"#, "unknown field `force`"),
        (r#"{"all":true,"mode":"gentle"}"#, "none of soft, hard, rollback"),
    ] {
        let answer = Ask::rotate(body).send(&rig.unix).await;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.body.contains(why), "{}", answer.body);
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_rotation_outlives_whoever_asked_for_it() {
    let rig = Rig::start();
    let (pool, gate) = rig.gated().await;
    rig.store.put("db", "second");
    let (tell, mut told) = mpsc::unbounded_channel();
    let client = rig.client();
    let asked = tokio::spawn(async move {
        client.rotate(&rotate_db(), late(), |step| tell.send(step.clone()).unwrap()).await
    });
    until(async || matches!(told.recv().await, Some(Progress::Preparing { .. }))).await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    gate.send_replace(true);
    until(async || *pool.load() == "second").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_deadline_that_passes_leaves_the_end_open() {
    let rig = Rig::start();
    let (_pool, gate) = rig.gated().await;
    rig.store.put("db", "second");
    let soon = Instant::now() + Duration::from_secs(2);
    let error = in_time(rig.client().rotate(&rotate_db(), soon, |_| {})).await.unwrap_err();
    assert!(matches!(error, ClientError::Ambiguous { .. }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::Ambiguous);
    gate.send_replace(true);
    rig.stop().await;
}

#[tokio::test]
async fn where_nobody_listens_nothing_was_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("dead.sock");
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let token = token_file(home.path(), "token", ADMIN_TOKEN);
    drop(UnixListener::bind(&path).unwrap());
    for endpoint in
        [Endpoint::Unix(path), Endpoint::Unix("/no/such.sock".into()), Endpoint::Tcp(free)]
    {
        let client = AdminClient::new(endpoint.clone()).with_token_file(&token);
        let error = client.rotate(&rotate_db(), late(), |_| {}).await.unwrap_err();
        assert!(matches!(error, ClientError::Unreached { .. }), "{error:?}");
        assert!(error.to_string().contains(&endpoint.to_string()), "{error}");
        assert_eq!(error.outcome(), Outcome::Unreached);
    }
}

/// An instance that takes one request and sends this, no more.
async fn answered_with(answer: &'static str) -> (Result<Outcome, ClientError>, usize) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("fake.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let fake = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let mut steps = 0;
    let client = AdminClient::new(Endpoint::Unix(path));
    let report = in_time(client.rotate(&rotate_db(), late(), |_| steps += 1)).await;
    fake.await.unwrap();
    (report.map(|report| report.outcome), steps)
}

#[tokio::test]
async fn an_answer_that_breaks_off_leaves_the_end_open() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let reading = "13\r\n{\"step\":\"reading\"}\n\r\n";
    for (answer, steps) in [
        (String::new(), 0),
        ("HTTP/1.1 200".to_owned(), 0),
        (HEAD.to_owned(), 0),
        (format!("{HEAD}{reading}"), 1),
        // The answer ends as an answer should, and has no end of the rotation in it.
        (format!("{HEAD}{reading}0\r\n\r\n"), 1),
        ("nonsense\r\n\r\n".to_owned(), 0),
    ] {
        let (outcome, told) = answered_with(answer.leak()).await;
        assert!(matches!(outcome, Err(ClientError::Ambiguous { .. })), "{outcome:?}");
        assert_eq!(told, steps);
    }
}

#[tokio::test]
async fn a_step_that_is_not_known_yet_is_passed_over() {
    const FINISHED: &str = r#"{"step":"finished","instance":"a","outcome":"not_drained","keys":[],"adapters":[],"duration_ms":1.0}"#;
    let body = format!("{{\"step\":\"from-the-future\"}}\n{FINISHED}\n");
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (outcome, told) = answered_with(answer.leak()).await;
    assert_eq!((outcome.unwrap(), told), (Outcome::NotDrained, 1));
}

#[tokio::test]
async fn a_refusal_is_an_end() {
    let (outcome, _) = answered_with(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 16\r\n\r\n{\"error\":\"busy\"}",
    )
    .await;
    let error = outcome.unwrap_err();
    assert!(matches!(error, ClientError::Refused { status: 503, .. }), "{error:?}");
    assert!(error.to_string().ends_with("busy"), "{error}");
    assert_eq!(error.outcome(), Outcome::Failed);
}

#[tokio::test]
async fn everything_of_a_provider_can_be_rotated() {
    let rig = Rig::start();
    let (pool, gate) = rig.gated().await;
    rig.store.put("db", "second");
    gate.send_replace(true);
    let mut request = rotate_db();
    request.scope = Scope::Provider("mem".parse().unwrap());
    let report = rig.client().rotate(&request, late(), |_| {}).await.unwrap();
    assert_eq!(report.outcome, Outcome::Done, "{report:?}");
    assert_eq!(*pool.load(), "second");
    rig.stop().await;
}
