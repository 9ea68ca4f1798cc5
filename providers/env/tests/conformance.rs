//! The conformance suite on the environment of this process.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use async_trait::async_trait;
use oneiric_core::{
    Error, ErrorKind, FetchRequest, Result, SecretKey, SecretProvider, SecretValue,
};
use oneiric_provider_env::Config;
use oneiric_testkit::{Ability, Fault, Outcome, Rig, conformance};

struct EnvRig;

fn variable(key: &SecretKey) -> String {
    format!("ONEIRIC_SECRET_{}", key.as_str().to_ascii_uppercase().replace('-', "_"))
}

#[async_trait]
impl Rig for EnvRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        Arc::new(Config::default().build().expect("the defaults are valid"))
    }

    fn stages(&self) -> bool {
        false
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        for (key, value) in secrets {
            if value.expose().contains(&0) {
                return Err(Error::new(ErrorKind::Invalid, "a variable cannot hold a zero byte"));
            }
            // SAFETY: this process has one test, and it runs on one thread.
            unsafe { env::set_var(variable(key), OsStr::from_bytes(value.expose())) };
        }
        Ok(Vec::new())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        // SAFETY: as above.
        unsafe { env::remove_var(variable(key)) };
        Ok(())
    }

    async fn fault(&self, _: Fault) -> Ability {
        Ability::cannot("an environment is read in memory, and nothing can go wrong with that")
    }

    async fn mend(&self) -> Result<()> {
        Ok(())
    }
}

/// One test, because a second one would run on a second thread, where variables must not be set.
#[tokio::test]
async fn the_environment_holds_the_contract() {
    let report = conformance(&EnvRig).await;
    report.assert_passed();
    let skipped = report.cases().filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(_)));
    let skipped: Vec<_> = skipped.map(|(name, _)| name).collect();
    let (push, of_store) = (4, 8);
    // No limit, no push, no snapshots, nothing that can go wrong with a store, and no writer.
    assert_eq!(skipped.len(), 1 + 2 + push + 1 + of_store + 10, "{report}");
    assert_eq!(skipped[0], "the_largest_value_is_served_and_no_larger_one");
    errors_name_the_variable().await;
}

async fn errors_name_the_variable() {
    let key: SecretKey = "db/pass-word".parse().unwrap();
    let provider = EnvRig.provider();
    let error = provider.fetch(&FetchRequest::new(key.clone())).await.unwrap_err();
    assert_eq!(error.to_string(), "the variable `ONEIRIC_SECRET_DB_PASS_WORD` is not set");
    // SAFETY: as above.
    unsafe { env::set_var("ONEIRIC_SECRET_DB_PASS_WORD", "") };
    let error = provider.fetch(&FetchRequest::new(key)).await.unwrap_err();
    assert_eq!(error.to_string(), "the variable `ONEIRIC_SECRET_DB_PASS_WORD` is empty");
}
