//! The conformance suite on a shelf.

mod store;

use std::sync::Arc;

use async_trait::async_trait;
use oneiric_core::{Result, SecretKey, SecretProvider, SecretValue};
use oneiric_provider_example::Config;
use oneiric_testkit::{Ability, Fault, Outcome, Rig, conformance};

use store::{Laid, Shelf, TOKEN};

struct ShelfRig {
    shelf: Arc<Shelf>,
    config: Config,
}

#[async_trait]
impl Rig for ShelfRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        Arc::new(self.config.clone().build().expect("the settings are valid"))
    }

    fn stages(&self) -> bool {
        false
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        let mut held = self.shelf.held();
        let put = |(key, value): &(SecretKey, SecretValue)| {
            let laid = held.secrets.entry(key.to_string()).or_default();
            laid.push(Laid { value: value.expose().to_vec(), enabled: true });
            laid.len().to_string()
        };
        Ok(secrets.iter().map(put).collect())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        self.shelf.held().secrets.remove(key.as_str());
        Ok(())
    }

    async fn fault(&self, fault: Fault) -> Ability {
        let mut held = self.shelf.held();
        match &fault {
            Fault::Unreachable
            | Fault::Denied
            | Fault::UnknownIdentity
            | Fault::Throttled { .. }
            | Fault::Slow(_)
            | Fault::Hanging => {}
            Fault::Lagging => {
                let seen = held.secrets.iter().map(|(key, laid)| (key.clone(), laid.len()));
                held.seen = seen.collect();
            }
            Fault::Disabled(key) => {
                let laid = held.secrets.get_mut(key.as_str()).and_then(|laid| laid.last_mut());
                laid.expect("it is there").enabled = false;
            }
            _ => return Ability::cannot("a shelf has no such thing"),
        }
        held.fault = Some(fault);
        Ability::Done
    }

    async fn mend(&self) -> Result<()> {
        let mut held = self.shelf.held();
        if let Some(Fault::Disabled(key)) = held.fault.take()
            && let Some(laid) = held.secrets.get_mut(key.as_str()).and_then(|laid| laid.last_mut())
        {
            laid.enabled = true;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shelf_holds_the_contract() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), TOKEN).unwrap();
    let (shelf, url) = Shelf::start().await;
    let report = conformance(&ShelfRig { shelf, config: Config::new(url, token.path()) }).await;
    report.assert_passed();
    // It has no push, no snapshots and no writer. Whatever else is skipped was forgotten.
    let skipped = report.cases().filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(_)));
    assert_eq!(skipped.count(), 15, "{report}");
}
