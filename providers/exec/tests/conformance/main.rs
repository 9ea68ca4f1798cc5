//! The conformance suite over the protocol: on a program that plays every fault, and on the two
//! examples of the manual.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod examples;
mod program;

use std::sync::Arc;

use async_trait::async_trait;
use oneiric_core::{Capabilities, Change, Result, SecretKey, SecretProvider, SecretValue, Version};
use oneiric_provider_exec::{Capability, Config};
use oneiric_testkit::{Ability, Fault, MemoryProvider, Outcome, Report, Rig, conformance};

use program::Program;

const MAX_VALUE: u64 = 64 * 1024;

/// The double of the kit behind a pipe.
struct PipeRig {
    program: Program,
    config: Config,
}

impl PipeRig {
    fn new(store: Arc<MemoryProvider>, capabilities: &[Capability]) -> Self {
        let program = Program::new(store);
        let mut config = Config::new(program.command());
        config.capabilities = capabilities.to_vec();
        config.max_value = MAX_VALUE;
        Self { program, config }
    }

    fn store(&self) -> &MemoryProvider {
        &self.program.store
    }
}

#[async_trait]
impl Rig for PipeRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        Arc::new(self.config.clone().build().unwrap())
    }

    fn stages(&self) -> bool {
        true
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        let pairs = secrets.iter().map(|(key, value)| (key.as_str(), value.clone()));
        let numbers = self.store().put_all(pairs);
        for ((key, _), &number) in secrets.iter().zip(&numbers) {
            let version = Some(Version::numbered(number));
            self.store().announce(Change::Secret { key: key.clone(), version });
        }
        Ok(numbers.iter().map(u64::to_string).collect())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        self.store().remove(key.as_str());
        Ok(())
    }

    async fn fault(&self, fault: Fault) -> Ability {
        self.store().play(fault);
        Ability::Done
    }

    async fn mend(&self) -> Result<()> {
        self.store().mend();
        Ok(())
    }
}

/// The cases that were left out.
fn skipped(report: &Report) -> Vec<&'static str> {
    let skipped = report.cases().filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(_)));
    skipped.map(|(name, _)| name).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_can_do_everything_holds_the_contract() {
    let store = MemoryProvider::writable(Capabilities {
        versions: true,
        stamps: true,
        push: true,
        snapshots: true,
        binary: true,
        max_value: Some(MAX_VALUE),
        batch: None,
    });
    let everything = [
        Capability::Versions,
        Capability::Stamps,
        Capability::Push,
        Capability::Snapshots,
        Capability::Binary,
        Capability::List,
        Capability::Write,
    ];
    let rig = PipeRig::new(store, &everything);
    let report = conformance(&rig).await;
    report.assert_passed();
    assert_eq!(skipped(&report), [""; 0], "nothing is left out");
    // A reply is lost by ending before it, three times in the suite.
    assert_eq!(rig.program.starts(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_can_do_nothing_holds_the_contract() {
    let store = MemoryProvider::with_capabilities(Capabilities::default());
    let rig = PipeRig::new(store, &[]);
    let report = conformance(&rig).await;
    report.assert_passed();
    assert_eq!(rig.program.starts(), 1);
}
