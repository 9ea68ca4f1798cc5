//! What goes wrong on the way, and that nobody but the resolver tries again.

use std::time::Duration;

use oneiric_core::{ErrorKind, FetchRequest, SecretProvider};
use oneiric_gcp_fake::{Fake, Fault, Retry};
use tokio::time::Instant;

use crate::{fetch, key, provider, support};

#[tokio::test]
async fn kinds_come_from_what_the_service_says_and_each_call_is_made_once() {
    let fake = Fake::start().await;
    fake.add("db", "value");
    let provider = provider(&fake, "latest");
    let three = Duration::from_secs(3);
    let throttled = |retry_after| ErrorKind::Throttled { retry_after };
    for (fault, kind) in [
        (Fault::Status(404, "NOT_FOUND", None), ErrorKind::NotFound),
        (Fault::Status(403, "PERMISSION_DENIED", None), ErrorKind::Denied),
        (Fault::Status(401, "UNAUTHENTICATED", None), ErrorKind::Unauthenticated),
        (Fault::Status(429, "RESOURCE_EXHAUSTED", None), throttled(None)),
        (
            Fault::Status(429, "RESOURCE_EXHAUSTED", Some(Retry::Header(three))),
            throttled(Some(three)),
        ),
        (
            Fault::Status(429, "RESOURCE_EXHAUSTED", Some(Retry::Info(three))),
            throttled(Some(three)),
        ),
        (Fault::Status(400, "FAILED_PRECONDITION", None), ErrorKind::VersionDisabled),
        (Fault::Status(400, "INVALID_ARGUMENT", None), ErrorKind::Invalid),
        (Fault::Status(500, "INTERNAL", None), ErrorKind::Unavailable),
        (Fault::Status(503, "UNAVAILABLE", None), ErrorKind::Unavailable),
        (Fault::Status(504, "DEADLINE_EXCEEDED", None), ErrorKind::DeadlineExceeded),
        (Fault::Page(404), ErrorKind::Unavailable),
        (Fault::Page(502), ErrorKind::Unavailable),
        (Fault::CutBefore, ErrorKind::Unavailable),
    ] {
        fake.forget_calls();
        fake.play(fault.clone(), None, None);
        let error = fetch(&provider, "db").await.unwrap_err();
        assert_eq!(error.kind(), kind, "{fault:?}: {}", error.chain());
        assert!(error.chain().contains("db"), "{}", error.chain());
        // One that was cut may be sent once more by the HTTP client on a fresh connection.
        let most = if fault == Fault::CutBefore { 2 } else { 1 };
        assert!((1..=most).contains(&fake.books().len()), "{fault:?}: {:?}", fake.books());
        fake.mend();
    }
    assert!(fetch(&provider, "db").await.is_ok());
}

#[tokio::test]
async fn a_call_ends_with_the_deadline_or_with_its_own_time() {
    let fake = Fake::start().await;
    fake.add("db", "value");
    let mut config = support::config(&fake);
    config.timeout = Duration::from_millis(300);
    let provider = config.build().unwrap();
    fake.play(Fault::Hang, None, None);
    let start = Instant::now();
    let mut request = FetchRequest::new(key("db"));
    request.deadline = Some(start + Duration::from_millis(100));
    assert_eq!(provider.fetch(&request).await.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert!(start.elapsed() < Duration::from_millis(290), "{:?}", start.elapsed());
    let stamp = provider.stamps(&[key("db")]).await.pop().unwrap();
    assert_eq!(stamp.unwrap_err().kind(), ErrorKind::DeadlineExceeded);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn nobody_who_listens_is_unavailable_and_no_credential_is_unauthenticated() {
    let fake = Fake::start().await;
    let config = support::config(&fake);
    drop(fake);
    let error = fetch(&config.build().unwrap(), "db").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());

    let mut config = oneiric_provider_gcp::Config::new("p");
    config.identity.file = Some("/nowhere/key.json".into());
    let error = fetch(&config.build().unwrap(), "db").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.chain());
}
