//! The AWS caching library, over an SDK whose HTTP is answered in this process.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::pin::pin;

use aws_sdk_secretsmanager::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueOutput;
use aws_sdk_secretsmanager::{Client, Config};
use aws_secretsmanager_caching::SecretsManagerCachingClient;
use aws_secretsmanager_caching::output::GetSecretValueOutputDef;
use aws_secretsmanager_caching::secret_store::{MemoryStore, SecretStore as _};
use aws_smithy_http_client::test_util::infallible_client_fn;
use aws_smithy_types::body::SdkBody;

use crate::variant::{Each, Reads, at_once, use_bytes};
use crate::workload::{TTL, key, value};

/// Reads through the library's client.
pub(crate) fn reads(entries: usize) -> Box<dyn Reads> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be built");
    let client = SecretsManagerCachingClient::new(sdk(), size(entries), TTL, false);
    let client = client.expect("it can be built");
    let keys: Vec<_> = (0..entries).map(key).collect();
    runtime.block_on(async {
        for key in &keys {
            let read = client.get_secret_value(key, None, None, false).await;
            read.expect("the service answers");
        }
    });
    Box::new(Each(move |at: usize| {
        let read = pin!(client.get_secret_value(&keys[at], None, None, false));
        let secret = at_once(read).expect("it is there");
        use_bytes(secret.secret_string.as_deref().expect("it is text").as_bytes());
    }))
}

/// The library's store, filled as its client fills it.
pub(crate) fn store(entries: usize) -> MemoryStore {
    let mut store = MemoryStore::new(size(entries), TTL);
    for at in 0..entries {
        let answer = GetSecretValueOutput::builder()
            .arn(arn(&key(at)))
            .name(key(at))
            .version_id(VERSION)
            .secret_string(text(at))
            .version_stages("AWSCURRENT")
            .build();
        let data = GetSecretValueOutputDef::from(answer);
        store.write_secret_value(key(at), None, None, data).expect("the store takes it");
    }
    black_box(store)
}

const VERSION: &str = "01234567-89ab-cdef-0123-456789abcdef";

fn size(entries: usize) -> NonZeroUsize {
    NonZeroUsize::new(entries * 2).expect("there are some")
}

fn sdk() -> Client {
    let http = infallible_client_fn(|request| {
        let body: serde_json::Value =
            serde_json::from_slice(request.body().bytes().expect("the body is whole"))
                .expect("the SDK sends JSON");
        let key = body["SecretId"].as_str().expect("it names a secret").to_owned();
        let number = key.rsplit('-').next().and_then(|text| text.parse().ok());
        let answer = serde_json::json!({
            "ARN": arn(&key),
            "Name": key,
            "VersionId": VERSION,
            "SecretString": text(number.expect("our keys end in a number")),
            "VersionStages": ["AWSCURRENT"],
            "CreatedDate": 1.7e9,
        });
        http::Response::new(SdkBody::from(answer.to_string()))
    });
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("none", "none", None, None, "bench"))
        .http_client(http)
        .build();
    Client::from_conf(config)
}

fn arn(key: &str) -> String {
    format!("arn:aws:secretsmanager:eu-west-1:123456789012:secret:{key}-AbCdEf")
}

fn text(at: usize) -> String {
    String::from_utf8_lossy(&value(at)).into_owned()
}
