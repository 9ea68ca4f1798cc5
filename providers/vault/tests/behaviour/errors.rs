//! Servers that cannot answer, or send us elsewhere.

use std::time::Duration;

use oneiric_core::{ErrorKind, FetchRequest, SecretProvider, SecretWriter};
use serde_json::json;

use crate::support::gate::{Gate, Mode};
use crate::support::{Admin, openbao, with_token};
use crate::{key, read, refused};

#[tokio::test]
async fn a_server_that_is_sealed_while_in_use_cannot_answer_and_can_again() {
    let Some(bao) = openbao("vault-sealed") else { return };
    let admin = Admin::new(&bao);
    admin.put("a", json!({ "value": "v" })).await;
    let provider = with_token(&bao.address(), bao.root_token()).build().unwrap();
    assert_eq!(read(&provider, "a").await, "v");
    bao.seal().unwrap();
    assert_eq!(refused(&provider, "a").await, ErrorKind::Unavailable);
    let stamp = provider.stamps(&[key("a")]).await.remove(0);
    assert_eq!(stamp.unwrap_err().kind(), ErrorKind::Unavailable);
    // Nothing can have been written, so it is not open whether it was.
    let written = provider.create_version(&key("a"), &"w".into(), "token").await;
    assert_eq!(written.unwrap_err().kind(), ErrorKind::Unavailable);
    bao.unseal().unwrap();
    assert_eq!(read(&provider, "a").await, "v");
}

#[tokio::test]
async fn a_quota_names_the_time_to_wait_where_the_server_is_told_to() {
    let Some(bao) = openbao("vault-quota") else { return };
    let admin = Admin::new(&bao);
    admin.put("a", json!({ "value": "v" })).await;
    let provider = with_token(&bao.address(), bao.root_token()).build().unwrap();
    assert_eq!(read(&provider, "a").await, "v");
    admin.post("sys/quotas/config", json!({ "enable_rate_limit_response_headers": true })).await;
    let limit = json!({ "path": "secret/", "rate": 1, "interval": "1s", "block_interval": "30s" });
    admin.post("sys/quotas/rate-limit/suite", limit).await;
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(provider.fetch(&FetchRequest::new(key("a"))).await);
    }
    let error = answers.pop().unwrap().unwrap_err();
    let ErrorKind::Throttled { retry_after: Some(wait) } = error.kind() else {
        panic!("{error:?}")
    };
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(30), "{wait:?}");
}

#[tokio::test]
async fn a_place_where_nothing_is_mounted_is_no_absence_of_a_secret() {
    let Some(bao) = openbao("vault-mount") else { return };
    let mut config = with_token(&bao.address(), bao.root_token());
    config.mount = "nowhere".into();
    let provider = config.build().unwrap();
    let error = provider.fetch(&FetchRequest::new(key("a"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.chain().contains("no handler for route"), "{}", error.chain());
}

#[tokio::test]
async fn a_standby_that_sends_us_elsewhere_is_followed_and_not_for_ever() {
    let Some(bao) = openbao("vault-standby") else { return };
    Admin::new(&bao).put("a/b c", json!({ "value": "v" })).await;
    let gate = Gate::before(bao.port()).await;
    let provider = with_token(&gate.address(), bao.root_token()).build().unwrap();
    let to = |base: &str| {
        let url = format!("{base}/v1/secret/data/a/b%20c");
        Mode::Answering(format!("307 Temporary Redirect\r\nLocation: {url}"), String::new())
    };
    gate.play(to(&bao.address()));
    assert_eq!(read(&provider, "a/b c").await, "v");
    gate.play(to(&gate.address()));
    assert_eq!(refused(&provider, "a/b c").await, ErrorKind::Unavailable);
    assert!(gate.requests() >= 4, "it was followed a few times");
}

#[tokio::test]
async fn what_stands_before_the_server_does_not_say_what_there_is() {
    let Some(bao) = openbao("vault-proxy") else { return };
    Admin::new(&bao).put("a", json!({ "value": "v" })).await;
    let gate = Gate::before(bao.port()).await;
    let provider = with_token(&gate.address(), bao.root_token()).build().unwrap();
    for (head, body, kind) in [
        ("404 Not Found", "nope", ErrorKind::Unavailable),
        ("404 Not Found", r#"{"message": "no route"}"#, ErrorKind::Unavailable),
        ("502 Bad Gateway", "", ErrorKind::Unavailable),
        ("473 Standby", "", ErrorKind::Unavailable),
        ("200 OK", r#"{"data":1"#, ErrorKind::Unavailable),
    ] {
        gate.play(Mode::Answering(head.into(), body.into()));
        assert_eq!(refused(&provider, "a").await, kind, "{head}");
    }
    gate.mend();
    assert_eq!(read(&provider, "a").await, "v");
}
