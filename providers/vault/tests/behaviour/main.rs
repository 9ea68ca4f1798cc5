//! What the conformance suite does not ask: logins, objects, namespaces, seals and quotas, on a
//! real OpenBao.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[path = "../support/mod.rs"]
mod support;

mod cluster;
mod errors;
mod identity;
mod leases;
mod logins;
mod reads;
mod writing;

use oneiric_core::{ErrorKind, FetchRequest, SecretKey, SecretProvider};
use oneiric_provider_vault::VaultProvider;

fn key(text: &str) -> SecretKey {
    text.parse().unwrap()
}

/// The value of a secret as text.
async fn read(provider: &VaultProvider, name: &str) -> String {
    let fetched = provider.fetch(&FetchRequest::new(key(name))).await;
    let fetched = fetched.unwrap_or_else(|error| panic!("{name}: {}", error.chain()));
    fetched.value.expose_str().unwrap().to_owned()
}

/// What a read is refused as.
async fn refused(provider: &VaultProvider, name: &str) -> ErrorKind {
    provider.fetch(&FetchRequest::new(key(name))).await.unwrap_err().kind()
}
