//! How much a client may send, how slowly, and how many there may be.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::AsyncWriteExt;

use crate::support::{ADMIN_TOKEN, Ask, Rig, connect, in_time, read_answer, read_to_end, until};

#[tokio::test]
async fn a_body_has_an_end() {
    let rig = Rig::start();
    let body = |length: usize| format!(r#"{{"all":true,"mode":"{}"}}"#, "x".repeat(length - 22));
    let answer = Ask::rotate(body(64 * 1024)).send(&rig.unix).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
    let answer = Ask::rotate(body(64 * 1024 + 1)).send(&rig.unix).await;
    assert_eq!(answer.status, 413, "{}", answer.body);
    // Without a length that could be believed.
    let chunked = Ask::rotate("").without("content-length").with("transfer-encoding", "chunked");
    let mut stream = connect(&rig.unix).await;
    let chunk = format!("{:x}\r\n{}\r\n", 40_000, "x".repeat(40_000));
    let text = chunked.text() + &chunk + &chunk + "0\r\n\r\n";
    let _ = stream.write_all(text.as_bytes()).await;
    assert_eq!(read_answer(stream).await.status, 413);
    rig.stop().await;
}

#[tokio::test]
async fn a_head_has_an_end() {
    let rig = Rig::start();
    let ask = Ask::get("/v1/status").with("x-filler", &"x".repeat(4_000));
    assert_eq!(ask.send(&rig.unix).await.status, 200);
    let ask = Ask::get("/v1/status").with("x-filler", &"x".repeat(64_000));
    assert_eq!(ask.send(&rig.unix).await.status, 431);
    rig.stop().await;
}

#[tokio::test]
async fn a_request_that_does_not_come_is_not_waited_for() {
    let rig = Rig::with(|options| options.read_timeout = Duration::from_secs(1));
    let mut waiting = Vec::new();
    for endpoint in [&rig.unix, &rig.tcp] {
        for part in ["", "GET", "GET /v1/status HTTP/1.1\r\nhost: localhost\r\n"] {
            let mut stream = connect(endpoint).await;
            stream.write_all(part.as_bytes()).await.unwrap();
            waiting.push(read_to_end(stream));
        }
    }
    for answer in join_all(waiting).await {
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    let ask = Ask::rotate("").without("content-length").with("content-length", "100");
    let answer = ask.send(&rig.unix).await;
    assert_eq!(answer.status, 408, "{}", answer.body);
    rig.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_turned_away_at_once() {
    let rig = Rig::with(|options| options.read_timeout = Duration::from_secs(300));
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(connect(&rig.unix).await);
    }
    let answer = read_answer(connect(&rig.unix).await).await;
    assert_eq!((answer.status, answer.body.as_str()), (503, r#"{"error":"too many connections"}"#));
    // Whoever fills one listener does not close the other.
    let other = Ask::get("/v1/health/live").bearing(ADMIN_TOKEN);
    assert_eq!(other.send(&rig.tcp).await.status, 200);
    rig.client().status().await.unwrap_err();
    held.pop();
    until(async || rig.client().status().await.is_ok()).await;
    drop(held);
    rig.stop().await;
}

#[tokio::test]
async fn a_connection_has_one_request() {
    let rig = Rig::start();
    let ask = Ask::get("/v1/health/live").without("connection").text();
    let mut stream = connect(&rig.unix).await;
    stream.write_all((ask.clone() + &ask).as_bytes()).await.unwrap();
    let answers = String::from_utf8(in_time(read_to_end(stream)).await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    rig.stop().await;
}
