//! Several addresses: another node is asked where one cannot answer, and nothing is written twice.
//! Here all are one server, some of them behind a gate; a cluster that loses its leader is in the
//! rehearsals.

use std::time::Duration;

use oneiric_core::{ErrorKind, SecretProvider};
use oneiric_provider_vault::{Config, Engine, VaultProvider};
use oneiric_testkit::live::OpenBao;
use serde_json::json;
use tokio::time::Instant;

use crate::support::gate::{Gate, Mode};
use crate::support::lender::Lender;
use crate::support::{Admin, openbao};
use crate::{key, read, refused};

fn provider(bao: &OpenBao, addresses: [String; 2]) -> VaultProvider {
    let mut config = Config::new("");
    config.addresses = addresses.into();
    config.timeout = Duration::from_secs(4);
    config.auth.token = Some(bao.root_token().into());
    config.build().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_is_asked_where_one_cannot_answer_and_stays_the_one() {
    let Some(bao) = openbao("vault-nodes") else { return };
    Admin::new(&bao).put("a", json!({ "value": "v" })).await;
    let (first, second) = (Gate::before(bao.port()).await, Gate::before(bao.port()).await);
    let provider = provider(&bao, [first.address(), second.address()]);
    assert_eq!(read(&provider, "a").await, "v");
    assert_eq!(second.requests(), 0);
    // The life of the token is asked for once, behind our back.
    while first.requests() < 2 {
        tokio::task::yield_now().await;
    }

    first.play(Mode::Closed);
    assert_eq!(read(&provider, "a").await, "v");
    // It is the one that answers, so it stays the one that is asked.
    first.mend();
    let asked = first.requests();
    assert_eq!(read(&provider, "a").await, "v");
    assert_eq!(first.requests(), asked);

    // One that hangs leaves time for the other.
    second.play(Mode::Hanging);
    let began = Instant::now();
    assert_eq!(read(&provider, "a").await, "v");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    second.mend();

    for status in ["503 Sealed", "472 Recovery", "473 Standby", "500 Broken", "412 Behind"] {
        let sealed = r#"{"errors":["not now"]}"#;
        first.play(Mode::Answering(status.into(), sealed.into()));
        assert_eq!(read(&provider, "a").await, "v", "{status}");
        first.mend();
        second.play(Mode::Answering(status.into(), sealed.into()));
        assert_eq!(read(&provider, "a").await, "v", "{status}");
        second.mend();
    }
    // What is refused for our own sake is refused everywhere.
    let (one, two) = (first.requests(), second.requests());
    assert_eq!(refused(&provider, "none").await, ErrorKind::NotFound);
    assert_eq!(first.requests() + second.requests(), one + two + 1);
    first.play(Mode::Closed);
    second.play(Mode::Closed);
    assert_eq!(refused(&provider, "a").await, ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_reply_is_lost_is_not_made_again_on_another_node() {
    let Some(bao) = openbao("vault-nodes-write") else { return };
    let first = Gate::before(bao.port()).await;
    let provider = provider(&bao, [first.address(), bao.address()]);
    let writer = provider.writer().unwrap();
    first.lose_a_reply();
    let lost = writer.create_version(&key("a"), &"v".into(), "one").await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Ambiguous);
    let versions = provider.lister().unwrap().versions(&key("a")).await.unwrap();
    assert_eq!(versions.len(), 1, "it was made once");
    // Of a node that takes no connection it is known that it has done nothing.
    drop(first);
    let made = writer.create_version(&key("a"), &"w".into(), "two").await.unwrap();
    assert_eq!(made.id(), "2");
}

/// A second lease would leave the first to nobody, and nothing is wrapped a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_given_once_is_not_asked_of_another_node_when_its_answer_is_lost() {
    let lender = Lender::start("token").await;
    lender.set("database/creds/app", Some("one"));
    let gates = [Gate::before(lender.port()).await, Gate::before(lender.port()).await];
    let mut config = Config::new("");
    config.addresses = gates.iter().map(Gate::address).collect();
    config.engine = Engine::Leases;
    config.timeout = Duration::from_secs(2);
    config.auth.token = Some("token".into());
    let provider = config.build().unwrap();
    gates[0].play(Mode::Hanging);
    assert_eq!(refused(&provider, "creds/app").await, ErrorKind::DeadlineExceeded);
    assert_eq!(lender.leases(), 1);
    // Nobody is kept waiting by the same node again.
    assert_eq!(read(&provider, "creds/app").await, "one");
    assert_eq!(lender.leases(), 2);
}
