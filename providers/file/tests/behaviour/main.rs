//! What a file provider does beyond the conformance suite.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[path = "../trees/mod.rs"]
mod trees;

mod changes;
mod errors;
mod killed;
mod permissions;
mod reads;
mod writes;

use std::sync::Arc;

use oneiric_core::{FetchRequest, Fetched, Result, SecretProvider};
use oneiric_provider_file::{Config, FileProvider};

fn provider(root: impl Into<std::path::PathBuf>) -> Arc<FileProvider> {
    Arc::new(Config::new(root).build().unwrap())
}

fn ask(key: &str) -> FetchRequest {
    FetchRequest::new(key.parse().unwrap())
}

async fn fetch(provider: &FileProvider, key: &str) -> Result<Fetched> {
    provider.fetch(&ask(key)).await
}

/// The value of a key that is there and is text.
async fn text(provider: &FileProvider, key: &str) -> String {
    fetch(provider, key).await.unwrap().value.expose_str().unwrap().to_owned()
}
