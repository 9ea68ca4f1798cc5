//! What the conformance suite cannot know: the ways of this one store.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[path = "../support/mod.rs"]
mod support;

mod check;
mod errors;
mod listing;
mod push;
mod python;
mod quota;
mod reads;
mod writing;

use oneiric_core::{FetchRequest, Fetched, Result, SecretKey, SecretProvider};
use oneiric_gcp_fake::Fake;
use oneiric_provider_gcp::{Config, GcpProvider};

fn key(text: &str) -> SecretKey {
    text.parse().unwrap()
}

/// A provider of the fake's global secrets.
fn provider(fake: &Fake, current: &str) -> GcpProvider {
    let mut config: Config = support::config(fake);
    config.current = current.parse().unwrap();
    config.build().unwrap()
}

async fn fetch(provider: &GcpProvider, text: &str) -> Result<Fetched> {
    let request = match text.split_once('@') {
        Some((id, version)) => FetchRequest::new(key(id)).at_version(version),
        None => FetchRequest::new(key(text)),
    };
    provider.fetch(&request).await
}

/// The text and the version that a key is answered with.
async fn read(provider: &GcpProvider, text: &str) -> (String, String) {
    let fetched = fetch(provider, text).await.unwrap();
    (fetched.value.expose_str().unwrap().to_owned(), fetched.version.to_string())
}
