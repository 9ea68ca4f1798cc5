//! The suite for adapters, on both sides of a handshake: a client before a server that lets in
//! whom it knows, and a server before clients that believe whom they know.
#![expect(clippy::unwrap_used, reason = "in a test a failure is the message")]

#[path = "../tls/authority.rs"]
#[expect(dead_code, reason = "the other tests issue more kinds of certificates")]
mod authority;
mod client;
mod network;
mod register;
mod server;

use oneiric_core::SecretRef;
use oneiric_testkit::adapter_conformance;
use rustls::SupportedProtocolVersion;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};

use client::ClientRig;
use server::ServerRig;

/// The server of every handshake.
const NAME: &str = "shop.internal";

fn name() -> ServerName<'static> {
    NAME.try_into().unwrap()
}

/// The certificate and key of every adapter.
fn pem() -> SecretRef {
    "files:tls.pem".parse().unwrap()
}

async fn a_client_passes_with_nothing_left_out(version: &'static SupportedProtocolVersion) {
    let report = adapter_conformance(&ClientRig::start(version).await).await;
    report.assert_passed();
    assert_eq!(report.skipped(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_passes_the_suite() {
    a_client_passes_with_nothing_left_out(&TLS13).await;
}

/// It hears of its certificate before the handshake is over, and not after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_passes_the_suite_before_an_older_server() {
    a_client_passes_with_nothing_left_out(&TLS12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_passes_the_suite() {
    let report = adapter_conformance(&ServerRig::default()).await;
    report.assert_passed();
    let unplayed = ["l5_a_refusal_in_use_is_reported", "l5_an_outage_is_not_reported_as_a_refusal"];
    assert_eq!(report.skipped(), unplayed);
}
