//! The conformance suite on the fake, once for each way of saying which version is current.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use oneiric_core::{Error, ErrorKind, Result, SecretKey, SecretProvider, SecretValue};
use oneiric_gcp_fake::{Fake, Fault as Play, Feed, PushFault, Retry};
use oneiric_provider_gcp::{Config, Current};
use oneiric_testkit::{Ability, Fault, Outcome, Rig, conformance};

mod support;

use support::{SUBSCRIPTION, TOPIC, config};

struct GcpRig {
    fake: Fake,
    config: Config,
    pointer: Option<Pointer>,
    /// What was disabled and is enabled again when it is mended.
    disabled: Mutex<Vec<(String, u64)>>,
}

/// What names the current version.
enum Pointer {
    Alias(&'static str),
    Annotation(&'static str),
}

impl GcpRig {
    async fn new(current: &str) -> Self {
        let fake = Fake::start().await;
        fake.subscribe(SUBSCRIPTION, Feed::Topic(TOPIC.into()));
        let mut config = config(&fake);
        config.current = current.parse().unwrap();
        // The suite asks for more than a process would in so short a time.
        config.metadata_reads_a_minute = 600.try_into().unwrap();
        support::push(&mut config, &fake);
        let pointer = match current.split_once(':') {
            Some(("alias", _)) => Some(Pointer::Alias("current")),
            Some(_) => Some(Pointer::Annotation("oneiric.current")),
            None => None,
        };
        Self { fake, config, pointer, disabled: Mutex::default() }
    }

    fn current(&self, key: &SecretKey) -> u64 {
        u64::try_from(self.fake.values(key.as_str()).len()).unwrap()
    }
}

#[async_trait]
impl Rig for GcpRig {
    fn provider(&self) -> Arc<dyn SecretProvider> {
        Arc::new(self.config.clone().build().expect("the settings are valid"))
    }

    fn stages(&self) -> bool {
        self.pointer.is_some()
    }

    async fn put(&self, secrets: &[(SecretKey, SecretValue)]) -> Result<Vec<String>> {
        // The quota is counted from the books; the suite would use it up.
        self.fake.forget_calls();
        let ids = secrets.iter().map(|(key, value)| {
            let id = key.as_str();
            if self.fake.values(id).is_empty() {
                self.fake.topic(id, TOPIC);
            }
            let number = self.fake.add(id, value.expose());
            match self.pointer {
                Some(Pointer::Alias(alias)) => self.fake.alias(id, alias, number),
                Some(Pointer::Annotation(key)) => {
                    self.fake.annotate(id, key, &number.to_string());
                }
                None => {}
            }
            number.to_string()
        });
        Ok(ids.collect())
    }

    async fn remove(&self, key: &SecretKey) -> Result<()> {
        if self.fake.delete(key.as_str()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, "there is no such secret in the fake"))
    }

    async fn fault(&self, fault: Fault) -> Ability {
        let said = |status, code, retry| Play::Status(status, code, retry);
        match fault {
            Fault::Unreachable => self.fake.unreachable(true),
            Fault::Denied => self.fake.play(said(403, "PERMISSION_DENIED", None), None, None),
            Fault::UnknownIdentity => {
                self.fake.play(said(401, "UNAUTHENTICATED", None), None, None);
            }
            Fault::Throttled { retry_after } => {
                let retry = retry_after.map(Retry::Info);
                self.fake.play(said(429, "RESOURCE_EXHAUSTED", retry), None, None);
            }
            Fault::Slow(latency) => self.fake.latency(latency),
            Fault::Hanging => self.fake.play(Play::Hang, None, None),
            Fault::Lagging => self.fake.freeze(true),
            Fault::Disabled(_) if self.config.current == Current::NewestEnabled => {
                return Ability::cannot("the version before is current then");
            }
            Fault::Disabled(key) => {
                let number = self.current(&key);
                self.fake.disable(key.as_str(), number);
                self.disabled.lock().unwrap().push((key.to_string(), number));
            }
            Fault::LostReply => {
                for write in ["AddSecretVersion", "UpdateSecret", "DisableSecretVersion"] {
                    self.fake.play(Play::CutAfter, Some(write), Some(1));
                }
            }
            Fault::PushLost => self.fake.play_push(PushFault::Lost),
            Fault::PushDoubled => self.fake.play_push(PushFault::Doubled),
            Fault::PushReordered => self.fake.play_push(PushFault::Reordered),
            _ => return Ability::cannot("the fake does not know this fault"),
        }
        Ability::Done
    }

    async fn mend(&self) -> Result<()> {
        self.fake.mend();
        for (id, number) in std::mem::take(&mut *self.disabled.lock().unwrap()) {
            self.fake.enable(&id, number);
        }
        Ok(())
    }
}

/// Runs the suite; nothing but these may be skipped.
async fn holds_the_contract(current: &str, may_skip: &[&str]) {
    let report = conformance(&GcpRig::new(current).await).await;
    report.assert_passed();
    let skipped = report.cases().filter(|(_, outcome)| matches!(outcome, Outcome::Skipped(_)));
    let skipped: Vec<&str> = skipped.map(|(name, _)| name).collect();
    assert_eq!(skipped, may_skip);
}

/// Values of several secrets have no common moment here.
const MOMENT: &str = "a_set_is_of_one_moment";
/// Without a pointer a version is current as soon as it is there.
const RACE: &str = "of_two_promotions_one_is_a_conflict";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn latest_holds_the_contract() {
    holds_the_contract("latest", &[MOMENT, RACE]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_that_is_enabled_holds_the_contract() {
    holds_the_contract("newest-enabled", &["a_disabled_current_version_is_said_so", MOMENT, RACE])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_holds_the_contract() {
    holds_the_contract("alias:current", &[MOMENT]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_annotation_holds_the_contract() {
    holds_the_contract("annotation:oneiric.current", &[MOMENT]).await;
}
