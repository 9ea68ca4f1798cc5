//! How the provider behaves beyond what the conformance suite asks of every provider.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[path = "../support/mod.rs"]
mod support;

mod batches;
mod consistency;
mod identity;
mod push;
mod sweep;
mod writing;

use std::sync::Arc;

use oneiric_core::{FetchRequest, Result, SecretKey, SecretProvider, Stamp};
use oneiric_provider_aws::{AwsProvider, Config};

use support::fake::Fake;

/// Settings for the fake, which checks no credential.
fn config(fake: &Fake, folder: &tempfile::TempDir) -> Config {
    let file = folder.path().join("credentials");
    std::fs::write(&file, "[default]\naws_access_key_id = a\naws_secret_access_key = b\n").unwrap();
    let mut config = Config::default();
    config.region = Some("eu-west-1".into());
    config.credentials_file = Some(file);
    config.endpoint = Some(fake.address());
    config
}

/// The fake and a provider of it.
async fn faked(with: impl FnOnce(&mut Config)) -> (Fake, Arc<AwsProvider>, tempfile::TempDir) {
    let (fake, folder) = (Fake::start().await, tempfile::tempdir().unwrap());
    let mut config = config(&fake, &folder);
    with(&mut config);
    let provider = Arc::new(config.build().unwrap());
    (fake, provider, folder)
}

fn key(text: &str) -> SecretKey {
    text.parse().unwrap()
}

fn keys(count: usize) -> Vec<SecretKey> {
    (0..count).map(|number| key(&format!("app/s{number:04}"))).collect()
}

/// What is read, as text, and the id of its version.
async fn read(provider: &AwsProvider, name: &str) -> Result<(String, String)> {
    let fetched = provider.fetch(&FetchRequest::new(key(name))).await?;
    Ok((fetched.value.expose_str().unwrap().into(), fetched.version.id().into_owned()))
}

async fn stamps(provider: &AwsProvider, keys: &[SecretKey]) -> Vec<Stamp> {
    provider.stamps(keys).await.into_iter().collect::<Result<_>>().unwrap()
}

fn stamp(id: &str) -> Stamp {
    Stamp::from(id)
}
